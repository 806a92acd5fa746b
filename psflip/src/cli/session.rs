//! The common part of `psflip upgrade` and `psflip stop`: send a request, show what psflip reports, and wait
//! for the result.

use std::time::{Duration, Instant};

use super::render::{self, Progress, View};
use super::screen::Screen;
use super::target::{ServiceAddress, ServiceArgs, Trouble};
use super::wait::{Waiter, Wakeup};
use crate::control::client::Connection;
use crate::control::protocol::{ControlRequest, Event, Status};
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::text;

/// How often the status line is updated while no event arrives.
const TICK: Duration = Duration::from_millis(200);

/// The state of the service, for details of a message. `None` if psflip does not answer soon.
pub(super) fn status(address: &ServiceAddress) -> Option<Box<Status>> {
    let waiter = Waiter::new(Some(Duration::from_secs(1))).ok()?;
    let mut connection = address.request(ControlRequest::Status).ok()?;
    match waiter.next(&mut connection, None) {
        Ok(Wakeup::Line(_, event)) => match *event {
            Event::Status { status } => Some(status),
            _ => None,
        },
        _ => None,
    }
}

/// A request and its answers.
pub(super) struct Session {
    pub(super) address: ServiceAddress,
    pub(super) screen: Screen,
    pub(super) waiter: Waiter,
    pub(super) connection: Connection,
    progress: Progress,
    /// Print psflip's JSON lines instead of text.
    json: bool,
    /// Print warnings only.
    pub(super) is_quiet: bool,
    /// Print a line for every step, even on a terminal or for one of several services.
    pub(super) is_plain: bool,
    /// One of several services: its name, and what its lines begin with.
    pub(super) label: Option<Label>,
    timeout: Option<Duration>,
    /// Why the upgrade failed.
    pub(super) failure: Option<String>,
    /// When the request was sent, until psflip has answered it.
    unanswered: Option<Instant>,
}

/// How long psflip may take to answer a request, without a `--timeout`: it does so at once, even if it only
/// queues the request. One that is stopped would let the command wait forever.
const ANSWER: Duration = Duration::from_secs(10);

/// What distinguishes the lines of one of several services.
#[derive(Clone, Debug)]
pub(super) struct Label {
    pub(super) name: String,
    /// Such as `[2/3] /srv/b.toml`.
    pub(super) head: String,
}

impl Label {
    /// psflip's JSON object with the service's name. The psflip may be another user's, so its object is
    /// written anew: it has one such key, and no characters that a terminal does not show as themselves.
    fn json(&self, line: &str) -> String {
        let mut event: serde_json::Map<_, _> = serde_json::from_str(line).unwrap_or_default();
        event.insert("service".to_owned(), self.name.as_str().into());
        text::json(&serde_json::Value::Object(event).to_string())
    }
}

/// What the command must react to.
pub(super) enum Turn {
    /// psflip sent this event, and it was shown.
    Event(Event),
    /// psflip closed the connection.
    Closed,
    /// The user interrupted the command.
    Over(ExitStatus),
}

/// The exit code if psflip does not take a request in time (contract O9).
fn late(timeout: Option<Duration>) -> u8 {
    if timeout.is_some() { exit::NOT_HEALTHY } else { exit::FAILURE }
}

impl Session {
    /// Sends the request. `timeout` is for the whole command.
    pub(super) fn begin(
        which: &ServiceArgs,
        request: ControlRequest,
        timeout: Option<Duration>,
        json: bool,
    ) -> Result<Self, Trouble> {
        Self::at(which.locate()?, request, timeout, json)
    }

    /// As [`Session::begin`], with the service at this address.
    pub(super) fn at(
        address: ServiceAddress,
        request: ControlRequest,
        timeout: Option<Duration>,
        json: bool,
    ) -> Result<Self, Trouble> {
        let waiter = Waiter::new(timeout)?;
        let connection = address.request_within(request, waiter.left(), late(timeout))?;
        Ok(Self {
            address,
            screen: Screen::new(),
            waiter,
            connection,
            progress: Progress::default(),
            json,
            is_quiet: false,
            is_plain: false,
            label: None,
            timeout,
            failure: None,
            unanswered: Some(Instant::now()),
        })
    }

    /// Waits for psflip, up to `tick`. `otherwise`: what the user can expect of a request without an answer.
    ///
    /// # Errors
    /// psflip has not answered in time; its answer can't be parsed.
    pub(super) fn wait(&mut self, tick: Option<Duration>, otherwise: &str) -> Result<Wakeup, Trouble> {
        let by = self.unanswered.filter(|_| self.timeout.is_none()).map(|since| since + ANSWER);
        // With nothing left, what has arrived still counts: this process may have been suspended.
        let left = by.map(|by| by.saturating_duration_since(Instant::now()));
        let wakeup = self.waiter.next(&mut self.connection, tick.into_iter().chain(left).min())?;
        let silent = match (&wakeup, self.timeout) {
            (Wakeup::Tick, _) if left == Some(Duration::ZERO) => Some((ANSWER, exit::FAILURE)),
            (Wakeup::TimedOut, Some(timeout)) if self.unanswered.is_some() => {
                Some((timeout, exit::NOT_HEALTHY))
            }
            _ => None,
        };
        if let Some((limit, code)) = silent {
            self.screen.clear();
            let message = format!("{}; {otherwise}", self.address.silent(limit).message);
            return Err(Trouble { message, code });
        }
        if matches!(wakeup, Wakeup::Line(..)) {
            self.unanswered = None;
        }
        Ok(wakeup)
    }

    /// Waits for the next event and shows it. `otherwise` describes the state of the request if the command
    /// stops waiting.
    ///
    /// # Errors
    /// The timeout has passed; psflip does not understand the request; its answer can't be parsed.
    pub(super) fn next(&mut self, otherwise: impl Fn() -> String) -> Result<Turn, Trouble> {
        let live = self.is_live();
        loop {
            if live {
                let line = self.labelled(&self.progress.live(&self.screen.view()));
                self.show_live(&line);
            }
            match self.wait(live.then_some(TICK), "it may still carry out the request")? {
                Wakeup::Line(line, event) => {
                    if self.json {
                        let line = self.label.as_ref().map_or(line.clone(), |label| label.json(&line));
                        self.screen.line(&line);
                    } else if !self.is_quiet || matches!(*event, Event::Warning { .. }) {
                        // Of several services, only the results stay on the screen.
                        let brief = live || self.label.is_some() && !self.is_plain;
                        let view = self.screen.view();
                        let width = if self.label.is_some() { render::UNLIMITED } else { view.width };
                        for line in self.progress.on(&event, brief, &View { width, ..view }) {
                            self.screen.line(&self.labelled(&line));
                        }
                    }
                    return match *event {
                        Event::Error { reason } => Err(Trouble::refused(&reason)),
                        event => Ok(Turn::Event(event)),
                    };
                }
                Wakeup::Tick | Wakeup::Resized => {}
                Wakeup::Interrupted(signal) => {
                    self.screen.clear();
                    let what = format!("no longer waiting ({signal}); {}", otherwise());
                    super::complain(&self.labelled(&what));
                    return Ok(Turn::Over(ExitStatus::Killed(signal)));
                }
                Wakeup::TimedOut => {
                    let waited = self.timeout.unwrap_or_default();
                    let message = format!("waited {waited:?}; {}", otherwise());
                    return Err(Trouble { message, code: exit::NOT_HEALTHY });
                }
                Wakeup::Closed => return Ok(Turn::Closed),
            }
        }
    }

    /// Sends a request on a new connection, to the psflip that now answers.
    pub(super) fn request(&mut self, request: ControlRequest) -> Result<(), Trouble> {
        let connection = self.address.request_within(request, self.waiter.left(), late(self.timeout))?;
        self.follow(connection);
        Ok(())
    }

    /// Goes on with a connection on which a request was sent.
    pub(super) fn follow(&mut self, connection: Connection) {
        (self.connection, self.unanswered) = (connection, Some(Instant::now()));
    }

    /// One of several services: prints that it begins, where no line shows it.
    pub(super) fn begins(&mut self) {
        if self.label.is_some() && !self.is_live() {
            let line = self.labelled("starting the upgrade");
            self.print(&line);
        }
    }

    /// Whether the current step is shown on a line that is overwritten.
    fn is_live(&self) -> bool {
        self.screen.is_live && !self.json && !self.is_quiet && !self.is_plain
    }

    /// Shows a line that the next one replaces, where that is possible.
    pub(super) fn show_live(&mut self, line: &str) {
        if self.is_live() {
            let width = self.screen.view().width;
            self.screen.live(&render::cut(line, width.saturating_sub(1)));
        }
    }

    /// Prints an event of the command's own, if the output is JSON.
    pub(super) fn print_json(&mut self, event: &serde_json::Value) {
        if self.json {
            let line = event.to_string();
            let line = self.label.as_ref().map_or(line.clone(), |label| label.json(&line));
            self.screen.line(&line);
        }
    }

    /// The line with the service that it is about, if there are several.
    pub(super) fn labelled(&self, line: &str) -> String {
        self.label.as_ref().map_or(line.to_owned(), |label| format!("{}: {line}", label.head))
    }

    /// Shows a permanent line, unless the output is JSON.
    pub(super) fn print(&mut self, line: &str) {
        if !self.json && !self.is_quiet {
            self.screen.line(line);
        }
    }
}

/// Removes the status line before the result is printed.
impl Drop for Session {
    fn drop(&mut self) {
        self.screen.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_the_name_that_the_client_gave_to_its_service() {
        // Contract: O6
        let label = Label { name: "b.service".to_owned(), head: String::new() };
        let line = r#"{"event":"warning","service":"a.service","reason":"x\u202ey","service":"c"}"#;
        let wanted = r#"{"event":"warning","reason":"x\u202ey","service":"b.service"}"#;
        assert_eq!(label.json(line), wanted);
    }
}
