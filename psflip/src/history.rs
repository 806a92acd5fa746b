//! What happened at the last upgrades, as values: carried from generation to generation, and shown to operators.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::text;

/// So many upgrades are remembered.
pub const MOST: usize = 16;

/// The longest reason or probe that is kept, in characters: a record has to fit into a message of the hand-over.
const LONGEST: usize = 500;

/// One upgrade, or the first start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Its number: counts every attempt, also those that failed. 0 is the first start.
    pub upgrade: u64,
    /// The generation that served; `None` for the first start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// The generation that was to serve.
    pub to: u64,
    /// When it began, in milliseconds since 1970 (UTC). All other times count from there.
    pub began_at: u64,
    /// Who asked for it, in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// The pid of the psflip that was to serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// The pid of its child.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub child: Option<u32>,
    /// What happened until it was promoted or given up.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Timed<Step>>,
    /// How many probes failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed_probes: u32,
    /// What the last failed probe said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<String>,
    /// How it ended; `None`: it is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<Outcome>,
    /// When it was promoted or failed, in milliseconds since `began_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_ms: Option<u64>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How the old generation ended, once this one was promoted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drain: Vec<Timed<Drain>>,
}

/// Something that happened, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed<T> {
    /// What.
    pub step: T,
    /// Milliseconds since [`Record::began_at`].
    pub at_ms: u64,
}

/// What happens on the way to a promotion, in this order (contract U1 to U4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// A new psflip is being started.
    Started,
    /// Its process exists.
    Spawned,
    /// It has read its configuration.
    Starting,
    /// Its child runs, and is not healthy yet.
    Child,
    /// A probe failed.
    Probe,
    /// Its child is healthy.
    Healthy,
    /// `hooks.promote` runs.
    Hook,
    /// Clients are being sent to it: links and listeners.
    Switch,
    /// The pidfile is being replaced.
    Pidfile,
    /// Something of a later version.
    #[serde(other)]
    Other,
}

/// What happens to the old generation after a promotion (contract U5, C8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drain {
    /// It waits `shutdown.delay`.
    Delay,
    /// Its child was asked to end.
    Asked,
    /// Its child did not end in time, and was killed.
    Killed,
    /// What its child left behind was asked to end.
    Orphans,
    /// What its child left behind did not end in time, and was killed.
    OrphansKilled,
    /// It is gone.
    Gone,
    /// Something of a later version.
    #[serde(other)]
    Other,
}

/// How an upgrade ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The new generation is the service.
    Promoted,
    /// The old one serves on.
    Failed,
    /// Something of a later version.
    #[serde(other)]
    Other,
}

impl Record {
    /// A step was taken, this long after the beginning.
    pub fn step(&mut self, step: Step, at_ms: u64) {
        self.steps.push(Timed { step, at_ms });
    }

    /// A probe failed, and said this. Only the last one and the count are kept.
    pub fn probe_failed(&mut self, probe: &str) {
        self.failed_probes += 1;
        self.probe = Some(text::head(probe, LONGEST));
    }

    /// It is over.
    pub fn end(&mut self, result: Outcome, reason: Option<&str>, at_ms: u64) {
        self.result = Some(result);
        self.took_ms = Some(at_ms);
        self.reason = reason.map(|reason| text::head(reason, LONGEST));
    }

    /// The old generation took a step towards its end.
    pub fn drain(&mut self, step: Drain, at_ms: u64) {
        self.drain.push(Timed { step, at_ms });
    }

    /// When the old generation was gone, in milliseconds since the beginning.
    #[must_use]
    pub fn drained_ms(&self) -> Option<u64> {
        self.drain.iter().find(|timed| timed.step == Drain::Gone).map(|timed| timed.at_ms)
    }

    /// Whether something of the old generation had to be killed.
    #[must_use]
    pub fn killed(&self) -> bool {
        self.drain.iter().any(|timed| matches!(timed.step, Drain::Killed | Drain::OrphansKilled))
    }
}

/// The last [`MOST`] upgrades, the newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History(VecDeque<Record>);

impl History {
    /// Adds the newest one, and forgets the oldest where there are too many.
    pub fn add(&mut self, record: Record) {
        while self.0.len() >= MOST {
            self.0.pop_front();
        }
        self.0.push_back(record);
    }

    /// All of them, the oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Record> + ExactSizeIterator {
        self.0.iter()
    }

    /// The one with this number.
    #[must_use]
    pub fn get(&self, upgrade: u64) -> Option<&Record> {
        self.0.iter().find(|record| record.upgrade == upgrade)
    }

    /// The newest one.
    pub fn last_mut(&mut self) -> Option<&mut Record> {
        self.0.back_mut()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks it like this")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
