//! What a generation knows of itself. Small and without data that only messages need, so that every state can be visited.

use crate::end::End;

/// A generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// What it is doing.
    pub phase: Phase,
    /// An upgrade was requested that could not be started yet (contract U7).
    pub remembered: bool,
}

/// How a generation begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Started by the manager.
    First,
    /// Started by a predecessor, for an upgrade.
    Successor,
}

/// What a generation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Its child is started and not healthy yet.
    Starting {
        /// Who serves meanwhile.
        predecessor: Predecessor,
        /// It was asked to stop, and the child has the signal.
        stopping: bool,
    },
    /// Its child is healthy, and it takes over.
    Promoting {
        /// Who serves meanwhile.
        predecessor: Predecessor,
        /// How far it is.
        step: Promotion,
    },
    /// It is the service, and nothing else happens.
    Serving {
        /// The predecessor still drains, so no upgrade can start.
        predecessor_drains: bool,
        /// It was asked to stop, and the child has the signal.
        stopping: bool,
    },
    /// It is the service, and a successor is on its way.
    Upgrading {
        /// How the own child fares.
        child: Child,
        /// How the successor fares.
        successor: Successor,
        /// It was asked to stop, and the child has the signal.
        stopping: bool,
    },
    /// Its child and all that belongs to it is ended.
    Draining {
        /// How far that is.
        step: Step,
        /// Why, and what psflip then ends with.
        outcome: Outcome,
        /// How the generation before fares.
        elder: Elder,
    },
    /// Its child and all that belonged to it has ended after a stop request, and the predecessor still drains. psflip stays until that has ended as
    /// well: a manager such as systemd ends everything that is left when the main process has ended.
    AwaitingPredecessor {
        /// What psflip then ends with.
        outcome: Outcome,
    },
    /// Nothing is left to be done.
    Ended,
}

/// The generation before this one, until this one is promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Predecessor {
    /// There is none: this is the first generation, or the predecessor was killed (contract F8).
    None,
    /// It serves.
    Serves,
}

/// The generation before one that was promoted, while that one ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elder {
    /// There is none, or it is no business of a generation that failed.
    Gone,
    /// It drains, and is not waited for: no stop was requested, so the manager is to start the service again as soon as it can.
    Drains,
    /// It drains, was asked to end like this one, and is waited for.
    Awaited,
}

/// The steps of a promotion (contract U4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Promotion {
    /// `hooks.promote` runs.
    RunningHook,
    /// Clients are being sent to this generation's child.
    Switching,
    /// The pidfile is being replaced.
    TakingPidfile,
    /// The predecessor was told, and has not answered yet.
    Told,
    /// It gave up before the answer, and finds out whether it was in time.
    Withdrawing {
        /// Why.
        cause: Failure,
    },
}

/// The own child during an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Child {
    /// It runs.
    Runs,
    /// It has ended by itself (contract F7); what it left behind may still serve.
    Ended(End),
    /// It has ended, and nothing is left of its tree.
    Gone(End),
}

/// The successor during an upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Successor {
    /// It starts, or becomes healthy.
    Comes,
    /// It says that it is healthy, and is being acknowledged.
    Ready,
    /// It will not be promoted any more; its end is awaited.
    Ends,
}

/// The steps towards the end of a generation (contract U5, C8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// `shutdown.delay`.
    Delay,
    /// The child has the signal.
    Asked,
    /// The child has SIGKILL.
    Killed,
    /// The child has exited; what it left behind has the signal.
    Orphans,
    /// What it left behind has SIGKILL.
    OrphansKilled,
}

/// What a generation ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// A successor took over.
    Superseded,
    /// The child ended by itself, or after a stop request: psflip ends the same way (contract C5).
    Relay(End),
    /// It failed (contract C6).
    Failed(Failure),
}

/// Why a generation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The child could not be started.
    Start(StartFailure),
    /// The child exited before it was healthy, or before its generation was promoted.
    EndedEarly(End),
    /// The child was not healthy within `upgrade.timeout`.
    NotHealthy,
    /// `hooks.promote` failed.
    Hook,
    /// Clients could not be sent to this generation's child.
    Switch,
    /// The pidfile could not be taken.
    Pidfile,
    /// A stop request, or the predecessor, aborted the upgrade.
    Aborted,
    /// The predecessor did not answer.
    Silence,
}

/// Why a child could not be started, as far as the exit code tells (contract C6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StartFailure {
    /// No such command.
    NotFound,
    /// It can't be executed.
    NotExecutable,
    /// Anything else: no process, no working directory.
    Other,
}

/// What the runtime measures time for. How long each takes is the runtime's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// `upgrade.timeout`: from the child's start to healthy.
    Healthy,
    /// For the predecessor's acknowledgement.
    Acknowledgement,
    /// For whatever the successor has to do next.
    Successor,
    /// For whatever the predecessor, which drains, has to do next after a stop request.
    Predecessor,
    /// `shutdown.delay`.
    Delay,
    /// `shutdown.timeout`, after a stop request, after `shutdown.signal`, and for orphans.
    Grace,
    /// For the end of what got SIGKILL.
    Kill,
}
