//! A client of psflip's control socket, which knows no more of it than docs/control.md says.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::TIMEOUT;

/// One connection, and so one request.
#[derive(Debug)]
pub struct Asking {
    reader: BufReader<UnixStream>,
    request: String,
}

impl Asking {
    /// Connects and sends a request: one line, without its line break.
    ///
    /// # Panics
    /// If nobody listens there.
    #[must_use]
    #[track_caller]
    pub fn ask(socket: &Path, request: impl Into<String>) -> Self {
        let request = request.into();
        let mut asking = Self::connect(socket);
        asking.send(format!("{request}\n").as_bytes());
        Self { request, ..asking }
    }

    /// Connects and says nothing.
    ///
    /// # Panics
    /// If nobody listens there.
    #[must_use]
    #[track_caller]
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket)
            .unwrap_or_else(|error| panic!("can't connect to {}: {error}", socket.display()));
        stream.set_read_timeout(Some(3 * TIMEOUT)).expect("a socket takes a timeout");
        Self { reader: BufReader::new(stream), request: "nothing".to_owned() }
    }

    /// Sends bytes as they are. That the other side doesn't want them any more is no failure.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.reader.get_mut().write_all(bytes);
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        let _ = self.reader.get_mut().shutdown(Shutdown::Write);
    }

    /// The next line of the answer; `None`: psflip has closed the connection.
    ///
    /// # Panics
    /// If nothing comes for half a minute, or no JSON.
    #[track_caller]
    pub fn next_event(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => match serde_json::from_str(&line) {
                Ok(event) => Some(event),
                Err(error) => panic!("the answer to {} is no JSON: {error}: {line:?}", self.request),
            },
            // It was closed with something of ours unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer to {}: {error}", self.request),
        }
    }

    /// Reads until this event has come, and returns it.
    ///
    /// # Panics
    /// If the connection is closed before.
    #[track_caller]
    pub fn wait_event(&mut self, name: &str) -> Value {
        let mut others = Vec::new();
        while let Some(event) = self.next_event() {
            if event["event"] == name {
                return event;
            }
            others.push(event.to_string());
        }
        panic!("{} was not answered by `{name}`, but by:\n{}", self.request, others.join("\n"));
    }

    /// Reads until one of these events has come, and returns all that did; what comes last is none of them if psflip has closed
    /// the connection before.
    #[track_caller]
    pub fn until(&mut self, names: &[&str]) -> Vec<Value> {
        let mut events = Vec::new();
        while let Some(event) = self.next_event() {
            let is_last = names.iter().any(|name| event["event"] == *name);
            events.push(event);
            if is_last {
                break;
            }
        }
        events
    }

    /// Everything until psflip closes the connection.
    #[track_caller]
    pub fn rest(mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.next_event()).collect()
    }
}

/// How things are, as the active generation says it.
///
/// # Panics
/// If nobody answers.
#[must_use]
#[track_caller]
pub fn status(socket: &Path) -> Value {
    loop {
        let mut asking = Asking::ask(socket, r#"{"psflip":1,"request":"status"}"#);
        let event = asking.next_event().unwrap_or_else(|| panic!("no status from {}", socket.display()));
        match event["event"].as_str() {
            Some("status") => return event["status"].clone(),
            Some("moved") => {} // it was asked in the moment of a promotion
            _ => panic!("no status but {event}"),
        }
    }
}
