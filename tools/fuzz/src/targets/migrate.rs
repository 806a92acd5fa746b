//! `migrate`: any text as a configuration of the Go version (upstream psflip), in each of its three formats.

use std::path::Path;
use std::time::{Duration, SystemTime};

use psflip::testing::config::{self, Generation, Slot};
use psflip::testing::migrate::{self, Format, Kind, Migrated};

use super::{Run, ensure};
use crate::Error;

pub(super) const WORDS: &[&str] = &[
    "cmd",
    "workdir",
    "pidfile",
    "quiet",
    "env",
    "locals",
    "proxy",
    "upgrade",
    "shutdown",
    "healthcheck",
    "upgrade_timeout",
    "child_timeout",
    "signals",
    "terminate",
    "alive",
    "command",
    "docker",
    "container",
    "socket",
    "after",
    "interval",
    "listen_address",
    "cmd: [x]\n",
    "cmd = ['x']\n",
    "{\"cmd\": [\"x\"]}",
    "- 'A={{ ",
    "{{",
    "}}",
    "{{- ",
    " -}}",
    "{{/* ",
    " */}}",
    "Env \"HOME\"",
    "EnvDefault `X` \"d\"",
    "AB \"a\" \"b\"",
    "BlueGreen",
    "Local \"l\"",
    "Cat \"/dev/null\"",
    "EscapeRE",
    "Now \"%c\"",
    "| ",
    "(",
    ")",
    "if ",
    "else if ",
    "{{ else }}",
    "{{ end }}",
    "with ",
    "range ",
    "$x",
    "$x := ",
    ".",
    "printf \"%s\" ",
    "eq ",
    "and ",
    "{{{",
    "{%",
    "{#",
    "'''",
    "\"\"\"",
    "&a ",
    "*a",
    "<<: *a",
    "!!str ",
    "? ",
    ": ",
    "- ",
    "---\n",
    "|\n ",
    ">-\n ",
    "# c\n",
    "\t",
    "1.5h",
    "5",
    "0755",
    "1e308",
    "2020-01-01",
    "~",
    "\\ud83d",
    "\u{feff}",
    "\u{85}",
];

/// How many times as long as its source a result may be: it repeats the reason for each key that is left to
/// do.
const GROWTH: usize = 200;

pub(super) fn start(_: &Path) -> Result<Run, Error> {
    Ok(Box::new(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        for format in [Format::Yaml, Format::Json, Format::Toml] {
            check(&text, format)?;
        }
        check(&text, Format::of_text(&text))
    }))
}

fn check(text: &str, format: Format) -> Result<(), String> {
    let env = |name: &str| (name == "HOME").then(|| "/home/app".into());
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
    let generation = Generation { number: 1, slot: Slot::A, started, env: &env };
    match migrate::migrate("old", text, format, &generation) {
        Ok(migrated) => promises(text, &migrated, &generation).map_err(|why| format!("{format:?}: {why}")),
        Err(error) => ensure(!error.message.is_empty(), || "refused without a reason".to_owned()),
    }
}

fn promises(text: &str, migrated: &Migrated, generation: &Generation<'_>) -> Result<(), String> {
    let Migrated { text: ours, remarks, refused } = migrated;
    let longest = 64 * 1024 + GROWTH * text.len();
    ensure(ours.len() < longest, || format!("{} bytes of {}", ours.len(), text.len()))?;
    let accepted = config::parse("new", ours, generation);
    match (&accepted, refused) {
        (Ok(_), None) | (Err(_), Some(_)) => {}
        _ => return Err(format!("said to be refused: {refused:?}; {accepted:?}\n{ours}")),
    }
    // In YAML a carriage return is a line break, too.
    let lines = text.split(['\n', '\r']).count();
    for remark in remarks {
        ensure((1..=lines).contains(&remark.at.line), || {
            format!("{} is no place: {}", remark.at, remark.text)
        })?;
        ensure(!remark.text.chars().any(char::is_control), || {
            format!("a remark has control characters: {:?}", remark.text)
        })?;
    }
    // The result must list everything that is left to do.
    let left = remarks.iter().filter(|remark| remark.kind == Kind::Left).count();
    let said = ours.lines().filter(|line| line.starts_with("# LEFT TO DO (line ")).count();
    ensure(said >= left, || format!("{left} left to do, {said} reported:\n{ours}"))
}
