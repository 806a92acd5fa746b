//! The control socket: its answers, across upgrades, and to hostile clients. docs/control.md describes it.

mod clients;
mod files;
mod requests;
mod socket_path;
mod upgrades;

use serde_json::Value;
use testkit::client::control::Asking;
use testkit::{Psflip, Sandbox, Stream};

use crate::service::{UNTIL_FILE, configure};

/// Sends a request that takes no parameters.
#[track_caller]
fn ask(psflip: &Psflip, request: &str) -> Asking {
    Asking::ask(&psflip.control_path(), format!(r#"{{"psflip":1,"request":"{request}"}}"#))
}

/// The current status.
#[track_caller]
fn status(psflip: &Psflip) -> Value {
    testkit::client::control::status(&psflip.control_path())
}

/// Follows an upgrade until this event, at the generation that serves. A generation that was just superseded
/// answers `moved`.
#[track_caller]
fn follow_until(psflip: &Psflip, upgrade: u64, name: &str) -> Value {
    let request = format!(r#"{{"psflip":1,"request":"follow","upgrade":{upgrade}}}"#);
    loop {
        let events = Asking::ask(&psflip.control_path(), &*request).until(&[name, "moved"]);
        let last = events.last().expect("it was not answered");
        if last["event"] == name {
            return last.clone();
        }
        assert_eq!(last["event"], "moved", "{events:#?}");
    }
}

/// Requests an upgrade whose child becomes healthy only when the test allows it ([`UNTIL_FILE`]).
#[track_caller]
fn upgrade_that_waits(sandbox: &Sandbox, psflip: &Psflip) -> Asking {
    configure(sandbox, &["signal-logger"], UNTIL_FILE);
    let upgrade = ask(psflip, "upgrade");
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    upgrade
}

/// The names of these events, in order.
fn names(events: &[Value]) -> Vec<String> {
    let name = |event: &Value| match event["event"].as_str() {
        Some("step") => event["step"].as_str().unwrap_or("?").to_owned(),
        other => other.unwrap_or("?").to_owned(),
    };
    events.iter().map(name).collect()
}
