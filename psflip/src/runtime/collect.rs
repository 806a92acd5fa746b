//! Turns ready descriptors into events.

use std::io;

use super::job_control::log_signal;
use super::poller::Token;
use super::timers::Key;
use super::{Predecessor, Runtime};
use crate::exit_status::ExitStatus;
use crate::flip::signals::{
    Meaning, Reach, Request, Sender, Situation, forwarded_as, is_of_terminal, meaning,
};
use crate::flip::{ChildSignal, Event, Hook, StartFailure, Timer};
use crate::handover::predecessor::FromPredecessor;
use crate::handover::successor::FromSuccessor;
use crate::handover::{ToPredecessor, ToSuccessor};
use crate::health;
use crate::history::UpgradeStep;
use crate::process::job_control as job;
use crate::process::keeper::{Report, Tree};
use crate::process::launch::{Refusal, Stage};
use crate::signal::Signal;
use crate::sys::errors::is_transient;
use crate::sys::signal::Received;

impl Runtime {
    /// Handles a descriptor that is ready.
    pub(super) fn collect(&mut self, token: Token) -> io::Result<()> {
        match token {
            Token::Anchor => self.managers.anchor.is_gone(),
            Token::FormerParent => {
                self.wait.poller.forget(Token::FormerParent);
                self.managers.anchor.is_parent();
                Ok(())
            }
            Token::Descendants => {
                if let Some(descendants) = &mut self.child.descendants {
                    descendants.log_failures();
                }
                Ok(())
            }
            Token::Tree => self.on_keeper_report(),
            Token::Child => self.child_is_gone(),
            Token::Relay => self.on_relay_report(),
            Token::Stdout | Token::Stderr => self.look_at_readers(),
            Token::Successor => self.on_successor_message(),
            Token::SuccessorProcess => {
                // Read its last messages first.
                self.on_successor_message()?;
                self.successor_is_gone();
                Ok(())
            }
            Token::Predecessor => self.on_predecessor_message(AT_ONCE),
            Token::PredecessorProcess => {
                // Read its last messages first.
                self.on_predecessor_message(usize::MAX)?;
                self.handover.forget_predecessor(&mut self.wait);
                self.traffic.listeners.predecessor_is_gone();
                self.nobody_else_speaks();
                self.start_readers_again();
                self.operators.control.listeners.predecessor_is_gone();
                self.dispatch(Event::PredecessorGone);
                Ok(())
            }
            Token::OlderGenerations => {
                self.on_older_generations();
                Ok(())
            }
            Token::SuccessorTree => {
                self.handover.forget_successor_tree(&mut self.wait);
                self.dispatch(Event::SuccessorTreeGone);
                Ok(())
            }
            Token::PredecessorTree => {
                self.handover.forget_predecessor_tree(&mut self.wait);
                self.dispatch(Event::PredecessorTreeGone);
                Ok(())
            }
            Token::Check => {
                self.check(health::Checker::on_ready);
                self.drain_queue();
                Ok(())
            }
            Token::Notifications => self.on_notifications(),
            Token::Precheck => self.hooked(Hook::Precheck),
            Token::PromoteHook => self.hooked(Hook::Promote),
            Token::PromotedHook => self.hooked(Hook::Promoted),
            Token::FailedHook => self.hooked(Hook::Failed),
            Token::RolledBackHook => self.hooked(Hook::RolledBack),
            Token::Managers => {
                self.managers.have_room(&self.handover, &mut self.wait);
                Ok(())
            }
            Token::Control => {
                self.on_clients();
                Ok(())
            }
            Token::Files => {
                let is_over = self.machine.state.is_superseded();
                self.operators.files.read_changes(is_over, &mut self.wait);
                self.look_after_files();
                Ok(())
            }
            Token::Changes => {
                self.on_changes();
                Ok(())
            }
            Token::Signals => self.read_signals(),
            Token::Timers => {
                for key in self.wait.timers.take_due() {
                    match key {
                        Key::Flip(timer) => self.timed_out(timer),
                        Key::Check => {
                            self.check(health::Checker::on_timer);
                            self.drain_queue();
                        }
                        Key::NotHealthyYet => self.log_not_healthy_yet(),
                        Key::Settle => self.settle_is_over(),
                        Key::Descendants => {
                            self.child.watch_descendants(self.plan.health.settle(), &mut self.wait);
                        }
                        Key::Notifications => self.child.resume_notifications(&mut self.wait)?,
                        Key::SignOfLife => self.managers.sign_of_life(&mut self.wait),
                        Key::Control => self.operators.control.on_timer(&mut self.wait),
                        Key::Relay => self.on_relay_timer(),
                        Key::Recycle => self.has_aged(),
                        Key::Memory => self.look_at_memory(),
                        Key::Changes => self.changes_settled(),
                        Key::Output => self.start_readers_again(),
                        Key::Keeper => self.child_is_gone()?,
                        Key::Sweep => self.sweep(),
                        Key::Hook(hook) => {
                            let limit = self.plan.hooks.timeout;
                            let result = self.hooks.is_late(hook, limit, &mut self.wait);
                            self.on_hook_result(result);
                            self.drain_queue();
                        }
                    }
                }
                Ok(())
            }
        }
    }

    fn hooked(&mut self, hook: Hook) -> io::Result<()> {
        let result = self.hooks.on_ready(hook, &mut self.wait);
        self.on_hook_result(result);
        self.drain_queue();
        Ok(())
    }

    fn timed_out(&mut self, timer: Timer) {
        if timer == Timer::Successor {
            self.handover.successor_is_late(self.machine.state.successor());
        }
        self.dispatch(Event::TimedOut(timer));
    }

    fn on_keeper_report(&mut self) -> io::Result<()> {
        while let Some(report) = self.child.next_report(&mut self.wait)? {
            match report {
                Report::Started => {
                    self.child.watch(&mut self.wait);
                    self.dispatch(Event::ChildStarted);
                }
                Report::Refused(refusal) => self.child_was_refused(&refusal),
                Report::Stopped(signal) => self.child_was_stopped(signal)?,
                Report::Continued => self.job_control.on_continue(),
                Report::Other(_) | Report::CaughtUp => {} // not requested
                Report::Pending(is_pending) => self.child_has_pending(is_pending),
                Report::About { pid, belongs } => {
                    if let Some(update) = self.child.sender_is_known(pid, belongs) {
                        self.on_notify_update(update);
                    }
                }
                Report::Exited(end) => self.on_child_exit(end)?,
                Report::Gone => self.dispatch(Event::TreeGone),
                Report::KeeperDied => self.on_keeper_death()?,
            }
            if self.machine.outcome.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The child has exited. Nearly always the keeper has reported that already, or does so at this moment.
    fn child_is_gone(&mut self) -> io::Result<()> {
        self.on_keeper_report()?;
        self.child.press_keeper(&mut self.wait);
        Ok(())
    }

    fn on_notifications(&mut self) -> io::Result<()> {
        let is_starting = self.machine.state.is_starting();
        if let Some(update) = self.child.read_notifications(is_starting, &mut self.wait)? {
            self.on_notify_update(update);
        }
        Ok(())
    }

    fn on_notify_update(&mut self, update: health::NotifyUpdate) {
        if update.gives_up && self.machine.state.is_on_trial() {
            self.dispatch(Event::ChildUnhealthy);
            return;
        }
        // After the promotion nothing depends on these messages.
        if !self.machine.state.is_starting() {
            return;
        }
        if let Some(time) = update.extend {
            let timeout = self.plan.upgrade.timeout;
            if let Some(left) = self.child.extend(time, &self.plan.health, timeout, &mut self.wait) {
                let deadline = left + self.promotion() + self.grace();
                self.managers.be_patient(deadline, &mut self.wait);
                self.handover.report(&ToPredecessor::Extended { deadline });
            }
        }
        // Before the start of the child was reported, this has to wait for `start_probing`.
        if update.ready && self.child.pid().is_some() {
            self.child_is_healthy();
            self.drain_queue();
        }
        if update.gives_up && self.machine.state.is_settling() {
            self.dispatch(Event::ChildNeverHealthy);
        }
    }

    fn child_was_refused(&mut self, refusal: &Refusal) {
        let why = self.child_is_refused(refusal);
        self.dispatch(Event::ChildNotStarted(why));
    }

    /// Puts the reason why the child can't be started into words.
    pub(super) fn child_is_refused(&mut self, refusal: &Refusal) -> StartFailure {
        let command = &self.plan.cmd[0];
        let Refusal { stage, error } = refusal;
        self.managers.errno = error.raw_os_error();
        let why = match (stage, error.raw_os_error()) {
            (Stage::Exec, Some(libc::ENOENT | libc::ENOTDIR)) => StartFailure::NotFound,
            (Stage::Exec, _) => StartFailure::NotExecutable,
            (Stage::Fork | Stage::ParentDeath | Stage::Workdir, _) => StartFailure::Other,
        };
        let workdir = || self.plan.workdir.as_deref().unwrap_or(std::path::Path::new(".")).display();
        self.reasons.set_failure(match stage {
            Stage::Exec => refusal.of_exec(command, self.plan.workdir.as_deref()),
            Stage::Workdir => format!("can't start `{command}` in workdir `{}`: {error}", workdir()),
            Stage::Fork | Stage::ParentDeath => format!("can't start `{command}`: {error}"),
        });
        why
    }

    /// The keeper was killed, by the OOM killer for example. The kernel killed the child with it; psflip has
    /// to kill the rest of the process tree.
    fn on_keeper_death(&mut self) -> io::Result<()> {
        let pid = self.child.tree.as_ref().map(Tree::keeper_pid);
        tracing::error!(
            keeper = pid,
            "the keeper was killed, and the child with it; killing the rest of its process tree"
        );
        let read = self.on_child_exit(self.child.end_with_lost_keeper());
        self.sweep();
        read
    }

    fn on_child_exit(&mut self, end: ExitStatus) -> io::Result<()> {
        // A signal to the whole process group or service reaches psflip, too. Read pending signals first, so
        // that a stop or upgrade request is known before the exit is judged.
        let read = self.read_signals();
        self.job_control.on_continue();
        self.job_control.take_terminal_back();
        if end == ExitStatus::Exited(0) && !self.machine.state.is_stopping() {
            self.reasons.look_for_background(&self.child, &self.plan);
        }
        self.dispatch(Event::ChildExited(end)); // reported exactly once, whatever else fails
        read
    }

    fn sweep(&mut self) {
        let spared = self.handover.intermediate().into_iter().chain(self.proxy.pid());
        if self.child.sweep(spared, &mut self.wait) {
            self.dispatch(Event::TreeGone);
        }
    }

    pub(super) fn read_signals(&mut self) -> io::Result<()> {
        while let Some(received) = self.wait.signals.next()? {
            if received.signal == Signal::CHLD {
                self.reap();
            } else {
                self.signalled(&received);
            }
        }
        Ok(())
    }

    fn reap(&mut self) {
        let _ = self.look_at_readers(); // before one of them is reaped
        let mut reaped = false;
        while let Some(change) = self.child.reaper.next() {
            reaped = true;
            if self.handover.was_reaped(change.pid) {
                self.dispatch(Event::SuccessorReady);
            }
        }
        if reaped && self.child.reaper.is_sweeping() {
            self.sweep();
        }
    }

    fn signalled(&mut self, received: &Received) {
        let relayed = self.managers.anchor.original(received);
        if let Some(original) = &relayed
            && self.machine.is_superseded()
            && self.handover.pass_on(received, original)
        {
            return;
        }
        let is_relayed = relayed.is_some();
        let received = relayed.as_ref().unwrap_or(received);
        let sender = job::sender(received);
        if sender == Sender::Kernel
            && self.managers.anchor.is_there()
            && !is_relayed
            && is_of_terminal(received.signal)
        {
            return; // it came before this process left the anchor's group, and the anchor relays it
        }
        let suspended = self.job_control.on_signal(received.signal, sender);
        if received.signal == Signal::CONT && suspended && !is_relayed {
            self.managers.anchor.wake();
        }
        let situation = Situation { upgrade_signal: Some(self.plan.upgrade.signal), suspended };
        let Meaning { forward, request } = meaning(received.signal, sender, &situation);
        if sender == Sender::Own && forward.is_none() && request.is_none() {
            return; // raised by a failed write(2), as a log line about it would raise the next
        }
        let sent = forwarded_as(received.signal, &self.plan.signals).filter(|_| forward.is_some());
        log_signal(received, sent, request);
        // A stop request waits until the relay has answered what is under way (contract T5).
        let stops = request == Some(Request::Stop);
        // The anchor's own SIGTERM: the active generation has exited, and the service is to be started again
        // (A3).
        let hurries =
            stops && !is_relayed && self.machine.is_superseded() && self.managers.anchor.is_from(received);
        let may_wait = !self.plan.proxies.is_empty() || self.machine.state.is_on_trial();
        let waits = stops && !hurries && may_wait && self.machine.state.stop_waits_for_relay();
        if let (Some(reach), Some(signal)) = (forward, sent) {
            let received = Received { signal, ..*received };
            if waits {
                self.proxy.held_signal = Some((received, reach));
            } else {
                if stops {
                    self.proxy.held_signal = None; // this one is the second
                }
                self.forward(&received, reach);
            }
        }
        // In a bake both children are the service's, and the new one gets the signal as its own configuration
        // says (contract B5).
        if forward.is_some() && !stops && self.machine.state.successor_bakes() {
            self.handover.send_to_successor(&ToSuccessor::Signal(*received));
        }
        if request == Some(Request::Stop) {
            self.continue_child_to_stop();
        }
        match request {
            Some(Request::Upgrade) => {
                let by = format!("{} from {}", received.signal, job::sender_text(received));
                self.operators.log.set_requester(Some(by));
                self.dispatch(Event::UpgradeRequested);
            }
            Some(Request::Stop) => {
                let signal = if waits { ChildSignal::Send } else { ChildSignal::HasIt };
                if !self.machine.is_superseded() || self.proxy.is_new_stop(false) {
                    self.dispatch(Event::StopRequested(signal));
                }
                if hurries {
                    self.dispatch(Event::StopRequested(signal)); // does not wait for what is under way
                }
            }
            None => self.reasons.record_signal(received.signal),
        }
    }

    fn on_successor_message(&mut self) -> io::Result<()> {
        while let Some(link) = &mut self.handover.successor {
            let message = match link.receive() {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(error) if is_transient(&error) => return Err(error), // retried
                // EMFILE: its message is lost, so the upgrade is given up (contract F10). But it is still
                // alive, and may take and return the pidfile until it exits, so its exit is awaited.
                Err(error) => {
                    link.give_up(format!("can't receive from the new psflip: {error}"));
                    return Ok(());
                }
            };
            match message {
                FromSuccessor::Spawned => {
                    let pid = link.process().map(|(pid, _)| pid);
                    if self.handover.watch_successor(&mut self.wait).is_err() {
                        self.successor_is_gone();
                    }
                    self.operators.record_progress(UpgradeStep::Spawned, pid, None, None, None);
                }
                FromSuccessor::Starting { version } => {
                    let pid = link.process().map(|(pid, _)| pid);
                    tracing::debug!(pid, version, "the new psflip starts its child");
                    self.operators.record_progress(UpgradeStep::Starting, pid, None, None, None);
                    self.wait_for_successor_anew();
                }
                FromSuccessor::Prepared => self.dispatch(Event::SuccessorPrepared),
                FromSuccessor::Extended => self.wait_for_successor_anew(),
                // Its parent is still the intermediate process, so this psflip would kill it on exit. It must
                // not become the service before the service manager is its parent (contract U10). The check
                // is repeated when the intermediate process is reaped.
                FromSuccessor::Ready if !self.handover.successor_is_independent() => {}
                FromSuccessor::Ready => self.dispatch(Event::SuccessorReady),
                FromSuccessor::Baking => {
                    self.dispatch(Event::SuccessorBakes);
                    self.keep_if_requested();
                }
                FromSuccessor::Returned => self.dispatch(Event::SuccessorReturned),
                FromSuccessor::Failed => {}
                FromSuccessor::Upgrade { by } => {
                    self.operators.log.set_requester(by);
                    self.dispatch(Event::RequestPassedBack);
                }
                FromSuccessor::Resume => self.hold_connections(None),
                FromSuccessor::Stop => {
                    if !self.machine.is_superseded() || self.proxy.is_new_stop(true) {
                        self.dispatch(Event::StopRequested(ChildSignal::Send));
                    }
                }
                FromSuccessor::Reopen => self.reopen_for_successor(),
                FromSuccessor::End => self.dispatch(Event::EndRequested),
                FromSuccessor::Warning { text } => self.operators.pass_warning_on(text),
                FromSuccessor::Progress { step, child, probe, left } => {
                    self.operators.record_progress(step, None, child, probe, left);
                    if step == UpgradeStep::Baking {
                        self.wait_for_successor_anew();
                        self.operators.report_bake(self.handover.bake());
                    }
                }
                FromSuccessor::Closed => {
                    self.wait.poller.forget(Token::Successor);
                    // A promoted successor is independent.
                    if self.machine.state.successor().is_some() && !self.handover.successor_closed() {
                        self.successor_is_gone();
                    }
                    return Ok(());
                }
                FromSuccessor::Misbehaved => {
                    self.wait.poller.forget(Token::Successor);
                    // A promoted successor is independent.
                    if self.machine.state.successor().is_some() && !self.handover.successor_misbehaved() {
                        self.successor_is_gone();
                    }
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn successor_is_gone(&mut self) {
        self.wait.poller.forget(Token::SuccessorProcess);
        // The generation that replaced the successor has its end of the connection (D3).
        if !self.machine.is_superseded() {
            self.wait.poller.forget(Token::Successor);
        }
        self.dispatch(Event::SuccessorGone);
    }

    /// Reads up to `most` messages. The rest stays in the socket, so that signals and timers get their turn
    /// first.
    fn on_predecessor_message(&mut self, most: usize) -> io::Result<()> {
        for _ in 0..most {
            let Some(Predecessor { link, .. }) = &self.handover.predecessor else { return Ok(()) };
            let message = match link.receive() {
                Ok(Some(message)) => message,
                Ok(None) => return Ok(()),
                Err(error) if is_transient(&error) => return Err(error), // retried
                // Its process is still watched. If an acknowledgement was lost, the timer limits the wait
                // for it.
                Err(error) => {
                    tracing::error!(%error, "can't receive from the old psflip");
                    self.wait.poller.forget(Token::Predecessor);
                    return Ok(());
                }
            };
            match message {
                FromPredecessor::Start { waiting_since, lease } => self.turn_is_granted(waiting_since, lease),
                FromPredecessor::Logger(logger) => self.logger_is_new(logger),
                FromPredecessor::Reopen { client } => self.reopen(&client),
                FromPredecessor::Message(ToSuccessor::Acknowledge { upgrade_queued, by, hold }) => {
                    self.proxy.set_hold(hold);
                    self.operators.log.set_requester(by);
                    self.dispatch(Event::Acknowledged { upgrade_queued });
                }
                FromPredecessor::Message(ToSuccessor::Abort { reason }) => {
                    if let Some(reason) = reason {
                        self.reasons.set_failure(reason);
                    }
                    self.dispatch(Event::Aborted);
                }
                FromPredecessor::Message(ToSuccessor::Hurry) => {
                    self.dispatch(Event::StopRequested(ChildSignal::Send));
                }
                FromPredecessor::Message(ToSuccessor::Traffic) => self.dispatch(Event::TrafficGranted),
                FromPredecessor::Message(ToSuccessor::Keep) => self.dispatch(Event::KeepRequested),
                FromPredecessor::Message(ToSuccessor::Signal(received)) => {
                    if self.machine.state.is_on_trial()
                        && let Some(signal) = forwarded_as(received.signal, &self.plan.signals)
                    {
                        self.forward(&Received { signal, ..received }, Reach::Child);
                    }
                }
                FromPredecessor::Message(ToSuccessor::Answered { passed_on, waited_for }) => {
                    self.operators.record_answered(passed_on, waited_for);
                }
                FromPredecessor::Message(ToSuccessor::OlderDraining { generation, step, left }) => {
                    self.handover.older.set_progress(generation, step, left);
                    self.operators.record_older_drain(generation, step);
                }
                FromPredecessor::Message(ToSuccessor::Draining { step, left }) => {
                    self.handover.set_progress(step, left);
                    self.operators.record_drain_step(step);
                    if self.managers.know_by_drain() {
                        self.dispatch(Event::Announced);
                    }
                    if self.machine.state.awaits_predecessor() {
                        self.set_timer(Timer::Predecessor);
                    }
                }
                FromPredecessor::Message(ToSuccessor::Upgrade { by }) => {
                    self.operators.log.set_requester(by);
                    self.dispatch(Event::RequestPassedOn);
                }
                FromPredecessor::Message(ToSuccessor::Main) => {
                    self.managers_know();
                    self.dispatch(Event::Announced);
                }
                FromPredecessor::Message(ToSuccessor::Hold { hold }) => self.predecessor_holds(hold),
                FromPredecessor::Message(
                    ToSuccessor::Hello(_)
                    | ToSuccessor::Listener { .. }
                    | ToSuccessor::Control { .. }
                    | ToSuccessor::Relay
                    | ToSuccessor::RelayBack
                    | ToSuccessor::Keeper
                    | ToSuccessor::Logger { .. }
                    | ToSuccessor::Reopen
                    | ToSuccessor::Start { .. }
                    | ToSuccessor::Older { .. }
                    | ToSuccessor::Record(_),
                ) => {}
                FromPredecessor::Closed => {
                    // It is dead, or about to be. Its pidfd shows that: a process closes its files before it
                    // counts as exited. A predecessor that stays alive sends `Abort` before it closes the
                    // connection.
                    self.wait.poller.forget(Token::Predecessor);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Continues the health check, and acts on its result.
    pub(super) fn check(&mut self, go_on: impl FnOnce(&mut health::Checker) -> health::CheckResult) {
        let verdict = self.child.check(go_on, &mut self.wait);
        self.checked(verdict);
    }

    /// Acts on the result of the health check.
    pub(super) fn checked(&mut self, verdict: health::Verdict) {
        if let Some(failure) = self.child.failed_probe() {
            self.operators.record_probe(failure, &self.handover);
        }
        match verdict {
            health::Verdict::Open => {}
            health::Verdict::Healthy => self.child_is_healthy(),
            health::Verdict::Unhealthy => self.child_is_unhealthy(),
            health::Verdict::Settled => self.machine.push(Event::ChildSettled),
            health::Verdict::Never if self.machine.state.is_on_trial() => {
                self.machine.push(Event::ChildUnhealthy);
            }
            health::Verdict::Never => self.machine.push(Event::ChildNeverHealthy),
        }
    }
}

/// How many messages are read before other descriptors get their turn, so that one sender can't block the
/// loop.
const AT_ONCE: usize = 50;
