//! The proxy of this generation, as psflip sees it: a process of its own, the *relay*, that carries the
//! connections of all `[[proxy]]` (contract T). psflip orders it what to do, and never touches a client's
//! connection.
//!
//! The crate `relay` has what runs in that process, and the messages.

mod hold;
mod start;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;

pub use relay::message::Counts;
use relay::message::{Order, Report};

use crate::config::{Forward, Forwarded, Header, Proxy, ProxyKind};
use crate::signal::Signal;
use crate::sys::pidfd::PidFd;
use crate::sys::socket::{Packet, Socket};
pub use hold::Hold;
pub use start::{Start, relay_process};

/// A running relay. Dropping it kills the process.
#[derive(Debug)]
pub struct Relay {
    socket: Socket,
    pid: u32,
    process: PidFd,
    /// The memory file into which it writes its counts.
    counts: File,
}

/// What a relay reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayReport {
    /// It can accept.
    Ready,
    /// After it was ordered to accept no more: nothing is under way, and no connection is open.
    Drained {
        /// Connections passed on to the successor's relay.
        passed_on: u64,
        /// Requests that were under way when the order came.
        waited_for: u64,
    },
    /// It has exited, or is about to.
    Gone,
}

impl Relay {
    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends an order, with the link to another relay if the order has one.
    ///
    /// # Errors
    /// EPIPE: the relay is gone. EAGAIN: it hangs.
    pub fn send(&self, order: &Order, link: Option<BorrowedFd<'_>>) -> io::Result<()> {
        self.socket.send(&serde_json::to_vec(order)?, link.as_slice())
    }

    /// Receives a report; `None`: there is none at the moment.
    ///
    /// # Errors
    /// ENOMEM, and what is no report.
    pub fn receive(&self) -> io::Result<Option<RelayReport>> {
        match self.socket.receive()? {
            Packet::Nothing => Ok(None),
            Packet::Closed => Ok(Some(RelayReport::Gone)),
            Packet::Data(bytes, _) => Ok(Some(match serde_json::from_slice(&bytes)? {
                Report::Ready => RelayReport::Ready,
                Report::Drained { passed_on, waited_for } => RelayReport::Drained { passed_on, waited_for },
            })),
        }
    }

    /// What each of its proxies has carried, as of at most 100 ms ago. Empty if it is not known.
    #[must_use]
    pub fn counts(&self) -> Vec<Counts> {
        let mut bytes =
            vec![0; self.counts.metadata().map_or(0, |file| file.len().min(MOST_COUNTS) as usize)];
        // One pread(2), as one write(2) wrote it: the kernel lets neither see half of the other.
        let length = self.counts.read_at(&mut bytes, 0).unwrap_or_default();
        let text = std::str::from_utf8(&bytes[..length]).ok().and_then(|text| {
            let (length, rest) = text.split_at_checked(DIGITS)?;
            rest.get(..length.parse().ok()?) // what follows is left of a longer text
        });
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

/// More than the counts of all proxies take, in bytes.
const MOST_COUNTS: u64 = 1024 * 1024;
/// How many digits the length of the counts has.
const DIGITS: usize = 8;

impl AsFd for Relay {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.process.send(Signal::KILL); // it may have exited
    }
}

/// The proxy as the relay needs it. `sockets`: how many listening sockets it has (one, or several from socket
/// activation).
fn in_message(proxy: &Proxy, sockets: usize) -> relay::message::Proxy {
    relay::message::Proxy {
        listen: proxy.socket.address.to_string(),
        sockets,
        forward: match &proxy.forward {
            Forward::Tcp(address) => relay::message::Forward::Tcp(*address),
            Forward::Unix(path) => relay::message::Forward::Unix(path.clone()),
        },
        protocol: match proxy.protocol {
            ProxyKind::Tcp => relay::message::Protocol::Tcp,
            ProxyKind::Http => relay::message::Protocol::Http,
            ProxyKind::Fastcgi => relay::message::Protocol::Fastcgi,
        },
        send_proxy_protocol: proxy.send_proxy_protocol.map(|header| match header {
            Header::V1 => relay::message::ProxyProtocol::V1,
            Header::V2 => relay::message::ProxyProtocol::V2,
        }),
        accept_proxy_protocol: proxy.accept_proxy_protocol,
        forwarded: match proxy.forwarded {
            Forwarded::Append => relay::message::Forwarded::Append,
            Forwarded::Replace => relay::message::Forwarded::Replace,
            Forwarded::Off => relay::message::Forwarded::Off,
        },
        pool: proxy.pool as usize,
    }
}
