//! `unix`: the child is healthy when a connection to a Unix stream socket is accepted (by the kernel, into the listener's
//! backlog), and not by the old generation's child. Such a connect(2) is answered at once, so there is nothing to wait for.

use std::path::{Path, PathBuf};

use super::connect::Connection;
use super::{Begun, ChildInfo, Probe};

pub(super) struct Unix {
    path: PathBuf,
}

impl Unix {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }
}

impl Probe for Unix {
    fn begin(&self, child: &ChildInfo) -> Result<Begun, String> {
        Connection::unix(&self.path, child).map(|_| Begun::Healthy)
    }
}
