//! The client's connection as hyper sees it. It records when hyper asks for the next head: only then the connection
//! has no state, and can be passed on. It also records when a head begins: hyper's own time limit for heads would
//! close idle connections as well.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Shared;
use crate::socket::Stream;

/// A client's connection.
pub(super) struct Heads {
    pub(super) stream: Stream,
    pub(super) shared: Rc<Shared>,
}

impl Heads {
    /// Records whether bytes of hyper wait for the client.
    fn written(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.shared.write_blocked.set(result.is_pending());
        result
    }
}

impl AsyncRead for Heads {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let is_head = !self.shared.is_busy.get() && self.shared.input_ended.get();
        if is_head {
            self.shared.wants_head.set(true);
            if self.shared.leaves.get() {
                return Poll::Pending; // the connection is passed on, or polled again if it stays
            }
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        // Empty lines before a head are ignored (RFC 9112, section 2.2).
        let begins = buffer.filled()[before..].iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
        if is_head && begins && self.shared.head_since.get().is_none() {
            self.shared.head_since.set(Some(Instant::now()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heads {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// hyper calls it after it has written everything. The socket's owner decides how the connection is closed.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
