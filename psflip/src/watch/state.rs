//! Which process is the service, and what follows when it exits: pure, without system calls and clocks.
//!
//! [`decide`] takes what is known, the [`State`], and an [`Event`], changes the state, and returns the
//! [`Effect`]s to perform, in this order. `snapshots/*watch.snap` lists what follows from which event.
//!
//! ```text
//!              the service has exited, another one may come        time is up, stop request
//!  Watching ────────────────────────────────────────────> Waiting ──────────────> Stopping ──> Killing
//!     │  ^                                                  │                       ^    grace time is over
//!     │  └──────────────────────────────────────────────────┘                       │
//!     │           the pidfile names a process                                       │
//!     └─────────────────────────────────────────────────────────────────────────────┘
//!                 the service has exited, and no other one can come
//! ```

#![deny(clippy::wildcard_enum_match_arm)]

use super::exits::Exits;
use crate::exit_status::ExitStatus;
use crate::flip::signals::Reach;
use crate::signal::Signal;
use crate::sys::signal::Received;
use crate::sys::tree::Membership;

/// How many signals are queued for a service that isn't there yet.
const KEPT: usize = 1000;

/// What the pidfile shows when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// There is no pidfile. `missed`: it was written and removed since its content was last processed.
    Missing { missed: bool },
    /// Nothing new: its content has been processed, or is not a pid.
    Nothing,
    /// A process that it names anew, and where that process is.
    Names(u32, Membership),
}

/// What can happen. Before every other event, the state gets [`Event::Gone`] for each process that it
/// [knows](State::knows) and that has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The command runs, and this is its pid.
    Started(u32),
    /// This process has exited. The keeper may not have reported that yet.
    Gone(u32),
    /// The keeper reported the exit of the command.
    CommandExited(ExitStatus),
    /// The keeper reported the exit of another child of its own.
    OtherExited(u32, ExitStatus),
    /// The keeper has reported all exits before the query ([`Effect::AskKeeper`]). The pidfile was
    /// read just before.
    CaughtUp,
    /// The pidfile was read.
    Read(Reading),
    /// All reports of the keeper have been handled, and then the pidfile was read.
    Settled,
    /// A signal has come.
    Signal { received: Received, reach: Reach, is_stop: bool },
    /// The last query to the keeper could not be sent.
    QueryNotSent,
    /// [`Timer::Stop`] has expired. The command runs, or has exited (also if its pid is not known yet).
    StopIsOld { command_runs: bool },
    /// The last timer of [`Effect::Arm`] that is not [`Timer::Stop`] has expired. The pidfile was read just
    /// before.
    TimeIsUp,
    /// Nothing is left of the command's tree. The last look at the pidfile.
    NothingLeft(Reading),
}

/// A time that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Timer {
    /// For how long a stop request applies to a process that becomes the service.
    Stop,
    /// How long another process may take to become the service.
    Patience,
    /// How long leftover processes may take to exit.
    Grace,
    /// How long killed processes may take to disappear.
    Killed,
}

/// The target of a forwarded signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Command(Reach),
    Service(u32, Reach),
    /// Every process of the tree.
    All,
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Follows(u32),
    GetsStopToo(u32, Signal),
    Stranger(u32),
    ServiceExited(Option<ExitStatus>),
    Waits,
    /// The service has exited without a stop request (contract L1), with this status if it is known.
    Outage(Option<ExitStatus>),
    Stopping(ExitStatus),
    Kills,
    NothingLeft(ExitStatus),
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Report(Notice),
    /// The content of the pidfile that was read last counts as nothing new from now on.
    MarkRead,
    /// The process that the pidfile names is the service from now on.
    Follow(u32),
    Forward(Received, To),
    /// Asks the keeper for [`Event::CaughtUp`].
    AskKeeper,
    Arm(Timer),
    /// Disarms all timers but [`Timer::Stop`].
    Disarm,
    /// Requests all processes to stop.
    StopAll,
    KillAll,
    KillKeeper,
    Exit(ExitStatus),
}

/// A process that is or was the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Service {
    pid: u32,
    has_exited: bool,
    /// It has exited, and the keeper got a query for that: its answer comes after this many others.
    queried: Option<u32>,
}

impl Service {
    fn has_reported(self) -> bool {
        self.queried == Some(0)
    }
}

/// The command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Command {
    pid: Option<u32>,
    end: Option<ExitStatus>,
    /// It was the service at some time.
    served: bool,
}

/// A stop request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Stop {
    received: Received,
    /// A process that becomes the service gets it, too.
    is_recent: bool,
    /// The command outlived the time for which the request counts, so it has ignored the request.
    was_ignored: bool,
    /// The processes that have got it. 0: the command, before its pid is known.
    given: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Watching,
    /// The service has exited, with this status if known. Another process may take over.
    Waiting(Option<ExitStatus>),
    /// The service has exited for good, with this status. Leftover processes were requested to stop.
    Stopping(ExitStatus),
    Killing(ExitStatus),
}

/// The process that signals are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Service(u32),
    /// 0: its pid is not known yet.
    Command(u32),
    Nobody,
}

/// What is known.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// Whether there is any time to wait for another service.
    is_patient: bool,
    phase: Phase,
    service: Option<Service>,
    /// The previous service, which may take over again: nginx's old process does when the new one has exited.
    older: Option<Service>,
    command: Command,
    /// There is no service any more; the exit status of the last one, if it is known.
    last: Option<Option<ExitStatus>>,
    exits: Exits,
    /// Signals for a service that isn't there yet.
    queued: Vec<Received>,
    /// The last stop request.
    stop: Option<Stop>,
    /// How many queries the keeper has not answered yet.
    in_flight: u32,
    /// What the last look at the pidfile showed: whether it exists, and whether a name was missed.
    file_exists: bool,
    file_missed: bool,
}

/// Handles an event: changes the state and returns the effects to perform.
pub(super) fn decide(state: &mut State, event: Event) -> Vec<Effect> {
    let mut effects = Vec::new();
    let does = &mut effects;
    match event {
        Event::Started(pid) => state.has_started(pid),
        Event::Gone(pid) => state.is_gone(pid),
        Event::CommandExited(end) => {
            state.command.end = Some(end);
            state.has_reported_exit(state.command.pid.unwrap_or_default(), end);
        }
        Event::OtherExited(pid, end) => state.has_reported_exit(pid, end),
        Event::CaughtUp => state.has_caught_up(does),
        Event::Read(reading) => state.has_read(reading, does),
        Event::Settled => state.settle(does),
        Event::Signal { received, reach, is_stop } => state.is_signalled(received, reach, is_stop, does),
        Event::QueryNotSent => state.query_was_not_sent(),
        Event::StopIsOld { command_runs } => {
            if let Some(stop) = &mut state.stop {
                stop.is_recent = false;
                stop.was_ignored = command_runs;
            }
        }
        Event::TimeIsUp => state.time_is_up(does),
        Event::NothingLeft(reading) => state.nothing_is_left(reading, does),
    }
    effects
}

impl State {
    /// The state after the command was started. `is_patient`: whether there is any time to wait for another
    /// service.
    pub(super) fn new(is_patient: bool) -> Self {
        Self {
            is_patient,
            phase: Phase::Watching,
            service: None,
            older: None,
            command: Command::default(),
            last: None,
            exits: Exits::default(),
            queued: Vec::new(),
            stop: None,
            in_flight: 0,
            file_exists: false,
            file_missed: false,
        }
    }

    /// Whether this process is the service or the previous one.
    pub(super) fn knows(&self, pid: u32) -> bool {
        [self.service, self.older].into_iter().flatten().any(|one| one.pid == pid)
    }

    /// Whether the exit of this process matters, and was not followed up yet.
    pub(super) fn awaits(&self, pid: u32) -> bool {
        let older = self.older.filter(|_| self.is_waiting());
        [self.service, older].into_iter().flatten().any(|one| one.pid == pid && one.queried.is_none())
    }

    /// The process that signals are for.
    pub(super) fn target(&self) -> Target {
        match self.service {
            Some(service) if !service.has_exited => Target::Service(service.pid),
            None if self.command.end.is_none() => Target::Command(self.command.pid.unwrap_or_default()),
            Some(_) | None => Target::Nobody,
        }
    }

    /// Whether there is a service.
    pub(super) fn has_service(&self) -> bool {
        self.service.is_some()
    }

    /// Whether the service has exited, and another process may take over.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting(_))
    }

    /// Whether the service has exited for good. Then the pidfile counts no longer.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Stopping(_) | Phase::Killing(_))
    }

    fn service_lives(&self) -> bool {
        self.service.is_some_and(|service| !service.has_exited)
    }

    fn has_started(&mut self, pid: u32) {
        self.command.pid = Some(pid);
        // The pidfile may have named the command before the keeper reported its pid.
        let mut named = [self.service, self.older].into_iter().flatten();
        self.command.served |= named.any(|one| one.pid == pid);
        for given in self.stop.iter_mut().flat_map(|stop| &mut stop.given).filter(|given| **given == 0) {
            *given = pid;
        }
    }

    fn is_gone(&mut self, pid: u32) {
        for one in [&mut self.service, &mut self.older].into_iter().flatten() {
            one.has_exited |= one.pid == pid;
        }
    }

    fn has_reported_exit(&mut self, pid: u32, end: ExitStatus) {
        self.exits.record(pid, end);
        if let Some(stop) = &mut self.stop {
            stop.given.retain(|given| *given != pid);
        }
        if self.service_lives() {
            // It exited while the service runs, so it can't become the service again.
            self.older.take_if(|older| older.pid == pid && older.has_exited);
        }
    }

    /// The keeper has reported all that it knew about an exited service, or about the previous one.
    fn has_caught_up(&mut self, does: &mut Vec<Effect>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        for one in [&mut self.service, &mut self.older].into_iter().flatten() {
            one.queried = one.queried.map(|others| others.saturating_sub(1));
        }
        if let Some(service) = self.service.take_if(|service| service.has_reported()) {
            self.on_service_exit(self.exits.of(service.pid), does);
        } else if let Phase::Waiting(end) = self.phase
            && self.older.is_some_and(Service::has_reported)
        {
            self.conclude(end, does);
        }
    }

    fn has_read(&mut self, reading: Reading, does: &mut Vec<Effect>) {
        self.note_reading(reading);
        let Reading::Names(pid, place) = reading else { return };
        if self.is_over() {
            return;
        }
        if self.service.is_some_and(|service| service.pid == pid && !service.has_exited) {
            does.push(Effect::MarkRead);
            return;
        }
        match place {
            Membership::Below => self.becomes_service(pid, does),
            Membership::Gone => self.dead_is_named(pid, does),
            Membership::Elsewhere => does.extend([Effect::MarkRead, Effect::Report(Notice::Stranger(pid))]),
        }
    }

    fn note_reading(&mut self, reading: Reading) {
        (self.file_exists, self.file_missed) = match reading {
            Reading::Missing { missed } => (false, missed),
            Reading::Nothing | Reading::Names(..) => (true, false),
        };
    }

    /// The process wrote its pid and exited at once, or never belonged to the tree. The keeper's reports show
    /// which.
    fn dead_is_named(&mut self, pid: u32, does: &mut Vec<Effect>) {
        if self.service_lives() {
            return; // the current service runs on
        }
        if let Some(end) = self.exits.of(pid) {
            does.push(Effect::MarkRead);
            self.service = None;
            self.on_service_exit(Some(end), does);
        }
    }

    fn becomes_service(&mut self, pid: u32, does: &mut Vec<Effect>) {
        self.command.served |= self.command.pid == Some(pid) && self.command.end.is_none();
        self.exits.forget(pid);
        self.phase = Phase::Watching;
        self.last = None;
        does.extend([
            Effect::MarkRead,
            Effect::Disarm,
            Effect::Report(Notice::Follows(pid)),
            Effect::Follow(pid),
        ]);
        let to = To::Service(pid, Reach::Child);
        if let Some(stop) = self.stop.as_mut().filter(|stop| stop.is_recent && !stop.given.contains(&pid)) {
            let received = stop.received;
            does.extend([
                Effect::Report(Notice::GetsStopToo(pid, received.signal)),
                Effect::Forward(received, to),
            ]);
            stop.given.push(pid);
            self.queued.retain(|queued| queued.signal != received.signal);
        }
        self.forward_queued(pid, to, does);
        let replaced = self.service.replace(Service { pid, has_exited: false, queried: None });
        // A previous service that took over again replaces one that gave up, which is then no
        // longer kept as the previous one.
        self.older = match self.older.take() {
            Some(before) if before.pid == pid => None,
            before => replaced.or(before).filter(|older| older.pid != pid && !older.has_exited),
        };
    }

    fn forward_queued(&mut self, pid: u32, to: To, does: &mut Vec<Effect>) {
        if let Some(stop) = self.stop.as_mut().filter(|stop| self.queued.contains(&stop.received)) {
            stop.given.push(pid);
        }
        does.extend(self.queued.drain(..).map(|received| Effect::Forward(received, to)));
    }

    /// Asks for the exit status of a service that has exited. Finds out what follows if there is no service.
    fn settle(&mut self, does: &mut Vec<Effect>) {
        let who_matters = match self.phase {
            Phase::Watching => &mut self.service,
            Phase::Waiting(_) => &mut self.older,
            Phase::Stopping(_) | Phase::Killing(_) => return,
        };
        if let Some(one) = who_matters.as_mut().filter(|one| one.has_exited && one.queried.is_none()) {
            self.in_flight += 1;
            one.queried = Some(self.in_flight);
            does.push(Effect::AskKeeper);
        }
        if self.service.is_some() || self.phase != Phase::Watching {
            return;
        }
        let Some(end) = self.command.end else { return };
        match self.last {
            Some(last) => self.conclude(last, does),
            // A stop request may have come when the command had exited and its keeper had not reported that.
            None if end != ExitStatus::Exited(0)
                || self.stop.as_ref().is_some_and(|stop| !stop.was_ignored) =>
            {
                self.over(end, does);
            }
            None => {} // the command became a daemon that has not written its pid yet
        }
    }

    /// Forgets the last query, so that it is sent again.
    fn query_was_not_sent(&mut self) {
        let last = Some(self.in_flight);
        for one in [&mut self.service, &mut self.older].into_iter().flatten() {
            one.queried = one.queried.filter(|_| one.queried != last);
        }
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// The service has exited, with this status if it is known, and the pidfile names no other process.
    fn on_service_exit(&mut self, end: Option<ExitStatus>, does: &mut Vec<Effect>) {
        does.push(Effect::Report(Notice::ServiceExited(end)));
        self.last = Some(end);
        if self.command.end.is_none() && !self.command.served {
            // The command still runs and never was the service: it is a wrapper. Wait for its exit.
            let command = self.command.pid.unwrap_or_default();
            self.forward_queued(command, To::Command(Reach::Child), does);
        } else {
            self.conclude(end, does);
        }
    }

    /// There is neither a service nor a wrapper. Stop, unless another process may be about to take over.
    fn conclude(&mut self, end: Option<ExitStatus>, does: &mut Vec<Effect>) {
        // The service may have removed its pidfile before the previous service has noticed its exit.
        let older_lives = self.older.is_some_and(|older| !older.has_exited);
        let may_come = older_lives || self.file_exists;
        if !may_come || self.recent_stop() || !self.is_patient {
            self.over_after(end, does);
        } else {
            self.phase = Phase::Waiting(end);
            does.extend([Effect::Report(Notice::Waits), Effect::Arm(Timer::Patience)]);
        }
    }

    /// Whether the last stop request applies to a process that becomes the service now.
    fn recent_stop(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.is_recent)
    }

    /// The last service has exited, with this status if it is known, and no process took over.
    fn over_after(&mut self, end: Option<ExitStatus>, does: &mut Vec<Effect>) {
        self.report_outage(end, does);
        let end = self.final_status(end);
        self.over(end, does);
    }

    /// The service has exited for good: leftover processes are stopped.
    fn over(&mut self, end: ExitStatus, does: &mut Vec<Effect>) {
        self.phase = Phase::Stopping(end);
        does.extend([Effect::Report(Notice::Stopping(end)), Effect::Arm(Timer::Grace), Effect::StopAll]);
    }

    fn time_is_up(&mut self, does: &mut Vec<Effect>) {
        match self.phase {
            Phase::Watching => {}
            Phase::Waiting(end) => self.over_after(end, does),
            Phase::Stopping(end) => {
                self.phase = Phase::Killing(end);
                does.extend([Effect::Report(Notice::Kills), Effect::Arm(Timer::Killed), Effect::KillAll]);
            }
            // The keeper hangs. Its orphans become children of this process.
            Phase::Killing(_) => does.extend([Effect::Arm(Timer::Killed), Effect::KillKeeper]),
        }
    }

    fn is_signalled(&mut self, received: Received, reach: Reach, is_stop: bool, does: &mut Vec<Effect>) {
        let target = self.target();
        if is_stop {
            let given = match target {
                Target::Service(pid) | Target::Command(pid) => vec![pid],
                Target::Nobody => Vec::new(),
            };
            self.stop = Some(Stop { received, is_recent: true, was_ignored: false, given });
            does.push(Effect::Arm(Timer::Stop));
        }
        if self.is_over() {
            does.push(Effect::Forward(received, To::All));
            return;
        }
        match target {
            Target::Nobody => self.nobody_is_signalled(received, is_stop, does),
            Target::Command(_) => does.push(Effect::Forward(received, To::Command(reach))),
            Target::Service(pid) => does.push(Effect::Forward(received, To::Service(pid, reach))),
        }
    }

    /// There is no service. A stop request stops the wait for one; other signals are queued for it.
    fn nobody_is_signalled(&mut self, received: Received, is_stop: bool, does: &mut Vec<Effect>) {
        // If a service has exited just now, the keeper is about to report its exit status.
        if is_stop && self.service.is_none() {
            match (self.last, self.command.end) {
                (Some(last), _) => self.over_after(last, does),
                (None, Some(end)) if end != ExitStatus::Exited(0) => self.over(end, does),
                (None, _) => self.over(ExitStatus::Killed(received.signal), does),
            }
        } else if self.queued.len() < KEPT {
            self.queued.push(received);
        }
    }

    fn report_outage(&self, end: Option<ExitStatus>, does: &mut Vec<Effect>) {
        // A stop request has no time limit: a service may take any time for its shutdown.
        if self.stop.is_none() {
            does.push(Effect::Report(Notice::Outage(end)));
        }
    }

    fn nothing_is_left(&mut self, reading: Reading, does: &mut Vec<Effect>) {
        self.note_reading(reading);
        // A process may have written the pidfile just before it exited.
        let unread = match reading {
            Reading::Names(pid, _) => self.exits.of(pid),
            Reading::Missing { .. } | Reading::Nothing => None,
        };
        let end = match self.phase {
            Phase::Stopping(end) | Phase::Killing(end) => end,
            Phase::Waiting(end) => {
                self.report_outage(unread.or(end), does);
                unread.unwrap_or_else(|| self.final_status(end))
            }
            Phase::Watching => {
                let service = self.service.and_then(|service| self.exits.of(service.pid));
                let end = unread.unwrap_or_else(|| self.final_status(service.or(self.last.flatten())));
                if unread.is_some() || self.service.is_some() {
                    self.report_outage(Some(end), does);
                }
                does.push(Effect::Report(Notice::NothingLeft(end)));
                end
            }
        };
        does.push(Effect::Exit(end));
    }

    /// The final exit status, if the last service exited with this one. If that is unknown, the status of the
    /// previous service counts, which ran on; after that, the command's.
    fn final_status(&self, end: Option<ExitStatus>) -> ExitStatus {
        let older = self.older.and_then(|older| self.exits.of(older.pid));
        // It took over and gave up before the pidfile was read.
        let missed = older.filter(|_| self.file_missed);
        missed.or(end).or(older).or(self.command.end).unwrap_or(ExitStatus::Exited(crate::exit::FAILURE))
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "model/mod.rs"]
mod model;
