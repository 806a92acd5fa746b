//! The body of an answer, and when it has begun and ended.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::Shared;
use crate::proxied::Counted;

/// Keeps a request under way until its answer is sent.
pub(super) struct Sent {
    shared: Rc<Shared>,
    _under_way: Counted,
}

impl Sent {
    pub(super) fn new(shared: Rc<Shared>, under_way: Counted) -> Self {
        Self { shared, _under_way: under_way }
    }

    /// hyper has taken the answer's head.
    fn began(&self) {
        if self.shared.is_awaited.replace(false) {
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.began();
        self.shared.is_busy.set(false);
        self.shared.changed.notify_one();
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
        // hyper asks for the body only after it has written the head.
        if let Some(sent) = &self.sent {
            sent.began();
        }
        match &mut self.from {
            From::Child(body) => Pin::new(body).poll_frame(context),
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
