//! Describes a past upgrade in a few words: how long each phase took, and its result.

use super::{Paint, View, clean, span, wrap};
use crate::history::{Drain, HookState, Outcome, Record, UpgradeStep, requested};

/// The durations of an upgrade's phases in milliseconds, as far as they were reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Phases {
    /// Until the new psflip has read its configuration.
    pub(super) start: Option<u64>,
    /// Until the new child runs.
    pub(super) child: Option<u64>,
    /// Until the new child is healthy.
    pub(super) probing: Option<u64>,
    /// Until it has stayed healthy for `settle`.
    pub(super) settle: Option<u64>,
    /// Until the new generation is active, or bakes.
    pub(super) promotion: Option<u64>,
    /// Until the bake is over.
    pub(super) bake: Option<u64>,
    /// Until the old generation has exited.
    pub(super) drain: Option<u64>,
}

/// Below this width the layout is compact.
const NARROW: usize = 60;

/// The time of the first occurrence of a step.
pub(super) fn at(record: &Record, step: UpgradeStep) -> Option<u64> {
    record.steps.iter().find(|timed| timed.step == step).map(|timed| timed.at_ms)
}

pub(super) fn phases(record: &Record) -> Phases {
    let (starting, child) = (at(record, UpgradeStep::Starting), at(record, UpgradeStep::Child));
    let (settling, healthy) = (at(record, UpgradeStep::Settling), at(record, UpgradeStep::Healthy));
    let baking = at(record, UpgradeStep::Baking);
    let promoted = record.took_ms.filter(|_| record.result == Some(Outcome::Promoted));
    let between = |from: Option<u64>, to: Option<u64>| Some(to?.saturating_sub(from?));
    Phases {
        start: starting,
        child: between(starting.or(Some(0)), child),
        probing: between(child, settling.or(healthy)),
        settle: between(settling, healthy),
        promotion: between(healthy, baking.or(promoted)),
        bake: between(baking, record.took_ms),
        drain: between(promoted, record.drained_ms()),
    }
}

impl Phases {
    /// `start 4 ms, child 2 ms, probing 110 ms`
    fn in_words(self, failed_probes: u32) -> String {
        let Self { start, child, probing, settle, promotion, bake, .. } = self;
        let named = [
            ("start", start),
            ("child", child),
            ("probing", probing),
            ("settle", settle),
            ("promotion", promotion),
            ("bake", bake),
        ];
        let words = named.into_iter().filter_map(|(name, ms)| {
            let failed = match (name, failed_probes) {
                ("probing", 1) => " (1 failed)".to_owned(),
                ("probing", 2..) => format!(" ({failed_probes} failed)"),
                _ => String::new(),
            };
            Some(format!("{name} {}{failed}", span(ms?)))
        });
        words.collect::<Vec<_>>().join(", ")
    }
}

/// One upgrade, as a few lines.
pub(super) fn record(record: &Record, view: &View) -> String {
    let (result, time, paint) = match record.result {
        Some(Outcome::Promoted) => ("promoted", "after", Paint::Good),
        Some(Outcome::Failed) => ("FAILED", "after", Paint::Bad),
        Some(Outcome::RolledBack) => ("ROLLED BACK", "after", Paint::Bad),
        _ => ("under way", "since", Paint::Busy),
    };
    let took = span(record.took_ms.unwrap_or_else(|| view.now.saturating_sub(record.began_at)));
    let who = match record.from {
        Some(from) => format!("{from} -> {}", record.to),
        None => "start".to_owned(),
    };
    let (number, moment) = (format!("#{}", record.upgrade), view.moment(record.began_at));
    let mut out = if view.width < NARROW {
        wrap(&format!("{number} {moment} {who} {result} {time} {took}"), view.width).join("\n")
    } else {
        format!("{number:<4} {moment}  {who:<8}  {result} {time} {took}")
    };
    out = out.replacen(result, &view.paint(paint, result), 1) + "\n";
    let indent = if view.width < NARROW { 2 } else { 5 };
    let mut line = |text: &str, paint: Option<Paint>| {
        for part in wrap(text, view.width.saturating_sub(indent)) {
            let part = paint.map_or_else(|| part.clone(), |paint| view.paint(paint, &part));
            out += &format!("{}{part}\n", " ".repeat(indent));
        }
    };
    if let Some(reason) = &record.reason {
        line(&clean(reason), None);
    }
    let mut phases = phases(record).in_words(record.failed_probes);
    if let Some(drain) = drain(record) {
        phases = if phases.is_empty() { drain } else { format!("{phases}; {drain}") };
    }
    if let Some(waited) = record.waited_ms {
        let again = record.result == Some(Outcome::Failed);
        let again = if again { " until the old child was started again" } else { "" };
        let waited = format!("clients waited {}{again}", span(waited));
        phases = if phases.is_empty() { waited } else { format!("{phases}; {waited}") };
    }
    if !phases.is_empty() {
        line(&phases, Some(Paint::Faint));
    }
    if record.promoted_hook == Some(HookState::Failed) {
        let why = record.hook_failure.as_deref().map_or_else(String::new, |why| format!(": {}", clean(why)));
        line(&format!("hooks.promoted failed{why}"), Some(Paint::Bad));
    }
    if !record.by.is_empty() {
        line(&requested(&clean(&record.by)), Some(Paint::Faint));
    }
    out
}

/// How the old generation exited.
fn drain(record: &Record) -> Option<String> {
    let killed = if record.killed() { ", killed" } else { "" };
    if let Some(took) = phases(record).drain {
        return Some(format!("old one gone {} later{killed}{}", span(took), answered(record)));
    }
    record.drain.last().map(|last| format!("old one drains: {}", step_of_drain(last.step)))
}

/// What the old generation's proxy had under way at the promotion.
fn answered(record: &Record) -> String {
    let counted = |count: Option<u64>, one: &str, done: &str| match count {
        None | Some(0) => String::new(),
        Some(1) => format!(", 1 {one} {done}"),
        Some(many) => format!(", {many} {one}s {done}"),
    };
    counted(record.waited_for, "request", "waited for")
        + &counted(record.passed_on, "connection", "passed on")
}

/// What the old generation is doing.
pub(super) fn step_of_drain(step: Drain) -> &'static str {
    match step {
        Drain::Answering => "its proxy answers the requests that are under way",
        Drain::Delay => "waits for shutdown.delay before it stops its child",
        Drain::Signalled => "its child was sent the stop signal",
        Drain::Killed => "its child was killed",
        Drain::Orphans => "leftover processes were sent the stop signal",
        Drain::OrphansKilled => "leftover processes were killed",
        Drain::Closing => "its proxy delivers the last answers",
        Drain::Gone => "it is gone",
        Drain::Other => "it exits",
    }
}

/// What a new generation does after this step.
pub(super) fn step_in_words(step: UpgradeStep) -> &'static str {
    match step {
        UpgradeStep::Started => "starting a new psflip",
        UpgradeStep::Spawned => "new psflip started; reading its configuration",
        UpgradeStep::Starting => "configuration read; starting the child",
        UpgradeStep::Precheck => "running upgrade.precheck",
        UpgradeStep::Prepared => "prepared; waiting until the old child is gone",
        UpgradeStep::GaveWay => "the old child is gone; starting the new one",
        UpgradeStep::Child => "child started; waiting until it is healthy",
        UpgradeStep::Probe => "not healthy yet",
        UpgradeStep::Settling => "child is healthy; settling",
        UpgradeStep::Healthy => "child is healthy",
        UpgradeStep::Hook => "running hooks.promote",
        UpgradeStep::Switch => "repointing the symlink of [switch]",
        UpgradeStep::Baking => "it has the traffic and bakes",
        UpgradeStep::Pidfile => "replacing the pidfile",
        UpgradeStep::Other => "it goes on",
    }
}
