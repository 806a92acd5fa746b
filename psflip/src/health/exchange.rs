//! One request on one connection: the common part of `http`, `fcgi` and `docker`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use super::connect::Connection;
use super::{ChildInfo, Interest, Why};
use crate::config::Endpoint;
use crate::text;

/// How much of an invalid answer is shown, in bytes.
const SHOWN: usize = 60;
/// How much of a target is shown, in characters.
const LONGEST_TARGET: usize = 200;

/// The status codes that mean healthy.
pub(super) type Statuses = [RangeInclusive<u16>];

/// The request, which is sent again with every probe.
pub(super) struct Question {
    target: Endpoint,
    request: Rc<[u8]>,
    what: Rc<str>,
}

impl Question {
    /// `what`: the target as the user configured it, for messages.
    pub(super) fn new(target: &Endpoint, request: Vec<u8>, what: &str) -> Self {
        Self {
            target: target.clone(),
            request: request.into(),
            what: text::head(what, LONGEST_TARGET).into(),
        }
    }

    /// Begins to connect.
    ///
    /// # Errors
    /// The failure.
    pub(super) fn begin(&self, child: &ChildInfo) -> Result<Exchange, Why> {
        let connection = match &self.target {
            Endpoint::Tcp(addresses) => Connection::tcp(addresses as &[SocketAddr])?,
            Endpoint::Unix(path) => Connection::unix(path, child)?,
        };
        Ok(Exchange { connection, request: Rc::clone(&self.request), sent: 0, what: Rc::clone(&self.what) })
    }
}

/// One request in progress.
pub(super) struct Exchange {
    connection: Connection,
    request: Rc<[u8]>,
    sent: usize,
    what: Rc<str>,
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// This many bytes, at least one.
    Bytes(usize),
    /// The other side sends nothing more.
    End,
    /// There is nothing to read yet.
    Nothing,
}

impl Exchange {
    /// Connects and sends. Whether the whole request is sent.
    ///
    /// # Errors
    /// The failure.
    pub(super) fn send(&mut self) -> Result<bool, Why> {
        if !self.connection.advance()? {
            return Ok(false);
        }
        while self.sent < self.request.len() {
            let rest = &self.request[self.sent..];
            match send(self.connection.as_fd().as_raw_fd(), rest, MsgFlags::MSG_NOSIGNAL) {
                Ok(sent) => self.sent += sent,
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.broken("the request could not be sent", errno).into()),
            }
        }
        Ok(true)
    }

    /// Reads what has arrived.
    ///
    /// # Errors
    /// The failure.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> Result<Received, String> {
        loop {
            match recv(self.connection.as_fd().as_raw_fd(), buffer, MsgFlags::empty()) {
                Ok(0) => return Ok(Received::End),
                Ok(length) => return Ok(Received::Bytes(length)),
                Err(Errno::EAGAIN) => return Ok(Received::Nothing),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.broken("no answer", errno)),
            }
        }
    }

    /// What to wait for.
    pub(super) fn watch(&self) -> (BorrowedFd<'_>, Interest) {
        let writes = !self.connection.is_established() || self.sent < self.request.len();
        (self.connection.as_fd(), if writes { Interest::Write } else { Interest::Read })
    }

    /// The error message: the target, and what is wrong.
    pub(super) fn failed(&self, why: &str) -> String {
        format!("`{}`: {why}", self.what)
    }

    fn broken(&self, what: &str, errno: Errno) -> String {
        self.failed(&format!("{what}: {}", std::io::Error::from(errno)))
    }

    /// As [`Exchange::failed`], with the beginning of an invalid answer.
    pub(super) fn unfit(&self, why: &str, answer: &[u8]) -> String {
        if answer.is_empty() {
            return self.failed(why);
        }
        let shown = &answer[..answer.len().min(SHOWN)];
        let more = if shown.len() < answer.len() { "…" } else { "" };
        self.failed(&format!("{why}: it began with `{}{more}`", shown.escape_ascii()))
    }

    /// The error message for an exceeded time limit. `answer`: the part of it that has arrived.
    pub(super) fn overdue(&self, limit: Duration, answer: &[u8]) -> String {
        if self.connection.is_established() {
            self.unfit(&format!("no answer within {limit:?}"), answer)
        } else {
            format!("{}: no answer within {limit:?}", self.connection)
        }
    }
}

/// Whether the status means healthy; if not, the error message.
pub(super) fn judge(status: u16, wanted: &Statuses, of: &str) -> Result<(), String> {
    if wanted.iter().any(|range| range.contains(&status)) {
        return Ok(());
    }
    let mut list = String::new();
    for range in wanted {
        let (first, last) = (range.start(), range.end());
        let comma = if list.is_empty() { "" } else { "," };
        let _ = match first == last {
            true => write!(list, "{comma}{first}"),
            false => write!(list, "{comma}{first}-{last}"),
        };
    }
    Err(format!("{of} status {status}, wanted {list}"))
}
