//! A running upgrade: the lines to print for every event, and the status line.

use super::history::step_in_words;
use super::{Paint, View, clean, cut, span, wrap};
use crate::control::protocol::Event;
use crate::history::UpgradeStep;
use crate::text;

/// The state of the upgrade that the command waits for.
#[derive(Clone, Debug, Default)]
pub(in crate::cli) struct Progress {
    upgrade: Option<u64>,
    /// The current activity.
    now: String,
    /// When the upgrade began, in milliseconds of the client's clock.
    began: Option<u64>,
    probe: Option<String>,
    /// The new generation has the traffic on trial.
    bakes: bool,
}

impl Progress {
    /// Handles an event. Returns the permanent lines, each without its line break. With `live`, only
    /// [`Progress::live`] shows the steps.
    pub(in crate::cli) fn on(&mut self, event: &Event, live: bool, view: &View) -> Vec<String> {
        match event {
            Event::Accepted { upgrade, because } => {
                self.upgrade = Some(*upgrade);
                match because {
                    Some(because) => {
                        self.now = format!("waits: {}", clean(because));
                        vec![format!("upgrade {upgrade} is queued: {}", clean(because))]
                    }
                    None => vec![],
                }
            }
            Event::Step { upgrade, step, at_ms, pid, child, probe, left_ms } => {
                if self.upgrade.is_some_and(|ours| ours != *upgrade) {
                    return vec![];
                }
                self.upgrade = Some(*upgrade);
                self.began = Some(view.now.saturating_sub(*at_ms));
                let lines = self.step(*step, (*pid, *child), probe.as_deref(), *left_ms, view);
                if live {
                    return vec![];
                }
                let time = std::iter::once(seconds(*at_ms)).chain(std::iter::repeat(String::new()));
                time.zip(lines).map(|(time, line)| format!("{time:>9}  {line}")).collect()
            }
            Event::Warning { text, .. } => {
                let lines = wrap(&format!("warning: {}", clean(text)), view.width);
                lines.iter().map(|line| view.paint(Paint::Busy, line)).collect()
            }
            Event::Baking { generation, bake_ms, .. } => {
                self.now = format!("generation {generation} bakes");
                self.bakes = true;
                self.began = Some(view.now);
                self.probe = None;
                let head = format!(
                    "generation {generation} has the traffic and bakes for {}; `psflip rollback` goes back",
                    span(*bake_ms)
                );
                vec![view.paint(Paint::Good, &head)]
            }
            Event::Promoted { generation, pid, child, took_ms, waited_ms, .. } => {
                "the old generation drains".clone_into(&mut self.now);
                self.began = None;
                self.probe = None;
                let who = who(*pid, *child);
                let waited =
                    waited_ms.map_or_else(String::new, |waited| format!("; clients waited {}", span(waited)));
                let head =
                    format!("generation {generation} is active{who}, after {}{waited}", span(*took_ms));
                vec![view.paint(Paint::Good, &head)]
            }
            Event::Drained { killed, .. } => {
                let how = if *killed { ", and had to be killed" } else { "" };
                vec![format!("the old generation is gone{how}")]
            }
            Event::Stopping { child, timeout_ms, .. } => {
                self.began = Some(view.now);
                self.now = format!("waiting for the child to exit, {} at most", span(*timeout_ms));
                // Without a child, the old generation still drains, or the new child is not started yet.
                vec![child.map_or_else(
                    || "psflip is stopping".to_owned(),
                    |child| {
                        format!(
                            "the child (pid {child}) was sent the stop signal; it has {}",
                            span(*timeout_ms)
                        )
                    },
                )]
            }
            Event::Waiting { predecessor } => {
                self.began = Some(view.now);
                "waiting for the old generation, which still drains".clone_into(&mut self.now);
                let who = who(Some(predecessor.pid), None);
                let which = predecessor
                    .generation
                    .map_or("the old generation".to_owned(), |generation| format!("generation {generation}"));
                vec![format!("the child has exited; waiting for {which}{who}, which still drains")]
            }
            _ => vec![],
        }
    }

    /// The name of a step, wrapped beside its time; nothing if it is already printed.
    fn step(
        &mut self,
        step: UpgradeStep,
        (pid, child): (Option<u32>, Option<u32>),
        probe: Option<&str>,
        left: Option<u64>,
        view: &View,
    ) -> Vec<String> {
        let fails_in_bake = self.bakes && step == UpgradeStep::Probe;
        let words = if fails_in_bake { "the health check fails" } else { step_in_words(step) };
        if !fails_in_bake {
            words.clone_into(&mut self.now);
            self.bakes = false;
        }
        let mut detail = String::new();
        match (step, probe) {
            (UpgradeStep::Probe, Some(probe)) => {
                let same =
                    self.probe.as_deref().is_some_and(|last| without_number(last) == without_number(probe));
                self.probe = Some(probe.to_owned());
                if same {
                    return vec![]; // the same failure is printed once
                }
                detail = format!(": {}", clean(probe));
            }
            (UpgradeStep::Spawned, _) => detail = who(pid, None),
            (UpgradeStep::Child, _) => detail = who(None, child),
            (UpgradeStep::Settling, _) => {
                self.probe = None;
                detail = left.map_or_else(String::new, |left| format!(" for {}", span(left)));
                self.now += &detail;
            }
            (UpgradeStep::Healthy, _) => self.probe = None,
            _ => {}
        }
        wrap(&format!("{words}{detail}"), view.width.saturating_sub(11))
    }

    /// The status line, at most `view.width` wide.
    pub(in crate::cli) fn live(&self, view: &View) -> String {
        let number = self.upgrade.map_or_else(String::new, |upgrade| format!("upgrade {upgrade}: "));
        let since = self.began.map_or_else(String::new, |began| {
            format!(" ({})", span(view.now.saturating_sub(began) / 100 * 100))
        });
        let probe = self.probe.as_deref().map_or_else(String::new, |probe| format!(": {}", clean(probe)));
        cut(&format!("{number}{}{since}{probe}", self.now), view.width.saturating_sub(1))
    }
}

/// The failure of an upgrade, as lines. `look` says where to read more.
pub(in crate::cli) fn failure(event: &Event, look: &[String], view: &View) -> String {
    let Event::Failed { upgrade, generation, reason, rolled_back, output, child, waited_ms, .. } = event
    else {
        return String::new();
    };
    let serves = match child {
        Some(child) if waited_ms.is_some() => {
            let waited = span(waited_ms.unwrap_or_default());
            format!("the old child was started again (pid {child}); clients waited {waited}")
        }
        Some(child) => format!("the old child (pid {child}) keeps running"),
        None => "no child is left".to_owned(),
    };
    let what = if *rolled_back { "was rolled back" } else { "failed" };
    let head = format!("upgrade {upgrade} to generation {generation} {what}; {serves}");
    let mut out = view.paint(Paint::Bad, &head) + "\n";
    out += &view.row("reason", &clean(reason), None);
    let output: Vec<&str> =
        output.as_deref().unwrap_or_default().lines().filter(|line| !text::is_of_psflips_log(line)).collect();
    if !output.is_empty() {
        out += &view.paint(Paint::Faint, "written to standard error meanwhile:");
        out.push('\n');
        for line in output {
            for part in wrap(&clean(line), view.width.saturating_sub(2)) {
                out += &format!("  {part}\n");
            }
        }
    }
    for place in look {
        out += &view.row("see", place, None);
    }
    out
}

/// `probe 7 failed: refused` without its number.
fn without_number(probe: &str) -> &str {
    let rest = probe.strip_prefix("probe ").map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    rest.and_then(|rest| rest.strip_prefix(" failed: ")).unwrap_or(probe)
}

/// ` (psflip 12, child 13)`
fn who(pid: Option<u32>, child: Option<u32>) -> String {
    match (pid, child) {
        (Some(pid), Some(child)) => format!(" (psflip {pid}, child {child})"),
        (Some(pid), None) => format!(" (pid {pid})"),
        (None, Some(child)) => format!(" (pid {child})"),
        (None, None) => String::new(),
    }
}

/// `0.123 s`
fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}
