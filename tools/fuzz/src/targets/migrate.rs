//! `migrate`: any text as a configuration of the Go version (upstream psflip), in each of its three formats.

use std::path::Path;
use std::time::{Duration, SystemTime};

use psflip::testing::config::{self, Generation, Slot};
use psflip::testing::migrate::supervisor::{self, Translated, Wrong};
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
    "--port",
    "u53=7",
    "--path=",
    "--signal-on-hup",
    "-s a",
    "-M 600",
    "-- x",
    "[program:a]\ncommand = x ",
    "[fcgi-program:a]\nsocket = unix:///",
    "environment = A=\"",
    "%(ENV_A)s",
    "%(here)s",
    "#!/bin/sh\n",
    "exec ",
    "export A=",
    "web: x $PORT\n",
    "A=1 ",
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
        check(&text, Format::of_text(&text))?;
        others(&text)
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

/// The same text as a command line of start_server and spawn-fcgi, a configuration of supervisord, a `run`
/// script and a Procfile.
fn others(text: &str) -> Result<(), String> {
    let env = |_: &str| Some("x".into());
    let started = SystemTime::UNIX_EPOCH;
    let generation = Generation { number: 1, slot: Slot::A, started, env: &env };
    let words: Vec<String> = text.split([' ', '\n']).map(str::to_owned).collect();
    let made: [Result<Translated, Wrong>; 6] = [
        supervisor::start_server(&words, &generation),
        supervisor::spawn_fcgi(&words, &generation),
        supervisor::supervisord("app.conf", Some("/etc/sv"), text, None, &generation),
        supervisor::runit(Some("/etc/sv/app/run"), text, &generation),
        supervisor::runit(None, &format!("#!/bin/sh\n{text}"), &generation),
        supervisor::procfile("Procfile", text, None, &generation),
    ];
    for made in made {
        let Translated { text: ours, remarks, refused } = match made {
            Ok(made) => made,
            Err(wrong) => {
                ensure(!wrong.message.is_empty() && !wrong.help.is_empty(), || format!("{wrong:?}"))?;
                continue;
            }
        };
        let accepted = config::parse("the result", &ours, &generation);
        ensure(accepted.is_err() == refused.is_some(), || format!("{refused:?}; {accepted:?}\n{ours}"))?;
        // Text of the source never becomes a key, or something that is no TOML at all.
        let said = refused.unwrap_or_default();
        let is_ours = !["unknown key", "duplicate key", "expected"].iter().any(|word| said.contains(word));
        ensure(is_ours, || format!("{said}\n{ours}"))?;
        ensure(remarks.iter().all(|remark| !remark.text.is_empty()), || {
            "a remark without a text".to_owned()
        })?;
    }
    Ok(())
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
