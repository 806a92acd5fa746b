//! The state of a service: in full, or as one line.

use super::history::{record, step_in_words, step_of_drain};
use super::{Paint, View, clean, span, wrap};
use crate::config::about;
use crate::control::protocol::{
    OldGeneration, Proxy, ProxyState, Recycle, Relay, ServiceState, Source, Status,
};
use crate::history::{Counts, Outcome, Record, UpgradeStep, requested};
use crate::manager::last_exit::LastExit;
use crate::proxy::Hold;

/// The full state, the most important part first, and the `most` newest upgrades last. Every line ends with a
/// line break.
pub(in crate::cli) fn status(status: &Status, most: usize, view: &View) -> String {
    let mut out = String::new();
    out += &headline(status, view);
    for old in old_generations(status) {
        out += &view.row("draining", &draining(old), Some(Paint::Busy));
    }
    if let (Some(left), Some(upgrade)) = (status.bake_left_ms, &status.upgrade) {
        out += &view.row("baking", &bakes(upgrade, left, status.generation), Some(Paint::Busy));
    } else if let Some(upgrade) = &status.upgrade {
        out += &view.row("upgrade", &under_way(upgrade, status, view.now), Some(Paint::Busy));
    }
    if let Some(hold) = status.hold {
        out += &view.row("held", &held(hold, view), Some(Paint::Busy));
    }
    if status.upgrade_queued {
        let text = match status.bake_left_ms {
            Some(_) => "an upgrade is queued and starts when the bake is over, kept or rolled back",
            None => "an upgrade is queued and starts as soon as possible",
        };
        out += &view.row("waiting", text, Some(Paint::Busy));
    }
    let is_bad = |result| matches!(result, Some(Outcome::Failed | Outcome::RolledBack));
    if let Some(failed) = status.history.last().filter(|last| is_bad(last.result)) {
        let reason = failed.reason.as_deref().map_or_else(|| "it failed".to_owned(), clean);
        let what = if failed.result == Some(Outcome::Failed) { "failed" } else { "was rolled back" };
        let again = failed.result == Some(Outcome::Failed) && failed.waited_ms.is_some();
        let again = if again { ", and the old child was started again" } else { "" };
        // A bake may take hours.
        let ago = view.ago(failed.began_at.saturating_add(failed.took_ms.unwrap_or_default()));
        let text = format!("the last upgrade {what} ({ago}){again}: {reason}");
        out += &view.row("failed", &text, Some(Paint::Bad));
    }
    let slot = if status.slot.is_empty() { String::new() } else { format!(", slot {}", clean(&status.slot)) };
    let started = format!("started {} ({})", view.moment(status.started_at), view.ago(status.started_at));
    out += &view.row(
        "psflip",
        &format!("pid {}, version {}{slot}, {started}", status.pid, clean(&status.version)),
        None,
    );
    if let Some(anchor) = status.anchor {
        out += &view.row("anchor", &format!("pid {anchor}, which no upgrade changes"), None);
    }
    let command = clean(&command(&status.command));
    out += &match status.child {
        Some(child) => view.row("child", &format!("pid {child}: {command}"), None),
        None => view.row("child", &format!("not running: {command}"), Some(Paint::Bad)),
    };
    out += &view.row("health", &clean(&status.health), None);
    for (label, source, what) in [
        ("config", &status.config, "changed since it was read; the next upgrade reads it again"),
        ("program", &status.program, "replaced since it was started; the next upgrade starts the new one"),
    ] {
        if let Some(source) = source {
            out += &source_row(label, source, what, view);
        }
    }
    for source in status.files.iter().flatten().filter(|source| source.changed != Some(false)) {
        out += &source_row("file", source, "changed since the child was started", view);
    }
    for (label, path) in [("pidfile", &status.pidfile), ("control", &status.control)] {
        if let Some(path) = path {
            out += &view.row(label, &clean(path), None);
        }
    }
    for listener in &status.listeners {
        let name = clean(&listener.name);
        let name = if name.is_empty() || name == "unknown" { String::new() } else { format!(" ({name})") };
        out += &view.row("listen", &format!("{}{name}", clean(&listener.address)), None);
    }
    for proxy in &status.proxies {
        let paint = (proxy.errors > 0 || proxy.state == ProxyState::Waiting).then_some(Paint::Busy);
        out += &view.row("proxy", &carried(proxy), paint);
    }
    if let Some(relay) = &status.relay {
        let (text, paint) = relay_row(*relay);
        out += &view.row("relay", &text, paint);
    }
    if let Some(recycle) = &status.recycle {
        let paint = (recycle.failures > 0).then_some(Paint::Bad);
        out += &view.row("recycle", &recycled(recycle), paint);
    }
    if let Some(switch) = &status.switch {
        out += &view.row("switch", &format!("{} -> {}", clean(&switch.path), clean(&switch.to)), None);
    }
    if !status.history.is_empty() && most > 0 {
        out += &format!(
            "\n{}\n",
            view.paint(Paint::Strong, &super::cut(&heading(status, view.width), view.width))
        );
    }
    for upgrade in status.history.iter().rev().take(most) {
        out += &record(upgrade, view);
    }
    let more = status.history.len().saturating_sub(most);
    if more > 0 && most > 0 {
        out += &view.paint(
            Paint::Faint,
            &super::cut(&format!("and {more} more: --last {}", most + more), view.width),
        );
        out.push('\n');
    }
    out
}

/// `recent upgrades (newest first)`, and how many there were if these are not all and there is room.
fn heading(status: &Status, width: usize) -> String {
    let shown = status.history.iter().filter(|record| record.upgrade > 0 && record.result.is_some()).count();
    let all = status.upgrades.filter(|all| all.promoted + all.failed + all.rolled_back > shown as u64);
    let all = all.map_or_else(String::new, |Counts { promoted, failed, rolled_back }| {
        format!("; in all {promoted} promoted, {failed} failed, {rolled_back} rolled back")
    });
    let short = "recent upgrades (newest first)".to_owned();
    Some(format!("recent upgrades (newest first{all})")).filter(|text| text.len() <= width).unwrap_or(short)
}

/// How the service went down, if no psflip runs.
pub(in crate::cli) fn last_exit(exit: &LastExit, view: &View) -> String {
    let text = format!("since {} ({}): {}", view.moment(exit.at), view.ago(exit.at), clean(&exit.reason));
    let psflip = format!("generation {}, pid {}, exited: {}", exit.generation, exit.pid, clean(&exit.end));
    let mut out = view.row("down", &text, Some(Paint::Bad)) + &view.row("psflip", &psflip, None);
    if !exit.stderr.is_empty() {
        out += &view.row("stderr", &clean(&exit.stderr), None);
    }
    if let Some(upgrade) = &exit.upgrade {
        out += &format!("\n{}\n{}", view.paint(Paint::Strong, "last upgrade"), record(upgrade, view));
    }
    if let Some(output) = &exit.output {
        out += &format!("\n{}\n", view.paint(Paint::Strong, "last lines on standard error"));
        for line in output.lines().flat_map(|line| wrap(&clean(line), view.width.saturating_sub(2))) {
            out += &format!("  {line}\n");
        }
    }
    out
}

/// One line: what serves, and what else happens.
pub(in crate::cli) fn summary(status: &Status, now: u64) -> String {
    let mut out = format!("{}: generation {}, pid {}", state(status.state), status.generation, status.pid);
    match status.child {
        Some(child) => out += &format!(", child {child}"),
        None => out += ", no child",
    }
    if let (Some(left), Some(upgrade)) = (status.bake_left_ms, &status.upgrade) {
        out += &format!("; generation {} bakes, {} left", upgrade.to, span(left));
    } else if let Some(upgrade) = &status.upgrade {
        out += &format!("; upgrade {}", under_way_briefly(upgrade, now));
    }
    let last = status.history.last().filter(|_| status.upgrade.is_none());
    match last.and_then(|last| last.result) {
        Some(Outcome::Failed) => out += "; the last upgrade failed",
        Some(Outcome::RolledBack) => out += "; the last upgrade was rolled back",
        _ => {}
    }
    if status.upgrade_queued {
        out += "; one more upgrade waits";
    }
    if let Some(hold) = status.hold {
        out += &format!("; connections held, each request at most {}", span(hold.max_ms));
    }
    for old in old_generations(status) {
        let step = old.step.map_or("it exits", step_of_drain);
        out += &format!("; old pid {} drains: {step}", old.pid);
    }
    out
}

fn headline(status: &Status, view: &View) -> String {
    let (paint, word) = match status.state {
        ServiceState::Serving => (Paint::Good, "serving"),
        ServiceState::Starting => (Paint::Busy, "starting"),
        ServiceState::Upgrading => (Paint::Busy, "upgrading"),
        ServiceState::Stopping => (Paint::Bad, "stopping"),
        ServiceState::Other => (Paint::Strong, "running"),
    };
    let mut text = format!("generation {}", status.generation);
    if let Some(since) = status.active_since {
        text += &format!(" since {} ({})", view.moment(since), span(view.now.saturating_sub(since)));
    }
    // The label is the state and has a colour of its own, so it is painted separately.
    let plain = view.row(word, &text, Some(Paint::Strong));
    let label = format!("{word:<width$}", width = super::LABEL);
    plain.replacen(&view.paint(Paint::Faint, &label), &view.paint(paint, &label), 1)
}

fn source_row(label: &str, source: &Source, what: &str, view: &View) -> String {
    let path = clean(&source.path);
    match source.changed {
        Some(true) => view.row(label, &format!("{path} ({what})"), Some(Paint::Busy)),
        Some(false) => view.row(label, &path, None),
        None => view.row(label, &format!("{path} (not known whether it has changed)"), None),
    }
}

fn held(hold: Hold, view: &View) -> String {
    format!(
        "since {} ({}): no connection is accepted, and requests wait, each at most {}; `psflip resume` lets them go on",
        view.moment(hold.since),
        view.ago(hold.since),
        span(hold.max_ms)
    )
}

/// `tcp://0.0.0.0:8080 -> 127.0.0.1:20411 (http): accepting; open 12, requests 5301, under way 3, errors 0`
fn carried(proxy: &Proxy) -> String {
    let state = match proxy.state {
        ProxyState::Waiting => "not accepting yet",
        ProxyState::Accepting => "accepting",
        ProxyState::Held => "held",
        ProxyState::StandingBy => "stands by",
        ProxyState::Leaving => "accepts no more",
        ProxyState::Other => "running",
    };
    // Where the protocol has no requests, connections are counted.
    let (what, count) = match proxy.protocol.as_str() {
        "tcp" => ("connections", proxy.connections),
        _ => ("requests", proxy.requests),
    };
    let reused = match proxy.reused {
        0 => String::new(),
        reused => format!(" ({reused} on a pooled connection)"),
    };
    format!(
        "{} -> {} ({}): {state}; open {}, {what} {count}{reused}, under way {}, errors {}",
        clean(&proxy.listen),
        clean(&proxy.forward),
        clean(&proxy.protocol),
        proxy.open,
        proxy.under_way,
        proxy.errors
    )
}

fn relay_row(relay: Relay) -> (String, Option<Paint>) {
    let now = relay.pid.map_or_else(|| "is being started again".to_owned(), |pid| format!("pid {pid}"));
    match relay.unexpected_exits {
        0 => (now, None),
        1 => (format!("{now}; exited unexpectedly once, and its connections were lost"), Some(Paint::Bad)),
        times => (
            format!("{now}; exited unexpectedly {times} times, and their connections were lost"),
            Some(Paint::Bad),
        ),
    }
}

/// `in 23 h 12 min, after 1 d 0 h; memory 130M of 478M, next look in 40 s`
fn recycled(recycle: &Recycle) -> String {
    let mut parts = Vec::new();
    match recycle.next_ms {
        Some(0) => parts.push("due as soon as nothing else is under way".to_owned()),
        Some(left) => {
            let after = recycle.after_ms.map(|after| format!(", after {}", span(after)));
            parts.push(format!("in {}{}", span(left), after.unwrap_or_default()));
        }
        None => {}
    }
    if let Some(limit) = recycle.memory_limit {
        let used = recycle.memory.map_or_else(String::new, |used| format!("{} of ", about(used)));
        let look = recycle.look_ms.map(|left| format!(", next look in {}", span(left)));
        parts.push(format!("memory {used}{}{}", about(limit), look.unwrap_or_default()));
    }
    match recycle.failures {
        0 => {}
        1 => parts.push("1 attempt failed".to_owned()),
        failures => parts.push(format!("{failures} attempts failed in a row")),
    }
    parts.join("; ")
}

/// The old generations that drain, the oldest first.
pub(super) fn old_generations(status: &Status) -> impl Iterator<Item = &OldGeneration> {
    status.older.iter().chain(&status.predecessor)
}

fn draining(old: &OldGeneration) -> String {
    let step = old.step.map_or("it exits", step_of_drain);
    let left = old.left_ms.map_or_else(String::new, |left| format!(", {} left", span(left)));
    match old.generation {
        Some(generation) => format!("generation {generation}, psflip {}: {step}{left}", old.pid),
        None => format!("old psflip, pid {}: {step}{left}", old.pid),
    }
}

/// `generation 2 has the traffic, 1 m 40 s left; generation 1 stands by: ...`
fn bakes(upgrade: &Record, left: u64, old: u64) -> String {
    let who = match (upgrade.pid, upgrade.child) {
        (Some(pid), Some(child)) => format!(" (psflip {pid}, child {child})"),
        _ => String::new(),
    };
    format!(
        "generation {}{who} has the traffic, {} left; generation {old} stands by: `psflip rollback` goes back, `psflip keep` ends the bake",
        upgrade.to,
        span(left)
    )
}

fn under_way(upgrade: &Record, status: &Status, now: u64) -> String {
    let mut out = under_way_briefly(upgrade, now);
    if let Some(left) = status.settle_left_ms.or(status.upgrade_left_ms) {
        out += &format!(", {} left", span(left));
    }
    if let Some(probe) = &upgrade.probe {
        out += &format!("; last probe: {}", clean(probe)); // the text contains the number of the probe
    }
    if !upgrade.by.is_empty() {
        out += &format!("; {}", requested(&clean(&upgrade.by)));
    }
    out
}

/// `6 to generation 8, since 3.20 s: child started; waiting until it is healthy`
fn under_way_briefly(upgrade: &Record, now: u64) -> String {
    let step = match upgrade.steps.last().map(|timed| timed.step) {
        None => "it begins",
        Some(UpgradeStep::Baking) => "its bake is over",
        Some(step) => step_in_words(step),
    };
    let since = span(now.saturating_sub(upgrade.began_at));
    format!("{} to generation {}, since {since}: {step}", upgrade.upgrade, upgrade.to)
}

fn state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Starting => "starting",
        ServiceState::Serving => "serving",
        ServiceState::Upgrading => "upgrading",
        ServiceState::Stopping => "stopping",
        ServiceState::Other => "running",
    }
}

/// An argv in the form of a shell command, approximately.
fn command(argv: &[String]) -> String {
    let quoted = argv.iter().map(|argument| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
        if !argument.is_empty() && argument.chars().all(plain) {
            argument.clone()
        } else {
            format!("'{}'", argument.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}
