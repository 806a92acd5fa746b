//! `psflip stop`: requests psflip to stop, and waits until it has exited.

use std::time::Duration;

use clap::Args;

use super::session::{Session, Turn};
use super::target::{ServiceArgs, Trouble};
use crate::config;
use crate::control::protocol::{ControlRequest, Event};
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::signal::Signal;

/// `psflip stop`.
#[derive(Debug, Args)]
pub(super) struct Stop {
    #[command(flatten)]
    which: ServiceArgs,
    /// Request the stop and return at once
    #[arg(long)]
    no_wait: bool,
    /// Stop waiting after this time, such as `90s` or `5m`
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    timeout: Option<Duration>,
    /// Print events as JSON, one object per line (see docs/control.md)
    #[arg(long)]
    json: bool,
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  psflip stop -c app.toml
  psflip stop -c app.toml --timeout 30s

psflip sends the child `shutdown.signal` and waits up to `shutdown.timeout`. A running upgrade is
aborted.

Exit codes:
    0  the child exited with code 0, or was terminated by the stop signal
    1  the child did not exit in time and keeps running
   78  the configuration does not say where the control socket is
  124  --timeout expired
  125  psflip did not answer within 10s (with --timeout: 124)
    N  the child exited with code N (128+N: was terminated by signal N)";

/// The child did not exit in time.
const IGNORED: u8 = 1;

impl Stop {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitStatus {
        self.wait().unwrap_or_else(|trouble| trouble.report())
    }

    fn wait(&self) -> Result<ExitStatus, Trouble> {
        let mut session = Session::begin(&self.which, ControlRequest::Stop, self.timeout, self.json)?;
        let (mut is_stopping, mut by) = (false, None);
        loop {
            let event =
                match session.next(|| "psflip was requested to stop, and has not exited".to_owned())? {
                    Turn::Event(event) => event,
                    Turn::Over(end) => return Ok(end),
                    Turn::Closed if is_stopping => {
                        return Err(Trouble::new("psflip exited without reporting its child's exit status"));
                    }
                    Turn::Closed => {
                        return Err(Trouble::new(super::target::CLOSED));
                    }
                };
            match event {
                Event::Stopping { signal, .. } => {
                    (is_stopping, by) = (true, signal);
                    if self.no_wait {
                        return Ok(ExitStatus::Exited(exit::OK));
                    }
                }
                Event::Ignored { child, .. } => {
                    let child = child.map_or_else(String::new, |child| format!(" (pid {child})"));
                    let message = format!(
                        "the child{child} has not exited in time and keeps running; `kill -KILL` of psflip stops both at once"
                    );
                    return Err(Trouble { message, code: IGNORED });
                }
                Event::Stopped { end, code, signal } => {
                    session.print(&format!("stopped: {}", super::render::clean(&end)));
                    return Ok(ExitStatus::Exited(exit_code(code, signal.as_deref(), by.as_deref())));
                }
                Event::Refused { reason } => {
                    return Err(Trouble::new(format!("the stop is refused: {reason}")));
                }
                Event::Moved { .. } => session.request(ControlRequest::Stop)?,
                _ => {}
            }
        }
    }
}

/// The exit code for the child's exit status. Termination by the stop signal counts as success.
fn exit_code(code: Option<u8>, signal: Option<&str>, stop_signal: Option<&str>) -> u8 {
    match (code, signal) {
        (Some(code), _) => code,
        (None, None) => exit::OK,
        (None, signal) if signal == stop_signal => exit::OK,
        (None, Some(signal)) => {
            let number = signal.parse().map_or(0, |signal: Signal| signal.number());
            u8::try_from(128 + number).unwrap_or(exit::FAILURE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::exit_code;

    #[test]
    fn death_by_the_stop_signal_is_a_success() {
        let code = |code, signal| exit_code(code, signal, Some("SIGTERM"));
        assert_eq!(code(Some(0), None), 0);
        assert_eq!(code(Some(7), None), 7);
        assert_eq!(code(None, Some("SIGTERM")), 0);
        assert_eq!(code(None, Some("SIGKILL")), 137);
        assert_eq!(code(None, Some("SIGINT")), 130);
    }
}
