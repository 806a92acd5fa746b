//! The bodies of requests and answers, and when they have ended.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::Shared;
use super::upstream::Kept;
use crate::proxied::{Counted, Proxied};

/// The body of a client's request. It records its end: the bytes after it belong to the next request.
pub(super) struct Input {
    /// `None`: the request has none.
    body: Option<Incoming>,
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
        Self { body: Some(body), shared, number }
    }

    /// The same for the first attempt of a request without a body, which may be sent again with this one.
    pub(super) fn of_repeated(&self) -> Self {
        Self { body: None, shared: Rc::clone(&self.shared), number: self.number }
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
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if frame.as_ref().is_some_and(Result::is_err) && self.is_of_last_request() {
            self.shared.input_failed.set(true);
        }
        if frame.is_none() || self.is_end_stream() {
            self.ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
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
    /// The child's connection, if it is to be kept.
    kept: Option<Kept>,
    sent: Option<Sent>,
}

enum From {
    Child(Incoming),
    Relay(Option<Bytes>),
}

impl Answer {
    pub(super) fn of_child(body: Incoming, kept: Option<Kept>) -> Self {
        let mut answer = Self { from: From::Child(body), kept, sent: None };
        if answer.is_end_stream() {
            answer.ended();
        }
        answer
    }

    /// The child's answer was read to its end.
    fn ended(&mut self) {
        if let Some(kept) = self.kept.take() {
            kept.put_back();
        }
    }

    pub(super) fn text(text: String) -> Self {
        Self { from: From::Relay(Some(text.into())), kept: None, sent: None }
    }

    pub(super) fn empty() -> Self {
        Self { from: From::Relay(None), kept: None, sent: None }
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
                let frame = ready!(Pin::new(&mut *body).poll_frame(context));
                let is_last = match &frame {
                    None => true,
                    Some(Ok(frame)) => frame.is_trailers() || body.is_end_stream(),
                    Some(Err(error)) => {
                        if let Some(sent) = &self.sent {
                            sent.failed(error);
                        }
                        false
                    }
                };
                if is_last {
                    self.ended();
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
