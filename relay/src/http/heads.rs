//! The client's connection as hyper sees it. It records when hyper asks for the next head: only then the connection
//! has no state, and can be passed on. It also records when a head begins: hyper's own time limit for heads would
//! close idle connections as well.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Shared;
use crate::socket::Socket;

/// A client's connection.
pub(super) struct Heads {
    pub(super) socket: Rc<Socket>,
    /// The bytes to read first.
    pub(super) first: Bytes,
    pub(super) shared: Rc<Shared>,
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
        if self.first.is_empty() {
            ready!(self.socket.poll_read(context, buffer))?;
        } else {
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..length]);
            self.first.advance(length);
        }
        // Empty lines before a head are ignored (RFC 9112, section 2.2).
        let begins = buffer.filled()[before..].iter().any(|byte| !matches!(byte, b'\r' | b'\n'));
        if is_head && begins && self.shared.head_since.get().is_none() {
            self.shared.head_since.set(Some(Instant::now()));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heads {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = self.socket.poll_write_vectored(context, slices);
        self.shared.write_blocked.set(result.is_pending());
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // sockets have no buffer of their own
    }

    /// hyper calls it after it has written everything. The socket's owner decides how the connection is closed.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
