//! A TCP port on which only the servers of one round can listen.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt,
};

/// A socket that is bound with `SO_REUSEPORT` but doesn't listen: while it exists, the kernel gives the port
/// to no other program (socket(7)).
pub(crate) struct Port {
    _socket: OwnedFd,
    number: u16,
}

impl Port {
    pub(crate) fn reserve() -> nix::Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        setsockopt(&socket, sockopt::ReusePort, &true)?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)))?;
        let number = getsockname::<SockaddrIn>(socket.as_raw_fd())?.port();
        Ok(Self { _socket: socket, number })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}
