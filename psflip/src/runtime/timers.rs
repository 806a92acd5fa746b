//! All deadlines on one timerfd(2).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::flip::{Hook, Timer};
use crate::sys::seam::{self, Call};

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    /// A timer of the state machine.
    Flip(Timer),
    /// The health check.
    Check,
    /// The next log line that says why the child is not healthy yet.
    NotHealthyYet,
    /// `settle`: the child was healthy for as long as it has to.
    Settle,
    /// The next look at the processes below a child that settles.
    Descendants,
    /// The end of a pause in reading `NOTIFY_SOCKET`.
    Notifications,
    /// The time limit of a hook.
    Hook(Hook),
    /// The next message to systemd's watchdog.
    SignOfLife,
    /// The next attempt to start the relay again.
    Relay,
    /// The next attempt to start a process again that reads the child's output.
    Output,
    /// Timeouts of clients of the control socket.
    Control,
    /// `recycle.after`, or the pause after a failed attempt.
    Recycle,
    /// The next look at the memory of the child's tree.
    Memory,
    /// The watched files have been left alone for a moment.
    Changes,
    /// The keeper is late to report the exit of its child.
    Keeper,
    /// The next step of killing what a lost keeper left.
    Sweep,
}

/// Deadlines by CLOCK_MONOTONIC, which runs on while psflip is stopped and stands still while the host is
/// suspended.
#[derive(Debug)]
pub(super) struct Timers {
    fd: TimerFd,
    deadlines: BTreeMap<Key, Instant>,
    /// The deadline that the kernel was last given.
    programmed: Option<Instant>,
}

impl Timers {
    /// Creates a timer without deadlines.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub(super) fn new() -> io::Result<Self> {
        seam::before(Call::TimerCreate)?;
        let fd = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        Ok(Self { fd, deadlines: BTreeMap::new(), programmed: None })
    }

    /// Sets a deadline to `time` from now.
    pub(super) fn set(&mut self, key: Key, time: Duration) {
        self.deadlines.insert(key, Instant::now() + time);
    }

    /// Postpones a deadline to `time` from now, but never makes it earlier. Returns false if it is not set.
    pub(super) fn postpone(&mut self, key: Key, time: Duration) -> bool {
        let Some(deadline) = self.deadlines.get_mut(&key) else { return false };
        *deadline = (Instant::now() + time).max(*deadline);
        true
    }

    /// The time until this deadline; `None` if it is not set.
    pub(super) fn left(&self, key: Key) -> Option<Duration> {
        self.deadlines.get(&key).map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Removes a deadline.
    pub(super) fn clear(&mut self, key: Key) {
        self.deadlines.remove(&key);
    }

    /// Removes the expired deadlines, and returns them.
    pub(super) fn take_due(&mut self) -> Vec<Key> {
        if self.deadlines.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let due: Vec<Key> =
            self.deadlines.iter().filter(|(_, deadline)| **deadline <= now).map(|(key, _)| *key).collect();
        for key in &due {
            self.deadlines.remove(key);
        }
        due
    }

    /// Sets the timerfd to the earliest deadline, or disarms it. Does nothing if that has not changed.
    ///
    /// # Errors
    /// None, if the timer is valid.
    pub(super) fn program(&mut self) -> io::Result<()> {
        let earliest = self.deadlines.values().min().copied();
        if earliest == self.programmed {
            return Ok(());
        }
        seam::before(Call::TimerSet)?;
        match earliest {
            Some(deadline) => {
                // Zero would disarm the timer.
                let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
                self.fd
                    .set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty())?;
            }
            // Also discards an expiration that was not read.
            None => self.fd.unset()?,
        }
        self.programmed = earliest;
        Ok(())
    }
}

impl AsFd for Timers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key::Flip(Timer::Grace);

    #[test]
    fn a_deadline_passes_once() {
        let mut timers = Timers::new().unwrap();
        timers.set(KEY, Duration::ZERO);
        timers.set(Key::Check, Duration::from_secs(3600));
        assert_eq!(timers.take_due(), [KEY]);
        assert_eq!(timers.take_due(), []);
        assert!(timers.deadlines.contains_key(&Key::Check));
    }

    #[test]
    fn a_deadline_can_be_extended_but_not_shortened() {
        let mut timers = Timers::new().unwrap();
        assert!(!timers.postpone(KEY, Duration::ZERO));
        timers.set(KEY, Duration::ZERO);
        assert!(timers.postpone(KEY, Duration::from_secs(3600)));
        assert!(timers.postpone(KEY, Duration::ZERO));
        assert_eq!(timers.take_due(), []);
    }

    #[test]
    fn the_timer_fires_only_at_the_earliest_deadline() {
        let mut timers = Timers::new().unwrap();
        let readable = |timers: &Timers, timeout: u16| {
            let mut fds = [nix::poll::PollFd::new(timers.as_fd(), nix::poll::PollFlags::POLLIN)];
            nix::poll::poll(&mut fds, timeout).unwrap() == 1
        };
        timers.set(KEY, Duration::from_secs(3600));
        timers.program().unwrap();
        assert!(!readable(&timers, 0));
        timers.set(Key::Check, Duration::from_millis(1));
        timers.program().unwrap();
        assert!(readable(&timers, 30_000));
        assert_eq!(timers.take_due(), [Key::Check]);
        timers.program().unwrap();
        assert!(!readable(&timers, 0), "the expired one was taken back");
        timers.clear(KEY);
        timers.program().unwrap();
        assert!(!readable(&timers, 0));
    }
}
