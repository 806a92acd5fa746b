//! The bodies of requests and answers, and when they have ended.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::Shared;
use crate::proxied::{Counted, Proxied};

/// The body of a client's request. It records its end: the bytes after it belong to the next request.
pub(super) struct Input {
    body: Incoming,
    shared: Rc<Shared>,
    /// Of the request. The next one may begin while a child still reads the last bytes of this one.
    number: u64,
}

impl Input {
    pub(super) fn new(body: Incoming, shared: Rc<Shared>) -> Self {
        let number = shared.number.get() + 1;
        shared.number.set(number);
        shared.input_ended.set(body.is_end_stream());
        shared.input_failed.set(false);
        Self { body, shared, number }
    }

    fn is_of_last_request(&self) -> bool {
        self.number == self.shared.number.get()
    }

    fn ended(&self) {
        if self.is_of_last_request() && !self.shared.input_ended.replace(true) {
            self.shared.changed.notify_one();
        }
    }
}

impl Body for Input {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.as_ref().is_some_and(Result::is_err) && self.is_of_last_request() {
            self.shared.input_failed.set(true);
        }
        if frame.is_none() || self.body.is_end_stream() {
            self.ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Input {
    /// The child wants no more of it. hyper skips the rest if it has come already, and closes the connection
    /// otherwise.
    fn drop(&mut self) {
        self.ended();
    }
}

/// Keeps a request under way until hyper has taken all of its answer.
pub(super) struct Sent {
    shared: Rc<Shared>,
    proxied: Rc<Proxied>,
    _under_way: Counted,
}

impl Sent {
    pub(super) fn new(shared: Rc<Shared>, proxied: &Rc<Proxied>) -> Self {
        shared.is_busy.set(true);
        let under_way = Counted::new(proxied, |tally| &tally.under_way);
        Self { shared, proxied: Rc::clone(proxied), _under_way: under_way }
    }

    /// The answer was cut after its head.
    fn failed(&self, error: &hyper::Error) {
        if !self.shared.input_failed.get() {
            self.proxied.failed(&format_args!("the child's answer is cut short: {error}"));
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.shared.is_busy.set(false);
    }
}

/// The body of an answer.
pub(super) struct Answer {
    from: From,
    sent: Option<Sent>,
}

enum From {
    Child(Incoming),
    Relay(Option<Bytes>),
}

impl Answer {
    pub(super) fn of_child(body: Incoming) -> Self {
        Self { from: From::Child(body), sent: None }
    }

    pub(super) fn text(text: String) -> Self {
        Self { from: From::Relay(Some(text.into())), sent: None }
    }

    pub(super) fn empty() -> Self {
        Self { from: From::Relay(None), sent: None }
    }

    /// The request is under way as long as the body lives.
    pub(super) fn tracked(mut self, sent: Sent) -> Self {
        self.sent = Some(sent);
        self
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.from {
            From::Child(body) => {
                let frame = ready!(Pin::new(body).poll_frame(context));
                if let (Some(Err(error)), Some(sent)) = (&frame, &self.sent) {
                    sent.failed(error);
                }
                Poll::Ready(frame)
            }
            From::Relay(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Child(body) => body.is_end_stream(),
            From::Relay(bytes) => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Child(body) => body.size_hint(),
            From::Relay(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}
