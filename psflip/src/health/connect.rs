//! Nonblocking connections of probes.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, connect, getpeername,
    getsockname, getsockopt, setsockopt, socket, sockopt,
};
use nix::sys::stat::Mode;

use super::{ChildInfo, Why};
use crate::sys::seam::{self, Call};
use crate::sys::tree::is_below;

/// A connection that is established or in progress.
pub(super) struct Connection {
    socket: OwnedFd,
    /// The destination, for messages.
    target: String,
    established: bool,
    /// The addresses that were not tried yet, in reverse order.
    others: Vec<SocketAddr>,
    failures: Failures,
}

/// The failures at the addresses that were tried.
#[derive(Default)]
struct Failures {
    /// Each followed by `; `.
    text: String,
    /// Something may listen at one of them, but did not answer.
    is_other: bool,
}

impl Failures {
    fn note(&mut self, target: &str, errno: Errno) {
        self.text.push_str(&format!("connect to {target}: {}; ", io::Error::from(errno)));
        self.is_other |= !is_unreachable(errno);
    }

    fn why(self) -> Why {
        Why { text: self.text.trim_end_matches("; ").to_owned(), is_unreachable: !self.is_other }
    }
}

/// Whether nothing listens there.
fn is_unreachable(errno: Errno) -> bool {
    matches!(errno, Errno::ECONNREFUSED | Errno::ENOENT | Errno::ENOTDIR)
}

impl Connection {
    /// Begins to connect to the first of these addresses that does not refuse at once.
    ///
    /// # Errors
    /// The failure at each address.
    pub(super) fn tcp(addresses: &[SocketAddr]) -> Result<Self, Why> {
        Self::first(addresses.iter().rev().copied().collect(), Failures::default())
    }

    /// Connects to a Unix stream socket. A leading `@` means the abstract namespace (unix(7)). Any other path
    /// is relative to the child's directory, which may be relative to psflip's.
    ///
    /// Refuses a socket on which an old generation's child listens. If both children bind the same path one
    /// after the other, the new one has not done so yet.
    ///
    /// # Errors
    /// The failure.
    pub(super) fn unix(path: &Path, child: &ChildInfo) -> Result<Self, Why> {
        let workdir = child.workdir.as_deref();
        let connected = match path.as_os_str().as_bytes().strip_prefix(b"@") {
            Some(name) => {
                UnixAddr::new_abstract(name).and_then(|address| dial(AddressFamily::Unix, &address))
            }
            None => dial_path(&workdir.map_or_else(|| path.to_path_buf(), |workdir| workdir.join(path))),
        };
        let target = path.display().to_string().escape_debug().to_string();
        match connected {
            Ok(socket) => match child.old_psflips.iter().find_map(|old| listener_below(&socket, *old)) {
                None => Ok(Self {
                    socket,
                    target,
                    established: true,
                    others: Vec::new(),
                    failures: Failures::default(),
                }),
                Some(pid) => {
                    Err(format!("connect to {target}: the old generation (pid {pid}) still listens there")
                        .into())
                }
            },
            // unix(7): a stream socket returns EAGAIN instead of EINPROGRESS, and no
            // connection is in progress then.
            Err(Errno::EAGAIN) => Err(format!(
                "connect to {target}: it listens, but its backlog is full ({})",
                io::Error::from(Errno::EAGAIN)
            )
            .into()),
            Err(errno) => {
                let mut failures = Failures::default();
                failures.note(&target, errno);
                Err(failures.why())
            }
        }
    }

    fn first(mut others: Vec<SocketAddr>, mut failures: Failures) -> Result<Self, Why> {
        while let Some(address) = others.pop() {
            let target = address.to_string();
            let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            match dial(family, &SockaddrStorage::from(address)) {
                Ok(socket) => return Ok(Self { socket, target, established: false, others, failures }),
                Err(errno) => failures.note(&target, errno),
            }
        }
        Err(failures.why())
    }

    /// Whether the connection is established. If an address refused, it tries the next one.
    ///
    /// # Errors
    /// The failure at each address.
    pub(super) fn advance(&mut self) -> Result<bool, Why> {
        while !self.established {
            match self.outcome() {
                None => return Ok(false),
                Some(Ok(())) => {
                    self.refuse_itself()?;
                    self.established = true;
                }
                Some(Err(errno)) => {
                    self.failures.note(&self.target, errno);
                    *self =
                        Self::first(std::mem::take(&mut self.others), std::mem::take(&mut self.failures))?;
                }
            }
        }
        Ok(true)
    }

    /// Fails if the kernel connected the socket to itself. That happens if nothing listens on a port of the
    /// ephemeral range and the kernel chooses the same port for the connecting side.
    fn refuse_itself(&self) -> Result<(), Why> {
        if !is_to_itself(&self.socket) {
            return Ok(());
        }
        // Reset it instead of closing it, so that the port is free at once: the child
        // may be about to bind it.
        let _ = setsockopt(&self.socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
        let text = format!("{self}: no server listens (the probe was connected to itself)");
        Err(Why { text, is_unreachable: true })
    }

    /// The result of the connect(2) in progress. `None`: there is none yet.
    fn outcome(&self) -> Option<Result<(), Errno>> {
        // SO_ERROR alone does not tell: it is also 0 while the connection is in progress.
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(0) | Err(Errno::EINTR) => None,
            Ok(_) => Some(match getsockopt(&self.socket, sockopt::SocketError) {
                Ok(0) => Ok(()),
                Ok(code) => Err(Errno::from_raw(code)),
                Err(errno) => Err(errno),
            }),
            Err(errno) => Some(Err(errno)),
        }
    }

    /// Whether [`Connection::advance`] has returned true.
    pub(super) fn is_established(&self) -> bool {
        self.established
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The attempt and the failures before it: `connect to 127.0.0.1:80`.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}connect to {}", self.failures.text, self.target)
    }
}

/// A new socket that is connected or connecting.
fn dial(family: AddressFamily, address: &dyn SockaddrLike) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = seam::before(Call::Socket).and_then(|()| socket(family, SockType::Stream, flags, None))?;
    match seam::before(Call::Connect).and_then(|()| connect(socket.as_raw_fd(), address)) {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

fn dial_path(path: &Path) -> nix::Result<OwnedFd> {
    match UnixAddr::new(path) {
        Ok(address) => dial(AddressFamily::Unix, &address),
        // The directory makes the path too long for sun_path, so a descriptor replaces the directory.
        Err(Errno::ENAMETOOLONG) => {
            let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
                return Err(Errno::ENAMETOOLONG);
            };
            let directory =
                open(directory, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
            let short: PathBuf =
                Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
            dial(AddressFamily::Unix, &UnixAddr::new(&short)?)
        }
        Err(errno) => Err(errno),
    }
}

/// The process that called listen(2) on the other side (SO_PEERCRED of unix(7)), if it is below that psflip.
fn listener_below(socket: &OwnedFd, psflip: u32) -> Option<u32> {
    let listener = getsockopt(socket, sockopt::PeerCredentials).ok()?.pid().cast_unsigned();
    is_below(listener, psflip).then_some(listener)
}

/// Whether both ends have the same address.
fn is_to_itself(socket: &OwnedFd) -> bool {
    let ours = getsockname::<SockaddrStorage>(socket.as_raw_fd());
    let theirs = getpeername::<SockaddrStorage>(socket.as_raw_fd());
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) => ours == theirs,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    #[test]
    fn a_socket_connected_to_itself_counts_as_refused() {
        // Contract: H1
        let flags = SockFlag::SOCK_CLOEXEC;
        let own = socket(AddressFamily::Inet, SockType::Stream, flags, None).unwrap();
        let any: SockaddrStorage = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into();
        nix::sys::socket::bind(own.as_raw_fd(), &any).unwrap();
        let address: SockaddrStorage = getsockname(own.as_raw_fd()).unwrap();
        connect(own.as_raw_fd(), &address).unwrap();
        let itself = Connection {
            socket: own,
            target: "itself".to_owned(),
            established: false,
            others: Vec::new(),
            failures: Failures::default(),
        };
        let refused = itself.refuse_itself().unwrap_err();
        assert!(refused.is_unreachable);
        assert_eq!(refused.text, "connect to itself: no server listens (the probe was connected to itself)");
        assert_eq!(getsockopt(&itself.socket, sockopt::Linger).unwrap().l_onoff, 1, "the port stays taken");

        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let other = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!is_to_itself(&OwnedFd::from(other)));
    }
}
