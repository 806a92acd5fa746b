//! psflip's own exit codes (contract C6). The child's exit status is relayed and not listed here.

use crate::exit_status::ExitStatus;
use crate::flip::{Failure, Outcome, StartFailure};

/// Success, without a child's status to relay: a generation that was superseded, `check` without findings.
pub const OK: u8 = 0;
/// The child exited with code 0 before it was healthy (C6: 0 becomes 1).
pub const EXITED_EARLY: u8 = 1;
/// `psflip check --strict` has found a probable mistake.
pub const WARNED: u8 = 1;
/// `psflip status --check`: no child was found healthy yet, or a stop was requested.
pub const NOT_SERVING: u8 = 1;
/// `migrate` has translated what it can, and the rest is left to the user.
pub const LEFT_TO_DO: u8 = 1;
/// Wrong usage of the command line (as clap and most Unix tools do).
pub const USAGE: u8 = 2;
/// The configuration is invalid (`EX_CONFIG` of sysexits.h).
pub const CONFIG: u8 = 78;
/// The child was not healthy within `upgrade.timeout` (as timeout(1) does), or can't become healthy at all.
pub const NOT_HEALTHY: u8 = 124;
/// Any other failure of psflip's own (as env(1), nohup(1) and timeout(1) do).
pub const FAILURE: u8 = 125;
/// The command was found but can't be executed (POSIX, shells).
pub const NOT_EXECUTABLE: u8 = 126;
/// The command was not found (POSIX, shells).
pub const NOT_FOUND: u8 = 127;

/// How psflip itself exits: by a code, or by the child's signal (contract C5).
#[must_use]
pub fn exit_status_for(outcome: Outcome) -> ExitStatus {
    match outcome {
        Outcome::Superseded => ExitStatus::Exited(OK),
        Outcome::Relay(end) => end,
        Outcome::Failed(failure) => match failure {
            Failure::Start(StartFailure::NotFound) => ExitStatus::Exited(NOT_FOUND),
            Failure::Start(StartFailure::NotExecutable) => ExitStatus::Exited(NOT_EXECUTABLE),
            Failure::ExitedEarly(ExitStatus::Exited(0)) => ExitStatus::Exited(EXITED_EARLY),
            Failure::ExitedEarly(end) => end,
            Failure::NotHealthy | Failure::Unhealthy | Failure::NeverHealthy => {
                ExitStatus::Exited(NOT_HEALTHY)
            }
            Failure::Start(StartFailure::Other)
            | Failure::Precheck
            | Failure::Relay
            | Failure::Hook
            | Failure::Switch
            | Failure::Pidfile
            | Failure::Aborted
            | Failure::ReadyNotSent
            | Failure::NoAcknowledgement => ExitStatus::Exited(FAILURE),
        },
    }
}

/// The code that a shell shows for this outcome: 128+N for signal N.
#[must_use]
pub fn code_for(outcome: Outcome) -> u8 {
    match exit_status_for(outcome) {
        ExitStatus::Exited(code) => code,
        ExitStatus::Killed(signal) => 128 + signal.number() as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal::Signal;

    #[test]
    fn every_failure_has_its_code() {
        // Contract: C6
        let code = |failure| code_for(Outcome::Failed(failure));
        assert_eq!(code(Failure::Start(StartFailure::NotFound)), 127);
        assert_eq!(code(Failure::Start(StartFailure::NotExecutable)), 126);
        assert_eq!(code(Failure::Start(StartFailure::Other)), 125);
        assert_eq!(code(Failure::NotHealthy), 124);
        assert_eq!(code(Failure::NeverHealthy), 124);
        assert_eq!(code(Failure::ExitedEarly(ExitStatus::Exited(0))), 1);
        assert_eq!(code(Failure::ExitedEarly(ExitStatus::Exited(3))), 3);
        assert_eq!(code(Failure::ExitedEarly(ExitStatus::Killed(Signal::TERM))), 143);
        for failure in [Failure::Pidfile, Failure::Aborted, Failure::ReadyNotSent, Failure::NoAcknowledgement]
        {
            assert_eq!(code(failure), 125);
        }
    }

    #[test]
    fn the_exit_status_of_a_child_is_relayed() {
        // Contract: C5
        for code in 0..=255 {
            assert_eq!(exit_status_for(Outcome::Relay(ExitStatus::Exited(code))), ExitStatus::Exited(code));
        }
        assert_eq!(
            exit_status_for(Outcome::Relay(ExitStatus::Killed(Signal::KILL))),
            ExitStatus::Killed(Signal::KILL)
        );
    }
}
