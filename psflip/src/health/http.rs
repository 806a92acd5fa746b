//! `http`: the child is healthy when a GET answers with a wanted status. Only the status line is read.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use super::connect::Connection;
use super::{Attempt, Begun, ChildInfo, Interest, Probe, Progress};
use crate::config::{HttpRequest, HttpTarget};

/// The most that is read of an answer.
const LONGEST: usize = 8 * 1024;
/// How much of an answer that is none is shown, in bytes.
const SHOWN: usize = 60;

type Statuses = [RangeInclusive<u16>];

pub(super) struct Http {
    target: HttpTarget,
    request: Rc<[u8]>,
    url: Rc<str>,
    wanted: Rc<Statuses>,
}

impl Http {
    pub(super) fn new(request: &HttpRequest, wanted: &Statuses) -> Self {
        let HttpRequest { url, target, host, path } = request;
        let version = env!("CARGO_PKG_VERSION");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: psflip/{version}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        );
        Self {
            target: target.clone(),
            request: request.into_bytes().into(),
            url: url.as_str().into(),
            wanted: wanted.into(),
        }
    }

    fn connect(&self, child: &ChildInfo) -> Result<Connection, String> {
        match &self.target {
            HttpTarget::Tcp(addresses) => Connection::tcp(addresses as &[SocketAddr]),
            HttpTarget::Unix(path) => Connection::unix(path, child),
        }
    }
}

impl Probe for Http {
    fn begin(&self, child: &ChildInfo) -> Result<Begun, String> {
        let mut exchange = Exchange {
            connection: self.connect(child)?,
            request: Rc::clone(&self.request),
            sent: 0,
            answer: Vec::new(),
            url: Rc::clone(&self.url),
            wanted: Rc::clone(&self.wanted),
        };
        Ok(if exchange.go_on()? { Begun::Healthy } else { Begun::Pending(Box::new(exchange)) })
    }
}

/// One request and its answer.
struct Exchange {
    connection: Connection,
    request: Rc<[u8]>,
    sent: usize,
    answer: Vec<u8>,
    url: Rc<str>,
    wanted: Rc<Statuses>,
}

impl Exchange {
    fn go_on(&mut self) -> Result<bool, String> {
        if !self.connection.advance()? || !self.send()? {
            return Ok(false);
        }
        self.receive()
    }

    /// Whether the whole request is sent.
    fn send(&mut self) -> Result<bool, String> {
        while self.sent < self.request.len() {
            match send(
                self.connection.as_fd().as_raw_fd(),
                &self.request[self.sent..],
                MsgFlags::MSG_NOSIGNAL,
            ) {
                Ok(sent) => self.sent += sent,
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.failed("the request could not be sent", errno)),
            }
        }
        Ok(true)
    }

    /// Whether the answer is one that is wanted.
    fn receive(&mut self) -> Result<bool, String> {
        let mut buffer = [0; 1024];
        loop {
            match recv(self.connection.as_fd().as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(0) => return Err(self.unfit("the connection was closed before the end of a status line")),
                Ok(length) => self.answer.extend_from_slice(&buffer[..length]),
                Err(Errno::EAGAIN) => return Ok(false),
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(self.failed("no answer", errno)),
            }
            match status(&self.answer) {
                Reading::Status(status) => return self.judge(status),
                Reading::More if self.answer.len() < LONGEST => {}
                Reading::More => return Err(self.unfit("no end of a status line within 8 KiB")),
                Reading::Unfit => return Err(self.unfit("the answer is not HTTP/1")),
            }
        }
    }

    fn judge(&self, status: u16) -> Result<bool, String> {
        if self.wanted.iter().any(|range| range.contains(&status)) {
            return Ok(true);
        }
        let mut wanted = String::new();
        for range in self.wanted.iter() {
            let (first, last) = (range.start(), range.end());
            let comma = if wanted.is_empty() { "" } else { "," };
            let _ = match first == last {
                true => write!(wanted, "{comma}{first}"),
                false => write!(wanted, "{comma}{first}-{last}"),
            };
        }
        Err(format!("`{}`: HTTP status {status}, wanted {wanted}", self.url))
    }

    fn failed(&self, what: &str, errno: Errno) -> String {
        format!("`{}`: {what}: {}", self.url, std::io::Error::from(errno))
    }

    fn unfit(&self, what: &str) -> String {
        if self.answer.is_empty() {
            return format!("`{}`: {what}", self.url);
        }
        let shown = &self.answer[..self.answer.len().min(SHOWN)];
        let more = if shown.len() < self.answer.len() { "…" } else { "" };
        format!("`{}`: {what}: it began with `{}{more}`", self.url, shown.escape_ascii())
    }
}

impl Attempt for Exchange {
    fn watch(&self) -> (BorrowedFd<'_>, Interest) {
        let writes = !self.connection.is_established() || self.sent < self.request.len();
        (self.connection.as_fd(), if writes { Interest::Write } else { Interest::Read })
    }

    fn advance(&mut self) -> Progress {
        self.go_on().into()
    }

    fn overdue(&self, limit: Duration) -> String {
        if self.connection.is_established() {
            self.unfit(&format!("no answer within {limit:?}"))
        } else {
            format!("{}: no answer within {limit:?}", self.connection)
        }
    }
}

/// What is known of an answer.
#[derive(Debug, PartialEq, Eq)]
enum Reading {
    /// Its status.
    Status(u16),
    /// Too little to tell.
    More,
    /// It is no answer of HTTP/1.
    Unfit,
}

/// The status of an answer (RFC 9112, 4); interim ones (RFC 9110, 15.2) are passed over.
fn status(mut answer: &[u8]) -> Reading {
    const START: &[u8] = b"HTTP/1.";
    loop {
        let known = answer.len().min(START.len());
        if answer[..known] != START[..known] {
            return Reading::Unfit;
        }
        let Some(end) = answer.iter().position(|byte| *byte == b'\n') else { return Reading::More };
        let line = answer[..end].strip_suffix(b"\r").unwrap_or(&answer[..end]);
        let [_, _, _, _, _, _, _, minor, b' ', a, b, c, rest @ ..] = line else { return Reading::Unfit };
        let digits = [minor, a, b, c].into_iter().all(u8::is_ascii_digit);
        if !digits || !matches!(rest.first(), None | Some(b' ')) {
            return Reading::Unfit;
        }
        match [a, b, c].into_iter().fold(0, |number, digit| number * 10 + u16::from(digit - b'0')) {
            0..100 => return Reading::Unfit,
            // An answer to a GET without `Expect` and `Upgrade` may be preceded by these.
            100 | 102..200 => {
                let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                    return Reading::More;
                };
                answer = &answer[end + 4..];
            }
            status => return Reading::Status(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_http_1_status_line_is_read() {
        for line in ["HTTP/1.1 200 OK\r\n", "HTTP/1.0 200\r\n", "HTTP/1.1 200 \n", "HTTP/1.9 200 x y\r\nA: b"]
        {
            assert_eq!(status(line.as_bytes()), Reading::Status(200), "{line:?}");
        }
    }

    #[test]
    fn every_part_of_a_status_line_waits_for_more() {
        let line = "HTTP/1.1 503 Service Unavailable\r\n";
        for length in 0..line.len() {
            assert_eq!(status(&line.as_bytes()[..length]), Reading::More, "{length}");
        }
        assert_eq!(status(line.as_bytes()), Reading::Status(503));
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let answer = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n";
        assert_eq!(status(answer.as_bytes()), Reading::Status(204));
        assert_eq!(status(&answer.as_bytes()[..40]), Reading::More);
    }

    #[test]
    fn what_is_not_http_1_is_refused() {
        let others = [
            "220 mail",
            "HTTP/2 200\n",
            "HTTP/1.1  200\n",
            "HTTP/1.1 20\n",
            "HTTP/1.1 2000\n",
            "HTTP/1.x 200\n",
            "HTTP/1.1 099 x\n",
            "HTTP/1.1\n",
            "<html>",
            "\n",
        ];
        for line in others {
            assert_eq!(status(line.as_bytes()), Reading::Unfit, "{line:?}");
        }
    }
}
