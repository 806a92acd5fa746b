//! The recent upgrades as a picture: a Gantt chart in SVG, the newest upgrade first. Each row is one upgrade,
//! with the new generation above the old one.
//!
//! Every row starts at the beginning of its upgrade: upgrades are hours apart, and their phases take
//! milliseconds. Time is linear, but a phase that would be too narrow to see is drawn [`NARROWEST`] wide,
//! which moves the rest of its row to the right.

use std::fmt::Write as _;

use super::history::{at, step_of_drain};
use super::{View, clean, span};
use crate::control::protocol::Status;
use crate::history::{Drain, Outcome, Record, UpgradeStep, requested};

/// Pixels.
const WIDTH: f64 = 1120.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 300.0;
const TOP: f64 = 92.0;
const ROW: f64 = 46.0;
const LANE: f64 = 14.0;
/// The minimum width of a phase.
const NARROWEST: f64 = 3.0;
/// How many characters of a reason fit into a line beside its row.
const REASON: usize = 46;

/// `svg` is the page around the picture in a browser; `paper` is for viewers that ignore the page's
/// background and may have a dark one.
const STYLE: &str = "\
svg{background:#fff;font:13px system-ui,sans-serif}.paper{fill:#fff}text{fill:#1d2733}.faint{fill:#66727f;font-size:11px}.head{font-size:16px;font-weight:600}
.grid{stroke:#e3e8ed}.start{fill:#a9b7c6}.child{fill:#5b95d6}.probing{fill:#eeb02c}.settling{fill:#b9d36b}.promotion{fill:#8a63c0}.bake{fill:#3fb3a6}.serves{fill:#34a05f}
.old{fill:#bfe0cb}.answering{fill:#d8d27a}.delay{fill:#f3cfae}.drain{fill:#e58f5a}.fail{fill:#c8322b}.cross{stroke:#c8322b;stroke-width:2.5}.bad{fill:#c8322b}
@media(prefers-color-scheme:dark){svg{background:#14191f}.paper{fill:#14191f}text{fill:#e4e9ee}.faint{fill:#93a0ad}.grid{stroke:#2a323b}.start{fill:#66758a}
.child{fill:#3f7cc4}.probing{fill:#c98f10}.settling{fill:#6f8a2a}.promotion{fill:#9d78d4}.bake{fill:#2f8f85}.serves{fill:#2f9457}.old{fill:#27523a}.answering{fill:#6f6a24}.delay{fill:#6d4a33}.drain{fill:#c8703a}
.fail,.bad{fill:#ff6f66}.cross{stroke:#ff6f66}}";

/// The legend of the colours: class, name, meaning.
const LEGEND: &[(&str, &str, &str)] = &[
    ("start", "start", "the new psflip is started and reads its configuration"),
    ("child", "child", "the new child is started"),
    ("probing", "probing", "the new child is not healthy yet"),
    ("settling", "settle", "the new child is healthy, and has to stay healthy (settle)"),
    ("promotion", "promotion", "hooks.promote, switch, pidfile, hand-over"),
    ("bake", "bake", "upgrade.bake: the new generation has the traffic on trial"),
    ("serves", "serves", "the new generation is the service"),
    ("old", "old serves", "the old generation is the service"),
    ("answering", "answering", "[[proxy]]: the old generation answers what is under way"),
    ("delay", "delay", "shutdown.delay: the old generation serves its queue before it is stopped"),
    ("drain", "drain", "the old generation shuts down"),
];

/// The picture of a status.
pub(in crate::cli) fn svg(status: &Status, view: &View) -> String {
    let rows: Vec<&Record> = status.history.iter().chain(&status.upgrade).rev().collect();
    let axis = Axis::of(&rows, view.now);
    let height = TOP + ROW * rows.len() as f64 + 34.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n\
         <style>{STYLE}</style>\n<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n"
    );
    let command = status.command.first().map_or_else(String::new, |command| clean(command));
    let title = format!("The recent upgrades of {command}, up to generation {}", status.generation);
    let _ = writeln!(out, "<title>{}</title>", escape(&title));
    let _ = writeln!(out, "<text class=\"head\" x=\"16\" y=\"28\">{}</text>", escape(&title));
    legend(&mut out);
    grid(&mut out, &axis, height);
    for (index, record) in rows.iter().enumerate() {
        row(&mut out, record, TOP + ROW * index as f64, &axis, view);
    }
    out += "</svg>\n";
    out
}

/// Converts milliseconds to pixels.
#[derive(Clone, Copy, Debug)]
struct Axis {
    longest: u64,
}

impl Axis {
    fn of(rows: &[&Record], now: u64) -> Self {
        Self { longest: rows.iter().map(|record| end(record, now)).max().unwrap_or(0).max(10) }
    }

    fn x(&self, ms: u64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * ms.min(self.longest) as f64 / self.longest as f64
    }

    /// The positions of the grid lines.
    fn ticks(&self) -> Vec<u64> {
        let steps = [1, 2, 5].map(|step| (0..9).map(move |power| step * 10_u64.pow(power)));
        let mut steps: Vec<u64> = steps.into_iter().flatten().collect();
        steps.sort_unstable();
        let step = steps.into_iter().find(|step| self.longest / step <= 8).unwrap_or(self.longest);
        (0..=self.longest / step).map(|number| number * step).collect()
    }
}

/// The positions of one row's times: as on the axis, but at least [`NARROWEST`] apart.
struct Scale {
    axis: Axis,
    moments: Vec<(u64, f64)>,
}

impl Scale {
    fn of(record: &Record, axis: Axis, over: u64) -> Self {
        let steps =
            record.steps.iter().filter(|timed| timed.step != UpgradeStep::Probe).map(|timed| timed.at_ms);
        let drain = record.drain.iter().map(|timed| timed.at_ms);
        let mut times: Vec<u64> = steps.chain(drain).chain(record.took_ms).chain([0, over]).collect();
        times.sort_unstable();
        times.dedup();
        let right = WIDTH - RIGHT;
        let mut moments: Vec<(u64, f64)> = Vec::new();
        for at in times {
            let least = moments.last().map_or(LEFT, |(_, x)| x + NARROWEST);
            moments.push((at, axis.x(at).max(least).min(right)));
        }
        Self { axis, moments }
    }

    fn x(&self, ms: u64) -> f64 {
        let known = self.moments.iter().find(|(at, _)| *at == ms);
        known.map_or_else(|| self.axis.x(ms), |(_, x)| *x)
    }
}

/// The end of an upgrade's row, in milliseconds since the upgrade began.
fn end(record: &Record, now: u64) -> u64 {
    let so_far = || now.saturating_sub(record.began_at);
    match record.result {
        None => so_far(),
        Some(Outcome::Promoted) if record.drain.is_empty() => record.took_ms.unwrap_or_default(),
        Some(Outcome::Promoted) => record.drained_ms().unwrap_or_else(so_far),
        Some(_) => record.took_ms.unwrap_or_default(),
    }
}

fn legend(out: &mut String) {
    let mut x = 16.0;
    for (class, name, meaning) in LEGEND {
        let _ = writeln!(
            out,
            "<g><title>{}</title><rect class=\"{class}\" x=\"{x}\" y=\"42\" width=\"14\" height=\"12\" rx=\"2\"/>\
             <text x=\"{}\" y=\"53\">{name}</text></g>",
            escape(meaning),
            x + 19.0
        );
        x += 40.0 + 7.2 * name.len() as f64;
    }
    for (mark, name) in [("fail", "failed"), ("kill", "killed")] {
        *out += "<g>";
        cross(out, x + 7.0, 48.0, mark);
        let _ = writeln!(out, "<text x=\"{}\" y=\"53\">{name}</text></g>", x + 19.0);
        x += 40.0 + 7.2 * name.len() as f64;
    }
}

fn grid(out: &mut String, axis: &Axis, height: f64) {
    let bottom = height - 26.0;
    for tick in axis.ticks() {
        let x = axis.x(tick);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{}\" y2=\"{bottom}\"/>\
             <text class=\"faint\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{}\">{}</text>",
            TOP - 14.0,
            bottom + 15.0,
            if tick == 0 { "0".to_owned() } else { span(tick) }
        );
    }
}

fn row(out: &mut String, record: &Record, y: f64, axis: &Axis, view: &View) {
    let who = record.from.map_or_else(|| "start".to_owned(), |from| format!("generation {from}"));
    let _ = writeln!(
        out,
        "<g><title>{}</title><text x=\"16\" y=\"{}\">#{} {}</text><text class=\"faint\" x=\"16\" y=\"{}\">{}</text></g>",
        escape(&tooltip(record)),
        y + 12.0,
        record.upgrade,
        escape(&format!("{who} \u{2192} {}", record.to)),
        y + 28.0,
        escape(&view.moment(record.began_at))
    );
    let over = end(record, view.now);
    let scale = Scale::of(record, *axis, over);
    let promoted = record.took_ms.filter(|_| record.result == Some(Outcome::Promoted));
    new_generation(out, record, y, &scale, promoted.or(record.took_ms).unwrap_or(over));
    if let Some(promoted) = promoted {
        bar(out, "serves", &scale, (promoted, axis.longest), y, &format!("generation {} serves", record.to));
    }
    if let Some(from) = record.from {
        let lower = y + LANE + 3.0;
        let serves = promoted.unwrap_or(axis.longest);
        bar(out, "old", &scale, (0, serves), lower, &format!("generation {from} serves"));
        old_generation(out, record, lower, &scale, over);
    }
    result(out, record, y);
}

/// The phases up to the promotion, or to the failure.
fn new_generation(out: &mut String, record: &Record, y: f64, scale: &Scale, until: u64) {
    let probes = match (record.failed_probes, &record.probe) {
        (0, _) => String::new(),
        (1, None) => ", 1 probe failed".to_owned(),
        (failed, None) => format!(", {failed} probes failed"),
        (1, Some(probe)) => format!(", 1 probe failed ({})", clean(probe)),
        (failed, Some(probe)) => format!(", {failed} probes failed, the last one: {}", clean(probe)),
    };
    let promotion =
        if at(record, UpgradeStep::Hook).is_some() { "promotion, with hooks.promote" } else { "promotion" };
    let prepared = at(record, UpgradeStep::Prepared);
    let starts = match prepared {
        Some(_) => at(record, UpgradeStep::GaveWay),
        None => at(record, UpgradeStep::Starting),
    };
    let phases = [
        ("start", Some(0), "the new psflip starts".to_owned()),
        ("start", prepared, "waits until the old child is gone".to_owned()),
        ("child", starts, "its child starts".to_owned()),
        ("probing", at(record, UpgradeStep::Child), format!("probing{probes}")),
        ("settling", at(record, UpgradeStep::Settling), "settling".to_owned()),
        ("promotion", at(record, UpgradeStep::Healthy), promotion.to_owned()),
        ("bake", at(record, UpgradeStep::Baking), "bake".to_owned()),
    ];
    let reached: Vec<(&str, u64, &String)> =
        phases.iter().filter_map(|(class, at, text)| Some((*class, (*at)?, text))).collect();
    for (index, (class, from, text)) in reached.iter().enumerate() {
        let to = reached.get(index + 1).map_or(until, |(_, next, _)| *next);
        bar(out, class, scale, (*from, to), y, &format!("{text}: {}", span(to.saturating_sub(*from))));
    }
    if matches!(record.result, Some(Outcome::Failed | Outcome::RolledBack)) {
        let _ = write!(out, "<g><title>{}</title>", escape(&tooltip(record)));
        cross(out, scale.x(until), y + LANE / 2.0, "fail");
        *out += "</g>\n";
    }
}

/// How the old generation shuts down.
fn old_generation(out: &mut String, record: &Record, y: f64, scale: &Scale, over: u64) {
    for (index, timed) in record.drain.iter().enumerate().filter(|(_, timed)| timed.step != Drain::Gone) {
        let to = record.drain.get(index + 1).map_or(over, |next| next.at_ms);
        let text = format!("{}: {}", step_of_drain(timed.step), span(to.saturating_sub(timed.at_ms)));
        let class = match timed.step {
            Drain::Answering => "answering",
            Drain::Delay => "delay",
            _ => "drain",
        };
        bar(out, class, scale, (timed.at_ms, to), y, &text);
    }
    for timed in &record.drain {
        if matches!(timed.step, Drain::Killed | Drain::OrphansKilled) {
            let _ = write!(out, "<g><title>{}</title>", step_of_drain(timed.step));
            cross(out, scale.x(timed.at_ms), y + LANE / 2.0, "kill");
            *out += "</g>\n";
        }
    }
}

/// The result, beside the row. A reason gets two lines: what failed, and the exit code or signal.
fn result(out: &mut String, record: &Record, y: f64) {
    let x = WIDTH - RIGHT + 14.0;
    let took = record.took_ms.map_or_else(String::new, |took| format!(" after {}", span(took)));
    let (class, head, below) = match record.result {
        Some(Outcome::Promoted) => {
            let drained =
                record.drained_ms().zip(record.took_ms).map(|(gone, took)| gone.saturating_sub(took));
            let killed = if record.killed() { ", killed" } else { "" };
            let below =
                drained.map_or_else(String::new, |ms| format!("old one gone {} later{killed}", span(ms)));
            ("", format!("promoted{took}"), vec![below])
        }
        Some(result @ (Outcome::Failed | Outcome::RolledBack)) => {
            let reason = record.reason.as_deref().map_or_else(String::new, clean);
            let mut lines = super::wrap(&reason, REASON);
            if lines.len() > 2 {
                lines[1] = super::cut(&format!("{} {}", lines[1], lines[2]), REASON).replace('~', "\u{2026}");
                lines.truncate(2);
            }
            let what = if result == Outcome::Failed { "failed" } else { "rolled back" };
            ("bad", format!("{what}{took}"), lines)
        }
        _ => ("", "under way".to_owned(), Vec::new()),
    };
    let _ = writeln!(
        out,
        "<g><title>{}</title><text class=\"{class}\" x=\"{x}\" y=\"{}\">{}</text>",
        escape(&tooltip(record)),
        y + 8.0,
        escape(&head)
    );
    for (number, line) in below.iter().enumerate() {
        let y = y + 21.0 + 12.0 * number as f64;
        let _ = writeln!(out, "<text class=\"faint\" x=\"{x}\" y=\"{y}\">{}</text>", escape(line));
    }
    *out += "</g>\n";
}

/// The details of an upgrade.
fn tooltip(record: &Record) -> String {
    let mut lines = Vec::new();
    if let Some(reason) = &record.reason {
        lines.push(clean(reason));
    }
    if let Some(probe) = &record.probe {
        lines.push(format!("last failed probe: {}", clean(probe)));
    }
    if !record.by.is_empty() {
        lines.push(requested(&clean(&record.by)));
    }
    for (what, pid) in [("psflip", record.pid), ("child", record.child)] {
        if let Some(pid) = pid {
            lines.push(format!("{what} {pid}"));
        }
    }
    lines.join("\n")
}

/// A bar in one colour.
fn bar(out: &mut String, class: &str, scale: &Scale, (from, to): (u64, u64), y: f64, title: &str) {
    let (from, to) = (scale.x(from), scale.x(to));
    let _ = writeln!(
        out,
        "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{LANE}\"><title>{}</title></rect>",
        (to - from).max(1.0),
        escape(title)
    );
}

/// `fail`: a cross; `kill`: a cross with a bar through it, to distinguish them without colour.
fn cross(out: &mut String, x: f64, y: f64, kind: &str) {
    let (left, right, above, below) = (x - 5.0, x + 5.0, y - 5.0, y + 5.0);
    let bar = if kind == "kill" { format!("M{x:.1} {above:.1}V{below:.1}") } else { String::new() };
    let _ = write!(
        out,
        "<path class=\"cross\" d=\"M{left:.1} {above:.1}L{right:.1} {below:.1}M{right:.1} {above:.1}L{left:.1} {below:.1}{bar}\"/>"
    );
}

/// Escapes text for XML.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}
