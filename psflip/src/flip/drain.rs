//! The decision, of a generation that ends: its child, what that left behind, and after a stop the generation before.

use super::decide::{ask_child, give_up_request};
use super::effect::{Effect, News};
use super::event::Event;
use super::state::{Elder, Outcome, Phase, Predecessor, State, Step, Timer};

/// Its child, or what that left behind, is being ended.
pub(super) fn draining(
    state: &mut State,
    step: Step,
    outcome: Outcome,
    elder: Elder,
    event: Event,
) -> Vec<Effect> {
    use Effect::{Arm, Disarm, KillChild, KillOrphans, SignalChild, Tell};
    let mut go = |step| state.phase = Phase::Draining { step, outcome, elder };
    match event {
        Event::TimedOut(Timer::Delay) if step == Step::Delay => {
            go(Step::Asked);
            vec![Arm(Timer::Grace), SignalChild]
        }
        Event::TimedOut(Timer::Grace) => match step {
            Step::Asked => {
                go(Step::Killed);
                vec![Tell(News::ChildKilled), Arm(Timer::Kill), KillChild]
            }
            Step::Orphans => {
                go(Step::OrphansKilled);
                vec![Tell(News::OrphansKilled), Arm(Timer::Kill), KillOrphans]
            }
            Step::Delay | Step::Killed | Step::OrphansKilled => Vec::new(),
        },
        Event::ChildEnded(end) => {
            let mut effects = vec![Disarm(Timer::Delay), Disarm(Timer::Grace), Disarm(Timer::Kill)];
            effects.push(Tell(News::ChildEnded(end)));
            effects.extend(end_orphans(state, outcome, elder));
            effects
        }
        // A stop or an abort may come while the child is being started, and that may fail.
        Event::TreeGone | Event::ChildNotStarted(_) => tree_is_over(state, outcome, elder),
        // Nobody can do more, and the next upgrade does not wait for it (contract U5).
        Event::TimedOut(Timer::Kill) if matches!(step, Step::Killed | Step::OrphansKilled) => {
            let mut effects = vec![Tell(News::LeftBehind)];
            effects.extend(tree_is_over(state, outcome, elder));
            effects
        }
        // Nobody who asks for an end wants to wait for the delay.
        Event::StopRequested(signal) if step == Step::Delay => {
            go(Step::Asked);
            let mut effects = vec![Disarm(Timer::Delay), Arm(Timer::Grace)];
            effects.extend(ask_child(signal));
            effects
        }
        // The child was quicker than the signal that asked both of them.
        Event::StopRequested(_) if elder == Elder::Drains => {
            state.phase = Phase::Draining { step, outcome, elder: Elder::Awaited };
            vec![Effect::PassStopBack]
        }
        Event::PredecessorGone if elder != Elder::Gone => {
            state.phase = Phase::Draining { step, outcome, elder: Elder::Gone };
            vec![Tell(News::PredecessorDrained)]
        }
        Event::UpgradeRequested | Event::RequestPassedOn => match outcome {
            Outcome::Superseded => vec![Effect::PassRequestOn],
            Outcome::Failed(_) => vec![Effect::PassRequestBack],
            Outcome::Relay(_) => vec![Tell(News::RequestRefused)],
        },
        Event::StopRequested(_)
        | Event::ChildStarted
        | Event::ChildHealthy
        | Event::TimedOut(
            Timer::Healthy
            | Timer::Acknowledgement
            | Timer::Successor
            | Timer::Predecessor
            | Timer::Delay
            | Timer::Kill,
        )
        | Event::HookSucceeded
        | Event::HookFailed
        | Event::TrafficSwitched
        | Event::TrafficRefused
        | Event::PidfileTaken
        | Event::PidfileRefused
        | Event::Acknowledged { .. }
        | Event::Withdrawn
        | Event::Aborted
        | Event::PredecessorGone
        | Event::SuccessorReady
        | Event::Committed
        | Event::NotCommitted
        | Event::RequestPassedBack
        | Event::SuccessorGone => Vec::new(),
    }
}

/// Nothing is left of the child's tree, or nothing that can be ended.
fn tree_is_over(state: &mut State, outcome: Outcome, elder: Elder) -> Vec<Effect> {
    if elder != Elder::Awaited {
        return exit(state, outcome);
    }
    state.phase = Phase::AwaitingPredecessor { outcome };
    vec![Effect::Tell(News::AwaitingPredecessor), Effect::Arm(Timer::Predecessor)]
}

/// Only the predecessor is left, which was asked to end, too (contract F11).
pub(super) fn awaiting_predecessor(state: &mut State, outcome: Outcome, event: Event) -> Vec<Effect> {
    use Effect::{Disarm, Tell};
    match event {
        Event::PredecessorGone => {
            let mut effects = vec![Disarm(Timer::Predecessor), Tell(News::PredecessorDrained)];
            effects.extend(exit(state, outcome));
            effects
        }
        Event::TimedOut(Timer::Predecessor) => {
            let mut effects = vec![Tell(News::PredecessorLate)];
            effects.extend(exit(state, outcome));
            effects
        }
        // Asked for again: whoever asks does not want to wait. The predecessor ends in its own time.
        Event::StopRequested(_) => {
            let mut effects = vec![Disarm(Timer::Predecessor)];
            effects.extend(exit(state, outcome));
            effects
        }
        Event::UpgradeRequested | Event::RequestPassedOn => vec![Tell(News::RequestRefused)],
        Event::ChildStarted
        | Event::ChildNotStarted(_)
        | Event::ChildHealthy
        | Event::ChildEnded(_)
        | Event::TreeGone
        | Event::TimedOut(
            Timer::Healthy
            | Timer::Acknowledgement
            | Timer::Successor
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
        | Event::Acknowledged { .. }
        | Event::Withdrawn
        | Event::Aborted
        | Event::SuccessorReady
        | Event::Committed
        | Event::NotCommitted
        | Event::RequestPassedBack
        | Event::SuccessorGone => Vec::new(),
    }
}

/// The child has exited, and with it this generation. `news` says whether that was asked for.
pub(super) fn child_ended(
    state: &mut State,
    predecessor: Predecessor,
    outcome: Outcome,
    elder: Elder,
    news: News,
) -> Vec<Effect> {
    let mut effects = vec![Effect::Tell(news)];
    effects.extend(give_up_request(state, predecessor));
    effects.extend(end_orphans(state, outcome, elder));
    effects
}

/// The child has exited: what it left behind is next (contract C8).
pub(super) fn end_orphans(state: &mut State, outcome: Outcome, elder: Elder) -> Vec<Effect> {
    state.phase = Phase::Draining { step: Step::Orphans, outcome, elder };
    vec![Effect::Arm(Timer::Grace), Effect::SignalOrphans]
}

/// Nothing is left to be done.
pub(super) fn exit(state: &mut State, outcome: Outcome) -> Vec<Effect> {
    state.phase = Phase::Ended;
    vec![Effect::Exit(outcome)]
}
