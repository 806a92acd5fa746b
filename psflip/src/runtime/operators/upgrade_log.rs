//! The log of upgrades: this generation's own start, the upgrade that is running, and earlier ones. Steps are
//! recorded as they happen, and handed over to the next generation. The methods return what is to be
//! reported; the caller reports it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::control::protocol;
use crate::handover::{Begun, ToPredecessor};
use crate::history::{self, Counts, Drain, History, HookState, Record, UpgradeStep};
use crate::secrets;
use crate::text;

/// How many of the last bytes written to standard error are searched for lines to quote.
const OUTPUT: u64 = 4096;

/// Report the first 10 failed probes each, later only numbers 16, 32, 64, ...
const PROBES: u32 = 10;

/// The log of upgrades; see the module.
#[derive(Debug)]
pub(in crate::runtime) struct UpgradeLog {
    pub(in crate::runtime) history: History,
    /// How the upgrades since the first start ended.
    pub(in crate::runtime) counts: Counts,
    /// The number of the latest upgrade that this generation or an earlier one started.
    pub(in crate::runtime) begun: u64,
    /// The start of this generation, until it is promoted.
    pub(in crate::runtime) own: Option<Record>,
    /// The number of this generation.
    generation: u64,
    /// When that start began, by [`clock`].
    own_clock: u64,
    /// The running upgrade.
    pub(in crate::runtime) upgrade: Option<UnderWay>,
    /// Who requested the next upgrade.
    by: Option<String>,
    /// When this psflip was started, in milliseconds since 1970.
    pub(in crate::runtime) started_at: u64,
    /// When this generation became the service, in milliseconds since 1970.
    pub(in crate::runtime) active_since: Option<u64>,
    /// Since when clients have been waiting because no child runs, by [`clock`].
    waiting_since: Option<u64>,
}

/// An upgrade that this generation started.
#[derive(Debug)]
pub(in crate::runtime) struct UnderWay {
    pub(in crate::runtime) record: Record,
    clock: u64,
    /// When the new child will have settled, while it settles.
    pub(in crate::runtime) settled: Option<Instant>,
    /// The file that standard error is, at the start of the upgrade; `None` if it is not a regular file.
    output: Option<Mark>,
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
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
        Self { number: 0, at: now(), clock: clock(), by: String::new(), counts: None }
    }
}

impl UpgradeLog {
    /// The log of a new generation `to`. `from`: its predecessor.
    pub(in crate::runtime) fn new(begun: Begun, from: Option<u64>, to: u64, history: History) -> Self {
        // A predecessor of an older version does not count: the counts begin at 0, as its records are only
        // the last ones.
        let counts = begun.counts.unwrap_or_default();
        let Begun { number, at, clock, by, .. } =
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
        own.step(UpgradeStep::Started, 0);
        own.step(UpgradeStep::Starting, since(clock));
        Self {
            history,
            counts,
            begun: number,
            own: Some(own),
            generation: to,
            own_clock: clock,
            upgrade: None,
            by: None,
            started_at: now(),
            active_since: None,
            waiting_since: None,
        }
    }

    /// Records who requested the next upgrade. If there are several requests, the first one that is known
    /// counts.
    pub(in crate::runtime) fn set_requester(&mut self, by: Option<String>) {
        if self.by.is_none() {
            self.by = by;
        }
    }

    /// Whether this generation has recorded this step of its start.
    pub(in crate::runtime) fn has_taken(&self, step: UpgradeStep) -> bool {
        self.own.as_ref().is_some_and(|own| own.steps.iter().any(|taken| taken.step == step))
    }

    /// Takes out who requested the next upgrade, for the generation that runs it.
    pub(in crate::runtime) fn hand_on(&mut self) -> Option<String> {
        self.by.take()
    }

    /// The number of the next upgrade.
    pub(in crate::runtime) fn next(&self) -> u64 {
        self.begun + 1
    }

    /// How long ago the upgrade to this generation began.
    pub(in crate::runtime) fn took(&self) -> Duration {
        Duration::from_millis(since(self.own_clock))
    }

    /// How long the predecessor has been draining.
    pub(in crate::runtime) fn drained(&self) -> Option<Duration> {
        let own =
            self.history.iter().rev().find(|record| record.is_promotion() && record.to == self.generation);
        let promoted = own?.took_ms?;
        Some(self.took().saturating_sub(Duration::from_millis(promoted)))
    }

    /// From now on clients wait: the child gives way.
    pub(in crate::runtime) fn begin_wait(&mut self) {
        self.waiting_since = Some(clock());
    }

    /// Since when clients have been waiting, by a clock that is the same for all processes.
    pub(in crate::runtime) fn waiting_since(&self) -> Option<u64> {
        self.waiting_since
    }

    /// The predecessor has let clients wait since then; or no clients wait, and the child did not stop.
    pub(in crate::runtime) fn set_waiting_since(&mut self, since: Option<u64>) {
        self.waiting_since = since;
    }

    /// Clients wait no longer. Records and returns how long they did.
    pub(in crate::runtime) fn end_wait(&mut self) -> Option<Duration> {
        let waited = since(self.waiting_since.take()?);
        let record = match (&mut self.own, &mut self.upgrade) {
            (Some(own), _) => Some(own),
            (None, Some(upgrade)) => Some(&mut upgrade.record),
            (None, None) => None,
        };
        if let Some(record) = record {
            record.waited_ms = Some(waited);
        }
        Some(Duration::from_millis(waited))
    }

    /// How long ago the running upgrade began.
    pub(in crate::runtime) fn upgrade_took(&self) -> Option<Duration> {
        Some(Duration::from_millis(since(self.upgrade.as_ref()?.clock)))
    }

    /// What the successor gets to know about the running upgrade.
    pub(in crate::runtime) fn for_successor(&self) -> Begun {
        let counts = Some(self.counts);
        match &self.upgrade {
            Some(UnderWay { record, clock, .. }) => Begun {
                number: record.upgrade,
                at: record.began_at,
                clock: *clock,
                by: record.by.clone(),
                counts,
            },
            None => Begun { counts, ..Begun::first() },
        }
    }

    /// The record of this generation's own start, which moves to the history at the promotion, and its age in
    /// milliseconds.
    fn own(&mut self) -> Option<(&mut Record, u64)> {
        let at_ms = since(self.own_clock);
        let record = match &mut self.own {
            Some(own) => own,
            None => {
                let generation = self.generation;
                self.history.promoted_mut(|record| record.to == generation)?
            }
        };
        Some((record, at_ms))
    }

    /// Records a step of this generation's start. `child`: the child's pid. Returns the event for clients,
    /// and the message to the predecessor.
    /// `left`: how long the step takes, if that is known.
    pub(super) fn record_step(
        &mut self,
        step: UpgradeStep,
        child: Option<u32>,
        left: Option<Duration>,
    ) -> Option<(protocol::Event, ToPredecessor)> {
        let own = self.own.as_mut()?;
        own.child = own.child.or(child);
        let at_ms = since(self.own_clock);
        own.step(step, at_ms);
        Some((
            event(own, step, at_ms, None, left),
            ToPredecessor::Progress { step, child, probe: None, left },
        ))
    }

    /// Records the last failed probe. Returns what is to be reported, as [`UpgradeLog::record_step`].
    pub(super) fn record_probe(&mut self, failure: &str) -> Option<(protocol::Event, ToPredecessor)> {
        let own = self.own.as_mut()?;
        let failure = secrets::hide(failure).into_owned();
        if own.probe.as_ref() == Some(&failure) {
            return None;
        }
        own.probe_failed(&failure);
        if own.failed_probes > PROBES && !own.failed_probes.is_power_of_two() {
            return None;
        }
        let step = UpgradeStep::Probe;
        let reported = event(own, step, since(self.own_clock), Some(failure.clone()), None);
        let message = ToPredecessor::Progress { step, child: own.child, probe: Some(failure), left: None };
        Some((reported, message))
    }

    /// Records the start of an upgrade of this generation.
    pub(super) fn begin_upgrade(&mut self, generation: u64, stderr: Option<&Path>) -> protocol::Event {
        let by = self.hand_on().unwrap_or_default();
        self.begun += 1;
        let mut record = Record {
            upgrade: self.begun,
            from: Some(generation),
            to: generation + 1,
            began_at: now(),
            by,
            ..Record::default()
        };
        record.step(UpgradeStep::Started, 0);
        let reported = event(&record, UpgradeStep::Started, 0, None, None);
        let output = Mark::now(stderr.unwrap_or(Path::new(OWN)));
        self.upgrade = Some(UnderWay { record, clock: clock(), settled: None, output });
        reported
    }

    /// Records a step of the successor.
    pub(super) fn record_progress(
        &mut self,
        step: UpgradeStep,
        pid: Option<u32>,
        child: Option<u32>,
        probe: Option<String>,
        left: Option<Duration>,
    ) -> Option<protocol::Event> {
        let UnderWay { record, clock: began, settled, .. } = self.upgrade.as_mut()?;
        *settled = left.filter(|_| step == UpgradeStep::Settling).map(|left| Instant::now() + left);
        let at_ms = since(*began);
        record.pid = record.pid.or(pid);
        record.child = record.child.or(child);
        match &probe {
            Some(probe) => record.probe_failed(probe),
            None => record.step(step, at_ms),
        }
        Some(event(record, step, at_ms, probe, left))
    }

    /// Records that the upgrade failed. `child`: the pid of the child that keeps running.
    pub(super) fn fail_upgrade(
        &mut self,
        result: history::Outcome,
        reason: &str,
        child: Option<u32>,
    ) -> Option<protocol::Event> {
        let UnderWay { mut record, clock: began, output, .. } = self.upgrade.take()?;
        record.end(result, Some(reason), since(began));
        self.counts.add(&record);
        let failed = protocol::Event::Failed {
            upgrade: record.upgrade,
            generation: record.to,
            reason: reason.to_owned(),
            rolled_back: result == history::Outcome::RolledBack,
            output: output.and_then(|output| output.written_since(OUTPUT)),
            pid: record.pid,
            child,
            waited_ms: record.waited_ms,
        };
        self.history.add(record);
        Some(failed)
    }

    /// Records that the successor is promoted. From now on the successor keeps its own record.
    pub(super) fn promote_successor(&mut self) -> Option<protocol::Event> {
        let UnderWay { record, clock: began, .. } = self.upgrade.as_mut()?;
        let took_ms = since(*began);
        record.end(history::Outcome::Promoted, None, took_ms);
        Some(promoted(record))
    }

    /// Records that this generation is the service.
    pub(super) fn promote(&mut self) -> Option<protocol::Event> {
        self.active_since = Some(now());
        let mut own = self.own.take()?;
        own.end(history::Outcome::Promoted, None, since(self.own_clock));
        self.counts.add(&own);
        let event = promoted(&own);
        self.history.add(own);
        Some(event)
    }

    /// Records the predecessor's step of draining.
    pub(super) fn record_drain_step(&mut self, step: Drain) {
        if let Some((own, at_ms)) = self.own() {
            own.drain(step, at_ms);
        }
    }

    /// Records something of the drain of this generation, which is older than the predecessor, and its time.
    /// The history may no longer have the upgrade that replaced it.
    pub(super) fn record_older(&mut self, generation: u64, what: impl FnOnce(&mut Record, u64)) {
        // Only that upgrade's old and new generation know its time by a clock that is never set.
        if let Some(record) = self.history.promoted_mut(|record| record.from == Some(generation)) {
            let at_ms = now().saturating_sub(record.began_at);
            what(record, at_ms);
        }
    }

    /// Records what the predecessor's proxy had under way at the promotion.
    pub(super) fn record_answered(&mut self, passed_on: u64, waited_for: u64) {
        if let Some((own, _)) = self.own() {
            own.passed_on = Some(passed_on);
            own.waited_for = Some(waited_for);
        }
    }

    /// Records what became of `hooks.promoted` of this generation. `failure`: why it failed.
    pub(super) fn record_hook(&mut self, state: HookState, failure: Option<&str>) {
        let generation = self.generation;
        if let Some(own) = self.history.promoted_mut(|record| record.to == generation) {
            own.hook(state, failure.map(secrets::hide).as_deref());
        }
    }

    /// Records that the predecessor is gone, or that there was none.
    pub(super) fn record_drained(&mut self) -> Option<protocol::Event> {
        self.active_since?; // the predecessor was killed, and this generation is not promoted yet
        let (own, at_ms) = self.own()?;
        if own.from.is_some() {
            own.drain(Drain::Gone, at_ms);
        }
        Some(protocol::Event::Drained { upgrade: own.upgrade, killed: own.killed() })
    }

    /// The last upgrade: the running one, or the last one that has ended.
    pub(in crate::runtime) fn last_upgrade(&self) -> Option<&Record> {
        let under_way = self.upgrade.as_ref().map(|under_way| &under_way.record);
        under_way.or_else(|| self.history.iter().rev().find(|record| record.upgrade > 0))
    }

    /// Records this generation's step of draining.
    pub(super) fn record_own_drain(&mut self, step: Drain) {
        if let Some(UnderWay { record, clock: began, .. }) = &mut self.upgrade {
            record.drain(step, since(*began));
        }
    }
}

fn event(
    record: &Record,
    step: UpgradeStep,
    at_ms: u64,
    probe: Option<String>,
    left: Option<Duration>,
) -> protocol::Event {
    protocol::Event::Step {
        upgrade: record.upgrade,
        step,
        at_ms,
        pid: record.pid,
        child: record.child,
        probe,
        left_ms: left.map(|left| left.as_millis() as u64),
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
        waited_ms: record.waited_ms,
    }
}

/// psflip's own standard error.
pub(in crate::runtime) const OWN: &str = "/proc/self/fd/2";

/// Opens a file that gets standard error. Its directory may belong to a user who puts something else there:
/// a symbolic link is not followed (contract N9), and psflip does not wait for the writer of a FIFO.
fn open(path: &Path) -> Option<File> {
    let followed = if path == Path::new(OWN) { 0 } else { libc::O_NOFOLLOW };
    let mut how = File::options();
    let file = how.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | followed).open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

/// A moment in a file that gets standard error: what is written to it afterwards can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::runtime) struct Mark {
    path: PathBuf,
    /// Its device and inode, and its length; `None`: there was no file.
    file: Option<(u64, u64, u64)>,
}

impl Mark {
    /// Now. `None`: it is not a regular file.
    pub(in crate::runtime) fn now(path: &Path) -> Option<Self> {
        let is_own = path == Path::new(OWN);
        let metadata = if is_own { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let file = match metadata {
            Ok(metadata) if metadata.is_file() => Some((metadata.dev(), metadata.ino(), metadata.size())),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_own => None,
            Ok(_) | Err(_) => return None,
        };
        Some(Self { path: path.to_owned(), file })
    }

    /// The last lines that were written since then, of the last `most` bytes, without secrets. If the file
    /// was replaced or emptied (a rotation), all of it was written since then.
    pub(in crate::runtime) fn written_since(&self, most: u64) -> Option<String> {
        let file = open(&self.path)?;
        let metadata = file.metadata().ok()?;
        let end = metadata.len();
        let begin = match self.file {
            Some((dev, ino, length)) if (dev, ino) == (metadata.dev(), metadata.ino()) && length <= end => {
                length
            }
            _ => 0,
        };
        let start = begin.max(end.saturating_sub(most));
        let mut bytes = vec![0; usize::try_from(end - start).ok()?];
        let read = file.read_at(&mut bytes, start).ok()?;
        let mut read = &bytes[..read];
        if start > begin
            && let Some(end) = read.iter().position(|byte| *byte == b'\n')
            && !read[end..].trim_ascii().is_empty()
        {
            read = &read[end + 1..]; // the rest of a line, before others
        }
        text::last_lines(secrets::hide(&String::from_utf8_lossy(read)).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    #[test]
    fn counts_go_on_from_those_of_the_predecessor_or_from_its_history() {
        // Contract: O8
        let mut history = History::default();
        history.add(Record { upgrade: 1, result: Some(history::Outcome::Failed), ..Record::default() });
        let given = Counts { promoted: 40, failed: 2, rolled_back: 1 };
        for (counts, promoted, failed) in [(Some(given), 41, 2), (None, 1, 0)] {
            let begun = Begun { number: 2, at: 1, counts, ..Begun::first() };
            let mut log = UpgradeLog::new(begun, Some(1), 2, history.clone());
            log.promote();
            assert_eq!((log.counts.promoted, log.counts.failed), (promoted, failed));
            log.begin_upgrade(2, None);
            assert_eq!(log.for_successor().counts, Some(log.counts), "without the running one");
            log.fail_upgrade(history::Outcome::RolledBack, "no", None);
            assert_eq!(log.counts.rolled_back, counts.map_or(0, |given| given.rolled_back) + 1);
        }
        let mut first = UpgradeLog::new(Begun::first(), None, 1, History::default());
        first.promote();
        assert_eq!(first.counts, Counts::default(), "the first start is no upgrade");
    }

    #[test]
    fn last_lines_are_read_from_a_regular_file_only() {
        // Contract: N9
        let room = tempfile::tempdir().unwrap();
        let [file, link, fifo] = ["file", "link", "fifo"].map(|name| room.path().join(name));
        fs::write(&file, "before\nsecret\n").unwrap();
        let mark = Mark::now(&file).unwrap();
        fs::write(&file, "before\nsecret\nafter\n").unwrap();
        assert_eq!(mark.written_since(OUTPUT).as_deref(), Some("after"));
        std::os::unix::fs::symlink(&file, &link).unwrap();
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for other in [link, fifo, room.path().to_owned()] {
            assert_eq!(Mark::now(&other), None);
            // It has taken the place of the file since then. psflip does not wait for the writer of the FIFO.
            assert_eq!(Mark { path: other, file: None }.written_since(OUTPUT), None);
        }
    }

    #[test]
    fn a_line_that_is_longer_than_what_is_read_is_not_lost() {
        // Contract: U8, L1
        let room = tempfile::tempdir().unwrap();
        let file = room.path().join("file");
        let mark = Mark::now(&file).unwrap();
        fs::write(&file, format!("first\n{}end\n", "x".repeat(5000))).unwrap();
        let written = mark.written_since(100).unwrap();
        assert!(written.len() == 99 && written.ends_with("xend"), "{written}");
        fs::write(&file, format!("{}end\nlast\n\n", "x".repeat(5000))).unwrap();
        assert_eq!(mark.written_since(100).as_deref(), Some("last"), "the rest of a line before others");
    }

    #[test]
    fn after_a_rotation_all_of_the_new_file_counts() {
        // Contract: U8, L1
        let room = tempfile::tempdir().unwrap();
        let [file, old] = ["file", "old"].map(|name| room.path().join(name));
        fs::write(&file, "before\n").unwrap();
        let mark = Mark::now(&file).unwrap();
        fs::rename(&file, old).unwrap();
        fs::write(&file, "much more than before\n").unwrap();
        assert_eq!(mark.written_since(OUTPUT).as_deref(), Some("much more than before"), "another file");
        let mark = Mark::now(&file).unwrap();
        fs::write(&file, "cut\n").unwrap();
        assert_eq!(mark.written_since(OUTPUT).as_deref(), Some("cut"), "it was emptied");
    }

    #[test]
    fn secrets_are_hidden_before_lines_are_escaped() {
        // Contract: L1
        secrets::register("hunter2\tx", "env('TOKEN')");
        let room = tempfile::tempdir().unwrap();
        let file = room.path().join("file");
        let mark = Mark::now(&file).unwrap();
        fs::write(&file, "token hunter2\tx\n").unwrap();
        assert_eq!(mark.written_since(OUTPUT).as_deref(), Some("token {{ env('TOKEN') }}"));
    }
}
