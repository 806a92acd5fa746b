//! The messages between psflip and its relay: one JSON object per packet of a socket pair (`SOCK_SEQPACKET`),
//! with the descriptors that belong to it.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the relay carries connections to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forward {
    /// A TCP address.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// How the relay reads what clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// Bytes. A connection stays with one child until one side closes it.
    Tcp,
    /// HTTP/1.0 and 1.1. Each request goes to the child that is active when it comes.
    Http,
    /// FastCGI. Each request goes to the child that is active when it comes.
    Fastcgi,
}

/// The version of the PROXY protocol (haproxy.org, proxy-protocol.txt).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What happens to `X-Forwarded-For`, `-Proto` and `-Host` of an HTTP request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwarded {
    /// The client's address is appended to those that are there; the other two are set if they are absent.
    #[default]
    Append,
    /// All three are replaced.
    Replace,
    /// None is touched.
    Off,
}

/// One `[[proxy]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// The address that it listens on, as configured. It names the proxy in logs, counts and hand-overs.
    pub listen: String,
    /// How many of the descriptors of [`Order::Start`] are its listening sockets.
    pub sockets: usize,
    /// Where connections go.
    pub forward: Forward,
    /// How they are read.
    pub protocol: Protocol,
    /// The relay sends this header ahead of each connection to the child.
    pub send_proxy_protocol: Option<ProxyProtocol>,
    /// Clients' connections begin with a PROXY protocol header of either version.
    pub accept_proxy_protocol: bool,
    /// For HTTP.
    pub forwarded: Forwarded,
    /// The most idle connections to the child that are kept for later requests; 0: none. For HTTP and
    /// FastCGI.
    pub pool: usize,
}

/// From psflip to its relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Order {
    /// The first order. Its descriptors are the listening sockets in the order of the proxies, then a memory
    /// file for the counts ([`Counts`]).
    Start {
        /// All proxies.
        proxies: Vec<Proxy>,
    },
    /// The generation is promoted: accept connections. The descriptor, if there is one, is the link on which
    /// the predecessor's relay passes connections on.
    Accept,
    /// Another generation is promoted, or this one is to stop: accept no more, and report when nothing is
    /// under way ([`Report::Drained`]). The descriptor, if there is one, is the link to the successor's
    /// relay, which gets the idle connections. Without it they stay open until their clients close them.
    Leave {
        /// psflip is to stop: idle connections are closed at once.
        stops: bool,
        /// The other generation has the traffic on trial, so `Stay` may follow.
        #[serde(default)]
        may_return: bool,
    },
    /// The child has exited: accept no more, and close each connection when all that the child sent on it is
    /// delivered, without waiting for the client. Idle connections go to the successor's relay if there is a
    /// link to it, from this order or from `Leave`; otherwise they are closed. [`Report::Drained`] follows.
    Close,
    /// The child is to stop before another one starts: accept no more, take no more requests from open
    /// connections, and report when nothing is under way ([`Report::Drained`]). What clients send meanwhile
    /// stays unread. `Leave` with a link passes the connections on, `Stay` goes on with them.
    Pause,
    /// Takes back `Pause`, and `Leave`: the stop request was withdrawn, or the successor does not keep the traffic. The
    /// descriptor, if there is one, is the link on which the successor's relay passes connections back.
    Stay,
    /// Accept no connection, and let requests wait, each at most this long.
    Hold {
        /// Milliseconds.
        max_ms: u64,
    },
    /// Takes back `Hold`.
    Resume,
}

/// From the relay to psflip.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// It can accept.
    Ready,
    /// After `Pause`: no request is under way, nor is a connection of a protocol without requests. After `Leave` or
    /// `Close`: no connection is open any more. Each request that had begun is answered, and each idle
    /// connection is passed on or closed.
    Drained {
        /// Connections passed on to the successor's relay.
        passed_on: u64,
        /// Requests that were under way when the order came.
        waited_for: u64,
    },
}

/// What a relay writes into its memory file for psflip, which reads it when an operator asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// As [`Proxy::listen`].
    pub listen: String,
    /// Accepted, or got from the predecessor's relay.
    pub connections: u64,
    /// Open now.
    pub open: u64,
    /// HTTP and FastCGI requests.
    pub requests: u64,
    /// Requests, and connections where the protocol has no requests, that are under way.
    pub under_way: u64,
    /// Requests or connections that failed because of the child: refused, reset, or cut short.
    pub errors: u64,
    /// Connections passed on to the successor's relay.
    pub passed_on: u64,
    /// Requests on a connection to the child that an earlier one left open.
    pub reused: u64,
    /// Whether it accepts.
    pub accepting: bool,
    /// Whether another generation accepts, psflip stops, or the child has exited.
    pub leaving: bool,
    /// Whether it holds requests back.
    pub held: bool,
}
