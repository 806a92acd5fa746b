//! TCP ports for servers that must know theirs before they start.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, getsockname, setsockopt, socket, sockopt,
};

/// A port of 127.0.0.1 that the kernel assigns to no other process while this value lives. It is bound, but
/// doesn't listen; a server that sets SO_REUSEADDR or SO_REUSEPORT can listen on it (socket(7)).
#[derive(Debug)]
pub(crate) struct Reserved {
    _socket: OwnedFd,
    port: u16,
}

impl Reserved {
    pub(crate) fn new() -> Self {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&socket, sockopt::ReuseAddr, &true).unwrap();
        setsockopt(&socket, sockopt::ReusePort, &true).unwrap();
        let any = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
        bind(socket.as_raw_fd(), &any).unwrap();
        let port = getsockname::<SockaddrIn>(socket.as_raw_fd()).unwrap().port();
        Self { _socket: socket, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The text with this port in its addresses. (Configurations with templates use `PORT` instead.)
    pub(crate) fn in_text(&self, text: &str) -> String {
        const HOST: &str = "127.0.0.1:";
        let mut parts = text.split(HOST);
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| {
            let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
            let port = if rest.len() < part.len() { self.port.to_string() } else { String::new() };
            text + HOST + &port + rest
        })
    }
}
