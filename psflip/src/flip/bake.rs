//! The decision of a generation that has the traffic on trial, and how it gives the traffic back (contract
//! B).

use super::decide::{give_up_request, queue_upgrade};
use super::drain::stop_orphans;
use super::effect::{Effect, Notice, RelayOrder};
use super::event::{ChildSignal, Event};
use super::state::{
    Bake, DrainStep, Failure, OldGeneration, Outcome, Phase, Predecessor, Promotion, State, Timer,
};
use crate::exit_status::ExitStatus;

/// Traffic is switched: requests it from the predecessor, which stays the service.
pub(super) fn begin_bake(state: &mut State) -> Vec<Effect> {
    state.phase = Phase::Baking { step: Bake::AwaitingTraffic };
    vec![Effect::Arm(Timer::Acknowledgement), Effect::ReportBaking]
}

/// The predecessor is the service, and this generation has the traffic, or gets it next.
pub(super) fn baking(state: &mut State, step: Bake, event: Event) -> Vec<Effect> {
    use Effect::{Arm, Disarm, Relay, Report, StartWatching};
    let fail = |state: &mut State, failure, signal| roll_back(state, Predecessor::Serves, failure, signal);
    match event {
        Event::TrafficGranted if step == Bake::AwaitingTraffic => {
            state.phase = Phase::Baking { step: Bake::OnTrial };
            vec![
                Disarm(Timer::Acknowledgement),
                Relay(RelayOrder::Accept),
                Arm(Timer::Bake),
                // First the report: whatever it causes comes before the first result of the health check.
                Report(Notice::Baking),
                StartWatching,
            ]
        }
        Event::TimedOut(Timer::Bake) | Event::KeepRequested if step == Bake::OnTrial => {
            state.phase = Phase::Promoting {
                predecessor: Predecessor::Serves,
                step: Promotion::TakingPidfile,
                baked: true,
            };
            let mut effects = bake_is_over();
            effects.extend([Report(Notice::BakeOver), Effect::TakePidfile]);
            effects
        }
        Event::PredecessorGone => match step {
            Bake::Returning { cause: Failure::Aborted } => {
                leave(state, Failure::Aborted, ChildSignal::Send, RelayOrder::Stop)
            }
            // There is nothing to go back to, and this child serves, as well as it can (contract B4, F8).
            Bake::AwaitingTraffic | Bake::OnTrial | Bake::Returning { .. } => {
                let mut effects = bake_is_over();
                effects.push(Report(Notice::PredecessorKilled));
                effects.extend(switch_again(state));
                effects
            }
        },
        Event::Aborted => match step {
            Bake::AwaitingTraffic | Bake::OnTrial => fail(state, Failure::Aborted, ChildSignal::Send),
            // The predecessor has the traffic.
            Bake::Returning { cause } => leave(state, cause, ChildSignal::Send, RelayOrder::Return),
        },
        Event::StopRequested(signal) => match step {
            // The child exits soon.
            Bake::OnTrial if signal == ChildSignal::HasIt => fail(state, Failure::Aborted, signal),
            Bake::OnTrial => return_traffic_first(state, Failure::Aborted),
            Bake::AwaitingTraffic => fail(state, Failure::Aborted, signal),
            // This stop request is the second reason to give up: the predecessor is not waited for.
            Bake::Returning { .. } => leave(state, Failure::Aborted, signal, RelayOrder::Return),
        },
        Event::ChildExited(end) => match step {
            Bake::AwaitingTraffic | Bake::OnTrial => roll_back_without_child(state, Predecessor::Serves, end),
            Bake::Returning { cause } => {
                let mut effects = vec![
                    Disarm(Timer::Acknowledgement),
                    Report(Notice::ChildExited(end)),
                    Relay(RelayOrder::Return),
                ];
                effects.extend(stop_orphans(state, Outcome::Failed(cause), OldGeneration::Gone));
                effects
            }
        },
        Event::ChildUnhealthy if step == Bake::OnTrial => return_traffic_first(state, Failure::Unhealthy),
        Event::ChildNeverHealthy if step == Bake::OnTrial => {
            return_traffic_first(state, Failure::NeverHealthy)
        }
        Event::RelayLost if step == Bake::OnTrial => return_traffic_first(state, Failure::Relay),
        Event::ChildUnhealthy if step == Bake::AwaitingTraffic => {
            fail(state, Failure::Unhealthy, ChildSignal::Send)
        }
        Event::ChildNeverHealthy if step == Bake::AwaitingTraffic => {
            fail(state, Failure::NeverHealthy, ChildSignal::Send)
        }
        Event::RelayLost if step == Bake::AwaitingTraffic => fail(state, Failure::Relay, ChildSignal::Send),
        Event::ReadyNotSent => match step {
            Bake::AwaitingTraffic => fail(state, Failure::ReadyNotSent, ChildSignal::Send),
            // The predecessor waits for that report, and would kill this generation.
            Bake::OnTrial => return_traffic_first(state, Failure::ReadyNotSent),
            // The predecessor does not know yet that it gets the traffic, and nobody else accepts.
            Bake::Returning { .. } => vec![Arm(Timer::Acknowledgement)],
        },
        Event::TimedOut(Timer::Acknowledgement) if matches!(step, Bake::Returning { .. }) => {
            vec![Effect::ReportReturned]
        }
        Event::TimedOut(Timer::Acknowledgement) if step == Bake::AwaitingTraffic => {
            fail(state, Failure::NoAcknowledgement, ChildSignal::Send)
        }
        Event::UpgradeRequested | Event::RequestPassedOn => match step {
            Bake::AwaitingTraffic | Bake::OnTrial => queue_upgrade(state),
            Bake::Returning { .. } => vec![Effect::PassRequestBack],
        },
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
            | Timer::Drain
            | Timer::Delay
            | Timer::Closing
            | Timer::Grace
            | Timer::Kill
            | Timer::Ending,
        )
        | Event::RelayDrained
        | Event::RelayLost
        | Event::HookSucceeded
        | Event::HookFailed
        | Event::TrafficSwitched { .. }
        | Event::TrafficRefused
        | Event::PidfileTaken
        | Event::PidfileRefused
        | Event::TrafficGranted
        | Event::Prepared
        | Event::NotPrepared(_)
        | Event::TurnGranted
        | Event::PredecessorTreeGone
        | Event::SuccessorPrepared
        | Event::SuccessorTreeGone
        | Event::OldGenerationGone
        | Event::Announced
        | Event::EndDrainingRequested
        | Event::EndRequested
        | Event::Acknowledged { .. }
        | Event::Withdrawn
        | Event::KeepRequested
        | Event::RollbackRequested
        | Event::SuccessorBakes
        | Event::SuccessorReturned
        | Event::SuccessorReady
        | Event::Committed
        | Event::NotCommitted
        | Event::RequestPassedBack
        | Event::SuccessorNotStarted
        | Event::SuccessorGone => Vec::new(),
    }
}

/// The predecessor is dead. It may have taken the traffic back a moment before.
pub(super) fn switch_again(state: &mut State) -> Vec<Effect> {
    state.phase =
        Phase::Promoting { predecessor: Predecessor::None, step: Promotion::Switching, baked: true };
    vec![Effect::SwitchTraffic]
}

/// Gives up, and lets the predecessor take the traffic. This generation keeps it until that is done, so that
/// clients are served even if the predecessor is suspended (contract B3). The predecessor reports it by an
/// abort.
pub(super) fn return_traffic_first(state: &mut State, cause: Failure) -> Vec<Effect> {
    state.phase = Phase::Baking { step: Bake::Returning { cause } };
    let mut effects = bake_is_over();
    effects.extend([Effect::Report(Notice::Failed(cause)), Effect::GiveBack, Effect::ReportReturned]);
    effects.extend(give_up_request(state, Predecessor::Serves));
    effects
}

/// The wait for the predecessor is over: the relay answers what is under way, then the child is stopped.
fn leave(state: &mut State, cause: Failure, signal: ChildSignal, order: RelayOrder) -> Vec<Effect> {
    let (step, timer) = drain_step(signal);
    let outcome = Outcome::Failed(cause);
    state.phase = Phase::Draining { step, outcome, old_generation: OldGeneration::Gone };
    vec![Effect::Disarm(Timer::Acknowledgement), Effect::Arm(timer), Effect::Relay(order)]
}

fn drain_step(signal: ChildSignal) -> (DrainStep, Timer) {
    match signal {
        ChildSignal::Send => (DrainStep::Answering { stops: true }, Timer::Drain),
        ChildSignal::HasIt => (DrainStep::Signalled, Timer::Grace),
    }
}

/// Gives the traffic back and gives up: the relay answers what is under way, then the child is stopped.
pub(super) fn roll_back(
    state: &mut State,
    predecessor: Predecessor,
    failure: Failure,
    signal: ChildSignal,
) -> Vec<Effect> {
    let (step, timer) = drain_step(signal);
    let outcome = Outcome::Failed(failure);
    state.phase = Phase::Draining { step, outcome, old_generation: OldGeneration::Gone };
    let mut effects = bake_is_over();
    effects.push(Effect::Report(Notice::Failed(failure)));
    effects.push(Effect::Arm(timer));
    effects.extend(return_traffic(predecessor));
    effects.extend(give_up_request(state, predecessor));
    effects
}

/// The same for a generation whose child has exited.
pub(super) fn roll_back_without_child(
    state: &mut State,
    predecessor: Predecessor,
    end: ExitStatus,
) -> Vec<Effect> {
    let failure = Failure::ExitedEarly(end);
    let mut effects = bake_is_over();
    effects.push(Effect::Report(Notice::Failed(failure)));
    effects.extend(return_traffic(predecessor));
    effects.extend(give_up_request(state, predecessor));
    effects.extend(stop_orphans(state, Outcome::Failed(failure), OldGeneration::Gone));
    effects
}

fn return_traffic(predecessor: Predecessor) -> Vec<Effect> {
    match predecessor {
        Predecessor::Serves => {
            vec![Effect::GiveBack, Effect::Relay(RelayOrder::Return), Effect::ReportReturned]
        }
        Predecessor::None => vec![Effect::GiveBack, Effect::Relay(RelayOrder::Stop)],
    }
}

fn bake_is_over() -> Vec<Effect> {
    vec![Effect::Disarm(Timer::Bake), Effect::Disarm(Timer::Acknowledgement), Effect::StopProbing]
}
