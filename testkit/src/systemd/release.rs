//! Which systemd a machine runs: the installed one, or a newer one from a folder.
//!
//! The folder holds unpacked Debian packages: systemd and the libraries that it needs, including the C
//! library. A machine lays the folder's `usr` over the host's. Everything else comes from the host, and runs
//! with the newer libraries.

use std::env;
use std::path::{Path, PathBuf};

use crate::binaries;

/// Environment variable with the folder's path, if it is not in the target directory.
const VARIABLE: &str = "TESTKIT_NEWER_SYSTEMD";

/// The folder's name in the target directory.
pub const FOLDER: &str = "newer-systemd";

/// Which systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// The installed one.
    Installed,
    /// The one in the folder `$TESTKIT_NEWER_SYSTEMD`, or in `target/newer-systemd`, into which `cargo xtask
    /// systemd` unpacks it.
    Newer,
}

impl Release {
    /// Its name in `TESTKIT_REQUIRE`.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Installed => "systemd",
            Self::Newer => "newer-systemd",
        }
    }

    /// The folder that is laid over the host's files.
    ///
    /// # Errors
    /// The folder doesn't exist, or holds no systemd.
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

/// Whether a folder can be used for [`Release::Newer`].
#[must_use]
pub fn holds_systemd(folder: &Path) -> bool {
    folder.join("usr/lib/systemd/systemd").is_file()
}
