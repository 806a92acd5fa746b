//! When a probe is due, and how many successful ones make a child healthy. It uses no
//! clock and no descriptor.

use std::time::Duration;

use crate::config::Pace;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Begin a probe now.
    Probe,
    /// Wait this long.
    Wait(Duration),
    /// The child is healthy; nothing is left to do.
    Healthy,
    /// The probes of a child that is watched have failed too often; nothing is left to do.
    Failed,
}

/// What the expired timer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Begin a probe.
    Probe,
    /// Abort the probe in progress: it has reached this limit.
    End(Duration),
    /// Nothing: it expired too late.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Probing,
    Over,
}

/// The schedule of one health check.
#[derive(Debug)]
pub(super) struct Pacing {
    pace: Pace,
    phase: Phase,
    probes: u32,
    in_a_row: u32,
    /// Failed probes in a row, if the check goes on for as long as the child lives.
    failed: Option<u32>,
}

impl Pacing {
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, phase: Phase::Waiting, probes: 0, in_a_row: 0, failed: None }
    }

    /// From now on the probes go on, and only failures in a row count. The child was healthy a moment ago.
    pub(super) fn watch(&mut self) {
        self.pace.after = self.pace.interval;
        self.failed = Some(0);
    }

    /// A probe of a child that is watched has ended.
    fn on_watched(&mut self, failed: u32) -> Next {
        self.failed = Some(failed);
        self.phase = if failed < self.pace.failures { Phase::Waiting } else { Phase::Over };
        if self.phase == Phase::Over { Next::Failed } else { Next::Wait(self.pace.interval) }
    }

    /// The child was started. With an `after` of zero the first probe is due at once, not one
    /// interval later (contract U9).
    pub(super) fn start(&mut self) -> Next {
        if self.pace.after.is_zero() { self.probe() } else { Next::Wait(self.pace.after) }
    }

    /// The timer has expired.
    pub(super) fn timer(&mut self) -> Due {
        match self.phase {
            Phase::Waiting => {
                self.probe();
                Due::Probe
            }
            Phase::Probing => Due::End(self.pace.timeout),
            Phase::Over => Due::Nothing,
        }
    }

    /// The probe in progress has ended.
    pub(super) fn on_probe_result(&mut self, succeeded: bool) -> Next {
        if let Some(failed) = self.failed {
            return self.on_watched(if succeeded { 0 } else { failed + 1 });
        }
        self.in_a_row = if succeeded { self.in_a_row + 1 } else { 0 };
        if self.in_a_row >= self.pace.successes {
            self.phase = Phase::Over;
            return Next::Healthy;
        }
        self.phase = Phase::Waiting;
        Next::Wait(self.pace.interval)
    }

    /// Ends the check; no more probes follow.
    pub(super) fn give_up(&mut self) {
        self.phase = Phase::Over;
    }

    /// How long one probe may take.
    pub(super) fn limit(&self) -> Duration {
        self.pace.timeout
    }

    /// How many probes were begun.
    pub(super) fn probes(&self) -> u32 {
        self.probes
    }

    fn probe(&mut self) -> Next {
        self.phase = Phase::Probing;
        self.probes = self.probes.saturating_add(1);
        Next::Probe
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = Duration::from_secs(7);
    const INTERVAL: Duration = Duration::from_secs(2);
    const TIMEOUT: Duration = Duration::from_secs(5);

    fn pacing(after: Duration, successes: u32) -> Pacing {
        Pacing::new(Pace { after, interval: INTERVAL, timeout: TIMEOUT, successes, failures: 3 })
    }

    #[test]
    fn the_first_probe_is_due_at_once() {
        // Contract: H1, U9
        assert_eq!(pacing(Duration::ZERO, 1).start(), Next::Probe);
    }

    #[test]
    fn the_first_probe_is_due_after_after() {
        // Contract: H1
        let mut pacing = pacing(AFTER, 1);
        assert_eq!(pacing.start(), Next::Wait(AFTER));
        assert_eq!(pacing.probes(), 0);
        assert_eq!(pacing.timer(), Due::Probe);
        assert_eq!(pacing.probes(), 1);
    }

    #[test]
    fn a_failed_probe_is_repeated_after_the_interval() {
        // Contract: H1
        let mut pacing = pacing(Duration::ZERO, 1);
        pacing.start();
        assert_eq!(pacing.on_probe_result(false), Next::Wait(INTERVAL));
        assert_eq!(pacing.timer(), Due::Probe);
        assert_eq!(pacing.on_probe_result(true), Next::Healthy);
        assert_eq!(pacing.probes(), 2);
    }

    #[test]
    fn a_probe_is_terminated_at_its_own_timeout() {
        // Contract: H2
        let mut pacing = pacing(Duration::ZERO, 1);
        pacing.start();
        assert_eq!(pacing.timer(), Due::End(TIMEOUT));
        assert_eq!(pacing.on_probe_result(false), Next::Wait(INTERVAL));
    }

    #[test]
    fn only_successes_in_a_row_count() {
        // Contract: H1
        let mut pacing = pacing(Duration::ZERO, 3);
        pacing.start();
        for succeeded in [true, true, false, true, true] {
            assert_eq!(pacing.on_probe_result(succeeded), Next::Wait(INTERVAL));
            assert_eq!(pacing.timer(), Due::Probe);
        }
        assert_eq!(pacing.on_probe_result(true), Next::Healthy);
    }

    #[test]
    fn a_watched_child_is_probed_until_it_fails_several_times_in_a_row() {
        // Contract: B2
        let mut pacing = pacing(AFTER, 1);
        pacing.watch();
        assert_eq!(pacing.start(), Next::Wait(INTERVAL), "it was healthy a moment ago");
        for succeeded in [true, false, false, true, false, false] {
            assert_eq!(pacing.timer(), Due::Probe);
            assert_eq!(pacing.on_probe_result(succeeded), Next::Wait(INTERVAL));
        }
        assert_eq!(pacing.timer(), Due::Probe);
        assert_eq!(pacing.on_probe_result(false), Next::Failed);
        assert_eq!(pacing.timer(), Due::Nothing);
    }

    #[test]
    fn a_late_timer_has_no_effect() {
        let mut pacing = pacing(Duration::ZERO, 1);
        pacing.start();
        pacing.on_probe_result(true);
        assert_eq!(pacing.timer(), Due::Nothing);
        assert_eq!(pacing.probes(), 1);
    }
}
