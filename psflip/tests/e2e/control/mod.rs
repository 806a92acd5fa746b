//! The control socket: what psflip answers, over flips, and to clients that mean it no good. docs/control.md describes it.

mod asking;
mod clients;
mod over_flips;
mod place;

use serde_json::Value;
use testkit::Psflip;
use testkit::client::control::Asking;

/// Asks for something that has no further words.
#[track_caller]
fn ask(psflip: &Psflip, request: &str) -> Asking {
    Asking::ask(&psflip.control_path(), format!(r#"{{"psflip":1,"request":"{request}"}}"#))
}

/// How things are.
#[track_caller]
fn status(psflip: &Psflip) -> Value {
    testkit::client::control::status(&psflip.control_path())
}

/// What each of these is about, in order.
fn names(events: &[Value]) -> Vec<String> {
    let name = |event: &Value| match event["event"].as_str() {
        Some("step") => event["step"].as_str().unwrap_or("?").to_owned(),
        other => other.unwrap_or("?").to_owned(),
    };
    events.iter().map(name).collect()
}

/// Healthy once the file `healthy` is there.
const WHEN_TOLD: &str = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"healthy\"]\ninterval = \"5ms\"\n";
