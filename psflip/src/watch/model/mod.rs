//! A model checker for the decision of `psflip watch`, in the manner of `flip/model`.
//!
//! The real [`decide`] runs in a model of the loop, the keeper, the pidfile, and up to three processes: the
//! command, and two that it starts. Anything may happen between any two steps of the loop: processes start,
//! write the pidfile, remove it and exit, the keeper reaps and answers, signals come, and time passes. The
//! checker visits all reachable states (breadth first), and prints a violation with the shortest path to it.

use std::collections::{HashMap, VecDeque};

use super::*;

/// The decision under test. Tests pass in faulty ones, to show that the checker finds the faults.
type Decide = fn(&mut State, Event) -> Vec<Effect>;

/// The pid of the command; the others follow.
const COMMAND: u32 = 1;
const PIDS: [u32; 3] = [COMMAND, 2, 3];
const REFUSES: ExitStatus = ExitStatus::Exited(9);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Life {
    NotYet,
    Runs,
    Exited(ExitStatus),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Process {
    life: Life,
    /// Its parent is the command, which reaps it. Else its parent is the keeper.
    of_command: bool,
    /// It ignores the SIGTERM that all get at the end.
    is_stubborn: bool,
    /// It got a signal that lets it exit.
    is_asked: bool,
    /// The signals that it has got, as bits.
    got: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Order {
    Answer,
    Stop,
    Kill,
    Forward(Received),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Report {
    Exited(u32, ExitStatus),
    CaughtUp,
    Gone,
}

/// Where the loop is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// It reads the keeper's reports, and then the pidfile.
    Reports,
    Settle,
    /// It reads signals, and then the time.
    Signals,
    /// In poll(2).
    Asleep,
}

/// How often each kind of action may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    starts: u8,
    writes: u8,
    removes: u8,
    signals: u8,
    stops: u8,
    stubborn: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    state: State,
    at: At,
    processes: [Process; 3],
    /// The process that the pidfile names.
    file: Option<u32>,
    /// The content was processed, and the file was not written since.
    is_marked: bool,
    is_touched: bool,
    /// The file was changed since it was read.
    is_dirty: bool,
    /// Of the keeper: exits that it has not reported, orders that it has not read, and sent reports.
    unreported: Vec<(u32, ExitStatus)>,
    orders: VecDeque<Order>,
    reports: VecDeque<Report>,
    said_gone: bool,
    /// It kills all that it finds.
    kills: bool,
    signals: VecDeque<Received>,
    armed: Option<Timer>,
    is_due: bool,
    stop_ages: bool,
    budget: Budget,

    /// What the contract says, as simply as possible: the service by name, and those before it.
    named: Vec<u32>,
    /// The exit status that is due, once everything is to stop. `None` inside: any.
    verdict: Option<Option<ExitStatus>>,
    /// Another status that is right as well.
    other_verdict: Option<ExitStatus>,
    /// A stop request has come, and no process became the service long after it.
    stop_requested: bool,
    /// A signal that no process has got yet.
    undelivered: bool,
    exited: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Start { of_command: bool, is_stubborn: bool },
    Write(u32),
    Remove,
    Exit(u32, ExitStatus),
    SendStop,
    SendSignal,
    StopAges,
    TimePasses,
    KeeperReaps,
    KeeperObeys,
    Loop,
}

fn bit(received: Received) -> u8 {
    if received.signal == Signal::TERM { 1 } else { 2 }
}

fn signal(signal: Signal) -> Received {
    Received { signal, code: 0, pid: 99, uid: 0, value: 0 }
}

impl World {
    fn new(budget: Budget) -> Self {
        let nobody =
            Process { life: Life::NotYet, of_command: false, is_stubborn: false, is_asked: false, got: 0 };
        let mut state = State::new(true);
        decide(&mut state, Event::Started(COMMAND));
        Self {
            state,
            at: At::Reports,
            processes: [Process { life: Life::Runs, ..nobody }, nobody, nobody],
            file: None,
            is_marked: false,
            is_touched: false,
            is_dirty: false,
            unreported: Vec::new(),
            orders: VecDeque::new(),
            reports: VecDeque::new(),
            said_gone: false,
            kills: false,
            signals: VecDeque::new(),
            armed: None,
            is_due: false,
            stop_ages: false,
            budget,
            named: Vec::new(),
            verdict: None,
            other_verdict: None,
            stop_requested: false,
            undelivered: false,
            exited: false,
        }
    }

    fn process(&self, pid: u32) -> &Process {
        &self.processes[pid as usize - 1]
    }

    fn runs(&self, pid: u32) -> bool {
        self.process(pid).life == Life::Runs
    }

    fn anything_runs(&self) -> bool {
        PIDS.iter().any(|pid| self.runs(*pid))
    }

    /// The steps that may be taken, and whether each happens without any help from outside.
    fn steps(&self) -> Vec<(Step, bool)> {
        let mut steps = Vec::new();
        if self.exited {
            return steps;
        }
        let next = self.processes.iter().position(|one| one.life == Life::NotYet);
        if self.anything_runs() && self.budget.starts > 0 && next.is_some() {
            for of_command in [true, false] {
                if of_command && !self.runs(COMMAND) {
                    continue;
                }
                steps.push((Step::Start { of_command, is_stubborn: false }, false));
                if self.budget.stubborn > 0 {
                    steps.push((Step::Start { of_command, is_stubborn: true }, false));
                }
            }
        }
        let has_child_that_exited =
            PIDS[1..].iter().any(|pid| matches!(self.process(*pid).life, Life::Exited(_)));
        for pid in PIDS.into_iter().filter(|pid| self.runs(*pid)) {
            if self.budget.writes > 0 && (self.file != Some(pid) || self.is_marked) {
                steps.push((Step::Write(pid), false));
            }
            // A program that runs the service exits when the service has exited.
            let obeys = self.process(pid).is_asked || pid == COMMAND && has_child_that_exited;
            if pid == COMMAND {
                steps.push((Step::Exit(pid, ExitStatus::Exited(0)), obeys));
                if self.named.is_empty() {
                    steps.push((Step::Exit(pid, REFUSES), obeys));
                }
            } else {
                steps.push((Step::Exit(pid, ExitStatus::Exited(10 + pid as u8)), obeys));
            }
        }
        if self.file.is_some() && self.budget.removes > 0 && self.anything_runs() {
            steps.push((Step::Remove, false));
        }
        if self.budget.stops > 0 {
            steps.push((Step::SendStop, false));
        }
        if self.budget.signals > 0 {
            steps.push((Step::SendSignal, false));
        }
        if self.stop_ages {
            steps.push((Step::StopAges, true));
        }
        if self.armed.is_some() && !self.is_due {
            steps.push((Step::TimePasses, true));
        }
        if !self.unreported.is_empty() || !self.anything_runs() && !self.said_gone {
            steps.push((Step::KeeperReaps, true));
        }
        if !self.orders.is_empty() && !self.said_gone {
            steps.push((Step::KeeperObeys, true));
        }
        if self.at != At::Asleep || self.wakes() {
            steps.push((Step::Loop, true));
        }
        steps
    }

    fn wakes(&self) -> bool {
        let is_gone = |pid: u32| !self.runs(pid) && self.state.awaits(pid);
        !self.reports.is_empty()
            || !self.signals.is_empty()
            || self.is_dirty
            || self.is_due
            || PIDS.into_iter().any(is_gone)
    }

    /// Returns the world after a step. `Err`: a promise is broken.
    fn after(&self, step: Step, decide: Decide) -> Result<Self, String> {
        let mut world = self.clone();
        match step {
            Step::Start { of_command, is_stubborn } => {
                world.budget.starts -= 1;
                world.budget.stubborn -= u8::from(is_stubborn);
                let is_asked = world.kills;
                let new = world.processes.iter_mut().find(|one| one.life == Life::NotYet);
                if let Some(new) = new {
                    *new = Process { life: Life::Runs, of_command, is_stubborn, is_asked, got: 0 };
                }
            }
            Step::Write(pid) => {
                world.budget.writes -= 1;
                world.file = Some(pid);
                (world.is_marked, world.is_touched, world.is_dirty) = (false, true, true);
                world.stop_requested &= world.stop_ages; // it does not get an old stop request (contract W2)
            }
            Step::Remove => {
                world.budget.removes -= 1;
                (world.file, world.is_dirty) = (None, true);
            }
            Step::Exit(pid, end) => world.exits(pid, end),
            Step::SendStop => {
                world.budget.stops -= 1;
                world.signals.push_back(signal(Signal::TERM));
            }
            Step::SendSignal => {
                world.budget.signals -= 1;
                world.undelivered = true;
                world.signals.push_back(signal(Signal::HUP));
            }
            Step::StopAges => {
                world.stop_ages = false;
                // A name that is read only now comes too late for the request.
                world.stop_requested &= world.file.is_none() || world.is_marked;
                // A command that still runs has ignored the request, and may become a daemon later (W2).
                let command_runs = world.runs(COMMAND);
                world.stop_requested &= !command_runs;
                world.event(Event::StopIsOld { command_runs }, decide)?;
            }
            Step::TimePasses => world.is_due = true,
            Step::KeeperReaps => world.reap(),
            Step::KeeperObeys => world.obey()?,
            Step::Loop => world.go_on(decide)?,
        }
        Ok(world)
    }

    fn exits(&mut self, pid: u32, end: ExitStatus) {
        self.processes[pid as usize - 1].life = Life::Exited(end);
        if !self.process(pid).of_command {
            self.unreported.push((pid, end));
        }
        if pid == COMMAND {
            // Its children fall to the keeper; it has reaped those that have exited.
            for child in self.processes.iter_mut().filter(|child| child.life == Life::Runs) {
                child.of_command = false;
            }
        }
    }

    fn reap(&mut self) {
        let exits = std::mem::take(&mut self.unreported);
        self.reports.extend(exits.into_iter().map(|(pid, end)| Report::Exited(pid, end)));
        if !self.anything_runs() && !self.said_gone {
            self.said_gone = true;
            self.reports.push_back(Report::Gone);
        }
    }

    fn obey(&mut self) -> Result<(), String> {
        match self.orders.pop_front() {
            Some(Order::Answer) => {
                self.reap();
                if !self.said_gone {
                    self.reports.push_back(Report::CaughtUp);
                }
            }
            Some(Order::Stop) => {
                for one in self.processes.iter_mut().filter(|one| !one.is_stubborn) {
                    one.is_asked = true;
                }
            }
            Some(Order::Kill) => {
                self.kills = true;
                self.processes.iter_mut().for_each(|one| one.is_asked = true);
            }
            Some(Order::Forward(received)) => {
                for pid in PIDS {
                    self.deliver(pid, received)?;
                }
            }
            None => {}
        }
        Ok(())
    }

    fn deliver(&mut self, pid: u32, received: Received) -> Result<(), String> {
        self.undelivered &= received.signal != Signal::HUP;
        if !self.runs(pid) {
            return Ok(());
        }
        let process = &mut self.processes[pid as usize - 1];
        if process.got & bit(received) != 0 {
            return Err(format!("S1: process {pid} gets {} twice", received.signal));
        }
        process.got |= bit(received);
        process.is_asked |= received.signal == Signal::TERM;
        Ok(())
    }

    /// One step of the loop.
    fn go_on(&mut self, decide: Decide) -> Result<(), String> {
        match self.at {
            At::Asleep | At::Reports => {
                self.at = At::Reports;
                match self.reports.front() {
                    None => {
                        self.at = At::Settle;
                        self.look(decide)
                    }
                    // Signals are read before an exit.
                    Some(Report::Exited(..)) if !self.signals.is_empty() => self.read_signal(decide),
                    Some(_) => self.read_report(decide),
                }
            }
            At::Settle => {
                self.at = At::Signals;
                self.event(Event::Settled, decide)
            }
            At::Signals if !self.signals.is_empty() => self.read_signal(decide),
            At::Signals => {
                self.at = At::Asleep;
                if self.is_due {
                    self.look(decide)?;
                }
                if self.is_due {
                    (self.armed, self.is_due) = (None, false);
                    self.event(Event::TimeIsUp, decide)?;
                }
                self.check_asleep()
            }
        }
    }

    fn read_report(&mut self, decide: Decide) -> Result<(), String> {
        match self.reports.pop_front() {
            Some(Report::Exited(COMMAND, end)) => self.event(Event::CommandExited(end), decide),
            Some(Report::Exited(pid, end)) => self.event(Event::OtherExited(pid, end), decide),
            Some(Report::CaughtUp) => {
                self.look(decide)?;
                self.event(Event::CaughtUp, decide)
            }
            Some(Report::Gone) => {
                let reading = self.reading();
                self.event(Event::NothingLeft(reading), decide)
            }
            None => Ok(()),
        }
    }

    fn read_signal(&mut self, decide: Decide) -> Result<(), String> {
        let Some(received) = self.signals.pop_front() else { return Ok(()) };
        if self.state.is_waiting() {
            self.look(decide)?;
        }
        let is_stop = received.signal == Signal::TERM;
        self.stop_requested |= is_stop;
        self.event(Event::Signal { received, reach: Reach::Child, is_stop }, decide)
    }

    fn look(&mut self, decide: Decide) -> Result<(), String> {
        let reading = self.reading();
        self.event(Event::Read(reading), decide)
    }

    fn reading(&mut self) -> Reading {
        self.is_dirty = false;
        match self.file {
            None => Reading::Missing { missed: self.is_touched },
            Some(_) if self.is_marked => Reading::Nothing,
            Some(pid) if self.runs(pid) => Reading::Names(pid, Membership::Below),
            Some(pid) => Reading::Names(pid, Membership::Gone),
        }
    }

    fn event(&mut self, event: Event, decide: Decide) -> Result<(), String> {
        for pid in PIDS {
            if self.state.knows(pid) && !self.runs(pid) {
                decide(&mut self.state, Event::Gone(pid));
            }
        }
        self.follow_the_contract(event);
        for effect in decide(&mut self.state, event) {
            self.perform(effect, event)?;
        }
        Ok(())
    }

    fn perform(&mut self, effect: Effect, event: Event) -> Result<(), String> {
        match effect {
            Effect::MarkRead => (self.is_marked, self.is_touched) = (true, false),
            Effect::Forward(received, To::Command(_)) => self.deliver(COMMAND, received)?,
            Effect::Forward(received, To::Service(pid, _)) => self.deliver(pid, received)?,
            Effect::Forward(received, To::All) => self.orders.push_back(Order::Forward(received)),
            Effect::AskKeeper => self.orders.push_back(Order::Answer),
            Effect::Arm(Timer::Stop) => self.stop_ages = true,
            Effect::Arm(timer) => (self.armed, self.is_due) = (Some(timer), false),
            Effect::Disarm => (self.armed, self.is_due) = (None, false),
            Effect::StopAll => {
                self.check_stop(event)?;
                self.orders.push_back(Order::Stop);
            }
            Effect::KillAll => self.orders.push_back(Order::Kill),
            Effect::Exit(end) => {
                self.exited = true;
                self.check_exit(end)?;
            }
            Effect::Report(_) | Effect::Follow(_) | Effect::KillKeeper => {}
        }
        Ok(())
    }
}

mod explore;
