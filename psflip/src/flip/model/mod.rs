//! A model checker for the decision: up to three generations, each driven by the real [`decide`], in a world where everything
//! that the contract speaks of happens at the worst moment.
//!
//! A step is one effect performed, one message or death noticed, one timer, one thing that a child or an operator does. A process
//! may be killed between any two steps, so also between two effects of one decision. Messages of one sender arrive in order.
//! All reachable states are visited (breadth first), and every state and every step is checked; a violation is printed with the
//! shortest way to it. What a performed effect does to the world is written here once more, in the simplest possible way: if
//! `runtime/` did it in another way, its tests would have to tell.

use std::collections::{HashMap, VecDeque};

use super::*;
use crate::end::End;

const END: End = End::Exited(3);

/// The decision that is checked; broken ones are passed in to see that the checker finds out.
type Decide = fn(&mut State, Event) -> Vec<Effect>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum ChildState {
    None,
    Launching {
        asked: bool,
    },
    Runs {
        asked: bool,
        killed: bool,
    },
    /// It has ended, and something is left of its tree.
    Left {
        killed: bool,
    },
    /// It, or something of its tree, got SIGKILL and will never end.
    Unkillable,
    Gone,
}

/// From the predecessor, or from the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Message {
    Acknowledge { remembered: bool },
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
    /// Decided, and not performed yet.
    effects: VecDeque<Effect>,
    /// Caused by effects, and not decided on yet.
    feedback: VecDeque<Event>,
    child: ChildState,
    probing: bool,
    /// `hooks.promote` runs.
    hook: bool,
    timers: Vec<Timer>,
    /// Reads what the predecessor sends.
    listens: bool,
    holds_pidfile: bool,
    from_predecessor: VecDeque<Message>,
    from_successor: VecDeque<Message>,
    /// The process before it, and the one after it, are there as far as it knows.
    knows_predecessor: bool,
    knows_successor: bool,
    committed: bool,
    /// It was asked to stop when it was the service, its child has not ignored that, and it has not waited for its predecessor as long as that may take.
    has_to_wait: bool,
    /// What can't be killed was told.
    told_left: bool,
    /// It started an upgrade on a signal that its child got as well, and what becomes of that is not known yet.
    owes_upgrade: bool,
}

/// How often what the world may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    upgrades: u8,
    stops: u8,
    kills: u8,
    /// Children that end by themselves.
    crashes: u8,
    /// Effects that fail.
    faults: u8,
    /// Keepers that are killed.
    keepers: u8,
    /// Processes that SIGKILL does not end.
    unkillable: u8,
    /// Upgrade signals that psflip and its child get together, of which the child ends.
    group_signals: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// In the order of their start; only neighbours know each other.
    generations: Vec<Generation>,
    /// Index of the generation that the pidfile names.
    pidfile: Option<usize>,
    /// Index of the generation to which clients are sent.
    traffic: Option<usize>,
    budget: Budget,
    /// A request was made that was neither followed nor answered yet.
    open_requests: bool,
    /// Whoever serves, or is to be the first to, was asked to stop, and no child has ignored it. A successor that is asked to
    /// stop only gives up, unless the pidfile names it: then it was meant for the service (F11).
    stopping: bool,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Perform(usize),
    PerformFailing(usize),
    Feedback(usize),
    HearPredecessor(usize),
    HearSuccessor(usize),
    PredecessorGone(usize),
    SuccessorGone(usize),
    Timer(usize, Timer),
    ChildStarts(usize),
    ChildFailsToStart(usize),
    ChildHealthy(usize),
    HookEnds(usize),
    HookFails(usize),
    ChildEnds(usize),
    TreeGone(usize),
    /// What was killed turns out to be unkillable.
    Survives(usize),
    /// Somebody kills the keeper before the child has executed its program. Afterwards it looks like the end of the child.
    KeeperKilled(usize),
    Upgrade(usize),
    UpgradeByGroupSignal(usize),
    Stop(usize, ChildSignal),
    Kill(usize),
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
            hook: false,
            timers: Vec::new(),
            listens: true,
            holds_pidfile: false,
            from_predecessor: VecDeque::new(),
            from_successor: VecDeque::new(),
            knows_predecessor: role == Role::Successor,
            knows_successor: false,
            committed: false,
            has_to_wait: false,
            told_left: false,
            owes_upgrade: false,
        }
    }

    /// Whether it is the service. From the moment in which the acknowledgement is sent it is not.
    fn serves(&self) -> bool {
        let phase = matches!(self.state.phase, Phase::Serving { .. } | Phase::Upgrading { .. });
        self.alive && phase && !self.feedback.contains(&Event::Committed)
    }

    /// Whether it serves, or nobody else does.
    fn is_all_there_is(&self) -> bool {
        let first = matches!(
            self.state.phase,
            Phase::Starting { predecessor: Predecessor::None, .. }
                | Phase::Promoting { predecessor: Predecessor::None, .. }
        );
        self.serves() || first
    }

    /// Whether what there is of the child's tree got SIGKILL.
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

    /// The end of a process, by kill or by exit: its child goes along (contract C7), and so does what it had not read. The
    /// rest is set to one value, so that equal worlds are equal.
    fn die(&mut self) {
        let dead = Self::new(Role::First);
        *self = Self { alive: false, effects: VecDeque::new(), child: ChildState::Gone, ..dead };
    }
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

    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, generation) in
            self.generations.iter().enumerate().filter(|(_, generation)| generation.alive)
        {
            if self.budget.kills > 0 {
                steps.push(Step::Kill(index));
            }
            if let Some(effect) = generation.effects.front() {
                steps.push(Step::Perform(index));
                if self.budget.faults > 0
                    && matches!(effect, Effect::SwitchTraffic | Effect::TakePidfile | Effect::StartSuccessor)
                {
                    steps.push(Step::PerformFailing(index));
                }
            } else if !generation.feedback.is_empty() {
                steps.push(Step::Feedback(index));
            } else {
                self.outer_steps(index, generation, &mut steps);
            }
        }
        steps
    }

    /// What a process hears when it waits.
    fn outer_steps(&self, index: usize, generation: &Generation, steps: &mut Vec<Step>) {
        if !generation.from_predecessor.is_empty() {
            steps.push(Step::HearPredecessor(index));
        } else if generation.knows_predecessor && !self.generations[index - 1].alive {
            steps.push(Step::PredecessorGone(index));
        }
        if !generation.from_successor.is_empty() {
            steps.push(Step::HearSuccessor(index));
        } else if generation.knows_successor && !self.generations[index + 1].alive {
            steps.push(Step::SuccessorGone(index));
        }
        steps.extend(generation.timers.iter().map(|timer| Step::Timer(index, *timer)));
        if generation.hook {
            steps.push(Step::HookEnds(index));
            if self.budget.faults > 0 {
                steps.push(Step::HookFails(index));
            }
        }
        match generation.child {
            ChildState::Launching { .. } => {
                steps.extend([Step::ChildStarts(index), Step::ChildFailsToStart(index)]);
            }
            ChildState::Runs { asked, killed } => {
                if generation.probing && !killed {
                    steps.push(Step::ChildHealthy(index));
                }
                if asked || killed || self.budget.crashes > 0 {
                    steps.push(Step::ChildEnds(index));
                }
            }
            ChildState::Left { .. } => steps.push(Step::TreeGone(index)),
            ChildState::None | ChildState::Unkillable | ChildState::Gone => {}
        }
        if self.budget.unkillable > 0
            && let ChildState::Runs { killed: true, .. } | ChildState::Left { killed: true } =
                generation.child
        {
            steps.push(Step::Survives(index));
        }
        if self.budget.keepers > 0
            && let ChildState::Launching { .. } = generation.child
        {
            steps.push(Step::KeeperKilled(index));
        }
        if self.budget.group_signals > 0 && matches!(generation.child, ChildState::Runs { .. }) {
            steps.push(Step::UpgradeByGroupSignal(index));
        }
        if self.budget.upgrades > 0 {
            steps.push(Step::Upgrade(index));
        }
        if self.budget.stops > 0 {
            steps.extend([ChildSignal::HasIt, ChildSignal::Send].map(|signal| Step::Stop(index, signal)));
        }
    }

    /// What the world is after a step. `Err`: a promise is broken.
    fn after(&self, step: Step, decide: Decide) -> Result<Self, String> {
        let mut world = self.clone();
        world.go(step, decide)?;
        world.forget_the_dead();
        world.check()?;
        Ok(world)
    }

    fn go(&mut self, step: Step, decide: Decide) -> Result<(), String> {
        let event = match step {
            Step::Perform(index) => return self.perform(index, false),
            Step::PerformFailing(index) => {
                self.budget.faults -= 1;
                return self.perform(index, true);
            }
            Step::Kill(index) => {
                self.budget.kills -= 1;
                self.kill(index);
                return Ok(());
            }
            Step::Feedback(index) => self.generations[index].feedback.pop_front(),
            Step::HearPredecessor(index) => self.hear_predecessor(index),
            Step::HearSuccessor(index) => self.hear_successor(index),
            Step::PredecessorGone(index) => {
                self.generations[index].knows_predecessor = false;
                Some(Event::PredecessorGone)
            }
            Step::SuccessorGone(index) => {
                self.generations[index].knows_successor = false;
                Some(Event::SuccessorGone)
            }
            Step::Timer(index, timer) => {
                let generation = &mut self.generations[index];
                generation.timers.retain(|armed| *armed != timer);
                generation.has_to_wait &= timer != Timer::Predecessor;
                Some(Event::TimedOut(timer))
            }
            Step::ChildStarts(index) => {
                let asked = self.generations[index].child == ChildState::Launching { asked: true };
                self.generations[index].child = ChildState::Runs { asked, killed: false };
                Some(Event::ChildStarted)
            }
            Step::ChildFailsToStart(index) => {
                self.generations[index].child = ChildState::Gone;
                Some(Event::ChildNotStarted(StartFailure::NotFound))
            }
            Step::ChildHealthy(index) => {
                self.generations[index].probing = false;
                Some(Event::ChildHealthy)
            }
            Step::HookEnds(index) => {
                self.generations[index].hook = false;
                Some(Event::HookSucceeded)
            }
            Step::HookFails(index) => {
                self.budget.faults -= 1;
                self.generations[index].hook = false;
                Some(Event::HookFailed)
            }
            Step::ChildEnds(index) => {
                if let ChildState::Runs { asked: false, killed: false } = self.generations[index].child {
                    self.budget.crashes -= 1;
                }
                self.generations[index].child = ChildState::Left { killed: false };
                Some(Event::ChildEnded(END))
            }
            Step::TreeGone(index) => {
                self.generations[index].child = ChildState::Gone;
                Some(Event::TreeGone)
            }
            Step::Survives(index) => {
                self.budget.unkillable -= 1;
                self.generations[index].child = ChildState::Unkillable;
                None
            }
            Step::KeeperKilled(index) => {
                self.budget.keepers -= 1;
                self.generations[index].child = ChildState::Left { killed: true };
                Some(Event::ChildEnded(END))
            }
            Step::Upgrade(_) => {
                self.budget.upgrades -= 1;
                self.open_requests = true;
                Some(Event::UpgradeRequested)
            }
            Step::UpgradeByGroupSignal(index) => {
                self.budget.group_signals -= 1;
                self.open_requests = true;
                let generation = &mut self.generations[index];
                generation.owes_upgrade = generation.state.is_idle();
                if let ChildState::Runs { asked, .. } = &mut generation.child {
                    *asked = true;
                }
                Some(Event::UpgradeRequested)
            }
            Step::Stop(index, signal) => {
                self.budget.stops -= 1;
                self.stopping |= self.generations[index].is_all_there_is();
                let serves = self.generations[index].serves();
                let generation = &mut self.generations[index];
                generation.has_to_wait |= serves;
                if signal == ChildSignal::HasIt
                    && let ChildState::Runs { asked, .. } | ChildState::Launching { asked } =
                        &mut generation.child
                {
                    *asked = true;
                }
                Some(Event::StopRequested(signal))
            }
        };
        let index = step.index();
        if let Some(event) = event {
            let generation = &mut self.generations[index];
            // From here on it is known what becomes of the upgrade, or all is to end.
            generation.owes_upgrade &= !matches!(event, Event::SuccessorGone | Event::StopRequested(_));
            generation.effects = decide(&mut generation.state, event).into();
            if event == Event::Committed {
                generation.committed = true;
            }
            let silence = Outcome::Failed(Failure::Silence);
            let gives_up =
                matches!(generation.state.phase, Phase::Draining { outcome, .. } if outcome == silence);
            if event == Event::Withdrawn && gives_up && !generation.knows_predecessor {
                return Err(format!(
                    "F8: generation {index} gives up, though it knows that nobody else is there"
                ));
            }
        }
        Ok(())
    }

    /// Equal worlds get equal numbers: the dead at both ends, of whom nobody has still to hear, are dropped.
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

impl Step {
    fn index(self) -> usize {
        match self {
            Self::Perform(index)
            | Self::PerformFailing(index)
            | Self::Feedback(index)
            | Self::HearPredecessor(index)
            | Self::HearSuccessor(index)
            | Self::PredecessorGone(index)
            | Self::SuccessorGone(index)
            | Self::Timer(index, _)
            | Self::ChildStarts(index)
            | Self::ChildFailsToStart(index)
            | Self::ChildHealthy(index)
            | Self::HookEnds(index)
            | Self::HookFails(index)
            | Self::ChildEnds(index)
            | Self::TreeGone(index)
            | Self::Survives(index)
            | Self::KeeperKilled(index)
            | Self::Upgrade(index)
            | Self::UpgradeByGroupSignal(index)
            | Self::Stop(index, _)
            | Self::Kill(index) => index,
        }
    }
}

mod explore;
mod perform;
mod promises;
