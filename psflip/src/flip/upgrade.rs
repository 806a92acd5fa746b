//! The decision of a generation that is the service while a successor starts or exits.

use super::decide::{ask_child, follow_remembered, give_up_request, remember};
use super::drain::{end_orphans, exit};
use super::effect::{Effect, Hook, News};
use super::event::Event;
use super::state::{Child, OldGeneration, Outcome, Phase, Predecessor, State, Step, Successor, Timer};

/// Starts an upgrade.
pub(super) fn start_upgrade(state: &mut State) -> Vec<Effect> {
    state.remembered = false;
    state.phase = Phase::Upgrading { child: Child::Runs, successor: Successor::Comes, stopping: false };
    vec![Effect::Tell(News::UpgradeStarted), Effect::Arm(Timer::Successor), Effect::StartSuccessor]
}

/// A successor starts or exits.
pub(super) fn upgrading(
    state: &mut State,
    child: Child,
    successor: Successor,
    stopping: bool,
    event: Event,
) -> Vec<Effect> {
    use Effect::{Arm, Disarm, Tell};
    match event {
        Event::SuccessorReady if successor == Successor::Comes => {
            state.phase = Phase::Upgrading { child, successor: Successor::Ready, stopping };
            vec![Effect::Acknowledge { remembered: state.remembered }]
        }
        Event::Committed if successor == Successor::Ready => {
            state.remembered = false; // passed on with the acknowledgement
            let outcome = Outcome::Superseded;
            let mut effects = vec![Disarm(Timer::Successor), Disarm(Timer::Grace), Tell(News::Superseded)];
            match child {
                Child::Runs => {
                    state.phase =
                        Phase::Draining { step: Step::Delay, outcome, old_generation: OldGeneration::Gone };
                    effects.push(Arm(Timer::Delay));
                }
                Child::Ended(_) => effects.extend(end_orphans(state, outcome, OldGeneration::Gone)),
                Child::Gone(_) => effects.extend(exit(state, outcome)),
            }
            effects
        }
        Event::NotCommitted if successor == Successor::Ready => {
            state.phase = Phase::Upgrading { child, successor: Successor::Ends, stopping };
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
            let mut effects = vec![Tell(News::SuccessorLeftBehind)];
            effects.extend(upgrade_failed(state, child, stopping));
            effects
        }
        Event::ChildEnded(end) if child == Child::Runs => {
            state.phase = Phase::Upgrading { child: Child::Ended(end), successor, stopping };
            let mut effects = vec![Disarm(Timer::Grace)];
            // After a stop request the exit was requested. Without one, the upgrade is the recovery (contract
            // F7).
            effects.push(Tell(if stopping {
                News::ChildEnded(end)
            } else {
                News::ChildEndedDuringUpgrade(end)
            }));
            effects
        }
        Event::TreeGone => {
            if let Child::Ended(end) = child {
                state.phase = Phase::Upgrading { child: Child::Gone(end), successor, stopping };
            }
            Vec::new()
        }
        Event::StopRequested(_) if stopping => Vec::new(),
        Event::StopRequested(signal) => {
            let mut effects = vec![Tell(News::Stopping)];
            let successor = match successor {
                Successor::Killed => Successor::Killed,
                Successor::Comes | Successor::Ready | Successor::Ends => {
                    effects.extend([Effect::AbortSuccessor, Arm(Timer::Successor)]);
                    Successor::Ends
                }
            };
            state.phase = Phase::Upgrading { child, successor, stopping: true };
            if child == Child::Runs {
                effects.push(Arm(Timer::Grace));
                effects.extend(ask_child(signal));
            }
            effects
        }
        Event::TimedOut(Timer::Grace) if stopping && child == Child::Runs => {
            state.phase = Phase::Upgrading { child, successor, stopping: false };
            vec![Tell(News::StopIgnored)]
        }
        Event::UpgradeRequested | Event::RequestPassedBack => remember(state),
        Event::ChildStarted
        | Event::ChildNotStarted(_)
        | Event::ChildHealthy
        | Event::ChildNeverHealthy
        | Event::ChildEnded(_)
        | Event::TimedOut(
            Timer::Healthy
            | Timer::Acknowledgement
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
        | Event::RequestPassedOn
        | Event::PredecessorGone
        | Event::SuccessorReady
        | Event::Committed
        | Event::NotCommitted => Vec::new(),
    }
}

/// The upgrade failed (contract U8).
fn upgrade_failed(state: &mut State, child: Child, stopping: bool) -> Vec<Effect> {
    let mut effects = vec![Effect::TakeBack];
    let without_child = if stopping { News::UpgradeAborted } else { News::UpgradeFailedWithoutChild };
    match child {
        Child::Runs => {
            state.phase = Phase::Serving { predecessor_drains: false, stopping };
            effects.push(Effect::Tell(News::UpgradeFailed));
            effects.push(Effect::RunHook(Hook::Failed));
            effects.extend(follow_remembered(state));
        }
        Child::Ended(end) => {
            effects.push(Effect::Tell(without_child));
            effects.extend(give_up_request(state, Predecessor::None));
            effects.extend(end_orphans(state, Outcome::Relay(end), OldGeneration::Gone));
        }
        Child::Gone(end) => {
            effects.push(Effect::Tell(without_child));
            effects.extend(give_up_request(state, Predecessor::None));
            effects.extend(exit(state, Outcome::Relay(end)));
        }
    }
    effects
}
