//! Performs effects by means of the operating system.

use std::os::fd::AsFd;

use super::poller::Token;
use super::tell::NOT_HEALTHY_AFTER;
use super::tell::kind;
use super::timers::Key;
use super::{CheckerSlot, MARGIN, Predecessor, Runtime};
use crate::config::{Health, Orphans};
use crate::flip::{Effect, Event, Hook, StartFailure, Timer};
use crate::handover::{Hello, ToPredecessor, ToSuccessor, is_gone, message, successor};
use crate::health::{Checker, ChildInfo};
use crate::history::Step;
use crate::manager::pidfile::{Pidfile, TakenFrom};
use crate::process::invocation::FileStamp;
use crate::process::keeper::Tree;
use crate::process::launch::Launch;
use crate::signal::Signal;
use crate::sys::process;
use crate::text;

impl Runtime {
    /// Performs an effect. Events that follow from it are queued.
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::StartChild => self.start_child(),
            Effect::StartProbing => self.start_probing(),
            Effect::StopProbing => self.stop_probing(),
            Effect::SignalChild => self.signal_child(self.plan.shutdown.signal),
            Effect::KillChild => self.signal_child(Signal::KILL),
            Effect::SignalOrphans => self.signal_orphans(),
            Effect::KillOrphans => self.on_tree(|tree| {
                tree.wake_keeper();
                // If the keeper can't be reached, it is killed, and psflip kills the rest of the tree itself.
                if tree.kill_all().is_err() {
                    tree.kill_keeper();
                }
                Ok(())
            }),
            Effect::RunHook(hook) => {
                if hook == Hook::Promote {
                    self.note(Step::Healthy);
                }
                self.run_hook(hook);
            }
            Effect::EndHook => self.end_hook(Hook::Promote),
            Effect::SwitchTraffic => self.switch_traffic(),
            Effect::TakePidfile => self.take_pidfile(),
            Effect::GiveBack => self.give_back(),
            Effect::TakeBack => self.take_back(),
            Effect::TellReady => {
                // Logged before the old psflip logs the takeover, so that the lines of both are in order.
                let child = self.tree.as_ref().and_then(Tree::child_pid);
                tracing::info!(child, health = kind(&self.plan.health), "healthy; taking over");
                self.tell_predecessor(&ToPredecessor::Ready);
            }
            Effect::PassStopBack => self.tell_predecessor(&ToPredecessor::Stop),
            Effect::PassRequestBack => {
                let by = self.upgrade_log.hand_on();
                self.tell_predecessor(&ToPredecessor::Upgrade { by });
            }
            Effect::Withdraw => self.withdraw(),
            Effect::StartSuccessor => self.start_successor(),
            Effect::Acknowledge { remembered } => self.acknowledge(remembered),
            Effect::AbortSuccessor => self.tell_successor(&ToSuccessor::Abort),
            Effect::PassRequestOn => {
                let by = self.upgrade_log.hand_on();
                self.tell_successor(&ToSuccessor::Upgrade { by });
            }
            Effect::KillSuccessor => self.kill_successor(),
            Effect::Arm(timer) => self.set_timer(timer),
            Effect::Disarm(timer) => self.timers.clear(Key::Flip(timer)),
            Effect::Tell(news) => self.tell(news),
            Effect::Exit(outcome) => self.outcome = Some(outcome),
        }
    }

    fn start_child(&mut self) {
        let opened = self.open_listeners().map_err(|error| error.to_string());
        if let Err(error) = opened.and_then(|()| self.open_control()) {
            self.failure = Some(error);
            self.queue.push_back(Event::ChildNotStarted(StartFailure::Other));
            return;
        }
        let (sockets, envp) = self.sockets_for_child();
        let mut launch =
            Launch::new(self.plan.argv(), envp, self.plan.workdir.clone(), self.identity.signals)
                .with_sockets(sockets);
        // The socket must exist before the child does.
        let started = self.open_notifications().and_then(|notify| {
            if let Some(address) = notify {
                launch = launch.with_variable("NOTIFY_SOCKET", &address);
            }
            let tree = Tree::start(launch)?;
            self.poller.watch(Token::Tree, tree.as_fd())?;
            Ok(tree)
        });
        match started {
            Ok(tree) => self.tree = Some(tree),
            Err(error) => {
                self.failure = Some(format!("can't start `{}`: {error}", self.plan.cmd[0]));
                self.queue.push_back(Event::ChildNotStarted(StartFailure::Other));
            }
        }
    }

    fn start_probing(&mut self) {
        let Some(pid) = self.tree.as_ref().and_then(Tree::child_pid) else { return };
        // Only once: probing starts again when the child ignores a stop.
        if !self.upgrade_log.has_taken(Step::Child) {
            tracing::info!(child = pid, command = self.plan.cmd[0], "child started");
            self.note(Step::Child);
        }
        let child = ChildInfo {
            pid,
            envp: self.envp.clone(),
            workdir: self.plan.workdir.clone(),
            signals: self.identity.signals,
            predecessor: self.predecessor.as_ref().map(|predecessor| predecessor.pid),
        };
        if !matches!(self.plan.health, Health::Alive { .. }) {
            self.timers.set(Key::NotHealthyYet, NOT_HEALTHY_AFTER);
        }
        self.checker = Checker::new(&self.plan.health, child).map(CheckerSlot);
        self.check(Checker::start);
        self.await_ready();
    }

    /// Drops the health check with its running probe, and keeps its last failure.
    fn stop_probing(&mut self) {
        self.timers.clear(Key::Check);
        self.timers.clear(Key::NotHealthyYet);
        self.poller.forget(Token::Check);
        if let Some(CheckerSlot(checker)) = &self.checker {
            self.last_probe_failure = checker.last_failure().map(str::to_owned);
        }
        self.checker = None;
    }

    pub(super) fn signal_child(&mut self, signal: Signal) {
        let Some(tree) = &mut self.tree else { return };
        if tree.child_pid().is_none() && signal == Signal::KILL {
            // Its exec hangs (on a dead network file system), so only the keeper can be killed.
            tree.kill_keeper();
            return;
        }
        if signal == Signal::KILL {
            tree.wake_keeper();
        }
        match tree.signal_child(signal) {
            Ok(()) => {
                tracing::debug!(child = tree.child_pid(), %signal, "signal sent to the child");
                if signal != Signal::KILL {
                    self.continue_child_to_end();
                }
            }
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {} // its exit is about to be reported
            Err(error) => {
                tracing::error!(child = tree.child_pid(), %signal, %error, "can't signal the child");
            }
        }
    }

    fn signal_orphans(&mut self) {
        match self.plan.shutdown.orphans {
            Orphans::Kill => {
                let signal = self.plan.shutdown.signal;
                // A stopped process can't act on the signal.
                self.on_tree(|tree| tree.signal_all(signal).and_then(|()| tree.signal_all(Signal::CONT)));
            }
            Orphans::Leave => self.on_tree(Tree::leave_all),
        }
    }

    /// Sends a command to the keeper, unless it has reported that its tree is gone.
    fn on_tree(&self, command: impl FnOnce(&Tree) -> std::io::Result<()>) {
        if let Some(tree) = &self.tree
            && !tree.is_over()
        {
            let _ = command(tree); // EPIPE: it has just exited, which is reported
        }
    }

    fn take_pidfile(&mut self) {
        let Some(path) = self.plan.pidfile.clone() else {
            self.queue.push_back(Event::PidfileTaken);
            return;
        };
        self.note(Step::Pidfile);
        // From the predecessor: by agreement if it is alive, and as a stale pidfile if it is not.
        let from = match &self.predecessor {
            Some(Predecessor { pidfile: Some(held), .. }) if *held == text::lossy(&path) => {
                TakenFrom::Relative
            }
            _ => TakenFrom::NoProcess,
        };
        match Pidfile::take(&path, from) {
            Ok(pidfile) => {
                let child = self.tree.as_ref().and_then(Tree::child_pid);
                if child.is_some() && pidfile.replaced() == child {
                    tracing::warn!(
                        pidfile = %path.display(),
                        child,
                        "the child writes its own process ID to psflip's pidfile, and may remove the file; set another path for one of them"
                    );
                }
                self.pidfile = Some(pidfile);
                self.queue.push_back(Event::PidfileTaken);
            }
            Err(error) => {
                self.failure = Some(error.to_string());
                self.queue.push_back(Event::PidfileRefused);
            }
        }
    }

    pub(super) fn return_pidfile(&mut self) {
        let Some(pidfile) = self.pidfile.take() else { return };
        let path = text::lossy(pidfile.path());
        let returned = match &self.predecessor {
            Some(Predecessor { pid, pidfile: Some(held), .. }) if *held == path => pidfile.give_back(*pid),
            _ => pidfile.remove(),
        };
        if let Err(error) = returned {
            tracing::error!(%error, "can't return the pidfile to the predecessor");
        }
    }

    pub(super) fn reclaim_pidfile(&mut self) {
        if let Some(pidfile) = &mut self.pidfile
            && let Err(error) = pidfile.reclaim()
        {
            tracing::error!(%error, "can't reclaim the pidfile from the failed generation");
        }
    }

    fn tell_predecessor(&mut self, message: &ToPredecessor) {
        let sent = match &self.predecessor {
            Some(Predecessor { link, .. }) => link.send(message),
            None => Err(std::io::Error::from_raw_os_error(libc::EPIPE)),
        };
        let Err(error) = sent else { return };
        // If the predecessor is gone, its pidfd shows that. But an upgrade request that can't be passed back
        // must be answered, and an acknowledgement can't come if `ready` could not be sent.
        if matches!(message, ToPredecessor::Upgrade { .. }) {
            self.tell(crate::flip::News::RequestRefused);
        } else if *message == ToPredecessor::Ready && !is_gone(&error) {
            self.failure =
                Some(format!("can't report to the old psflip that this generation is ready: {error}"));
            self.queue.push_back(Event::ReadyNotSent);
        }
    }

    fn withdraw(&mut self) {
        let answer = match &self.predecessor {
            Some(Predecessor { link, .. }) => link.withdraw(),
            None => Ok(None),
        };
        self.poller.forget(Token::Predecessor);
        let event = match answer {
            Ok(Some((remembered, by))) => {
                self.upgrade_log.asked(by);
                // `main` can't be received any more; it would follow at once.
                self.managers_know();
                Event::Acknowledged { remembered }
            }
            Ok(None) => Event::Withdrawn,
            Err(error) => {
                tracing::error!(%error, "can't read the predecessor's last words");
                Event::Withdrawn
            }
        };
        self.queue.push_back(event);
    }

    fn start_successor(&mut self) {
        // Ctrl-C is to be a stop request to psflip during an upgrade, and the new child may need the
        // terminal.
        self.take_terminal_back();
        self.mend_files();
        self.look_before_upgrade();
        let hello = Hello {
            protocol: message::PROTOCOL,
            oldest: message::OLDEST_PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            generation: self.identity.generation + 1,
            slot: self.identity.slot.other(),
            signals: self.identity.signals,
            pidfile: self.pidfile.as_ref().map(|pidfile| text::lossy(pidfile.path())),
            listeners: self.listeners.to_hand_over().count() as u32,
            control: self.control.listeners.to_hand_over().next().is_some(),
            records: self.upgrade_log.history.iter().len() as u32,
            upgrade: self.upgrade_log.for_successor(),
            activated: self.identity.activation.is_there(),
            config: self.identity.config.as_ref().and_then(FileStamp::stamp),
        };
        if let Some(tree) = &self.tree {
            self.reaper.note_wards(tree.keeper_pid());
        }
        let result = process::set_subreaper(false).and_then(|()| {
            let program = &self.identity.origin.program;
            let sockets = self
                .listeners
                .to_hand_over()
                .map(|(address, socket, file)| (ToSuccessor::Listener { address, file }, Some(socket)));
            let control = self
                .control
                .listeners
                .to_hand_over()
                .map(|(address, socket, file)| (ToSuccessor::Control { address, file }, Some(socket)));
            let records = self.upgrade_log.history.iter();
            let records = records.map(|record| (ToSuccessor::Record(Box::new(record.clone())), None));
            let inheritance = sockets.chain(control).chain(records);
            let deadline = self.plan.upgrade.timeout + MARGIN;
            let anchor = self.managers.anchor.as_ref();
            successor::Link::start(program, hello, inheritance, deadline, anchor, |end| {
                self.poller.watch(Token::Successor, end)
            })
        });
        match result {
            Ok((link, intermediate)) => {
                self.intermediate = Some(intermediate);
                self.successor = Some(link);
                self.set_timer(Timer::Successor);
            }
            Err(error) => {
                self.poller.forget(Token::Successor);
                self.become_subreaper_again();
                self.start_error = Some(format!("can't start a new psflip: {error}"));
                self.queue.push_back(Event::SuccessorNotStarted);
            }
        }
    }

    /// Undoes `set_subreaper(false)` of [`Self::start_successor`]; see `process/reaper.rs`.
    pub(super) fn become_subreaper_again(&mut self) {
        if let Err(error) = process::set_subreaper(true) {
            tracing::error!(%error, "can't become a subreaper again");
        }
    }

    /// The point of no return (see `flip`): either the acknowledgement is sent, or it fails and nothing has
    /// changed.
    fn acknowledge(&mut self, remembered: bool) {
        let Some(link) = &mut self.successor else { return };
        let alive = link.process().is_some_and(|(_, process)| !process.has_ended());
        // A successor that was sent an abort may not have read it yet.
        let committed = if alive && link.failure().is_none() {
            let by = self.upgrade_log.hand_on().filter(|_| remembered);
            let sent = link.send(&ToSuccessor::Acknowledge { remembered, by: by.clone() });
            if sent.is_err() {
                self.upgrade_log.asked(by); // the request stays with this generation
            }
            sent
        } else {
            Err(std::io::Error::from_raw_os_error(libc::ESRCH))
        };
        let event = match committed {
            Ok(()) => Event::Committed,
            Err(error) => {
                let gave_up =
                    matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ESRCH));
                let why = if gave_up { "gave up before it could" } else { "can't" };
                link.give_up_unacknowledged(format!("the new psflip {why} be acknowledged: {error}"));
                Event::NotCommitted
            }
        };
        if event == Event::Committed {
            self.hand_over_managers();
            self.let_go_of_listeners();
            self.note_superseded();
            self.let_go_of_operators();
            self.take_terminal_back();
        }
        self.queue.push_back(event);
    }

    fn tell_successor(&mut self, message: &ToSuccessor) {
        let sent = self.successor.as_ref().is_some_and(|link| link.send(message).is_ok());
        if !sent && matches!(message, ToSuccessor::Upgrade { .. }) {
            self.tell(crate::flip::News::RequestRefused);
        }
        if *message == ToSuccessor::Abort
            && let Some(link) = &mut self.successor
        {
            link.set_stopped();
        }
    }

    fn kill_successor(&mut self) {
        debug_assert!(self.state.successor().is_some());
        match self.successor.as_ref().and_then(successor::Link::process) {
            Some((pid, process)) => {
                tracing::warn!(pid, "killing the new psflip");
                let _ = process.send(Signal::KILL); // it may have exited
            }
            // It has not reported its pid. If it still starts, it exits on the `abort` that `let_go` sends.
            None => self.queue.push_back(Event::SuccessorNotStarted),
        }
    }
}
