//! The state of a generation. It is small, and holds no data that only messages need, so that the tests can
//! visit every state.

use super::event::ChildSignal;
use crate::exit_status::ExitStatus;

/// The state of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What the generation is doing.
    pub phase: Phase,
    /// An upgrade is queued: it was requested when it could not start (contract U7).
    pub upgrade_queued: bool,
    /// The old generations that drain.
    pub old: OldGenerations,
}

/// The old generations that drain, apart from a predecessor that is still the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OldGenerations {
    /// How many there are.
    pub draining: u8,
    /// With how many of them an upgrade must not start (`upgrade.draining`).
    pub most: u8,
    /// The predecessor has not announced this generation to the service managers yet. Until then an upgrade
    /// must not start: they would take its successor for a stranger.
    pub announcing: bool,
}

/// How a generation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Started by the supervisor.
    First,
    /// Started by a predecessor, for an upgrade.
    Successor,
    /// The same, and `upgrade.precheck` runs before its child starts.
    Prechecked,
    /// The same, and its child must not run at the same time as the predecessor's
    /// (`upgrade.overlap = false`).
    Exclusive,
}

/// What a generation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The generation is a successor and has no child yet: it checks what needs no child, and may have to
    /// wait until the predecessor's child is gone.
    Preparing {
        /// What serves meanwhile.
        predecessor: Predecessor,
        /// The step of the preparation.
        step: Preparation,
    },
    /// The child starts, or runs and is not healthy yet.
    Starting {
        /// What serves meanwhile.
        predecessor: Predecessor,
        /// A stop was requested, and the child has the signal.
        stopping: bool,
    },
    /// The child was found healthy, and has to stay healthy for a while (contract H6).
    Settling {
        /// What serves meanwhile.
        predecessor: Predecessor,
    },
    /// The child is healthy, and the generation takes over.
    Promoting {
        /// What serves meanwhile.
        predecessor: Predecessor,
        /// The step of the promotion.
        step: Promotion,
        /// Its bake is over, so it has the traffic already (contract B).
        baked: bool,
    },
    /// The child is healthy, and the predecessor is still the service. This generation has the traffic on
    /// trial (contract B1).
    Baking {
        /// The step of the bake.
        step: Bake,
    },
    /// This generation is the service, and no upgrade is running.
    Serving {
        /// How far a stop request has come.
        stopping: Stopping,
    },
    /// This generation is the service, and a successor is starting or exiting.
    Upgrading {
        /// State of this generation's child.
        child: Child,
        /// State of the successor.
        successor: Successor,
        /// How far a stop request has come.
        stopping: Stopping,
    },
    /// This generation is the service, and its child is being stopped for that of a successor, which is
    /// prepared: the two must not run at once (contract E2).
    GivingWay {
        /// The step of the shutdown.
        step: GiveWay,
        /// Whether the successor still waits for its turn.
        turn: Turn,
    },
    /// This generation is the service, and starts its child again: a successor failed to which the child gave
    /// way (contract E3).
    Restarting {
        /// The step of the start.
        step: Restart,
    },
    /// The child and its descendants are being stopped.
    Draining {
        /// The step of the shutdown.
        step: DrainStep,
        /// The reason, and the exit status of psflip that follows from it.
        outcome: Outcome,
        /// State of the old generation.
        old_generation: OldGeneration,
    },
    /// After a stop request, the child and its descendants have exited, and old generations still drain.
    /// psflip waits for them, because a service manager such as systemd kills all remaining processes when
    /// the main process exits.
    AwaitingPredecessor {
        /// The exit status of psflip.
        outcome: Outcome,
    },
    /// psflip exits.
    Exiting,
}

/// How far a stop request has come that the service got (contract S5, T5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stopping {
    /// None was made, or the child ignored it.
    No,
    /// The relay answers what is under way; then the child is signalled.
    Answering(ChildSignal),
    /// The child has the signal.
    Signalled,
}

/// The generation before this one, until this one is promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Predecessor {
    /// There is none: this is the first generation, or the predecessor was killed (contract F8).
    None,
    /// It is the service.
    Serves,
}

/// The steps of a successor before its child starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Preparation {
    /// Its sockets are opened, its relay starts, and `upgrade.precheck` runs.
    Checking {
        /// Its child must not run at the same time as the predecessor's.
        exclusive: bool,
    },
    /// It has reported that it is prepared, and waits until the predecessor's child is gone.
    AwaitingTurn,
    /// The predecessor was killed. The keeper of its child terminates it (contract C7), and is not gone yet.
    AwaitingPredecessorTree,
}

/// The steps in which a child gives way to that of a successor: those of a drain, but the relay holds the
/// clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GiveWay {
    /// The relay holds new requests, and answers what is under way.
    Answering,
    /// The child has been sent `shutdown.signal`.
    Signalled,
    /// The child has been sent SIGKILL.
    Killed,
    /// The child has exited; leftover processes have been sent `shutdown.signal`.
    Orphans(ExitStatus),
    /// Leftover processes have been sent SIGKILL.
    OrphansKilled(ExitStatus),
}

/// Whether there is a successor for which the child gives way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Turn {
    /// It is prepared, and waits.
    Awaited,
    /// It failed meanwhile, so this generation's child starts again when it is gone.
    Void,
}

/// The steps of starting the child again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Restart {
    /// The successor is gone, and its child may not be gone yet. The value is the exit status of this
    /// generation's child.
    AwaitingSuccessorTree(ExitStatus),
    /// The child starts, or is not healthy yet.
    Starting,
    /// A stop was requested, and the child has the signal.
    Stopping,
}

/// The generations before this one, after the promotion of this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OldGeneration {
    /// There is none, or all have exited. Also set if this generation failed: then its predecessor is the
    /// service.
    Gone,
    /// They drain, and psflip does not wait for them: no stop was requested, so the service manager is to
    /// restart the service as soon as possible.
    Drains,
    /// They drain, have received the stop request as well, and psflip waits for them.
    Awaited,
}

/// The steps of a bake (contract B1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bake {
    /// The predecessor's relay does not leave yet.
    AwaitingTraffic,
    /// This generation has the traffic.
    OnTrial,
    /// It gives up, and reports that, again if the report could not be sent. It keeps the traffic until the
    /// predecessor has taken it: a predecessor that is suspended can't (contract B3).
    Returning {
        /// The reason for giving up.
        cause: Failure,
    },
}

/// The steps of a promotion (contract U4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Promotion {
    /// `hooks.promote` runs.
    RunningHook,
    /// Traffic is being switched to this generation's child.
    Switching,
    /// The pidfile is being replaced.
    TakingPidfile,
    /// This generation has reported that it is ready, and the predecessor has not answered yet.
    AwaitingAcknowledgement,
    /// This generation gave up before the answer, and finds out whether an acknowledgement had been sent.
    Withdrawing {
        /// The reason for giving up.
        cause: Failure,
    },
}

/// This generation's child during an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Child {
    /// It runs.
    Runs,
    /// It exited, by itself (contract F7) or after a stop request. Leftover processes may still serve.
    Exited(ExitStatus),
    /// It exited, and nothing is left of its process tree.
    Gone(ExitStatus),
    /// It was stopped for the successor, whose child must not run at the same time, and nothing is left of
    /// its process tree. If the successor fails, it is started again (contract E3).
    GaveWay(ExitStatus),
}

/// The successor during an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Successor {
    /// It starts, or its child is not healthy yet.
    Starting,
    /// It has the traffic on trial (contract B1).
    Baking,
    /// Its bake is over, and it still has the traffic; next it reports that it is ready.
    Kept,
    /// It has reported that its child is healthy, and is being acknowledged.
    Ready {
        /// It has the traffic since its bake.
        has_traffic: bool,
    },
    /// The traffic was taken back from it, and it has not confirmed that yet (contract B3).
    Returning,
    /// It will not be promoted any more; psflip waits for its exit.
    Exiting {
        /// It had the traffic, which is back.
        had_traffic: bool,
    },
    /// It was late, and has been sent SIGKILL.
    Killed {
        /// It had the traffic, which is back.
        had_traffic: bool,
    },
}

impl Successor {
    /// Whether it has the traffic.
    #[must_use]
    pub fn has_traffic(self) -> bool {
        match self {
            Self::Baking | Self::Kept | Self::Ready { has_traffic: true } => true,
            Self::Starting
            | Self::Ready { has_traffic: false }
            | Self::Returning
            | Self::Exiting { .. }
            | Self::Killed { .. } => false,
        }
    }

    /// Whether it has the traffic, or had it.
    #[must_use]
    pub fn had_traffic(self) -> bool {
        match self {
            Self::Returning | Self::Exiting { had_traffic: true } | Self::Killed { had_traffic: true } => {
                true
            }
            Self::Starting
            | Self::Baking
            | Self::Kept
            | Self::Ready { .. }
            | Self::Exiting { had_traffic: false }
            | Self::Killed { had_traffic: false } => self.has_traffic(),
        }
    }
}

/// The steps of the shutdown of a generation (contract U5, C8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DrainStep {
    /// The relay answers what is under way (contract T4).
    Answering {
        /// A stop was requested as well, so `shutdown.delay` is skipped.
        stops: bool,
    },
    /// The child gave way before the promotion. The relay passes its connections on to that of the successor.
    PassingOn,
    /// `shutdown.delay` runs.
    Delay,
    /// The child has been sent `shutdown.signal`.
    Signalled,
    /// The child has been sent SIGKILL.
    Killed,
    /// The active generation requested the end (contract D1): the child has been sent SIGKILL, and leftover
    /// processes get it when the child has exited.
    Ending,
    /// The child has exited; leftover processes have been sent `shutdown.signal`.
    Orphans,
    /// Leftover processes have been sent SIGKILL.
    OrphansKilled,
    /// Nothing is left of the child. The relay delivers what it has read from it.
    Closing,
}

/// Why psflip exits; determines its exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A successor is the service now.
    Superseded,
    /// The child exited by itself or after a stop request. psflip exits with the same status (contract C5).
    Relay(ExitStatus),
    /// The generation failed (contract C6).
    Failed(Failure),
}

/// Why a generation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// `upgrade.precheck` failed, or something else that was checked before the start of the child.
    Precheck,
    /// The child could not be started.
    Start(StartFailure),
    /// The child exited before it was healthy, or before its generation was promoted.
    ExitedEarly(ExitStatus),
    /// The child was not healthy within `upgrade.timeout`.
    NotHealthy,
    /// The health check failed while the generation had the traffic on trial (contract B2).
    Unhealthy,
    /// The health check found that the child can't become healthy any more.
    NeverHealthy,
    /// The relay, which carries the connections of `[[proxy]]`, could not be started.
    Relay,
    /// `hooks.promote` failed.
    Hook,
    /// Traffic could not be switched to this generation's child.
    Switch,
    /// The pidfile could not be taken.
    Pidfile,
    /// A stop request, or the predecessor, aborted the upgrade.
    Aborted,
    /// The predecessor could not be notified that this generation is ready.
    ReadyNotSent,
    /// The predecessor did not answer.
    NoAcknowledgement,
}

/// Why a child could not be started, as far as the exit code distinguishes it (contract C6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartFailure {
    /// No such command.
    NotFound,
    /// It can't be executed.
    NotExecutable,
    /// Anything else, such as a failed fork or a missing working directory.
    Other,
}

/// What the runtime measures time for. The runtime knows the durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// `upgrade.timeout`: from the child's start to healthy.
    Healthy,
    /// `upgrade.bake`: how long this generation has the traffic on trial.
    Bake,
    /// How long to wait for the predecessor's acknowledgement, or for the traffic. When this generation gives
    /// the traffic back: until a report that could not be sent is sent again.
    Acknowledgement,
    /// How long to wait for the next step of the successor.
    Successor,
    /// How long to wait for the exit of a successor that got SIGKILL.
    SuccessorKill,
    /// After a stop request: how long to wait for the next step of the old generations, which drain.
    Predecessor,
    /// How long to wait for the exit of old generations that were requested to end at once.
    Ending,
    /// `proxy.drain`: how long the relay may answer what is under way.
    Drain,
    /// `shutdown.delay`.
    Delay,
    /// How long the relay may deliver what it has read from a child that has exited.
    Closing,
    /// `shutdown.timeout`: after a stop request, after `shutdown.signal`, and for leftover processes.
    Grace,
    /// How long to wait for the exit of processes that got SIGKILL.
    Kill,
}
