//! The terminal: a line for each upgrade while the rehearsal runs, and a summary.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use super::{Report, Result as UpgradeResult, Upgrade};

/// The findings that the summary shows; the report has all.
const MOST_FINDINGS: usize = 5;

/// What clients saw of each finding.
const MOST_SEEN: usize = 3;

/// Standard error, while the rehearsal runs.
#[derive(Debug)]
pub(crate) struct Progress {
    is_terminal: bool,
    has_state: bool,
    waiting: Waiting,
}

/// What is waited for, since when, and after what time the next line about it is due.
#[derive(Debug)]
struct Waiting {
    what: &'static str,
    since: Instant,
    due: Duration,
}

/// The first line about a wait comes after this time; the next one after twice the time, and so on.
const FIRST_LINE: Duration = Duration::from_secs(2);

impl Progress {
    pub(crate) fn new() -> Self {
        let waiting = Waiting { what: "", since: Instant::now(), due: FIRST_LINE };
        Self { is_terminal: io::stderr().is_terminal(), has_state: false, waiting }
    }

    /// Begins to wait for something. [`Progress::still_waiting`] reports it while that takes long.
    pub(crate) fn wait(&mut self, what: &'static str) {
        self.waiting = Waiting { what, since: Instant::now(), due: FIRST_LINE };
        self.state(what);
    }

    /// `last`: the service's last line of log.
    pub(crate) fn still_waiting(&mut self, last: impl FnOnce() -> Option<String>) {
        let Waiting { what, since, due } = self.waiting;
        let elapsed = since.elapsed();
        if self.is_terminal && elapsed.as_secs() > 0 {
            self.state(&format!("{what} ({} s)", elapsed.as_secs()));
        } else if !self.is_terminal && elapsed >= due {
            self.waiting.due = due * 2;
            let last = last().map_or_else(String::new, |line| format!("; its last line: {line}"));
            self.line(&format!("still {what} after {} s{last}", elapsed.as_secs()));
        }
    }

    /// A line that stays.
    pub(crate) fn line(&mut self, text: &str) {
        self.clear();
        let _ = writeln!(io::stderr(), "{text}");
    }

    /// What happens now: on a terminal, the next call writes over it.
    pub(crate) fn state(&mut self, text: &str) {
        if self.is_terminal {
            let short: String = text.chars().take(79).collect();
            let _ = write!(io::stderr(), "\r\x1b[K{short}");
            self.has_state = true;
        }
    }

    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.has_state) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }

    /// An upgrade is over.
    pub(crate) fn upgrade(&mut self, label: &str, upgrade: &Upgrade, requests: u64, lost: usize) {
        self.line(&upgrade_line(label, upgrade, requests, lost));
    }
}

fn upgrade_line(label: &str, upgrade: &Upgrade, requests: u64, lost: usize) -> String {
    let (first, last) = upgrade.span();
    let since = |step: &str| upgrade.at(step).map(|at| format!("{:.0} ms", at - first));
    let mut line = format!("{label:>7}  {:<10}", upgrade.version.name());
    match &upgrade.result {
        UpgradeResult::Promoted => {
            let took = since("promoted").unwrap_or_default();
            let _ = write!(line, "  active after {took:>8}");
            if let Some(gone) = since("gone") {
                let _ = write!(line, ", old gone after {gone:>8}");
            }
        }
        UpgradeResult::Failed { reason, rolled_back } => {
            let word = if *rolled_back { "rolled back" } else { "refused" };
            let _ = write!(
                line,
                "  {word} after {:>8.0} ms ({})",
                last - first,
                reason.lines().next().unwrap_or_default()
            );
        }
    }
    let _ = write!(line, "   {} requests, {}", thousands(requests), lost_text(lost as u64));
    line
}

fn lost_text(lost: u64) -> String {
    if lost == 0 { "none lost".to_owned() } else { format!("{} lost", thousands(lost)) }
}

/// `1234567` as `1,234,567`.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// About ten lines: the verdict first, then the numbers, then what to do.
pub(crate) fn summary(report: &Report) -> String {
    let mut out = String::new();
    let verdict = if report.failures.is_empty() { "passed" } else { "FAILED" };
    let good = report.upgrades.iter().filter(|upgrade| upgrade.is_good()).count();
    let bad = report.upgrades.len() - good;
    let _ = write!(
        out,
        "{verdict}: {} of {} requests lost over {good} upgrades",
        thousands(report.lost),
        thousands(report.requests)
    );
    let _ = match bad {
        0 => writeln!(out),
        1 => writeln!(out, " and 1 bad version"),
        _ => writeln!(out, " and {bad} bad versions"),
    };
    report.failures.iter().for_each(|failure| {
        let _ = writeln!(out, "  ! {failure}");
    });
    for load in &report.loads {
        let latency = load.latency;
        let _ = writeln!(
            out,
            "  {:<10} {:<40} {:>3} clients {:>10} requests {:>6} lost   p50 {} p99 {} max {}",
            load.kind.name(),
            load.url,
            load.clients,
            thousands(load.requests),
            thousands(load.lost),
            time(latency.p50_ms),
            time(latency.p99_ms),
            time(latency.max_ms)
        );
    }
    let _ = writeln!(
        out,
        "  p99 during upgrades {}, between them {}; the load itself was late by {} (p99); {:.0} requests/s",
        time(worst_p99(report)),
        time(report.steady.p99_ms),
        time(report.own_delay.p99_ms),
        report.rate
    );
    growth(report, &mut out);
    for finding in report.findings.iter().take(MOST_FINDINGS) {
        let _ = writeln!(out, "  {} lost: {}", thousands(finding.count as u64), finding.why);
        let _ = writeln!(out, "      do: {} ({})", finding.remedy, finding.page);
        for seen in finding.seen.iter().take(MOST_SEEN) {
            let _ = writeln!(out, "      {:>6} x {}", thousands(seen.count as u64), seen.what);
        }
        if finding.seen.len() > MOST_SEEN {
            let _ = writeln!(out, "             and {} others", finding.seen.len() - MOST_SEEN);
        }
    }
    if report.findings.len() > MOST_FINDINGS {
        let _ = writeln!(
            out,
            "  and {} other findings: see the report (--out DIR, --json)",
            report.findings.len() - MOST_FINDINGS
        );
    }
    report.left.iter().for_each(|process| {
        let _ = writeln!(out, "  left: {} {}", process.pid, process.command);
    });
    out
}

fn worst_p99(report: &Report) -> Option<f64> {
    report.upgrades.iter().filter_map(|upgrade| upgrade.latency.p99_ms).reduce(f64::max)
}

fn time(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 10.0 => format!("{ms:.2} ms"),
        Some(ms) if ms < 1000.0 => format!("{ms:.0} ms"),
        Some(ms) => format!("{:.1} s", ms / 1e3),
    }
}

/// Memory and descriptors, after the first upgrade and after the last: a leak shows.
fn growth(report: &Report, out: &mut String) {
    let good: Vec<&Upgrade> = report.upgrades.iter().filter(|upgrade| upgrade.is_good()).collect();
    let (Some(first), Some(last)) = (good.first(), good.last()) else { return };
    if let Some(most) = good.iter().map(|upgrade| upgrade.peak_memory_kb).max() {
        let _ = writeln!(
            out,
            "  memory of all its processes during an upgrade: at most {:.1} MB",
            most as f64 / 1024.0
        );
    }
    if good.len() < 2 || first.child.processes == 0 {
        return;
    }
    let mb = |kb: u64| kb as f64 / 1024.0;
    let mut one = |name: &str, a: crate::service::processes::Usage, b: crate::service::processes::Usage| {
        if a.processes > 0 {
            let _ = writeln!(
                out,
                "  {name}: {:.1} MB and {} descriptors after the first upgrade, {:.1} MB and {} after the last",
                mb(a.memory_kb),
                a.descriptors,
                mb(b.memory_kb),
                b.descriptors
            );
        }
    };
    one("psflip", first.psflip, last.psflip);
    one("child", first.child, last.child);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_have_separators() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(1234), "1,234");
        assert_eq!(thousands(123_456_789), "123,456,789");
    }
}
