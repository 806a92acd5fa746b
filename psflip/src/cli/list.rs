//! `psflip list`: all services on this host that this user may ask.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use clap::Args;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::discover::{Found, services};
use super::files::{self, Files};
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
    /// How long the psflips may take to answer
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
    /// Another user than the process's listens on the socket, so it is not that user's service.
    pub(super) is_foreign: bool,
}

/// Asks all services for their status at the same time. Takes no longer than `timeout`, whatever they do.
pub(super) fn ask(services: Vec<Found>, timeout: Duration) -> Vec<Answered> {
    let deadline = Instant::now() + timeout;
    let mut asked: Vec<(Found, Asked)> = services
        .into_iter()
        .map(|found| {
            let asked = Asked::begin(&found, true);
            (found, asked)
        })
        .collect();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        for (found, one) in &mut asked {
            one.proceed(found, left.is_zero());
        }
        let waits: Vec<BorrowedFd<'_>> = asked.iter().filter_map(|(_, one)| one.fd()).collect();
        if waits.is_empty() {
            break;
        }
        let mut fds: Vec<PollFd<'_>> = waits.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        let wait = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
        if let Err(errno) = poll(&mut fds, wait)
            && errno != nix::errno::Errno::EINTR
        {
            break;
        }
    }
    let done = asked.into_iter().map(|(found, one)| match one {
        Asked::Done(status) => Answered { found, status, is_foreign: false },
        Asked::Failed { reason, is_foreign } => Answered { found, status: Err(reason), is_foreign },
        Asked::Waits { .. } => {
            Answered { found, status: Err("it could not be waited for".to_owned()), is_foreign: false }
        }
    });
    // One without a socket has exited in the meantime, unless it was named.
    let is_there = |one: &Answered| one.status.is_ok() || one.found.pid == 0 || one.found.socket.exists();
    done.filter(is_there).collect()
}

/// A service that was asked.
enum Asked {
    Waits {
        connection: Connection,
        may_repeat: bool,
    },
    Done(Result<(String, Box<Status>), String>),
    /// There is no connection.
    Failed {
        reason: String,
        is_foreign: bool,
    },
}

impl Asked {
    /// Sends the request. `may_repeat`: once more, if psflip hands over to its successor meanwhile.
    fn begin(found: &Found, may_repeat: bool) -> Self {
        match Connection::open_at_once(&found.socket, ControlRequest::Status, found.owner) {
            Ok(connection) => Self::Waits { connection, may_repeat },
            Err(why) => {
                let is_foreign = why.is_stranger() || is_foreign(found);
                Self::Failed { reason: why.reason(), is_foreign }
            }
        }
    }

    /// Reads at most one line, so that a psflip that sends line after line delays no other one.
    fn proceed(&mut self, found: &Found, is_late: bool) {
        let Self::Waits { connection, may_repeat } = self else { return };
        if is_late {
            *self = Self::Done(Err("it has not answered in time".to_owned()));
            return;
        }
        let done = match connection.receive() {
            Err(error) => Err(format!("can't understand psflip: {error}")),
            Ok(Next::Closed) if *may_repeat => return *self = Self::begin(found, false),
            Ok(Next::Closed) => Err("it closed the connection without an answer".to_owned()),
            Ok(Next::Line(line, event)) => match *event {
                Event::Status { status } => Ok((line, status)),
                Event::Moved { .. } if *may_repeat => return *self = Self::begin(found, false),
                Event::Refused { reason } | Event::Error { reason } => Err(reason),
                _ => Err("it answered something else".to_owned()),
            },
            Ok(Next::Nothing) => return,
        };
        *self = Self::Done(done);
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Waits { connection, .. } => Some(connection.as_fd()),
            Self::Done(_) | Self::Failed { .. } => None,
        }
    }
}

/// Whether the socket's file belongs to another user than the process. Such a socket was inherited, and the
/// kernel does not name its user while its queue of clients is full.
fn is_foreign(found: &Found) -> bool {
    let file = std::fs::metadata(&found.socket).map(|file| file.uid());
    found.owner.is_some_and(|owner| file.is_ok_and(|uid| uid != owner))
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
        let answers = ask(services(), self.timeout);
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
    let mut look = Files::default();
    let one = |answered: &Answered| {
        let Found { named, pid, cgroup, .. } = &answered.found;
        let mut value = serde_json::json!({
            "socket": crate::text::lossy(named),
            "pid": pid,
            "cgroup": cgroup,
        });
        match &answered.status {
            Ok((line, status)) => {
                let mut status = status.clone();
                look.compare(&mut status);
                value["status"] = files::object(line, &status);
            }
            Err(reason) => value["error"] = reason.clone().into(),
        }
        value
    };
    answers.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// What `ask` makes of a psflip that gives these answers, one on each connection, and closes it.
    fn asked(answers: &[&str]) -> Result<u64, String> {
        let room = tempfile::tempdir().unwrap();
        let socket = room.path().join("psflip.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let server = std::thread::spawn(move || {
            for answer in answers {
                let (mut client, _) = listener.accept().unwrap();
                BufReader::new(&client).read_line(&mut String::new()).unwrap();
                client.write_all(answer.as_bytes()).unwrap();
            }
        });
        let answered = ask(vec![Found::at(&socket)], Duration::from_secs(10)).pop().unwrap();
        server.join().unwrap();
        answered.status.map(|(_, status)| status.generation)
    }

    #[test]
    fn a_psflip_that_hands_over_meanwhile_is_asked_once_more() {
        // Contract: O5
        let moved = "{\"event\":\"moved\"}\n";
        let status = Status { generation: 3, ..Status::default() };
        let status = serde_json::to_string(&Event::Status { status: Box::new(status) }).unwrap() + "\n";
        assert_eq!(asked(&[&status]), Ok(3));
        assert_eq!(asked(&[moved, &status]), Ok(3));
        assert_eq!(asked(&["", &status]), Ok(3));
        assert_eq!(asked(&[moved, moved]), Err("it answered something else".to_owned()));
        assert_eq!(asked(&["", ""]), Err("it closed the connection without an answer".to_owned()));
    }
}
