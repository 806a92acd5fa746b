//! `psflip reopen`: after a rotation, the files of `[output]` are opened again.

use std::time::Duration;

use clap::Args;

use super::screen::Screen;
use super::target::{ServiceArgs, Trouble};
use super::wait::{Waiter, Wakeup};
use crate::config;
use crate::control::protocol::{ControlRequest, Event};
use crate::exit;
use crate::exit_status::ExitStatus;

/// `psflip reopen`.
#[derive(Debug, Args)]
pub(super) struct ReopenArgs {
    #[command(flatten)]
    which: ServiceArgs,
    /// Print the results as JSON, one object per line (see docs/control.md)
    #[arg(long)]
    json: bool,
    /// Stop waiting after this time
    #[arg(long, value_name = "DURATION", value_parser = config::duration, default_value = "10s")]
    timeout: Duration,
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  mv app.log app.log.1 && psflip reopen -c app.toml && gzip app.log.1

The files of `output.stdout` and `output.stderr` (`append:FILE`) are opened again, by every generation
that runs. When this returns, nothing is written to the renamed files any more. The child needs no
signal and notices nothing. `log.file` is opened for every line, and needs no reopen; loggers
(`pipe:COMMAND`) rotate by themselves. Processes that a generation has left when it exited
(`shutdown.orphans = \"leave\"`) write on to the renamed file.

Exit codes:
    0  all files are open again, or there are none
    1  a file could not be opened; its output still goes to the renamed file
   78  the configuration does not say where the control socket is
  125  psflip did not answer, or not in time";

/// A file could not be opened.
const FAILED: u8 = 1;

impl ReopenArgs {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitStatus {
        self.send().unwrap_or_else(|trouble| trouble.report())
    }

    fn send(&self) -> Result<ExitStatus, Trouble> {
        let address = self.which.locate()?;
        let waiter = Waiter::new(Some(self.timeout))?;
        for _ in 0..3 {
            let mut connection =
                address.request_within(ControlRequest::Reopen, waiter.left(), exit::FAILURE)?;
            let (mut has_begun, mut files, mut failed) = (false, 0, false);
            loop {
                let (line, event) = match waiter.next(&mut connection, None)? {
                    Wakeup::Line(line, event) => (line, *event),
                    Wakeup::Interrupted(signal) => return Ok(ExitStatus::Killed(signal)),
                    Wakeup::TimedOut => return Err(address.silent(self.timeout)),
                    Wakeup::Closed if has_begun => {
                        if files == 0 && !self.json {
                            Screen::new().line("no output goes to a file: nothing to open again");
                        }
                        return Ok(ExitStatus::Exited(if failed { FAILED } else { exit::OK }));
                    }
                    Wakeup::Closed => break,
                    Wakeup::Resized | Wakeup::Tick => continue,
                };
                let text = match event {
                    Event::Reopening { .. } => {
                        has_begun = true;
                        None
                    }
                    Event::Reopened { file, generation, error } => {
                        files += 1;
                        failed |= error.is_some();
                        Some(match error {
                            None => format!("`{file}` is open again (generation {generation})"),
                            Some(error) => format!("generation {generation}: {error}"),
                        })
                    }
                    Event::Refused { reason } | Event::Error { reason } => {
                        return Err(Trouble::refused(&reason));
                    }
                    _ => break, // this generation is no longer the service
                };
                if self.json {
                    Screen::new().line(&line);
                } else if let Some(text) = text {
                    Screen::new().line(&text);
                }
            }
        }
        Err(Trouble::new(super::target::CLOSED))
    }
}
