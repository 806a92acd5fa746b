//! The decision: one function for each phase. Every function names every event, so that the compiler reports
//! a new event that is not handled.

use super::drain::{awaiting_predecessor, child_ended, draining};
use super::effect::{Effect, Hook, News};
use super::event::{ChildSignal, Event};
use super::state::{
    Failure, OldGeneration, Outcome, Phase, Predecessor, Promotion, Role, State, Step, Timer,
};
use super::upgrade::{start_upgrade, upgrading};

/// A new generation, and its first effects.
#[must_use]
pub fn begin(role: Role) -> (State, Vec<Effect>) {
    let predecessor = match role {
        Role::First => Predecessor::None,
        Role::Successor => Predecessor::Serves,
    };
    let state = State { phase: Phase::Starting { predecessor, stopping: false }, remembered: false };
    (state, vec![Effect::Arm(Timer::Healthy), Effect::StartChild])
}

/// Handles an event: changes the state and returns the effects to perform.
#[must_use]
pub fn decide(state: &mut State, event: Event) -> Vec<Effect> {
    match state.phase {
        Phase::Starting { predecessor, stopping } => starting(state, predecessor, stopping, event),
        Phase::Promoting { predecessor, step } => promoting(state, predecessor, step, event),
        Phase::Serving { predecessor_drains, stopping } => {
            serving(state, predecessor_drains, stopping, event)
        }
        Phase::Upgrading { child, successor, stopping } => {
            upgrading(state, child, successor, stopping, event)
        }
        Phase::Draining { step, outcome, old_generation } => {
            draining(state, step, outcome, old_generation, event)
        }
        Phase::AwaitingPredecessor { outcome } => awaiting_predecessor(state, outcome, event),
        Phase::Ended => Vec::new(),
    }
}

fn starting(state: &mut State, predecessor: Predecessor, stopping: bool, event: Event) -> Vec<Effect> {
    use Effect::{Arm, Disarm, StartProbing, StopProbing, Tell};
    match event {
        Event::ChildStarted if stopping => Vec::new(),
        Event::ChildStarted => vec![StartProbing],
        Event::ChildNotStarted(why) => {
            let failure = Failure::Start(why);
            state.phase = Phase::Ended;
            let mut effects = vec![Tell(News::Failed(failure))];
            effects.extend(give_up_request(state, predecessor));
            effects.push(Effect::Exit(Outcome::Failed(failure)));
            effects
        }
        // The child has the signal, or gets it next. Its exit or the grace time decides whether it keeps
        // serving.
        Event::ChildHealthy if stopping => Vec::new(),
        Event::ChildHealthy => {
            state.phase = Phase::Promoting { predecessor, step: Promotion::RunningHook };
            vec![Disarm(Timer::Healthy), StopProbing, Effect::RunHook(Hook::Promote)]
        }
        Event::ChildEnded(end) => {
            // After a stop request the exit was requested; without one, the generation failed (contract C6).
            let failure = Failure::EndedEarly(end);
            let (outcome, news) = if stopping {
                (Outcome::Relay(end), News::ChildEnded(end))
            } else {
                (Outcome::Failed(failure), News::Failed(failure))
            };
            let mut effects = vec![Disarm(Timer::Healthy), Disarm(Timer::Grace), StopProbing];
            effects.extend(child_ended(state, predecessor, outcome, OldGeneration::Gone, news));
            effects
        }
        Event::TimedOut(Timer::Healthy) => fail(state, predecessor, Failure::NotHealthy, ChildSignal::Send),
        Event::ChildNeverHealthy if stopping => Vec::new(),
        Event::ChildNeverHealthy => fail(state, predecessor, Failure::NeverHealthy, ChildSignal::Send),
        Event::TimedOut(Timer::Grace) if stopping => {
            state.phase = Phase::Starting { predecessor, stopping: false };
            vec![Tell(News::StopIgnored), Arm(Timer::Healthy), StartProbing]
        }
        Event::UpgradeRequested => remember(state),
        Event::StopRequested(_) if stopping => Vec::new(),
        Event::StopRequested(signal) => match predecessor {
            Predecessor::Serves => fail(state, predecessor, Failure::Aborted, signal),
            Predecessor::None => {
                state.phase = Phase::Starting { predecessor, stopping: true };
                let mut effects = vec![Disarm(Timer::Healthy), StopProbing];
                effects.extend(begin_stop(signal));
                effects
            }
        },
        Event::Aborted => fail(state, predecessor, Failure::Aborted, ChildSignal::Send),
        Event::PredecessorGone => match predecessor {
            Predecessor::Serves => {
                state.phase = Phase::Starting { predecessor: Predecessor::None, stopping };
                vec![Tell(News::PredecessorLost)]
            }
            Predecessor::None => Vec::new(),
        },
        Event::TreeGone
        | Event::TimedOut(
            Timer::Acknowledgement
            | Timer::Successor
            | Timer::SuccessorKill
            | Timer::Predecessor
            | Timer::Delay
            | Timer::Grace
            | Timer::Kill,
        )
        | Event::HookSucceeded
        | Event::HookFailed
        | Event::TrafficSwitched
        | Event::TrafficRefused
        | Event::PidfileTaken
        | Event::PidfileRefused
        | Event::ReadyNotSent
        | Event::Acknowledged { .. }
        | Event::Withdrawn
        | Event::RequestPassedOn
        | Event::SuccessorReady
        | Event::Committed
        | Event::NotCommitted
        | Event::RequestPassedBack
        | Event::SuccessorNotStarted
        | Event::SuccessorGone => Vec::new(),
    }
}

fn promoting(state: &mut State, predecessor: Predecessor, step: Promotion, event: Event) -> Vec<Effect> {
    let mut go = |step| state.phase = Phase::Promoting { predecessor, step };
    match event {
        Event::HookSucceeded if step == Promotion::RunningHook => {
            go(Promotion::Switching);
            vec![Effect::SwitchTraffic]
        }
        Event::HookFailed if step == Promotion::RunningHook => {
            fail(state, predecessor, Failure::Hook, ChildSignal::Send)
        }
        Event::TrafficSwitched if step == Promotion::Switching => {
            go(Promotion::TakingPidfile);
            vec![Effect::TakePidfile]
        }
        Event::TrafficRefused if step == Promotion::Switching => {
            give_back_and(fail(state, predecessor, Failure::Switch, ChildSignal::Send))
        }
        Event::PidfileTaken if step == Promotion::TakingPidfile => match predecessor {
            Predecessor::None => promoted(state, false),
            Predecessor::Serves => {
                go(Promotion::Told);
                vec![Effect::Arm(Timer::Acknowledgement), Effect::TellReady]
            }
        },
        Event::PidfileRefused if step == Promotion::TakingPidfile => {
            give_back_and(fail(state, predecessor, Failure::Pidfile, ChildSignal::Send))
        }
        Event::Acknowledged { remembered } if is_told(step) => {
            state.remembered |= remembered;
            let mut effects = vec![Effect::Disarm(Timer::Acknowledgement)];
            effects.extend(promoted(state, true));
            // The acknowledgement was sent before the withdrawal, so the reason for giving up now concerns
            // the service.
            match step {
                Promotion::Withdrawing { cause: Failure::EndedEarly(end) } => {
                    effects.extend(child_ended(
                        state,
                        Predecessor::None,
                        Outcome::Relay(end),
                        OldGeneration::Drains,
                        News::ServiceDown(end),
                    ));
                }
                Promotion::Withdrawing { cause: Failure::Aborted } => {
                    effects.extend(decide(state, Event::StopRequested(ChildSignal::HasIt)));
                }
                Promotion::Withdrawing { .. }
                | Promotion::RunningHook
                | Promotion::Switching
                | Promotion::TakingPidfile
                | Promotion::Told => {}
            }
            effects
        }
        Event::Withdrawn => match step {
            Promotion::Withdrawing { cause } => {
                let mut effects = vec![Effect::Disarm(Timer::Acknowledgement)];
                effects.extend(give_back_and(match cause {
                    Failure::EndedEarly(_) => child_ended(
                        state,
                        predecessor,
                        Outcome::Failed(cause),
                        OldGeneration::Gone,
                        News::Failed(cause),
                    ),
                    Failure::Aborted => {
                        let mut effects = Vec::new();
                        if predecessor == Predecessor::Serves {
                            effects.push(Effect::PassStopBack);
                        }
                        effects.extend(fail(state, predecessor, cause, ChildSignal::HasIt));
                        effects
                    }
                    Failure::Start(_)
                    | Failure::NotHealthy
                    | Failure::NeverHealthy
                    | Failure::Hook
                    | Failure::Switch
                    | Failure::Pidfile
                    | Failure::ReadyNotSent
                    | Failure::Silence => fail(state, predecessor, cause, ChildSignal::Send),
                }));
                effects
            }
            Promotion::RunningHook | Promotion::Switching | Promotion::TakingPidfile | Promotion::Told => {
                Vec::new()
            }
        },
        Event::ChildEnded(end) => match step {
            Promotion::Told => withdraw(state, predecessor, Failure::EndedEarly(end)),
            Promotion::RunningHook => {
                let mut effects = vec![Effect::EndHook];
                effects.extend(child_ended(
                    state,
                    predecessor,
                    Outcome::Failed(Failure::EndedEarly(end)),
                    OldGeneration::Gone,
                    News::Failed(Failure::EndedEarly(end)),
                ));
                effects
            }
            Promotion::Switching | Promotion::TakingPidfile | Promotion::Withdrawing { .. } => {
                let failure = Failure::EndedEarly(end);
                let outcome = Outcome::Failed(failure);
                give_back_and(child_ended(
                    state,
                    predecessor,
                    outcome,
                    OldGeneration::Gone,
                    News::Failed(failure),
                ))
            }
        },
        Event::StopRequested(signal) => {
            let mut effects = Vec::new();
            match (step, predecessor) {
                (Promotion::RunningHook, Predecessor::Serves) => {
                    effects.push(Effect::EndHook);
                    effects.extend(fail(state, predecessor, Failure::Aborted, signal));
                }
                (Promotion::RunningHook, Predecessor::None) => {
                    state.phase = Phase::Starting { predecessor, stopping: true };
                    effects.push(Effect::EndHook);
                    effects.extend(begin_stop(signal));
                }
                (Promotion::Told, _) => {
                    effects.extend(ask_child(signal));
                    effects.extend(withdraw(state, predecessor, Failure::Aborted));
                }
                // The runtime completes these steps before it reads another event.
                (Promotion::Switching | Promotion::TakingPidfile | Promotion::Withdrawing { .. }, _) => {
                    effects.extend(ask_child(signal));
                }
            }
            effects
        }
        Event::TimedOut(Timer::Acknowledgement) if step == Promotion::Told => {
            withdraw(state, predecessor, Failure::Silence)
        }
        Event::ReadyNotSent if step == Promotion::Told => withdraw(state, predecessor, Failure::ReadyNotSent),
        Event::Aborted => {
            let mut effects = vec![Effect::Disarm(Timer::Acknowledgement)];
            if step == Promotion::RunningHook {
                effects.push(Effect::EndHook);
            }
            effects.extend(give_back_and(fail(state, predecessor, Failure::Aborted, ChildSignal::Send)));
            effects
        }
        Event::PredecessorGone => {
            let mut effects =
                vec![Effect::Disarm(Timer::Acknowledgement), Effect::Tell(News::PredecessorLost)];
            match step {
                Promotion::Told => effects.extend(promoted(state, false)),
                Promotion::RunningHook
                | Promotion::Switching
                | Promotion::TakingPidfile
                | Promotion::Withdrawing { .. } => {
                    state.phase = Phase::Promoting { predecessor: Predecessor::None, step };
                }
            }
            effects
        }
        Event::UpgradeRequested | Event::RequestPassedOn => remember(state),
        Event::HookSucceeded
        | Event::HookFailed
        | Event::TrafficSwitched
        | Event::TrafficRefused
        | Event::PidfileTaken
        | Event::PidfileRefused
        | Event::ReadyNotSent
        | Event::Acknowledged { .. }
        | Event::ChildStarted
        | Event::ChildNotStarted(_)
        | Event::ChildHealthy
        | Event::ChildNeverHealthy
        | Event::TreeGone
        | Event::TimedOut(
            Timer::Healthy
            | Timer::Acknowledgement
            | Timer::Successor
            | Timer::SuccessorKill
            | Timer::Predecessor
            | Timer::Delay
            | Timer::Grace
            | Timer::Kill,
        )
        | Event::SuccessorReady
        | Event::Committed
        | Event::NotCommitted
        | Event::RequestPassedBack
        | Event::SuccessorNotStarted
        | Event::SuccessorGone => Vec::new(),
    }
}

fn serving(state: &mut State, predecessor_drains: bool, stopping: bool, event: Event) -> Vec<Effect> {
    match event {
        Event::ChildEnded(end) => {
            let mut effects = vec![Effect::Disarm(Timer::Grace)];
            let old_generation = match (predecessor_drains, stopping) {
                (false, _) => OldGeneration::Gone,
                (true, false) => OldGeneration::Drains,
                (true, true) => OldGeneration::Awaited,
            };
            let news = if stopping { News::ChildEnded(end) } else { News::ServiceDown(end) };
            effects.extend(child_ended(state, Predecessor::None, Outcome::Relay(end), old_generation, news));
            effects
        }
        Event::UpgradeRequested | Event::RequestPassedOn if predecessor_drains || stopping => remember(state),
        Event::UpgradeRequested | Event::RequestPassedOn => start_upgrade(state),
        Event::PredecessorGone if predecessor_drains => {
            state.phase = Phase::Serving { predecessor_drains: false, stopping };
            let mut effects = vec![Effect::Tell(News::PredecessorDrained)];
            effects.extend(follow_remembered(state));
            effects
        }
        Event::StopRequested(_) if stopping => Vec::new(),
        Event::StopRequested(signal) => {
            state.phase = Phase::Serving { predecessor_drains, stopping: true };
            let mut effects = begin_stop(signal);
            effects.extend(predecessor_drains.then_some(Effect::PassStopBack));
            effects
        }
        Event::TimedOut(Timer::Grace) if stopping => {
            state.phase = Phase::Serving { predecessor_drains, stopping: false };
            let mut effects = vec![Effect::Tell(News::StopIgnored)];
            effects.extend(follow_remembered(state));
            effects
        }
        Event::ChildStarted
        | Event::ChildNotStarted(_)
        | Event::ChildHealthy
        | Event::ChildNeverHealthy
        | Event::TreeGone
        | Event::TimedOut(
            Timer::Healthy
            | Timer::Acknowledgement
            | Timer::Successor
            | Timer::SuccessorKill
            | Timer::Predecessor
            | Timer::Delay
            | Timer::Grace
            | Timer::Kill,
        )
        | Event::HookSucceeded
        | Event::HookFailed
        | Event::TrafficSwitched
        | Event::TrafficRefused
        | Event::PidfileTaken
        | Event::PidfileRefused
        | Event::ReadyNotSent
        | Event::Acknowledged { .. }
        | Event::Withdrawn
        | Event::Aborted
        | Event::PredecessorGone
        | Event::SuccessorReady
        | Event::Committed
        | Event::NotCommitted
        | Event::RequestPassedBack
        | Event::SuccessorNotStarted
        | Event::SuccessorGone => Vec::new(),
    }
}

/// Stops the child. Whether it obeys is known when it exits or when the grace time is over.
fn begin_stop(signal: ChildSignal) -> Vec<Effect> {
    let mut effects = vec![Effect::Tell(News::Stopping), Effect::Arm(Timer::Grace)];
    effects.extend(ask_child(signal));
    effects
}

/// Signals the child, unless it already has the signal.
pub(super) fn ask_child(signal: ChildSignal) -> Option<Effect> {
    (signal == ChildSignal::Send).then_some(Effect::SignalChild)
}

/// Gives up this generation and its child before the promotion, without `shutdown.delay` (contract F4).
fn fail(state: &mut State, predecessor: Predecessor, failure: Failure, signal: ChildSignal) -> Vec<Effect> {
    state.phase = Phase::Draining {
        step: Step::Asked,
        outcome: Outcome::Failed(failure),
        old_generation: OldGeneration::Gone,
    };
    let mut effects =
        vec![Effect::Tell(News::Failed(failure)), Effect::Disarm(Timer::Healthy), Effect::StopProbing];
    effects.push(Effect::Arm(Timer::Grace));
    effects.extend(ask_child(signal));
    effects.extend(give_up_request(state, predecessor));
    effects
}

/// Disposes of a queued request when this generation stops: returns it to the predecessor, or refuses it.
pub(super) fn give_up_request(state: &mut State, predecessor: Predecessor) -> Option<Effect> {
    let answer = match predecessor {
        Predecessor::Serves => Effect::PassRequestBack,
        Predecessor::None => Effect::Tell(News::RequestRefused),
    };
    std::mem::take(&mut state.remembered).then_some(answer)
}

/// Undoes the promotion so far, then does the rest.
fn give_back_and(rest: Vec<Effect>) -> Vec<Effect> {
    let mut effects = vec![Effect::GiveBack];
    effects.extend(rest);
    effects
}

/// Whether this generation has reported that it is ready, so that an acknowledgement may come.
fn is_told(step: Promotion) -> bool {
    matches!(step, Promotion::Told | Promotion::Withdrawing { .. })
}

fn withdraw(state: &mut State, predecessor: Predecessor, cause: Failure) -> Vec<Effect> {
    state.phase = Phase::Promoting { predecessor, step: Promotion::Withdrawing { cause } };
    vec![Effect::Withdraw]
}

/// This generation is the service now.
fn promoted(state: &mut State, predecessor_drains: bool) -> Vec<Effect> {
    state.phase = Phase::Serving { predecessor_drains, stopping: false };
    let mut effects = vec![Effect::Tell(News::Promoted), Effect::RunHook(Hook::Promoted)];
    if !predecessor_drains {
        effects.extend(follow_remembered(state));
    }
    effects
}

pub(super) fn remember(state: &mut State) -> Vec<Effect> {
    // Several requests are one upgrade, and one log line.
    if std::mem::replace(&mut state.remembered, true) {
        Vec::new()
    } else {
        vec![Effect::Tell(News::RequestRemembered)]
    }
}

/// Starts the queued upgrade, if it can start now.
pub(super) fn follow_remembered(state: &mut State) -> Vec<Effect> {
    let can = state.phase == Phase::Serving { predecessor_drains: false, stopping: false };
    if can && state.remembered { start_upgrade(state) } else { Vec::new() }
}
