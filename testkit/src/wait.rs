//! Waiting, with a deadline, in one place: the only file of the testkit that may sleep.
//!
//! Where the kernel or another thread can tell (the end of a process, a changed pidfile, a line of output), the testkit
//! waits for that; [`wait_until`] is for the rest.

#![expect(
    clippy::disallowed_methods,
    reason = "what nobody announces is looked for again after a pause, here and nowhere else"
)]

use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::report;

/// How long anything may take when the test doesn't say: machines are noisy, and a passing test doesn't wait for it.
const PATIENCE: Duration = Duration::from_secs(30);

/// The pause between two looks of [`wait_until`]: short at first, since most things happen at once.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// A moment by which something must have happened, and when the wait for it began.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    started: Instant,
    limit: Duration,
}

impl Default for Deadline {
    /// 30 seconds from now, times `TESTKIT_SLOW`.
    fn default() -> Self {
        Self::after(PATIENCE)
    }
}

impl Deadline {
    /// `limit` from now, times the environment variable `TESTKIT_SLOW` (for slow machines and tools such as valgrind).
    ///
    /// # Panics
    /// When `TESTKIT_SLOW` is set to something else than a number from 0.1 to 1000.
    #[must_use]
    pub fn after(limit: Duration) -> Self {
        Self { started: Instant::now(), limit: limit.mul_f64(slowness()) }
    }

    /// The time that is left; zero when it has expired.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.limit.saturating_sub(self.started.elapsed())
    }

    /// Whether no time is left.
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.remaining().is_zero()
    }

    /// Since when the wait goes on.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

/// The factor in `TESTKIT_SLOW`; 1 without it.
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

/// Looks again and again until `check` gives something, and gives that.
///
/// For things that nobody announces. Everything else in the testkit has a `wait_…` of its own.
///
/// # Panics
/// When the deadline has passed: with `what`, the time waited, and the report of the thread's sandboxes.
///
/// ```
/// # use testkit::{Deadline, wait_until};
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

/// Looks again and again until `check` gives something, at most for `limit`: for what may never come.
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

/// Calls `check` now and whenever one of `fds` becomes readable, until it gives something. `check` takes what made them readable.
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
            // A descriptor that stays readable (a process that has ended) must not make this a busy loop.
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// A client's pause after a failed request.
pub(crate) fn pause_after_failure() {
    std::thread::sleep(Duration::from_millis(1));
}

/// Waits until one of `fds` is readable, or for `limit`; says which are.
pub(crate) fn poll_readable(fds: &[BorrowedFd<'_>], limit: Duration) -> Vec<bool> {
    let mut polled: Vec<_> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    // Rounded up: a rest of less than a millisecond must not become a busy loop.
    let millis = u32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(u32::MAX).min(i32::MAX as u32);
    let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => panic!("poll(2) on {} descriptors failed: {error}", fds.len()),
    }
    polled.iter().map(|fd| fd.any().unwrap_or(false)).collect()
}
