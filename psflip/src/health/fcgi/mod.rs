//! `fcgi`: the child is healthy when it answers a FastCGI request with an expected status.
//!
//! A probe is one request to a responder (FastCGI 1.0, 6.2) on a connection of its own, without a body. The
//! status is that of the `Status:` header (RFC 3875, 6.3.3). The answer is read to its end, because the
//! application status and STDERR may report an error.

mod answer;
mod request;

use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::time::Duration;

use super::exchange::{Exchange, Question, Received, Statuses, judge};
use super::{Attempt, Begun, ChildInfo, Interest, Probe, Progress, Why};
use crate::config::FcgiRequest;
use crate::text;
use answer::Answer;

/// The most that is read of an answer, in bytes: a probe should not download a large page.
const LONGEST: usize = 1024 * 1024;
/// The most that is read at once, in bytes, so that an endless answer can't keep psflip from its other work.
const GULP: usize = 64 * 1024;

pub(super) struct Fcgi {
    question: Question,
    wanted: Rc<Statuses>,
}

impl Fcgi {
    pub(super) fn new(request: &FcgiRequest, wanted: &Statuses) -> Self {
        let what = format!("{} {}", request.address, request.script);
        let question = Question::new(&request.target, request::encode(request), &what);
        Self { question, wanted: wanted.into() }
    }
}

impl Probe for Fcgi {
    fn begin(&self, child: &ChildInfo) -> Result<Begun, Why> {
        let exchange = self.question.begin(child)?;
        let attempt =
            FcgiAttempt { exchange, answer: Answer::default(), received: 0, wanted: Rc::clone(&self.wanted) };
        Ok(Begun::Pending(Box::new(attempt)))
    }
}

/// A request and the answer so far.
struct FcgiAttempt {
    exchange: Exchange,
    answer: Answer,
    received: usize,
    wanted: Rc<Statuses>,
}

impl FcgiAttempt {
    fn go_on(&mut self) -> Result<bool, Why> {
        Ok(self.exchange.send()? && self.receive()?)
    }

    fn receive(&mut self) -> Result<bool, String> {
        let mut buffer = [0; 4096];
        for _ in 0..GULP / buffer.len() {
            match self.exchange.receive(&mut buffer).map_err(|why| self.with_stderr(why))? {
                Received::Nothing => return Ok(false),
                Received::End => return Err(self.failed(&self.answer.cut())),
                Received::Bytes(length) => {
                    self.received += length;
                    match self.answer.take(&buffer[..length]) {
                        Ok(Some(status)) => {
                            let judged = judge(status, &self.wanted, "FastCGI");
                            return judged.map(|()| true).map_err(|why| self.failed(&why));
                        }
                        Ok(None) if self.received > LONGEST => {
                            return Err(self.failed("no end of the answer within 1 MiB"));
                        }
                        Ok(None) => {}
                        Err(why) => return Err(self.failed(&why)),
                    }
                }
            }
        }
        Ok(false)
    }

    fn failed(&self, why: &str) -> String {
        self.with_stderr(self.exchange.failed(why))
    }

    fn with_stderr(&self, why: String) -> String {
        match text::tail(self.answer.stderr()) {
            Some(tail) => format!("{why}; its STDERR: {tail}"),
            None => why,
        }
    }
}

impl Attempt for FcgiAttempt {
    fn watch(&self) -> (BorrowedFd<'_>, Interest) {
        self.exchange.watch()
    }

    fn advance(&mut self) -> Progress {
        self.go_on().into()
    }

    fn overdue(&self, limit: Duration) -> String {
        let why = if self.received == 0 {
            self.exchange.overdue(limit, &[])
        } else {
            self.exchange.failed(&format!("no end of the answer within {limit:?}"))
        };
        self.with_stderr(why)
    }
}
