//! `psflip upgrade`: requests an upgrade, shows its steps, and waits for the result.

use std::time::Duration;

use clap::{Args, ValueEnum};

use super::render;
use super::session::{self, Label, Session, Turn};
use super::several::Several;
use super::strict::{self, HookEnd};
use super::target::{ServiceAddress, ServiceArgs, Trouble, where_to_look};
use super::wait::Wakeup;
use crate::config;
use crate::control::client::Connection;
use crate::control::protocol::{ControlRequest, Event};
use crate::exit;
use crate::exit_status::ExitStatus;

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Until {
    /// The new generation has the traffic: it is active, or bakes (`upgrade.bake`)
    Traffic,
    /// The new generation is active: its bake is over, if there is one
    #[value(alias = "promoted")]
    Baked,
    /// The old generation has exited, too
    Drained,
}

/// `psflip upgrade`.
#[derive(Debug, Args)]
pub(super) struct Upgrade {
    #[command(flatten)]
    which: ServiceArgs,
    #[command(flatten)]
    several: Several,
    /// What to wait for [default: traffic; baked, with several services]
    #[arg(long, value_name = "WHAT", value_enum, conflicts_with = "no_wait")]
    wait: Option<Until>,
    /// If a new generation bakes, end its bake first: it becomes the service. Not with --all or wildcards
    #[arg(long, conflicts_with = "all")]
    keep: bool,
    /// Kill an old generation that still drains, instead of waiting for it: its child gets SIGKILL
    ///
    /// With `--no-wait` this does not hold for a generation that drains only after a running upgrade.
    #[arg(long)]
    end_draining: bool,
    /// Request the upgrade and return at once
    #[arg(long)]
    no_wait: bool,
    /// Stop waiting after this time, such as `90s` or `5m`; the upgrade goes on. With several services, it
    /// is for each
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    timeout: Option<Duration>,
    /// As `--wait drained`, and until `hooks.promoted` has exited; exit with 4 if a process of the old
    /// generation had to be killed, or the hook failed
    #[arg(long, conflicts_with = "no_wait")]
    strict: bool,
    /// Print warnings and failures only
    #[arg(short, long, conflicts_with_all = ["json", "progress"])]
    quiet: bool,
    /// How to show the progress
    #[arg(long, value_name = "HOW", value_enum, default_value = "auto", conflicts_with = "json")]
    progress: How,
    /// The same as `--progress json`
    #[arg(long)]
    json: bool,
}

/// How to show the progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum How {
    /// On a terminal one line that is overwritten, else a line for each step; the results only, with several
    /// services
    Auto,
    /// A line for each step
    Plain,
    /// Events as JSON, one object per line (see docs/control.md)
    Json,
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  psflip upgrade -c app.toml                    # shows each step, fails if the upgrade fails
  psflip upgrade -c app.toml --wait baked       # until the bake is over (`upgrade.bake`)
  psflip upgrade -c app.toml --wait drained     # until the old child has exited, too
  psflip upgrade -c app.toml --timeout 5m       # in a deployment
  psflip upgrade -c app.toml --strict --quiet   # in a script: also until the old child has exited by itself
  psflip upgrade -c app.toml --end-draining     # don't wait for slow clients of the old generation
  psflip upgrade --all --dry-run                # the names of all services of this user
  psflip upgrade --all                          # upgrades them, one after the other
  psflip upgrade 'psflip@*' '/srv/*/app.toml'   # those with such units or configurations

If an upgrade is already running or bakes, yours is queued and starts when it finishes.
--end-draining also holds for the generation that drains then, except with --no-wait.
Ctrl-C stops the waiting, not the upgrade.

With several services, --wait baked is the default, and the first upgrade that fails is the last one: the
rest is named and not upgraded, and the exit code is that of the failure. Services in containers are left out, and those of other users
unless root names their units, or the user by --user.

Exit codes:
    0  the new generation has the traffic, or what --wait names has happened
    1  the upgrade failed, and the old child keeps running; or psflip is stopping and refused it
    3  the new generation had the traffic and was rolled back; the old child keeps running
    4  with --strict: the new generation is active, but old processes had to be killed, or
       `hooks.promoted` failed, or had not exited when the next upgrade began
   78  the configuration does not say where the control socket is
  124  --timeout expired; the upgrade goes on
  125  psflip did not answer within 10s (with --timeout: 124); no service matches a PATTERN, or more
       than one without a wildcard; of several services some may be upgraded: the summary names them
  130  Ctrl-C; the upgrade goes on";

/// The most connections in a row that may close without an event.
const MOST_LOST_CONNECTIONS: u32 = 3;

impl Upgrade {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitStatus {
        if self.several.is_given() {
            return self.several.run(self);
        }
        let session = self.which.locate().and_then(|address| self.begin(address, None));
        session.and_then(|mut session| self.follow(&mut session)).unwrap_or_else(|trouble| trouble.report())
    }

    /// Whether events are printed as JSON.
    pub(super) fn prints_json(&self) -> bool {
        self.json || self.progress == How::Json
    }

    /// Whether only warnings and failures are printed.
    pub(super) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether a bake is ended first.
    pub(super) fn keeps(&self) -> bool {
        self.keep
    }

    /// What to wait for. Of several services none begins while another one bakes: that may be rolled back.
    fn until(&self) -> Until {
        let default = if self.several.is_given() { Until::Baked } else { Until::Traffic };
        if self.strict { Until::Drained } else { self.wait.unwrap_or(default) }
    }

    fn request(&self) -> ControlRequest {
        ControlRequest::Upgrade { keep: self.keep, end_draining: self.end_draining }
    }

    /// `--end-draining` holds for the generation that drains when the upgrade can start.
    fn follow_request(&self, upgrade: u64) -> ControlRequest {
        ControlRequest::Follow { upgrade, end_draining: self.end_draining }
    }

    /// Requests the upgrade of one service. `label`: if it is one of several.
    pub(super) fn begin(&self, address: ServiceAddress, label: Option<Label>) -> Result<Session, Trouble> {
        let mut session = Session::at(address, self.request(), self.timeout, self.prints_json())?;
        session.is_quiet = self.quiet;
        session.is_plain = self.progress == How::Plain;
        session.label = label;
        session.begins();
        Ok(session)
    }

    /// Shows what becomes of the upgrade, and waits for what `--wait` names.
    pub(super) fn follow(&self, session: &mut Session) -> Result<ExitStatus, Trouble> {
        let wait = self.until();
        let (mut upgrade, mut promoted, mut lost) = (None, false, 0);
        let mut queued = false;
        loop {
            let event = match session.next(|| goes_on(upgrade, queued, promoted))? {
                Turn::Event(event) => event,
                Turn::Over(end) => return Ok(end),
                Turn::Closed => {
                    lost += 1;
                    let connection = again(
                        &session.address,
                        |upgrade| self.follow_request(upgrade),
                        upgrade,
                        promoted,
                        lost,
                    )?;
                    session.follow(connection);
                    continue;
                }
            };
            lost = 0;
            match event {
                Event::Accepted { upgrade: number, because } => {
                    upgrade = Some(number);
                    queued = because.is_some();
                    if self.no_wait {
                        if because.is_none() {
                            session.print(&format!("upgrade {number} starts"));
                        }
                        return Ok(ExitStatus::Exited(exit::OK));
                    }
                }
                Event::Step { .. } => queued = false,
                Event::Baking { .. } if wait == Until::Traffic => {
                    return Ok(ExitStatus::Exited(exit::OK));
                }
                Event::Promoted { .. } => {
                    promoted = true;
                    if wait != Until::Drained {
                        return Ok(ExitStatus::Exited(exit::OK));
                    }
                }
                Event::Drained { upgrade, killed } => {
                    if !self.strict {
                        return Ok(ExitStatus::Exited(exit::OK));
                    }
                    return self.judge(session, upgrade, killed);
                }
                ref event @ Event::Failed { rolled_back, ref reason, .. } => {
                    session.failure = Some(reason.clone());
                    if !self.prints_json() {
                        session.screen.clear();
                        let look = places(&session.address);
                        let view = super::screen::stderr_view();
                        super::print_text(&session.labelled(&render::failure(event, &look, &view)));
                    }
                    return Ok(until_closed(session, if rolled_back { ROLLED_BACK } else { FAILED }));
                }
                Event::Refused { reason } => {
                    let message = format!("the upgrade is refused: {reason}");
                    return Err(Trouble { message, code: FAILED });
                }
                Event::Moved { upgrade: number } => {
                    upgrade = number.or(upgrade);
                    session
                        .request(upgrade.map_or(self.request(), |upgrade| self.follow_request(upgrade)))?;
                }
                _ => {}
            }
        }
    }
}

impl Upgrade {
    /// The exit status of a strict upgrade, when the old generation is gone. `killed`: whether some of its
    /// processes had to be killed.
    fn judge(&self, session: &mut Session, upgrade: u64, killed: bool) -> Result<ExitStatus, Trouble> {
        if killed && self.quiet {
            let what = "the new generation is active, but old processes had to be killed";
            super::complain(&session.labelled(what));
        }
        let failure = match strict::await_hook(session, upgrade)? {
            HookEnd::Interrupted(end) => return Ok(end),
            HookEnd::Succeeded => None,
            HookEnd::Failed(reason) => Some(reason),
        };
        if let Some(reason) = &failure {
            session.print_json(&serde_json::json!({
                "event": "hook", "upgrade": upgrade, "hook": "promoted", "result": "failed", "reason": reason,
            }));
            if !self.prints_json() {
                session.screen.clear();
                let what = format!("the new generation is active, but `hooks.promoted` failed: {reason}");
                super::complain(&session.labelled(&what));
            }
        }
        let is_clean = !killed && failure.is_none();
        session.failure = match failure {
            Some(reason) => Some(format!("`hooks.promoted` failed: {reason}")),
            None if killed => Some("old processes had to be killed".to_owned()),
            None => None,
        };
        Ok(ExitStatus::Exited(if is_clean { exit::OK } else { NOT_CLEAN }))
    }
}

/// The upgrade failed. If a stop request was the reason, psflip closes the connection only when it exits.
fn until_closed(session: &mut Session, code: u8) -> ExitStatus {
    loop {
        match session.waiter.next(&mut session.connection, None) {
            Ok(Wakeup::Interrupted(signal)) => return ExitStatus::Killed(signal),
            Ok(Wakeup::Closed | Wakeup::TimedOut) | Err(_) => return ExitStatus::Exited(code),
            Ok(Wakeup::Line(..) | Wakeup::Tick | Wakeup::Resized) => {}
        }
    }
}

/// The upgrade failed, and the old child keeps running.
const FAILED: u8 = 1;
/// The new generation had the traffic, and the old one has it again.
const ROLLED_BACK: u8 = 3;
/// The new generation is the service, but processes of the old one had to be killed, or a hook failed
/// (`--strict`).
const NOT_CLEAN: u8 = 4;

/// The state of an upgrade that the command stops waiting for.
fn goes_on(upgrade: Option<u64>, queued: bool, promoted: bool) -> String {
    match (upgrade, promoted) {
        (_, true) => "the new generation is active, and the old one still drains".to_owned(),
        (Some(upgrade), false) if queued => {
            format!("upgrade {upgrade} stays queued, and `psflip status --watch` shows when it starts")
        }
        (Some(upgrade), false) => {
            format!("upgrade {upgrade} goes on, and `psflip status --watch` shows how")
        }
        (None, false) => "it is not known whether psflip received it: there was no answer".to_owned(),
    }
}

/// psflip closed the connection without a result: it was killed, or is of another version. Its successor or
/// predecessor may know more.
fn again(
    address: &ServiceAddress,
    follow: impl Fn(u64) -> ControlRequest,
    upgrade: Option<u64>,
    promoted: bool,
    lost: u32,
) -> Result<Connection, Trouble> {
    let what = || match (upgrade, promoted) {
        (_, true) => {
            "the old psflip was killed while it drained; the new generation is the service".to_owned()
        }
        (Some(upgrade), false) => {
            format!("psflip has closed the connection; what became of upgrade {upgrade} is not known")
        }
        (None, false) => super::target::CLOSED.to_owned(),
    };
    match upgrade {
        Some(upgrade) if lost <= MOST_LOST_CONNECTIONS && !promoted => address
            .request(follow(upgrade))
            .map_err(|why| Trouble::new(format!("{}: {}", what(), why.message))),
        _ => Err(Trouble::new(what())),
    }
}

/// Where to read more about a failed upgrade.
fn places(address: &ServiceAddress) -> Vec<String> {
    let pid = session::status(address).map(|status| status.pid);
    let status = address.shown_if_found().map_or_else(
        || "psflip status: the recent upgrades".to_owned(),
        |socket| format!("psflip status --socket {}: the recent upgrades", socket.display()),
    );
    pid.and_then(where_to_look).into_iter().chain([status]).collect()
}
