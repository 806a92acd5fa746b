//! A client of psflip's control socket, written from docs/control.md alone.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use super::TIMEOUT;

/// One connection to the control socket, for one request.
#[derive(Debug)]
pub struct Asking {
    reader: BufReader<UnixStream>,
    request: String,
}

impl Asking {
    /// Connects and sends a request: one line, without its line break.
    ///
    /// # Panics
    /// If nothing listens on `socket`.
    #[must_use]
    #[track_caller]
    pub fn ask(socket: &Path, request: impl Into<String>) -> Self {
        let request = request.into();
        let mut asking = Self::connect(socket);
        asking.send(format!("{request}\n").as_bytes());
        Self { request, ..asking }
    }

    /// Connects and sends nothing.
    ///
    /// # Panics
    /// If nothing listens on `socket`.
    #[must_use]
    #[track_caller]
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket)
            .unwrap_or_else(|error| panic!("can't connect to {}: {error}", socket.display()));
        stream.set_read_timeout(Some(3 * TIMEOUT)).expect("a socket takes a timeout");
        Self { reader: BufReader::new(stream), request: "nothing".to_owned() }
    }

    /// Sends bytes as they are. An error is ignored, since psflip may have closed the connection.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.reader.get_mut().write_all(bytes);
    }

    /// Closes the sending direction.
    pub fn finish(&mut self) {
        let _ = self.reader.get_mut().shutdown(Shutdown::Write);
    }

    /// The next line of the answer; `None` once psflip has closed the connection.
    ///
    /// # Panics
    /// If nothing arrives for 30 seconds, or the line is not JSON.
    #[track_caller]
    pub fn next_event(&mut self) -> Option<Value> {
        let mut line = String::new();
        match self.reader.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => match serde_json::from_str(&line) {
                Ok(event) => Some(event),
                Err(error) => panic!("the answer to {} is no JSON: {error}: {line:?}", self.request),
            },
            // psflip closed the connection before it had read everything that we sent.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no answer to {}: {error}", self.request),
        }
    }

    /// Reads until the event `name` arrives, and returns it.
    ///
    /// # Panics
    /// If psflip closes the connection first.
    #[track_caller]
    pub fn wait_event(&mut self, name: &str) -> Value {
        let mut others = Vec::new();
        while let Some(event) = self.next_event() {
            if event["event"] == name {
                return event;
            }
            others.push(event.to_string());
        }
        panic!("{} was answered by another server than `{name}`:\n{}", self.request, others.join("\n"));
    }

    /// Reads until one of these events arrives, and returns all events so far. If psflip closes the
    /// connection first, the last event is none of `names`.
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

    /// Reads all events until psflip closes the connection.
    #[track_caller]
    pub fn rest(mut self) -> Vec<Value> {
        std::iter::from_fn(|| self.next_event()).collect()
    }
}

/// The status, as the active generation reports it.
///
/// # Panics
/// If there is no answer.
#[must_use]
#[track_caller]
pub fn status(socket: &Path) -> Value {
    loop {
        let mut asking = Asking::ask(socket, r#"{"psflip":1,"request":"status"}"#);
        let event = asking.next_event().unwrap_or_else(|| panic!("no status from {}", socket.display()));
        match event["event"].as_str() {
            Some("status") => return event["status"].clone(),
            Some("moved") => {} // the request arrived during a promotion
            _ => panic!("no status but {event}"),
        }
    }
}
