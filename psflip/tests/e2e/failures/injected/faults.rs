//! Faults for strace(1): the list of them, their injection one at a time, and their outcomes.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use testkit::{Deadline, Process, Running, Sandbox, Signal, Stream, wait_until};

use super::calls::{About, failures};

/// Options with which strace only records the calls.
pub(super) const LOOK: &[&str] = &["-e", "signal=none"];

/// psflip's own first call. Those before it are the dynamic linker's.
pub(super) const FIRST_CALL: &str = "rt_sigprocmask";

/// A call that fails, once or from then on.
#[derive(Debug)]
pub(super) struct Fault {
    call: String,
    number: usize,
    lasting: bool,
    error: &'static str,
}

impl Fault {
    /// The options for strace.
    pub(super) fn options(&self) -> Vec<String> {
        let Self { call, number, lasting, error } = self;
        let onwards = if *lasting { "+" } else { "" };
        let inject = format!("inject={call}:error={error}:when={number}{onwards}");
        let trace = format!("trace={call},{FIRST_CALL}");
        ["-e", "signal=none", "-e", &trace, "-e", &inject].map(str::to_owned).to_vec()
    }

    /// Whether the fault is in one of these calls.
    pub(super) fn is_in(&self, calls: &[&str]) -> bool {
        calls.contains(&self.call.as_str())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let onwards = if self.lasting { " and all later ones fail" } else { " fails" };
        write!(f, "{} number {}{onwards} with {}", self.call, self.number, self.error)
    }
}

/// The output of strace, or an empty string.
pub(super) fn trace(path: &Path) -> String {
    std::fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
}

/// How often a process made each call. For several processes, the highest count.
pub(super) fn calls_in(trace: &str) -> BTreeMap<String, usize> {
    let mut calls: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in trace.lines() {
        // With -f the pid comes first.
        let (pid, rest) =
            line.split_once(' ').filter(|(pid, _)| pid.parse::<u32>().is_ok()).unwrap_or(("", line));
        let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
        if name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_') {
            *calls.entry((pid, name)).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((_, name), count) in calls {
        let known = most.entry(name.to_owned()).or_insert(0);
        *known = count.max(*known);
    }
    assert!(most.values().sum::<usize>() > 2, "strace saw next to nothing:\n{trace}");
    most
}

/// All faults of this kind for a process that made these calls. Each place gets one error, or all of them.
pub(super) fn faults_of(calls: &BTreeMap<String, usize>, about: Option<About>) -> Vec<Fault> {
    let full = std::env::var_os("PSFLIP_MATRIX").is_some_and(|value| value == "full");
    let mut faults = Vec::new();
    for (call, count) in calls {
        let Some((kind, errors)) = failures(call) else { continue };
        if about.is_some_and(|about| about != kind) {
            continue;
        }
        for number in 1..=*count {
            let one = [errors[(number - 1) % errors.len()]];
            let errors = if full { errors } else { &one[..] };
            let fault = |error| Fault { call: call.clone(), number, lasting: false, error };
            faults.extend(errors.iter().map(|error| fault(*error)));
        }
    }
    faults
}

/// The faults that last, for each call: from its first occurrence, with its most likely error. With
/// `PSFLIP_MATRIX=full`, from every occurrence and with every error. EINTR doesn't last.
pub(super) fn lasting_faults_of(calls: &BTreeMap<String, usize>) -> Vec<Fault> {
    let full = std::env::var_os("PSFLIP_MATRIX").is_some_and(|value| value == "full");
    let mut faults = Vec::new();
    for (call, count) in calls {
        let Some((_, errors)) = failures(call) else { continue };
        let errors = errors.iter().filter(|error| **error != "EINTR");
        for error in errors.take(if full { usize::MAX } else { 1 }) {
            let fault = |number| Fault { call: call.clone(), number, lasting: true, error };
            faults.extend((1..=if full { *count } else { 1 }).map(fault));
        }
    }
    faults
}

/// Attaches strace to a running process.
#[track_caller]
pub(super) fn attach(
    sandbox: &Sandbox,
    process: Process,
    trace: &Path,
    options: &[impl AsRef<str>],
) -> Arc<Running> {
    let (pid, trace) = (process.pid().to_string(), trace.to_string_lossy());
    let argv = ["strace", "-o", &trace, "-p", &pid];
    let strace = sandbox.command(argv.into_iter().chain(options.iter().map(AsRef::as_ref))).start();
    strace.output().wait(Stream::Stderr, "attached");
    strace
}

/// Detaches strace from all processes.
#[track_caller]
pub(super) fn end_strace(sandbox: &Sandbox) {
    let is_strace = |process: &Process| process.stat().is_some_and(|stat| stat.name == "strace");
    for process in sandbox.processes().into_iter().filter(is_strace) {
        // SIGKILL, since a strace that psflip started has inherited a full signal mask. The traced processes
        // run on.
        let _ = process.signal(Signal::SIGKILL); // it may just have exited
        wait_until(Deadline::default(), "strace to exit", || (!process.is_alive()).then_some(()));
    }
}

/// The keeper of a generation.
#[track_caller]
pub(super) fn keeper(psflip: Process) -> Process {
    let of = |process: &Process| process.stat().is_some_and(|stat| stat.name.contains("keeper"));
    psflip.children().into_iter().find(of).unwrap_or_else(|| panic!("{psflip} has no keeper"))
}

/// Outcomes of many faults.
#[derive(Debug)]
pub(super) struct Tally {
    name: String,
    outcomes: BTreeMap<&'static str, usize>,
    unreached: usize,
    wrong: Vec<String>,
}

impl Tally {
    pub(super) fn new(name: impl fmt::Display) -> Self {
        Self { name: name.to_string(), outcomes: BTreeMap::new(), unreached: 0, wrong: Vec::new() }
    }

    /// Tries one fault. `test` returns the outcome and the output of strace. False: it panicked.
    pub(super) fn try_one(&mut self, fault: &Fault, test: impl FnOnce() -> (&'static str, String)) -> bool {
        let started = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(test));
        let outcome = result.as_ref().map_or("wrong", |(outcome, _)| outcome);
        let _ = writeln!(std::io::stdout(), "{}: {fault}: {outcome} ({:.0?})", self.name, started.elapsed());
        match &result {
            Ok((_, trace)) if !trace.contains("(INJECTED)") => self.unreached += 1,
            Ok((outcome, _)) => *self.outcomes.entry(outcome).or_default() += 1,
            Err(_) => self.wrong.push(fault.to_string()),
        }
        result.is_ok()
    }

    /// Prints the outcomes.
    ///
    /// # Panics
    /// When a test failed, or when hardly any fault occurred.
    #[track_caller]
    pub(super) fn finish(self) {
        let Self { name, outcomes, unreached, wrong } = self;
        let happened = outcomes.values().sum::<usize>() + wrong.len();
        let _ = writeln!(
            std::io::stdout(),
            "{name}: {happened} faults: {outcomes:?}, {} wrong; {unreached} places were not reached",
            wrong.len()
        );
        assert!(wrong.is_empty(), "{name}:\n{}", wrong.join("\n"));
        assert!(happened > unreached, "{name}: most faults have to happen");
    }
}
