//! Reports: the timeline of a round, the figures of a run, its progress, and everything that is known about a
//! violation.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write as _};
use std::time::{Duration, Instant};

/// A duration for human readers: `0.4 s`, `2 min 05 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 60 {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    format!("{} min {:02} s", whole / 60, whole % 60)
}

/// Why a round was stopped.
#[derive(Debug)]
pub(crate) enum Halt {
    /// An invariant was violated; the observation.
    Violation(String),
    /// A signal requested to stop the run, or its time is over.
    Interrupted,
}

/// The actions of a round, and their times.
#[derive(Debug)]
pub(crate) struct Timeline {
    began: Instant,
    lines: Vec<(Duration, String)>,
}

impl Timeline {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), lines: Vec::new() }
    }

    pub(crate) fn note(&mut self, what: impl Into<String>) {
        self.lines.push((self.began.elapsed(), what.into()));
    }

    /// A time of this round in seconds, as the timeline shows it.
    pub(crate) fn at(&self, moment: Instant) -> f64 {
        moment.saturating_duration_since(self.began).as_secs_f64()
    }
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|(at, what)| writeln!(f, "  {:9.4} {what}", at.as_secs_f64()))
    }
}

/// The figures of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) rounds: u64,
    pub(crate) steps: u64,
    /// Upgrades that psflip started.
    pub(crate) flips: u64,
    pub(crate) promoted: u64,
    /// Failed upgrades, whether expected or caused by an action.
    pub(crate) failed: u64,
    pub(crate) rolled_back: u64,
    /// Old children that were started again after a failed upgrade.
    pub(crate) again: u64,
    pub(crate) starts: u64,
    pub(crate) stops: u64,
    pub(crate) signals: u64,
    pub(crate) frozen: u64,
    pub(crate) edits: u64,
    pub(crate) kills: BTreeMap<String, u64>,
    pub(crate) answered: u64,
    pub(crate) losses: u64,
    /// Answers to status requests.
    pub(crate) told: u64,
    /// Operators' commands.
    pub(crate) orders: u64,
    /// Actions whose target did not exist.
    pub(crate) missed: u64,
}

impl Tally {
    /// The sum of both.
    pub(crate) fn with(&self, other: &Self) -> Self {
        let mut kills = self.kills.clone();
        for (target, count) in &other.kills {
            *kills.entry(target.clone()).or_insert(0) += count;
        }
        Self {
            rounds: self.rounds + other.rounds,
            steps: self.steps + other.steps,
            flips: self.flips + other.flips,
            promoted: self.promoted + other.promoted,
            failed: self.failed + other.failed,
            rolled_back: self.rolled_back + other.rolled_back,
            again: self.again + other.again,
            starts: self.starts + other.starts,
            stops: self.stops + other.stops,
            signals: self.signals + other.signals,
            frozen: self.frozen + other.frozen,
            edits: self.edits + other.edits,
            kills,
            answered: self.answered + other.answered,
            losses: self.losses + other.losses,
            told: self.told + other.told,
            orders: self.orders + other.orders,
            missed: self.missed + other.missed,
        }
    }

    pub(crate) fn kill(&mut self, target: &str) {
        *self.kills.entry(target.to_owned()).or_insert(0) += 1;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rounds, steps, flips, promoted, failed, starts, stops, .. } = self;
        writeln!(f, "  {steps} steps in {rounds} rounds; {starts} starts, {stops} stops")?;
        let Self { rolled_back, again, .. } = self;
        writeln!(
            f,
            "  {flips} upgrades tried: {promoted} promoted, {rolled_back} rolled back, {failed} failed and changed nothing ({again} times the old child was started again)"
        )?;
        let kills: u64 = self.kills.values().sum();
        let targets: Vec<String> =
            self.kills.iter().map(|(target, count)| format!("{target} {count}")).collect();
        writeln!(f, "  {kills} kills: {}", targets.join(", "))?;
        let Self { frozen, signals, edits, missed, .. } = self;
        writeln!(
            f,
            "  {frozen} processes stopped for a while, {signals} other signals, {edits} edits, {} operators' commands; {missed} actions found no process",
            self.orders
        )?;
        writeln!(f, "  {} answers to status requests on the control socket", self.told)?;
        write!(
            f,
            "  {} requests answered correctly, {} lost when a serving generation was killed or replaced by one that does not serve",
            self.answered, self.losses
        )
    }
}

/// Prints a line every 2 seconds on a terminal, otherwise every 10.
pub(crate) struct Progress {
    began: Instant,
    last: Instant,
    on_terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { began: now, last: now, on_terminal: std::io::stdout().is_terminal() }
    }

    pub(crate) fn show(&mut self, seed: u64, tally: &Tally) {
        let pause = Duration::from_secs(if self.on_terminal { 2 } else { 10 });
        if self.last.elapsed() < pause {
            return;
        }
        self.last = Instant::now();
        let kills: u64 = tally.kills.values().sum();
        let line = format!(
            "{:>12}  seed {seed}: {} steps, {} flips ({} promoted), {kills} kills, {} requests, 0 violations",
            seconds(self.began.elapsed()),
            tally.steps,
            tally.flips,
            tally.promoted,
            tally.answered,
        );
        if self.on_terminal {
            print!("\r\x1b[K{line}");
            let _ = std::io::stdout().flush();
        } else {
            println!("{line}");
        }
    }

    /// Ends the line on a terminal.
    pub(crate) fn end(&self) {
        if self.on_terminal {
            println!();
        }
    }
}

/// The report of a violation.
pub(crate) struct Account<'a> {
    pub(crate) what: &'a str,
    pub(crate) seed: u64,
    pub(crate) step: String,
    pub(crate) timeline: &'a Timeline,
    pub(crate) log: &'a str,
    pub(crate) sandbox: &'a str,
}

impl fmt::Display for Account<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        let _ = writeln!(text, "VIOLATION, seed {}, {}:\n  {}", self.seed, self.step, self.what);
        let _ = writeln!(text, "--- timeline (seconds of the round)\n{}", self.timeline);
        let _ = writeln!(
            text,
            "--- output of the service since it was started (seconds since then)\n{}",
            self.log
        );
        let _ = writeln!(text, "{}", self.sandbox);
        let _ = write!(text, "The same steps again: cargo xtask chaos --seed {} --rounds 1", self.seed);
        f.write_str(&text)
    }
}
