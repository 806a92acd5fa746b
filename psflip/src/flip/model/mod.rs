//! A model checker for the decision.
//!
//! It runs up to four generations, each driven by the real [`decide`], in a model of the world in which
//! everything that the contract covers happens at the worst moment.
//!
//! A step is one performed effect, one message or death noticed, one expired timer, or one action of a child
//! or an operator. A process may be killed between any two steps, so also between two effects of one
//! decision. Messages from one sender arrive in order. The checker visits all reachable states (breadth
//! first), and checks every state and every step. It prints a violation with the shortest path to it.
//!
//! The model implements each effect once more, as simply as possible. The end-to-end tests show that the
//! runtime does the same.

use std::collections::VecDeque;

use super::*;
use crate::exit_status::ExitStatus;

const END: ExitStatus = ExitStatus::Exited(3);

/// The decision under test. Tests pass in faulty ones, to show that the checker finds the faults.
type Decide = fn(&mut State, Event) -> Vec<Effect>;

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
    /// Successors have the traffic on trial before they are promoted.
    bakes: bool,
    /// Bakes that an operator ends, either way.
    verdicts: u8,
    /// Keepers that are killed.
    keepers: u8,
    /// Processes that SIGKILL does not terminate.
    unkillable: u8,
    /// Upgrade signals that reach psflip and its child together and terminate the child.
    group_signals: u8,
    /// No two children may run at once (`upgrade.overlap = false`).
    is_exclusive: bool,
    /// `upgrade.draining`.
    most: u8,
    /// Requests not to wait for old generations that drain.
    ends: u8,
    /// What the other worlds show of a single generation is left out, so that more of them fit into the
    /// world: a child starts and stops without trouble, and operators talk to the service only.
    is_coarse: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// In the order of their start. Neighbours know each other, and a generation knows all older ones that
    /// drain.
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

impl World {
    fn new(budget: Budget) -> Self {
        Self {
            generations: vec![Generation::new(
                Role::First,
                OldGenerations { draining: 0, most: budget.most, announcing: false },
            )],
            pidfile: None,
            traffic: None,
            budget,
            open_requests: false,
            stopping: false,
        }
    }

    fn steps(&self) -> Vec<Transition> {
        let ghosts = (0..self.generations.len()).filter(|index| self.generations[*index].has_ghost);
        let mut steps: Vec<_> = ghosts.map(Transition::GhostGone).collect();
        for (index, generation) in
            self.generations.iter().enumerate().filter(|(_, generation)| generation.alive)
        {
            if self.budget.kills > 0 {
                steps.push(Transition::Kill(index));
            }
            if let Some(effect) = generation.effects.front() {
                steps.push(Transition::Perform(index));
                if self.budget.faults > 0
                    && (matches!(
                        effect,
                        Effect::SwitchTraffic
                            | Effect::TakePidfile
                            | Effect::ReportReady
                            | Effect::ReportBaking
                            | Effect::GrantTraffic
                            | Effect::StartSuccessor
                            | Effect::GrantTurn
                    ) || generation.reports_in_bake(*effect))
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

    fn neighbour(&self, index: usize, neighbour: Neighbour) -> Option<&Generation> {
        let other = match neighbour {
            Neighbour::Predecessor => index.checked_sub(1)?,
            Neighbour::Successor => index + 1,
        };
        self.generations.get(other)
    }

    /// The events that a waiting process can get.
    fn outer_steps(&self, index: usize, generation: &Generation, steps: &mut Vec<Transition>) {
        if !generation.from_predecessor.is_empty() {
            steps.push(Transition::ReceiveFromPredecessor(index));
        } else if generation.knows_predecessor && !self.generations[index - 1].alive {
            steps.push(Transition::PredecessorGone(index));
        }
        if generation.state.has_old_generations() && !generation.from_older.is_empty() {
            steps.push(Transition::ReceiveFromOlder(index));
        } else {
            let gone = generation.older.iter().filter(|older| !self.generations[**older].alive);
            steps.extend(gone.map(|older| Transition::OldGenerationGone(index, *older)));
        }
        if self.budget.ends > 0 && generation.state.has_old_generations() && generation.state.old.draining > 0
        {
            steps.push(Transition::EndDraining(index));
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
        let may_expire = |timer: &&Timer| match timer {
            Timer::SuccessorKill => is_known_to_hang,
            // Nothing survives SIGKILL there, so two children at once would have no excuse.
            Timer::Kill => !self.budget.is_exclusive,
            Timer::Healthy
            | Timer::Bake
            | Timer::Acknowledgement
            | Timer::Successor
            | Timer::Predecessor
            | Timer::Drain
            | Timer::Delay
            | Timer::Closing
            | Timer::Ending
            | Timer::Grace => true,
        };
        let is_of_interest = |timer: &&Timer| {
            !self.budget.is_coarse || matches!(timer, Timer::Delay | Timer::Ending | Timer::Bake)
        };
        steps.extend(
            generation
                .timers
                .iter()
                .filter(may_expire)
                .filter(is_of_interest)
                .map(|timer| Transition::Timer(index, *timer)),
        );
        if matches!(generation.relay, RelayState::Left | RelayState::Holds) && awaits_relay(&generation.state)
        {
            steps.push(Transition::RelayDrained(index));
        }
        if let Some(neighbour) = generation.awaits_tree
            && !self.neighbour(index, neighbour).is_some_and(|other| other.has_ghost)
        {
            steps.push(Transition::TreeOfOtherGone(index));
        }
        if self.budget.faults > 0 && (generation.state.is_starting() || generation.state.is_baking()) {
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
                steps.push(Transition::ChildStarts(index));
                if !self.budget.is_coarse {
                    steps.push(Transition::ChildFailsToStart(index));
                }
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
                if generation.watching && !killed && self.budget.faults > 0 {
                    steps.push(Transition::ChildSickens(index));
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
        let is_of_interest = !self.budget.is_coarse || generation.is_all_there_is();
        if self.budget.upgrades > 0 && is_of_interest {
            steps.push(Transition::Upgrade(index));
        }
        if self.budget.verdicts > 0 && generation.state.successor_bakes() {
            steps.extend([Transition::Keep(index), Transition::RollBack(index)]);
        }
        if self.budget.stops > 0 && is_of_interest {
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
                    | Effect::StartWatching
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
            Transition::ReceiveFromOlder(index) => {
                self.generations[index].from_older.pop_front().map(|()| Event::RequestPassedOn)
            }
            Transition::OldGenerationGone(index, gone) => {
                self.generations[index].older.retain(|older| *older != gone);
                Some(Event::OldGenerationGone)
            }
            Transition::EndDraining(_) => {
                self.budget.ends -= 1;
                Some(Event::EndDrainingRequested)
            }
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
            Transition::ChildSickens(index) => {
                self.budget.faults -= 1;
                let generation = &mut self.generations[index];
                (generation.watching, generation.unhealthy) = (false, true);
                Some(Event::ChildUnhealthy)
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
                let prepares = self.generations[index].is_preparing();
                Some(if prepares { Event::Prepared } else { Event::HookSucceeded })
            }
            Transition::HookFails(index) => {
                self.budget.faults -= 1;
                self.generations[index].hook = false;
                let prepares = self.generations[index].is_preparing();
                Some(if prepares { Event::NotPrepared(Failure::Precheck) } else { Event::HookFailed })
            }
            Transition::TreeOfOtherGone(index) => {
                self.generations[index].awaits_tree.take().map(|neighbour| match neighbour {
                    Neighbour::Predecessor => Event::PredecessorTreeGone,
                    Neighbour::Successor => Event::SuccessorTreeGone,
                })
            }
            Transition::GhostGone(index) => {
                self.generations[index].has_ghost = false;
                return Ok(());
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
            Transition::Keep(_) => {
                self.budget.verdicts -= 1;
                Some(Event::KeepRequested)
            }
            Transition::RollBack(_) => {
                self.budget.verdicts -= 1;
                Some(Event::RollbackRequested)
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
            generation.owes_child &= !matches!(event, Event::Committed | Event::StopRequested(_));
            let before = generation.state;
            generation.effects = decide(&mut generation.state, event).into();
            if event == Event::Committed {
                generation.committed = true;
                self.hand_old_generations_over(index);
            }
            let generation = &self.generations[index];
            let gives_up = matches!(
                generation.state.phase,
                Phase::Draining {
                    outcome: Outcome::Failed(Failure::NoAcknowledgement | Failure::ReadyNotSent),
                    ..
                }
            );
            let is_alone = event == Event::Withdrawn && gives_up && !generation.knows_predecessor;
            let fails = matches!(generation.state.phase, Phase::Draining { outcome: Outcome::Failed(_), .. });
            let had_traffic = event == Event::PredecessorGone
                && before.is_on_trial()
                && !matches!(
                    before.phase,
                    Phase::Baking { step: Bake::Returning { cause: Failure::Aborted } }
                )
                && fails;
            if is_alone || had_traffic {
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
            if self.generations[last].alive || self.generations[last].has_ghost || !nobody_waits {
                break;
            }
            if self.pidfile == Some(last) || self.traffic == Some(last) {
                break;
            }
            self.generations.pop();
        }
        while let Some(unknown) = (0..self.generations.len() - 1).find(|index| self.is_unknown(*index)) {
            self.generations.remove(unknown);
            let moved = |index: usize| if index > unknown { index - 1 } else { index };
            self.pidfile = self.pidfile.map(moved);
            self.traffic = self.traffic.map(moved);
            for generation in &mut self.generations {
                generation.older.iter_mut().for_each(|older| *older = moved(*older));
            }
        }
    }

    /// Whether this generation is dead, and no other one knows it.
    fn is_unknown(&self, index: usize) -> bool {
        let dead = &self.generations[index];
        let before = index.checked_sub(1).map(|before| &self.generations[before]);
        !dead.alive
            && !dead.has_ghost
            && self.pidfile != Some(index)
            && self.traffic != Some(index)
            && !self.generations[index + 1].knows_predecessor
            && !before.is_some_and(|before| before.alive && before.knows_successor)
            && !self.generations.iter().any(|generation| generation.older.contains(&index))
    }
}

mod bakes;
mod draining;
mod explore;
mod generation;
mod perform;
mod promises;
mod transition;

use generation::{
    ChildState, Generation, Neighbour, PeerMessage, RelayState, Settle, awaits_relay, is_second_stop,
};
use transition::Transition;
