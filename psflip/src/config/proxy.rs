//! A proxy in front of the child, as a valid value.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::listener::Listener;
use super::words::{Word as _, words};

/// One `[[proxy]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// The socket that clients connect to: a stream socket. The child does not get it, so `protocols` is
    /// empty.
    pub socket: Listener,
    /// Where connections go.
    pub forward: Forward,
    /// How the relay reads what clients send.
    pub protocol: ProxyKind,
    /// How long the old child is spared, at most, for what it still answers.
    pub drain: Duration,
    /// The PROXY protocol header that is sent to the child ahead of each connection.
    pub send_proxy_protocol: Option<Header>,
    /// Clients' connections begin with a PROXY protocol header.
    pub accept_proxy_protocol: bool,
    /// For [`ProxyKind::Http`].
    pub forwarded: Forwarded,
    /// The most idle connections to the child that are kept for later requests. 0 but for
    /// [`ProxyKind::Http`].
    pub pool: u32,
}

/// `proxy.forward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forward {
    /// `IP:PORT`, also with `tcp://`. The port is not 0.
    Tcp(SocketAddr),
    /// `unix://PATH`, a stream socket; a leading `@` means the abstract namespace (unix(7)). Fits into
    /// sun_path.
    Unix(PathBuf),
}

/// The address as written in a configuration.
impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// `proxy.protocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// Bytes. A connection stays with one child.
    Tcp,
    /// HTTP/1.0, HTTP/1.1, and HTTP/2 with prior knowledge. Each request goes to the active child.
    Http,
    /// FastCGI. Each request goes to the active child.
    Fastcgi,
}

words!(ProxyKind { "tcp" => Self::Tcp, "http" => Self::Http, "fastcgi" => Self::Fastcgi });

impl ProxyKind {
    /// The value in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.word()
    }
}

/// `proxy.send_proxy_protocol`: the version of the PROXY protocol (haproxy.org, proxy-protocol.txt).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

words!(Header { "v1" => Self::V1, "v2" => Self::V2 });

/// `proxy.forwarded`: what happens to `X-Forwarded-For`, `-Proto` and `-Host` of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// The client's address is appended to those that are there; the other two are set if they are absent.
    #[default]
    Append,
    /// All three are replaced.
    Replace,
    /// None is touched.
    Off,
}

words!(Forwarded { "append" => Self::Append, "replace" => Self::Replace, "off" => Self::Off });
