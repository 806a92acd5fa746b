//! Everything that can happen next in the world.

use super::*;

/// One action or event in the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    Perform(usize),
    PerformFailing(usize),
    Feedback(usize),
    ReceiveFromPredecessor(usize),
    ReceiveFromSuccessor(usize),
    PredecessorGone(usize),
    ReceiveFromOlder(usize),
    /// The second one, which the first one could reach, is dead.
    OldGenerationGone(usize, usize),
    EndDraining(usize),
    SuccessorGone(usize),
    Timer(usize, Timer),
    ChildStarts(usize),
    ChildFailsToStart(usize),
    ChildHealthy(usize),
    ChildSettles(usize),
    ChildUnhealthy(usize),
    ChildNeverHealthy(usize),
    /// While it has the traffic on trial.
    ChildSickens(usize),
    RelayDrained(usize),
    RelayLost(usize),
    HookEnds(usize),
    HookFails(usize),
    ChildEnds(usize),
    TreeGone(usize),
    /// What was left of the child of a process that is dead is gone.
    GhostGone(usize),
    /// That is noticed by a process that waits for it.
    TreeOfOtherGone(usize),
    /// A killed process turns out to be unkillable.
    Survives(usize),
    /// The keeper is killed before the child has executed its program. To psflip this looks like an exit of
    /// the child.
    KeeperKilled(usize),
    Upgrade(usize),
    Keep(usize),
    RollBack(usize),
    UpgradeByGroupSignal(usize),
    Stop(usize, ChildSignal),
    Kill(usize),
}

impl Transition {
    /// The generation that it concerns.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Perform(index)
            | Self::PerformFailing(index)
            | Self::Feedback(index)
            | Self::ReceiveFromPredecessor(index)
            | Self::ReceiveFromSuccessor(index)
            | Self::PredecessorGone(index)
            | Self::ReceiveFromOlder(index)
            | Self::OldGenerationGone(index, _)
            | Self::EndDraining(index)
            | Self::SuccessorGone(index)
            | Self::Timer(index, _)
            | Self::ChildStarts(index)
            | Self::ChildFailsToStart(index)
            | Self::ChildHealthy(index)
            | Self::ChildSettles(index)
            | Self::ChildUnhealthy(index)
            | Self::ChildNeverHealthy(index)
            | Self::ChildSickens(index)
            | Self::RelayDrained(index)
            | Self::RelayLost(index)
            | Self::HookEnds(index)
            | Self::HookFails(index)
            | Self::ChildEnds(index)
            | Self::TreeGone(index)
            | Self::GhostGone(index)
            | Self::TreeOfOtherGone(index)
            | Self::Survives(index)
            | Self::KeeperKilled(index)
            | Self::Upgrade(index)
            | Self::Keep(index)
            | Self::RollBack(index)
            | Self::UpgradeByGroupSignal(index)
            | Self::Stop(index, _)
            | Self::Kill(index) => index,
        }
    }
}
