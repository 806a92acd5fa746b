//! Every action that a generation can request from the runtime.

use super::state::{Failure, Outcome, Timer};
use crate::exit_status::ExitStatus;

/// An action for the runtime.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Check everything that needs no child: open the sockets, start the relay, find the program, and run
    /// `upgrade.precheck`. The runtime answers with `Prepared` or `NotPrepared`.
    Prepare,
    /// Wait until nothing is left of the child of a predecessor that was killed. The runtime answers with
    /// `PredecessorTreeGone`.
    AwaitPredecessorTree,
    /// Start the child, for the first time or again. The runtime answers with `ChildStarted` or
    /// `ChildNotStarted`.
    StartChild,
    /// Start the health check. The runtime answers with `ChildHealthy` when the child is healthy, and with
    /// `ChildNeverHealthy` if it can't become healthy any more.
    StartProbing,
    /// Watch whether the child stays healthy, for as long as the configuration says (`settle`). The runtime
    /// answers with `ChildSettled`, at once without `settle`, or with `ChildUnhealthy`, or
    /// `ChildNeverHealthy`.
    StartSettling,
    /// Check the health of a child that has the traffic on trial, from now on at every interval. The runtime
    /// answers with `ChildUnhealthy` when too many probes in a row have failed.
    StartWatching,
    /// Stop the health check.
    StopProbing,
    /// Send `shutdown.signal` to the child, or the signal that requested the stop if that waits for the
    /// relay.
    SignalChild,
    /// Send SIGKILL to the child.
    KillChild,
    /// Send `shutdown.signal` to leftover processes, or leave them alone if `shutdown.orphans` says so.
    SignalOrphans,
    /// Kill leftover processes.
    KillOrphans,

    /// Run a hook. The runtime answers for `Hook::Promote` only: with `HookSucceeded` or `HookFailed`.
    RunHook(Hook),
    /// Kill `hooks.promote` or `upgrade.precheck`, and all its processes.
    KillHook,
    /// Switch traffic to this generation's child: repoint the symlink, adjust the listeners. The runtime
    /// answers with `TrafficSwitched` or `TrafficRefused`.
    SwitchTraffic,
    /// Write this generation into the pidfile. The runtime answers with `PidfileTaken` or `PidfileRefused`.
    TakePidfile,
    /// Undo `TakePidfile` and `SwitchTraffic`: give pidfile and traffic back to the predecessor, as far as
    /// this generation took them.
    GiveBack,
    /// Take pidfile and traffic back from a failed successor, if it took them.
    TakeBack,
    /// Send this order to the relay, the process that carries the connections of `[[proxy]]` (contract T).
    /// The runtime answers all but `Accept` and `Stay` with `RelayDrained`, at once if there is no relay.
    Relay(RelayOrder),

    /// Report to the predecessor that this generation is prepared. `TurnGranted` follows when the
    /// predecessor's child is gone.
    ReportPrepared,
    /// Report to the predecessor that this generation bakes, and request the traffic. `TrafficGranted`
    /// follows if the predecessor agrees. The runtime answers with `ReadyNotSent` if it can't report.
    ReportBaking,
    /// Report to the predecessor that this generation gives the traffic back, and why. `Aborted` follows when
    /// the predecessor has it.
    ReportReturned,
    /// Report to the predecessor that this generation is ready. `Acknowledged` follows if the predecessor
    /// agrees. The runtime answers with `ReadyNotSent` if it can't report.
    ReportReady,
    /// Stop reading from the predecessor. The runtime answers with `Acknowledged` or `Withdrawn`.
    Withdraw,
    /// Return an upgrade request to the predecessor, since this generation can't serve it.
    PassRequestBack,

    /// Pass a stop request to the predecessor: this generation got it while the pidfile named it. After the
    /// promotion: to all old generations that drain.
    PassStopBack,
    /// Request the oldest of the old generations that drain to end at once, if that was not requested yet.
    EndOldest,
    /// Request all old generations that drain to end at once.
    EndDraining,
    /// Kill the old generations that were requested to end at once, and have not. As PID 1, one can't be
    /// killed.
    KillEnding,

    /// Start a successor. The runtime answers with `SuccessorNotStarted` if that fails.
    StartSuccessor,
    /// Let the successor start its child: this generation's is gone. The runtime kills a successor that can't
    /// be reached.
    GrantTurn,
    /// Wait until nothing is left of the child of a successor that is gone. The runtime answers with
    /// `SuccessorTreeGone`.
    AwaitSuccessorTree,
    /// Report to the successor that it has the traffic on trial. The runtime answers with `RollbackRequested`
    /// if it can't.
    GrantTraffic,
    /// End the successor's bake: request it to take over.
    PassKeep,
    /// Report to the successor that it no longer has the traffic, and request it to give up.
    RollBackSuccessor,
    /// Acknowledge the successor. The runtime answers with `Committed` or `NotCommitted`.
    Acknowledge {
        /// There is a queued upgrade request, which the successor takes over.
        upgrade_queued: bool,
    },
    /// Report to the supervisor and to waiting clients that the successor is the service (U4). It has the
    /// acknowledgement already.
    AnnounceSuccessor,
    /// Request the successor to give up.
    AbortSuccessor,
    /// A second stop was requested: request the successor not to wait for what is under way.
    HurrySuccessor,
    /// Kill the successor by SIGKILL. The runtime answers with `SuccessorNotStarted` if no process of it is
    /// known.
    KillSuccessor,
    /// Pass an upgrade request on to the successor.
    PassRequestOn,

    /// Start this timer.
    Arm(Timer),
    /// Cancel this timer.
    Disarm(Timer),
    /// Report this to operators and to waiting clients.
    Report(Notice),
    /// Exit psflip; the outcome determines the exit status.
    Exit(Outcome),
}

/// An order to this generation's relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelayOrder {
    /// Accept connections: this generation is the service now.
    Accept,
    /// A successor is about to be the service, or is it: accept no more, pass idle connections on to its
    /// relay, and answer what is under way.
    Leave,
    /// The child gives way: accept no more, let new requests on open connections wait, and answer what is
    /// under way.
    Hold,
    /// A successor has the traffic on trial: as `Leave`, but `Stay` may follow.
    StandBy,
    /// The predecessor gets the traffic back: as `Leave`, but to the predecessor's relay.
    Return,
    /// A stop was requested: accept no more, close idle connections, and answer what is under way.
    Stop,
    /// Accept again, and let what waits go on: the child ignored the stop, or need not give way or has
    /// started again, or the successor does not keep the traffic. Then its relay passes connections back.
    Stay,
    /// The child has exited: accept no more, deliver what was read from it, and close everything.
    Close,
}

/// A command of the configuration that runs at a promotion or after a failed upgrade (`[hooks]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// `upgrade.precheck`: before the child starts, as part of `Effect::Prepare`.
    Precheck,
    /// Before promotion; its failure fails the upgrade (contract U4).
    Promote,
    /// After promotion.
    Promoted,
    /// After a failed upgrade, in the generation that keeps serving.
    Failed,
    /// The same, if the new generation had the traffic (contract B3).
    RolledBack,
}

/// What is reported to operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Notice {
    /// This generation is the service now.
    Promoted,
    /// An upgrade starts.
    UpgradeStarted,
    /// The successor is prepared. This generation's child stops first, because the two must not run at once.
    GivesWay,
    /// The child could not be stopped for the successor, so it stays the service and the upgrade fails.
    CantGiveWay,
    /// The successor failed after the child was signalled for it, so the child is started again.
    StartsAgain,
    /// The child that gave way serves again; the upgrade failed.
    ServesAgain,
    /// The child that gave way could not be started again: an outage. The upgrade failed.
    NotServingAgain(Failure),
    /// Something of the process tree of another generation survived SIGKILL, or its keeper hangs. psflip
    /// waits no longer for it.
    TreeSurvivedKill,
    /// The upgrade failed, and the old child keeps serving.
    UpgradeFailed,
    /// The successor, or this generation itself, has the traffic on trial from now on.
    Baking,
    /// The bake is over: the new generation takes over.
    BakeOver,
    /// The predecessor has not acknowledged this generation, which has the traffic since its bake and goes on
    /// waiting.
    NotAcknowledgedYet,
    /// This generation has the traffic again; the successor is stopped.
    RollingBack,
    /// The successor that had the traffic is gone, and the old child keeps serving.
    UpgradeRolledBack,
    /// The upgrade failed, and no child is left.
    UpgradeFailedWithoutChild,
    /// A stop request aborted the upgrade, and the child has exited.
    UpgradeAborted,
    /// An upgrade request is queued.
    UpgradeQueued,
    /// An upgrade request is refused, since this generation is stopping.
    RequestRefused,
    /// A stop was requested.
    Stopping,
    /// The child did not exit within the grace time after a stop request, so psflip takes it that the child
    /// ignores the request. The service goes on.
    StopIgnored,
    /// The successor survived SIGKILL: it hangs in the kernel, or psflip may not kill it. psflip leaves it
    /// behind, but kills what is below it.
    SuccessorSurvivedKill,
    /// The child exited during an upgrade; the upgrade goes on (contract F7).
    ChildExitedDuringUpgrade(ExitStatus),
    /// The child exited, as requested.
    ChildExited(ExitStatus),
    /// The child of the service terminated without a stop request, and nothing takes its place: an outage.
    ServiceDown(ExitStatus),
    /// The predecessor was killed, and its child with it; this generation goes on alone (contract F8). The
    /// service is down until this generation is promoted.
    PredecessorKilled,
    /// The predecessor has drained and exited.
    PredecessorDrained,
    /// An old generation before the predecessor has drained and exited.
    OlderDrained,
    /// After a stop request, psflip waits for old generations only.
    AwaitingPredecessor,
    /// The old generations take longer than they announced; psflip no longer waits for them.
    PredecessorTimedOut,
    /// A successor is the service now; this generation drains.
    Superseded,
    /// The time for the requests that were under way is over (`proxy.drain`), and some are not answered yet.
    RelayTimedOut,
    /// This generation failed.
    Failed(Failure),
    /// The active generation requested that this one, which drains, ends at once. It is killed.
    EndsAtOnce,
    /// The child did not exit in time and is killed.
    ChildKilled,
    /// Leftover processes did not exit in time and are killed.
    OrphansKilled,
    /// Some processes survived SIGKILL: they hang in the kernel, or psflip may not kill them. psflip leaves
    /// them behind.
    SurvivedKill,
}
