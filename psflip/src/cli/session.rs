//! The common part of `psflip upgrade` and `psflip stop`: send a request, show what psflip reports, and wait
//! for the result.

use std::time::Duration;

use super::contact::{Ear, Heard, Place, Screen, Trouble, Which};
use super::render::Progress;
use crate::control::client::Connection;
use crate::control::protocol::{Event, Wish};
use crate::end::End;
use crate::exit;

/// How often the status line is updated while no event arrives.
const TICK: Duration = Duration::from_millis(200);

/// A request and its answers.
pub(super) struct Session {
    pub(super) place: Place,
    pub(super) screen: Screen,
    pub(super) ear: Ear,
    pub(super) connection: Connection,
    progress: Progress,
    /// Print psflip's JSON lines instead of text.
    json: bool,
    timeout: Option<Duration>,
}

/// What the command must react to.
pub(super) enum Turn {
    /// psflip sent this event, and it was shown.
    Said(Event),
    /// psflip closed the connection.
    Closed,
    /// The user interrupted the command.
    Over(End),
}

impl Session {
    /// Sends the request. `timeout` is for the whole command.
    pub(super) fn begin(
        which: &Which,
        wish: Wish,
        timeout: Option<Duration>,
        json: bool,
    ) -> Result<Self, Trouble> {
        let place = which.place()?;
        let ear = Ear::new(timeout)?;
        let connection = place.ask(wish)?;
        Ok(Self {
            place,
            screen: Screen::new(),
            ear,
            connection,
            progress: Progress::default(),
            json,
            timeout,
        })
    }

    /// Waits for the next event and shows it. `otherwise` describes the state of the request if the command
    /// stops waiting.
    ///
    /// # Errors
    /// The timeout has passed; psflip does not understand the request; its answer can't be parsed.
    pub(super) fn next(&mut self, otherwise: impl Fn() -> String) -> Result<Turn, Trouble> {
        let live = self.screen.is_live && !self.json;
        loop {
            if live {
                self.screen.live(&self.progress.live(&self.screen.view()));
            }
            match self.ear.next(&mut self.connection, live.then_some(TICK))? {
                Heard::Line(line, event) => {
                    if self.json {
                        self.screen.line(&line);
                    } else {
                        for line in self.progress.on(&event, live, &self.screen.view()) {
                            self.screen.line(&line);
                        }
                    }
                    return match *event {
                        Event::Error { reason } => {
                            Err(Trouble::new(format!("psflip refused the request: {reason}")))
                        }
                        event => Ok(Turn::Said(event)),
                    };
                }
                Heard::Tick | Heard::Resized => {}
                Heard::Interrupted(signal) => {
                    self.screen.clear();
                    super::complain(&format!("no longer waiting ({signal}); {}", otherwise()));
                    return Ok(Turn::Over(End::Killed(signal)));
                }
                Heard::TimedOut => {
                    let waited = self.timeout.unwrap_or_default();
                    let message = format!("waited {waited:?}; {}", otherwise());
                    return Err(Trouble { message, code: exit::NOT_HEALTHY });
                }
                Heard::Closed => return Ok(Turn::Closed),
            }
        }
    }

    /// Sends a request on a new connection, to the psflip that now answers.
    pub(super) fn ask(&mut self, wish: Wish) -> Result<(), Trouble> {
        self.connection = self.place.ask(wish)?;
        Ok(())
    }

    /// Shows a permanent line, unless the output is JSON.
    pub(super) fn say(&mut self, line: &str) {
        if !self.json {
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
