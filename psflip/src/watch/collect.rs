//! Turns reports of the keeper, signals, the pidfile and times into events.

use std::time::Instant;

use super::file::Content;
use super::state::{Event, Reading, decide};
use super::{Failure, Watch};
use crate::flip::signals::{Meaning, Request, Situation, meaning};
use crate::process::job_control as job;
use crate::process::keeper::Report;
use crate::signal::Signal;
use crate::sys::pidfd::PidFd;
use crate::sys::signal::Received;
use crate::sys::tree::{self, Membership};
use crate::sys::wait::{Change, ChangeKind};

impl Watch {
    /// Handles an event.
    fn dispatch(&mut self, event: Event) {
        self.refresh();
        self.decide(event);
    }

    pub(super) fn decide(&mut self, event: Event) {
        for effect in decide(&mut self.state, event) {
            self.perform(effect);
        }
        self.processes.retain(|(pid, _)| self.state.knows(*pid));
    }

    /// Brings the state up to date: which processes have exited, and whether the stop request is old.
    pub(super) fn refresh(&mut self) {
        if self.stop_until.take_if(|until| *until <= Instant::now()).is_some() {
            let command_runs = self.tree.is_child_running();
            self.decide(Event::StopIsOld { command_runs });
        }
        let gone = self.processes.iter().filter(|(_, process)| process.has_exited()).map(|(pid, _)| *pid);
        for pid in gone.collect::<Vec<_>>() {
            self.decide(Event::Gone(pid));
        }
    }

    /// Reads the keeper's reports, until there are none or the exit status is decided.
    pub(super) fn on_keeper_reports(&mut self) -> Result<(), Failure> {
        while self.exit.is_none() {
            let report = match self.tree.next_report() {
                Ok(Some(report)) => report,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::error!(%error, "can't receive from the keeper");
                    return Ok(());
                }
            };
            let command = self.tree.child_pid().unwrap_or_default();
            match report {
                Report::Started => self.dispatch(Event::Started(command)),
                Report::Refused(refusal) => return Err(Failure::Start(refusal)),
                Report::Stopped(signal) => self.was_stopped(command, signal),
                Report::Continued => self.was_continued(command),
                Report::Exited(end) => {
                    self.read_signals(); // a signal to the whole service may have come a moment ago
                    self.job_control.take_terminal_back();
                    self.dispatch(Event::CommandExited(end));
                }
                Report::Other(Change { pid, kind }) => match kind {
                    ChangeKind::Exited(end) => {
                        self.read_signals();
                        self.dispatch(Event::OtherExited(pid, end));
                    }
                    ChangeKind::Stopped(signal) => self.was_stopped(pid, signal),
                    ChangeKind::Continued => self.was_continued(pid),
                },
                Report::CaughtUp => {
                    self.read_pidfile();
                    self.dispatch(Event::CaughtUp);
                }
                Report::Pending(is_pending) => self.has_pending(is_pending),
                Report::About { .. } => {} // never requested
                Report::Gone => {
                    let reading = self.reading();
                    self.dispatch(Event::NothingLeft(reading));
                    self.named = None;
                }
                Report::KeeperDied => {
                    tracing::error!("the keeper was killed; killing all that is left");
                    self.exit = Some(self.tree.exit_status_of_lost_child());
                }
            }
        }
        Ok(())
    }

    /// Finds out which process is the service, and what follows if there is none.
    pub(super) fn look(&mut self) {
        self.read_pidfile();
        self.dispatch(Event::Settled);
    }

    fn read_pidfile(&mut self) {
        // Exits first: a process that exits between the two would become the service anew.
        self.refresh();
        let reading = self.reading();
        self.decide(Event::Read(reading));
        self.named = None; // an idle watch holds the descriptors of service and command only
    }

    /// What the pidfile shows now. The process that it names is kept open, so that it can become the service.
    fn reading(&mut self) -> Reading {
        if let Err(error) = self.file.take_events() {
            tracing::error!(%error, "can't watch the pidfile's directory");
        }
        self.named = None;
        match self.file.read() {
            Content::Missing => Reading::Missing { missed: self.file.is_touched() },
            Content::Unchanged | Content::Nobody => Reading::Nothing,
            Content::Pid(pid) => {
                let Ok(process) = PidFd::open(pid) else { return Reading::Names(pid, Membership::Gone) };
                let place = match tree::membership(pid, self.tree.keeper_pid()) {
                    Membership::Below if process.has_exited() => Membership::Gone,
                    place => place,
                };
                self.named = Some((pid, process));
                Reading::Names(pid, place)
            }
        }
    }

    pub(super) fn look_at_the_time(&mut self) {
        let is_up = |watch: &Self| watch.until.is_some_and(|until| until <= Instant::now());
        if is_up(self) {
            self.read_pidfile(); // a process may have taken over just now
        }
        if is_up(self) {
            self.until = None;
            self.dispatch(Event::TimeIsUp);
        }
    }

    pub(super) fn read_signals(&mut self) {
        loop {
            match self.signals.next() {
                Ok(Some(received)) if received.signal == Signal::CHLD => {
                    while self.reaper.next().is_some() {}
                }
                Ok(Some(received)) => self.signalled(received),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "can't read signals");
                    return;
                }
            }
        }
    }

    fn signalled(&mut self, received: Received) {
        let sender = job::sender(&received);
        let suspended = self.job_control.on_signal(received.signal, sender);
        if received.signal == Signal::CONT {
            self.job_control.on_continue();
        }
        let situation = Situation { upgrade_signal: None, suspended };
        let Meaning { forward: Some(reach), request } = meaning(received.signal, sender, &situation) else {
            return; // raised by a failed write
        };
        let is_stop = request == Some(Request::Stop);
        if is_stop {
            let from = job::sender_text(&received);
            tracing::info!(signal = %received.signal, from, "stop requested");
        }
        if self.state.is_waiting() {
            self.read_pidfile(); // a process may have taken over just now, and then the signal is for it
        }
        self.dispatch(Event::Signal { received, reach, is_stop });
    }
}
