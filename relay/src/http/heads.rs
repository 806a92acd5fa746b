//! The client's connection as hyper sees it. It records when hyper asks for the next head: only then the
//! connection has no state, and can be passed on. It also records when a head begins: hyper's own time limit
//! for heads would close idle connections as well.

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
        if let Some(recorded) = &mut *self.shared.recorded.borrow_mut() {
            recorded.extend_from_slice(&buffer.filled()[before..]);
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

    /// hyper calls it after it has written everything. The socket's owner decides how the connection is
    /// closed.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;

    use super::*;

    /// Lets hyper read once; `None`: it has to wait.
    fn read(heads: &mut Heads) -> Option<Vec<u8>> {
        let (mut bytes, mut context) = ([0; 100], Context::from_waker(std::task::Waker::noop()));
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(heads).poll_read(&mut context, &mut buffer) {
            Poll::Ready(result) => result.map(|()| buffer.filled().to_vec()).ok(),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_head_begins_with_its_first_byte_after_empty_lines_and_not_within_an_input() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _entered = runtime.enter();
        let (socket, _other) = UnixStream::pair().unwrap();
        let shared = Rc::new(Shared::new());
        let (socket, first) = (Rc::new(Socket::Unix(socket)), Bytes::new());
        let mut heads = Heads { socket, first, shared: Rc::clone(&shared) };
        let mut sends = |bytes: &'static [u8]| {
            heads.first = Bytes::from_static(bytes);
            (read(&mut heads), shared.wants_head.take(), shared.head_since.take().is_some())
        };
        assert_eq!(sends(b"\r\n"), (Some(b"\r\n".to_vec()), true, false));
        assert_eq!(sends(b"\r\nG"), (Some(b"\r\nG".to_vec()), true, true));
        shared.input_ended.set(false);
        assert_eq!(sends(b"input"), (Some(b"input".to_vec()), false, false));
        shared.input_ended.set(true);
        shared.is_busy.set(true);
        assert_eq!(sends(b"more"), (Some(b"more".to_vec()), false, false));
        shared.is_busy.set(false);
        // Only the successor reads the next head.
        shared.leaves.set(true);
        assert_eq!(sends(b"GET"), (None, true, false));
    }
}
