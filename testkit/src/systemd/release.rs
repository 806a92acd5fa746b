//! Which systemd a machine runs: the one that is installed, or a newer one that lies in a folder.
//!
//! The folder holds Debian packages, unpacked: systemd and the libraries that it needs, the C library included. A machine lays its `usr` over
//! the host's, so everything else in it is the host's, which runs with the newer libraries as well.

use std::env;
use std::path::{Path, PathBuf};

use crate::binaries;

/// Where the folder is, if not in the target directory.
const VARIABLE: &str = "TESTKIT_NEWER_SYSTEMD";

/// The folder's name in the target directory.
pub const FOLDER: &str = "newer-systemd";

/// Which systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The one that is installed.
    Installed,
    /// The one in the folder `$TESTKIT_NEWER_SYSTEMD`, or in `target/newer-systemd`, where `cargo xtask systemd` puts it.
    Newer,
}

impl Release {
    /// The name by which `TESTKIT_REQUIRE` asks for it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Installed => "systemd",
            Self::Newer => "newer-systemd",
        }
    }

    /// What is laid over the host's files.
    ///
    /// # Errors
    /// The folder isn't there, or holds no systemd.
    pub(super) fn layer(self) -> Result<Option<PathBuf>, String> {
        if self == Self::Installed {
            return Ok(None);
        }
        let folder = env::var_os(VARIABLE).map_or_else(|| binaries::target_dir().join(FOLDER), PathBuf::from);
        if holds_systemd(&folder) {
            Ok(Some(folder))
        } else {
            Err(format!(
                "`{}` holds no systemd: make it by `cargo xtask systemd`, or set {VARIABLE}",
                folder.display()
            ))
        }
    }
}

/// Whether a folder is what [`Release::Newer`] wants.
#[must_use]
pub fn holds_systemd(folder: &Path) -> bool {
    folder.join("usr/lib/systemd/systemd").is_file()
}
