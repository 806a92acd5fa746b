//! The decision: one function for each phase. Every function names every event, so that the compiler reports
//! a new event that is not handled.

use super::bake::baking;
use super::drain::{awaiting_predecessor, child_exited, draining};
use super::effect::{Effect, Hook, Notice, RelayOrder};
use super::event::{ChildSignal, Event};
use super::give_way::{giving_way, restarting};
use super::old_generations::about_old_generations;
use super::prepare::preparing;
use super::promote::promoting;
use super::settling::settling;
use super::state::{
    DrainStep, Failure, OldGeneration, OldGenerations, Outcome, Phase, Predecessor, Preparation, Role, State,
    Stopping, Timer,
};
use super::upgrade::{start_upgrade, upgrading};

/// A new generation, and its first effects. `old`: the old generations that drain already.
#[must_use]
pub fn begin(role: Role, old: OldGenerations) -> (State, Vec<Effect>) {
    let starting = |predecessor| {
        let phase = Phase::Starting { predecessor, stopping: false };
        (phase, vec![Effect::Arm(Timer::Healthy), Effect::StartChild])
    };
    let preparing = |exclusive| {
        let step = Preparation::Checking { exclusive };
        (Phase::Preparing { predecessor: Predecessor::Serves, step }, vec![Effect::Prepare])
    };
    let (phase, effects) = match role {
        Role::First => starting(Predecessor::None),
        Role::Successor => starting(Predecessor::Serves),
        Role::Prechecked => preparing(false),
        Role::Exclusive => preparing(true),
    };
    (State { phase, upgrade_queued: false, old }, effects)
}

/// Handles an event: changes the state and returns the effects to perform.
#[must_use]
pub fn decide(state: &mut State, event: Event) -> Vec<Effect> {
    if let Some(effects) = about_old_generations(state, event) {
        return effects;
    }
    match state.phase {
        Phase::Preparing { predecessor, step } => preparing(state, predecessor, step, event),
        Phase::Starting { predecessor, stopping } => starting(state, predecessor, stopping, event),
        Phase::Settling { predecessor } => settling(state, predecessor, event),
        Phase::Promoting { predecessor, step, baked } => promoting(state, predecessor, step, baked, event),
        Phase::Baking { step } => baking(state, step, event),
        Phase::Serving { stopping } => serving(state, stopping, event),
        Phase::Upgrading { child, successor, stopping } => {
            upgrading(state, child, successor, stopping, event)
        }
        Phase::GivingWay { step, turn } => giving_way(state, step, turn, event),
        Phase::Restarting { step } => restarting(state, step, event),
        Phase::Draining { step, outcome, old_generation } => {
            draining(state, step, outcome, old_generation, event)
        }
        Phase::AwaitingPredecessor { outcome } => awaiting_predecessor(state, outcome, event),
        Phase::Exiting => Vec::new(),
    }
}

pub(super) fn starting(
    state: &mut State,
    predecessor: Predecessor,
    stopping: bool,
    event: Event,
) -> Vec<Effect> {
    use Effect::{Arm, Disarm, Report, StartProbing, StopProbing};
    match event {
        Event::ChildStarted if stopping => Vec::new(),
        Event::ChildStarted => vec![StartProbing],
        Event::ChildNotStarted(why) => {
            let failure = Failure::Start(why);
            state.phase = Phase::Exiting;
            let mut effects = vec![Report(Notice::Failed(failure))];
            effects.extend(give_up_request(state, predecessor));
            effects.push(Effect::Exit(Outcome::Failed(failure)));
            effects
        }
        // The child has the signal, or gets it next. Its exit or the grace time decides whether it keeps
        // serving.
        Event::ChildHealthy if stopping => Vec::new(),
        Event::ChildHealthy => {
            state.phase = Phase::Settling { predecessor };
            vec![Effect::StartSettling]
        }
        Event::ChildExited(end) => {
            // After a stop request the exit was requested; without one, the generation failed (contract C6).
            let failure = Failure::ExitedEarly(end);
            let (outcome, old_generation, notice) = if stopping {
                (Outcome::Relay(end), state.old_generation(true), Notice::ChildExited(end))
            } else {
                (Outcome::Failed(failure), OldGeneration::Gone, Notice::Failed(failure))
            };
            let mut effects = vec![Disarm(Timer::Healthy), Disarm(Timer::Grace), StopProbing];
            effects.extend(child_exited(state, predecessor, outcome, old_generation, notice));
            effects
        }
        Event::TimedOut(Timer::Healthy) => fail(state, predecessor, Failure::NotHealthy, ChildSignal::Send),
        Event::ChildNeverHealthy | Event::RelayLost if stopping => Vec::new(),
        Event::ChildNeverHealthy => fail(state, predecessor, Failure::NeverHealthy, ChildSignal::Send),
        Event::RelayLost => fail(state, predecessor, Failure::Relay, ChildSignal::Send),
        Event::TimedOut(Timer::Grace) if stopping => {
            state.phase = Phase::Starting { predecessor, stopping: false };
            vec![Report(Notice::StopIgnored), Arm(Timer::Healthy), StartProbing]
        }
        Event::UpgradeRequested => queue_upgrade(state),
        Event::StopRequested(_) if stopping => Vec::new(),
        Event::StopRequested(signal) => match predecessor {
            Predecessor::Serves => fail(state, predecessor, Failure::Aborted, signal),
            Predecessor::None => {
                state.phase = Phase::Starting { predecessor, stopping: true };
                let mut effects = vec![Disarm(Timer::Healthy), StopProbing];
                effects.extend(begin_stop(signal));
                effects.extend(pass_stop_back(state));
                effects
            }
        },
        Event::Aborted => fail(state, predecessor, Failure::Aborted, ChildSignal::Send),
        Event::PredecessorGone => match predecessor {
            Predecessor::Serves => {
                state.phase = Phase::Starting { predecessor: Predecessor::None, stopping };
                vec![Report(Notice::PredecessorKilled)]
            }
            Predecessor::None => Vec::new(),
        },
        Event::ChildSettled
        | Event::ChildUnhealthy
        | Event::TreeGone
        | Event::TimedOut(
            Timer::Bake
            | Timer::Acknowledgement
            | Timer::Successor
            | Timer::SuccessorKill
            | Timer::Predecessor
            | Timer::Drain
            | Timer::Delay
            | Timer::Closing
            | Timer::Grace
            | Timer::Kill
            | Timer::Ending,
        )
        | Event::RelayDrained
        | Event::HookSucceeded
        | Event::HookFailed
        | Event::TrafficSwitched { .. }
        | Event::TrafficRefused
        | Event::PidfileTaken
        | Event::PidfileRefused
        | Event::ReadyNotSent
        | Event::TrafficGranted
        | Event::Acknowledged { .. }
        | Event::Withdrawn
        | Event::RequestPassedOn
        | Event::Prepared
        | Event::NotPrepared(_)
        | Event::TurnGranted
        | Event::PredecessorTreeGone
        | Event::SuccessorPrepared
        | Event::KeepRequested
        | Event::RollbackRequested
        | Event::SuccessorBakes
        | Event::SuccessorReturned
        | Event::SuccessorReady
        | Event::Committed
        | Event::NotCommitted
        | Event::RequestPassedBack
        | Event::SuccessorNotStarted
        | Event::SuccessorGone
        | Event::SuccessorTreeGone
        | Event::OldGenerationGone
        | Event::Announced
        | Event::EndDrainingRequested
        | Event::EndRequested => Vec::new(),
    }
}

fn serving(state: &mut State, stopping: Stopping, event: Event) -> Vec<Effect> {
    let is_stopping = stopping != Stopping::No;
    match event {
        Event::ChildExited(end) => {
            let mut effects = [Timer::Drain, Timer::Grace].map(Effect::Disarm).to_vec();
            let old_generation = state.old_generation(is_stopping);
            let notice = if is_stopping { Notice::ChildExited(end) } else { Notice::ServiceDown(end) };
            effects.extend(child_exited(
                state,
                Predecessor::None,
                Outcome::Relay(end),
                old_generation,
                notice,
            ));
            effects
        }
        Event::UpgradeRequested | Event::RequestPassedOn if is_stopping || !state.has_room() => {
            let mut effects = queue_upgrade(state);
            effects.extend(start_queued_upgrade(state));
            effects
        }
        Event::UpgradeRequested | Event::RequestPassedOn => start_upgrade(state),
        Event::StopRequested(signal) => match stopping {
            Stopping::No => {
                state.phase = Phase::Serving { stopping: Stopping::Answering(signal) };
                let mut effects = vec![
                    Effect::Report(Notice::Stopping),
                    Effect::Arm(Timer::Drain),
                    Effect::Relay(RelayOrder::Stop),
                ];
                effects.extend(pass_stop_back(state));
                effects
            }
            // A second stop request: the requests that are under way are not waited for.
            Stopping::Answering(_) => {
                state.phase = Phase::Serving { stopping: Stopping::Signalled };
                let mut effects = vec![Effect::Disarm(Timer::Drain)];
                effects.extend(stop_child(signal));
                effects.extend(pass_stop_back(state));
                effects
            }
            Stopping::Signalled => Vec::new(),
        },
        Event::RelayDrained | Event::TimedOut(Timer::Drain) => {
            let Stopping::Answering(signal) = stopping else { return Vec::new() };
            state.phase = Phase::Serving { stopping: Stopping::Signalled };
            let mut effects = relay_is_done(event);
            effects.extend(stop_child(signal));
            effects
        }
        Event::TimedOut(Timer::Grace) if stopping == Stopping::Signalled => {
            state.phase = Phase::Serving { stopping: Stopping::No };
            let mut effects = vec![Effect::Report(Notice::StopIgnored), Effect::Relay(RelayOrder::Stay)];
            effects.extend(start_queued_upgrade(state));
            effects
        }
        Event::ChildStarted
        | Event::ChildNotStarted(_)
        | Event::ChildHealthy
        | Event::ChildSettled
        | Event::ChildUnhealthy
        | Event::ChildNeverHealthy
        | Event::TreeGone
        | Event::TimedOut(
            Timer::Healthy
            | Timer::Bake
            | Timer::Acknowledgement
            | Timer::Successor
            | Timer::SuccessorKill
            | Timer::Predecessor
            | Timer::Delay
            | Timer::Closing
            | Timer::Grace
            | Timer::Kill
            | Timer::Ending,
        )
        | Event::RelayLost
        | Event::HookSucceeded
        | Event::HookFailed
        | Event::TrafficSwitched { .. }
        | Event::TrafficRefused
        | Event::PidfileTaken
        | Event::PidfileRefused
        | Event::ReadyNotSent
        | Event::TrafficGranted
        | Event::Acknowledged { .. }
        | Event::Withdrawn
        | Event::Aborted
        | Event::PredecessorGone
        | Event::Prepared
        | Event::NotPrepared(_)
        | Event::TurnGranted
        | Event::PredecessorTreeGone
        | Event::SuccessorPrepared
        | Event::KeepRequested
        | Event::RollbackRequested
        | Event::SuccessorBakes
        | Event::SuccessorReturned
        | Event::SuccessorReady
        | Event::Committed
        | Event::NotCommitted
        | Event::RequestPassedBack
        | Event::SuccessorNotStarted
        | Event::SuccessorGone
        | Event::SuccessorTreeGone
        | Event::OldGenerationGone
        | Event::Announced
        | Event::EndDrainingRequested
        | Event::EndRequested => Vec::new(),
    }
}

/// Stops a child that is not the service yet.
pub(super) fn begin_stop(signal: ChildSignal) -> Vec<Effect> {
    let mut effects = vec![Effect::Report(Notice::Stopping)];
    effects.extend(stop_child(signal));
    effects
}

/// Stops the child. Whether it obeys is known when it exits or when the grace time is over.
pub(super) fn stop_child(signal: ChildSignal) -> Vec<Effect> {
    let mut effects = vec![Effect::Arm(Timer::Grace)];
    effects.extend(signal_child(signal));
    effects
}

/// The relay has answered what was under way (`RelayDrained`), or its time is over.
pub(super) fn relay_is_done(event: Event) -> Vec<Effect> {
    if event == Event::RelayDrained {
        vec![Effect::Disarm(Timer::Drain)]
    } else {
        vec![Effect::Report(Notice::RelayTimedOut)]
    }
}

/// Signals the child, unless it already has the signal.
pub(super) fn signal_child(signal: ChildSignal) -> Option<Effect> {
    (signal == ChildSignal::Send).then_some(Effect::SignalChild)
}

/// Gives up this generation and its child before the promotion, without `shutdown.delay` (contract F4).
pub(super) fn fail(
    state: &mut State,
    predecessor: Predecessor,
    failure: Failure,
    signal: ChildSignal,
) -> Vec<Effect> {
    state.phase = Phase::Draining {
        step: DrainStep::Signalled,
        outcome: Outcome::Failed(failure),
        old_generation: OldGeneration::Gone,
    };
    let mut effects =
        vec![Effect::Report(Notice::Failed(failure)), Effect::Disarm(Timer::Healthy), Effect::StopProbing];
    effects.push(Effect::Arm(Timer::Grace));
    effects.extend(signal_child(signal));
    effects.extend(give_up_request(state, predecessor));
    effects
}

/// Disposes of a queued request when this generation stops: returns it to the predecessor, or refuses it.
pub(super) fn give_up_request(state: &mut State, predecessor: Predecessor) -> Option<Effect> {
    let answer = match predecessor {
        Predecessor::Serves => Effect::PassRequestBack,
        Predecessor::None => Effect::Report(Notice::RequestRefused),
    };
    std::mem::take(&mut state.upgrade_queued).then_some(answer)
}

/// This generation is the service now. The caller starts a queued upgrade, unless the child has just exited.
pub(super) fn promoted(state: &mut State, predecessor_drains: bool) -> Vec<Effect> {
    state.phase = Phase::Serving { stopping: Stopping::No };
    state.old.draining += u8::from(predecessor_drains);
    // With one, the next upgrade waits for its end.
    state.old.announcing = predecessor_drains && state.old.most > 1;
    vec![Effect::Relay(RelayOrder::Accept), Effect::Report(Notice::Promoted), Effect::RunHook(Hook::Promoted)]
}

pub(super) fn queue_upgrade(state: &mut State) -> Vec<Effect> {
    // Several requests are one upgrade, and one log line.
    if std::mem::replace(&mut state.upgrade_queued, true) {
        Vec::new()
    } else {
        vec![Effect::Report(Notice::UpgradeQueued)]
    }
}

/// Starts the queued upgrade, if it can start now. Old generations that drain may prevent it. If several may
/// drain, the oldest makes room (contract D3); a single one is waited for.
pub(super) fn start_queued_upgrade(state: &mut State) -> Vec<Effect> {
    if !state.upgrade_queued || state.phase != (Phase::Serving { stopping: Stopping::No }) {
        Vec::new()
    } else if state.has_room() {
        start_upgrade(state)
    } else if state.old.announcing {
        Vec::new()
    } else if state.old.most > 1 {
        vec![Effect::EndOldest, Effect::Arm(Timer::Ending)]
    } else {
        Vec::new()
    }
}

/// Passes a stop request on to the old generations that drain.
pub(super) fn pass_stop_back(state: &State) -> Option<Effect> {
    (state.old.draining > 0).then_some(Effect::PassStopBack)
}
