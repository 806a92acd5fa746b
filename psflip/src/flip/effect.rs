//! All that a generation can want to be done.

use super::state::{Failure, Outcome, Timer};
use crate::end::End;

/// Something to be done by the runtime.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Start the child. Answered by `ChildStarted` or `ChildNotStarted`.
    StartChild,
    /// Begin with the health check. Answered by `ChildHealthy`, if ever.
    StartProbing,
    /// End the health check.
    StopProbing,
    /// Send `shutdown.signal` to the child.
    SignalChild,
    /// Send SIGKILL to the child.
    KillChild,
    /// Send `shutdown.signal` to what the child left behind, or leave it alone if `shutdown.orphans` says so.
    SignalOrphans,
    /// Kill what the child left behind.
    KillOrphans,

    /// Run a hook. Only `Hook::Promote` is answered: by `HookSucceeded` or `HookFailed`.
    RunHook(Hook),
    /// End `hooks.promote`, with all its processes.
    EndHook,
    /// Send clients to this generation's child: turn the symbolic link, adjust the listeners. Answered by `TrafficSwitched` or
    /// `TrafficRefused`.
    SwitchTraffic,
    /// Let the pidfile name this generation. Answered by `PidfileTaken` or `PidfileRefused`.
    TakePidfile,
    /// Let pidfile and traffic be the predecessor's again, as far as this generation took them.
    GiveBack,
    /// Let pidfile and traffic be this generation's again, if a failed successor took them.
    TakeBack,

    /// Tell the predecessor that this generation is ready to be the service. Answered by `Acknowledged`, if ever.
    TellReady,
    /// Stop listening to the predecessor. Answered by `Acknowledged` or `Withdrawn`.
    Withdraw,
    /// Hand an upgrade request back to the predecessor, since this generation won't follow it.
    PassRequestBack,

    /// Tell the predecessor that a stop was requested of this generation while the pidfile named it: before its promotion, or while the
    /// predecessor drains.
    PassStopBack,

    /// Start a successor. Answered by `SuccessorGone` if that fails.
    StartSuccessor,
    /// Acknowledge the successor. Answered by `Committed` or `NotCommitted`.
    Acknowledge {
        /// An upgrade request that the successor has to follow.
        remembered: bool,
    },
    /// Ask the successor to give up.
    AbortSuccessor,
    /// End the successor by SIGKILL.
    KillSuccessor,
    /// Hand an upgrade request on to the successor.
    PassRequestOn,

    /// Measure this time from now on.
    Arm(Timer),
    /// It is no longer of interest.
    Disarm(Timer),
    /// Tell those who want to know.
    Tell(News),
    /// End psflip with this.
    Exit(Outcome),
}

/// A program that the configuration wants to be run on the way (`[hooks]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// Before promotion; its failure fails the upgrade (contract U4).
    Promote,
    /// After promotion.
    Promoted,
    /// After an upgrade that failed, in the generation that serves on.
    Failed,
}

/// What operators want to know of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum News {
    /// This generation is the service now.
    Promoted,
    /// An upgrade begins.
    UpgradeStarted,
    /// The upgrade failed, and the old child serves on.
    UpgradeFailed,
    /// The upgrade failed, and no child is left.
    UpgradeFailedWithoutChild,
    /// The upgrade ended by a stop request, and so did the child.
    UpgradeAborted,
    /// A request is remembered until it can be followed.
    RequestRemembered,
    /// A request is refused, since this generation ends.
    RequestRefused,
    /// A stop was requested.
    Stopping,
    /// The child did not end after a stop request, so it meant to ignore it; it is served on.
    StopIgnored,
    /// The child has exited during an upgrade, which goes on (contract F7).
    ChildEndedDuringUpgrade(End),
    /// The child has exited, as it was asked to.
    ChildEnded(End),
    /// The child of the service terminated without a stop request, and nothing takes its place: an outage.
    ServiceDown(End),
    /// The predecessor was killed, and its child with it; this generation goes on alone (contract F8). Until it is promoted
    /// the service is down.
    PredecessorLost,
    /// The predecessor has drained and is gone.
    PredecessorDrained,
    /// After a stop request only the predecessor is left, and is waited for.
    AwaitingPredecessor,
    /// It takes longer than it said, and is not waited for any more.
    PredecessorLate,
    /// A successor is the service now; this generation drains.
    Superseded,
    /// This generation failed.
    Failed(Failure),
    /// The child did not end in time and is killed.
    ChildKilled,
    /// What the child left behind did not end in time and is killed.
    OrphansKilled,
    /// SIGKILL did not end all of it: it hangs in the kernel, or may not be killed. It is left behind.
    LeftBehind,
}
