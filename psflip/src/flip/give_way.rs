//! The decision of a generation whose child gives way to that of a successor, because the two must not run
//! at once (contract E2, E3): the child stops first, and starts again if the successor fails.

use super::decide::{begin_stop, give_up_request, queue_upgrade, relay_is_done, start_queued_upgrade};
use super::drain::{child_exited, tree_is_over};
use super::effect::{Effect, Hook, Notice, RelayOrder};
use super::event::{ChildSignal, Event};
use super::state::{
    Child, DrainStep, Failure, GiveWay, OldGeneration, Outcome, Phase, Predecessor, Restart, State, Stopping,
    Successor, Timer, Turn,
};
use super::upgrade::upgrade_failed;
use crate::exit_status::ExitStatus;

/// The successor is prepared, and waits until this generation's child is gone.
pub(super) fn give_way(state: &mut State, child: Child) -> Vec<Effect> {
    use Effect::{Arm, Disarm, Report};
    let mut go = |step| state.phase = Phase::GivingWay { step, turn: Turn::Awaited };
    match child {
        Child::Runs => {
            go(GiveWay::Answering);
            vec![
                Disarm(Timer::Successor),
                Report(Notice::GivesWay),
                Arm(Timer::Drain),
                Effect::Relay(RelayOrder::Hold),
            ]
        }
        // It exited by itself, and the upgrade is the recovery (contract F7).
        Child::Exited(end) => {
            go(GiveWay::Orphans(end));
            vec![Disarm(Timer::Successor), Report(Notice::GivesWay), Arm(Timer::Grace), Effect::SignalOrphans]
        }
        Child::Gone(end) => {
            let mut effects = vec![Disarm(Timer::Successor), Report(Notice::GivesWay)];
            effects.extend(grant_turn(state, end));
            effects
        }
        Child::GaveWay(_) => Vec::new(),
    }
}

/// The child is gone: now the successor's child may start.
fn grant_turn(state: &mut State, end: ExitStatus) -> Vec<Effect> {
    let (child, successor) = (Child::GaveWay(end), Successor::Starting);
    state.phase = Phase::Upgrading { child, successor, stopping: Stopping::No };
    vec![Effect::GrantTurn, Effect::Arm(Timer::Successor)]
}

/// The child is being stopped for the successor.
pub(super) fn giving_way(state: &mut State, step: GiveWay, turn: Turn, event: Event) -> Vec<Effect> {
    use Effect::{Arm, Disarm, KillChild, KillOrphans, Report, SignalChild};
    let mut go = |step| state.phase = Phase::GivingWay { step, turn };
    match event {
        Event::RelayDrained | Event::TimedOut(Timer::Drain) if step == GiveWay::Answering => {
            go(GiveWay::Signalled);
            let mut effects = relay_is_done(event);
            effects.extend([Arm(Timer::Grace), SignalChild]);
            effects
        }
        Event::TimedOut(Timer::Grace) => match step {
            GiveWay::Signalled => {
                go(GiveWay::Killed);
                vec![Report(Notice::ChildKilled), Arm(Timer::Kill), KillChild]
            }
            GiveWay::Orphans(end) => {
                go(GiveWay::OrphansKilled(end));
                vec![Report(Notice::OrphansKilled), Arm(Timer::Kill), KillOrphans]
            }
            GiveWay::Answering | GiveWay::Killed | GiveWay::OrphansKilled(_) => Vec::new(),
        },
        Event::ChildExited(end) => {
            go(GiveWay::Orphans(end));
            let notice = if step == GiveWay::Answering {
                Notice::ChildExitedDuringUpgrade(end)
            } else {
                Notice::ChildExited(end)
            };
            let mut effects = vec![Disarm(Timer::Drain), Disarm(Timer::Grace), Disarm(Timer::Kill)];
            effects.extend([Report(notice), Arm(Timer::Grace), Effect::SignalOrphans]);
            effects
        }
        Event::TreeGone => match step {
            GiveWay::Orphans(end) | GiveWay::OrphansKilled(end) => {
                let mut effects = vec![Disarm(Timer::Grace), Disarm(Timer::Kill)];
                effects.extend(has_given_way(state, end, turn));
                effects
            }
            GiveWay::Answering | GiveWay::Signalled | GiveWay::Killed => Vec::new(),
        },
        Event::TimedOut(Timer::Kill) => match step {
            // The child may still run (psflip may not kill it), so no other one can start: it stays the
            // service.
            GiveWay::Killed => {
                let mut effects = vec![Report(Notice::SurvivedKill)];
                effects.extend(keep_child(state, turn));
                effects
            }
            // The child itself has exited. What is left is left behind (contract U5).
            GiveWay::OrphansKilled(end) => {
                let mut effects = vec![Report(Notice::SurvivedKill)];
                effects.extend(has_given_way(state, end, turn));
                effects
            }
            GiveWay::Answering | GiveWay::Signalled | GiveWay::Orphans(_) => Vec::new(),
        },
        Event::SuccessorNotStarted | Event::SuccessorGone if turn == Turn::Awaited => {
            if step == GiveWay::Answering {
                // The child has noticed nothing (contract U8).
                let mut effects = vec![Disarm(Timer::Drain), Effect::Relay(RelayOrder::Stay)];
                effects.extend(upgrade_failed(state, Child::Runs, Successor::Starting, Stopping::No));
                effects
            } else {
                state.phase = Phase::GivingWay { step, turn: Turn::Void };
                vec![Effect::TakeBack, Report(Notice::StartsAgain)]
            }
        }
        Event::StopRequested(signal) => stop(state, step, turn, signal),
        Event::UpgradeRequested | Event::RequestPassedBack => queue_upgrade(state),
        Event::RelayDrained
        | Event::SuccessorNotStarted
        | Event::SuccessorGone
        | Event::Prepared
        | Event::NotPrepared(_)
        | Event::TurnGranted
        | Event::PredecessorTreeGone
        | Event::ChildStarted
        | Event::ChildNotStarted(_)
        | Event::ChildHealthy
        | Event::ChildSettled
        | Event::ChildUnhealthy
        | Event::ChildNeverHealthy
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
        | Event::RequestPassedOn
        | Event::PredecessorGone
        | Event::KeepRequested
        | Event::RollbackRequested
        | Event::SuccessorBakes
        | Event::SuccessorReturned
        | Event::SuccessorPrepared
        | Event::SuccessorReady
        | Event::Committed
        | Event::NotCommitted
        | Event::SuccessorTreeGone
        | Event::OldGenerationGone
        | Event::Announced
        | Event::EndDrainingRequested
        | Event::EndRequested => Vec::new(),
    }
}

/// Nothing is left of the child: it is the successor's turn, or there is no successor any more.
fn has_given_way(state: &mut State, end: ExitStatus, turn: Turn) -> Vec<Effect> {
    match turn {
        Turn::Awaited => grant_turn(state, end),
        Turn::Void => await_successor_tree(state, end),
    }
}

/// The child could not be stopped, so it serves on.
fn keep_child(state: &mut State, turn: Turn) -> Vec<Effect> {
    let stay = Effect::Relay(RelayOrder::Stay);
    match turn {
        Turn::Awaited => {
            let (child, successor) = (Child::Runs, Successor::Exiting { had_traffic: false });
            state.phase = Phase::Upgrading { child, successor, stopping: Stopping::No };
            let reason = Effect::Report(Notice::CantGiveWay);
            vec![stay, reason, Effect::AbortSuccessor, Effect::Arm(Timer::Successor)]
        }
        Turn::Void => {
            let mut effects = vec![stay];
            effects.extend(upgrade_failed(state, Child::Runs, Successor::Starting, Stopping::No));
            effects
        }
    }
}

/// A stop was requested: nothing is started any more.
fn stop(state: &mut State, step: GiveWay, turn: Turn, signal: ChildSignal) -> Vec<Effect> {
    use Effect::{Arm, Disarm};
    let (child, stopping) = match step {
        GiveWay::Answering => (Child::Runs, Stopping::Answering(signal)),
        GiveWay::Signalled | GiveWay::Killed => (Child::Runs, Stopping::Signalled),
        GiveWay::Orphans(end) | GiveWay::OrphansKilled(end) => (Child::Exited(end), Stopping::Signalled),
    };
    let mut effects = vec![Effect::Report(Notice::Stopping)];
    effects.extend(match step {
        GiveWay::Answering => vec![Arm(Timer::Drain), Effect::Relay(RelayOrder::Stop)],
        // It has the signal.
        GiveWay::Signalled => vec![Arm(Timer::Grace)],
        GiveWay::Killed => vec![Disarm(Timer::Kill), Arm(Timer::Grace)],
        GiveWay::Orphans(_) => vec![Disarm(Timer::Grace)],
        GiveWay::OrphansKilled(_) => vec![Disarm(Timer::Kill)],
    });
    match turn {
        Turn::Awaited => {
            state.phase =
                Phase::Upgrading { child, successor: Successor::Exiting { had_traffic: false }, stopping };
            effects.extend([Effect::AbortSuccessor, Arm(Timer::Successor)]);
        }
        Turn::Void => effects.extend(upgrade_failed(state, child, Successor::Starting, stopping)),
    }
    effects
}

/// The successor has failed after this generation's child gave way to its child, which may not be gone yet.
pub(super) fn await_successor_tree(state: &mut State, end: ExitStatus) -> Vec<Effect> {
    state.phase = Phase::Restarting { step: Restart::AwaitingSuccessorTree(end) };
    vec![Effect::Arm(Timer::Kill), Effect::AwaitSuccessorTree]
}

/// This generation starts its own child again.
pub(super) fn restarting(state: &mut State, step: Restart, event: Event) -> Vec<Effect> {
    use Effect::{Arm, Disarm, Report, StopProbing};
    match event {
        Event::SuccessorTreeGone | Event::TimedOut(Timer::Kill) => {
            let Restart::AwaitingSuccessorTree(_) = step else { return Vec::new() };
            state.phase = Phase::Restarting { step: Restart::Starting };
            let first = if event == Event::SuccessorTreeGone {
                Disarm(Timer::Kill)
            } else {
                Report(Notice::TreeSurvivedKill) // it is left behind (contract U5)
            };
            vec![first, Arm(Timer::Healthy), Effect::StartChild]
        }
        Event::ChildStarted if step == Restart::Starting => vec![Effect::StartProbing],
        Event::ChildHealthy if step == Restart::Starting => {
            state.phase = Phase::Serving { stopping: Stopping::No };
            let mut effects = vec![
                Disarm(Timer::Healthy),
                StopProbing,
                Effect::Relay(RelayOrder::Stay),
                Report(Notice::ServesAgain),
                Effect::RunHook(Hook::Failed),
            ];
            effects.extend(start_queued_upgrade(state));
            effects
        }
        Event::ChildNotStarted(why) => {
            let failure = Failure::Start(why);
            let mut effects = vec![Disarm(Timer::Healthy), Disarm(Timer::Grace)];
            effects.push(Report(Notice::NotServingAgain(failure)));
            effects.extend(give_up_request(state, Predecessor::None));
            effects.extend(tree_is_over(state, Outcome::Failed(failure), OldGeneration::Gone));
            effects
        }
        Event::ChildExited(end) => {
            let failure = Failure::ExitedEarly(end);
            let (outcome, notice) = if step == Restart::Stopping {
                (Outcome::Relay(end), Notice::ChildExited(end))
            } else {
                (Outcome::Failed(failure), Notice::NotServingAgain(failure))
            };
            let mut effects = vec![Disarm(Timer::Healthy), Disarm(Timer::Grace), StopProbing];
            effects.extend(child_exited(state, Predecessor::None, outcome, OldGeneration::Gone, notice));
            effects
        }
        Event::TimedOut(Timer::Healthy) if step == Restart::Starting => fail(state, Failure::NotHealthy),
        Event::ChildNeverHealthy if step == Restart::Starting => fail(state, Failure::NeverHealthy),
        Event::StopRequested(signal) => match step {
            Restart::AwaitingSuccessorTree(end) => {
                let mut effects = vec![Disarm(Timer::Kill), Report(Notice::Stopping)];
                effects.push(Report(Notice::UpgradeAborted));
                effects.extend(give_up_request(state, Predecessor::None));
                effects.extend(tree_is_over(state, Outcome::Relay(end), OldGeneration::Gone));
                effects
            }
            Restart::Starting => {
                state.phase = Phase::Restarting { step: Restart::Stopping };
                let mut effects = vec![Disarm(Timer::Healthy), StopProbing, Report(Notice::UpgradeAborted)];
                effects.extend(begin_stop(signal));
                effects
            }
            Restart::Stopping => Vec::new(),
        },
        // The child ignores the stop, and may become healthy after all.
        Event::TimedOut(Timer::Grace) if step == Restart::Stopping => {
            state.phase = Phase::Restarting { step: Restart::Starting };
            vec![Report(Notice::StopIgnored), Arm(Timer::Healthy), Effect::StartProbing]
        }
        Event::UpgradeRequested => queue_upgrade(state),
        Event::Prepared
        | Event::NotPrepared(_)
        | Event::TurnGranted
        | Event::PredecessorTreeGone
        | Event::ChildStarted
        | Event::ChildHealthy
        | Event::ChildSettled
        | Event::ChildUnhealthy
        | Event::ChildNeverHealthy
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
        | Event::ReadyNotSent
        | Event::TrafficGranted
        | Event::Acknowledged { .. }
        | Event::Withdrawn
        | Event::Aborted
        | Event::RequestPassedOn
        | Event::PredecessorGone
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
        | Event::OldGenerationGone
        | Event::Announced
        | Event::EndDrainingRequested
        | Event::EndRequested => Vec::new(),
    }
}

/// The child that was started again is not healthy, and no other one is there. psflip exits with a failure,
/// so that the service manager starts the service again.
fn fail(state: &mut State, failure: Failure) -> Vec<Effect> {
    let outcome = Outcome::Failed(failure);
    state.phase =
        Phase::Draining { step: DrainStep::Signalled, outcome, old_generation: OldGeneration::Gone };
    let mut effects = vec![
        Effect::Report(Notice::NotServingAgain(failure)),
        Effect::Disarm(Timer::Healthy),
        Effect::StopProbing,
        Effect::Arm(Timer::Grace),
        Effect::SignalChild,
    ];
    effects.extend(give_up_request(state, Predecessor::None));
    effects
}
