//! All that can happen to a generation.

use super::state::{StartFailure, Timer};
use crate::end::End;

/// Whether a child that is to end has got the signal for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChildSignal {
    /// Yes: what asked psflip to stop was forwarded to it.
    HasIt,
    /// Not yet: psflip was asked in another way, by a client of the control socket, or by a successor that was asked while the
    /// pidfile named it.
    Send,
}

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The child's program runs.
    ChildStarted,
    /// The child could not be started; nothing is left of it.
    ChildNotStarted(StartFailure),
    /// The health check says that the child is healthy.
    ChildHealthy,
    /// The child has exited.
    ChildEnded(End),
    /// Nothing is left of the child's process tree.
    TreeGone,

    /// Somebody wants an upgrade.
    UpgradeRequested,
    /// Somebody wants psflip to stop (contract S5).
    StopRequested(ChildSignal),
    /// A timer has run down.
    TimedOut(Timer),

    /// `hooks.promote` exited 0, or there is none.
    HookSucceeded,
    /// `hooks.promote` failed or took too long; nothing is left of it.
    HookFailed,
    /// Clients come to this generation's child now, as far as that is psflip's business.
    TrafficSwitched,
    /// Clients could not be sent to this generation's child; what was done of it is undone by `GiveBack`.
    TrafficRefused,
    /// The pidfile names this generation now.
    PidfileTaken,
    /// The pidfile could not be taken.
    PidfileRefused,

    /// The predecessor acknowledged: this generation is the service now.
    Acknowledged {
        /// An upgrade request that the predecessor could not follow (contract U7).
        remembered: bool,
    },
    /// This generation stopped listening to its predecessor before an acknowledgement came: it will never come.
    Withdrawn,
    /// The predecessor wants this generation to give up.
    Aborted,
    /// The predecessor got an upgrade request while it drained, and passes it on.
    RequestPassedOn,
    /// The predecessor's process is gone.
    PredecessorGone,

    /// The successor's child is healthy, and the pidfile names the successor.
    SuccessorReady,
    /// The successor is acknowledged and knows it: it is the service now.
    Committed,
    /// The successor no longer listens: it has given up or is dead, and will not be the service.
    NotCommitted,
    /// The successor failed, and passes back an upgrade request that it got.
    RequestPassedBack,
    /// The successor is gone, or was never there, and with it its child.
    SuccessorGone,
}
