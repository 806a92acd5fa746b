//! Turns ready descriptors into events.

use std::io;
use std::os::fd::AsFd;

use nix::sys::epoll::EpollFlags;

use super::poller::Token;
use super::timers::Key;
use super::{CheckerSlot, Predecessor, Runtime};
use crate::end::End;
use crate::flip::signals::{Meaning, Request, Sender, Situation, forwarded_as, is_of_terminal, meaning};
use crate::flip::{ChildSignal, Event, Hook, StartFailure, Successor, Timer};
use crate::handover::{ToSuccessor, predecessor, successor};
use crate::health;
use crate::history::Step;
use crate::process::job_control as job;
use crate::process::keeper::Report;
use crate::process::launch::{Refusal, Stage};
use crate::signal::Signal;
use crate::sys::errors::is_transient;
use crate::sys::signal::Received;

impl Runtime {
    /// Handles a descriptor that is ready.
    pub(super) fn collect(&mut self, token: Token) -> io::Result<()> {
        match token {
            Token::Anchor => self.anchor_is_gone(),
            Token::Tree => self.on_keeper_report(),
            Token::Child => self.child_is_gone(),
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
                self.poller.forget(Token::PredecessorProcess);
                self.poller.forget(Token::Predecessor);
                self.predecessor = None;
                self.listeners.predecessor_is_gone();
                self.nobody_else_speaks();
                self.control.listeners.predecessor_is_gone();
                self.dispatch(Event::PredecessorGone);
                Ok(())
            }
            Token::Check => {
                self.check(health::Checker::on_ready);
                self.drain_queue();
                Ok(())
            }
            Token::Notifications => self.on_notifications(),
            Token::PromoteHook => self.hooked(Hook::Promote),
            Token::PromotedHook => self.hooked(Hook::Promoted),
            Token::FailedHook => self.hooked(Hook::Failed),
            Token::Managers => {
                self.managers_have_room();
                Ok(())
            }
            Token::Control => {
                self.on_clients();
                Ok(())
            }
            Token::Files => {
                self.files_changed();
                Ok(())
            }
            Token::Signals => self.read_signals(),
            Token::Timers => {
                for key in self.timers.take_due() {
                    match key {
                        Key::Flip(timer) => self.timed_out(timer),
                        Key::Check => {
                            self.check(health::Checker::on_timer);
                            self.drain_queue();
                        }
                        Key::NotHealthyYet => self.tell_not_healthy_yet(),
                        Key::Notifications => self.resume_notifications()?,
                        Key::SignOfLife => self.sign_of_life(),
                        Key::Control => self.control_timer(),
                        Key::Keeper => self.child_is_gone()?,
                        Key::Sweep => self.sweep(),
                        Key::Hook(hook) => {
                            self.hook_is_late(hook);
                            self.drain_queue();
                        }
                    }
                }
                Ok(())
            }
        }
    }

    fn hooked(&mut self, hook: Hook) -> io::Result<()> {
        self.on_hook(hook);
        self.drain_queue();
        Ok(())
    }

    fn timed_out(&mut self, timer: Timer) {
        if timer == Timer::Successor {
            self.successor_is_late();
        }
        self.dispatch(Event::TimedOut(timer));
    }

    fn on_keeper_report(&mut self) -> io::Result<()> {
        while let Some(tree) = &mut self.tree {
            let Some(report) = tree.next_report()? else { return Ok(()) };
            if tree.is_over() {
                self.poller.forget(Token::Tree);
            }
            if tree.has_told_end() {
                self.poller.forget(Token::Child);
                self.timers.clear(Key::Keeper);
            }
            match report {
                Report::Started => {
                    self.watch_child();
                    self.dispatch(Event::ChildStarted);
                }
                Report::Refused(refusal) => self.child_was_refused(&refusal),
                Report::Stopped(signal) => self.child_was_stopped(signal)?,
                Report::Continued => self.job_control.on_continue(),
                Report::Other(_) | Report::CaughtUp => {} // not requested
                Report::About { pid, belongs } => self.sender_is_known(pid, belongs),
                Report::Ended(end) => self.child_has_ended(end)?,
                Report::Gone => self.dispatch(Event::TreeGone),
                Report::Lost => self.keeper_is_lost()?,
            }
            if self.outcome.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Watches the child itself, since a keeper that is stopped or hangs does not report the exit.
    fn watch_child(&mut self) {
        if let Some(child) = self.tree.as_ref().and_then(crate::process::keeper::Tree::unreported_child)
            && let Err(error) = self.poller.watch(Token::Child, child)
        {
            tracing::debug!(%error, "can't wait for the child itself, only for its keeper's report");
        }
    }

    /// The child has exited. Nearly always the keeper has reported that already, or does so at this moment.
    fn child_is_gone(&mut self) -> io::Result<()> {
        self.on_keeper_report()?;
        if let Some(late) = self.tree.as_mut().and_then(crate::process::keeper::Tree::press_keeper) {
            self.poller.forget(Token::Child); // it would stay ready forever
            self.timers.set(Key::Keeper, late.saturating_duration_since(std::time::Instant::now()));
        }
        Ok(())
    }

    fn child_was_refused(&mut self, refusal: &Refusal) {
        let command = &self.plan.cmd[0];
        let Refusal { stage, error } = refusal;
        self.managers.errno = error.raw_os_error();
        let why = match (stage, error.raw_os_error()) {
            (Stage::Exec, Some(libc::ENOENT | libc::ENOTDIR)) => StartFailure::NotFound,
            (Stage::Exec, _) => StartFailure::NotExecutable,
            (Stage::Fork | Stage::ParentDeath | Stage::Workdir, _) => StartFailure::Other,
        };
        let workdir = || self.plan.workdir.as_deref().unwrap_or(std::path::Path::new(".")).display();
        self.failure = Some(match stage {
            Stage::Exec => refusal.of_exec(command, self.plan.workdir.as_deref()),
            Stage::Workdir => format!("can't start `{command}` in workdir `{}`: {error}", workdir()),
            Stage::Fork | Stage::ParentDeath => format!("can't start `{command}`: {error}"),
        });
        self.dispatch(Event::ChildNotStarted(why));
    }

    /// The keeper was killed, by the OOM killer for example. The kernel killed the child with it; psflip has
    /// to kill the rest of the process tree.
    fn keeper_is_lost(&mut self) -> io::Result<()> {
        let pid = self.tree.as_ref().map(crate::process::keeper::Tree::keeper_pid);
        tracing::error!(
            keeper = pid,
            "the keeper was killed, and the child with it; killing the rest of its process tree"
        );
        let end = self.tree.as_ref().map(crate::process::keeper::Tree::end_of_lost_child);
        let read = self.child_has_ended(end.unwrap_or(End::Killed(Signal::KILL)));
        self.sweep();
        read
    }

    fn child_has_ended(&mut self, end: End) -> io::Result<()> {
        // A signal to the whole process group or service reaches psflip, too. Read pending signals first, so
        // that a stop or upgrade request is known before the exit is judged.
        let read = self.read_signals();
        self.job_control.on_continue();
        self.take_terminal_back();
        self.note_end(end);
        self.dispatch(Event::ChildEnded(end)); // reported exactly once, whatever else fails
        read
    }

    fn sweep(&mut self) {
        // The keeper has exited, but a debugger may keep it from being reaped.
        let keeper = self.tree.as_ref().map(crate::process::keeper::Tree::keeper_pid);
        let spared: Vec<u32> = self.intermediate.into_iter().chain(keeper).collect();
        if self.reaper.sweep(&spared) {
            self.timers.clear(Key::Sweep);
            self.dispatch(Event::TreeGone);
        } else if let Some(next) = self.reaper.next_sweep() {
            self.timers.set(Key::Sweep, next.saturating_duration_since(std::time::Instant::now()));
        }
    }

    pub(super) fn read_signals(&mut self) -> io::Result<()> {
        while let Some(received) = self.signals.next()? {
            if received.signal == Signal::CHLD {
                self.reap();
            } else {
                self.signalled(&received);
            }
        }
        Ok(())
    }

    fn reap(&mut self) {
        let mut reaped = false;
        while let Some(change) = self.reaper.next() {
            reaped = true;
            if self.intermediate == Some(change.pid) {
                self.intermediate = None;
                self.become_subreaper_again();
                if self.successor.as_ref().is_some_and(successor::Link::is_ready) {
                    self.dispatch(Event::SuccessorReady);
                }
            }
        }
        if reaped && self.reaper.is_sweeping() {
            self.sweep();
        }
    }

    fn signalled(&mut self, received: &Received) {
        let relayed = self.relayed(received);
        if let Some(original) = &relayed
            && self.pass_on(received, original)
        {
            return;
        }
        let is_relayed = relayed.is_some();
        let received = relayed.as_ref().unwrap_or(received);
        let sender = job::sender(received);
        if sender == Sender::Kernel
            && self.managers.anchor.is_some()
            && !is_relayed
            && is_of_terminal(received.signal)
        {
            return; // it came before this process left the anchor's group, and the anchor relays it
        }
        let suspended = self.job_control.on_signal(received.signal, sender);
        if received.signal == Signal::CONT && suspended && !is_relayed {
            self.continue_anchor();
        }
        let situation = Situation { upgrade_signal: Some(self.plan.upgrade.signal), suspended };
        let Meaning { forward, request } = meaning(received.signal, sender, &situation);
        if sender == Sender::Own && forward.is_none() && request.is_none() {
            return; // raised by a failed write(2), as a log line about it would raise the next
        }
        let sent = forwarded_as(received.signal, &self.plan.signals).filter(|_| forward.is_some());
        tell_signal(received, sent, request);
        if let (Some(reach), Some(signal)) = (forward, sent) {
            self.forward(&Received { signal, ..*received }, reach);
        }
        if request == Some(Request::Stop) {
            self.continue_child_to_end();
        }
        match request {
            Some(Request::Upgrade) => {
                let by = format!("{} from {}", received.signal, job::sender_text(received));
                self.upgrade_log.asked(Some(by));
                self.dispatch(Event::UpgradeRequested);
            }
            Some(Request::Stop) => self.dispatch(Event::StopRequested(ChildSignal::HasIt)),
            None => self.note_signal(received.signal),
        }
    }

    fn on_successor_message(&mut self) -> io::Result<()> {
        while let Some(link) = &mut self.successor {
            let news = match link.next_news() {
                Ok(Some(news)) => news,
                Ok(None) => return Ok(()),
                Err(error) if is_transient(&error) => return Err(error), // retried
                // EMFILE: its message is lost, so the upgrade is given up (contract F10). But it is still
                // alive, and may take and return the pidfile until it exits, so its exit is awaited.
                Err(error) => {
                    link.give_up(format!("can't receive from the new psflip: {error}"));
                    return Ok(());
                }
            };
            match news {
                successor::News::Spawned => {
                    let Some((pid, process)) = link.process() else { continue };
                    if let Err(error) = self.poller.watch(Token::SuccessorProcess, process.as_fd()) {
                        let _ = process.send(Signal::KILL); // it may have exited
                        link.set_failure(format!("can't wait for the new psflip: {error}"));
                        self.successor_is_gone();
                    }
                    self.note_progress(Step::Spawned, Some(pid), None, None);
                }
                successor::News::Starting { version } => {
                    let pid = link.process().map(|(pid, _)| pid);
                    tracing::debug!(pid, version, "the new psflip starts its child");
                    self.note_progress(Step::Starting, pid, None, None);
                    self.wait_for_successor_anew();
                }
                successor::News::Extended => self.wait_for_successor_anew(),
                // Its parent is still the intermediate process, so this psflip would kill it on exit. It must
                // not become the service before the service manager is its parent (contract U10). The check
                // is repeated when the intermediate process is reaped.
                successor::News::Ready if self.intermediate.is_some() => {}
                successor::News::Ready => self.dispatch(Event::SuccessorReady),
                successor::News::Failed => {}
                successor::News::Upgrade { by } => {
                    self.upgrade_log.asked(by);
                    self.dispatch(Event::RequestPassedBack);
                }
                successor::News::Stop => self.dispatch(Event::StopRequested(ChildSignal::Send)),
                successor::News::Warning { text } => self.pass_warning_on(text),
                successor::News::Progress { step, child, probe } => {
                    self.note_progress(step, None, child, probe);
                }
                successor::News::Closed => {
                    self.poller.forget(Token::Successor);
                    self.successor_closed();
                    return Ok(());
                }
                successor::News::Misbehaved => {
                    self.poller.forget(Token::Successor);
                    self.successor_misbehaved();
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// The successor has announced how long it may take.
    fn wait_for_successor_anew(&mut self) {
        if self.state.successor() == Some(Successor::Comes) {
            self.set_timer(Timer::Successor);
            self.drain_queue();
        }
    }

    /// The successor closed the connection, so it is of no use and is killed. Usually it is dead already.
    fn successor_closed(&mut self) {
        if self.state.successor().is_none() {
            return; // it was promoted, so it is independent
        }
        let Some(link) = &mut self.successor else { return };
        match link.process() {
            // It has reported that it gives up, and is about to exit with a code that says why. The timer
            // makes sure that it does.
            Some(_) if link.failure().is_some() => {}
            Some((_, process)) => {
                let _ = process.send(Signal::KILL); // it may have exited
            }
            // It died before it sent its first message.
            None => self.successor_is_gone(),
        }
    }

    /// Kills a successor that is faulty or not a psflip, instead of waiting for it.
    fn successor_misbehaved(&mut self) {
        if self.state.successor().is_none() {
            return; // it was promoted, so it is independent
        }
        match self.successor.as_ref().and_then(successor::Link::process) {
            Some((_, process)) => {
                let _ = process.send(Signal::KILL); // it may have exited
            }
            None => self.successor_is_gone(),
        }
    }

    fn successor_is_gone(&mut self) {
        self.poller.forget(Token::SuccessorProcess);
        self.poller.forget(Token::Successor);
        self.dispatch(Event::SuccessorGone);
    }

    fn successor_is_late(&mut self) {
        let Some(link) = &mut self.successor else { return };
        let time = if self.state.successor() == Some(Successor::Ends) {
            format!("did not exit within {:?} after the upgrade was aborted", link.grace())
        } else {
            format!("did not answer within {:?}", link.deadline())
        };
        let who = link.process().map_or_else(String::new, |(pid, _)| format!(" (pid {pid})"));
        link.set_failure(format!("the new psflip{who} {time}, so it is killed"));
    }

    /// Reads up to `most` messages. The rest stays in the socket, so that signals and timers get their turn
    /// first.
    fn on_predecessor_message(&mut self, most: usize) -> io::Result<()> {
        for _ in 0..most {
            let Some(Predecessor { link, .. }) = &self.predecessor else { return Ok(()) };
            let news = match link.next_news() {
                Ok(Some(news)) => news,
                Ok(None) => return Ok(()),
                // Its process is still watched. If an acknowledgement was lost, the timer ends the wait for
                // it.
                Err(error) => {
                    tracing::error!(%error, "can't receive from the old psflip");
                    self.poller.forget(Token::Predecessor);
                    return Ok(());
                }
            };
            match news {
                predecessor::News::Message(ToSuccessor::Acknowledge { remembered, by }) => {
                    self.upgrade_log.asked(by);
                    self.dispatch(Event::Acknowledged { remembered });
                }
                predecessor::News::Message(ToSuccessor::Abort) => self.dispatch(Event::Aborted),
                predecessor::News::Message(ToSuccessor::Draining { step, left }) => {
                    self.note_drain(step, left);
                    if self.state.awaits_predecessor() {
                        self.set_timer(Timer::Predecessor);
                    }
                }
                predecessor::News::Message(ToSuccessor::Upgrade { by }) => {
                    self.upgrade_log.asked(by);
                    self.dispatch(Event::RequestPassedOn);
                }
                predecessor::News::Message(ToSuccessor::Main) => self.managers_know(),
                predecessor::News::Message(
                    ToSuccessor::Hello(_)
                    | ToSuccessor::Listener { .. }
                    | ToSuccessor::Control { .. }
                    | ToSuccessor::Record(_),
                ) => {}
                predecessor::News::Closed => {
                    // It is dead, or about to be. Its pidfd shows that: a process closes its files before it
                    // counts as exited. A predecessor that stays alive sends `Abort` before it closes the
                    // connection.
                    self.poller.forget(Token::Predecessor);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Continues the health check, and acts on its result.
    pub(super) fn check(&mut self, go_on: impl FnOnce(&mut health::Checker) -> health::Step) {
        let Some(CheckerSlot(checker)) = &mut self.checker else { return };
        let step = go_on(checker);
        match step.timer {
            health::Timer::Keep => {}
            health::Timer::Set(time) => self.timers.set(Key::Check, time),
            health::Timer::Off => self.timers.clear(Key::Check),
        }
        let watched = match checker.watch() {
            Some((fd, interest)) => {
                let flags = match interest {
                    health::Interest::Read => EpollFlags::EPOLLIN,
                    health::Interest::Write => EpollFlags::EPOLLOUT,
                };
                self.poller.watch_for(Token::Check, fd, flags)
            }
            None => {
                self.poller.forget(Token::Check);
                Ok(())
            }
        };
        if let Err(error) = watched {
            tracing::error!(%error, "can't wait for the health check");
        }
        self.note_probe();
        match step.verdict {
            health::Verdict::Open => {}
            health::Verdict::Healthy => self.queue.push_back(Event::ChildHealthy),
            health::Verdict::Never => self.queue.push_back(Event::ChildNeverHealthy),
        }
    }
}

/// How many messages are read before other descriptors get their turn, so that one sender can't block the
/// loop.
const AT_ONCE: usize = 50;

/// Logs a signal: its sender (contract S6), and the signal that the child gets if that is another one
/// (contract S8).
fn tell_signal(received: &Received, sent: Option<Signal>, request: Option<Request>) {
    let Received { signal, .. } = received;
    let from = job::sender_text(received);
    let forward = sent.is_some();
    if let Some(sent) = sent.filter(|sent| sent != signal) {
        return match request {
            Some(Request::Stop) => tracing::info!(%signal, from, forward_as = %sent, "stop requested"),
            _ => tracing::debug!(%signal, from, forward_as = %sent, "signal received"),
        };
    }
    match request {
        Some(Request::Upgrade) => tracing::info!(%signal, from, "upgrade requested"),
        Some(Request::Stop) => tracing::info!(%signal, from, forward, "stop requested"),
        None => tracing::debug!(%signal, from, forward, "signal received"),
    }
}
