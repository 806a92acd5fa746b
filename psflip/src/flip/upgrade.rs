//! The decision of a generation that is the service while a successor starts or exits.

use super::decide::{give_up_request, queue_upgrade, relay_is_done, start_queued_upgrade, stop_child};
use super::drain::{stop_orphans, tree_is_over};
use super::effect::{Effect, Hook, Notice, RelayOrder};
use super::event::Event;
use super::give_way::{await_successor_tree, give_way};
use super::state::{
    Child, DrainStep, OldGeneration, Outcome, Phase, Predecessor, State, Stopping, Successor, Timer,
};

/// Starts an upgrade.
pub(super) fn start_upgrade(state: &mut State) -> Vec<Effect> {
    state.upgrade_queued = false;
    state.phase =
        Phase::Upgrading { child: Child::Runs, successor: Successor::Starting, stopping: Stopping::No };
    vec![Effect::Report(Notice::UpgradeStarted), Effect::Arm(Timer::Successor), Effect::StartSuccessor]
}

/// A successor starts or exits.
pub(super) fn upgrading(
    state: &mut State,
    child: Child,
    successor: Successor,
    stopping: Stopping,
    event: Event,
) -> Vec<Effect> {
    use Effect::{Arm, Disarm, Report};
    match event {
        Event::SuccessorPrepared if successor == Successor::Starting && stopping == Stopping::No => {
            give_way(state, child)
        }
        Event::SuccessorReady if successor == Successor::Starting => {
            state.phase = Phase::Upgrading { child, successor: Successor::Ready, stopping };
            vec![Effect::Acknowledge { upgrade_queued: state.upgrade_queued }]
        }
        Event::Committed if successor == Successor::Ready => {
            state.upgrade_queued = false; // passed on with the acknowledgement
            let outcome = Outcome::Superseded;
            let mut effects = vec![
                Disarm(Timer::Successor),
                Disarm(Timer::Drain),
                Disarm(Timer::Grace),
                Report(Notice::Superseded),
            ];
            match child {
                Child::Runs => {
                    let stops = stopping != Stopping::No;
                    state.phase = Phase::Draining {
                        step: DrainStep::Answering { stops },
                        outcome,
                        old_generation: OldGeneration::Gone,
                    };
                    effects.extend([Arm(Timer::Drain), Effect::Relay(RelayOrder::Leave)]);
                }
                Child::Exited(_) => effects.extend(stop_orphans(state, outcome, OldGeneration::Gone)),
                // The clients that waited go to the successor.
                Child::GaveWay(_) => {
                    state.phase = Phase::Draining {
                        step: DrainStep::PassingOn,
                        outcome,
                        old_generation: OldGeneration::Gone,
                    };
                    effects.extend([Arm(Timer::Drain), Effect::Relay(RelayOrder::Leave)]);
                }
                Child::Gone(_) => effects.extend(tree_is_over(state, outcome, OldGeneration::Gone)),
            }
            effects
        }
        Event::NotCommitted if successor == Successor::Ready => {
            state.phase = Phase::Upgrading { child, successor: Successor::Exiting, stopping };
            vec![Arm(Timer::Successor)]
        }
        Event::SuccessorNotStarted | Event::SuccessorGone => {
            let timer = if successor == Successor::Killed { Timer::SuccessorKill } else { Timer::Successor };
            let mut effects = vec![Disarm(timer)];
            effects.extend(upgrade_failed(state, child, stopping));
            effects
        }
        Event::TimedOut(Timer::Successor) => {
            state.phase = Phase::Upgrading { child, successor: Successor::Killed, stopping };
            vec![Arm(Timer::SuccessorKill), Effect::KillSuccessor]
        }
        // psflip can do no more, and the next upgrade does not wait for this process (contract U5). Nothing
        // depends on its exit: SIGKILL is pending, and no acknowledgement will be sent to it.
        Event::TimedOut(Timer::SuccessorKill) if successor == Successor::Killed => {
            let mut effects = vec![Report(Notice::SuccessorSurvivedKill)];
            effects.extend(upgrade_failed(state, child, stopping));
            effects
        }
        Event::ChildExited(end) if child == Child::Runs => {
            state.phase = Phase::Upgrading { child: Child::Exited(end), successor, stopping };
            let mut effects = vec![Disarm(Timer::Drain), Disarm(Timer::Grace)];
            // After a stop request the exit was requested. Without one, the upgrade is the recovery (contract
            // F7).
            effects.push(Report(if stopping == Stopping::No {
                Notice::ChildExitedDuringUpgrade(end)
            } else {
                Notice::ChildExited(end)
            }));
            // Clients wait for the successor instead of being refused by nobody.
            effects.push(Effect::Relay(RelayOrder::Leave));
            effects
        }
        Event::TreeGone => {
            if let Child::Exited(end) = child {
                state.phase = Phase::Upgrading { child: Child::Gone(end), successor, stopping };
            }
            Vec::new()
        }
        Event::StopRequested(signal) => match stopping {
            Stopping::No => {
                let mut effects = vec![Report(Notice::Stopping)];
                let successor = match successor {
                    Successor::Killed => Successor::Killed,
                    Successor::Starting | Successor::Ready | Successor::Exiting => {
                        effects.extend([Effect::AbortSuccessor, Arm(Timer::Successor)]);
                        Successor::Exiting
                    }
                };
                let runs = child == Child::Runs;
                let stopping = if runs { Stopping::Answering(signal) } else { Stopping::Signalled };
                state.phase = Phase::Upgrading { child, successor, stopping };
                if runs {
                    effects.extend([Arm(Timer::Drain), Effect::Relay(RelayOrder::Stop)]);
                }
                effects
            }
            // A second stop request: the requests that are under way are not waited for.
            Stopping::Answering(_) if child == Child::Runs => {
                state.phase = Phase::Upgrading { child, successor, stopping: Stopping::Signalled };
                let mut effects = vec![Disarm(Timer::Drain)];
                effects.extend(stop_child(signal));
                effects
            }
            Stopping::Answering(_) | Stopping::Signalled => Vec::new(),
        },
        Event::RelayDrained | Event::TimedOut(Timer::Drain) => match stopping {
            Stopping::Answering(signal) if child == Child::Runs => {
                state.phase = Phase::Upgrading { child, successor, stopping: Stopping::Signalled };
                let mut effects = relay_is_done(event);
                effects.extend(stop_child(signal));
                effects
            }
            Stopping::No | Stopping::Answering(_) | Stopping::Signalled => Vec::new(),
        },
        Event::TimedOut(Timer::Grace) if stopping == Stopping::Signalled && child == Child::Runs => {
            state.phase = Phase::Upgrading { child, successor, stopping: Stopping::No };
            vec![Report(Notice::StopIgnored), Effect::Relay(RelayOrder::Stay)]
        }
        Event::UpgradeRequested | Event::RequestPassedBack => queue_upgrade(state),
        Event::ChildStarted
        | Event::ChildNotStarted(_)
        | Event::ChildHealthy
        | Event::ChildSettled
        | Event::ChildUnhealthy
        | Event::ChildNeverHealthy
        | Event::ChildExited(_)
        | Event::TimedOut(
            Timer::Healthy
            | Timer::Acknowledgement
            | Timer::SuccessorKill
            | Timer::Predecessor
            | Timer::Delay
            | Timer::Closing
            | Timer::Grace
            | Timer::Kill,
        )
        | Event::RelayLost
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
        | Event::RequestPassedOn
        | Event::PredecessorGone
        | Event::Prepared
        | Event::NotPrepared(_)
        | Event::TurnGranted
        | Event::PredecessorTreeGone
        | Event::SuccessorPrepared
        | Event::SuccessorReady
        | Event::Committed
        | Event::NotCommitted
        | Event::SuccessorTreeGone => Vec::new(),
    }
}

/// The upgrade failed (contract U8).
pub(super) fn upgrade_failed(state: &mut State, child: Child, stopping: Stopping) -> Vec<Effect> {
    let mut effects = vec![Effect::TakeBack];
    let without_child = match stopping {
        Stopping::No => Notice::UpgradeFailedWithoutChild,
        Stopping::Answering(_) | Stopping::Signalled => Notice::UpgradeAborted,
    };
    match child {
        Child::Runs => {
            state.phase = Phase::Serving { predecessor_drains: false, stopping };
            effects.push(Effect::Report(Notice::UpgradeFailed));
            effects.push(Effect::RunHook(Hook::Failed));
            effects.extend(start_queued_upgrade(state));
        }
        Child::Exited(end) => {
            effects.push(Effect::Report(without_child));
            effects.extend(give_up_request(state, Predecessor::None));
            effects.extend(stop_orphans(state, Outcome::Relay(end), OldGeneration::Gone));
        }
        Child::GaveWay(end) if stopping == Stopping::No => {
            effects.push(Effect::Report(Notice::StartsAgain));
            effects.extend(await_successor_tree(state, end));
        }
        Child::Gone(end) | Child::GaveWay(end) => {
            effects.push(Effect::Report(without_child));
            effects.extend(give_up_request(state, Predecessor::None));
            effects.extend(tree_is_over(state, Outcome::Relay(end), OldGeneration::Gone));
        }
    }
    effects
}
