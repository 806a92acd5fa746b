//! Addresses of Unix sockets whose paths are longer than `sun_path` (unix(7)).

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::UnixAddr;

/// An address for bind(2) and connect(2). It is valid as long as this value lives.
#[derive(Debug)]
pub struct UnixPath {
    address: UnixAddr,
    /// The directory that the address begins with.
    _directory: Option<File>,
}

impl UnixPath {
    /// The address of a socket at a path of any length. A path of more than 107 bytes is replaced by its file
    /// name in its directory, which is opened and reached by `/proc/self/fd`.
    ///
    /// # Errors
    /// ENAMETOOLONG: the file name itself is too long, or there is no /proc. The errors
    /// of open(2) for the directory.
    pub fn new(path: &Path) -> Result<Self, Errno> {
        match UnixAddr::new(path) {
            Ok(address) => Ok(Self { address, _directory: None }),
            Err(Errno::ENAMETOOLONG) => Self::from_directory(path),
            Err(errno) => Err(errno),
        }
    }

    fn from_directory(path: &Path) -> Result<Self, Errno> {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::ENAMETOOLONG);
        };
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = OpenOptions::new().read(true).custom_flags(flags.bits()).open(directory);
        let opened = opened.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        let mut short = OsString::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
        if !Path::new(&short).exists() {
            return Err(Errno::ENAMETOOLONG);
        }
        short.push("/");
        short.push(name);
        Ok(Self { address: UnixAddr::new(Path::new(&short))?, _directory: Some(opened) })
    }

    /// The argument for bind(2) and connect(2).
    #[must_use]
    pub fn address(&self) -> &UnixAddr {
        &self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, bind, connect, listen, socket};

    #[test]
    fn any_path_length_works_unless_the_file_name_is_too_long() {
        let sandbox = tempfile::tempdir().unwrap();
        let directory = sandbox.path().join("x".repeat(200));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("app.sock");
        let make = || socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let server = make();
        bind(server.as_raw_fd(), UnixPath::new(&path).unwrap().address()).unwrap();
        listen(&server, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
        assert!(path.exists());
        let client = make();
        connect(client.as_raw_fd(), UnixPath::new(&path).unwrap().address()).unwrap();
        let name = directory.join("n".repeat(120));
        assert_eq!(UnixPath::new(&name).unwrap_err(), Errno::ENAMETOOLONG);
        let missing = sandbox.path().join("y".repeat(200)).join("app.sock");
        assert_eq!(UnixPath::new(&missing).unwrap_err(), Errno::ENOENT);
    }
}
