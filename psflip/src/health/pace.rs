//! When a probe is due, how many successful ones make a child healthy, and whether it stays healthy. It uses
//! no clock and no descriptor.

use std::time::Duration;

use crate::config::Pace;

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Begin a probe now.
    Probe,
    /// Wait this long.
    Wait(Duration),
    /// The child is healthy. Wait this long for the next probe; `None`: nothing is left to do.
    Healthy(Option<Duration>),
    /// The child is not healthy any more. Wait this long.
    Unhealthy(Duration),
    /// The child has stayed healthy; nothing is left to do.
    Settled,
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

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It succeeded.
    Success,
    /// It failed.
    Failure,
    /// It failed before it could reach anything: nothing listens there yet.
    Unreachable,
}

/// The pause after the first failed probe of a quick check.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// While nothing listens, a quick check pauses for this part of the time that it has waited: so it finds a
/// child that listens at most 4 % later, and the number of probes grows only with the logarithm of that time.
const PART: u32 = 25;

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
    /// The child was found healthy, and is to stay it.
    settling: bool,
    /// It was healthy for as long as it has to, and one more probe decides.
    last: bool,
    /// Failed probes in a row, if the check goes on for as long as the child lives.
    failed: Option<u32>,
    /// Probes are so cheap that they begin close together (contract U9).
    is_quick: bool,
    /// The sum of the pauses so far.
    waited: Duration,
    /// The next pause after a probe that reached something, but failed.
    next_pause: Duration,
}

impl Pacing {
    pub(super) fn new(pace: Pace) -> Self {
        Self {
            pace,
            is_quick: false,
            waited: Duration::ZERO,
            next_pause: FIRST_PAUSE,
            phase: Phase::Waiting,
            probes: 0,
            in_a_row: 0,
            settling: false,
            last: false,
            failed: None,
        }
    }

    /// A check whose probes cost little: until the child is healthy they begin close together, and spread out
    /// to `interval`.
    pub(super) fn quick(pace: Pace) -> Self {
        Self { is_quick: true, ..Self::new(pace) }
    }

    /// The time from a failed probe to the next.
    fn pause(&mut self, outcome: Outcome) -> Duration {
        if !self.is_quick || self.settling {
            return self.pace.interval;
        }
        let pause = match outcome {
            Outcome::Success => self.pace.interval,
            Outcome::Unreachable => FIRST_PAUSE.max(self.waited / PART),
            // It has work with each probe: fewer of them.
            Outcome::Failure => {
                let pause = self.next_pause;
                self.next_pause = pause.saturating_mul(2).min(self.pace.interval);
                pause
            }
        };
        let pause = pause.min(self.pace.interval);
        self.waited = self.waited.saturating_add(pause);
        pause
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
    pub(super) fn on_probe_result(&mut self, outcome: Outcome) -> Next {
        let succeeded = outcome == Outcome::Success;
        if let Some(failed) = self.failed {
            return self.on_watched(if succeeded { 0 } else { failed + 1 });
        }
        self.in_a_row = if succeeded { self.in_a_row.saturating_add(1) } else { 0 };
        self.phase = Phase::Waiting;
        if self.settling && !succeeded {
            (self.settling, self.last) = (false, false);
            return Next::Unhealthy(self.pace.interval);
        }
        if self.settling && self.last {
            self.phase = Phase::Over;
            return Next::Settled;
        }
        if self.settling || self.in_a_row < self.pace.successes {
            return Next::Wait(self.pause(outcome));
        }
        if self.pace.settle.is_zero() {
            self.phase = Phase::Over;
            return Next::Healthy(None);
        }
        self.settling = true;
        Next::Healthy(Some(self.pace.interval))
    }

    /// The child was healthy for `settle`. Returns whether a probe is due; if one is in progress, it decides.
    pub(super) fn settle_is_over(&mut self) -> bool {
        self.last = self.settling;
        let is_due = self.last && self.phase == Phase::Waiting;
        if is_due {
            self.probe();
        }
        is_due
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
        let settle = Duration::ZERO;
        Pacing::new(Pace { after, interval: INTERVAL, timeout: TIMEOUT, successes, failures: 3, settle })
    }

    fn of(succeeded: bool) -> Outcome {
        if succeeded { Outcome::Success } else { Outcome::Failure }
    }

    /// The pauses of a quick check whose probes end in this way, until they are an interval long.
    fn pauses(outcome: Outcome) -> Vec<Duration> {
        let mut pacing = Pacing::quick(pacing(Duration::ZERO, 1).pace);
        pacing.start();
        let mut found = Vec::new();
        while found.last() != Some(&INTERVAL) {
            match pacing.on_probe_result(outcome) {
                Next::Wait(pause) => found.push(pause),
                other => panic!("{other:?}"),
            }
            pacing.timer();
        }
        found
    }

    #[test]
    fn while_nothing_listens_a_quick_check_waits_for_a_small_part_of_the_time_so_far() {
        // Contract: H1, U9
        let pauses = pauses(Outcome::Unreachable);
        let mut waited = Duration::ZERO;
        for pause in &pauses {
            assert!(*pause <= FIRST_PAUSE.max(waited / PART), "{pause:?} after {waited:?}");
            waited += *pause;
        }
        // Two seconds are reached after 50 s, by far fewer probes than a constant pause would cost.
        assert!(pauses.len() < 250, "{} probes", pauses.len());
    }

    #[test]
    fn a_server_that_answers_but_is_not_healthy_is_probed_less_and_less_often() {
        // Contract: H1, U9
        let millis: Vec<u128> = pauses(Outcome::Failure).iter().map(Duration::as_millis).collect();
        assert_eq!(millis, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2000]);
    }

    #[test]
    fn a_quick_check_that_settles_or_counts_successes_keeps_its_interval() {
        // Contract: H1, H6
        let mut pace = pacing(Duration::ZERO, 2).pace;
        pace.settle = AFTER;
        let mut pacing = Pacing::quick(pace);
        pacing.start();
        assert_eq!(pacing.on_probe_result(Outcome::Success), Next::Wait(INTERVAL));
        pacing.timer();
        assert_eq!(pacing.on_probe_result(Outcome::Success), Next::Healthy(Some(INTERVAL)));
        pacing.timer();
        assert_eq!(pacing.on_probe_result(Outcome::Unreachable), Next::Unhealthy(INTERVAL));
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
        assert_eq!(pacing.on_probe_result(Outcome::Failure), Next::Wait(INTERVAL));
        assert_eq!(pacing.timer(), Due::Probe);
        assert_eq!(pacing.on_probe_result(Outcome::Success), Next::Healthy(None));
        assert_eq!(pacing.probes(), 2);
    }

    #[test]
    fn a_probe_is_terminated_at_its_own_timeout() {
        // Contract: H2
        let mut pacing = pacing(Duration::ZERO, 1);
        pacing.start();
        assert_eq!(pacing.timer(), Due::End(TIMEOUT));
        assert_eq!(pacing.on_probe_result(Outcome::Failure), Next::Wait(INTERVAL));
    }

    #[test]
    fn only_successes_in_a_row_count() {
        // Contract: H1
        let mut pacing = pacing(Duration::ZERO, 3);
        pacing.start();
        for succeeded in [true, true, false, true, true] {
            assert_eq!(pacing.on_probe_result(of(succeeded)), Next::Wait(INTERVAL));
            assert_eq!(pacing.timer(), Due::Probe);
        }
        assert_eq!(pacing.on_probe_result(Outcome::Success), Next::Healthy(None));
    }

    fn settling(successes: u32) -> Pacing {
        let mut pacing = pacing(Duration::ZERO, successes);
        pacing.pace.settle = AFTER;
        pacing.start();
        pacing
    }

    #[test]
    fn a_healthy_child_is_probed_on_until_it_has_settled() {
        // Contract: H6
        let mut pacing = settling(1);
        assert_eq!(pacing.on_probe_result(Outcome::Success), Next::Healthy(Some(INTERVAL)));
        assert_eq!(pacing.timer(), Due::Probe);
        assert_eq!(pacing.on_probe_result(Outcome::Success), Next::Wait(INTERVAL));
        assert!(pacing.settle_is_over(), "one more probe is due at once");
        assert_eq!(pacing.timer(), Due::End(TIMEOUT));
        assert_eq!(pacing.on_probe_result(Outcome::Success), Next::Settled);
        assert_eq!((pacing.timer(), pacing.settle_is_over()), (Due::Nothing, false));
    }

    #[test]
    fn a_probe_in_progress_at_the_end_decides() {
        // Contract: H6
        for (succeeds, then) in [(true, Next::Settled), (false, Next::Unhealthy(INTERVAL))] {
            let mut pacing = settling(1);
            pacing.on_probe_result(Outcome::Success);
            assert_eq!(pacing.timer(), Due::Probe);
            assert!(!pacing.settle_is_over());
            assert_eq!(pacing.on_probe_result(of(succeeds)), then);
        }
    }

    #[test]
    fn after_a_failed_probe_the_child_must_become_healthy_again() {
        // Contract: H6
        let mut pacing = settling(2);
        let result = |pacing: &mut Pacing, succeeded| {
            let next = pacing.on_probe_result(of(succeeded));
            pacing.timer();
            next
        };
        assert_eq!(result(&mut pacing, true), Next::Wait(INTERVAL));
        assert_eq!(result(&mut pacing, true), Next::Healthy(Some(INTERVAL)));
        assert_eq!(result(&mut pacing, false), Next::Unhealthy(INTERVAL));
        assert!(!pacing.settle_is_over(), "the time has to begin again");
        assert_eq!(result(&mut pacing, false), Next::Wait(INTERVAL));
        assert_eq!(result(&mut pacing, true), Next::Wait(INTERVAL));
        assert_eq!(result(&mut pacing, true), Next::Healthy(Some(INTERVAL)));
    }

    #[test]
    fn a_watched_child_is_probed_until_it_fails_several_times_in_a_row() {
        // Contract: B2
        let mut pacing = pacing(AFTER, 1);
        pacing.watch();
        assert_eq!(pacing.start(), Next::Wait(INTERVAL), "it was healthy a moment ago");
        for succeeded in [true, false, false, true, false, false] {
            assert_eq!(pacing.timer(), Due::Probe);
            assert_eq!(pacing.on_probe_result(of(succeeded)), Next::Wait(INTERVAL));
        }
        assert_eq!(pacing.timer(), Due::Probe);
        assert_eq!(pacing.on_probe_result(Outcome::Failure), Next::Failed);
        assert_eq!(pacing.timer(), Due::Nothing);
    }

    #[test]
    fn a_late_timer_has_no_effect() {
        let mut pacing = pacing(Duration::ZERO, 1);
        pacing.start();
        pacing.on_probe_result(Outcome::Success);
        assert_eq!(pacing.timer(), Due::Nothing);
        assert_eq!(pacing.probes(), 1);
    }
}
