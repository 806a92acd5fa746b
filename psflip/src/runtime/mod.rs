//! The event loop. It collects events (`collect.rs`), lets [`crate::flip`] decide, and performs the effects
//! (`perform.rs`). One thread, one place to wait, no decisions here.

mod anchor_client;
mod collect;
mod control;
mod files;
mod hooks;
mod job_control;
mod managers;
mod outage;
mod perform;
mod poller;
mod readiness;
mod tell;
mod timers;
mod traffic;
mod upgrade_log;

use std::collections::VecDeque;
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::anchor;
use crate::config::{Orphans, Plan, Slot};
use crate::end::End;
use crate::flip::{self, Effect, Event, Failure, Outcome, Role, State, Timer};
use crate::handover::predecessor::{self, Inheritance};
use crate::handover::{Begun, ToPredecessor, is_gone, successor};
use crate::health::Checker;
use crate::history::Drain;
use crate::manager::pidfile::Pidfile;
use crate::process::environment::child_environment;
use crate::process::invocation::{FileStamp, Invocation};
use crate::process::job_control::{Job, JobControl};
use crate::process::keeper::Tree;
use crate::process::reaper::Reaper;
use crate::sys::early::SignalSetup;
use crate::sys::errors::is_transient;
use crate::sys::memory;
use crate::sys::seam::{self, Moment};
use crate::sys::signal::{SignalFd, SignalSet};
use crate::traffic::activation::Activation;
use crate::traffic::listen::{Given, Listeners};
use crate::traffic::symlink::Turned;
use poller::{Poller, Token};
use readiness::Readiness;
use timers::{Key, Timers};
use upgrade_log::UpgradeLog;

/// Added to the times that follow from the configuration, for psflip's own work and a busy host, before the
/// other side counts as hung.
const MARGIN: Duration = Duration::from_secs(5);

/// How long to wait for processes after SIGKILL before leaving them behind. One that hangs in the kernel, or
/// that psflip may not kill, would otherwise be waited for forever.
const KILL: Duration = Duration::from_secs(10);

/// How many iterations of the loop may fail in a row before a generation gives up.
const PATIENCE: u32 = 10;

/// Identity of this generation.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its number; 1 for the first generation.
    pub generation: u64,
    /// Its slot.
    pub slot: Slot,
    /// The signal mask and ignored signals of its child.
    pub signals: SignalSetup,
    /// How psflip was started.
    pub origin: Invocation,
    /// The sockets from the service manager's socket activation.
    pub activation: Activation,
    /// The upgrade, or the first start, that created this generation.
    pub begun: Begun,
    /// Its configuration file.
    pub config: Option<FileStamp>,
    /// Probable mistakes in the configuration that would likely cause an outage, one line each. Empty if the
    /// service already ran with this configuration.
    pub warnings: Vec<String>,
}

/// The predecessor, as its successor knows it.
#[derive(Debug)]
pub struct Predecessor {
    /// The connection.
    pub link: predecessor::Link,
    /// Its pid.
    pub pid: u32,
    /// The pidfile that it holds.
    pub pidfile: Option<String>,
}

/// A running generation.
#[derive(Debug)]
struct Runtime {
    plan: Plan,
    identity: Identity,
    /// The child's environment.
    envp: Rc<[CString]>,
    state: State,
    /// Events caused by effects.
    queue: VecDeque<Event>,
    poller: Poller,
    timers: Timers,
    signals: SignalFd,
    reaper: Reaper,
    tree: Option<Tree>,
    checker: Option<CheckerSlot>,
    /// The child's `NOTIFY_SOCKET`, if it gets one.
    readiness: Option<Readiness>,
    predecessor: Option<Predecessor>,
    successor: Option<successor::Link>,
    /// The process that starts the successor and exits at once, until it is reaped.
    intermediate: Option<u32>,
    pidfile: Option<Pidfile>,
    /// The sockets that the predecessor handed over, until the child starts.
    given: Vec<Given>,
    listeners: Listeners,
    /// The symlink that this generation repointed, until it is promoted.
    turned: Option<Turned>,
    /// Set while an upgrade is running.
    descendants_before_upgrade: Option<traffic::BeforeUpgrade>,
    hooks: hooks::Running,
    managers: managers::Managers,
    control: control::Control,
    files: files::Files,
    upgrade_log: UpgradeLog,
    /// Whether the status that operators see has changed.
    changed: bool,
    /// Why the last upgrade failed.
    upgrade_failure: Option<String>,
    /// Why this generation fails, for the log.
    failure: Option<String>,
    /// The result of the last failed probe, once probing is over.
    last_probe_failure: Option<String>,
    /// Why no successor could be started.
    start_error: Option<String>,
    outage: outage::Outage,
    job_control: JobControl,
    /// Processes that survived SIGKILL were left behind.
    left_behind: bool,
    outcome: Option<Outcome>,
}

/// A running health check. `Checker` does not implement Debug.
struct CheckerSlot(Checker);

impl std::fmt::Debug for CheckerSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checker").field("probes", &self.0.probes()).finish_non_exhaustive()
    }
}

/// Runs one generation until it exits, and returns the outcome. `inheritance`: what the predecessor handed
/// over.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM: the loop's own descriptors could not be created, and nothing was started. A later
/// error means that the loop can't go on; the child does not survive it. The predecessor, if any, is notified
/// of either.
pub fn live(
    plan: Plan,
    identity: Identity,
    predecessor: Option<Predecessor>,
    anchor: Option<anchor::Link>,
    inheritance: Inheritance,
) -> io::Result<Outcome> {
    memory::reserve_stack(); // there is no child yet that a failure here would take down
    let resources = match Resources::open(predecessor.as_ref(), anchor.as_ref()) {
        Ok(resources) => resources,
        Err(error) => {
            tell_of_breakdown(predecessor.as_ref(), &error);
            return Err(error);
        }
    };
    let mut runtime = Runtime::new(plan, identity, predecessor, anchor, inheritance, resources);
    match runtime.run() {
        Ok(()) => runtime.finish(),
        Err(error) => {
            tell_of_breakdown(runtime.predecessor.as_ref(), &error);
            Err(error)
        }
    }
}

fn tell_of_breakdown(predecessor: Option<&Predecessor>, error: &io::Error) {
    if let Some(Predecessor { link, .. }) = predecessor {
        let reason = format!("the new psflip can't go on: {error}");
        let failed = ToPredecessor::Failed { code: crate::exit::FAILURE, child_code: None, reason };
        let _ = link.send(&failed); // it may be gone
    }
}

/// The descriptors of the loop itself.
struct Resources {
    poller: Poller,
    timers: Timers,
    signals: SignalFd,
    reaper: Reaper,
}

impl Resources {
    fn open(predecessor: Option<&Predecessor>, anchor: Option<&anchor::Link>) -> io::Result<Self> {
        crate::sys::early::stop_ignoring_sigchld()?;
        let mut poller = Poller::new()?;
        let signals = SignalFd::open(SignalSet::from_bits(u64::MAX))?;
        let timers = Timers::new()?;
        poller.watch(Token::Signals, signals.as_fd())?;
        poller.watch(Token::Timers, timers.as_fd())?;
        if let Some(anchor) = anchor {
            poller.watch(Token::Anchor, anchor.as_fd())?;
        }
        if let Some(Predecessor { link, .. }) = predecessor {
            poller.watch(Token::Predecessor, link.as_fd())?;
            poller.watch(Token::PredecessorProcess, link.process().as_fd())?;
        }
        Ok(Self { poller, timers, signals, reaper: Reaper::new()? })
    }
}

impl Runtime {
    fn new(
        plan: Plan,
        identity: Identity,
        predecessor: Option<Predecessor>,
        anchor: Option<anchor::Link>,
        mut inheritance: Inheritance,
        resources: Resources,
    ) -> Self {
        let Resources { poller, timers, signals, reaper } = resources;
        let role = if predecessor.is_some() { Role::Successor } else { Role::First };
        let number = identity.generation.to_string();
        let added = [("PSFLIP_GENERATION", number.as_str()), ("PSFLIP_SLOT", identity.slot.as_str())];
        let managers =
            managers::Managers::new(|name| identity.origin.variable(name), anchor, predecessor.is_none());
        let job = Job::of(managers.anchor.as_ref().map(anchor::Link::anchor));
        let envp = child_environment(&identity.origin.program.envp, &plan.env, &added);
        let control = control::Control::new(&mut inheritance);
        let Inheritance { listeners: given, history, .. } = inheritance;
        let from = predecessor.as_ref().map(|_| identity.generation - 1);
        let upgrade_log = UpgradeLog::new(identity.begun.clone(), from, identity.generation, history);
        Self {
            envp: envp.into(),
            state: flip::begin(role).0,
            plan,
            identity,
            queue: VecDeque::new(),
            poller,
            timers,
            signals,
            reaper,
            tree: None,
            checker: None,
            readiness: None,
            predecessor,
            successor: None,
            intermediate: None,
            pidfile: None,
            given,
            listeners: Listeners::default(),
            turned: None,
            descendants_before_upgrade: None,
            hooks: hooks::Running::new(),
            managers,
            control,
            files: files::Files::default(),
            upgrade_log,
            changed: false,
            upgrade_failure: None,
            failure: None,
            last_probe_failure: None,
            start_error: None,
            outage: outage::Outage::default(),
            job_control: JobControl::new(job),
            left_behind: false,
            outcome: None,
        }
    }

    fn run(&mut self) -> io::Result<()> {
        if let Some(Predecessor { link, .. }) = &self.predecessor {
            let version = env!("CARGO_PKG_VERSION").to_owned();
            let deadline = self.plan.upgrade.timeout + self.promotion() + self.grace();
            let grace = self.grace();
            // If the predecessor is gone, its pidfd shows that. If only the message can't be sent, the
            // predecessor would reject the messages that follow.
            match link.send(&ToPredecessor::Starting { version, deadline, grace }) {
                Err(error) if !is_gone(&error) => {
                    return Err(io::Error::other(format!(
                        "can't report the start to the old psflip: {error}"
                    )));
                }
                Ok(()) | Err(_) => {}
            }
        }
        let role = if self.predecessor.is_some() { Role::Successor } else { Role::First };
        self.tell_anchor_of_begin();
        self.managers_begin();
        self.tell_warnings();
        self.perform_all(flip::begin(role).1);
        self.drain_queue();
        let mut is_idle = false;
        let mut failed_turns = 0;
        while self.outcome.is_none() {
            self.timers.program()?;
            let was_idle = std::mem::replace(&mut is_idle, self.state.is_idle());
            if is_idle && !was_idle {
                memory::let_go_of_startup_code();
            }
            failed_turns += 1;
            let mut failed = false;
            for token in self.poller.wait()? {
                match self.collect(token) {
                    // The descriptor is still ready and is read again at once. So a single failed call costs
                    // neither the service nor the exit status of one that is stopping (contract F10).
                    Err(error) if is_transient(&error) || failed_turns < PATIENCE => failed = true,
                    other => other?,
                }
                if self.outcome.is_some() {
                    break;
                }
            }
            if !failed {
                failed_turns = 0;
            }
            self.tell_changes();
        }
        Ok(())
    }

    /// How long this generation may take from healthy to ready.
    fn promotion(&self) -> Duration {
        if self.plan.hooks.promote.is_empty() { Duration::ZERO } else { self.plan.hooks.timeout }
    }

    /// How long this generation may take to stop its child and leftover processes: each gets
    /// `shutdown.timeout`, and what survives SIGKILL is waited for once (contract U5).
    fn grace(&self) -> Duration {
        2 * self.plan.shutdown.timeout + KILL + MARGIN
    }

    /// Queues an event and handles it.
    fn dispatch(&mut self, event: Event) {
        self.queue.push_back(event);
        self.drain_queue();
    }

    /// Decides and performs until the queue is empty.
    fn drain_queue(&mut self) {
        while let Some(event) = self.queue.pop_front() {
            if self.outcome.is_some() {
                self.queue.clear();
                return;
            }
            let before = self.state;
            let effects = flip::decide(&mut self.state, event);
            if before != self.state || !effects.is_empty() {
                tracing::trace!(?event, state = ?self.state, ?effects, "decided");
            }
            self.perform_all(effects);
            if before != self.state {
                self.changed = true;
                self.tell_of_draining(before);
            }
        }
    }

    fn perform_all(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            seam::step(Moment::Before, format_args!("{effect:?}"));
            self.perform(effect);
            seam::step(Moment::After, format_args!("{effect:?}"));
        }
    }

    /// Cleans up before psflip exits.
    fn finish(mut self) -> io::Result<Outcome> {
        // A running health check may have processes of its own.
        drop(self.checker.take());
        self.hooks.clear();
        self.take_terminal_back();
        if let Some(pidfile) = self.pidfile.take()
            && let Err(error) = pidfile.remove()
        {
            tracing::warn!(%error, "can't remove the pidfile");
        }
        let Some(outcome) = self.outcome else { return Err(io::Error::other("ended without an outcome")) };
        self.keep_last_exit(outcome);
        self.leave_listeners(outcome);
        self.managers_end(outcome);
        self.tell_of_end(outcome);
        if let (Some(Predecessor { link, .. }), Outcome::Failed(failure)) = (&self.predecessor, outcome) {
            let code = crate::exit::code_for(outcome);
            let (child_code, reason) = match (failure, self.failure.take()) {
                (Failure::EndedEarly(End::Exited(code)), Some(reason)) => (Some(code), reason),
                (_, reason) => (None, reason.unwrap_or_else(|| "it failed".to_owned())),
            };
            let _ = link.send(&ToPredecessor::Failed { code, child_code, reason }); // it may be gone
        }
        self.pass_last_signals_on();
        if let Some(tree) = self.tree.take().filter(Tree::is_over) {
            tree.reap_keeper();
        }
        // psflip doesn't kill processes that it was configured to leave alone, nor, as PID 1 of a container,
        // processes that it did not start.
        if self.plan.shutdown.orphans == Orphans::Kill && std::process::id() != 1 {
            if self.left_behind {
                self.reaper.end_our_own_at_once();
            } else {
                self.reaper.end_our_own();
            }
        }
        Ok(outcome)
    }

    fn set_timer(&mut self, timer: Timer) {
        if timer == Timer::Healthy {
            self.begin_patience();
        }
        let time = match timer {
            Timer::Healthy => self.plan.upgrade.timeout,
            Timer::Acknowledgement => predecessor::ACKNOWLEDGEMENT,
            Timer::Successor => self.successor_deadline(),
            Timer::Predecessor => self.predecessor_deadline(),
            Timer::Delay => self.plan.shutdown.delay,
            Timer::Grace => self.plan.shutdown.timeout,
            Timer::Kill | Timer::SuccessorKill => KILL,
        };
        self.managers_be_patient(time);
        if time.is_zero() {
            self.timers.clear(Key::Flip(timer));
            self.queue.push_back(Event::TimedOut(timer));
        } else {
            self.timers.set(Key::Flip(timer), time);
        }
    }

    fn successor_deadline(&self) -> Duration {
        let ends = self.state.successor() == Some(flip::Successor::Ends);
        match &self.successor {
            Some(link) if ends => link.grace(),
            Some(link) => link.deadline(),
            None => self.plan.upgrade.timeout,
        }
    }

    /// How long to wait for the predecessor's current step. The steps before its child's exit are skipped
    /// once it gets the stop request.
    fn predecessor_deadline(&self) -> Duration {
        match self.upgrade_log.predecessor {
            Some((step, until)) if step != Drain::Delay => {
                until.saturating_duration_since(Instant::now()) + MARGIN
            }
            _ => self.grace(),
        }
    }
}
