//! What `psflip upgrade` and `psflip stop` have in common: they ask, show what psflip says, and wait for what ends the waiting.

use std::time::Duration;

use super::contact::{Ear, Heard, Place, Screen, Trouble, Which};
use super::render::Progress;
use crate::control::client::Connection;
use crate::control::protocol::{Event, Wish};
use crate::end::End;
use crate::exit;

/// How often the line that stands for now is written anew, while nothing happens.
const TICK: Duration = Duration::from_millis(200);

/// A request, and what is heard of it.
pub(super) struct Talk {
    pub(super) place: Place,
    pub(super) screen: Screen,
    pub(super) ear: Ear,
    pub(super) connection: Connection,
    progress: Progress,
    /// The words of psflip itself, instead of lines for people.
    json: bool,
    timeout: Option<Duration>,
}

/// What is to be thought about.
pub(super) enum Turn {
    /// psflip has said this, and it is shown.
    Said(Event),
    /// psflip has closed the connection.
    Closed,
    /// The person who asked has had enough.
    Over(End),
}

impl Talk {
    /// Asks. `timeout`: how long all of it may take.
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

    /// Waits for what happens next, and shows it. `otherwise`: what becomes of the request when nobody waits any more.
    ///
    /// # Errors
    /// The time is up; psflip does not understand the request; what it says can't be understood.
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

    /// Asks again, whoever answers there now.
    pub(super) fn ask(&mut self, wish: Wish) -> Result<(), Trouble> {
        self.connection = self.place.ask(wish)?;
        Ok(())
    }

    /// Shows a line that stays, where lines are for people.
    pub(super) fn say(&mut self, line: &str) {
        if !self.json {
            self.screen.line(line);
        }
    }
}

/// The line that stands for now is over with the talk, before anything is said about its end.
impl Drop for Talk {
    fn drop(&mut self) {
        self.screen.clear();
    }
}
