//! `psflip hold` and `psflip resume`: for a while no connection is accepted, and requests wait.

use std::time::Duration;

use clap::Args;

use super::render::span;
use super::screen::{Screen, now};
use super::target::{ServiceArgs, Trouble};
use super::wait::{Waiter, Wakeup};
use crate::config;
use crate::control::protocol::{ControlRequest, Event};
use crate::exit;
use crate::exit_status::ExitStatus;

/// `psflip hold`.
#[derive(Debug, Args)]
pub(super) struct HoldArgs {
    /// The longest that a request may wait, such as `30s` or `2m`. Then it is answered with 503
    #[arg(long, value_name = "DURATION", value_parser = config::duration, default_value = "30s")]
    max: Duration,
    #[command(flatten)]
    client: Client,
}

/// `psflip resume`.
#[derive(Debug, Args)]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Args)]
struct Client {
    #[command(flatten)]
    which: ServiceArgs,
    /// Print the answer as one JSON object (see docs/control.md)
    #[arg(long)]
    json: bool,
    /// Stop waiting for an answer after this time
    #[arg(long, value_name = "DURATION", value_parser = config::duration, default_value = "10s")]
    timeout: Duration,
}

pub(super) const AFTER_HOLD_HELP: &str = "\
Examples:
  psflip hold -c app.toml && ./migrate-database; psflip resume -c app.toml
  psflip hold -c app.toml --max 2m

The proxies accept no new connection, and requests on open connections wait, until `psflip resume`.
Requests that are under way are answered. Upgrades and health checks go on, and the new generation
keeps the hold. `psflip status` shows it. There must be a `[[proxy]]`.

Exit codes:
    0  connections are held
    1  psflip refused: it has no `[[proxy]]`, or is stopping
   78  the configuration does not say where the control socket is
  125  psflip did not answer";

pub(super) const AFTER_RESUME_HELP: &str = "\
Examples:
  psflip resume -c app.toml

Requests that wait because of `psflip hold` go on, and connections are accepted again.

Exit codes:
    0  connections are accepted, also if they were not held
    1  psflip refused: it has no `[[proxy]]`
   78  the configuration does not say where the control socket is
  125  psflip did not answer";

/// psflip refused the request.
const REFUSED: u8 = 1;

impl HoldArgs {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitStatus {
        let max_ms = u64::try_from(self.max.as_millis()).unwrap_or(u64::MAX);
        self.client.run(ControlRequest::Hold { max_ms })
    }
}

impl ResumeArgs {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitStatus {
        self.client.run(ControlRequest::Resume)
    }
}

impl Client {
    fn run(&self, request: ControlRequest) -> ExitStatus {
        self.send(request).unwrap_or_else(|trouble| trouble.report())
    }

    fn send(&self, request: ControlRequest) -> Result<ExitStatus, Trouble> {
        let address = self.which.locate()?;
        let waiter = Waiter::new(Some(self.timeout))?;
        for _ in 0..3 {
            let mut connection = address.request_within(request, waiter.left(), exit::FAILURE)?;
            match waiter.next(&mut connection, None)? {
                Wakeup::Line(line, event) => {
                    let text = match *event {
                        Event::Held { hold } => format!(
                            "connections are held: none is accepted, and requests wait, each at most {}; `psflip resume` lets them go on",
                            span(hold.max_ms)
                        ),
                        Event::Resumed { hold: Some(hold) } => format!(
                            "connections are accepted again; they were held for {}",
                            span(now().saturating_sub(hold.since))
                        ),
                        Event::Resumed { hold: None } => "connections were not held".to_owned(),
                        Event::Refused { reason } => {
                            return Err(Trouble { message: reason, code: REFUSED });
                        }
                        Event::Error { reason } => return Err(Trouble::refused(&reason)),
                        _ => continue, // this generation is no longer the service
                    };
                    Screen::new().line(if self.json { &line } else { &text });
                    return Ok(ExitStatus::Exited(exit::OK));
                }
                Wakeup::Interrupted(signal) => return Ok(ExitStatus::Killed(signal)),
                Wakeup::TimedOut => return Err(address.silent(self.timeout)),
                Wakeup::Closed | Wakeup::Resized | Wakeup::Tick => {}
            }
        }
        Err(Trouble::new(super::target::CLOSED))
    }
}
