//! `psflip list`: all services on this host that this user may ask.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::discover::{Found, services};
use super::render;
use super::screen::Screen;
use crate::config;
use crate::control::client::{Connection, Next};
use crate::control::protocol::{ControlRequest, Event, Status};
use crate::exit;
use crate::exit_status::ExitStatus;

/// `psflip list`.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Print a JSON array: for each service its socket, and the status object of `psflip status --json`
    #[arg(long)]
    json: bool,
    /// How long each psflip may take to answer
    #[arg(long, value_name = "DURATION", value_parser = config::duration, default_value = "2s")]
    timeout: Duration,
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  psflip list
  psflip list --json | jq -r '.[].status.config.path'

Finds every psflip with a control socket, also in containers, whose descriptors this user may see in /proc:
root sees all, other users see their own.

Exit codes:
    0  each psflip that was found has answered, or none was found
  125  one did not answer";

/// A service, and what its psflip answered.
pub(super) struct Answered {
    pub(super) found: Found,
    /// Its status as JSON and decoded, or why there is none.
    pub(super) status: Result<(String, Box<Status>), String>,
}

/// Asks every service for its status. `timeout` is for each of them.
pub(super) fn ask_all(timeout: Duration) -> Vec<Answered> {
    let mut answers = Vec::new();
    for found in services() {
        let status = ask(&found, timeout);
        // Otherwise it has exited in the meantime.
        if status.is_ok() || found.socket.exists() {
            answers.push(Answered { found, status });
        }
    }
    answers
}

/// Asks the psflip with this control socket for its status. `named`: how to call the service if it is down.
pub(super) fn ask_one(socket: &Path, named: PathBuf, timeout: Duration) -> Answered {
    let found = Found { named, socket: socket.to_owned(), pid: 0 };
    let status = ask(&found, timeout);
    Answered { found, status }
}

fn ask(found: &Found, timeout: Duration) -> Result<(String, Box<Status>), String> {
    let deadline = Instant::now() + timeout;
    let mut connection =
        Connection::open(&found.socket, ControlRequest::Status).map_err(|why| why.to_string())?;
    loop {
        match connection.receive().map_err(|error| format!("can't understand psflip: {error}"))? {
            Next::Line(line, event) => match *event {
                Event::Status { status } => return Ok((line, status)),
                Event::Refused { reason } | Event::Error { reason } => return Err(reason),
                _ => {}
            },
            Next::Closed => return Err("it closed the connection without an answer".to_owned()),
            Next::Nothing => {
                let left = deadline.saturating_duration_since(Instant::now());
                let wait = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
                if left.is_zero() {
                    return Err("it has not answered in time".to_owned());
                }
                match poll(&mut [PollFd::new(connection.as_fd(), PollFlags::POLLIN)], wait) {
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(error) => return Err(format!("can't wait: {error}")),
                }
            }
        }
    }
}

/// From now on signals have their usual effect: psflip's start blocked all of them (see `sys/early.rs`).
pub(super) fn restore_signals() {
    // It can't fail: the mask is valid.
    let _ = crate::sys::signal::set_mask(crate::sys::early::inherited_signals().mask);
}

impl List {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitStatus {
        restore_signals();
        let answers = ask_all(self.timeout);
        let mut screen = Screen::new();
        if self.json {
            screen.line(&json(&answers).to_string());
        } else if answers.is_empty() {
            super::complain(
                "no psflip with a control socket was found among the processes that this user may see",
            );
        } else {
            screen.line(render::list(&answers, &screen.view()).trim_end());
        }
        let all = answers.iter().all(|answered| answered.status.is_ok());
        ExitStatus::Exited(if all { exit::OK } else { exit::FAILURE })
    }
}

fn json(answers: &[Answered]) -> serde_json::Value {
    let one = |answered: &Answered| {
        let Found { named, socket, pid } = &answered.found;
        let mut value = serde_json::json!({
            "socket": crate::text::lossy(named),
            "reached_by": crate::text::lossy(socket),
            "pid": pid,
        });
        match &answered.status {
            Ok((line, _)) => {
                let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
                value["status"] = event.get("status").cloned().unwrap_or_default();
            }
            Err(reason) => value["error"] = reason.clone().into(),
        }
        value
    };
    answers.iter().map(one).collect()
}
