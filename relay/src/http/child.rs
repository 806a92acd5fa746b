//! The connection to the child as hyper sees it.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::upstream::State;
use crate::proxied::Proxied;
use crate::socket::Stream;

/// A connection to the child. A child may answer and close its connection before it has read all of the
/// request: then writing fails, and the answer must be read all the same. So an error of writing is not
/// reported: if there is no answer, reading reports an error.
pub(super) struct Child {
    pub(super) stream: Stream,
    proxied: Rc<Proxied>,
    write_failed: bool,
    /// Bytes or an end have come that belong to no request. Nothing is read or written any more.
    is_spoiled: bool,
    writes: u32,
    /// If it may be kept. Dropped after `stream`, so the connection is closed before.
    state: Option<Rc<State>>,
}

impl Child {
    pub(super) fn new(stream: Stream, proxied: Rc<Proxied>, state: Option<Rc<State>>) -> Self {
        Self { stream, proxied, write_failed: false, is_spoiled: false, writes: 0, state }
    }

    /// Just before the first byte of a request on a connection that was idle: whatever has come is no answer
    /// to it. hyper can't know if the runtime has not reported it yet.
    fn is_usable(&mut self) -> bool {
        if self.state.as_ref().is_some_and(|state| state.was_idle.take()) {
            self.is_spoiled = !self.stream.socket.is_quiet();
        }
        !self.is_spoiled
    }

    /// After an error, `length` bytes are discarded.
    fn written(&mut self, length: usize, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Err(_)) => {
                self.write_failed = true;
                if let Some(state) = &self.state {
                    state.write_failed.set(true);
                }
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
        if self.is_spoiled {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(state) = &self.state
            && buffer.filled().len() > before
            && !state.was_idle.get()
        {
            state.answered.set(true);
        }
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
        if !self.is_usable() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::sync::{Notify, watch};

    use super::*;
    use crate::descriptors::Descriptors;
    use crate::message::{Forward, Forwarded, Protocol, Proxy};
    use crate::socket::Socket;

    #[test]
    fn nothing_is_sent_on_an_idle_connection_on_which_something_has_come() {
        // The runtime has not reported it yet, so hyper does not know.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _entered = runtime.enter();
        let proxy = Proxy {
            listen: "the proxy".to_owned(),
            sockets: 0,
            forward: Forward::Unix("/nowhere".into()),
            protocol: Protocol::Http,
            send_proxy_protocol: None,
            accept_proxy_protocol: false,
            forwarded: Forwarded::Off,
            pool: 1,
        };
        let (_sender, control) = watch::channel(Default::default());
        let proxied = Proxied::new(proxy, control, Rc::new(Descriptors::new(0)), Rc::new(Notify::new()));
        let proxied = Rc::new(proxied);
        let mut context = Context::from_waker(std::task::Waker::noop());
        for (comes, ends, is_sent) in [("", false, true), ("x", false, false), ("", true, false)] {
            let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
            let state = Rc::new(State::default());
            state.was_idle.set(true);
            let stream = Stream { socket: Socket::Unix(ours), first: Bytes::new() };
            let mut child = Child::new(stream, Rc::clone(&proxied), Some(Rc::clone(&state)));
            rustix::io::write(&theirs, comes.as_bytes()).unwrap();
            if ends {
                rustix::net::shutdown(&theirs, rustix::net::Shutdown::Write).unwrap();
            }
            let sent = Pin::new(&mut child).poll_write(&mut context, b"GET");
            assert_eq!(matches!(sent, Poll::Ready(Ok(3))), is_sent, "{comes:?} {ends} {sent:?}");
            // It is nobody's answer.
            let (mut bytes, mut came) = ([0; 10], [0; 10]);
            let read = Pin::new(&mut child).poll_read(&mut context, &mut ReadBuf::new(&mut bytes));
            assert_eq!(matches!(read, Poll::Ready(Err(_))), !is_sent, "{comes:?} {ends} {read:?}");
            assert_eq!(rustix::io::read(&theirs, &mut came).is_ok_and(|length| length == 3), is_sent);
            assert!(!state.answered.get());
        }
    }
}
