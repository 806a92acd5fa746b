//! `http`: the child is healthy when it answers a request with an expected status. Only
//! the status line is read.

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use super::exchange::{Exchange, Question, Received, Statuses, judge};
use super::{Attempt, Begun, ChildInfo, Interest, Probe, Progress};
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
    fn begin(&self, child: &ChildInfo) -> Result<Begun, String> {
        let exchange = self.question.ask(child)?;
        let mut asked = Asked { exchange, answer: Vec::new(), wanted: Rc::clone(&self.wanted) };
        Ok(if asked.go_on()? { Begun::Healthy } else { Begun::Pending(Box::new(asked)) })
    }
}

/// A request and the answer so far.
struct Asked {
    exchange: Exchange,
    answer: Vec<u8>,
    wanted: Rc<Statuses>,
}

impl Asked {
    fn go_on(&mut self) -> Result<bool, String> {
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
                Reading::Status(status, _) => {
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

impl Attempt for Asked {
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

/// The state of reading an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading<'a> {
    /// Its status, and what follows the status line.
    Status(u16, &'a [u8]),
    /// Incomplete.
    More,
    /// Not an HTTP/1 answer.
    Unfit,
}

/// The status of an answer (RFC 9112, 4). Interim answers (RFC 9110, 15.2) are skipped.
pub(super) fn status(mut answer: &[u8]) -> Reading<'_> {
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
            // These may precede the answer to a GET without `Expect` and `Upgrade`.
            100 | 102..200 => {
                let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
                    return Reading::More;
                };
                answer = &answer[end + 4..];
            }
            status => return Reading::Status(status, &answer[end + 1..]),
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
            assert!(matches!(status(line.as_bytes()), Reading::Status(200, _)), "{line:?}");
        }
    }

    #[test]
    fn every_part_of_a_status_line_waits_for_more() {
        let line = "HTTP/1.1 503 Service Unavailable\r\n";
        for length in 0..line.len() {
            assert_eq!(status(&line.as_bytes()[..length]), Reading::More, "{length}");
        }
        assert_eq!(status(line.as_bytes()), Reading::Status(503, b""));
    }

    #[test]
    fn interim_answers_are_passed_over() {
        let answer = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n";
        assert_eq!(status(answer.as_bytes()), Reading::Status(204, b""));
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
