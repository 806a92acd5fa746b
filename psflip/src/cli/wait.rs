//! Waits for lines of psflip, signals of the user and time.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::target::Trouble;
use crate::control::client::{Connection, Next};
use crate::control::protocol::Event;
use crate::signal::Signal;
use crate::sys::signal::{SignalFd, SignalSet, set_mask};

/// What the client waited for.
#[derive(Debug)]
pub(super) enum Wakeup {
    /// psflip sent a line.
    Line(String, Box<Event>),
    /// psflip closed the connection.
    Closed,
    /// The user interrupted the command (SIGINT, SIGTERM, SIGHUP).
    Interrupted(Signal),
    /// The terminal was resized.
    Resized,
    /// The time of `tick` has passed.
    Tick,
    /// The deadline has passed.
    TimedOut,
}

/// Waits for lines of psflip and for signals.
#[derive(Debug)]
pub(super) struct Waiter {
    signals: SignalFd,
    deadline: Option<Instant>,
}

impl Waiter {
    /// From now on the signals of a terminal are read instead of terminating the process. psflip's start
    /// blocked all signals (see `sys/early.rs`); the others get their usual effect again. `timeout` is for
    /// the whole command.
    pub(super) fn new(timeout: Option<Duration>) -> Result<Self, Trouble> {
        let inherited = crate::sys::early::inherited_signals();
        let mut awaited = SignalSet::default();
        for name in ["SIGINT", "SIGTERM", "SIGHUP", "SIGWINCH"] {
            // Under nohup(1), or in the background of a script, some are ignored, and must stay ignored.
            match name.parse() {
                Ok(signal) if !inherited.ignored.contains(signal) => awaited.insert(signal),
                _ => {}
            }
        }
        SignalFd::open(awaited)
            .and_then(|signals| {
                set_mask(SignalSet::from_bits(inherited.mask.bits() | awaited.bits()))?;
                Ok(Self { signals, deadline: timeout.map(|timeout| Instant::now() + timeout) })
            })
            .map_err(|error| Trouble::new(format!("can't wait: {error}")))
    }

    /// How much of the time is left.
    pub(super) fn left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// The signal with which the user has interrupted the command already.
    pub(super) fn interrupted(&self) -> Result<Option<Signal>, Trouble> {
        let next = || self.signals.next().map_err(|error| Trouble::new(error.to_string()));
        while let Some(received) = next()? {
            if received.signal.to_string() != "SIGWINCH" {
                return Ok(Some(received.signal));
            }
        }
        Ok(None)
    }

    /// Waits for the next event, up to `tick`.
    pub(super) fn next(
        &self,
        connection: &mut Connection,
        tick: Option<Duration>,
    ) -> Result<Wakeup, Trouble> {
        loop {
            if let Some(received) = self.signals.next().map_err(|error| Trouble::new(error.to_string()))? {
                let name = received.signal.to_string();
                return Ok(if name == "SIGWINCH" {
                    Wakeup::Resized
                } else {
                    Wakeup::Interrupted(received.signal)
                });
            }
            match connection.receive() {
                Ok(Next::Line(line, event)) => return Ok(Wakeup::Line(line, event)),
                Ok(Next::Closed) => return Ok(Wakeup::Closed),
                Ok(Next::Nothing) => {}
                Err(error) => return Err(Trouble::new(format!("can't understand psflip: {error}"))),
            }
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(Wakeup::TimedOut);
            }
            let wait = match (left, tick) {
                (Some(left), Some(tick)) => Some(left.min(tick)),
                (left, tick) => left.or(tick),
            };
            // Rounded up, so that the deadline has passed when poll(2) times out. Longer waits take several
            // calls.
            let wait = wait.map_or(PollTimeout::NONE, |wait| {
                PollTimeout::try_from(wait.as_millis() + 1).unwrap_or(PollTimeout::MAX)
            });
            let mut fds = [
                PollFd::new(connection.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut fds, wait) {
                Ok(0) if tick.is_some() => return Ok(Wakeup::Tick),
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(Trouble::new(format!("can't wait: {error}"))),
            }
        }
    }
}
