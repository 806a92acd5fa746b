//! A socket that psflip keeps open for all generations, as a valid value.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::words::{Word as _, words};

/// A socket of `[[listen]]` or `[[proxy]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address it listens on. No two listeners of a configuration have the same.
    pub address: ListenAddress,
    /// Its name in `LISTEN_FDNAMES`. Not empty, at most 255 characters, no `:` and no control characters.
    pub name: String,
    /// How psflip passes the socket to the child; no duplicates. Empty for the socket of a `[[proxy]]`, which
    /// the child does not get.
    pub protocols: Vec<Protocol>,
    /// Its descriptor number in the child; `None`: the next free one from 3 on. Not 1 or 2,
    /// and `None` with [`Protocol::ListenFds`], whose numbers are fixed.
    pub fd: Option<u16>,
    /// Its key in `SERVER_STARTER_PORT`, without `=`, `;` and control characters; `None`: its address.
    /// No two of [`Protocol::ServerStarter`] have the same.
    pub key: Option<String>,
    /// How the socket is configured. For [`ListenAddress::Systemd`] all defaults, except `nonblock` of a
    /// `[[proxy]]`.
    pub options: Options,
}

/// `listen.address`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenAddress {
    /// `tcp://IP:PORT`. Port 0: the kernel chooses a port, and all generations share it.
    Tcp(SocketAddr),
    /// `udp://IP:PORT`.
    Udp(SocketAddr),
    /// `unix://PATH`, a stream socket; a leading `@` means the abstract namespace (unix(7)). Fits into
    /// sun_path.
    Unix(PathBuf),
    /// `unixgram://PATH`, a datagram socket; the path is as in [`ListenAddress::Unix`].
    Unixgram(PathBuf),
    /// `unixpacket://PATH`, a sequential-packet socket; the path is as in [`ListenAddress::Unix`].
    Unixpacket(PathBuf),
    /// `systemd:NAME`: the socket that the service manager passed to psflip under this name
    /// (sd_listen_fds(3)).
    Systemd(String),
}

/// `listen.as`: how psflip passes sockets to the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`, descriptors from 3 on (sd_listen_fds(3)).
    ListenFds,
    /// Descriptor 0, as required by FastCGI's specification (2.2) and inetd's `wait`.
    Stdin,
    /// `SERVER_STARTER_PORT`, of Perl's Server::Starter.
    ServerStarter,
    /// `EINHORN_FD_COUNT`, `EINHORN_FD_n`, of Ruby's einhorn.
    Einhorn,
}

/// How a socket is configured. The default of this type configures nothing; the defaults of keys are in
/// `keys.rs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The permissions of a Unix socket's file; `None`: what the umask leaves of 0777.
    pub mode: Option<u32>,
    /// Its owner, a name or a number; `None`: psflip's user.
    pub owner: Option<String>,
    /// Its group, a name or a number; `None`: psflip's group.
    pub group: Option<String>,
    /// How many connections may wait to be accepted (listen(2)); the kernel limits it to net.core.somaxconn.
    pub backlog: u32,
    /// SO_REUSEPORT: sockets of other processes may listen on the same port.
    pub reuseport: bool,
    /// IPV6_V6ONLY; `None`: the kernel's default.
    pub v6only: Option<bool>,
    /// TCP_NODELAY, which accepted connections inherit; `None`: left to the child.
    pub nodelay: Option<bool>,
    /// O_NONBLOCK; `None`: a new socket is blocking, and the child may change that. Never set for an
    /// activated socket of `[[listen]]`, always for the socket of a `[[proxy]]`.
    pub nonblock: Option<bool>,
}

words!(Protocol {
    "listen_fds" => Self::ListenFds,
    "stdin" => Self::Stdin,
    "server_starter" => Self::ServerStarter,
    "einhorn" => Self::Einhorn,
});

impl Protocol {
    /// The value in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.word()
    }
}

impl ListenAddress {
    /// The path of a Unix socket of any type; a leading `@` means the abstract namespace.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) | Self::Unixgram(path) | Self::Unixpacket(path) => Some(path),
            Self::Tcp(_) | Self::Udp(_) | Self::Systemd(_) => None,
        }
    }

    /// Whether psflip calls listen(2) on it: it has a queue of connections, not of datagrams.
    #[must_use]
    pub fn is_connected_to(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Unix(_) | Self::Unixpacket(_))
    }

    /// Whether it has an IP address.
    #[must_use]
    pub fn is_internet(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Udp(_))
    }
}

/// The address as written in a configuration. Equal addresses have equal texts: generations identify a socket
/// by this text.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Unixgram(path) => write!(f, "unixgram://{}", path.display()),
            Self::Unixpacket(path) => write!(f, "unixpacket://{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}
