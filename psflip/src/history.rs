//! The history of upgrades, as values: handed over from generation to generation, and shown to operators.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::text;

/// How many upgrades are kept.
pub const MOST: usize = 16;

/// How many old generations can drain at the same time (`upgrade.draining`).
const MOST_DRAINING: u64 = 7;

/// The longest reason or probe result that is kept, in characters: a record has to fit into a hand-over
/// message.
const LONGEST: usize = 500;

/// One upgrade, or the first start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Its number. Every attempt counts, failed ones too; 0 is the first start.
    pub upgrade: u64,
    /// The generation that served; `None` for the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// The generation that was started.
    pub to: u64,
    /// When it started, in milliseconds since 1970 (UTC). All other times are relative to this.
    pub began_at: u64,
    /// Who requested it, as text ([`requested`] makes a phrase of it).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// The pid of the new generation's psflip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The pid of its child.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child: Option<u32>,
    /// The steps until the promotion or the failure.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Timed<UpgradeStep>>,
    /// How many probes failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed_probes: u32,
    /// The result of the last failed probe.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
    /// The result; `None` while it is running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Outcome>,
    /// When it was promoted or failed, in milliseconds since `began_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The shutdown of the old generation, after the promotion.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drain: Vec<Timed<Drain>>,
    /// How long no child ran (`upgrade.overlap = false`), from when the clients had to wait, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<u64>,
    /// How many connections the old generation's proxy passed on to the new one's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed_on: Option<u64>,
    /// How many requests were under way in the old generation's proxy at the promotion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waited_for: Option<u64>,
    /// What became of `hooks.promoted`, if there is one. It stays [`HookState::Running`] in the records of
    /// later generations if the next upgrade began before it had exited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub promoted_hook: Option<HookState>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hook_failure: Option<String>,
}

/// A step and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed<T> {
    /// The step.
    pub step: T,
    /// Milliseconds since [`Record::began_at`].
    pub at_ms: u64,
}

/// The steps towards a promotion, in this order (contract U1 to U4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpgradeStep {
    /// A new psflip is being started.
    Started,
    /// Its process exists.
    Spawned,
    /// It has read its configuration.
    Starting,
    /// `upgrade.precheck` runs.
    Precheck,
    /// It waits until the old child is gone (`upgrade.overlap = false`).
    Prepared,
    /// The old child is gone.
    GaveWay,
    /// Its child runs, and is not healthy yet.
    Child,
    /// A probe failed.
    Probe,
    /// Its child was found healthy, and has to stay healthy for `settle`.
    Settling,
    /// Its child is healthy.
    Healthy,
    /// `hooks.promote` runs.
    Hook,
    /// Traffic is being switched to it: symlink and listeners.
    Switch,
    /// It has the traffic on trial (`upgrade.bake`).
    Baking,
    /// The pidfile is being replaced.
    Pidfile,
    /// A step of a later version.
    #[serde(other)]
    Other,
}

/// The steps of the old generation's shutdown (contract U5, C8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drain {
    /// Its proxy answers what is under way.
    Answering,
    /// It waits for `shutdown.delay`.
    Delay,
    /// Its child has been sent the stop signal.
    #[serde(rename = "asked")]
    Signalled,
    /// Its child did not exit in time, and was killed.
    Killed,
    /// Its leftover processes have been sent the stop signal.
    Orphans,
    /// Its leftover processes did not exit in time, and were killed.
    OrphansKilled,
    /// Its proxy delivers what it has read from the child.
    Closing,
    /// It is gone.
    Gone,
    /// A step of a later version.
    #[serde(other)]
    Other,
}

/// The result of an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The new generation is the service.
    Promoted,
    /// The old generation keeps serving.
    Failed,
    /// The new generation had the traffic, and the old one has it again.
    RolledBack,
    /// A result of a later version.
    #[serde(other)]
    Other,
}

/// The state of a hook on which nothing depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HookState {
    /// It was started.
    Running,
    /// It exited with 0.
    Succeeded,
    /// It exited otherwise, exceeded `hooks.timeout`, or could not be started.
    Failed,
    /// A state of a later version.
    #[serde(other)]
    Other,
}

impl Record {
    /// Adds a step. `at_ms`: milliseconds since the start. [`UpgradeStep::Settling`] may begin again and
    /// again, and only the last one is kept.
    pub fn step(&mut self, step: UpgradeStep, at_ms: u64) {
        if step == UpgradeStep::Settling {
            self.unsettle();
        }
        self.steps.push(Timed { step, at_ms });
    }

    /// Counts a failed probe, and keeps its result as the last one.
    pub fn probe_failed(&mut self, probe: &str) {
        self.unsettle();
        self.failed_probes += 1;
        self.probe = Some(text::head(probe, LONGEST));
    }

    fn unsettle(&mut self) {
        self.steps.retain(|timed| timed.step != UpgradeStep::Settling);
    }

    /// Completes the upgrade. `at_ms`: milliseconds since the start.
    pub fn end(&mut self, result: Outcome, reason: Option<&str>, at_ms: u64) {
        self.result = Some(result);
        self.took_ms = Some(at_ms);
        self.reason = reason.map(|reason| text::head(reason, LONGEST));
    }

    /// Records what became of `hooks.promoted`. `failure`: why it failed.
    pub fn hook(&mut self, state: HookState, failure: Option<&str>) {
        self.promoted_hook = Some(state);
        self.hook_failure = failure.map(|failure| text::head(failure, LONGEST));
    }

    /// Adds a step of the old generation's shutdown.
    pub fn drain(&mut self, step: Drain, at_ms: u64) {
        self.drain.push(Timed { step, at_ms });
    }

    /// Whether its new generation became the service.
    #[must_use]
    pub fn is_promotion(&self) -> bool {
        self.result == Some(Outcome::Promoted)
    }

    /// When the old generation was gone, in milliseconds since the start.
    #[must_use]
    pub fn drained_ms(&self) -> Option<u64> {
        self.drain.iter().find(|timed| timed.step == Drain::Gone).map(|timed| timed.at_ms)
    }

    /// Whether a process of the old generation had to be killed.
    #[must_use]
    pub fn killed(&self) -> bool {
        self.drain.iter().any(|timed| matches!(timed.step, Drain::Killed | Drain::OrphansKilled))
    }
}

/// How a request over the control socket ends in [`Record::by`].
const OVER_CONTROL_SOCKET: &str = " over the control socket";

/// [`Record::by`] for a request that this client made over the control socket.
#[must_use]
pub fn over_control_socket(client: &str) -> String {
    format!("{client}{OVER_CONTROL_SOCKET}")
}

/// How upgrades that psflip requested itself begin in [`Record::by`].
const RECYCLE: &str = "recycle: ";
const CHANGED: &str = "watch: ";

/// [`Record::by`] for an upgrade that `[recycle]` requested for this reason.
#[must_use]
pub fn recycle(reason: &str) -> String {
    format!("{RECYCLE}{reason}")
}

/// [`Record::by`] for an upgrade that was requested because these files have changed.
#[must_use]
pub fn changed(files: &str) -> String {
    format!("{CHANGED}{files}")
}

/// A phrase of [`Record::by`]: `requested over the control socket by pid 12 (root)`, or
/// `requested by SIGHUP from pid 12 (root)`, or `requested by psflip itself (recycle: running for 24h)`.
#[must_use]
pub fn requested(by: &str) -> String {
    match by.strip_suffix(OVER_CONTROL_SOCKET) {
        Some(client) => format!("requested{OVER_CONTROL_SOCKET} by {client}"),
        None if by.starts_with(RECYCLE) || by.starts_with(CHANGED) => {
            format!("requested by psflip itself ({by})")
        }
        None => format!("requested by {by}"),
    }
}

/// The last [`MOST`] upgrades, the newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(VecDeque<Record>);

impl History {
    /// Adds the newest one, and drops the oldest ones beyond [`MOST`].
    pub fn add(&mut self, record: Record) {
        while self.0.len() >= MOST {
            // That of a drain is still to be completed, for clients that wait for its end.
            let newest = self.0.back().map_or(0, |newest| newest.to);
            let drains = |record: &Record| {
                record.is_promotion()
                    && record.from.is_some()
                    && record.drained_ms().is_none()
                    && record.to + MOST_DRAINING > newest
            };
            let done = self.0.iter().position(|record| !drains(record)).unwrap_or_default();
            self.0.remove(done);
        }
        self.0.push_back(record);
    }

    /// All upgrades, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Record> + ExactSizeIterator {
        self.0.iter()
    }

    /// The upgrade with this number.
    #[must_use]
    pub fn get(&self, upgrade: u64) -> Option<&Record> {
        self.0.iter().find(|record| record.upgrade == upgrade)
    }

    /// The newest promotion of which `is_it` holds.
    pub fn promoted_mut(&mut self, is_it: impl Fn(&Record) -> bool) -> Option<&mut Record> {
        self.0.iter_mut().rev().find(|record| record.is_promotion() && is_it(record))
    }
}

/// How many upgrades ended with each result since the service was started. The first start is no upgrade.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// The new generation became the service.
    pub promoted: u64,
    /// The old generation kept serving.
    pub failed: u64,
    /// The new generation had the traffic, and the old one got it back.
    pub rolled_back: u64,
}

impl Counts {
    /// Counts an upgrade that has ended.
    pub fn add(&mut self, record: &Record) {
        match record.result {
            _ if record.upgrade == 0 => {}
            Some(Outcome::Promoted) => self.promoted += 1,
            Some(Outcome::Failed) => self.failed += 1,
            Some(Outcome::RolledBack) => self.rolled_back += 1,
            Some(Outcome::Other) | None => {}
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks it like this")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrades_are_counted_by_their_results_and_the_first_start_is_none() {
        // Contract: O8
        let mut counts = Counts::default();
        let results = [Some(Outcome::Promoted), Some(Outcome::Failed), Some(Outcome::RolledBack), None];
        for (upgrade, result) in (0..).zip(results.into_iter().chain([Some(Outcome::Promoted)])) {
            counts.add(&Record { upgrade, result, ..Record::default() });
        }
        assert_eq!(counts, Counts { promoted: 1, failed: 1, rolled_back: 1 });
    }
}
