//! The parts of psflip that programs outside of this crate use: the tests, and the tools in `tools`. Nothing
//! else is visible to them, so the compiler reports what psflip itself no longer uses.

/// The command line as a tree of commands: man pages and completions are generated from it.
pub mod cli {
    pub use crate::cli::command;
}

/// Configurations: read malformed ones, compare those that are printed, and run the examples.
pub mod config {
    pub use crate::config::{
        Document, Endpoint, Errors, FcgiRequest, Generation, Health, HttpMethod, HttpRequest, Pace, Plan,
        Slot, parse,
    };

    /// The table of all keys: the JSON Schema is generated from it, and every key must be in a seed.
    pub mod keys {
        pub use crate::config::keys::{Absent, HEALTHCHECKS, Key, Kind, TOP, Table, Zero};
    }
}

/// The control socket's messages: malformed requests and answers.
pub mod control {
    /// See `protocol.rs`.
    pub mod protocol {
        pub use crate::control::protocol::{ControlRequest, Event, RequestLine};
    }
}

/// Health checks: malformed answers and notifications.
pub mod health {
    pub use crate::health::{CheckResult, Checker, ChildInfo, Notifications, Verdict};
}

/// The hand-over's messages, and the end that reads those of a successor.
pub mod handover {
    pub use crate::handover::{ToPredecessor, ToSuccessor, WireMessage};

    /// See `predecessor.rs`.
    pub mod predecessor {
        pub use crate::handover::predecessor::{FromPredecessor, PredecessorLink, meet};
    }
}

/// The pidfile: stale, malformed and locked ones.
pub mod manager {
    /// See `pidfile.rs`.
    pub mod pidfile {
        pub use crate::manager::pidfile::{Pidfile, TakenFrom, check};
    }
}

/// The translation of upstream's configurations.
pub mod migrate {
    pub use crate::migrate::{Format, Kind, Migrated, migrate, supervisor};
}

/// The name of the variable with the hand-over's socket: a double is the successor, or another version.
pub mod process {
    /// See `environment.rs`.
    pub mod environment {
        pub use crate::process::environment::HANDOVER_VARIABLE;
    }
}

/// The system calls of the doubles, which have no other layer of their own, and the seam, which they use to
/// let calls fail and steps pause.
pub mod sys {
    /// The signal set-up that a program was started with: commands of health checks need it.
    pub mod early {
        pub use crate::sys::early::inherited_signals;
    }

    /// Inherited descriptors.
    pub mod fd {
        pub use crate::sys::fd::{adopt, set_close_on_exec};
    }

    /// Other processes.
    pub mod pidfd {
        pub use crate::sys::pidfd::PidFd;
    }

    /// Failures and pauses on purpose.
    pub mod seam {
        pub use crate::sys::seam::{Call, Moment, Os, install, step};
    }

    /// The hand-over's socket.
    pub mod socket {
        pub use crate::sys::socket::{LONGEST, Packet, Socket};
    }
}
