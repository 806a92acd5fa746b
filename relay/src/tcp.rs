//! Carries bytes both ways between a client and the child, until both directions have ended.
//!
//! Small amounts are copied through one buffer that all connections share. As soon as a read fills that
//! buffer, the direction is carried by splice(2) through a pipe, without a copy. A connection holds a pipe,
//! or a buffer of its own, only while bytes wait for a receiver, so an idle one costs its two sockets and
//! this future.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::Interest;

use crate::socket::{Socket, Stream};

/// The size of the shared buffer.
const BUFFER: usize = 64 * 1024;

/// The most bytes that one splice(2) moves. A pipe holds 64 kB unless it is made larger (pipe(7)).
const SPLICE: usize = 1024 * 1024;

/// How many reads one connection makes before others get their turn.
const AT_ONCE: u32 = 32;

/// How many unused pipes are kept for the next connection that needs one.
const SPARE_PIPES: usize = 8;

thread_local! {
    static SHARED: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// How long bytes are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// One direction has ended and its bytes are written: protocols such as WebSocket say goodbye themselves.
    OneEnds,
    /// Both directions have ended.
    BothEnd,
}

/// Carries bytes both ways. A half-closed connection stays open for the other direction; a reset on one side
/// becomes a reset on the other.
///
/// # Errors
/// The first error of either socket.
pub(crate) async fn carry(client: Stream, child: Stream, until: Until) -> io::Result<()> {
    client.socket.set_nodelay();
    let (mut up, mut down) = (Way::new(client.first), Way::new(child.first));
    let (client, child) = (client.socket, child.socket);
    let ended = std::future::poll_fn(|context| {
        let up = up.carry(&client, &child, context);
        let down = down.carry(&child, &client, context);
        match (up, down) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            (Poll::Ready(Ok(())), _) | (_, Poll::Ready(Ok(()))) if until == Until::OneEnds => {
                Poll::Ready(Ok(()))
            }
            _ => Poll::Pending,
        }
    });
    let ended = ended.await;
    if ended.is_err() {
        client.reset_at_close();
        child.reset_at_close();
    }
    ended
}

/// One direction.
struct Way {
    state: State,
}

enum State {
    /// All that was read is written.
    Empty,
    /// These bytes are read and not yet written.
    Bytes(Bytes),
    /// The pipe holds this many bytes that are not yet written; 0: only the next read tells whether more
    /// come.
    Pipe(Pipe, usize),
    /// The sender has ended this direction, and so has the receiver been told.
    Ended,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Way {
    fn new(first: Bytes) -> Self {
        Self { state: if first.is_empty() { State::Empty } else { State::Bytes(first) } }
    }

    /// Goes on until a socket isn't ready, or the direction has ended.
    fn carry(&mut self, from: &Socket, to: &Socket, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..AT_ONCE {
            let step = match &mut self.state {
                State::Ended => return Poll::Ready(Ok(())),
                State::Empty => self.copy(from, to),
                State::Bytes(bytes) => match to.try_write(bytes) {
                    Ok(written) => {
                        bytes.advance(written);
                        if bytes.is_empty() {
                            self.state = State::Empty;
                        }
                        Ok(())
                    }
                    Err(error) => Err((error, Side::To)),
                },
                State::Pipe(pipe, 0) => match fill(pipe, from) {
                    Ok(0) => {
                        self.end(to);
                        Ok(())
                    }
                    Ok(length) => {
                        self.state.set_in_pipe(length);
                        Ok(())
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.give_pipe_back();
                        Ok(())
                    }
                    Err(error) => Err((error, Side::From)),
                },
                State::Pipe(pipe, length) => match drain(pipe, *length, to) {
                    Ok(written) => {
                        *length -= written;
                        Ok(())
                    }
                    Err(error) => Err((error, Side::To)),
                },
            };
            match step {
                Ok(()) => {}
                Err((error, side)) if error.kind() == io::ErrorKind::WouldBlock => {
                    let ready = match side {
                        Side::From => from.poll_read_ready(context),
                        Side::To => to.poll_write_ready(context),
                    };
                    match ready {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Ready(Ok(())) => {}
                    }
                }
                Err((error, _)) => return Poll::Ready(Err(error)),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads into the shared buffer, and writes from it.
    fn copy(&mut self, from: &Socket, to: &Socket) -> Result<(), (io::Error, Side)> {
        SHARED.with_borrow_mut(|buffer| {
            let length = match from.try_read(buffer) {
                Ok(0) => {
                    self.end(to);
                    return Ok(());
                }
                Ok(length) => length,
                Err(error) => return Err((error, Side::From)),
            };
            let written = match to.try_write(&buffer[..length]) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err((error, Side::To)),
            };
            if written < length {
                self.state = State::Bytes(Bytes::copy_from_slice(&buffer[written..length]));
            } else if length == BUFFER
                && let Ok(pipe) = Pipe::take()
            {
                self.state = State::Pipe(pipe, 0); // without a descriptor left, copying goes on
            }
            Ok(())
        })
    }

    fn end(&mut self, to: &Socket) {
        to.end_writing();
        self.give_pipe_back();
        self.state = State::Ended;
    }

    /// The pipe is empty.
    fn give_pipe_back(&mut self) {
        if let State::Pipe(pipe, _) = std::mem::replace(&mut self.state, State::Empty) {
            PIPES.with_borrow_mut(|pipes| {
                if pipes.len() < SPARE_PIPES {
                    pipes.push(pipe);
                }
            });
        }
    }
}

impl State {
    fn set_in_pipe(&mut self, bytes: usize) {
        if let Self::Pipe(_, length) = self {
            *length = bytes;
        }
    }
}

#[derive(Clone, Copy)]
enum Side {
    From,
    To,
}

impl Pipe {
    fn take() -> io::Result<Self> {
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { read, write })
    }
}

/// From the socket into the empty pipe, so `WouldBlock` is about the socket.
fn fill(pipe: &Pipe, from: &Socket) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    from.try_io(Interest::READABLE, || Ok(splice(from, None, &pipe.write, None, SPLICE, flags)?))
}

/// From the pipe, which holds `length` bytes, into the socket.
fn drain(pipe: &Pipe, length: usize, to: &Socket) -> io::Result<usize> {
    let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
    to.try_io(Interest::WRITABLE, || Ok(splice(&pipe.read, None, to, None, length, flags)?))
}
