//! The decision of a generation whose child was found healthy, and has to stay healthy for a while (contract
//! H6).

use super::decide::starting;
use super::effect::{Effect, Hook, Notice};
use super::event::Event;
use super::state::{Phase, Predecessor, Promotion, State, Timer};

/// The time to become healthy goes on: what ends it before the child was healthy ends it now, too.
pub(super) fn settling(state: &mut State, predecessor: Predecessor, event: Event) -> Vec<Effect> {
    match event {
        Event::ChildSettled => {
            state.phase = Phase::Promoting { predecessor, step: Promotion::RunningHook, baked: false };
            vec![Effect::Disarm(Timer::Healthy), Effect::StopProbing, Effect::RunHook(Hook::Promote)]
        }
        Event::ChildUnhealthy => {
            state.phase = Phase::Starting { predecessor, stopping: false };
            Vec::new()
        }
        Event::PredecessorGone => match predecessor {
            Predecessor::Serves => {
                state.phase = Phase::Settling { predecessor: Predecessor::None };
                vec![Effect::Report(Notice::PredecessorKilled)]
            }
            Predecessor::None => Vec::new(),
        },
        Event::ChildExited(_)
        | Event::ChildNeverHealthy
        | Event::TimedOut(Timer::Healthy)
        | Event::RelayLost
        | Event::StopRequested(_)
        | Event::Aborted
        | Event::UpgradeRequested => starting(state, predecessor, false, event),
        Event::ChildStarted
        | Event::ChildNotStarted(_)
        | Event::ChildHealthy
        | Event::TreeGone
        | Event::TimedOut(
            Timer::Bake
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
