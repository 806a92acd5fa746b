//! The decision of a successor that has no child yet: it checks what needs no child, and waits until the
//! predecessor's child is gone if the two must not run at once (contract E1, E2).

use super::decide::{give_up_request, pass_stop_back, queue_upgrade};
use super::drain::exit_after_old_generations;
use super::effect::{Effect, Notice};
use super::event::Event;
use super::state::{Failure, Outcome, Phase, Predecessor, Preparation, State, Timer};
use crate::exit_status::ExitStatus;

/// The generation has no child yet.
pub(super) fn preparing(
    state: &mut State,
    predecessor: Predecessor,
    step: Preparation,
    event: Event,
) -> Vec<Effect> {
    let mut go = |predecessor, step| state.phase = Phase::Preparing { predecessor, step };
    match event {
        Event::Prepared => match (step, predecessor) {
            (Preparation::Checking { exclusive: false }, _) => start_child(state, predecessor),
            (Preparation::Checking { exclusive: true }, Predecessor::Serves) => {
                go(predecessor, Preparation::AwaitingTurn);
                vec![Effect::ReportPrepared]
            }
            (Preparation::Checking { exclusive: true }, Predecessor::None) => {
                go(predecessor, Preparation::AwaitingPredecessorTree);
                await_predecessor_tree()
            }
            (Preparation::AwaitingTurn | Preparation::AwaitingPredecessorTree, _) => Vec::new(),
        },
        Event::NotPrepared(failure) if matches!(step, Preparation::Checking { .. }) => {
            give_up(state, predecessor, failure)
        }
        Event::TurnGranted if step == Preparation::AwaitingTurn => start_child(state, predecessor),
        Event::PredecessorGone => match (step, predecessor) {
            (Preparation::Checking { .. }, Predecessor::Serves) => {
                go(Predecessor::None, step);
                vec![Effect::Report(Notice::PredecessorKilled)]
            }
            // It was killed before it could grant the turn, and its child is about to be gone (contract C7).
            (Preparation::AwaitingTurn, _) => {
                go(Predecessor::None, Preparation::AwaitingPredecessorTree);
                let mut effects = vec![Effect::Report(Notice::PredecessorKilled)];
                effects.extend(await_predecessor_tree());
                effects
            }
            (Preparation::Checking { .. } | Preparation::AwaitingPredecessorTree, _) => Vec::new(),
        },
        Event::PredecessorTreeGone if step == Preparation::AwaitingPredecessorTree => {
            let mut effects = vec![Effect::Disarm(Timer::Kill)];
            effects.extend(start_child(state, predecessor));
            effects
        }
        // What SIGKILL does not end is left behind, as everywhere (contract U5).
        Event::TimedOut(Timer::Kill) if step == Preparation::AwaitingPredecessorTree => {
            let mut effects = vec![Effect::Report(Notice::TreeSurvivedKill)];
            effects.extend(start_child(state, predecessor));
            effects
        }
        Event::RelayLost => {
            let mut effects = stop_preparing(step);
            effects.extend(give_up(state, predecessor, Failure::Relay));
            effects
        }
        Event::Aborted => {
            let mut effects = stop_preparing(step);
            effects.extend(give_up(state, predecessor, Failure::Aborted));
            effects
        }
        Event::StopRequested(_) => {
            let mut effects = stop_preparing(step);
            effects.extend(match predecessor {
                Predecessor::Serves => give_up(state, predecessor, Failure::Aborted),
                // The service is to stop, and no child is there whose exit status could be relayed.
                Predecessor::None => {
                    let mut effects = vec![Effect::Report(Notice::Stopping)];
                    effects.extend(give_up_request(state, predecessor));
                    effects.extend(pass_stop_back(state));
                    effects.extend(exit_after_old_generations(state, Outcome::Relay(ExitStatus::Exited(0))));
                    effects
                }
            });
            effects
        }
        Event::UpgradeRequested => queue_upgrade(state),
        Event::NotPrepared(_)
        | Event::TurnGranted
        | Event::PredecessorTreeGone
        | Event::ChildStarted
        | Event::ChildNotStarted(_)
        | Event::ChildHealthy
        | Event::ChildSettled
        | Event::ChildUnhealthy
        | Event::ChildNeverHealthy
        | Event::ChildExited(_)
        | Event::TreeGone
        | Event::TimedOut(
            Timer::Bake
            | Timer::Healthy
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
        | Event::KeepRequested
        | Event::RollbackRequested
        | Event::SuccessorBakes
        | Event::SuccessorReturned
        | Event::SuccessorPrepared
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

fn start_child(state: &mut State, predecessor: Predecessor) -> Vec<Effect> {
    state.phase = Phase::Starting { predecessor, stopping: false };
    vec![Effect::Arm(Timer::Healthy), Effect::StartChild]
}

fn await_predecessor_tree() -> Vec<Effect> {
    vec![Effect::Arm(Timer::Kill), Effect::AwaitPredecessorTree]
}

/// What runs or is armed in this step is of no use any more.
fn stop_preparing(step: Preparation) -> Vec<Effect> {
    match step {
        Preparation::Checking { .. } => vec![Effect::KillHook],
        Preparation::AwaitingTurn => Vec::new(),
        Preparation::AwaitingPredecessorTree => vec![Effect::Disarm(Timer::Kill)],
    }
}

/// Gives up this generation, which has no child.
fn give_up(state: &mut State, predecessor: Predecessor, failure: Failure) -> Vec<Effect> {
    state.phase = Phase::Exiting;
    let mut effects = vec![Effect::Report(Notice::Failed(failure))];
    effects.extend(give_up_request(state, predecessor));
    effects.push(Effect::Exit(Outcome::Failed(failure)));
    effects
}
