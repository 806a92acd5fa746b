//! Which configurations are rejected, with which message, and what the others mean.

mod checks;
mod control;
mod files;
mod http;
mod keys;
mod kinds;
mod limits;
mod listen;
mod meaning;
mod proxies;
mod roundtrip;
mod signals;
mod suggestions;
mod syntax;
mod table;
mod templates;
mod values;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::time::{Duration, SystemTime};

use super::{Errors, Generation, Plan, Slot};

/// Reads `text` as the first generation, started at 2026-01-02 03:04:05 UTC, with three environment
/// variables.
fn read(text: &str) -> Result<Plan, Errors> {
    read_as(text, 1, Slot::A)
}

/// Reads `text` as another generation.
fn read_as(text: &str, number: u64, slot: Slot) -> Result<Plan, Errors> {
    let env = |name: &str| match name {
        "HOME" => Some("/home/app".into()),
        "EMPTY" => Some(OsString::new()),
        "NAME" => Some("HOME".into()),
        "LATIN1" => Some(OsString::from_vec(b"caf\xe9".to_vec())),
        _ => None,
    };
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
    super::parse("app.toml", text, &Generation { number, slot, started, env: &env })
}

/// The plan of a valid text.
#[track_caller]
fn plan(text: &str) -> Plan {
    read(text).unwrap_or_else(|errors| panic!("refused:\n{errors}"))
}

/// The messages about an invalid text.
#[track_caller]
fn refused(text: &str) -> String {
    match read(text) {
        Ok(plan) => panic!("accepted as:\n{plan}"),
        Err(errors) => errors.to_string(),
    }
}
