//! `http`: the child is healthy when it answers a request with an expected status. Only
//! the status line is read.

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use super::exchange::{Exchange, Question, Received, Statuses, judge};
use super::response::{Reading, status};
use super::{Attempt, Begun, ChildInfo, Interest, Probe, Progress, Why};
use crate::config::{HttpMethod, HttpRequest};

/// The most that is read of an answer, in bytes.
const LONGEST: usize = 8 * 1024;

pub(super) struct Http {
    question: Question,
    wanted: Rc<Statuses>,
}

impl Http {
    pub(super) fn new(request: &HttpRequest, wanted: &Statuses) -> Self {
        let HttpRequest { url, target, .. } = request;
        Self { question: Question::new(target, text(request), url), wanted: wanted.into() }
    }
}

/// A GET after which the server closes the connection.
pub(super) fn get(host: &str, path: &str) -> Vec<u8> {
    written(HttpMethod::Get, host, path, &[])
}

/// The request of a check. Configured headers replace psflip's own.
fn text(request: &HttpRequest) -> Vec<u8> {
    written(request.method, &request.host, &request.path, &request.headers)
}

fn written(method: HttpMethod, host: &str, path: &str, headers: &[(String, String)]) -> Vec<u8> {
    let method = method.as_str();
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
    let usual = [("User-Agent", concat!("psflip/", env!("CARGO_PKG_VERSION"))), ("Accept", "*/*")];
    let given = |name: &str| headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
    let usual = usual.into_iter().filter(|(name, _)| !given(name));
    for (name, value) in usual.chain(headers.iter().map(|(name, value)| (&**name, &**value))) {
        text.extend([name, ": ", value, "\r\n"]);
    }
    text.push_str("Connection: close\r\n\r\n");
    text.into_bytes()
}

impl Probe for Http {
    fn begin(&self, child: &ChildInfo) -> Result<Begun, Why> {
        let exchange = self.question.begin(child)?;
        let mut attempt = HttpAttempt { exchange, answer: Vec::new(), wanted: Rc::clone(&self.wanted) };
        Ok(if attempt.go_on()? { Begun::Healthy } else { Begun::Pending(Box::new(attempt)) })
    }
}

/// A request and the answer so far.
struct HttpAttempt {
    exchange: Exchange,
    answer: Vec<u8>,
    wanted: Rc<Statuses>,
}

impl HttpAttempt {
    fn go_on(&mut self) -> Result<bool, Why> {
        Ok(self.exchange.send()? && self.receive()?)
    }

    /// Whether the answer has an expected status.
    fn receive(&mut self) -> Result<bool, String> {
        let mut buffer = [0; 1024];
        loop {
            match self.exchange.receive(&mut buffer)? {
                Received::End => {
                    return Err(self.unfit("the connection was closed before the end of a status line"));
                }
                Received::Bytes(length) => self.answer.extend_from_slice(&buffer[..length]),
                Received::Nothing => return Ok(false),
            }
            match status(&self.answer) {
                Reading::Status(status) => {
                    return match judge(status, &self.wanted, "HTTP") {
                        Ok(()) => Ok(true),
                        Err(why) => Err(self.exchange.failed(&why)),
                    };
                }
                Reading::More if self.answer.len() < LONGEST => {}
                Reading::More => return Err(self.unfit("no end of a status line within 8 KiB")),
                Reading::Unfit => return Err(self.unfit("the answer is not HTTP/1")),
            }
        }
    }

    fn unfit(&self, why: &str) -> String {
        self.exchange.unfit(why, &self.answer)
    }
}

impl Attempt for HttpAttempt {
    fn watch(&self) -> (BorrowedFd<'_>, Interest) {
        self.exchange.watch()
    }

    fn advance(&mut self) -> Progress {
        self.go_on().into()
    }

    fn overdue(&self, limit: Duration) -> String {
        self.exchange.overdue(limit, &self.answer)
    }
}
