//! Health checks: how psflip learns that its child is healthy (contract H1 to H4).
//!
//! A [`Checker`] is one health check of one child. It is driven by psflip's loop: it never blocks, has no thread, and says
//! after every call which descriptor and which timer it waits for. `pace` decides when a probe is due; one file per kind
//! says what a probe is (`Probe`) and carries a probe through that can't be answered at once (`Attempt`).
//!
//! The end of the child ends the wait (H3): the runtime drops the checker then, which ends a probe that is under way.

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

pub use notify::{Heard, Notifications};
use pace::{Due, Next, Pacing};

/// What a probe may know of the child.
#[derive(Clone, Debug)]
pub struct ChildInfo {
    /// Its pid, for `PSFLIP_CHILD_PID`.
    pub pid: u32,
    /// The environment it was started with.
    pub envp: Rc<[CString]>,
    /// The directory it was started in; `None`: psflip's own. May be relative to psflip's own.
    pub workdir: Option<PathBuf>,
    /// The signal set-up it was started with.
    pub signals: SignalSetup,
    /// The psflip whose child still serves meanwhile, if there is one. An answer of that child says nothing of this one.
    pub predecessor: Option<u32>,
}

/// What a descriptor is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// That it can be read from.
    Read,
    /// That it can be written to.
    Write,
}

/// What to do with a checker's one timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// It stays as it is.
    Keep,
    /// It runs down after this long from now, once. Never zero for a valid configuration.
    Set(Duration),
    /// It is switched off.
    Off,
}

/// What a check says of the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing new.
    Open,
    /// It became healthy by this call.
    Healthy,
    /// It can't become healthy any more; [`Checker::last_failure`] says why.
    Never,
}

/// What a call of a [`Checker`] led to.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Other than [`Verdict::Open`] at most once in the life of a checker.
    pub verdict: Verdict,
    /// What to do with the timer.
    pub timer: Timer,
}

impl Step {
    const NOTHING: Self = Self { verdict: Verdict::Open, timer: Timer::Keep };
}

/// One health check of one child. Dropping it ends the probe that is under way, with all its processes.
pub struct Checker {
    child: ChildInfo,
    pacing: Pacing,
    probe: Box<dyn Probe>,
    attempt: Option<Box<dyn Attempt>>,
    last_failure: Option<String>,
    hopeless: bool,
}

/// One kind of health check.
trait Probe {
    /// Begins one probe.
    ///
    /// # Errors
    /// The probe failed at once; why, as text for the log.
    fn begin(&self, child: &ChildInfo) -> Result<Begun, String>;
}

/// How a probe began, if it did not fail.
enum Begun {
    /// It is over: the child is healthy.
    Healthy,
    /// It takes until the kernel says more.
    Pending(Box<dyn Attempt>),
}

/// One probe that is under way. Dropping it releases all it holds, processes included.
trait Attempt {
    /// What to wait for; may change with every [`Attempt::advance`].
    fn watch(&self) -> (BorrowedFd<'_>, Interest);
    /// Goes as far as is possible without waiting. May be called at any time, also when nothing is ready.
    fn advance(&mut self) -> Progress;
    /// What did not happen within `limit`, for the log.
    fn overdue(&self, limit: Duration) -> String;
}

/// How far a probe came.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// It waits.
    Pending,
    /// The child is healthy.
    Healthy,
    /// The probe failed; why, as text for the log.
    Failed(String),
    /// The probe failed, and so would every other one.
    Hopeless(String),
}

impl From<Result<bool, String>> for Progress {
    fn from(done: Result<bool, String>) -> Self {
        match done {
            Ok(false) => Self::Pending,
            Ok(true) => Self::Healthy,
            Err(why) => Self::Failed(why),
        }
    }
}

impl Checker {
    /// A check that has not begun. Starts nothing and opens nothing. `None`: a kind without probes, where the child itself says
    /// that it is healthy (see [`Notifications`]).
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
        let pacing = Pacing::new(pace);
        Some(Self { child, pacing, probe, attempt: None, last_failure: None, hopeless: false })
    }

    /// The child has just been executed. To be called once, before anything else.
    pub fn start(&mut self) -> Step {
        let next = self.pacing.start();
        self.follow(next)
    }

    /// The descriptor of [`Checker::watch`] is ready. Harmless when it isn't, or when there is none any more.
    pub fn on_ready(&mut self) -> Step {
        match self.attempt.as_mut().map(|attempt| attempt.advance()) {
            None | Some(Progress::Pending) => Step::NOTHING,
            Some(Progress::Healthy) => self.probe_ended(Ok(())),
            Some(Progress::Failed(why)) => self.probe_ended(Err(why)),
            Some(Progress::Hopeless(why)) => self.give_up(&why),
        }
    }

    /// The timer of the last [`Step`] ran down.
    pub fn on_timer(&mut self) -> Step {
        match self.pacing.timer() {
            Due::Probe => self.begin_probe(),
            Due::End(limit) => self.end_probe(limit),
            Due::Nothing => Step::NOTHING,
        }
    }

    /// What to wait for now, level-triggered; `None`: for the timer only.
    ///
    /// May change with every call of the methods above. A descriptor that is no longer given is closed by then (epoll(7)
    /// has forgotten it), and its number may already be that of another one, so a registration has to be renewed after
    /// every such call, even for the same number.
    #[must_use]
    pub fn watch(&self) -> Option<(BorrowedFd<'_>, Interest)> {
        self.attempt.as_ref().map(|attempt| attempt.watch())
    }

    /// Why the last probe that failed did (contract H4), for example
    /// `probe 3 failed: connect to 127.0.0.1:80: Connection refused (os error 111)`.
    /// If none has ended yet, that the first one has not.
    #[must_use]
    pub fn last_failure(&self) -> Option<&str> {
        let waiting = self.attempt.as_ref().map(|_| "the first probe had no answer yet");
        self.failed().or(waiting.filter(|_| self.pacing.probes() == 1))
    }

    /// As [`Checker::last_failure`], of a probe that has ended.
    #[must_use]
    pub fn failed(&self) -> Option<&str> {
        self.last_failure.as_deref()
    }

    /// Whether it said [`Verdict::Never`].
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.hopeless
    }

    /// How many probes were begun.
    #[must_use]
    pub fn probes(&self) -> u32 {
        self.pacing.probes()
    }

    fn follow(&mut self, next: Next) -> Step {
        match next {
            Next::Probe => self.begin_probe(),
            Next::Wait(time) => Step { verdict: Verdict::Open, timer: Timer::Set(time) },
            Next::Healthy => Step { verdict: Verdict::Healthy, timer: Timer::Off },
        }
    }

    fn begin_probe(&mut self) -> Step {
        match self.probe.begin(&self.child) {
            Ok(Begun::Healthy) => self.probe_ended(Ok(())),
            Ok(Begun::Pending(attempt)) => {
                self.attempt = Some(attempt);
                Step { verdict: Verdict::Open, timer: Timer::Set(self.pacing.limit()) }
            }
            Err(why) => self.probe_ended(Err(why)),
        }
    }

    /// The probe's time is up (contract H2).
    fn end_probe(&mut self, limit: Duration) -> Step {
        let Some(attempt) = &mut self.attempt else { return Step::NOTHING };
        // The answer may be there: a psflip that was stopped for a while finds both at once (contract F12).
        let outcome = match attempt.advance() {
            Progress::Healthy => Ok(()),
            Progress::Failed(why) => Err(why),
            Progress::Hopeless(why) => return self.give_up(&why),
            Progress::Pending => Err(attempt.overdue(limit)),
        };
        self.probe_ended(outcome)
    }

    fn give_up(&mut self, why: &str) -> Step {
        self.attempt = None;
        self.hopeless = true;
        self.last_failure = Some(why.to_owned());
        self.pacing.give_up();
        Step { verdict: Verdict::Never, timer: Timer::Off }
    }

    fn probe_ended(&mut self, outcome: Result<(), String>) -> Step {
        self.attempt = None;
        let succeeded = outcome.is_ok();
        if let Err(why) = outcome {
            self.last_failure = Some(format!("probe {} failed: {why}", self.pacing.probes()));
        }
        let next = self.pacing.probe_ended(succeeded);
        self.follow(next)
    }
}
