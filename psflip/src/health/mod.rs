//! Health checks: how psflip finds out whether its child is healthy (contract H1 to H4).
//!
//! A [`Checker`] is one health check of one child, driven by psflip's main loop. It never blocks and has no
//! thread. After every call it says which descriptor and which timer it waits for. `pace` decides when a
//! probe is due. One file for each kind of check defines its probe (`Probe`), and how to finish a probe that
//! has no result at once (`Attempt`).
//!
//! With `settle`, the probes go on until the child has been healthy for that long (H6). The runtime measures
//! this time, and calls [`Checker::settle_is_over`].
//!
//! If the child exits, nothing is waited for any more (H3): the runtime then drops the checker, which
//! aborts a probe in progress.

mod alive;
mod command;
mod connect;
mod docker;
mod exchange;
mod fcgi;
mod http;
mod notify;
mod pace;
mod response;
mod tcp;
mod unix;

#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use crate::config::{Health, Pace};
use crate::sys::early::SignalSetup;

pub use notify::{Notifications, NotifyUpdate};
use pace::{Due, Next, Outcome, Pacing};

/// What a probe may know about the child.
#[derive(Clone, Debug)]
pub struct ChildInfo {
    /// Its pid, for `PSFLIP_CHILD_PID`.
    pub pid: u32,
    /// The environment that it was started with.
    pub envp: Rc<[CString]>,
    /// The directory that it was started in; `None`: psflip's own. May be relative to psflip's own.
    pub workdir: Option<PathBuf>,
    /// The signal state that it was started with.
    pub signals: SignalSetup,
    /// The old psflips, whose children still serve. An answer of one of them proves nothing about this child.
    pub old_psflips: Vec<u32>,
}

/// What to wait for on a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Until it is readable.
    Read,
    /// Until it is writable.
    Write,
}

/// What to do with the checker's timer. A checker has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Leave it as it is.
    Keep,
    /// Let it expire once, this long from now. Never zero for a valid configuration.
    Set(Duration),
    /// Switch it off.
    Off,
}

/// The state of the check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Undecided.
    Open,
    /// The child became healthy by this call. With `settle`, it has to stay healthy.
    Healthy,
    /// The child was healthy, and is not any more by this call. It may become healthy again.
    Unhealthy,
    /// The child has stayed healthy for `settle`.
    Settled,
    /// The child can't become healthy any more; [`Checker::last_failure`] has the reason.
    Never,
}

/// The result of a call of a [`Checker`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// Nothing but [`Verdict::Open`] follows [`Verdict::Settled`], [`Verdict::Never`], or, without `settle`,
    /// [`Verdict::Healthy`].
    pub verdict: Verdict,
    /// What to do with the timer.
    pub timer: Timer,
}

impl CheckResult {
    const NOTHING: Self = Self { verdict: Verdict::Open, timer: Timer::Keep };
}

/// One health check of one child. Dropping it aborts the probe in progress and kills all its processes.
pub struct Checker {
    child: ChildInfo,
    pacing: Pacing,
    probe: Box<dyn Probe>,
    attempt: Option<Box<dyn Attempt>>,
    last_failure: Option<String>,
}

/// One kind of health check.
trait Probe {
    /// Begins one probe.
    ///
    /// # Errors
    /// The probe failed at once: the reason, as text for the log.
    fn begin(&self, child: &ChildInfo) -> Result<Begun, Why>;
}

/// Why a probe failed.
#[derive(Debug, PartialEq, Eq)]
struct Why {
    /// For the log.
    text: String,
    /// It could not reach anything: nothing listens there.
    is_unreachable: bool,
}

impl From<String> for Why {
    fn from(text: String) -> Self {
        Self { text, is_unreachable: false }
    }
}

/// How a probe began, if it did not fail.
enum Begun {
    /// It is complete: the child is healthy.
    Healthy,
    /// It has no result yet.
    Pending(Box<dyn Attempt>),
}

/// One probe in progress. Dropping it releases everything that it holds, including processes.
trait Attempt {
    /// What to wait for. It may change with every [`Attempt::advance`].
    fn watch(&self) -> (BorrowedFd<'_>, Interest);
    /// Proceeds as far as possible without waiting. May be called at any time, even if nothing is ready.
    fn advance(&mut self) -> Progress;
    /// The error message for the log if it takes longer than `limit`.
    fn overdue(&self, limit: Duration) -> String;
}

/// The progress of a probe.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// It has no result yet.
    Pending,
    /// The child is healthy.
    Healthy,
    /// The probe failed, for this reason.
    Failed(Why),
    /// The probe failed, and all further ones would fail too.
    Hopeless(String),
}

impl From<Result<bool, Why>> for Progress {
    fn from(done: Result<bool, Why>) -> Self {
        match done {
            Ok(false) => Self::Pending,
            Ok(true) => Self::Healthy,
            Err(why) => Self::Failed(why),
        }
    }
}

impl Checker {
    /// A check that has not begun. Starts and opens nothing. `None`: this kind has no probes, because the
    /// child itself reports that it is healthy (see [`Notifications`]).
    #[must_use]
    pub fn new(health: &Health, child: ChildInfo) -> Option<Self> {
        let (probe, pace): (Box<dyn Probe>, Pace) = match health {
            Health::Alive { timeout } => (Box::new(alive::Alive), alive::pace(*timeout)),
            Health::Command { cmd, pace } => (Box::new(command::Command::new(cmd)), pace.clone()),
            Health::Tcp { addresses, pace, .. } => (Box::new(tcp::Tcp::new(addresses)), pace.clone()),
            Health::Unix { path, pace } => (Box::new(unix::Unix::new(path)), pace.clone()),
            Health::Http { request, status, pace } => {
                (Box::new(http::Http::new(request, status)), pace.clone())
            }
            Health::Fcgi { request, status, pace } => {
                (Box::new(fcgi::Fcgi::new(request, status)), pace.clone())
            }
            Health::Docker { container, socket, pace } => {
                (Box::new(docker::Docker::new(container, socket)), pace.clone())
            }
            Health::Notify { .. } => return None,
        };
        // The others start a process, or ask another program.
        let is_quick = matches!(
            health,
            Health::Tcp { .. } | Health::Unix { .. } | Health::Http { .. } | Health::Fcgi { .. }
        );
        let pacing = if is_quick { Pacing::quick(pace) } else { Pacing::new(pace) };
        Some(Self { child, pacing, probe, attempt: None, last_failure: None })
    }

    /// A check that goes on for as long as it lives: [`Verdict::Never`] follows `failures` in a row. `None`:
    /// this kind has no probes that could fail while the child lives.
    #[must_use]
    pub fn watching(health: &Health, child: ChildInfo) -> Option<Self> {
        if matches!(health, Health::Alive { .. }) {
            return None;
        }
        let mut checker = Self::new(health, child)?;
        checker.pacing.watch();
        Some(checker)
    }

    /// Begins the check. Call it once, right after the child's exec and before anything else.
    pub fn start(&mut self) -> CheckResult {
        let next = self.pacing.start();
        self.follow(next)
    }

    /// Call it when the descriptor of [`Checker::watch`] is ready. Harmless if it isn't,
    /// or if there is none any more.
    pub fn on_ready(&mut self) -> CheckResult {
        match self.attempt.as_mut().map(|attempt| attempt.advance()) {
            None | Some(Progress::Pending) => CheckResult::NOTHING,
            Some(Progress::Healthy) => self.on_probe_result(Ok(())),
            Some(Progress::Failed(why)) => self.on_probe_result(Err(why)),
            Some(Progress::Hopeless(why)) => self.give_up(&why),
        }
    }

    /// Call it when the timer of the last [`CheckResult`] expires.
    pub fn on_timer(&mut self) -> CheckResult {
        match self.pacing.timer() {
            Due::Probe => self.begin_probe(),
            Due::End(limit) => self.time_out_probe(limit),
            Due::Nothing => CheckResult::NOTHING,
        }
    }

    /// Call it when the child has been healthy for `settle`. One more probe decides: a new one, or one that
    /// is in progress.
    pub fn settle_is_over(&mut self) -> CheckResult {
        if self.pacing.settle_is_over() { self.begin_probe() } else { CheckResult::NOTHING }
    }

    /// What to wait for now, level-triggered. `None`: only for the timer.
    ///
    /// This may change with every call of the methods above. A descriptor that is no longer returned is
    /// closed by then (epoll(7) has removed it), and another descriptor may already have its number. So the
    /// registration must be renewed after every such call, even for the same number.
    #[must_use]
    pub fn watch(&self) -> Option<(BorrowedFd<'_>, Interest)> {
        self.attempt.as_ref().map(|attempt| attempt.watch())
    }

    /// Why the last failed probe failed (contract H4), for example
    /// `probe 3 failed: connect to 127.0.0.1:80: Connection refused (os error 111)`. While the first probe is
    /// in progress, this says that there is no answer yet.
    #[must_use]
    pub fn last_failure(&self) -> Option<&str> {
        let waiting = self.attempt.as_ref().map(|_| "the first probe had no answer yet");
        self.failed().or(waiting.filter(|_| self.pacing.probes() == 1))
    }

    /// As [`Checker::last_failure`], but only for a probe that has ended.
    #[must_use]
    pub fn failed(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// How many probes were begun.
    #[must_use]
    pub fn probes(&self) -> u32 {
        self.pacing.probes()
    }

    fn follow(&mut self, next: Next) -> CheckResult {
        match next {
            Next::Probe => self.begin_probe(),
            Next::Wait(time) => CheckResult { verdict: Verdict::Open, timer: Timer::Set(time) },
            Next::Failed => CheckResult { verdict: Verdict::Never, timer: Timer::Off },
            Next::Healthy(next) => {
                CheckResult { verdict: Verdict::Healthy, timer: next.map_or(Timer::Off, Timer::Set) }
            }
            Next::Unhealthy(time) => CheckResult { verdict: Verdict::Unhealthy, timer: Timer::Set(time) },
            Next::Settled => CheckResult { verdict: Verdict::Settled, timer: Timer::Off },
        }
    }

    fn begin_probe(&mut self) -> CheckResult {
        match self.probe.begin(&self.child) {
            Ok(Begun::Healthy) => self.on_probe_result(Ok(())),
            Ok(Begun::Pending(attempt)) => {
                self.attempt = Some(attempt);
                CheckResult { verdict: Verdict::Open, timer: Timer::Set(self.pacing.limit()) }
            }
            Err(why) => self.on_probe_result(Err(why)),
        }
    }

    /// The probe has reached its time limit (contract H2).
    fn time_out_probe(&mut self, limit: Duration) -> CheckResult {
        let Some(attempt) = &mut self.attempt else { return CheckResult::NOTHING };
        // The answer may be there already: a psflip that was stopped for a while finds
        // both at once (contract F12).
        let outcome = match attempt.advance() {
            Progress::Healthy => Ok(()),
            Progress::Failed(why) => Err(why),
            Progress::Hopeless(why) => return self.give_up(&why),
            Progress::Pending => Err(attempt.overdue(limit).into()),
        };
        self.on_probe_result(outcome)
    }

    fn give_up(&mut self, why: &str) -> CheckResult {
        self.attempt = None;
        self.last_failure = Some(why.to_owned());
        self.pacing.give_up();
        CheckResult { verdict: Verdict::Never, timer: Timer::Off }
    }

    fn on_probe_result(&mut self, outcome: Result<(), Why>) -> CheckResult {
        self.attempt = None;
        let outcome = match outcome {
            Ok(()) => Outcome::Success,
            Err(Why { text, is_unreachable }) => {
                self.last_failure = Some(format!("probe {} failed: {text}", self.pacing.probes()));
                if is_unreachable { Outcome::Unreachable } else { Outcome::Failure }
            }
        };
        let next = self.pacing.on_probe_result(outcome);
        self.follow(next)
    }
}
