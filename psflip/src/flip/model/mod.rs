//! A model checker for the decision.
//!
//! It runs up to three generations, each driven by the real [`decide`], in a model of the world in which
//! everything that the contract covers happens at the worst moment.
//!
//! A step is one performed effect, one message or death noticed, one expired timer, or one action of a child
//! or an operator. A process may be killed between any two steps, so also between two effects of one
//! decision. Messages from one sender arrive in order. The checker visits all reachable states (breadth
//! first), and checks every state and every step. It prints a violation with the shortest path to it.
//!
//! The model implements each effect once more, as simply as possible. The end-to-end tests show that the
//! runtime does the same.

use std::collections::{HashMap, VecDeque};

use super::*;
use crate::exit_status::ExitStatus;

const END: ExitStatus = ExitStatus::Exited(3);

/// The decision under test. Tests pass in faulty ones, to show that the checker finds the faults.
type Decide = fn(&mut State, Event) -> Vec<Effect>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ChildState {
    None,
    Launching {
        signalled: bool,
    },
    Runs {
        signalled: bool,
        killed: bool,
    },
    /// It has exited, and leftover processes remain.
    Left {
        killed: bool,
    },
    /// It, or one of its descendants, got SIGKILL and will never exit.
    Unkillable,
    Gone,
}

/// Whether the child has stayed healthy for as long as it has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Settle {
    No,
    UnderWay,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RelayState {
    /// It has never accepted a connection.
    Unused,
    Accepts,
    /// It accepts no more. Requests may be under way.
    Left,
}

/// A message from the predecessor or from the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum PeerMessage {
    Acknowledge { upgrade_queued: bool },
    Abort,
    PassedOn,
    Ready,
    PassedBack,
    StopPassedBack,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Generation {
    alive: bool,
    state: State,
    /// Decided, but not performed yet.
    effects: VecDeque<Effect>,
    /// Caused by effects, but not passed to the decision yet.
    feedback: VecDeque<Event>,
    child: ChildState,
    probing: bool,
    settle: Settle,
    /// `hooks.promote` runs.
    hook: bool,
    relay: RelayState,
    /// Its relay still answers, and nothing allows it to signal its child meanwhile (T4, T5).
    spares_child: bool,
    timers: Vec<Timer>,
    /// Whether it reads messages from the predecessor.
    listens: bool,
    holds_pidfile: bool,
    from_predecessor: VecDeque<PeerMessage>,
    from_successor: VecDeque<PeerMessage>,
    /// Whether it believes that the process before it, or after it, is there.
    knows_predecessor: bool,
    knows_successor: bool,
    committed: bool,
    /// It got a stop request as the service, its child has not ignored the stop, and its wait for the
    /// predecessor has not timed out.
    has_to_wait: bool,
    /// It has reported leftover processes that it can't kill.
    reported_survivors: bool,
    /// It got SIGKILL and hangs in the kernel: it does nothing more, and its exit is never noticed.
    hangs: bool,
    /// It started an upgrade on a signal that its child got as well, and the result of the upgrade is not
    /// known yet.
    owes_upgrade: bool,
}

/// How often each kind of action may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    upgrades: u8,
    stops: u8,
    kills: u8,
    /// Children that exit by themselves.
    crashes: u8,
    /// Effects that fail.
    faults: u8,
    /// Keepers that are killed.
    keepers: u8,
    /// Processes that SIGKILL does not terminate.
    unkillable: u8,
    /// Upgrade signals that reach psflip and its child together and terminate the child.
    group_signals: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// In the order of their start. Only neighbours know each other.
    generations: Vec<Generation>,
    /// Index of the generation that the pidfile names.
    pidfile: Option<usize>,
    /// Index of the generation that gets the traffic.
    traffic: Option<usize>,
    budget: Budget,
    /// An upgrade request was made that has neither started an upgrade nor been answered yet.
    open_requests: bool,
    /// The service, or the first generation before it serves, got a stop request, and no child has ignored
    /// it. A successor that gets one only gives up, unless the pidfile names it: then the request was meant
    /// for the service (F11).
    stopping: bool,
}

impl Generation {
    fn new(role: Role) -> Self {
        let (state, effects) = begin(role);
        Self {
            alive: true,
            state,
            effects: effects.into(),
            feedback: VecDeque::new(),
            child: ChildState::None,
            probing: false,
            settle: Settle::No,
            hook: false,
            relay: RelayState::Unused,
            spares_child: false,
            timers: Vec::new(),
            listens: true,
            holds_pidfile: false,
            from_predecessor: VecDeque::new(),
            from_successor: VecDeque::new(),
            knows_predecessor: role == Role::Successor,
            knows_successor: false,
            committed: false,
            has_to_wait: false,
            reported_survivors: false,
            hangs: false,
            owes_upgrade: false,
        }
    }

    /// Whether it is the service. Once the acknowledgement is sent, it no longer is.
    fn serves(&self) -> bool {
        let phase = matches!(self.state.phase, Phase::Serving { .. } | Phase::Upgrading { .. });
        self.alive && phase && !self.feedback.contains(&Event::Committed)
    }

    /// Whether it serves, or is a first generation that starts and has no predecessor.
    fn is_all_there_is(&self) -> bool {
        let first = matches!(
            self.state.phase,
            Phase::Starting { predecessor: Predecessor::None, .. }
                | Phase::Settling { predecessor: Predecessor::None }
                | Phase::Promoting { predecessor: Predecessor::None, .. }
        );
        self.serves() || first
    }

    /// Whether all that is left of the child's process tree got SIGKILL.
    fn is_killed(&self) -> bool {
        match self.child {
            ChildState::Runs { killed, .. } | ChildState::Left { killed } => killed,
            ChildState::Unkillable => true,
            ChildState::None | ChildState::Launching { .. } | ChildState::Gone => false,
        }
    }

    fn is_idle(&self) -> bool {
        self.effects.is_empty() && self.feedback.is_empty()
    }

    /// The process is killed or exits. Its child goes with it (contract C7), and so do unread messages. All
    /// other fields get fixed values, so that equal worlds compare equal.
    fn die(&mut self) {
        let dead = Self::new(Role::First);
        *self = Self { alive: false, effects: VecDeque::new(), child: ChildState::Gone, ..dead };
    }
}

/// Whether something depends on the relay's report that nothing is under way. At other times the model skips
/// the report.
fn awaits_relay(state: &State) -> bool {
    matches!(
        state.phase,
        Phase::Serving { stopping: Stopping::Answering(_), .. }
            | Phase::Upgrading { stopping: Stopping::Answering(_), .. }
            | Phase::Draining { step: DrainStep::Answering { .. } | DrainStep::Closing, .. }
    )
}

/// Whether a stop request is the second one, which does not wait for the relay (T5).
fn is_second_stop(state: &State) -> bool {
    matches!(
        state.phase,
        Phase::Serving { stopping: Stopping::Answering(_), .. }
            | Phase::Upgrading { stopping: Stopping::Answering(_), .. }
            | Phase::Draining { step: DrainStep::Answering { stops: true }, .. }
    )
}

impl World {
    fn new(budget: Budget) -> Self {
        Self {
            generations: vec![Generation::new(Role::First)],
            pidfile: None,
            traffic: None,
            budget,
            open_requests: false,
            stopping: false,
        }
    }

    fn steps(&self) -> Vec<Transition> {
        let mut steps = Vec::new();
        for (index, generation) in
            self.generations.iter().enumerate().filter(|(_, generation)| generation.alive)
        {
            if self.budget.kills > 0 {
                steps.push(Transition::Kill(index));
            }
            if let Some(effect) = generation.effects.front() {
                steps.push(Transition::Perform(index));
                if self.budget.faults > 0
                    && matches!(
                        effect,
                        Effect::SwitchTraffic
                            | Effect::TakePidfile
                            | Effect::ReportReady
                            | Effect::StartSuccessor
                    )
                {
                    steps.push(Transition::PerformFailing(index));
                }
                if self.budget.unkillable > 0
                    && *effect == Effect::KillSuccessor
                    && self.generations.get(index + 1).is_some_and(|successor| successor.alive)
                {
                    steps.push(Transition::PerformFailing(index));
                }
            } else if !generation.feedback.is_empty() {
                steps.push(Transition::Feedback(index));
            } else {
                self.outer_steps(index, generation, &mut steps);
            }
        }
        steps
    }

    /// The events that a waiting process can get.
    fn outer_steps(&self, index: usize, generation: &Generation, steps: &mut Vec<Transition>) {
        if !generation.from_predecessor.is_empty() {
            steps.push(Transition::ReceiveFromPredecessor(index));
        } else if generation.knows_predecessor && !self.generations[index - 1].alive {
            steps.push(Transition::PredecessorGone(index));
        }
        if !generation.from_successor.is_empty() {
            steps.push(Transition::ReceiveFromSuccessor(index));
        } else if generation.knows_successor
            && !self.generations[index + 1].alive
            && !self.generations[index + 1].hangs
        {
            steps.push(Transition::SuccessorGone(index));
        }
        // A process that got SIGKILL has 10 s to exit, and the runtime reads its messages and its exit before
        // it looks at the timer.
        let is_known_to_hang = generation.from_successor.is_empty()
            && self.generations.get(index + 1).is_none_or(|successor| successor.alive || successor.hangs);
        let may_expire = |timer: &&Timer| **timer != Timer::SuccessorKill || is_known_to_hang;
        steps.extend(
            generation.timers.iter().filter(may_expire).map(|timer| Transition::Timer(index, *timer)),
        );
        if generation.relay == RelayState::Left && awaits_relay(&generation.state) {
            steps.push(Transition::RelayDrained(index));
        }
        if self.budget.faults > 0 && generation.state.is_starting() {
            steps.push(Transition::RelayLost(index));
        }
        if generation.hook {
            steps.push(Transition::HookEnds(index));
            if self.budget.faults > 0 {
                steps.push(Transition::HookFails(index));
            }
        }
        match generation.child {
            ChildState::Launching { .. } => {
                steps.extend([Transition::ChildStarts(index), Transition::ChildFailsToStart(index)]);
            }
            ChildState::Runs { signalled, killed } => {
                if generation.probing && !killed {
                    if generation.settle == Settle::UnderWay {
                        steps.push(Transition::ChildSettles(index));
                        if self.budget.faults > 0 {
                            steps.push(Transition::ChildUnhealthy(index));
                        }
                    } else {
                        steps.push(Transition::ChildHealthy(index));
                    }
                    if self.budget.faults > 0 {
                        steps.push(Transition::ChildNeverHealthy(index));
                    }
                }
                if signalled || killed || self.budget.crashes > 0 {
                    steps.push(Transition::ChildEnds(index));
                }
            }
            ChildState::Left { .. } => steps.push(Transition::TreeGone(index)),
            ChildState::None | ChildState::Unkillable | ChildState::Gone => {}
        }
        if self.budget.unkillable > 0
            && let ChildState::Runs { killed: true, .. } | ChildState::Left { killed: true } =
                generation.child
        {
            steps.push(Transition::Survives(index));
        }
        if self.budget.keepers > 0
            && let ChildState::Launching { .. } = generation.child
        {
            steps.push(Transition::KeeperKilled(index));
        }
        if self.budget.group_signals > 0 && matches!(generation.child, ChildState::Runs { .. }) {
            steps.push(Transition::UpgradeByGroupSignal(index));
        }
        if self.budget.upgrades > 0 {
            steps.push(Transition::Upgrade(index));
        }
        if self.budget.stops > 0 {
            steps.extend(
                [ChildSignal::HasIt, ChildSignal::Send].map(|signal| Transition::Stop(index, signal)),
            );
        }
    }

    /// Returns the world after a step. `Err`: a promise is broken.
    fn after(&self, step: Transition, decide: Decide) -> Result<Self, String> {
        let mut world = self.clone();
        world.go(step, decide)?;
        world.perform_internal(step.index())?;
        world.forget_the_dead();
        world.check()?;
        Ok(world)
    }

    /// Performs the next effects, as far as no other process can notice them: whether one is killed between
    /// two of these makes no difference.
    fn perform_internal(&mut self, index: usize) -> Result<(), String> {
        let is_internal = |effect: &Effect| {
            matches!(
                effect,
                Effect::Arm(_)
                    | Effect::Disarm(_)
                    | Effect::Report(_)
                    | Effect::StartProbing
                    | Effect::StartSettling
                    | Effect::StopProbing
                    | Effect::RunHook(_)
                    | Effect::KillHook
            )
        };
        while self
            .generations
            .get(index)
            .and_then(|generation| generation.effects.front())
            .is_some_and(is_internal)
        {
            self.perform(index, false)?;
        }
        Ok(())
    }

    fn go(&mut self, step: Transition, decide: Decide) -> Result<(), String> {
        let event = match step {
            Transition::Perform(index) => return self.perform(index, false),
            Transition::PerformFailing(index) => {
                if self.generations[index].effects.front() == Some(&Effect::KillSuccessor) {
                    self.budget.unkillable -= 1;
                } else {
                    self.budget.faults -= 1;
                }
                return self.perform(index, true);
            }
            Transition::Kill(index) => {
                self.budget.kills -= 1;
                self.kill(index);
                return Ok(());
            }
            Transition::Feedback(index) => self.generations[index].feedback.pop_front(),
            Transition::ReceiveFromPredecessor(index) => self.receive_from_predecessor(index),
            Transition::ReceiveFromSuccessor(index) => self.receive_from_successor(index),
            Transition::PredecessorGone(index) => {
                self.generations[index].knows_predecessor = false;
                Some(Event::PredecessorGone)
            }
            Transition::SuccessorGone(index) => {
                self.generations[index].knows_successor = false;
                Some(Event::SuccessorGone)
            }
            Transition::Timer(index, timer) => {
                let generation = &mut self.generations[index];
                generation.timers.retain(|armed| *armed != timer);
                generation.has_to_wait &= timer != Timer::Predecessor;
                generation.spares_child &= timer != Timer::Drain;
                Some(Event::TimedOut(timer))
            }
            Transition::ChildStarts(index) => {
                let signalled = self.generations[index].child == ChildState::Launching { signalled: true };
                self.generations[index].child = ChildState::Runs { signalled, killed: false };
                Some(Event::ChildStarted)
            }
            Transition::ChildFailsToStart(index) => {
                self.generations[index].child = ChildState::Gone;
                Some(Event::ChildNotStarted(StartFailure::NotFound))
            }
            Transition::ChildHealthy(_) => Some(Event::ChildHealthy),
            Transition::ChildSettles(index) => {
                self.generations[index].settle = Settle::Over;
                Some(Event::ChildSettled)
            }
            Transition::ChildUnhealthy(index) => {
                self.budget.faults -= 1;
                self.generations[index].settle = Settle::No;
                Some(Event::ChildUnhealthy)
            }
            Transition::ChildNeverHealthy(index) => {
                self.budget.faults -= 1;
                self.generations[index].probing = false;
                Some(Event::ChildNeverHealthy)
            }
            Transition::RelayDrained(index) => {
                self.generations[index].spares_child = false;
                Some(Event::RelayDrained)
            }
            Transition::RelayLost(index) => {
                self.budget.faults -= 1;
                self.generations[index].relay = RelayState::Unused;
                Some(Event::RelayLost)
            }
            Transition::HookEnds(index) => {
                self.generations[index].hook = false;
                Some(Event::HookSucceeded)
            }
            Transition::HookFails(index) => {
                self.budget.faults -= 1;
                self.generations[index].hook = false;
                Some(Event::HookFailed)
            }
            Transition::ChildEnds(index) => {
                if let ChildState::Runs { signalled: false, killed: false } = self.generations[index].child {
                    self.budget.crashes -= 1;
                }
                self.generations[index].child = ChildState::Left { killed: false };
                self.generations[index].spares_child = false;
                Some(Event::ChildExited(END))
            }
            Transition::TreeGone(index) => {
                self.generations[index].child = ChildState::Gone;
                Some(Event::TreeGone)
            }
            Transition::Survives(index) => {
                self.budget.unkillable -= 1;
                self.generations[index].child = ChildState::Unkillable;
                None
            }
            Transition::KeeperKilled(index) => {
                self.budget.keepers -= 1;
                self.generations[index].child = ChildState::Left { killed: true };
                Some(Event::ChildExited(END))
            }
            Transition::Upgrade(_) => {
                self.budget.upgrades -= 1;
                self.open_requests = true;
                Some(Event::UpgradeRequested)
            }
            Transition::UpgradeByGroupSignal(index) => {
                self.budget.group_signals -= 1;
                self.open_requests = true;
                let generation = &mut self.generations[index];
                generation.owes_upgrade = generation.state.is_idle();
                if let ChildState::Runs { signalled, .. } = &mut generation.child {
                    *signalled = true;
                }
                Some(Event::UpgradeRequested)
            }
            Transition::Stop(index, signal) => {
                self.budget.stops -= 1;
                self.stopping |= self.generations[index].is_all_there_is();
                let serves = self.generations[index].serves();
                let generation = &mut self.generations[index];
                generation.has_to_wait |= serves;
                generation.spares_child &= !is_second_stop(&generation.state);
                if signal == ChildSignal::HasIt
                    && let ChildState::Runs { signalled, .. } | ChildState::Launching { signalled } =
                        &mut generation.child
                {
                    *signalled = true;
                }
                Some(Event::StopRequested(signal))
            }
        };
        let index = step.index();
        if let Some(event) = event {
            let generation = &mut self.generations[index];
            // From here on the result of the upgrade is known, or everything is to stop.
            generation.owes_upgrade &= !matches!(
                event,
                Event::SuccessorNotStarted
                    | Event::SuccessorGone
                    | Event::TimedOut(Timer::SuccessorKill)
                    | Event::StopRequested(_)
            );
            generation.effects = decide(&mut generation.state, event).into();
            if event == Event::Committed {
                generation.committed = true;
            }
            let gives_up = matches!(
                generation.state.phase,
                Phase::Draining {
                    outcome: Outcome::Failed(Failure::NoAcknowledgement | Failure::ReadyNotSent),
                    ..
                }
            );
            if event == Event::Withdrawn && gives_up && !generation.knows_predecessor {
                return Err(format!(
                    "F8: generation {index} gives up, though it knows that nobody else is there"
                ));
            }
        }
        Ok(())
    }

    /// Drops dead generations at both ends whose death has been noticed, so that equal worlds compare equal.
    fn forget_the_dead(&mut self) {
        while self.generations.len() > 1 {
            let last = self.generations.len() - 1;
            let nobody_waits =
                !self.generations[last - 1].knows_successor || !self.generations[last - 1].alive;
            if self.generations[last].alive || !nobody_waits {
                break;
            }
            if self.pidfile == Some(last) || self.traffic == Some(last) {
                break;
            }
            self.generations.pop();
        }
        while self.generations.len() > 1
            && !self.generations[0].alive
            && !self.generations[1].knows_predecessor
            && self.pidfile != Some(0)
            && self.traffic != Some(0)
        {
            self.generations.remove(0);
            self.pidfile = self.pidfile.map(|named| named - 1);
            self.traffic = self.traffic.map(|named| named - 1);
        }
    }
}

mod explore;
mod perform;
mod promises;
mod transition;

use transition::Transition;
