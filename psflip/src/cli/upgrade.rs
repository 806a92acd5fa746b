//! `psflip upgrade`: asks for an upgrade, shows what happens, waits for its end.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::contact::{Ear, Heard, Place, Screen, Trouble, Which, where_to_look};
use super::render::{self, Progress};
use crate::config;
use crate::control::client::Connection;
use crate::control::protocol::{Event, Wish};
use crate::end::End;
use crate::exit;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Until {
    /// The new generation is the service
    Promoted,
    /// The old generation is gone, too
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
    /// Only ask; don't wait
    #[arg(long)]
    no_wait: bool,
    /// Wait no longer than this, as `90s` or `5m`; the upgrade goes on
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    timeout: Option<Duration>,
    /// Print what psflip says, one JSON object a line (see docs/control.md)
    #[arg(long)]
    json: bool,
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  psflip upgrade -c app.toml                    # shows each step, fails if the upgrade fails
  psflip upgrade -c app.toml --wait drained     # until the old child is gone, too
  psflip upgrade -c app.toml --timeout 5m       # in a deployment

The upgrade that is waited for starts after this request: while another one is under
way, it comes after that. Ctrl-C ends the waiting, not the upgrade.

Exit codes:
    0  the new generation is the service (with --wait drained: and the old one is gone)
    1  the upgrade failed; the old child keeps running
  124  --timeout is over; the upgrade goes on
  125  no psflip answers";

/// How often the line that stands for now is written anew, while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// So many times a connection may end without having said anything, one after the other.
const PATIENCE: u32 = 3;

impl Upgrade {
    /// Does all of it.
    pub(super) fn run(&self) -> End {
        let mut screen = Screen::new();
        let end = self.follow(&mut screen);
        screen.clear();
        end.unwrap_or_else(|trouble| trouble.end())
    }

    fn follow(&self, screen: &mut Screen) -> Result<End, Trouble> {
        let place = self.which.place()?;
        let ear = Ear::new(self.timeout)?;
        let mut connection = place.ask(Wish::Upgrade)?;
        let mut progress = Progress::default();
        let live = screen.is_live && !self.json;
        let (mut upgrade, mut promoted, mut lost) = (None, false, 0);
        loop {
            if live {
                screen.live(&progress.live(&screen.view()));
            }
            let (line, event) = match ear.next(&mut connection, live.then_some(TICK))? {
                Heard::Line(line, event) => (line, event),
                Heard::Tick | Heard::Resized => continue,
                Heard::Interrupted(signal) => {
                    screen.clear();
                    super::complain(&format!("waits no longer ({signal}); {}", goes_on(upgrade, promoted)));
                    return Ok(End::Killed(signal));
                }
                Heard::TimedOut => {
                    let waited = self.timeout.unwrap_or_default();
                    let message = format!("waited {waited:?}; {}", goes_on(upgrade, promoted));
                    return Err(Trouble { message, code: exit::NOT_HEALTHY });
                }
                Heard::Closed => {
                    lost += 1;
                    connection = again(&place, upgrade, promoted, lost)?;
                    continue;
                }
            };
            lost = 0;
            if self.json {
                screen.line(&line);
            } else {
                for line in progress.on(&event, live, &screen.view()) {
                    screen.line(&line);
                }
            }
            match *event {
                Event::Accepted { upgrade: number, because } => {
                    upgrade = Some(number);
                    if self.no_wait {
                        if !self.json && because.is_none() {
                            screen.line(&format!("upgrade {number} starts"));
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
                        screen.clear();
                        let look = places(&place);
                        let view = super::contact::stderr_view();
                        super::say(&render::failure(event, &look, &view));
                    }
                    return Ok(until_closed(&ear, &mut connection));
                }
                Event::Refused { reason } => {
                    return Err(Trouble {
                        message: format!("the upgrade is refused: {reason}"),
                        code: FAILED,
                    });
                }
                Event::Error { reason } => {
                    return Err(Trouble::new(format!("psflip does not understand: {reason}")));
                }
                Event::Moved { upgrade: number } => {
                    upgrade = number.or(upgrade);
                    let wish = upgrade.map_or(Wish::Upgrade, |upgrade| Wish::Follow { upgrade });
                    connection = place.ask(wish)?;
                }
                _ => {}
            }
        }
    }
}

/// The upgrade has failed. Usually that is the end; where a stop request was the reason, psflip closes when it has ended.
fn until_closed(ear: &Ear, connection: &mut Connection) -> End {
    loop {
        match ear.next(connection, None) {
            Ok(Heard::Interrupted(signal)) => return End::Killed(signal),
            Ok(Heard::Closed | Heard::TimedOut) | Err(_) => return End::Exited(FAILED),
            Ok(Heard::Line(..) | Heard::Tick | Heard::Resized) => {}
        }
    }
}

/// The upgrade failed, and the old child keeps running.
const FAILED: u8 = 1;

/// What becomes of an upgrade that nobody waits for any more.
fn goes_on(upgrade: Option<u64>, promoted: bool) -> String {
    match (upgrade, promoted) {
        (_, true) => "the new generation is the service, and the old one still drains".to_owned(),
        (Some(upgrade), false) => {
            format!("upgrade {upgrade} goes on, and `psflip status --watch` shows how")
        }
        (None, false) => "whether psflip has heard of it is not known: it hasn't answered".to_owned(),
    }
}

/// A psflip has closed the connection without a last word: it was killed, or is of another version. The next one may know more.
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

/// Where more is to be read about a failed upgrade.
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
    pid.and_then(where_to_look).into_iter().chain(["psflip status: the last upgrades".to_owned()]).collect()
}
