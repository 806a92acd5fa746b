//! The log of upgrades: this generation's own start, the upgrade that is running, and earlier ones. Steps are
//! recorded as they happen, reported to waiting clients, and handed over to the next generation.

use std::fs::File;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use super::{CheckerSlot, KILL, Predecessor, Runtime};
use crate::control::protocol;
use crate::control::server::{Interest, Then};
use crate::flip::{self, Step as Towards};
use crate::handover::{Begun, ToPredecessor, ToSuccessor};
use crate::history::{self, Drain, History, Record, Step};
use crate::process::keeper::Tree;
use crate::secrets;
use crate::text;

/// How many of the last bytes written to standard error are searched for lines to quote.
const OUTPUT: u64 = 4096;

/// Report the first 10 failed probes each, later only numbers 16, 32, 64, ...
const PROBES: u32 = 10;

/// The log of upgrades; see the module.
#[derive(Debug)]
pub(super) struct UpgradeLog {
    pub(super) history: History,
    /// The number of the latest upgrade that this generation or an earlier one started.
    pub(super) begun: u64,
    /// The start of this generation, until it is promoted.
    pub(super) own: Option<Record>,
    /// When that start began, by [`clock`].
    own_clock: u64,
    /// The running upgrade.
    pub(super) upgrade: Option<UnderWay>,
    /// Who requested the next upgrade.
    by: Option<String>,
    /// When this psflip was started, in milliseconds since 1970.
    pub(super) started_at: u64,
    /// When this generation became the service, in milliseconds since 1970.
    pub(super) active_since: Option<u64>,
    /// The predecessor's current step of draining, and the deadline for it.
    pub(super) predecessor: Option<(Drain, Instant)>,
}

/// An upgrade that this generation started.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) record: Record,
    clock: u64,
    /// The length of the file that standard error is, at the start of the upgrade; `None` if it is not a
    /// regular file.
    output: Option<u64>,
}

/// Milliseconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64)
}

/// Milliseconds of a clock that is the same for all processes and is never set.
fn clock() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| Duration::from(time).as_millis() as u64)
}

/// Milliseconds since `begin`, by [`clock`].
fn since(begin: u64) -> u64 {
    clock().saturating_sub(begin)
}

impl Begun {
    /// The first start of a service, now.
    #[must_use]
    pub fn first() -> Self {
        Self { number: 0, at: now(), clock: clock(), by: String::new() }
    }
}

impl UpgradeLog {
    /// The log of a new generation `to`. `from`: its predecessor.
    pub(super) fn new(begun: Begun, from: Option<u64>, to: u64, history: History) -> Self {
        // A predecessor of an older version does not send this.
        let Begun { number, at, clock, by } =
            if begun.at == 0 { Begun { number: to - 1, ..Begun::first() } } else { begun };
        let mut own = Record {
            upgrade: number,
            from,
            to,
            began_at: at,
            by,
            pid: Some(std::process::id()),
            ..Record::default()
        };
        own.step(Step::Started, 0);
        own.step(Step::Starting, since(clock));
        Self {
            history,
            begun: number,
            own: Some(own),
            own_clock: clock,
            upgrade: None,
            by: None,
            started_at: now(),
            active_since: None,
            predecessor: None,
        }
    }

    /// Records who requested the next upgrade. If there are several requests, the first one that is known
    /// counts.
    pub(super) fn asked(&mut self, by: Option<String>) {
        if self.by.is_none() {
            self.by = by;
        }
    }

    /// Whether this generation has recorded this step of its start.
    pub(super) fn has_taken(&self, step: Step) -> bool {
        self.own.as_ref().is_some_and(|own| own.steps.iter().any(|taken| taken.step == step))
    }

    /// Takes out who requested the next upgrade, for the generation that runs it.
    pub(super) fn hand_on(&mut self) -> Option<String> {
        self.by.take()
    }

    /// The number of the next upgrade.
    pub(super) fn next(&self) -> u64 {
        self.begun + 1
    }

    /// How long ago the upgrade to this generation began.
    pub(super) fn took(&self) -> Duration {
        Duration::from_millis(since(self.own_clock))
    }

    /// How long the predecessor has been draining.
    pub(super) fn drained(&self) -> Option<Duration> {
        let promoted = self.history.iter().next_back()?.took_ms?;
        Some(self.took().saturating_sub(Duration::from_millis(promoted)))
    }

    /// How long ago the running upgrade began.
    pub(super) fn upgrade_took(&self) -> Option<Duration> {
        Some(Duration::from_millis(since(self.upgrade.as_ref()?.clock)))
    }

    /// What the successor gets to know about the running upgrade.
    pub(super) fn for_successor(&self) -> Begun {
        self.upgrade.as_ref().map_or_else(Begun::first, |UnderWay { record, clock, .. }| Begun {
            number: record.upgrade,
            at: record.began_at,
            clock: *clock,
            by: record.by.clone(),
        })
    }

    /// The record of this generation's own start, which moves to the history at the promotion, and its age in
    /// milliseconds.
    fn own(&mut self) -> Option<(&mut Record, u64)> {
        let at_ms = since(self.own_clock);
        let record = match &mut self.own {
            Some(own) => own,
            None => self.history.last_mut()?,
        };
        Some((record, at_ms))
    }
}

fn event(record: &Record, step: Step, at_ms: u64, probe: Option<String>) -> protocol::Event {
    protocol::Event::Step {
        upgrade: record.upgrade,
        step,
        at_ms,
        pid: record.pid,
        child: record.child,
        probe,
    }
}

impl Runtime {
    /// Records a step of this generation's start.
    pub(super) fn note(&mut self, step: Step) {
        let child = self.tree.as_ref().and_then(Tree::child_pid);
        let Some(own) = &mut self.upgrade_log.own else { return };
        own.child = own.child.or(child);
        let at_ms = since(self.upgrade_log.own_clock);
        own.step(step, at_ms);
        let told = event(own, step, at_ms, None);
        self.make_known(&told, &ToPredecessor::Progress { step, child, probe: None });
    }

    /// Records a failed probe, if the health check has one.
    pub(super) fn note_probe(&mut self) {
        let Some(CheckerSlot(checker)) = &self.checker else { return };
        let (Some(failure), Some(own)) = (checker.failed(), &mut self.upgrade_log.own) else { return };
        let failure = secrets::hide(failure).into_owned();
        if own.probe.as_ref() == Some(&failure) {
            return;
        }
        own.probe_failed(&failure);
        if own.failed_probes > PROBES && !own.failed_probes.is_power_of_two() {
            return;
        }
        let told = event(own, Step::Probe, since(self.upgrade_log.own_clock), Some(failure.clone()));
        let child = own.child;
        self.make_known(&told, &ToPredecessor::Progress { step: Step::Probe, child, probe: Some(failure) });
    }

    /// Reports a step of this generation's start. With a predecessor, clients wait there; without one, they
    /// wait here.
    fn make_known(&mut self, event: &protocol::Event, message: &ToPredecessor) {
        if let Some(Predecessor { link, .. }) = &self.predecessor {
            let _ = link.send(message); // if it is gone, its pidfd shows that
        } else if let protocol::Event::Step { upgrade, .. } = event {
            self.tell_clients(Interest::Upgrade(*upgrade), event, Then::Stay);
        }
        self.changed = true;
    }

    /// Records the start of an upgrade.
    pub(super) fn note_upgrade(&mut self) {
        let by = self.upgrade_log.hand_on().unwrap_or_default();
        self.upgrade_log.begun += 1;
        let generation = self.identity.generation;
        let mut record = Record {
            upgrade: self.upgrade_log.begun,
            from: Some(generation),
            to: generation + 1,
            began_at: now(),
            by,
            ..Record::default()
        };
        record.step(Step::Started, 0);
        let told = event(&record, Step::Started, 0, None);
        self.tell_clients(Interest::Upgrade(record.upgrade), &told, Then::Stay);
        self.upgrade_log.upgrade = Some(UnderWay { record, clock: clock(), output: length_of_stderr() });
    }

    /// Records a step of the successor.
    pub(super) fn note_progress(
        &mut self,
        step: Step,
        pid: Option<u32>,
        child: Option<u32>,
        probe: Option<String>,
    ) {
        let Some(UnderWay { record, clock: began, .. }) = &mut self.upgrade_log.upgrade else { return };
        let at_ms = since(*began);
        record.pid = record.pid.or(pid);
        record.child = record.child.or(child);
        match &probe {
            Some(probe) => record.probe_failed(probe),
            None => record.step(step, at_ms),
        }
        let upgrade = record.upgrade;
        let told = event(record, step, at_ms, probe);
        self.tell_clients(Interest::Upgrade(upgrade), &told, Then::Stay);
        self.changed = true;
    }

    /// Records that the upgrade failed. This generation keeps serving, or exits without a child.
    pub(super) fn note_failure(&mut self, reason: &str) {
        let Some(UnderWay { mut record, clock: began, output }) = self.upgrade_log.upgrade.take() else {
            return;
        };
        record.end(history::Outcome::Failed, Some(reason), since(began));
        let failed = protocol::Event::Failed {
            upgrade: record.upgrade,
            generation: record.to,
            reason: reason.to_owned(),
            output: output.and_then(written_since),
            pid: record.pid,
            child: self.tree.as_ref().and_then(Tree::child_pid),
        };
        let waiting = Interest::Upgrade(record.upgrade);
        if self.state.is_stopping() {
            // The clients go on waiting until psflip exits. systemd stops a reload together with the service,
            // and must not take the failed reload for a failure of the service.
            self.tell_clients(waiting, &failed, Then::Stay);
            self.control.await_end(waiting);
        } else {
            self.tell_clients(waiting, &failed, Then::Close);
        }
        self.upgrade_log.history.add(record);
        self.changed = true;
    }

    /// Records that the successor is promoted. From now on the successor keeps its own record.
    pub(super) fn note_superseded(&mut self) {
        let Some(UnderWay { record, clock: began, .. }) = &mut self.upgrade_log.upgrade else { return };
        let took_ms = since(*began);
        record.end(history::Outcome::Promoted, None, took_ms);
        let promoted = promoted(record);
        let upgrade = record.upgrade;
        self.tell_clients(Interest::Upgrade(upgrade), &promoted, Then::Stay);
    }

    /// Records that this generation is the service.
    pub(super) fn note_promotion(&mut self) {
        self.upgrade_log.active_since = Some(now());
        let Some(mut own) = self.upgrade_log.own.take() else { return };
        own.end(history::Outcome::Promoted, None, since(self.upgrade_log.own_clock));
        let event = promoted(&own);
        self.tell_clients(Interest::Upgrade(own.upgrade), &event, Then::Stay);
        self.upgrade_log.history.add(own);
        if self.predecessor.is_none() {
            self.note_drained();
        }
        self.changed = true;
    }

    /// Records the predecessor's step of draining.
    pub(super) fn note_drain(&mut self, step: Drain, left: Duration) {
        self.upgrade_log.predecessor = Some((step, Instant::now() + left));
        if let Some((own, at_ms)) = self.upgrade_log.own() {
            own.drain(step, at_ms);
        }
        self.changed = true;
    }

    /// Records that the predecessor is gone, or that there was none.
    pub(super) fn note_drained(&mut self) {
        self.upgrade_log.predecessor = None;
        if self.upgrade_log.active_since.is_none() {
            return; // the predecessor was killed, and this generation is not promoted yet
        }
        let Some((own, at_ms)) = self.upgrade_log.own() else { return };
        if own.from.is_some() {
            own.drain(Drain::Gone, at_ms);
        }
        let drained = protocol::Event::Drained { upgrade: own.upgrade, killed: own.killed() };
        let upgrade = own.upgrade;
        self.tell_clients(Interest::Upgrade(upgrade), &drained, Then::Close);
        self.changed = true;
    }

    /// Reports this generation's step of draining to the successor.
    pub(super) fn tell_of_draining(&mut self, before: flip::State) {
        let Some(step) = self.state.drain().filter(|step| before.drain() != Some(*step)) else { return };
        let shutdown = &self.plan.shutdown;
        let (step, left) = match step {
            Towards::Delay => (Drain::Delay, shutdown.delay),
            Towards::Asked => (Drain::Asked, shutdown.timeout),
            Towards::Killed => (Drain::Killed, KILL),
            Towards::Orphans => (Drain::Orphans, shutdown.timeout),
            Towards::OrphansKilled => (Drain::OrphansKilled, KILL),
        };
        if let Some(UnderWay { record, clock: began, .. }) = &mut self.upgrade_log.upgrade {
            record.drain(step, since(*began));
        }
        if let Some(link) = &self.successor {
            let _ = link.send(&ToSuccessor::Draining { step, left }); // it may be gone by now
        }
    }
}

/// The event that reports a promotion.
pub(super) fn promoted(record: &Record) -> protocol::Event {
    protocol::Event::Promoted {
        upgrade: record.upgrade,
        generation: record.to,
        pid: record.pid,
        child: record.child,
        took_ms: record.took_ms.unwrap_or_default(),
    }
}

fn length_of_stderr() -> Option<u64> {
    let metadata = std::fs::metadata("/proc/self/fd/2").ok()?;
    metadata.is_file().then(|| metadata.size())
}

/// The last lines that psflip, the old child and the new child wrote to standard error since it had this
/// length.
fn written_since(length: u64) -> Option<String> {
    let file = File::open("/proc/self/fd/2").ok()?;
    let end = file.metadata().ok()?.len();
    let start = length.max(end.saturating_sub(OUTPUT));
    let mut bytes = vec![0; usize::try_from(end.checked_sub(start)?).ok()?];
    let read = file.read_at(&mut bytes, start).ok()?;
    text::last_lines(&bytes[..read])
}
