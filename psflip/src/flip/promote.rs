//! The decision of a generation that takes over (contract U4).

use super::bake::{begin_bake, return_traffic_first, roll_back, roll_back_without_child, switch_again};
use super::decide::{
    begin_stop, decide, fail, pass_stop_back, promoted, queue_upgrade, signal_child, start_queued_upgrade,
};
use super::drain::child_exited;
use super::effect::{Effect, Notice};
use super::event::{ChildSignal, Event};
use super::state::{Failure, OldGeneration, Outcome, Phase, Predecessor, Promotion, State, Timer};
use crate::exit_status::ExitStatus;

/// `baked`: the generation has the traffic since its bake.
pub(super) fn promoting(
    state: &mut State,
    predecessor: Predecessor,
    step: Promotion,
    baked: bool,
    event: Event,
) -> Vec<Effect> {
    let mut go = |step| state.phase = Phase::Promoting { predecessor, step, baked };
    match event {
        Event::HookSucceeded if step == Promotion::RunningHook => {
            go(Promotion::Switching);
            vec![Effect::SwitchTraffic]
        }
        Event::HookFailed if step == Promotion::RunningHook => {
            fail(state, predecessor, Failure::Hook, ChildSignal::Send)
        }
        Event::TrafficSwitched { bakes: true }
            if step == Promotion::Switching && predecessor == Predecessor::Serves =>
        {
            begin_bake(state)
        }
        Event::TrafficSwitched { .. } if step == Promotion::Switching => {
            go(Promotion::TakingPidfile);
            vec![Effect::TakePidfile]
        }
        Event::TrafficRefused if step == Promotion::Switching => {
            give_up(state, predecessor, baked, Failure::Switch, ChildSignal::Send)
        }
        Event::PidfileTaken if step == Promotion::TakingPidfile => match predecessor {
            Predecessor::None => {
                let mut effects = promoted(state, false);
                effects.extend(start_queued_upgrade(state));
                effects
            }
            Predecessor::Serves => {
                go(Promotion::AwaitingAcknowledgement);
                vec![Effect::Arm(Timer::Acknowledgement), Effect::ReportReady]
            }
        },
        Event::PidfileRefused if step == Promotion::TakingPidfile => {
            if baked && predecessor == Predecessor::Serves {
                return return_traffic_first(state, Failure::Pidfile);
            }
            give_up(state, predecessor, baked, Failure::Pidfile, ChildSignal::Send)
        }
        Event::Acknowledged { upgrade_queued } if has_reported_ready(step) => {
            state.upgrade_queued |= upgrade_queued;
            let mut effects = vec![Effect::Disarm(Timer::Acknowledgement)];
            effects.extend(promoted(state, true));
            // The acknowledgement was sent before the withdrawal, so the reason for giving up now concerns
            // the service.
            match step {
                Promotion::Withdrawing { cause: Failure::ExitedEarly(end) } => {
                    effects.extend(child_exited(
                        state,
                        Predecessor::None,
                        Outcome::Relay(end),
                        OldGeneration::Drains,
                        Notice::ServiceDown(end),
                    ));
                }
                Promotion::Withdrawing { cause: Failure::Aborted } => {
                    effects.extend(decide(state, Event::StopRequested(withheld(baked))));
                }
                Promotion::Withdrawing { .. }
                | Promotion::RunningHook
                | Promotion::Switching
                | Promotion::TakingPidfile
                | Promotion::AwaitingAcknowledgement => effects.extend(start_queued_upgrade(state)),
            }
            effects
        }
        Event::Withdrawn => match step {
            Promotion::Withdrawing { cause } => {
                let mut effects = vec![Effect::Disarm(Timer::Acknowledgement)];
                effects.extend(match cause {
                    Failure::ExitedEarly(end) => give_up_without_child(state, predecessor, baked, end),
                    Failure::Aborted => {
                        let mut effects = Vec::new();
                        if predecessor == Predecessor::Serves {
                            effects.push(Effect::PassStopBack);
                        }
                        effects.extend(give_up(state, predecessor, baked, cause, withheld(baked)));
                        effects
                    }
                    Failure::Precheck
                    | Failure::Start(_)
                    | Failure::NotHealthy
                    | Failure::Unhealthy
                    | Failure::NeverHealthy
                    | Failure::Relay
                    | Failure::Hook
                    | Failure::Switch
                    | Failure::Pidfile
                    | Failure::ReadyNotSent
                    | Failure::NoAcknowledgement => {
                        give_up(state, predecessor, baked, cause, ChildSignal::Send)
                    }
                });
                effects
            }
            Promotion::RunningHook
            | Promotion::Switching
            | Promotion::TakingPidfile
            | Promotion::AwaitingAcknowledgement => Vec::new(),
        },
        Event::ChildExited(end) => match step {
            Promotion::AwaitingAcknowledgement => {
                withdraw(state, predecessor, baked, Failure::ExitedEarly(end))
            }
            Promotion::RunningHook => {
                let mut effects = vec![Effect::KillHook];
                effects.extend(child_exited(
                    state,
                    predecessor,
                    Outcome::Failed(Failure::ExitedEarly(end)),
                    OldGeneration::Gone,
                    Notice::Failed(Failure::ExitedEarly(end)),
                ));
                effects
            }
            Promotion::Switching | Promotion::TakingPidfile | Promotion::Withdrawing { .. } => {
                give_up_without_child(state, predecessor, baked, end)
            }
        },
        Event::StopRequested(signal) => {
            let mut effects = Vec::new();
            match (step, predecessor) {
                (Promotion::RunningHook, Predecessor::Serves) => {
                    effects.push(Effect::KillHook);
                    effects.extend(fail(state, predecessor, Failure::Aborted, signal));
                }
                (Promotion::RunningHook, Predecessor::None) => {
                    state.phase = Phase::Starting { predecessor, stopping: true };
                    effects.push(Effect::KillHook);
                    effects.extend(begin_stop(signal));
                    effects.extend(pass_stop_back(state));
                }
                (Promotion::AwaitingAcknowledgement, _) => {
                    if !baked {
                        effects.extend(signal_child(signal));
                    }
                    effects.extend(withdraw(state, predecessor, baked, Failure::Aborted));
                }
                // The child gets the signal when the relay has answered what is under way.
                (Promotion::Withdrawing { .. }, _) if baked => {}
                // The runtime completes these steps before it reads another event.
                (Promotion::Switching | Promotion::TakingPidfile | Promotion::Withdrawing { .. }, _) => {
                    effects.extend(signal_child(signal));
                }
            }
            effects
        }
        // A predecessor that is suspended can't take the traffic back, and this child has proved itself: it
        // serves until the predecessor answers or is gone (contract B3).
        Event::TimedOut(Timer::Acknowledgement) if step == Promotion::AwaitingAcknowledgement && baked => {
            vec![Effect::Report(Notice::NotAcknowledgedYet)]
        }
        Event::TimedOut(Timer::Acknowledgement) if step == Promotion::AwaitingAcknowledgement => {
            withdraw(state, predecessor, baked, Failure::NoAcknowledgement)
        }
        Event::ReadyNotSent if step == Promotion::AwaitingAcknowledgement => {
            withdraw(state, predecessor, baked, Failure::ReadyNotSent)
        }
        Event::Aborted => {
            let mut effects = vec![Effect::Disarm(Timer::Acknowledgement)];
            if step == Promotion::RunningHook {
                effects.push(Effect::KillHook);
            }
            effects.extend(give_up(state, predecessor, baked, Failure::Aborted, ChildSignal::Send));
            effects
        }
        Event::PredecessorGone => {
            let mut effects =
                vec![Effect::Disarm(Timer::Acknowledgement), Effect::Report(Notice::PredecessorKilled)];
            match step {
                Promotion::AwaitingAcknowledgement if baked => effects.extend(switch_again(state)),
                Promotion::AwaitingAcknowledgement => {
                    effects.extend(promoted(state, false));
                    effects.extend(start_queued_upgrade(state));
                }
                Promotion::RunningHook
                | Promotion::Switching
                | Promotion::TakingPidfile
                | Promotion::Withdrawing { .. } => {
                    state.phase = Phase::Promoting { predecessor: Predecessor::None, step, baked };
                }
            }
            effects
        }
        Event::UpgradeRequested | Event::RequestPassedOn => queue_upgrade(state),
        Event::HookSucceeded
        | Event::HookFailed
        | Event::TrafficSwitched { .. }
        | Event::TrafficRefused
        | Event::PidfileTaken
        | Event::PidfileRefused
        | Event::ReadyNotSent
        | Event::TrafficGranted
        | Event::Acknowledged { .. }
        | Event::ChildStarted
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
            | Timer::Drain
            | Timer::Delay
            | Timer::Closing
            | Timer::Grace
            | Timer::Kill
            | Timer::Ending,
        )
        | Event::RelayDrained
        | Event::RelayLost
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

/// Gives up a generation that may have switched traffic or taken the pidfile.
fn give_up(
    state: &mut State,
    predecessor: Predecessor,
    baked: bool,
    failure: Failure,
    signal: ChildSignal,
) -> Vec<Effect> {
    if baked {
        roll_back(state, predecessor, failure, signal)
    } else {
        give_back_and(fail(state, predecessor, failure, signal))
    }
}

/// The same after the exit of its child.
fn give_up_without_child(
    state: &mut State,
    predecessor: Predecessor,
    baked: bool,
    end: ExitStatus,
) -> Vec<Effect> {
    if baked {
        return roll_back_without_child(state, predecessor, end);
    }
    let failure = Failure::ExitedEarly(end);
    let (outcome, notice) = (Outcome::Failed(failure), Notice::Failed(failure));
    give_back_and(child_exited(state, predecessor, outcome, OldGeneration::Gone, notice))
}

/// Whether the child has the signal of a stop request that came before the acknowledgement. With the traffic,
/// the child gets it when the relay has answered what is under way.
fn withheld(baked: bool) -> ChildSignal {
    if baked { ChildSignal::Send } else { ChildSignal::HasIt }
}

/// Undoes the promotion so far, then does the rest.
fn give_back_and(rest: Vec<Effect>) -> Vec<Effect> {
    let mut effects = vec![Effect::GiveBack];
    effects.extend(rest);
    effects
}

/// Whether this generation has reported that it is ready, so that an acknowledgement may come.
fn has_reported_ready(step: Promotion) -> bool {
    matches!(step, Promotion::AwaitingAcknowledgement | Promotion::Withdrawing { .. })
}

fn withdraw(state: &mut State, predecessor: Predecessor, baked: bool, cause: Failure) -> Vec<Effect> {
    state.phase = Phase::Promoting { predecessor, step: Promotion::Withdrawing { cause }, baked };
    vec![Effect::Withdraw]
}
