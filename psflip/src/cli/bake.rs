//! `psflip rollback` and `psflip keep`: end a bake, either way, and wait for the result.

use std::time::Duration;

use clap::Args;

use super::render;
use super::session::{self, Session, Turn};
use super::target::{ServiceArgs, Trouble};
use crate::config;
use crate::control::protocol::{ControlRequest, Event};
use crate::exit;
use crate::exit_status::ExitStatus;

/// `psflip rollback`.
#[derive(Debug, Args)]
pub(super) struct Rollback {
    #[command(flatten)]
    client: Client,
}

/// `psflip keep`.
#[derive(Debug, Args)]
pub(super) struct Keep {
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Args)]
struct Client {
    #[command(flatten)]
    which: ServiceArgs,
    /// Print events as JSON, one object per line (see docs/control.md)
    #[arg(long)]
    json: bool,
    /// Stop waiting after this time; what was requested goes on
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    timeout: Option<Duration>,
}

pub(super) const AFTER_ROLLBACK_HELP: &str = "\
Examples:
  psflip rollback -c app.toml

With `upgrade.bake`, a new generation has the traffic on trial while the old one stands by. This gives
the traffic back to the old child at once. The new one answers what it has under way and is stopped;
then this command returns. `psflip upgrade` that still waits exits with 3.

Exit codes:
    0  the old child has the traffic, and the new generation is gone
    1  no generation bakes, the new one has become the service meanwhile, or no child is left
   78  the configuration does not say where the control socket is
  124  --timeout expired; the roll-back goes on
  125  psflip did not answer within 10s (with --timeout: 124)
  130  Ctrl-C; the roll-back goes on";

pub(super) const AFTER_KEEP_HELP: &str = "\
Examples:
  psflip keep -c app.toml

With `upgrade.bake`, a new generation has the traffic on trial while the old one stands by. This ends
the trial early: the new generation becomes the service, and the old one drains.

Exit codes:
    0  the new generation is the service
    1  no generation bakes, or the new one failed
   78  the configuration does not say where the control socket is
  124  --timeout expired; the promotion goes on
  125  psflip did not answer within 10s (with --timeout: 124)
  130  Ctrl-C; the promotion goes on";

/// psflip refused the request, or it came too late.
const REFUSED: u8 = 1;

impl Rollback {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitStatus {
        self.client.run(ControlRequest::Rollback)
    }
}

impl Keep {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitStatus {
        self.client.run(ControlRequest::Keep)
    }
}

impl Client {
    fn run(&self, request: ControlRequest) -> ExitStatus {
        self.follow(request).unwrap_or_else(|trouble| trouble.report())
    }

    fn follow(&self, request: ControlRequest) -> Result<ExitStatus, Trouble> {
        let mut session = Session::begin(&self.which, request, self.timeout, self.json)?;
        let mut upgrade = None;
        let done = ExitStatus::Exited(exit::OK);
        let refused = |message: String| Trouble { message, code: REFUSED };
        loop {
            let event = match session.next(|| "what was requested goes on".to_owned())? {
                Turn::Event(event) => event,
                Turn::Over(end) => return Ok(end),
                Turn::Closed => return Err(Trouble::new(super::target::CLOSED)),
            };
            match event {
                Event::Accepted { upgrade: number, .. } => upgrade = Some(number),
                Event::Promoted { .. } if request == ControlRequest::Keep => return Ok(done),
                Event::Promoted { generation, .. } => {
                    let message = format!("too late: generation {generation} is the service");
                    return Err(refused(message));
                }
                Event::Failed { generation, child, rolled_back: true, .. }
                    if request == ControlRequest::Rollback =>
                {
                    let child = child.map_or_else(String::new, |child| format!(" (pid {child})"));
                    session.print(&format!(
                        "the old child{child} has the traffic again, and generation {generation} is gone"
                    ));
                    // It would deploy the same release again.
                    let next = session::status(&session.address);
                    if next.is_some_and(|status| status.upgrade.is_some() || status.upgrade_queued) {
                        session.print(
                            "another upgrade was requested meanwhile, and starts now: `psflip status` shows it",
                        );
                    }
                    return Ok(done);
                }
                ref event @ Event::Failed { .. } => {
                    session.screen.clear();
                    if !self.json {
                        super::print_text(&render::failure(event, &[], &super::screen::stderr_view()));
                    }
                    return Ok(ExitStatus::Exited(REFUSED));
                }
                Event::Refused { reason } => return Err(refused(reason)),
                Event::Moved { upgrade: number } => {
                    let upgrade = number.or(upgrade);
                    let follow = |upgrade| ControlRequest::Follow { upgrade, end_draining: false };
                    session.request(upgrade.map_or(request, follow))?;
                }
                _ => {}
            }
        }
    }
}
