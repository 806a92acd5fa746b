//! `psflip upgrade`: requests an upgrade, shows its steps, and waits for the result.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::contact::{Ear, Heard, Place, Trouble, Which, where_to_look};
use super::render;
use super::session::{Session, Turn};
use crate::config;
use crate::control::client::Connection;
use crate::control::protocol::{Event, Wish};
use crate::end::End;
use crate::exit;

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Until {
    /// The new generation is active
    Promoted,
    /// The old generation has exited, too
    Drained,
}

/// `psflip upgrade`.
#[derive(Debug, Args)]
pub(super) struct Upgrade {
    #[command(flatten)]
    which: Which,
    /// What to wait for
    #[arg(long, value_name = "WHAT", value_enum, default_value = "promoted", conflicts_with = "no_wait")]
    wait: Until,
    /// Request the upgrade and return at once
    #[arg(long)]
    no_wait: bool,
    /// Stop waiting after this time, such as `90s` or `5m`; the upgrade goes on
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    timeout: Option<Duration>,
    /// Print events as JSON, one object per line (see docs/control.md)
    #[arg(long)]
    json: bool,
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  psflip upgrade -c app.toml                    # shows each step, fails if the upgrade fails
  psflip upgrade -c app.toml --wait drained     # until the old child has exited, too
  psflip upgrade -c app.toml --timeout 5m       # in a deployment

If an upgrade is already running, yours is queued and starts when it finishes.
Ctrl-C stops the waiting, not the upgrade.

Exit codes:
    0  the new generation is active (with --wait drained: and the old one has exited)
    1  the upgrade failed, and the old child keeps running; or psflip is stopping and refused it
   78  the configuration does not tell where the control socket is
  124  --timeout expired; the upgrade goes on
  125  psflip did not answer
  130  Ctrl-C; the upgrade goes on";

/// The most connections in a row that may close without an event.
const PATIENCE: u32 = 3;

impl Upgrade {
    /// Runs the command.
    pub(super) fn run(&self) -> End {
        self.follow().unwrap_or_else(|trouble| trouble.end())
    }

    fn follow(&self) -> Result<End, Trouble> {
        let mut session = Session::begin(&self.which, Wish::Upgrade, self.timeout, self.json)?;
        let (mut upgrade, mut promoted, mut lost) = (None, false, 0);
        loop {
            let event = match session.next(|| goes_on(upgrade, promoted))? {
                Turn::Said(event) => event,
                Turn::Over(end) => return Ok(end),
                Turn::Closed => {
                    lost += 1;
                    session.connection = again(&session.place, upgrade, promoted, lost)?;
                    continue;
                }
            };
            lost = 0;
            match event {
                Event::Accepted { upgrade: number, because } => {
                    upgrade = Some(number);
                    if self.no_wait {
                        if because.is_none() {
                            session.say(&format!("upgrade {number} starts"));
                        }
                        return Ok(End::Exited(exit::OK));
                    }
                }
                Event::Promoted { .. } => {
                    promoted = true;
                    if self.wait == Until::Promoted {
                        return Ok(End::Exited(exit::OK));
                    }
                }
                Event::Drained { .. } => return Ok(End::Exited(exit::OK)),
                ref event @ Event::Failed { .. } => {
                    if !self.json {
                        session.screen.clear();
                        let look = places(&session.place);
                        let view = super::contact::stderr_view();
                        super::say(&render::failure(event, &look, &view));
                    }
                    return Ok(until_closed(&mut session));
                }
                Event::Refused { reason } => {
                    let message = format!("the upgrade is refused: {reason}");
                    return Err(Trouble { message, code: FAILED });
                }
                Event::Moved { upgrade: number } => {
                    upgrade = number.or(upgrade);
                    session.ask(upgrade.map_or(Wish::Upgrade, |upgrade| Wish::Follow { upgrade }))?;
                }
                _ => {}
            }
        }
    }
}

/// The upgrade failed. If a stop request was the reason, psflip closes the connection only when it exits.
fn until_closed(session: &mut Session) -> End {
    loop {
        match session.ear.next(&mut session.connection, None) {
            Ok(Heard::Interrupted(signal)) => return End::Killed(signal),
            Ok(Heard::Closed | Heard::TimedOut) | Err(_) => return End::Exited(FAILED),
            Ok(Heard::Line(..) | Heard::Tick | Heard::Resized) => {}
        }
    }
}

/// The upgrade failed, and the old child keeps running.
const FAILED: u8 = 1;

/// The state of an upgrade that the command stops waiting for.
fn goes_on(upgrade: Option<u64>, promoted: bool) -> String {
    match (upgrade, promoted) {
        (_, true) => "the new generation is active, and the old one still drains".to_owned(),
        (Some(upgrade), false) => {
            format!("upgrade {upgrade} goes on, and `psflip status --watch` shows how")
        }
        (None, false) => "it is not known whether psflip received it: there was no answer".to_owned(),
    }
}

/// psflip closed the connection without a result: it was killed, or is of another version. Its successor or
/// predecessor may know more.
fn again(place: &Place, upgrade: Option<u64>, promoted: bool, lost: u32) -> Result<Connection, Trouble> {
    let what = || match (upgrade, promoted) {
        (_, true) => {
            "the old psflip was killed while it drained; the new generation is the service".to_owned()
        }
        (Some(upgrade), false) => {
            format!("psflip has closed the connection; what became of upgrade {upgrade} is not known")
        }
        (None, false) => super::contact::CLOSED.to_owned(),
    };
    match upgrade {
        Some(upgrade) if lost <= PATIENCE && !promoted => place
            .ask(Wish::Follow { upgrade })
            .map_err(|why| Trouble::new(format!("{}: {}", what(), why.message))),
        _ => Err(Trouble::new(what())),
    }
}

/// Where to read more about a failed upgrade.
fn places(place: &Place) -> Vec<String> {
    let pid = (|| {
        let ear = Ear::new(Some(Duration::from_secs(1))).ok()?;
        let mut connection = place.ask(Wish::Status).ok()?;
        match ear.next(&mut connection, None) {
            Ok(Heard::Line(_, event)) => match *event {
                Event::Status { status } => Some(status.pid),
                _ => None,
            },
            _ => None,
        }
    })();
    pid.and_then(where_to_look).into_iter().chain(["psflip status: the recent upgrades".to_owned()]).collect()
}
