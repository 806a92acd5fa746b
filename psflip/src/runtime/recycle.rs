//! Upgrades that psflip requests because the child has run for long, or uses much memory (`[recycle]`,
//! contract R1 to R3). One timer for the age, one for the next look at the memory; without `[recycle]` there
//! is neither.

use std::time::{Duration, Instant};

use super::Runtime;
use super::timers::Key;
use crate::config::{Recycle as Limits, about, spell};
use crate::control::protocol;
use crate::flip::{Event, Notice};
use crate::history;
use crate::process::keeper::Tree;
use crate::process::memory::{self, Unreadable};
use crate::sys::random;

/// How long to wait after the first failed attempt. Each further failure doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(60);

/// How many intervals a generation runs at least that replaced one which used too much memory, before it is
/// recycled for the same reason.
const LEAST_LOOKS: u32 = 10;

/// How long to wait at most, unless `recycle.after` is shorter.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What a generation knows of its own recycling.
#[derive(Debug, Default)]
pub(super) struct Recycle {
    /// When this generation became active.
    since: Option<Instant>,
    /// How long it serves: `recycle.after` and its random part.
    after: Option<Duration>,
    /// The limit of this generation: `recycle.memory` less its random part, in bytes.
    limit: Option<u64>,
    /// When a generation is to be recycled but can't be now: the reason.
    due: Option<String>,
    /// The upgrade under way was requested here.
    requested: bool,
    /// How many of those have failed in a row.
    failures: u32,
    /// What the child's tree used at the last look, in bytes.
    used: Option<u64>,
    /// The tree was seen below the limit.
    was_below: bool,
    /// It was logged that memory can't be read.
    warned_of_reading: bool,
    /// It was logged that the limit is too low.
    warned_of_limit: bool,
}

impl Recycle {
    /// What applies to a new generation. `share`: which part of the jitter, from 0 to 1.
    fn new(limits: &Limits, share: f64) -> Self {
        let part = f64::from(limits.jitter) / 100.0 * share;
        Self {
            after: limits.after.map(|after| after.mul_f64(1.0 + part)),
            limit: limits.memory.map(|memory| memory - (memory as f64 * part) as u64),
            ..Self::default()
        }
    }

    fn is_used(&self) -> bool {
        self.after.is_some() || self.limit.is_some()
    }

    /// How long to wait after a failed attempt.
    fn pause(&self) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.saturating_sub(1).min(16));
        let pause = doubled.min(LONGEST_PAUSE);
        self.after.map_or(pause, |after| pause.min(after))
    }

    /// How long this generation has to run before it may be recycled for its memory, if its predecessor was.
    fn too_early(&self, interval: Duration) -> Option<Duration> {
        let least = interval.saturating_mul(LEAST_LOOKS);
        self.since.and_then(|since| least.checked_sub(since.elapsed())).filter(|left| !left.is_zero())
    }

    /// The tree uses this much. Returns the reason to recycle, if there is one.
    fn is_over(&mut self, used: u64) -> Option<String> {
        let limit = self.limit?;
        self.used = Some(used);
        if used <= limit {
            self.was_below = true;
            return None;
        }
        self.was_below.then(|| format!("memory {} of {}", about(used), about(limit)))
    }
}

impl Runtime {
    /// What a notice means for recycling.
    pub(super) fn notice_for_recycling(&mut self, notice: Notice) {
        match notice {
            Notice::Promoted => self.begin_recycling(),
            Notice::UpgradeFailed | Notice::UpgradeRolledBack | Notice::ServesAgain
                if std::mem::take(&mut self.recycle.requested) =>
            {
                self.recycling_failed();
            }
            Notice::Superseded => {
                self.wait.timers.clear(Key::Recycle);
                self.wait.timers.clear(Key::Memory);
                self.recycle = Recycle::default();
            }
            _ => {}
        }
    }

    fn begin_recycling(&mut self) {
        let limits = self.plan.recycle;
        if limits.after.is_none() && limits.memory.is_none() {
            return;
        }
        let share = random::fraction();
        self.recycle = Recycle { since: Some(Instant::now()), ..Recycle::new(&limits, share) };
        if let Some(after) = self.recycle.after {
            self.wait.timers.set(Key::Recycle, after);
        }
        if let Some(limit) = self.recycle.limit {
            // Services that were started together don't look at the same moment.
            self.wait.timers.set(Key::Memory, limits.interval.mul_f64(1.0 + random::fraction()));
            tracing::debug!(limit = about(limit), "recycled above this memory");
        }
    }

    /// An upgrade that was requested here has failed: the next attempt comes later, for whatever reason.
    fn recycling_failed(&mut self) {
        self.recycle.failures = self.recycle.failures.saturating_add(1);
        self.recycle.due = None; // it may have been due for another reason meanwhile
        let (failures, pause) = (self.recycle.failures, self.recycle.pause());
        let interval = self.plan.recycle.interval;
        for (key, is_used, pause) in [
            (Key::Recycle, self.recycle.after.is_some(), pause),
            (Key::Memory, self.recycle.limit.is_some(), pause.max(interval)),
        ] {
            if is_used && !self.wait.timers.postpone(key, pause) {
                self.wait.timers.set(key, pause);
            }
        }
        tracing::warn!(
            failures,
            "the upgrade that `[recycle]` requested failed; the next attempt follows in {} at the earliest",
            spell(pause)
        );
    }

    /// The generation has served for `recycle.after`.
    pub(super) fn has_aged(&mut self) {
        if let Some(since) = self.recycle.since {
            let time = since.elapsed();
            let whole = Duration::from_secs(time.as_secs());
            self.recycle.due =
                Some(format!("running for {}", spell(if whole.is_zero() { time } else { whole })));
            self.recycle_if_due();
        }
    }

    /// Looks at the memory of the child's tree.
    pub(super) fn look_at_memory(&mut self) {
        let interval = self.plan.recycle.interval;
        if !self.may_recycle() {
            self.wait.timers.set(Key::Memory, interval); // an upgrade would make the look useless
            return;
        }
        let Some(keeper) = self.child.tree.as_ref().map(Tree::keeper_pid) else { return };
        let began = Instant::now();
        let memory::Used { bytes, unreadable } =
            memory::of_tree(keeper, self.recycle.limit.unwrap_or(u64::MAX));
        let took = began.elapsed();
        tracing::debug!(used = about(bytes), ?took, "looked at the child's memory");
        // However large the child is, psflip spends at most a fiftieth of its time on looking.
        let next = interval.max(took.saturating_mul(50));
        if bytes == 0 && !std::mem::replace(&mut self.recycle.warned_of_reading, true) {
            tracing::warn!(
                "can't see how much memory the child uses, so `recycle.memory` has no effect: /proc hides its processes"
            );
        }
        if let Some(Unreadable { pid, error }) = unreadable
            && !std::mem::replace(&mut self.recycle.warned_of_reading, true)
        {
            tracing::warn!(
                pid,
                %error,
                "can't read how much memory this process shares with others; only memory of its own counts for `recycle.memory`"
            );
        }
        if let Some(reason) = self.recycle.is_over(bytes) {
            // A generation that outgrows the limit soon after the start, again and again.
            let early = self.came_by_memory().then(|| self.recycle.too_early(interval)).flatten();
            let Some(left) = early else {
                self.recycle.due = Some(reason);
                self.recycle_if_due();
                return;
            };
            if !std::mem::replace(&mut self.recycle.warned_of_limit, true) {
                tracing::warn!(
                    reason,
                    "the child outgrows `recycle.memory` soon after each start; the next upgrade for it follows in {} at the earliest: set a higher limit",
                    spell(left)
                );
            }
            self.wait.timers.set(Key::Memory, left.max(next));
            return;
        }
        let limit = self.recycle.limit.unwrap_or(u64::MAX);
        if bytes > limit && !std::mem::replace(&mut self.recycle.warned_of_limit, true) {
            tracing::warn!(
                used = about(bytes),
                limit = about(limit),
                "the child used more than `recycle.memory` from the beginning; a new one would, too, so psflip does not recycle it: set a higher limit"
            );
        }
        self.operators.set_changed();
        self.wait.timers.set(Key::Memory, next);
    }

    /// Whether this generation replaced one that used too much memory.
    fn came_by_memory(&self) -> bool {
        self.identity.begun.by.starts_with(&history::recycle("memory "))
    }

    /// Requests the upgrade that is due, if it can start now.
    pub(super) fn recycle_if_due(&mut self) {
        if self.recycle.due.is_none() || !self.may_recycle() {
            return;
        }
        let Some(reason) = self.recycle.due.take() else { return };
        self.recycle.requested = true;
        self.request_upgrade(&history::recycle(&reason));
    }

    /// Requests an upgrade by psflip itself.
    pub(super) fn request_upgrade(&mut self, reason: &str) {
        tracing::info!(reason, "upgrade requested");
        self.operators.log.set_requester(Some(reason.to_owned()));
        self.dispatch(Event::UpgradeRequested);
    }

    /// Whether nothing else is under way: no upgrade, no old generation that drains, no stop, no hold.
    fn may_recycle(&self) -> bool {
        let drains = self.handover.old_generations().next().is_some();
        self.machine.state.is_idle() && !drains && self.proxy.hold().is_none()
    }

    /// For the status report.
    pub(super) fn recycling(&self) -> Option<protocol::Recycle> {
        let recycle = &self.recycle;
        recycle.is_used().then(|| {
            let left = |key| self.wait.timers.left(key).map(|left| left.as_millis() as u64);
            protocol::Recycle {
                after_ms: recycle.after.map(|after| after.as_millis() as u64),
                next_ms: left(Key::Recycle).or_else(|| recycle.due.as_ref().map(|_| 0)),
                memory: recycle.used,
                memory_limit: recycle.limit,
                look_ms: left(Key::Memory),
                failures: recycle.failures,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn limits(after: Option<u64>, memory: Option<u64>, jitter: u32) -> Limits {
        Limits {
            after: after.map(Duration::from_secs),
            memory: memory.map(|memory| memory * MB),
            jitter,
            interval: Duration::from_secs(60),
        }
    }

    #[test]
    fn jitter_makes_the_time_longer_and_the_limit_smaller() {
        // Contract: R1
        let at = |share| {
            let recycle = Recycle::new(&limits(Some(1000), Some(500), 10), share);
            (recycle.after.unwrap().as_secs(), recycle.limit.unwrap() / MB)
        };
        assert_eq!([at(0.0), at(0.5), at(1.0)], [(1000, 500), (1050, 475), (1100, 450)]);
        let none = Recycle::new(&limits(Some(1000), None, 0), 1.0);
        assert_eq!((none.after, none.limit), (Some(Duration::from_secs(1000)), None));
    }

    #[test]
    fn a_child_that_outgrows_the_limit_at_once_is_not_recycled_at_once() {
        // Contract: R2
        let interval = Duration::from_secs(60);
        let mut recycle = Recycle::new(&limits(None, Some(500), 0), 0.0);
        assert_eq!(recycle.too_early(interval), None, "it does not serve");
        recycle.since = Some(Instant::now());
        let left = recycle.too_early(interval).unwrap();
        assert!(left <= Duration::from_secs(600) && left > Duration::from_secs(500), "{left:?}");
        recycle.since = Instant::now().checked_sub(Duration::from_secs(601));
        assert_eq!(recycle.too_early(interval), None);
    }

    #[test]
    fn attempts_that_fail_come_ever_less_often() {
        // Contract: R3
        let pauses = |after: Option<u64>| {
            let mut recycle = Recycle::new(&limits(after, Some(1), 0), 0.0);
            [1, 2, 3, 7, 40, u32::MAX].map(|failures| {
                recycle.failures = failures;
                recycle.pause().as_secs()
            })
        };
        assert_eq!(pauses(None), [60, 120, 240, 3600, 3600, 3600]);
        assert_eq!(pauses(Some(86_400)), [60, 120, 240, 3600, 3600, 3600]);
        assert_eq!(pauses(Some(100)), [60, 100, 100, 100, 100, 100]);
    }

    #[test]
    fn only_a_child_that_was_below_the_limit_is_recycled_for_it() {
        // Contract: R2
        let mut recycle = Recycle::new(&limits(None, Some(512), 0), 0.0);
        assert_eq!(recycle.is_over(600 * MB), None, "a new child would use as much");
        assert_eq!(recycle.is_over(512 * MB), None);
        assert_eq!(recycle.is_over(530 * MB).as_deref(), Some("memory 530M of 512M"));
        assert_eq!(Recycle::new(&limits(Some(1), None, 0), 0.0).is_over(u64::MAX), None);
    }
}
