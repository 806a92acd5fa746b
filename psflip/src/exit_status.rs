//! The exit status of a process.

use std::fmt;

use crate::signal::Signal;

/// How a process terminated, as wait(2) reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExitStatus {
    /// By exit(3), with this code.
    Exited(u8),
    /// By a signal.
    Killed(Signal),
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Killed(signal) => write!(f, "{signal}"),
        }
    }
}
