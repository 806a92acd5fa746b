//! Sockets that come from the predecessor or from the service manager.

use std::os::fd::OwnedFd;

use super::unix_file::FileId;

/// A socket that the predecessor handed over.
#[derive(Debug)]
pub struct Given {
    /// [`crate::config::ListenAddress`] as text.
    pub address: String,
    /// The socket.
    pub socket: OwnedFd,
    /// Its file, if it has one.
    pub file: Option<FileId>,
}
