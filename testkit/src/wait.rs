//! Waiting with a deadline, in one place: the only file of the testkit that may sleep.
//!
//! Where the kernel or another thread can notify (a process exits, a pidfile changes, a line is written), the
//! testkit waits for that. [`wait_until`] polls for everything else.

#![expect(
    clippy::disallowed_methods,
    reason = "what the kernel doesn't announce is polled, here and nowhere else"
)]

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::report;

/// The default time limit: long, since hosts are busy, and a test that passes doesn't wait for it.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// The first pause of [`wait_until`]: short, since most conditions come true at once.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The moment at which a wait fails, and the moment at which it began.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    started: Instant,
    limit: Duration,
}

impl Default for Deadline {
    /// 30 seconds from now, times `TESTKIT_SLOW`.
    fn default() -> Self {
        Self::after(DEFAULT_TIMEOUT)
    }
}

impl Deadline {
    /// `limit` from now, times the environment variable `TESTKIT_SLOW` (for slow hosts, and tools such as
    /// valgrind).
    ///
    /// # Panics
    /// If `TESTKIT_SLOW` is set to anything but a number from 0.1 to 1000.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self { started: Instant::now(), limit: limit.mul_f64(slowness()) }
    }

    /// The remaining time; zero after the deadline.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.limit.saturating_sub(self.started.elapsed())
    }

    /// Whether the deadline has passed.
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.remaining().is_zero()
    }

    /// The time since the wait began.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The factor in `TESTKIT_SLOW`; 1 if it is not set.
fn slowness() -> f64 {
    static FACTOR: OnceLock<f64> = OnceLock::new();
    *FACTOR.get_or_init(|| {
        let Some(text) = std::env::var_os("TESTKIT_SLOW") else { return 1.0 };
        let factor = text.to_str().and_then(|text| text.parse::<f64>().ok());
        match factor {
            Some(factor) if (0.1..=1000.0).contains(&factor) => factor,
            _ => panic!("TESTKIT_SLOW is `{}`; it must be a number from 0.1 to 1000", text.display()),
        }
    })
}

/// Calls `check` repeatedly until it returns something, and returns that.
///
/// It is for conditions that nothing notifies of; everything else in the testkit has a `wait_…` of its own.
///
/// # Panics
/// If the deadline passes; the message has `what`, the time waited, and the report of the thread's sandboxes.
///
/// ```
/// # use psflip_testkit::{Deadline, wait_until};
/// let mut looks = 0;
/// let seen = wait_until(Deadline::default(), "three looks", || {
///     looks += 1;
///     (looks == 3).then_some("done")
/// });
/// assert_eq!(seen, "done");
/// ```
#[track_caller]
pub fn wait_until<T>(deadline: Deadline, what: impl fmt::Display, mut check: impl FnMut() -> Option<T>) -> T {
    let mut pause = FIRST_PAUSE;
    loop {
        let expired = deadline.has_expired();
        if let Some(found) = check() {
            return found;
        }
        if expired {
            report::expired(&deadline, &what);
        }
        std::thread::sleep(pause.min(deadline.remaining()));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Calls `check` repeatedly until it returns something, at most for `limit`; for conditions that may never
/// come true.
pub(crate) fn look_for<T>(limit: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        let last = begun.elapsed() >= limit;
        let found = check();
        if found.is_some() || last {
            return found;
        }
        std::thread::sleep(FIRST_PAUSE);
    }
}

/// Calls `check` now, and whenever one of `fds` becomes readable, until it returns something. `check` must
/// consume what made them readable.
#[track_caller]
pub(crate) fn wait_on<T>(
    deadline: Deadline,
    what: impl fmt::Display,
    fds: &[BorrowedFd<'_>],
    mut check: impl FnMut() -> Option<T>,
) -> T {
    let mut pause = FIRST_PAUSE;
    loop {
        let expired = deadline.has_expired();
        if let Some(found) = check() {
            return found;
        }
        if expired {
            report::expired(&deadline, &what);
        }
        let asked = Instant::now();
        poll_readable(fds, deadline.remaining());
        if asked.elapsed() < FIRST_PAUSE {
            // Prevents a busy loop on a descriptor that stays readable, such as the pidfd of a process that
            // has exited.
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// The pause of a client after a failed request.
pub(crate) fn pause_after_failure() {
    std::thread::sleep(Duration::from_millis(1));
}

/// Waits until one of `fds` is readable, or for `limit`; returns for each whether it is.
pub(crate) fn poll_readable(fds: &[BorrowedFd<'_>], limit: Duration) -> Vec<bool> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    // Round up: a rest of less than a millisecond must not become a busy loop.
    let millis = u32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(u32::MAX).min(i32::MAX as u32);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => panic!("poll(2) on {} descriptors failed: {error}", fds.len()),
    }
    polled.iter().map(|fd| fd.any().unwrap_or(false)).collect()
}
