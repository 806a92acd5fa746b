//! A connected stream socket, TCP or Unix, and bytes of it that were read already.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, Shutdown, getsockname, recv, shutdown, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;

use crate::exited::exited;
use crate::pause::pause;
use crate::proxied::Control;

/// How long a client may go on sending after its last answer.
const LINGER: Duration = Duration::from_secs(2);

/// The same once the child has exited: psflip waits for this relay then.
const SHORT_LINGER: Duration = Duration::from_millis(200);

/// A connected stream socket.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// A connection that another process accepted.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC: it can't be watched. EINVAL: not a stream socket.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        if getsockname(&fd)?.address_family() == AddressFamily::UNIX {
            Ok(Self::Unix(UnixStream::from_std(fd.into())?))
        } else {
            Ok(Self::Tcp(TcpStream::from_std(fd.into())?))
        }
    }

    /// The address of the other side; `None` for a Unix socket.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.peer_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    /// The own address; `None` for a Unix socket.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(socket) => socket.local_addr().ok(),
            Self::Unix(_) => None,
        }
    }

    pub(crate) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_read_ready(context),
            Self::Unix(socket) => socket.poll_read_ready(context),
        }
    }

    pub(crate) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_write_ready(context),
            Self::Unix(socket) => socket.poll_write_ready(context),
        }
    }

    /// # Errors
    /// `WouldBlock`, and those of recv(2).
    pub(crate) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_read(buffer),
            Self::Unix(socket) => socket.try_read(buffer),
        }
    }

    /// # Errors
    /// `WouldBlock`, and those of send(2).
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.try_write(bytes),
            Self::Unix(socket) => socket.try_write(bytes),
        }
    }

    /// Writes without asking the runtime, which does not know yet that a new socket can be written to.
    ///
    /// # Errors
    /// `WouldBlock`, and those of writev(2).
    pub(crate) fn write_now(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(self, slices)?)
    }

    /// Calls `io`, which says `WouldBlock` when the socket isn't ready for `interest`.
    ///
    /// # Errors
    /// Those of `io`.
    pub(crate) fn try_io<T>(&self, interest: Interest, io: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Tcp(socket) => socket.try_io(interest, io),
            Self::Unix(socket) => socket.try_io(interest, io),
        }
    }

    /// Reads what is there, and waits for it. 0: the other side has ended its direction.
    ///
    /// # Errors
    /// Those of recv(2).
    pub(crate) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            std::future::poll_fn(|context| self.poll_read_ready(context)).await?;
            match self.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    /// Appends what is there, and waits for it. `false`: the other side has ended its direction.
    ///
    /// # Errors
    /// Those of recv(2).
    pub(crate) async fn read_more(&self, to: &mut BytesMut) -> io::Result<bool> {
        loop {
            std::future::poll_fn(|context| self.poll_read_ready(context)).await?;
            // Not a buffer of the connection's own: an idle one must stay small.
            let mut buffer = [0; 16 * 1024];
            match self.try_read(&mut buffer) {
                Ok(length) => {
                    to.extend_from_slice(&buffer[..length]);
                    return Ok(length > 0);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// Those of send(2).
    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::future::poll_fn(|context| self.poll_write_ready(context)).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// As `AsyncRead`'s, for a socket that another future watches.
    pub(crate) fn poll_read(
        &self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_read_ready(context))?;
            let room = buffer.remaining();
            let result = match self {
                Self::Tcp(socket) => socket.try_read_buf(buffer),
                Self::Unix(socket) => socket.try_read_buf(buffer),
            };
            match result {
                Ok(length) => {
                    if 0 < length && length < room {
                        // All is read. This saves the recv(2) that would find so, as `AsyncRead` does.
                        let _ = self.try_io(Interest::READABLE, || {
                            io::Result::<()>::Err(io::ErrorKind::WouldBlock.into())
                        });
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// As `AsyncWrite`'s.
    pub(crate) fn poll_write_vectored(
        &self,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(context))?;
            let result = match self {
                Self::Tcp(socket) => socket.try_write_vectored(slices),
                Self::Unix(socket) => socket.try_write_vectored(slices),
            };
            match result {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return Poll::Ready(other),
            }
        }
    }

    /// Waits until the other side has reset the connection, even if nobody reads from it or writes to it.
    pub(crate) async fn reset(&self) {
        // An error means that the runtime exits.
        let _ = match self {
            Self::Tcp(socket) => socket.ready(Interest::ERROR).await,
            Self::Unix(socket) => socket.ready(Interest::ERROR).await,
        };
    }

    /// Whether nothing has come that is not read yet. Also if the other side has ended its direction.
    pub(crate) fn has_nothing_to_read(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        !recv(self, &mut [0; 1], flags).is_ok_and(|(length, _)| length > 0)
    }

    /// Whether nothing has come, neither bytes nor an end nor a reset.
    pub(crate) fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        recv(self, &mut [0; 1], flags).is_err_and(|error| error == Errno::AGAIN)
    }

    /// Ends the own direction: the other side reads an end of file.
    pub(crate) fn end_writing(&self) {
        let _ = shutdown(self, Shutdown::Write); // ENOTCONN: the other side is gone
    }

    /// Ends the own direction, then reads and discards what still comes, for a moment. A socket that is
    /// closed with bytes unread sends a reset, which makes the client lose the answer.
    pub(crate) async fn close_gracefully(&self, control: &watch::Receiver<Control>) {
        self.end_writing();
        let discarded = async {
            let mut bytes = BytesMut::new();
            while let Ok(true) = self.read_more(&mut bytes).await {
                bytes.clear();
            }
        };
        tokio::select! {
            () = discarded => {}
            () = pause(LINGER) => {} // the client goes on sending
            () = async { exited(control).await; pause(SHORT_LINGER).await } => {}
        }
    }

    /// Lets the coming close(2) be a reset, as the other connection had one: the client must not take what it
    /// got for complete. A Unix socket has no resets.
    pub(crate) fn reset_at_close(&self) {
        if matches!(self, Self::Tcp(_)) {
            let _ = sockopt::set_socket_linger(self, Some(Duration::ZERO)); // it may be closed already
        }
    }

    /// Sends small packets at once: what is carried is already written in the pieces that its sender chose.
    pub(crate) fn set_nodelay(&self) {
        if let Self::Tcp(socket) = self {
            let _ = socket.set_nodelay(true); // EINVAL: the other side is gone
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

/// A socket, and the bytes that were read from it before.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) socket: Socket,
    /// The bytes to read first.
    pub(crate) first: Bytes,
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first[..length]);
            self.first.advance(length);
            return Poll::Ready(Ok(()));
        }
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_read(context, buffer),
            Socket::Unix(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_write(context, bytes),
            Socket::Unix(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.socket {
            Socket::Tcp(socket) => Pin::new(socket).poll_write_vectored(context, slices),
            Socket::Unix(socket) => Pin::new(socket).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(())) // sockets have no buffer of their own
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = match &mut self.socket {
            Socket::Tcp(socket) => ready!(Pin::new(socket).poll_shutdown(context)),
            Socket::Unix(socket) => ready!(Pin::new(socket).poll_shutdown(context)),
        };
        Poll::Ready(done)
    }
}
