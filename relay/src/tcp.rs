//! Carries bytes both ways between a client and the child, until both directions have ended.
//!
//! Small amounts are copied through one buffer that all connections share. As soon as a read fills that
//! buffer, the direction is carried by splice(2) through a pipe, without a copy. A connection holds a pipe,
//! or a buffer of its own, only while bytes wait for a receiver, so an idle one costs its two sockets and
//! this future.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use tokio::io::Interest;

use crate::exited::{exited, overdue};
use crate::pause::timer;
use crate::proxied::Proxied;
use crate::socket::{Socket, Stream};

/// The size of the shared buffer.
const BUFFER: usize = 64 * 1024;

/// The most bytes that one splice(2) moves. A pipe holds 64 kB unless it is made larger (pipe(7)).
const SPLICE: usize = 1024 * 1024;

/// How many reads one connection makes before others get their turn.
const AT_ONCE: u32 = 32;

/// How long nothing may come from a child that has exited, beyond [`overdue`], before its connection is cut.
const SILENCE: Duration = Duration::from_millis(200);

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
/// becomes a reset on the other. When the child has exited, the connection is closed with the end of what the
/// child sent.
pub(crate) async fn carry(client: Stream, child: Stream, until: Until, proxied: &Proxied) {
    let (mut up, mut down) = (Way::new(client.first), Way::new(child.first));
    let (client, child) = (client.socket, child.socket);
    let control = &proxied.control;
    let (mut exited, mut overdue) = (pin!(exited(control)), None);
    let (mut has_exited, mut is_overdue, mut silence) = (false, false, None);
    let ended = std::future::poll_fn(|context| {
        has_exited = has_exited || exited.as_mut().poll(context).is_ready();
        if has_exited && !is_overdue {
            let overdue = overdue.get_or_insert_with(|| Box::pin(self::overdue(control)));
            is_overdue = overdue.as_mut().poll(context).is_ready();
        }
        let up = up.carry(&client, &child, context);
        let is_delivered = down.carry(&child, &client, context);
        match (up, is_delivered) {
            // A child that is gone may have sent something before, which is still to be delivered.
            (Poll::Ready(End::CannotWrite), Poll::Pending) if !is_overdue => Poll::Pending,
            (Poll::Ready(End::CannotRead | End::CannotWrite), _)
            | (_, Poll::Ready(End::CannotRead | End::CannotWrite)) => Poll::Ready(Err(Reset)),
            (Poll::Ready(End::Whole), Poll::Ready(End::Whole)) => Poll::Ready(Ok(())),
            (Poll::Ready(_), _) | (_, Poll::Ready(_)) if until == Until::OneEnds => Poll::Ready(Ok(())),
            (_, Poll::Ready(End::Whole)) if has_exited => Poll::Ready(Ok(())),
            (_, Poll::Pending) if is_overdue && down.is_empty() => {
                // A slow client lets the child's kernel wait with what the child has sent.
                let (timer, reads) = silence.get_or_insert_with(|| (timer(SILENCE), down.reads));
                if std::mem::replace(reads, down.reads) != down.reads {
                    *timer = self::timer(SILENCE);
                }
                timer.as_mut().poll(context).map(|()| Err(Reset))
            }
            _ => Poll::Pending,
        }
    });
    match ended.await {
        Ok(()) if has_exited => Box::pin(client.close_gracefully(control)).await,
        Ok(()) => {}
        Err(Reset) => {
            client.reset_at_close();
            child.reset_at_close();
        }
    }
}

/// A connection was cut.
struct Reset;

/// One direction.
struct Way {
    state: State,
    /// How often something was read.
    reads: u64,
    /// How often something was written.
    writes: u64,
}

/// How a direction has ended.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Its sender has ended it, and all its bytes are written.
    Whole,
    /// Its sender's connection is reset.
    CannotRead,
    /// Its receiver's connection is reset, or takes no more.
    CannotWrite,
}

enum State {
    /// All that was read is written.
    Empty,
    /// These bytes are read and not yet written.
    Bytes(Bytes),
    /// The pipe holds this many bytes that are not yet written; 0: only the next read tells whether more
    /// come.
    Pipe(Pipe, usize),
    /// Nothing more is carried.
    Ended(End),
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Way {
    fn new(first: Bytes) -> Self {
        Self { state: if first.is_empty() { State::Empty } else { State::Bytes(first) }, reads: 0, writes: 0 }
    }

    /// Whether all that was read is written.
    fn is_empty(&self) -> bool {
        matches!(self.state, State::Empty | State::Pipe(_, 0))
    }

    /// Goes on until a socket isn't ready, or the direction has ended.
    fn carry(&mut self, from: &Socket, to: &Socket, context: &mut Context<'_>) -> Poll<End> {
        for _ in 0..AT_ONCE {
            if matches!(self.state, State::Bytes(_) | State::Pipe(_, 1..)) {
                self.writes(to);
            }
            let step = match &mut self.state {
                State::Ended(end) => return Poll::Ready(*end),
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
                        self.reads += 1;
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
            let Err((error, side)) = step else { continue };
            if error.kind() == io::ErrorKind::WouldBlock {
                // An error means that the runtime exits.
                let _ = match side {
                    Side::From => ready!(from.poll_read_ready(context)),
                    Side::To => ready!(to.poll_write_ready(context)),
                };
            } else {
                self.give_pipe_back();
                self.state = State::Ended(match side {
                    Side::From => End::CannotRead,
                    Side::To => End::CannotWrite,
                });
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
            self.reads += 1;
            self.writes(to);
            let written = match self.write(&buffer[..length], to) {
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

    /// Counts a write, and sets TCP_NODELAY before the second one: many connections carry one request and one
    /// answer.
    fn writes(&mut self, to: &Socket) {
        self.writes = self.writes.saturating_add(1);
        if self.writes == 2 {
            to.set_nodelay();
        }
    }

    fn write(&self, bytes: &[u8], to: &Socket) -> io::Result<usize> {
        if self.writes == 1 { to.write_now(&[io::IoSlice::new(bytes)]) } else { to.try_write(bytes) }
    }

    fn end(&mut self, to: &Socket) {
        to.end_writing();
        self.give_pipe_back();
        self.state = State::Ended(End::Whole);
    }

    /// Keeps the pipe for another connection if it is empty.
    fn give_pipe_back(&mut self) {
        if let State::Pipe(pipe, 0) = std::mem::replace(&mut self.state, State::Empty) {
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
