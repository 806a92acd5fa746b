//! A TCP port that several servers of a round may listen on, and nobody else.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt,
};

/// Bound with `SO_REUSEPORT`, and not listening: the kernel gives the port to nobody else while this lives (socket(7)).
pub(super) struct Port {
    _socket: OwnedFd,
    number: u16,
}

impl Port {
    pub(super) fn reserve() -> nix::Result<Self> {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        setsockopt(&socket, sockopt::ReusePort, &true)?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)))?;
        let number = getsockname::<SockaddrIn>(socket.as_raw_fd())?.port();
        Ok(Self { _socket: socket, number })
    }

    pub(super) fn number(&self) -> u16 {
        self.number
    }
}
