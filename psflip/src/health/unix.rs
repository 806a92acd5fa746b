//! `unix`: the child is healthy when a connection to a Unix stream socket is accepted (by the kernel, into
//! the listener's backlog), and the listener is not the old generation's child. Such a connect(2) has its
//! result at once, so a probe never waits.

use std::path::{Path, PathBuf};

use super::connect::Connection;
use super::{Begun, ChildInfo, Probe, Why};

pub(super) struct Unix {
    path: PathBuf,
}

impl Unix {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }
}

impl Probe for Unix {
    fn begin(&self, child: &ChildInfo) -> Result<Begun, Why> {
        Connection::unix(&self.path, child).map(|_| Begun::Healthy)
    }
}
