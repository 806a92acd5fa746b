//! Performs effects by means of the operating system.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::handover::Committed;
use super::operators::kind;
use super::post_mortem::ChildStderr;
use super::timers::Key;
use super::{MARGIN, Runtime, hooks};
use crate::flip::{Effect, Event, Failure, Hook, Notice, StartFailure, Successor, Timer};
use crate::handover::predecessor::{self, Acknowledged};
use crate::handover::successor::Handed;
use crate::handover::{Hello, ToPredecessor, ToSuccessor, is_gone, message};
use crate::history::{HookState, UpgradeStep};
use crate::process::command::SupervisedCommand;
use crate::process::invocation::FileStamp;
use crate::process::launch::{Launch, Place, find_program};
use crate::signal::Signal;
use crate::text;

impl Runtime {
    /// Performs an effect. Events that follow from it are queued.
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Prepare => self.prepare(),
            Effect::AwaitPredecessorTree => {
                if !self.handover.watch_predecessor_tree(&mut self.wait) {
                    self.machine.push(Event::PredecessorTreeGone);
                }
            }
            Effect::AwaitSuccessorTree => {
                if !self.handover.watch_successor_tree(&mut self.wait) {
                    self.machine.push(Event::SuccessorTreeGone);
                }
            }
            Effect::ReportPrepared => self.report_prepared(),
            Effect::GrantTurn => {
                let waiting_since = self.operators.log.waiting_since();
                if !self.handover.grant_turn(waiting_since) {
                    self.machine.push(Event::SuccessorNotStarted);
                }
            }
            Effect::StartChild => self.start_child(),
            Effect::StartProbing => self.start_probing(),
            Effect::StartSettling => self.start_settling(),
            Effect::StartWatching => self.start_watching(),
            Effect::StopProbing => self.child.stop_probing(&mut self.wait),
            Effect::SignalChild => {
                if let Some((received, reach)) = self.proxy.held_signal.take() {
                    self.forward(&received, reach);
                    self.continue_child_to_stop();
                } else if self.child.signal(self.plan.shutdown.signal) {
                    self.continue_child_to_stop();
                }
            }
            Effect::KillChild => {
                self.child.signal(Signal::KILL);
            }
            Effect::SignalOrphans => self.child.signal_orphans(&self.plan.shutdown),
            Effect::KillOrphans => self.child.kill_orphans(self.plan.shutdown.orphans),
            Effect::RunHook(hook) => {
                if hook == Hook::Promote {
                    self.record_step(UpgradeStep::Healthy);
                }
                self.run_hook(hook);
            }
            Effect::KillHook => {
                self.hooks.end(Hook::Precheck, &mut self.wait);
                self.hooks.end(Hook::Promote, &mut self.wait);
            }
            Effect::SwitchTraffic => self.switch_traffic(),
            Effect::TakePidfile => self.take_pidfile(),
            Effect::GiveBack => self.traffic.give_back(&self.handover),
            Effect::TakeBack => {
                self.traffic.take_back();
                self.proxy.close_links();
            }
            Effect::Relay(order) => self.order_relay(order),
            Effect::ReportBaking => self.report_baking(),
            Effect::ReportReturned => self.report_returned(),
            Effect::GrantTraffic => {
                if !self.handover.send_to_successor(&ToSuccessor::Traffic) {
                    self.handover.set_rollback("the new psflip could not be given the traffic".to_owned());
                    self.machine.push(Event::RollbackRequested);
                }
            }
            Effect::PassKeep => {
                self.handover.send_to_successor(&ToSuccessor::Keep); // if it is gone, its pidfd shows that
            }
            Effect::RollBackSuccessor => self.handover.roll_back_successor(),
            Effect::ReportReady => self.report_ready(),
            // If the predecessor is gone, its pidfd shows that.
            Effect::PassStopBack if self.machine.state.has_old_generations() => {
                self.handover.report_to_old_generations(&ToPredecessor::Stop);
            }
            Effect::PassStopBack => self.handover.report(&ToPredecessor::Stop),
            Effect::EndOldest => self.end_old_generations(false),
            Effect::EndDraining => self.end_old_generations(true),
            Effect::KillEnding => self.kill_ending(),
            Effect::PassRequestBack => {
                let by = self.operators.log.hand_on();
                if self.handover.send_to_predecessor(&ToPredecessor::Upgrade { by }).is_err() {
                    self.report(Notice::RequestRefused);
                }
            }
            Effect::Withdraw => self.withdraw(),
            Effect::StartSuccessor => self.start_successor(),
            Effect::Acknowledge { upgrade_queued } => self.acknowledge(upgrade_queued),
            Effect::AnnounceSuccessor => self.announce_successor(),
            Effect::AbortSuccessor => self.handover.abort_successor(),
            Effect::HurrySuccessor => {
                self.handover.send_to_successor(&ToSuccessor::Hurry); // it may be dead
            }
            Effect::PassRequestOn => {
                let by = self.operators.log.hand_on();
                if !self.handover.send_to_successor(&ToSuccessor::Upgrade { by }) {
                    self.report(Notice::RequestRefused);
                }
            }
            Effect::KillSuccessor => {
                if !self.handover.kill_successor() {
                    self.machine.push(Event::SuccessorNotStarted);
                }
            }
            Effect::Arm(timer) => self.set_timer(timer),
            Effect::Disarm(timer) => self.wait.timers.clear(Key::Flip(timer)),
            Effect::Report(notice) => self.report(notice),
            Effect::Exit(outcome) => self.machine.outcome = Some(outcome),
        }
    }

    /// Records a step of this generation's start.
    pub(super) fn record_step(&mut self, step: UpgradeStep) {
        self.operators.record_step(step, self.child.pid(), &self.handover);
    }

    /// Checks what needs no child.
    fn prepare(&mut self) {
        let envp = self.child.envp.clone();
        if let Err(refusal) = find_program(self.plan.argv(), &envp, self.plan.workdir.as_deref()) {
            let why = self.child_is_refused(&refusal);
            self.machine.push(Event::NotPrepared(Failure::Start(why)));
        } else if let Err(error) = self.open() {
            self.reasons.set_failure(error);
            self.machine.push(Event::NotPrepared(Failure::Start(StartFailure::Other)));
        } else {
            self.run_hook(Hook::Precheck);
        }
    }

    fn report_prepared(&mut self) {
        self.record_step(UpgradeStep::Prepared);
        tracing::info!("prepared; waiting until the old child is gone");
        let deadline = self.to_ready();
        // If the predecessor is gone, its pidfd shows that. Otherwise it takes this generation for hung.
        self.handover.report(&ToPredecessor::Prepared { deadline });
    }

    /// The old child is gone.
    pub(super) fn turn_is_granted(&mut self, waiting_since: Option<u64>, lease: Option<OwnedFd>) {
        self.record_step(UpgradeStep::GaveWay);
        self.operators.log.set_waiting_since(waiting_since);
        match lease {
            Some(lease) => {
                self.handover.keep_lease(lease);
                self.dispatch(Event::TurnGranted);
            }
            // The predecessor could not see whether this child is gone.
            None => {
                tracing::error!("the socket that came with the message of the old psflip was lost");
                self.dispatch(Event::Aborted);
            }
        }
    }

    fn start_child(&mut self) {
        self.reasons.child_stderr = Some(ChildStderr::new(&self.plan.output.stderr));
        if let Err(error) = self.try_to_start_child() {
            self.reasons.set_failure(error);
            self.machine.push(Event::ChildNotStarted(StartFailure::Other));
        }
    }

    /// Opens the sockets and starts the relay, unless that was done before.
    fn open(&mut self) -> Result<(), String> {
        if self.traffic.is_open {
            return Ok(());
        }
        self.refuse_beside_older_generations()?;
        let is_first = self.handover.predecessor.is_none();
        let opened = self.traffic.open(&self.plan, &self.identity, is_first);
        opened.map_err(|error| error.to_string())?;
        self.operators.control.open(&self.plan, &mut self.wait)?;
        if is_first {
            self.operators.control.accept();
        }
        self.proxy
            .start(&self.plan, &self.identity, &self.traffic.listeners, &mut self.wait)
            .map_err(|error| format!("can't start the relay for `[[proxy]]`: {error}"))?;
        self.open_output()?;
        self.traffic.is_open = true;
        Ok(())
    }

    /// Refuses a configuration for one or two generations while older ones drain, which another one has
    /// allowed.
    fn refuse_beside_older_generations(&self) -> Result<(), String> {
        let why = if self.handover.older.count() == 0 {
            return Ok(());
        } else if self.machine.state.is_exclusive() {
            "`upgrade.overlap = false` needs that no other child runs"
        } else if self.plan.uses_slot {
            "`blue_green()` and `ab()` have values for two generations"
        } else {
            return Ok(());
        };
        let older = self.handover.older.numbers();
        Err(format!(
            "{why}, and older generations still drain ({older}); upgrade again when they are gone, or by `psflip upgrade --end-draining`"
        ))
    }

    fn try_to_start_child(&mut self) -> Result<(), String> {
        self.open()?;
        let streams = self.start_output()?;
        let (sockets, envp) = self.traffic.for_child(&self.child.envp, &self.identity);
        let launch = Launch::new(self.plan.argv(), envp, self.plan.workdir.clone(), self.identity.signals)
            .with_sockets(sockets)
            .with_streams(streams)
            .with_lease(self.handover.lease().map_err(|error| error.to_string())?);
        // It may have to start again, when a deploy has moved a symlink such as `current` (contract E3). Also
        // if only the next configuration says that no two children run (E6). Before the start: a deploy that
        // comes in between would name another release than the one that runs.
        let launch = match &self.child.place {
            Some(place) => launch.at(place),
            None => {
                let workdir = self.plan.workdir.as_deref();
                self.child.place = Place::of(self.plan.argv(), &self.child.envp, workdir);
                launch
            }
        };
        self.child
            .start(launch, &self.plan, &mut self.wait)
            .map_err(|error| format!("can't start `{}`: {error}", self.plan.cmd[0]))
    }

    fn start_probing(&mut self) {
        let Some(pid) = self.child.pid() else { return };
        // Only once: probing starts again when the child ignores a stop.
        if !self.operators.log.has_taken(UpgradeStep::Child) {
            tracing::info!(child = pid, command = self.plan.cmd[0], "child started");
            self.record_step(UpgradeStep::Child);
        }
        let (signals, old) = (self.identity.signals, self.handover.old_psflips());
        let verdict = self.child.start_probing(&self.plan, signals, old, &mut self.wait);
        self.checked(verdict);
        if self.child.has_said_ready() {
            self.child_is_healthy();
        }
    }

    /// Checks the health of a child that has the traffic on trial.
    fn start_watching(&mut self) {
        let (signals, old) = (self.identity.signals, self.handover.old_psflips());
        let verdict = self.child.start_watching(&self.plan, signals, old, &mut self.wait);
        self.checked(verdict);
        if self.child.has_given_up() {
            self.machine.push(Event::ChildUnhealthy); // while `hooks.promote` ran
        }
    }

    /// Starts a hook. An earlier run that is still going is killed.
    fn run_hook(&mut self, hook: Hook) {
        let argv = match hook {
            Hook::Precheck => &self.plan.upgrade.precheck,
            Hook::Promote => &self.plan.hooks.promote,
            Hook::Promoted => &self.plan.hooks.promoted,
            Hook::Failed => &self.plan.hooks.failed,
            Hook::RolledBack => &self.plan.hooks.rolled_back,
        };
        if argv.is_empty() {
            match hook {
                Hook::Precheck => self.machine.push(Event::Prepared),
                Hook::Promote => self.machine.push(Event::HookSucceeded),
                Hook::Promoted | Hook::Failed | Hook::RolledBack => {}
            }
            return;
        }
        if hook == Hook::Precheck {
            self.operators.record_step(UpgradeStep::Precheck, None, &self.handover);
        }
        if hook == Hook::Promote {
            self.operators.record_step(UpgradeStep::Hook, self.child.pid(), &self.handover);
        }
        if hook == Hook::Promoted {
            self.operators.record_hook(HookState::Running, None);
        }
        let child = self.child.pid().unwrap_or_default().to_string();
        let psflip = std::process::id().to_string();
        let mut variables =
            vec![("PSFLIP_HOOK", hooks::name(hook)), ("PSFLIP_PID", &psflip), ("PSFLIP_CHILD_PID", &child)];
        let listeners = self.traffic.listeners.addresses().join(" ");
        if !listeners.is_empty() {
            variables.push(("PSFLIP_LISTEN", &listeners));
        }
        if let (Hook::Failed | Hook::RolledBack, Some(reason)) = (hook, &self.reasons.upgrade_failure) {
            variables.push(("PSFLIP_REASON", reason));
        }
        tracing::debug!(hook = hooks::name(hook), command = argv[0], "hook started");
        let (workdir, signals) = (self.plan.workdir.clone(), self.identity.signals);
        let started = SupervisedCommand::start(argv, &self.child.envp, &variables, workdir, signals);
        let result = self.hooks.add(hook, started, self.plan.hooks.timeout, &mut self.wait);
        self.on_hook_result(result);
    }

    /// Queues what follows from the result of a hook.
    pub(super) fn on_hook_result(&mut self, result: Option<hooks::HookResult>) {
        match self.hooks.take_promoted() {
            Some(Ok(())) => self.operators.record_hook(HookState::Succeeded, None),
            Some(Err(why)) => self.operators.record_hook(HookState::Failed, Some(&why)),
            None => {}
        }
        match result {
            None => {}
            Some(result) => {
                let prepares = self.machine.state.is_preparing();
                let event = match (result.is_ok(), prepares) {
                    (true, true) => Event::Prepared,
                    (true, false) => Event::HookSucceeded,
                    (false, true) => Event::NotPrepared(Failure::Precheck),
                    (false, false) => Event::HookFailed,
                };
                if let Err(why) = result {
                    self.reasons.set_failure(why);
                }
                self.machine.push(event);
            }
        }
    }

    fn switch_traffic(&mut self) {
        if self.plan.switch.is_some() {
            self.record_step(UpgradeStep::Switch);
        }
        let event = match self.traffic.switch(&self.plan) {
            Ok(()) => Event::TrafficSwitched { bakes: self.can_bake() },
            Err(reason) => {
                self.reasons.set_failure(reason);
                Event::TrafficRefused
            }
        };
        self.machine.push(event);
    }

    /// Whether this generation bakes.
    fn can_bake(&self) -> bool {
        if self.plan.upgrade.bake.is_none() || self.handover.predecessor.is_none() {
            return false;
        }
        if self.handover.has_turn() {
            return false; // the old configuration says that no child can stand by
        }
        let can = self.handover.predecessor_bakes();
        if !can {
            tracing::warn!(
                "the old psflip is of a version without `upgrade.bake`: this generation takes over at once"
            );
        }
        can
    }

    fn report_baking(&mut self) {
        let bake = self.plan.upgrade.bake.unwrap_or_default();
        let grace = self.drain_time() + self.grace();
        let baking = ToPredecessor::Baking { bake, deadline: predecessor::ACKNOWLEDGEMENT + MARGIN, grace };
        self.report_or_fail(&baking, |error| {
            format!("can't report to the old psflip that this generation bakes: {error}")
        });
    }

    /// Reports that this generation has the traffic on trial.
    pub(super) fn report_bake_begun(&mut self) {
        let sent = self.operators.record_bake(self.child.pid(), &self.handover);
        self.sent_or_fail(sent, |error| {
            format!("can't report to the old psflip that this generation has the traffic: {error}")
        });
    }

    fn report_returned(&mut self) {
        let reason = self.reasons.of_exit().to_owned();
        match self.handover.send_to_predecessor(&ToPredecessor::Returned { reason }) {
            // The reason why the traffic goes back is still the reason of the failure.
            Err(error) if !is_gone(&error) => {
                tracing::error!(%error, "can't report to the old psflip that it gets the traffic back; trying again");
                self.machine.push(Event::ReadyNotSent);
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Sends a message that the promotion depends on.
    fn report_or_fail(&mut self, message: &ToPredecessor, reason: impl FnOnce(io::Error) -> String) {
        let sent = self.handover.send_to_predecessor(message);
        self.sent_or_fail(sent, reason);
    }

    fn sent_or_fail(&mut self, sent: io::Result<()>, reason: impl FnOnce(io::Error) -> String) {
        match sent {
            // If the predecessor is gone, its pidfd shows that.
            Err(error) if !is_gone(&error) => {
                self.reasons.set_failure(reason(error));
                self.machine.push(Event::ReadyNotSent);
            }
            Ok(()) | Err(_) => {}
        }
    }

    fn take_pidfile(&mut self) {
        if self.plan.pidfile.is_some() {
            self.record_step(UpgradeStep::Pidfile);
        }
        let event = match self.traffic.take_pidfile(&self.plan, &self.handover, self.child.pid()) {
            Ok(()) => Event::PidfileTaken,
            Err(reason) => {
                self.reasons.set_failure(reason);
                Event::PidfileRefused
            }
        };
        self.machine.push(event);
    }

    fn report_ready(&mut self) {
        // Logged before the old psflip logs the takeover, so that the lines of both are in order.
        tracing::info!(child = self.child.pid(), health = kind(&self.plan.health), "healthy; taking over");
        self.report_or_fail(&ToPredecessor::Ready, |error| {
            format!("can't report to the old psflip that this generation is ready: {error}")
        });
    }

    fn withdraw(&mut self) {
        let event = match self.handover.withdraw(&mut self.wait) {
            Ok(Some(Acknowledged { upgrade_queued, by, hold })) => {
                self.operators.log.set_requester(by);
                self.proxy.set_hold(hold);
                // `main` can't be received any more; it would follow at once.
                self.managers_know();
                Event::Acknowledged { upgrade_queued }
            }
            Ok(None) => Event::Withdrawn,
            Err(error) => {
                tracing::error!(%error, "can't read the predecessor's last words");
                Event::Withdrawn
            }
        };
        self.machine.push(event);
    }

    fn start_successor(&mut self) {
        // Ctrl-C is to be a stop request to psflip during an upgrade, and the new child may need the
        // terminal.
        self.job_control.take_terminal_back();
        self.mend_files();
        self.traffic.look_before_upgrade(&self.plan);
        // The successor may need these addresses, while an old generation still drains.
        self.traffic.listeners.remove_abandoned();
        self.operators.control.listeners.remove_abandoned();
        let (link, back) = self.proxy.open_links();
        let hello = self.hello(link.is_some(), back.is_some());
        if let Some(tree) = &self.child.tree {
            self.child.reaper.record_descendants(tree.keeper_pid());
        }
        let sockets = self
            .traffic
            .listeners
            .to_hand_over()
            .map(|(address, socket, file)| with(ToSuccessor::Listener { address, file }, socket));
        let control = self
            .operators
            .control
            .listeners
            .to_hand_over()
            .map(|(address, socket, file)| with(ToSuccessor::Control { address, file }, socket));
        let relay = link.as_ref().map(|link| with(ToSuccessor::Relay, link.as_fd()));
        let back = back.as_ref().map(|link| with(ToSuccessor::RelayBack, link.as_fd()));
        let keeper = self.child.keeper().map(|keeper| with(ToSuccessor::Keeper, keeper.as_fd()));
        let records = self.operators.log.history.iter().map(|record| Handed {
            message: ToSuccessor::Record(Box::new(record.clone())),
            descriptors: Vec::new(),
        });

        let is_started = self.handover.start_successor(
            &self.identity.origin.program,
            hello,
            sockets
                .chain(control)
                .chain(relay)
                .chain(back)
                .chain(keeper)
                .chain(records)
                .chain(self.output.to_hand_over()),
            self.plan.upgrade.timeout + MARGIN,
            self.managers.anchor.link(),
            &mut self.wait,
        );
        if is_started {
            self.set_timer(Timer::Successor);
        } else {
            self.machine.push(Event::SuccessorNotStarted);
        }
    }

    /// How long the successor may take has changed.
    pub(super) fn wait_for_successor_anew(&mut self) {
        if matches!(self.machine.state.successor(), Some(Successor::Starting | Successor::Baking)) {
            self.set_timer(Timer::Successor);
            self.drain_queue();
        }
    }

    /// The first message to the successor.
    fn hello(&self, relay: bool, relay_back: bool) -> Hello {
        Hello {
            protocol: message::PROTOCOL,
            // A version that does not know how to wait for its turn must refuse.
            oldest: if self.plan.upgrade.overlap { message::OLDEST_PROTOCOL } else { message::GIVES_WAY },
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            generation: self.identity.generation + 1,
            slot: self.identity.slot.other(),
            signals: self.identity.signals,
            pidfile: self.traffic.pidfile.as_ref().map(|pidfile| text::lossy(pidfile.path())),
            listeners: self.traffic.listeners.to_hand_over().count() as u32,
            control: self.operators.control.listeners.to_hand_over().next().is_some(),
            relay,
            relay_back,
            bakes: true,
            keeper: self.child.keeper().is_some(),
            loggers: self.output.to_hand_over().count() as u32,
            exclusive: !self.plan.upgrade.overlap,
            hold: self.proxy.hold(),
            records: self.operators.log.history.iter().len() as u32,
            older: self.handover.old_generations().count() as u32,
            upgrade: self.operators.log.for_successor(),
            activated: self.identity.activation.is_there(),
            config: self.identity.config.as_ref().and_then(FileStamp::stamp),
        }
    }

    /// The point of no return.
    fn acknowledge(&mut self, upgrade_queued: bool) {
        let by = self.operators.log.hand_on().filter(|_| upgrade_queued);
        let event = match self.handover.acknowledge(upgrade_queued, by, self.proxy.hold()) {
            Committed::Yes => {
                self.traffic.let_go();
                self.operators.log.end_wait();
                self.handover.let_old_generations_go(&mut self.wait);
                self.job_control.take_terminal_back();
                Event::Committed
            }
            Committed::No(by) => {
                self.operators.log.set_requester(by); // the request stays with this generation
                Event::NotCommitted
            }
        };
        self.machine.push(event);
    }

    fn announce_successor(&mut self) {
        let time = self.drain_time() + self.plan.shutdown.delay + self.grace();
        self.managers.hand_over(&self.handover, time, &mut self.wait);
        self.operators.let_go();
    }
}

/// A message of the inheritance, with a descriptor.
fn with(message: ToSuccessor, descriptor: BorrowedFd<'_>) -> Handed<'_> {
    Handed { message, descriptors: vec![descriptor] }
}
