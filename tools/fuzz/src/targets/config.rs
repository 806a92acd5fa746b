//! `config`: any bytes as a configuration file.

use std::path::Path;
use std::time::{Duration, SystemTime};

use psflip::testing::config::keys::{Kind, TOP, Table};
use psflip::testing::config::{self, Document, Errors, Generation, Plan, Slot};

use super::{Run, ensure};
use crate::Error;

/// Words that neither the keys nor `config::keys` contain.
const WORDS: &[&str] = &[
    "cmd = [\"x\"]\n",
    "\"5s\"",
    "\"1m30s\"",
    "\"SIGHUP\"",
    "SIGTERM = ",
    "WINCH = false",
    "\"SIGRTMIN+1\"",
    "5",
    "0",
    "-1",
    "1979-05-27T07:32:00Z",
    "false",
    " = ",
    "\"{{ env('HOME') }}\"",
    "\"{{ local('a') }}\"",
    "\"{{ cat('/proc/self/stat') }}\"",
    "\"{{ 'x' * 60000 }}\"",
    "\"10.0.0.1:80\"",
    "\"http://[::1]/up\"",
    "\"unix:///run/app.sock\"",
    "\"systemd:web\"",
    "\"udp://[::]:0\"",
    "\"0660\"",
    "\"200-399\"",
    "timout",
    "\n",
    "\\u0000",
    "\\U0001F600",
];

/// The dictionary: every table, key and keyword of a configuration, and [`WORDS`].
pub(super) fn words() -> Vec<String> {
    let mut words = super::all(WORDS);
    add(&mut words, &TOP);
    words.sort_unstable();
    words.dedup();
    words
}

fn add(words: &mut Vec<String>, table: &Table) {
    words.push(format!("\n{}\n", table.title));
    for key in table.keys {
        words.push(key.name.to_owned());
        match key.kind {
            Kind::Word(choice) | Kind::Words(choice) => {
                words.extend(choice.iter().map(|word| format!("\"{word}\"")));
            }
            Kind::Table(table) | Kind::Many(table, _) => add(words, table),
            Kind::One(tables) => tables.iter().for_each(|(_, table)| add(words, table)),
            Kind::Text
            | Kind::Special
            | Kind::OrFalse
            | Kind::Duration(_)
            | Kind::Size
            | Kind::Percent(_)
            | Kind::Signal
            | Kind::Boolean
            | Kind::Number(..)
            | Kind::Argv(_)
            | Kind::Paths
            | Kind::Status
            | Kind::Mode
            | Kind::Signals
            | Kind::Map(_) => {}
        }
    }
}

/// The maximum length of all error messages for one file, in bytes.
const MESSAGES: usize = 64 * 1024;

pub(super) fn start(folder: &Path) -> Result<Run, Error> {
    let file = folder.join("app.toml");
    Ok(Box::new(move |bytes| match std::str::from_utf8(bytes) {
        Ok(text) => check(text),
        Err(_) => {
            std::fs::write(&file, bytes).map_err(|error| error.to_string())?;
            let errors = match as_generation(|generation| Document::read(&file)?.plan(generation)) {
                Ok(_) => return Err("bytes that are no UTF-8 are taken for a configuration".to_owned()),
                Err(errors) => errors,
            };
            let placed = errors.iter().all(|error| errors.position(error).is_some());
            let too_large = errors.to_string().contains("it is larger than");
            ensure(placed || too_large, || format!("no place in: {errors}"))
        }
    }))
}

/// Parses a text as a generation would, and checks the promises for the plan or the errors (X1, X2).
pub(super) fn check(text: &str) -> Result<(), String> {
    match read(text) {
        Ok(plan) => reads_back(&plan),
        Err(errors) => mistakes(text, &errors),
    }
}

/// Parses a text as generation 4.
pub(super) fn read(text: &str) -> Result<Plan, Errors> {
    as_generation(|generation| config::parse("app.toml", text, generation))
}

fn as_generation<T>(read: impl FnOnce(&Generation<'_>) -> T) -> T {
    let env = |name: &str| match name {
        "HOME" => Some("/home/app".into()),
        "EMPTY" => Some(std::ffi::OsString::new()),
        "BRACES" => Some("{{ generation() }}".into()),
        _ => None,
    };
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
    read(&Generation { number: 4, slot: Slot::B, started, env: &env })
}

/// The output of `psflip check` must parse to the same plan.
fn reads_back(plan: &Plan) -> Result<(), String> {
    let printed = plan.to_string();
    match read(&printed) {
        // What is printed is rendered, so it depends on no slot.
        Ok(again) => ensure(again == Plan { uses_slot: false, ..plan.clone() }, || {
            format!("it reads back as another plan:\n{printed}")
        }),
        // A value of the maximum length may become too long when printing escapes it, so that it is not read
        // as a template.
        Err(errors) if errors.iter().all(|error| error.message.contains("bytes long")) => Ok(()),
        Err(errors) => Err(format!("it can't be read back: {errors}")),
    }
}

/// Each error must have a place in the file and be printable; together they must not be too long.
fn mistakes(text: &str, errors: &Errors) -> Result<(), String> {
    let shown = errors.to_string();
    ensure(errors.count() > 0 && !shown.is_empty(), || "refused without an error".to_owned())?;
    ensure(shown.len() < MESSAGES, || format!("{} bytes of messages", shown.len()))?;
    let control = shown.chars().find(|char| char.is_control() && *char != '\n');
    ensure(control.is_none(), || format!("a message has {control:?} in it"))?;
    let lines: Vec<&str> = text.split('\n').collect();
    for error in errors.iter() {
        ensure(!error.message.is_empty(), || "an empty message".to_owned())?;
        match errors.position(error) {
            Some((line, column)) => {
                let length = lines.get(line.wrapping_sub(1)).map(|line| line.chars().count());
                let inside = length.is_some_and(|length| (1..=length + 1).contains(&column));
                ensure(inside, || format!("{line}:{column} is no place in the file: {}", error.message))?;
            }
            None => {
                let of_the_whole = error.message.starts_with("`cmd` is missing");
                ensure(of_the_whole, || format!("no place: {}", error.message))?;
            }
        }
    }
    Ok(())
}
