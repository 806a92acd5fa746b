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

impl ExitStatus {
    /// Decodes the status of wait(2) of a process that has exited.
    #[must_use]
    pub fn from_wait_status(status: i32) -> Self {
        match Signal::from_number(status & 0x7f) {
            Some(signal) => Self::Killed(signal),
            None => Self::Exited((status >> 8 & 0xff) as u8),
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Killed(signal) => write!(f, "{signal}"),
        }
    }
}
