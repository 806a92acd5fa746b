//! Draws the picture of a demo: all versions on one time axis, and below it the requests that each of them
//! answered.
//!
//! The source is a recording in JSON, so that the README's picture can be drawn again and compared.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::client::Answers;
use crate::{Error, Outcome, repo};

/// The recording and the picture for the README, without their extensions.
const RECORDED: &str = "docs/images/upgrade";

/// The width of a column of requests, in milliseconds.
const COLUMN: u64 = 10;
/// How much time before the first upgrade and after the last one is shown, in milliseconds.
const MARGIN: u64 = 100;

/// Pixels.
const WIDTH: f64 = 880.0;
const LEFT: f64 = 132.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 44.0;
const ROW: f64 = 30.0;
const LANE: f64 = 20.0;
const REQUESTS: f64 = 84.0;

const STYLE: &str = "\
svg{background:#fff;font:13px system-ui,sans-serif}.paper{fill:#fff}text{fill:#1d2733}.faint{fill:#66727f;font-size:11.5px}\
.grid{stroke:#e3e8ed}.start{fill:#a9b7c6}.check{fill:#eeb02c}.drain{opacity:.4}.v0{fill:#34a05f}.v1{fill:#3d7fd0}.v2{fill:#8a63c0}\
.on{fill:#fff;font-size:12px}.bad{fill:#c8322b}.cross{stroke:#c8322b;stroke-width:3}\
@media(prefers-color-scheme:dark){svg{background:#0d1117}.paper{fill:#0d1117}text{fill:#e4e9ee}.faint{fill:#93a0ad}.grid{stroke:#2a323b}\
.start{fill:#66758a}.check{fill:#c98f10}.v0{fill:#2f9457}.v1{fill:#3f7cc4}.v2{fill:#8a67c4}.on{fill:#fff}.bad{fill:#ff6f66}.cross{stroke:#ff6f66}}";

/// Draws the picture into `file`; with `record`, also the README's picture and its recording.
pub(super) fn write(history: &[Value], answers: &Answers, file: &Path, record: bool) -> Outcome {
    let recording = recording(history, answers)?;
    let picture = svg(&recording);
    fs::write(file, &picture)?;
    if record {
        fs::write(recorded("svg"), &picture)?;
        fs::write(recorded("json"), serde_json::to_string(&recording)? + "\n")?;
    }
    Ok(())
}

fn recorded(extension: &str) -> std::path::PathBuf {
    repo::root().join(format!("{RECORDED}.{extension}"))
}

/// Whether the README's picture matches its recording.
///
/// # Errors
/// It does not, or one of the files is missing.
pub(crate) fn check_recorded() -> Outcome {
    let recording: Value = serde_json::from_str(&fs::read_to_string(recorded("json"))?)?;
    if fs::read_to_string(recorded("svg"))? == svg(&recording) {
        return Ok(());
    }
    Err(format!("{RECORDED}.svg is out of date: `cargo xtask demo --record` makes it anew").into())
}

/// The time of an event in a record, in milliseconds since 1970.
fn moment(record: &Value, after_ms: &Value) -> Option<u64> {
    Some(record["began_at"].as_u64()? + after_ms.as_u64()?)
}

fn is_promoted(record: &Value) -> bool {
    record["result"] == "promoted"
}

/// The time of a step of an upgrade, or of the drain after it, in milliseconds since 1970.
fn at(record: &Value, list: &str, step: &str) -> Option<u64> {
    let steps = record[list].as_array()?;
    moment(record, &steps.iter().find(|timed| timed["step"] == step)?["at_ms"])
}

/// The data of the picture: the upgrades with their times, and the answers per column of time and generation.
fn recording(history: &[Value], answers: &Answers) -> Result<Value, Error> {
    let upgrades = || history.iter().filter(|record| record["upgrade"].as_u64() > Some(0));
    let first =
        upgrades().find_map(|record| record["began_at"].as_u64()).ok_or("no upgrade is in the history")?;
    let ends = upgrades()
        .filter_map(|record| at(record, "drain", "gone").or_else(|| moment(record, &record["took_ms"])));
    let last = ends.max().unwrap_or(first);
    let (begin, end) = (first.saturating_sub(MARGIN), last + MARGIN);
    let columns = usize::try_from((end - begin) / COLUMN + 1)?;
    let column =
        |at: u64| usize::try_from(at.checked_sub(begin)? / COLUMN).ok().filter(|column| *column < columns);
    let mut requests = serde_json::Map::new();
    for ((at, name), count) in &answers.answered {
        let Some(column) = column(*at) else { continue };
        let counts = requests.entry(name.clone()).or_insert_with(|| json!(vec![0; columns]));
        counts[column] = (counts[column].as_u64().unwrap_or_default() + u64::from(*count)).into();
    }
    let mut failed = vec![0; columns];
    for (at, _) in &answers.failed {
        if let Some(column) = column(*at) {
            failed[column] += 1;
        }
    }
    Ok(json!({
        "begin": begin, "end": end, "history": history, "requests": requests, "failed": failed,
        "answered_in_all": answers.count(), "failed_in_all": answers.failed.len(),
    }))
}

/// The time axis.
struct Axis {
    begin: u64,
    end: u64,
}

impl Axis {
    fn x(&self, at: u64) -> f64 {
        let share = at.clamp(self.begin, self.end) - self.begin;
        LEFT + (WIDTH - LEFT - RIGHT) * share as f64 / (self.end - self.begin).max(1) as f64
    }
}

/// The picture of a recording.
fn svg(recording: &Value) -> String {
    let number = |key: &str| recording[key].as_u64().unwrap_or_default();
    let axis = Axis { begin: number("begin"), end: number("end") };
    let none = Vec::new();
    let history = recording["history"].as_array().unwrap_or(&none);
    let promoted =
        history.iter().filter(|record| record["upgrade"].as_u64() > Some(0) && is_promoted(record)).count();
    let refused = history.iter().filter(|record| record["result"] == "failed").count();
    let bottom = TOP + ROW * history.len() as f64;
    let height = bottom + REQUESTS + 54.0;
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let title = format!(
        "{} and {}, under load: {} requests, {} failed",
        count(promoted, "upgrade"),
        count(refused, "broken version"),
        number("answered_in_all") + number("failed_in_all"),
        number("failed_in_all")
    );
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n<rect class=\"paper\" width=\"100%\" height=\"100%\"/>\n"
    );
    legend(&mut out);
    grid(&mut out, &axis, bottom + REQUESTS + 8.0);
    for (index, record) in history.iter().enumerate() {
        let later = &history[index + 1..];
        row(&mut out, record, later, TOP + ROW * index as f64, &axis);
    }
    requests(&mut out, recording, &axis, bottom + 8.0);
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{:.1}\">{title}</text>\n</svg>", height - 8.0);
    out
}

fn legend(out: &mut String) {
    let entries =
        [("start", "starts"), ("check", "health check"), ("v0", "serves"), ("v0 drain", "shuts down")];
    let mut x = LEFT;
    for (class, name) in entries {
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{x}\" y=\"14\" width=\"14\" height=\"12\" rx=\"2\"/><text class=\"faint\" x=\"{}\" y=\"24\">{name}</text>",
            x + 20.0
        );
        x += 46.0 + 6.6 * name.len() as f64;
    }
}

/// Draws a line for each tenth of a second, or for each second if the picture covers many.
fn grid(out: &mut String, axis: &Axis, bottom: f64) {
    let length = axis.end - axis.begin;
    let step =
        [100, 200, 500, 1000, 2000, 5000].into_iter().find(|step| length / step <= 10).unwrap_or(10_000);
    for tick in (0..=length / step).map(|number| number * step) {
        let x = axis.x(axis.begin + tick);
        let _ = writeln!(
            out,
            "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"34\" y2=\"{bottom}\"/>\
             <text class=\"faint\" text-anchor=\"middle\" x=\"{x:.1}\" y=\"{}\">{}.{} s</text>",
            bottom + 14.0,
            tick / 1000,
            tick % 1000 / 100
        );
    }
}

/// Draws one version: when it started, was checked, served, and shut down. `later`: the upgrades after it.
fn row(out: &mut String, record: &Value, later: &[Value], y: f64, axis: &Axis) {
    let began = record["began_at"].as_u64().unwrap_or_default();
    let over = moment(record, &record["took_ms"]).unwrap_or(axis.end);
    let generation = record["to"].as_u64().unwrap_or_default();
    let label =
        if is_promoted(record) { format!("generation {generation}") } else { "broken version".to_owned() };
    let _ = writeln!(out, "<text x=\"14\" y=\"{}\">{label}</text>", y + 15.0);
    let child = at(record, "steps", "child").unwrap_or(over);
    bar(out, "start", axis, (began, child.min(over)), y);
    bar(out, "check", axis, (child.min(over), over), y);
    if !is_promoted(record) {
        let (x, y) = (axis.x(over) + 8.0, y + LANE / 2.0);
        let _ = writeln!(
            out,
            "<path class=\"cross\" d=\"M{:.1} {:.1}l10 10m-10 0l10 -10\"/><text class=\"bad\" x=\"{:.1}\" y=\"{:.1}\">{}; nothing changes</text>",
            x - 5.0,
            y - 5.0,
            x + 14.0,
            y + 5.0,
            exit_code(record)
        );
        return;
    }
    let class = format!("v{}", generation.saturating_sub(1) % 3);
    let next = later.iter().find(|record| is_promoted(record));
    let until = next.and_then(|next| moment(next, &next["took_ms"])).unwrap_or(axis.end);
    bar(out, &class, axis, (over, until), y);
    if axis.x(until) - axis.x(over) > 60.0 {
        let _ = writeln!(
            out,
            "<text class=\"on\" x=\"{:.1}\" y=\"{}\">serves</text>",
            axis.x(over) + 8.0,
            y + 14.5
        );
    }
    if let Some(gone) = next.and_then(|next| at(next, "drain", "gone")) {
        bar(out, &format!("{class} drain"), axis, (until, gone), y);
    }
}

/// How the child of a refused version exited, from the recorded reason.
fn exit_code(record: &Value) -> String {
    let reason = record["reason"].as_str().unwrap_or_default();
    let code =
        reason.split_once("exit code ").map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
    code.flatten().map_or_else(|| "crashes".to_owned(), |code| format!("crashes with exit code {code}"))
}

fn bar(out: &mut String, class: &str, axis: &Axis, (from, to): (u64, u64), y: f64) {
    let (from, to) = (axis.x(from), axis.x(to));
    if to > from {
        let _ = writeln!(
            out,
            "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{y}\" width=\"{:.1}\" height=\"{LANE}\" rx=\"2\"/>",
            to - from
        );
    }
}

/// Draws the requests of each column of time: stacked by the generation that answered, and those that failed.
fn requests(out: &mut String, recording: &Value, axis: &Axis, top: f64) {
    let none = serde_json::Map::new();
    let answered = recording["requests"].as_object().unwrap_or(&none);
    let columns = usize::try_from((axis.end - axis.begin) / COLUMN + 1).unwrap_or_default();
    let count = |list: &Value, column: usize| list[column].as_u64().unwrap_or_default();
    let stacks: Vec<Vec<(String, u64)>> = (0..columns)
        .map(|column| {
            let mut stack: Vec<(String, u64)> = answered
                .iter()
                .map(|(name, list)| {
                    let number: u64 = name.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(1);
                    (format!("v{}", number.saturating_sub(1) % 3), count(list, column))
                })
                .collect();
            stack.push(("bad".to_owned(), count(&recording["failed"], column)));
            stack
        })
        .collect();
    let most =
        stacks.iter().map(|stack| stack.iter().map(|(_, count)| count).sum()).max().unwrap_or(1).max(1);
    let floor = top + REQUESTS;
    let _ = writeln!(out, "<text x=\"14\" y=\"{:.1}\">requests</text>", top + REQUESTS / 2.0);
    let _ = writeln!(
        out,
        "<text class=\"faint\" x=\"14\" y=\"{:.1}\">answered by</text>",
        top + REQUESTS / 2.0 + 16.0
    );
    for (column, stack) in (0_u64..).zip(&stacks) {
        let (x, next) = (axis.x(axis.begin + column * COLUMN), axis.x(axis.begin + (column + 1) * COLUMN));
        let mut y = floor;
        for (class, count) in stack.iter().filter(|(_, count)| *count > 0) {
            let height = REQUESTS * *count as f64 / most as f64;
            y -= height;
            let _ = writeln!(
                out,
                "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{height:.1}\"/>",
                (next - x - 0.6).max(0.4)
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_in_the_readme_matches_its_recording() {
        check_recorded().unwrap();
    }

    #[test]
    fn failed_requests_can_be_seen_and_are_counted() {
        let mut recording: Value =
            serde_json::from_str(&fs::read_to_string(recorded("json")).unwrap()).unwrap();
        assert!(svg(&recording).contains(", 0 failed</title>"));
        recording["failed"][7] = json!(2);
        recording["failed_in_all"] = json!(2);
        let picture = svg(&recording);
        assert!(
            picture.contains(", 2 failed</title>") && picture.contains("<rect class=\"bad\""),
            "{picture}"
        );
    }
}
