//! `control`: any line as a request to psflip, and as one of its replies.

use std::path::Path;

use psflip::testing::control::protocol::{ControlRequest, Event, RequestLine};

use super::{Run, ensure};
use crate::Error;

pub(super) const WORDS: &[&str] = &[
    r#"{"psflip":1,"request":"status"}"#,
    r#""upgrade":7"#,
    r#""request":"follow""#,
    r#""request":"stop""#,
    r#""psflip":2"#,
    r#"{"event":"status","status":{}}"#,
    r#"{"event":"moved"}"#,
    r#""history":[{"upgrade":1,"steps":[{"step":"child","at_ms":1}]}]"#,
    r#""step":"sing""#,
    "null",
    "-1",
    "1e999",
    "[",
    "{",
    "\\ud800",
];

pub(super) fn start(_: &Path) -> Result<Run, Error> {
    Ok(Box::new(|bytes| {
        match ControlRequest::read(bytes) {
            Ok(request) => {
                let sent = RequestLine { psflip: 1, request };
                let line = serde_json::to_vec(&sent).map_err(|error| error.to_string())?;
                ensure(ControlRequest::read(&line) == Ok(request), || {
                    format!("{request:?} reads back differently")
                })?;
            }
            Err(reason) => {
                ensure(reason.len() < 2000, || format!("a reason of {} bytes", reason.len()))?;
                ensure(!reason.contains(char::is_control), || format!("unfit for a terminal: {reason:?}"))?;
            }
        }
        if let Ok(event) = serde_json::from_slice::<Event>(bytes) {
            let again = serde_json::from_slice(&event.line());
            ensure(again.as_ref().ok() == Some(&event), || format!("{event:?} reads back as {again:?}"))?;
        }
        Ok(())
    }))
}
