//! The decision of a generation that stops: its child, leftover processes, and after a stop request the old
//! generation.

use super::decide::{give_up_request, relay_is_done, signal_child, stop_child};
use super::effect::{Effect, Notice, RelayOrder};
use super::event::Event;
use super::state::{DrainStep, OldGeneration, Outcome, Phase, Predecessor, State, Timer};

/// The child or leftover processes are being stopped.
pub(super) fn draining(
    state: &mut State,
    step: DrainStep,
    outcome: Outcome,
    old_generation: OldGeneration,
    event: Event,
) -> Vec<Effect> {
    use Effect::{Arm, Disarm, KillChild, KillOrphans, Report, SignalChild};
    let mut go = |step| state.phase = Phase::Draining { step, outcome, old_generation };
    match event {
        Event::RelayDrained | Event::TimedOut(Timer::Drain)
            if matches!(step, DrainStep::Answering { .. }) =>
        {
            let mut effects = relay_is_done(event);
            if step == (DrainStep::Answering { stops: true }) {
                go(DrainStep::Signalled);
                effects.extend([Arm(Timer::Grace), SignalChild]);
            } else {
                go(DrainStep::Delay);
                effects.push(Arm(Timer::Delay));
            }
            effects
        }
        Event::RelayDrained | Event::TimedOut(Timer::Drain) if step == DrainStep::PassingOn => {
            let mut effects = relay_is_done(event);
            effects.extend(tree_is_over(state, outcome, old_generation));
            effects
        }
        Event::RelayDrained if step == DrainStep::Closing => {
            let mut effects = vec![Disarm(Timer::Closing)];
            effects.extend(nothing_left(state, outcome, old_generation));
            effects
        }
        Event::TimedOut(Timer::Closing) if step == DrainStep::Closing => {
            nothing_left(state, outcome, old_generation)
        }
        Event::TimedOut(Timer::Delay) if step == DrainStep::Delay => {
            go(DrainStep::Signalled);
            vec![Arm(Timer::Grace), SignalChild]
        }
        Event::TimedOut(Timer::Grace) => match step {
            DrainStep::Signalled => {
                go(DrainStep::Killed);
                vec![Report(Notice::ChildKilled), Arm(Timer::Kill), KillChild]
            }
            DrainStep::Orphans => {
                go(DrainStep::OrphansKilled);
                vec![Report(Notice::OrphansKilled), Arm(Timer::Kill), KillOrphans]
            }
            DrainStep::Answering { .. }
            | DrainStep::PassingOn
            | DrainStep::Delay
            | DrainStep::Killed
            | DrainStep::Ending
            | DrainStep::OrphansKilled
            | DrainStep::Closing => Vec::new(),
        },
        Event::EndRequested if outcome == Outcome::Superseded => end_at_once(state, step),
        Event::ChildExited(end) if step == DrainStep::Ending => {
            go(DrainStep::OrphansKilled);
            let close = Effect::Relay(RelayOrder::Close);
            vec![Report(Notice::ChildExited(end)), close, Arm(Timer::Kill), KillOrphans]
        }
        Event::ChildExited(end) => {
            let mut effects =
                vec![Disarm(Timer::Drain), Disarm(Timer::Delay), Disarm(Timer::Grace), Disarm(Timer::Kill)];
            effects.push(Report(Notice::ChildExited(end)));
            effects.extend(stop_orphans(state, outcome, old_generation));
            effects
        }
        // A stop or an abort may come while the child is being started, and the start may fail.
        Event::TreeGone | Event::ChildNotStarted(_) if step != DrainStep::Closing => {
            tree_is_over(state, outcome, old_generation)
        }
        // psflip can do no more, and the next upgrade does not wait for these processes (contract U5).
        Event::TimedOut(Timer::Kill)
            if matches!(step, DrainStep::Killed | DrainStep::Ending | DrainStep::OrphansKilled) =>
        {
            let mut effects = vec![Report(Notice::SurvivedKill)];
            effects.extend(tree_is_over(state, outcome, old_generation));
            effects
        }
        // A stop request skips the delay, and a second one does not wait for what is under way.
        Event::StopRequested(_) if step == (DrainStep::Answering { stops: false }) => {
            go(DrainStep::Answering { stops: true });
            vec![Effect::Relay(RelayOrder::Stop)]
        }
        Event::StopRequested(signal) if step == (DrainStep::Answering { stops: true }) => {
            go(DrainStep::Signalled);
            let mut effects = vec![Disarm(Timer::Drain)];
            effects.extend(stop_child(signal));
            effects
        }
        Event::StopRequested(_) if step == DrainStep::PassingOn => {
            let mut effects = vec![Disarm(Timer::Drain)];
            effects.extend(tree_is_over(state, outcome, old_generation));
            effects
        }
        Event::StopRequested(signal) if step == DrainStep::Delay => {
            go(DrainStep::Signalled);
            let mut effects = vec![Disarm(Timer::Delay), Arm(Timer::Grace)];
            effects.extend(signal_child(signal));
            effects
        }
        // The child exited before psflip read the signal that was sent to both.
        Event::StopRequested(_) if old_generation == OldGeneration::Drains => {
            state.phase = Phase::Draining { step, outcome, old_generation: OldGeneration::Awaited };
            vec![Effect::PassStopBack]
        }
        Event::UpgradeRequested | Event::RequestPassedOn => match outcome {
            Outcome::Superseded => vec![Effect::PassRequestOn],
            Outcome::Failed(_) => vec![Effect::PassRequestBack],
            Outcome::Relay(_) => vec![Report(Notice::RequestRefused)],
        },
        Event::StopRequested(_)
        | Event::TreeGone
        | Event::ChildNotStarted(_)
        | Event::ChildStarted
        | Event::ChildHealthy
        | Event::ChildSettled
        | Event::ChildUnhealthy
        | Event::ChildNeverHealthy
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

/// The active generation needs the place of this one, or an operator does not wait for it: what is left gets
/// SIGKILL.
fn end_at_once(state: &mut State, step: DrainStep) -> Vec<Effect> {
    use Effect::{Arm, Disarm, KillChild, KillOrphans, Report};
    let (outcome, old_generation) = (Outcome::Superseded, OldGeneration::Gone);
    let mut go = |step| state.phase = Phase::Draining { step, outcome, old_generation };
    match step {
        DrainStep::Answering { .. } | DrainStep::Delay | DrainStep::Signalled => {
            go(DrainStep::Ending);
            let mut effects = [Timer::Drain, Timer::Delay, Timer::Grace].map(Disarm).to_vec();
            effects.extend([Report(Notice::EndsAtOnce), Arm(Timer::Kill), KillChild]);
            effects
        }
        // The child has SIGKILL already.
        DrainStep::Killed => {
            go(DrainStep::Ending);
            vec![Report(Notice::EndsAtOnce)]
        }
        DrainStep::Orphans => {
            go(DrainStep::OrphansKilled);
            vec![Disarm(Timer::Grace), Report(Notice::EndsAtOnce), Arm(Timer::Kill), KillOrphans]
        }
        DrainStep::PassingOn => {
            let mut effects = vec![Disarm(Timer::Drain), Report(Notice::EndsAtOnce)];
            effects.extend(tree_is_over(state, outcome, old_generation));
            effects
        }
        DrainStep::Ending | DrainStep::OrphansKilled | DrainStep::Closing => Vec::new(),
    }
}

/// The child's process tree is gone, or the rest of it can't be killed. The relay may still have answers of
/// the child to deliver.
pub(super) fn tree_is_over(
    state: &mut State,
    outcome: Outcome,
    old_generation: OldGeneration,
) -> Vec<Effect> {
    state.phase = Phase::Draining { step: DrainStep::Closing, outcome, old_generation };
    vec![Effect::Arm(Timer::Closing), Effect::Relay(RelayOrder::Close)]
}

/// Nothing is left of this generation.
fn nothing_left(state: &mut State, outcome: Outcome, old_generation: OldGeneration) -> Vec<Effect> {
    if old_generation != OldGeneration::Awaited {
        return exit(state, outcome);
    }
    exit_after_old_generations(state, outcome)
}

/// psflip exits when the old generations have, which received the stop request as well (contract F11).
pub(super) fn exit_after_old_generations(state: &mut State, outcome: Outcome) -> Vec<Effect> {
    if state.old.draining == 0 {
        return exit(state, outcome);
    }
    state.phase = Phase::AwaitingPredecessor { outcome };
    vec![Effect::Report(Notice::AwaitingPredecessor), Effect::Arm(Timer::Predecessor)]
}

/// psflip waits for old generations only, which received the stop request as well (contract F11).
pub(super) fn awaiting_predecessor(state: &mut State, outcome: Outcome, event: Event) -> Vec<Effect> {
    use Effect::{Disarm, Report};
    match event {
        Event::TimedOut(Timer::Predecessor) => {
            let mut effects = vec![Report(Notice::PredecessorTimedOut)];
            effects.extend(exit(state, outcome));
            effects
        }
        // A second stop request: exit without waiting. The predecessor exits in its own time.
        Event::StopRequested(_) => {
            let mut effects = vec![Disarm(Timer::Predecessor)];
            effects.extend(exit(state, outcome));
            effects
        }
        Event::UpgradeRequested | Event::RequestPassedOn => vec![Report(Notice::RequestRefused)],
        Event::ChildStarted
        | Event::ChildNotStarted(_)
        | Event::ChildHealthy
        | Event::ChildSettled
        | Event::ChildUnhealthy
        | Event::ChildNeverHealthy
        | Event::ChildExited(_)
        | Event::TreeGone
        | Event::TimedOut(
            Timer::Healthy
            | Timer::Bake
            | Timer::Acknowledgement
            | Timer::Successor
            | Timer::SuccessorKill
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

/// The child has exited, so this generation stops. `notice` says whether the exit was requested.
pub(super) fn child_exited(
    state: &mut State,
    predecessor: Predecessor,
    outcome: Outcome,
    old_generation: OldGeneration,
    notice: Notice,
) -> Vec<Effect> {
    let mut effects = vec![Effect::Report(notice)];
    effects.extend(give_up_request(state, predecessor));
    effects.extend(stop_orphans(state, outcome, old_generation));
    effects
}

/// The child has exited: stop leftover processes next (contract C8).
pub(super) fn stop_orphans(
    state: &mut State,
    outcome: Outcome,
    old_generation: OldGeneration,
) -> Vec<Effect> {
    state.phase = Phase::Draining { step: DrainStep::Orphans, outcome, old_generation };
    vec![Effect::Relay(RelayOrder::Close), Effect::Arm(Timer::Grace), Effect::SignalOrphans]
}

/// Nothing is left to do: psflip exits.
pub(super) fn exit(state: &mut State, outcome: Outcome) -> Vec<Effect> {
    state.phase = Phase::Exiting;
    vec![Effect::Exit(outcome)]
}
