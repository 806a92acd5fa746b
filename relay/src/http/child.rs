//! The connection to the child as hyper sees it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxied::Proxied;
use crate::socket::Stream;

/// A connection to the child. A child may answer and close its connection before it has read all of the
/// request: then writing fails, and the answer must be read all the same. So an error of writing is not
/// reported: if there is no answer, reading reports an error.
pub(super) struct Child {
    pub(super) stream: Stream,
    proxied: Rc<Proxied>,
    write_failed: bool,
    writes: u32,
}

impl Child {
    pub(super) fn new(stream: Stream, proxied: Rc<Proxied>) -> Self {
        Self { stream, proxied, write_failed: false, writes: 0 }
    }

    /// After an error, `length` bytes are discarded.
    fn written(&mut self, length: usize, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Err(_)) => {
                self.write_failed = true;
                Poll::Ready(Ok(length))
            }
            other => other,
        }
    }
}

impl AsyncRead for Child {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if result.is_pending() && self.proxied.control.borrow().overdue {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        result
    }
}

impl AsyncWrite for Child {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = slices.iter().map(|slice| slice.len()).sum();
        if self.write_failed {
            return Poll::Ready(Ok(length));
        }
        self.writes = self.writes.saturating_add(1);
        if self.writes == 1
            && let Ok(written @ 1..) = self.stream.socket.write_now(slices)
        {
            return Poll::Ready(Ok(written));
        }
        if self.writes == 2 {
            self.stream.socket.set_nodelay(); // most requests are one write
        }
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(length, result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
