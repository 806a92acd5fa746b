//! When upgrades were, for reports on one clock with the requests.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::latency::millis;

/// An upgrade that a test requested by [`crate::Psflip::flip`] or [`crate::Psflip::flip_fails`]. Times are since
/// the start of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlipMark {
    /// When it was requested.
    pub requested: Duration,
    /// When the new generation was active; `None` if the upgrade failed.
    pub active: Option<Duration>,
    /// When the old generation was gone, or the upgrade had failed; `None` while it runs.
    pub over: Option<Duration>,
    /// Why it failed.
    pub failed: Option<String>,
}

impl FlipMark {
    /// Whether it ran at any moment from `begin` to `end`, since the start of the sandbox.
    #[must_use]
    pub fn overlaps(&self, begin: Duration, end: Duration) -> bool {
        end >= self.requested && self.over.is_none_or(|over| begin <= over)
    }

    /// The same upgrade on a clock that began so much earlier.
    pub(crate) fn later(mut self, by: Duration) -> Self {
        self.requested += by;
        for time in [&mut self.active, &mut self.over] {
            *time = time.map(|time| time + by);
        }
        self
    }

    /// As JSON: `requested_ms`, `active_ms`, `over_ms`, `failed`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "requested_ms": millis(self.requested), "active_ms": self.active.map(millis),
            "over_ms": self.over.map(millis), "failed": self.failed,
        })
    }
}

impl fmt::Display for FlipMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let after = |time: Duration| format!("{:.3} s later", (time - self.requested).as_secs_f64());
        write!(f, "requested at {:.3}", self.requested.as_secs_f64())?;
        if let Some(active) = self.active {
            write!(f, ", active {}", after(active))?;
        }
        match (self.over, &self.failed) {
            (Some(over), None) => write!(f, ", old generation gone {}", after(over)),
            (Some(over), Some(why)) => write!(f, ", failed {}: {why}", after(over)),
            (None, _) => f.write_str(", not over"),
        }
    }
}

/// The upgrades of one sandbox.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    all: Mutex<Vec<FlipMark>>,
    /// Changes when an upgrade begins and when it is over.
    moves: AtomicU64,
    running: AtomicU64,
}

impl Marks {
    /// Notes that an upgrade was requested; returns its number.
    pub(crate) fn begin(&self, origin: Instant) -> usize {
        self.moves.fetch_add(1, Ordering::SeqCst);
        self.running.fetch_add(1, Ordering::SeqCst);
        let mut all = self.lock();
        all.push(FlipMark { requested: origin.elapsed(), active: None, over: None, failed: None });
        all.len() - 1
    }

    /// Notes that the new generation is active.
    pub(crate) fn active(&self, origin: Instant, number: usize) {
        self.lock()[number].active = Some(origin.elapsed());
    }

    /// Notes that it is over.
    pub(crate) fn over(&self, origin: Instant, number: usize, failed: Option<String>) {
        {
            let mut all = self.lock();
            all[number].over = Some(origin.elapsed());
            all[number].failed = failed;
        }
        self.running.fetch_sub(1, Ordering::SeqCst);
        self.moves.fetch_add(1, Ordering::SeqCst);
    }

    /// All upgrades so far.
    pub(crate) fn all(&self) -> Vec<FlipMark> {
        self.lock().clone()
    }

    /// A number that changes when an upgrade begins or is over, and whether one runs.
    pub(crate) fn state(&self) -> (u64, bool) {
        (self.moves.load(Ordering::SeqCst), self.running.load(Ordering::SeqCst) > 0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<FlipMark>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
