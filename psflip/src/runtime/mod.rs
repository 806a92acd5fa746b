//! The event loop. It collects events (`collect.rs`), lets [`crate::flip`] decide, and performs the effects
//! (`perform.rs`). One thread, one place to wait, no decisions here.

mod anchor_client;
mod changes;
mod child;
mod collect;
mod descendants;
mod handover;
mod hooks;
mod job_control;
mod machine;
mod managers;
mod old_generations;
mod operators;
mod output;
mod perform;
mod poller;
mod post_mortem;
mod proxy;
mod readiness;
mod reasons;
mod recycle;
mod settling;
mod timers;
mod traffic;
mod waiting;

use std::io;
use std::time::{Duration, Instant};

use crate::anchor::AnchorLink;
use crate::changes::Changes;
use crate::config::{Orphans, Plan, Slot};
use crate::flip::{DrainStep, Effect, Event, OldGenerations, Outcome, Role, Timer};
use crate::handover::predecessor::{self, Inheritance, PredecessorLink};
use crate::handover::{Begun, ToPredecessor, is_gone};
use crate::history::Drain;
use crate::process::environment::child_environment;
use crate::process::invocation::{FileStamp, Invocation};
use crate::process::job_control::{Job, JobControl};
use crate::process::reaper::Reaper;
use crate::sys::early::SignalSetup;
use crate::sys::errors::is_transient;
use crate::sys::memory;
use crate::sys::seam::{self, Moment};
use crate::traffic::activation::Activation;
use child::Child;
use handover::Handover;
use hooks::Hooks;
use machine::{Decided, Machine};
use managers::Managers;
use operators::Operators;
use operators::control::Control;
use operators::upgrade_log::UpgradeLog;
use output::Output;
use proxy::Proxy;
use reasons::Reasons;
use recycle::Recycle;
use timers::Key;
use traffic::Traffic;
use waiting::Waiting;

/// Added to the times that follow from the configuration, for psflip's own work and a busy host, before the
/// other side counts as hung.
const MARGIN: Duration = Duration::from_secs(5);

/// How long to wait before a message that could not be sent is sent again. By then the kernel may have memory
/// (ENOBUFS), or the predecessor may have read earlier messages (EAGAIN).
const RESEND: Duration = Duration::from_millis(200);

/// How long to wait for processes after SIGKILL before leaving them behind. One that hangs in the kernel, or
/// that psflip may not kill, would otherwise be waited for forever.
const KILL: Duration = Duration::from_secs(10);

/// How many iterations of the loop may fail in a row before a generation gives up.
const MOST_FAILED_ITERATIONS: u32 = 10;

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
    /// The text of its configuration, if it is not too long to keep.
    pub config_text: Option<Box<str>>,
    /// The files and directories of `env_file` and `env_dir`.
    pub env_files: Vec<FileStamp>,
    /// Probable mistakes in the configuration that would likely cause an outage, one line each. Empty if the
    /// service already ran with this configuration.
    pub warnings: Vec<String>,
}

/// The predecessor, as its successor knows it.
#[derive(Debug)]
pub struct Predecessor {
    /// The connection.
    pub link: PredecessorLink,
    /// Its number.
    pub generation: u64,
    /// Its pid.
    pub pid: u32,
    /// The pidfile that it holds.
    pub pidfile: Option<String>,
    /// Whether it knows what a bake is.
    pub bakes: bool,
    /// Its child must not run at the same time as another one.
    pub exclusive: bool,
    /// Its current step of draining, and the deadline for it.
    pub progress: Option<(Drain, Instant)>,
}

/// A running generation. Each field is a part with methods of its own; the methods here connect the parts.
#[derive(Debug)]
struct Runtime {
    plan: Plan,
    identity: Identity,
    machine: Machine,
    wait: Waiting,
    child: Child,
    handover: Handover,
    traffic: Traffic,
    proxy: Proxy,
    output: Output,
    hooks: Hooks,
    managers: Managers,
    operators: Operators,
    reasons: Reasons,
    recycle: Recycle,
    changes: Option<Box<Changes>>,
    job_control: JobControl,
}

/// Runs one generation until it exits, and returns the outcome. `inheritance`: what the predecessor handed
/// over. `changes`: the files that request an upgrade when they change.
///
/// # Errors
/// EMFILE, ENFILE, ENOMEM: the loop's own descriptors could not be created, and nothing was started. A later
/// error means that the loop can't go on; the child does not survive it. The predecessor, if any, is notified
/// of either.
pub fn live(
    plan: Plan,
    identity: Identity,
    predecessor: Option<Predecessor>,
    anchor: Option<AnchorLink>,
    mut inheritance: Inheritance,
    changes: Option<Box<Changes>>,
) -> io::Result<Outcome> {
    memory::reserve_stack(); // there is no child yet that a failure here would take down
    let older = std::mem::take(&mut inheritance.older);
    let mut handover = Handover::new(predecessor, older, inheritance.keeper.take());
    let opened = Waiting::open(handover.predecessor.as_ref(), anchor.as_ref()).and_then(|mut wait| {
        handover.older.watch(&mut wait)?;
        Reaper::new().map(|reaper| (wait, reaper))
    });
    let (wait, reaper) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            report_breakdown(handover.predecessor.as_ref(), &error);
            return Err(error);
        }
    };
    let (mut runtime, effects) = Runtime::new(plan, identity, handover, anchor, inheritance, wait, reaper);
    runtime.watch_changes(changes);
    runtime.live(effects)
}

fn report_breakdown(predecessor: Option<&Predecessor>, error: &io::Error) {
    if let Some(Predecessor { link, .. }) = predecessor {
        let reason = format!("the new psflip can't go on: {error}");
        let failed = ToPredecessor::Failed { code: crate::exit::FAILURE, child_code: None, reason };
        let _ = link.send(&failed); // it may be gone
    }
}

impl Runtime {
    /// A new generation, and its first effects.
    fn new(
        plan: Plan,
        identity: Identity,
        mut handover: Handover,
        anchor: Option<AnchorLink>,
        mut inheritance: Inheritance,
        wait: Waiting,
        reaper: Reaper,
    ) -> (Self, Vec<Effect>) {
        let is_first = handover.predecessor.is_none();
        let generation = identity.generation;
        let old = OldGenerations {
            draining: handover.older.count(),
            most: plan.upgrade.draining,
            announcing: false,
        };
        let (machine, effects) = Machine::new(role(&plan, handover.predecessor.as_ref()), old);
        if !machine.state.is_exclusive() {
            handover.forget_keeper();
        }
        let number = generation.to_string();
        let added = [("PSFLIP_GENERATION", number.as_str()), ("PSFLIP_SLOT", identity.slot.as_str())];
        let envp = child_environment(&identity.origin.program.envp, plan.environment(), &added);
        let job = Job::of(anchor.as_ref().map(AnchorLink::anchor));
        let managers = Managers::new(|name| identity.origin.variable(name), anchor, is_first, generation);
        let control = Control::new(&mut inheritance);
        let Inheritance { listeners: given, relay, relay_back, loggers, hold, history, .. } = inheritance;
        let from = (!is_first).then(|| generation - 1);
        let log = UpgradeLog::new(identity.begun.clone(), from, generation, history);
        let runtime = Self {
            plan,
            identity,
            machine,
            wait,
            child: Child::new(envp.into(), reaper),
            handover,
            traffic: Traffic::new(given),
            proxy: Proxy::new(relay, relay_back, hold),
            output: Output::new(loggers),
            hooks: Hooks::default(),
            managers,
            operators: Operators::new(control, log),
            reasons: Reasons::default(),
            recycle: Recycle::default(),
            changes: None,
            job_control: JobControl::new(job),
        };
        (runtime, effects)
    }

    fn live(mut self, effects: Vec<Effect>) -> io::Result<Outcome> {
        match self.run(effects) {
            Ok(()) => self.finish(),
            Err(error) => {
                report_breakdown(self.handover.predecessor.as_ref(), &error);
                Err(error)
            }
        }
    }

    fn run(&mut self, effects: Vec<Effect>) -> io::Result<()> {
        self.report_start()?;
        // The first generation is a fork of the anchor, and need not wake it to report what it knows.
        let leaves = self.plan.shutdown.orphans == Orphans::Leave;
        if leaves || self.handover.predecessor.is_some() {
            self.managers.anchor.report_start(leaves);
        }
        let time = self.precheck() + self.plan.upgrade.timeout + self.promotion() + self.grace();
        self.managers.begin(time, &mut self.wait);
        self.log_warnings();
        self.perform_all(effects);
        self.drain_queue();
        let mut needs_release = true;
        let mut failed_turns = 0;
        while self.machine.outcome.is_none() {
            self.wait.timers.program()?;
            let is_idle = self.machine.state.is_idle();
            needs_release |= !is_idle;
            let releases = needs_release && is_idle;
            let mut ready = self.wait.poller.wait(releases.then_some(memory::QUIET))?;
            if releases && ready.is_empty() {
                needs_release = false;
                self.wait.poller.wait_without_code();
                ready = self.wait.poller.wait(None)?;
            }
            failed_turns += 1;
            let mut failed = false;
            for token in ready {
                match self.collect(token) {
                    // The descriptor is still ready and is read again at once. So a single failed call costs
                    // neither the service nor the exit status of one that is stopping (contract F10).
                    Err(error) if is_transient(&error) || failed_turns < MOST_FAILED_ITERATIONS => {
                        failed = true;
                    }
                    other => other?,
                }
                if self.machine.outcome.is_some() {
                    break;
                }
            }
            if !failed {
                failed_turns = 0;
            }
            self.recycle_if_due();
            self.notify_watchers();
        }
        Ok(())
    }

    /// Reports the start to the predecessor.
    fn report_start(&self) -> io::Result<()> {
        let Some(Predecessor { link, .. }) = &self.handover.predecessor else { return Ok(()) };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let grace = self.grace();
        let deadline =
            self.precheck() + if self.machine.state.is_exclusive() { grace } else { self.to_ready() };
        // If the predecessor is gone, its pidfd shows that. If only the message can't be sent, the
        // predecessor would reject the messages that follow.
        match link.send(&ToPredecessor::Starting { version, deadline, grace }) {
            Err(error) if !is_gone(&error) => {
                Err(io::Error::other(format!("can't report the start to the old psflip: {error}")))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// How long this generation may take from the start of its child to `Ready` or `Failed`.
    pub(super) fn to_ready(&self) -> Duration {
        self.plan.upgrade.timeout + self.promotion() + self.grace()
    }

    /// How long this generation may take before its child starts.
    fn precheck(&self) -> Duration {
        let none = self.handover.predecessor.is_none() || self.plan.upgrade.precheck.is_empty();
        if none { Duration::ZERO } else { self.plan.hooks.timeout }
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
        self.machine.push(event);
        self.drain_queue();
    }

    /// Decides and performs until the queue is empty.
    fn drain_queue(&mut self) {
        while let Some(Decided { before, effects }) = self.machine.decide() {
            self.perform_all(effects);
            let state = self.machine.state;
            if before != state {
                self.operators.set_changed();
                if let Some(step) = state.drain().filter(|step| !is_same_step(before.drain(), *step)) {
                    self.record_own_drain(step);
                }
            }
        }
    }

    /// Reports a step of draining to the successor.
    fn record_own_drain(&mut self, step: DrainStep) {
        let shutdown = &self.plan.shutdown;
        let (step, left) = match step {
            DrainStep::Answering { .. } | DrainStep::PassingOn | DrainStep::Closing
                if self.plan.proxies.is_empty() =>
            {
                return;
            }
            DrainStep::Answering { .. } | DrainStep::PassingOn => (Drain::Answering, self.drain_time()),
            DrainStep::Delay => (Drain::Delay, shutdown.delay),
            DrainStep::Signalled => (Drain::Signalled, shutdown.timeout),
            DrainStep::Killed | DrainStep::Ending => (Drain::Killed, KILL),
            DrainStep::Orphans => (Drain::Orphans, shutdown.timeout),
            DrainStep::OrphansKilled => (Drain::OrphansKilled, KILL),
            DrainStep::Closing => (Drain::Closing, proxy::CLOSING),
        };
        self.operators.record_own_drain(step, left, &self.handover);
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
        self.child.drop_check();
        self.hooks.clear();
        self.job_control.take_terminal_back();
        self.traffic.remove_pidfile();
        let Some(outcome) = self.machine.outcome else {
            return Err(io::Error::other("ended without an outcome"));
        };
        self.finish_output(outcome);
        let has_predecessor = self.handover.predecessor.is_some();
        self.leave_listeners(outcome);
        self.managers.finish(outcome, &self.handover, &mut self.wait);
        // After the managers: the child's log may be on a slow disk. Before the clients: they may ask for it.
        let (generation, upgrade) = (self.identity.generation, self.operators.log.last_upgrade());
        self.reasons.keep_last_exit(outcome, &self.plan, generation, has_predecessor, upgrade);
        self.operators.finish(outcome);
        if let Some(message) = self.reasons.for_predecessor(outcome) {
            self.handover.report(&message);
        }
        self.pass_last_signals_on();
        self.child.finish(self.plan.shutdown.orphans);
        Ok(outcome)
    }

    /// Removes the files of sockets that will not be used any more.
    fn leave_listeners(&mut self, outcome: Outcome) {
        let has_predecessor = self.handover.living_predecessor().is_some();
        let sockets = &mut self.traffic.listeners;
        let control = &mut self.operators.control.listeners;
        match outcome {
            Outcome::Superseded => {}
            Outcome::Failed(_) if has_predecessor => {
                sockets.remove_new_files();
                control.remove_new_files();
            }
            Outcome::Failed(_) | Outcome::Relay(_) => {
                for listeners in [&mut *sockets, &mut *control] {
                    listeners.predecessor_is_gone();
                }
                if self.managers.keeps_sockets() {
                    sockets.remove_files_of_lost();
                } else {
                    sockets.remove_new_files();
                }
                control.remove_new_files();
            }
        }
    }

    /// Before a superseded generation exits: passes pending signals on, which were meant for the active
    /// generation.
    fn pass_last_signals_on(&self) {
        if !self.managers.anchor.is_there() || self.machine.outcome != Some(Outcome::Superseded) {
            return;
        }
        while let Ok(Some(received)) = self.wait.signals.next() {
            if let Some(original) = self.managers.anchor.original(&received) {
                self.handover.pass_on(&received, &original);
            }
        }
    }

    /// Writes the pidfile and creates the control socket again if they are gone and belong to this
    /// generation.
    fn look_after_files(&mut self) {
        let state = &self.machine.state;
        if state.is_service() && state.successor().is_none() {
            self.mend_files();
            let pidfile = self.traffic.pidfile.as_ref();
            self.operators.watch_files(pidfile, &self.plan, &mut self.wait);
        }
    }

    /// As [`Runtime::look_after_files`], but in every state.
    fn mend_files(&mut self) {
        let child = self.child.pid();
        self.operators.mend_files(self.traffic.pidfile.as_mut(), &self.plan, child);
    }

    fn set_timer(&mut self, timer: Timer) {
        if timer == Timer::Healthy {
            self.child.begin_patience();
        }
        // A repeated `--end-draining` gives an old psflip that hangs no more time.
        if timer == Timer::Ending && self.wait.timers.left(Key::Flip(timer)).is_some() {
            return;
        }
        let time = match timer {
            Timer::Healthy => self.plan.upgrade.timeout,
            Timer::Bake => self.plan.upgrade.bake.unwrap_or_default(),
            Timer::Acknowledgement if self.machine.state.is_returning() => RESEND,
            Timer::Acknowledgement => predecessor::ACKNOWLEDGEMENT,
            Timer::Successor => {
                let state = self.machine.state.successor();
                self.handover.successor_deadline(state, self.plan.upgrade.timeout)
            }
            Timer::Predecessor => self.predecessor_deadline(),
            // Without a proxy, the answer is there already.
            Timer::Drain | Timer::Closing if self.plan.proxies.is_empty() => return,
            Timer::Drain => self.drain_time(),
            Timer::Closing => proxy::CLOSING,
            Timer::Delay => self.plan.shutdown.delay,
            Timer::Grace => self.plan.shutdown.timeout,
            Timer::Kill | Timer::SuccessorKill => KILL,
            Timer::Ending => 2 * KILL + MARGIN, // SIGKILL to the child, then to leftover processes
        };
        // A bake is no operation that the service managers wait for.
        if timer != Timer::Bake && !(timer == Timer::Successor && self.machine.state.successor_bakes()) {
            self.managers.be_patient(time, &mut self.wait);
        }
        if time.is_zero() {
            self.wait.timers.clear(Key::Flip(timer));
            self.machine.push(Event::TimedOut(timer));
        } else {
            self.wait.timers.set(Key::Flip(timer), time);
        }
    }

    /// How long to wait for the current steps of the old generations. The steps before their children's exits
    /// are skipped once they get the stop request.
    fn predecessor_deadline(&self) -> Duration {
        let predecessor = self.handover.predecessor.as_ref().map(|old| old.progress);
        let older = self.handover.older.iter().map(|(_, _, progress)| progress);
        let time = |progress| match progress {
            Some((step, until)) if step != Drain::Delay => {
                Instant::saturating_duration_since(&until, Instant::now()) + MARGIN
            }
            _ => self.grace(),
        };
        older.chain(predecessor).map(time).max().unwrap_or_else(|| self.grace())
    }
}

/// How a generation begins.
fn role(plan: &Plan, predecessor: Option<&Predecessor>) -> Role {
    match predecessor {
        None => Role::First,
        Some(old) if old.exclusive || !plan.upgrade.overlap => Role::Exclusive,
        Some(_) if !plan.upgrade.precheck.is_empty() => Role::Prechecked,
        Some(_) => Role::Successor,
    }
}

/// Whether a step of draining was reported already. A stop request does not restart the relay's time.
fn is_same_step(before: Option<DrainStep>, now: DrainStep) -> bool {
    matches!((before, now), (Some(DrainStep::Answering { .. }), DrainStep::Answering { .. }))
        || before == Some(now)
}
