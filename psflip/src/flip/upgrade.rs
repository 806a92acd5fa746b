//! The decision of a generation that is the service while a successor starts or exits.

use super::decide::{
    give_up_request, pass_stop_back, queue_upgrade, relay_is_done, start_queued_upgrade, stop_child,
};
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
        Event::SuccessorBakes if successor == Successor::Starting => begin_bake(state, child, stopping),
        Event::KeepRequested if successor == Successor::Baking => {
            state.phase = Phase::Upgrading { child, successor: Successor::Kept, stopping };
            vec![Arm(Timer::Successor), Effect::PassKeep]
        }
        Event::RollbackRequested if matches!(successor, Successor::Baking | Successor::Kept) => {
            state.phase = Phase::Upgrading { child, successor: Successor::Returning, stopping };
            let mut effects = take_traffic_back(successor, child);
            effects.extend([Effect::RollBackSuccessor, Arm(Timer::Successor)]);
            effects.extend(report_roll_back(child));
            effects
        }
        Event::SuccessorReturned if successor.has_traffic() || successor == Successor::Returning => {
            state.phase =
                Phase::Upgrading { child, successor: Successor::Exiting { had_traffic: true }, stopping };
            let mut effects = take_traffic_back(successor, child);
            if successor.has_traffic() {
                // It keeps the traffic until then.
                effects.push(Effect::RollBackSuccessor);
                effects.extend(report_roll_back(child));
            }
            effects.push(Arm(Timer::Successor));
            effects
        }
        Event::SuccessorReady
            if matches!(successor, Successor::Starting | Successor::Baking | Successor::Kept) =>
        {
            let has_traffic = successor.has_traffic();
            state.phase = Phase::Upgrading { child, successor: Successor::Ready { has_traffic }, stopping };
            vec![Effect::Acknowledge { upgrade_queued: state.upgrade_queued }]
        }
        Event::Committed if matches!(successor, Successor::Ready { .. }) => {
            state.upgrade_queued = false; // passed on with the acknowledgement
            state.old.draining = 0; // from now on the successor's
            let outcome = Outcome::Superseded;
            let mut effects = vec![
                Disarm(Timer::Successor),
                Disarm(Timer::Ending),
                Disarm(Timer::Drain),
                Disarm(Timer::Grace),
            ];
            if matches!(child, Child::Runs | Child::GaveWay(_)) {
                // Before anybody hears of the promotion: who connects after that reaches the new generation
                // (T3).
                effects.push(Effect::Relay(RelayOrder::Leave));
            }
            effects.push(Effect::AnnounceSuccessor);
            if matches!(child, Child::Runs | Child::GaveWay(_)) {
                effects.push(Arm(Timer::Drain));
            }
            effects.push(Report(Notice::Superseded));
            match child {
                Child::Runs => {
                    let stops = stopping != Stopping::No;
                    state.phase = Phase::Draining {
                        step: DrainStep::Answering { stops },
                        outcome,
                        old_generation: OldGeneration::Gone,
                    };
                }
                Child::Exited(_) => effects.extend(stop_orphans(state, outcome, OldGeneration::Gone)),
                // The clients that waited go to the successor.
                Child::GaveWay(_) => {
                    state.phase = Phase::Draining {
                        step: DrainStep::PassingOn,
                        outcome,
                        old_generation: OldGeneration::Gone,
                    };
                }
                Child::Gone(_) => effects.extend(tree_is_over(state, outcome, OldGeneration::Gone)),
            }
            effects
        }
        Event::NotCommitted if matches!(successor, Successor::Ready { .. }) => {
            let exiting = Successor::Exiting { had_traffic: successor.had_traffic() };
            state.phase = Phase::Upgrading { child, successor: exiting, stopping };
            let mut effects = take_traffic_back(successor, child);
            effects.push(Arm(Timer::Successor));
            effects
        }
        Event::SuccessorNotStarted | Event::SuccessorGone => {
            let is_killed = matches!(successor, Successor::Killed { .. });
            let mut effects = take_traffic_back(successor, child);
            effects.push(Disarm(if is_killed { Timer::SuccessorKill } else { Timer::Successor }));
            effects.extend(upgrade_failed(state, child, successor, stopping));
            effects
        }
        Event::TimedOut(Timer::Successor) => {
            let killed = Successor::Killed { had_traffic: successor.had_traffic() };
            state.phase = Phase::Upgrading { child, successor: killed, stopping };
            let mut effects = take_traffic_back(successor, child);
            effects.extend([Arm(Timer::SuccessorKill), Effect::KillSuccessor]);
            effects
        }
        // psflip can do no more, and the next upgrade does not wait for this process (contract U5). Nothing
        // depends on its exit: SIGKILL is pending, and no acknowledgement will be sent to it.
        Event::TimedOut(Timer::SuccessorKill) if matches!(successor, Successor::Killed { .. }) => {
            let mut effects = vec![Report(Notice::SuccessorSurvivedKill)];
            effects.extend(upgrade_failed(state, child, successor, stopping));
            effects
        }
        Event::ChildExited(end) if child == Child::Runs => {
            let is_baking = successor == Successor::Baking;
            let successor = if is_baking { Successor::Kept } else { successor };
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
            if is_baking {
                // There is nothing to go back to.
                effects.extend([Arm(Timer::Successor), Effect::PassKeep]);
            }
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
                    Successor::Killed { .. } => successor,
                    Successor::Starting
                    | Successor::Baking
                    | Successor::Kept
                    | Successor::Ready { .. }
                    | Successor::Returning
                    | Successor::Exiting { .. } => {
                        effects.extend([Effect::AbortSuccessor, Arm(Timer::Successor)]);
                        Successor::Exiting { had_traffic: successor.had_traffic() }
                    }
                };
                let runs = child == Child::Runs;
                let stopping = if runs { Stopping::Answering(signal) } else { Stopping::Signalled };
                state.phase = Phase::Upgrading { child, successor, stopping };
                if runs {
                    effects.extend([Arm(Timer::Drain), Effect::Relay(RelayOrder::Stop)]);
                }
                effects.extend(pass_stop_back(state));
                effects
            }
            // A second stop request: the requests that are under way are not waited for.
            Stopping::Answering(_) if child == Child::Runs => {
                state.phase = Phase::Upgrading { child, successor, stopping: Stopping::Signalled };
                let mut effects = vec![Disarm(Timer::Drain)];
                effects.extend(stop_child(signal));
                effects.extend(hurry(successor));
                effects.extend(pass_stop_back(state));
                effects
            }
            Stopping::Answering(_) | Stopping::Signalled => hurry(successor).into_iter().collect(),
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
        Event::UpgradeRequested | Event::RequestPassedBack | Event::RequestPassedOn => queue_upgrade(state),
        Event::ChildStarted
        | Event::ChildNotStarted(_)
        | Event::ChildHealthy
        | Event::ChildSettled
        | Event::ChildUnhealthy
        | Event::ChildNeverHealthy
        | Event::ChildExited(_)
        | Event::KeepRequested
        | Event::RollbackRequested
        | Event::TimedOut(
            Timer::Healthy
            | Timer::Bake
            | Timer::Acknowledgement
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
        | Event::SuccessorBakes
        | Event::SuccessorReturned
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

/// The successor's child is healthy, and gets the traffic on trial (contract B1).
fn begin_bake(state: &mut State, child: Child, stopping: Stopping) -> Vec<Effect> {
    use Effect::{Arm, GrantTraffic, PassKeep, Relay, Report};
    let (successor, effects) = match child {
        Child::Runs => (
            Successor::Baking,
            vec![Arm(Timer::Successor), Relay(RelayOrder::StandBy), GrantTraffic, Report(Notice::Baking)],
        ),
        // There is nothing to go back to (contract F7).
        Child::Exited(_) | Child::Gone(_) | Child::GaveWay(_) => {
            (Successor::Kept, vec![Arm(Timer::Successor), GrantTraffic, PassKeep])
        }
    };
    state.phase = Phase::Upgrading { child, successor, stopping };
    effects
}

/// After a second stop request, neither relay waits for what is under way (contract T5).
fn hurry(successor: Successor) -> Option<Effect> {
    (successor == Successor::Exiting { had_traffic: true }).then_some(Effect::HurrySuccessor)
}

/// Takes the traffic back from a successor that has it.
fn take_traffic_back(successor: Successor, child: Child) -> Vec<Effect> {
    match child {
        Child::Runs if successor.has_traffic() => {
            vec![Effect::Relay(RelayOrder::Stay), Effect::TakeBack]
        }
        Child::Runs | Child::Exited(_) | Child::Gone(_) | Child::GaveWay(_) => Vec::new(),
    }
}

/// Without a child, this generation does not have the traffic again.
fn report_roll_back(child: Child) -> Option<Effect> {
    (child == Child::Runs).then_some(Effect::Report(Notice::RollingBack))
}

/// The upgrade failed (contract U8).
pub(super) fn upgrade_failed(
    state: &mut State,
    child: Child,
    successor: Successor,
    stopping: Stopping,
) -> Vec<Effect> {
    let mut effects = vec![Effect::TakeBack];
    // After a stop request the old child doesn't keep running, so this is no roll-back (contract B7).
    let (notice, hook) = if successor.had_traffic() && stopping == Stopping::No {
        (Notice::UpgradeRolledBack, Hook::RolledBack)
    } else {
        (Notice::UpgradeFailed, Hook::Failed)
    };
    let without_child = match stopping {
        Stopping::No => Notice::UpgradeFailedWithoutChild,
        Stopping::Answering(_) | Stopping::Signalled => Notice::UpgradeAborted,
    };
    let old_generation = state.old_generation(stopping != Stopping::No);
    match child {
        Child::Runs => {
            state.phase = Phase::Serving { stopping };
            effects.push(Effect::Report(notice));
            effects.push(Effect::RunHook(hook));
            effects.extend(start_queued_upgrade(state));
        }
        Child::Exited(end) => {
            effects.push(Effect::Report(without_child));
            effects.extend(give_up_request(state, Predecessor::None));
            effects.extend(stop_orphans(state, Outcome::Relay(end), old_generation));
        }
        Child::GaveWay(end) if stopping == Stopping::No => {
            effects.push(Effect::Report(Notice::StartsAgain));
            effects.extend(await_successor_tree(state, end));
        }
        Child::Gone(end) | Child::GaveWay(end) => {
            effects.push(Effect::Report(without_child));
            effects.extend(give_up_request(state, Predecessor::None));
            effects.extend(tree_is_over(state, Outcome::Relay(end), old_generation));
        }
    }
    effects
}
