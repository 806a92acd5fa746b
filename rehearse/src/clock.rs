//! One clock for requests, upgrades and log lines: milliseconds since the rehearsal began.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// When the rehearsal began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    pub(crate) began: Instant,
    /// Milliseconds since 1970 (UTC).
    pub(crate) began_unix_ms: f64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let began_unix_ms =
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64() * 1e3);
        Self { began: Instant::now(), began_unix_ms }
    }

    pub(crate) fn now_ms(&self) -> f64 {
        self.began.elapsed().as_secs_f64() * 1e3
    }

    /// From milliseconds since 1970, as psflip reports them. They are whole, so this is exact to a millisecond.
    pub(crate) fn of_unix_ms(&self, at_ms: f64) -> f64 {
        (at_ms - self.began_unix_ms).max(0.0)
    }
}
