//! Every event that a generation can get.

use super::state::{Failure, StartFailure, Timer};
use crate::exit_status::ExitStatus;

/// Whether the child already has the signal that stops it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildSignal {
    /// Yes: the signal that requested the stop was forwarded to it.
    HasIt,
    /// No. The stop was requested by a client of the control socket, or a successor passed it back: it got
    /// the request while the pidfile named it. Or psflip holds the signal back until its relay has answered
    /// what is under way (contract T5).
    Send,
}

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The child's program runs.
    ChildStarted,
    /// The child could not be started; nothing is left of it.
    ChildNotStarted(StartFailure),
    /// The health check found the child healthy, and this generation's relay can accept, if it has one.
    ChildHealthy,
    /// The child has stayed healthy for as long as it has to.
    ChildSettled,
    /// A child that was found healthy is not any more. While it settles, the health check goes on, and may
    /// find it healthy again. While it has the traffic on trial, the check has failed often enough
    /// (contract B2).
    ChildUnhealthy,
    /// The health check found that the child can't become healthy any more.
    ChildNeverHealthy,
    /// The child has exited.
    ChildExited(ExitStatus),
    /// Nothing is left of the child's process tree.
    TreeGone,

    /// All checks that need no child have succeeded: `Prepare` is done.
    Prepared,
    /// One of them failed.
    NotPrepared(Failure),
    /// The predecessor's child is gone, so this generation's child may start.
    TurnGranted,
    /// Nothing is left of the process tree of a predecessor that was killed.
    PredecessorTreeGone,

    /// An upgrade was requested.
    UpgradeRequested,
    /// The end of the bake was requested: by an operator, or for a successor by its predecessor.
    KeepRequested,
    /// The way back from a successor that bakes was requested (contract B3).
    RollbackRequested,
    /// A stop was requested (contract S5).
    StopRequested(ChildSignal),
    /// A timer has expired.
    TimedOut(Timer),

    /// Nothing is under way in this generation's relay any more, or it has none.
    RelayDrained,
    /// This generation's relay could not be started, or has exited before the generation was healthy.
    RelayLost,

    /// `hooks.promote` exited 0, or there is none.
    HookSucceeded,
    /// `hooks.promote` failed or timed out; none of its processes is left.
    HookFailed,
    /// Traffic goes to this generation's child now, as far as psflip controls it.
    TrafficSwitched {
        /// The configuration wants a bake, and the predecessor knows what that is.
        bakes: bool,
    },
    /// Traffic could not be switched to this generation's child. `GiveBack` undoes what was already switched.
    TrafficRefused,
    /// The pidfile names this generation now.
    PidfileTaken,
    /// The pidfile could not be taken.
    PidfileRefused,

    /// The predecessor could not be notified that this generation is ready, or bakes, so no answer can come.
    ReadyNotSent,
    /// The predecessor's relay accepts no more: this generation has the traffic on trial.
    TrafficGranted,
    /// The predecessor acknowledged: this generation is the service now.
    Acknowledged {
        /// The predecessor had a queued upgrade request; this generation takes it over (contract U7).
        upgrade_queued: bool,
    },
    /// This generation stopped reading from its predecessor before an acknowledgement came; none will come.
    Withdrawn,
    /// The predecessor aborts the upgrade.
    Aborted,
    /// The predecessor got an upgrade request while it drained, and passes it on.
    RequestPassedOn,
    /// The predecessor's process is gone.
    PredecessorGone,
    /// An old generation that drains, and is not the predecessor, is gone.
    OldGenerationGone,
    /// The predecessor, which drains, has announced this generation to the service managers.
    Announced,
    /// All old generations are to end at once (`psflip upgrade --end-draining`).
    EndDrainingRequested,
    /// The active generation requests that this one, which drains, ends at once.
    EndRequested,

    /// The successor has checked what needs no child, and waits until this generation's child is gone.
    SuccessorPrepared,
    /// The successor's child is healthy, and the successor wants the traffic on trial.
    SuccessorBakes,
    /// The successor has given the traffic back, and gives up.
    SuccessorReturned,
    /// The successor's child is healthy, and the pidfile names the successor.
    SuccessorReady,
    /// The acknowledgement was sent while the successor still read: the successor is the service now.
    Committed,
    /// The successor no longer reads: it gave up or is dead, and will not become the service.
    NotCommitted,
    /// The successor failed, and passes back an upgrade request that it had received.
    RequestPassedBack,
    /// The successor could not be started, or no process of it has reported itself in time.
    SuccessorNotStarted,
    /// The successor and its child are gone.
    SuccessorGone,
    /// Nothing is left of the process tree of a successor that is gone.
    SuccessorTreeGone,
}
