//! Which keys there are, their defaults, and how they become a [`Plan`].

use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::address;
use super::error::{Error, all_of, any_of, meant, nearest, quoted};
use super::plan::{EnvChange, Health, Log, LogFormat, Orphans, Pace, Plan, Shutdown, Upgrade};
use super::reader::{Node, Reader, Section, Zero, a};
use super::scalar::{self, Refused};
use crate::signal::Signal;

/// The keys of the file itself.
pub(super) const TOP: &[&str] =
    &["cmd", "workdir", "pidfile", "quiet", "locals", "env", "upgrade", "shutdown", "healthcheck", "log"];
const UPGRADE: &[&str] = &["signal", "timeout"];
const SHUTDOWN: &[&str] = &["delay", "signal", "timeout", "orphans"];
const KINDS: &[&str] = &["alive", "command", "tcp", "unix", "http"];
const LOG: &[&str] = &["format", "level"];
const ALIVE: &[&str] = &["timeout"];
const COMMAND: &[&str] = &["cmd", "after", "interval", "timeout", "successes"];
const TCP: &[&str] = &["address", "after", "interval", "timeout", "successes"];
const UNIX: &[&str] = &["path", "after", "interval", "timeout", "successes"];
const HTTP: &[&str] = &["url", "status", "after", "interval", "timeout", "successes"];

/// The tables with keys of their own.
const TABLES: &[(&str, &[&str])] = &[
    ("[upgrade]", UPGRADE),
    ("[shutdown]", SHUTDOWN),
    ("[log]", LOG),
    ("[healthcheck.alive]", ALIVE),
    ("[healthcheck.command]", COMMAND),
    ("[healthcheck.tcp]", TCP),
    ("[healthcheck.unix]", UNIX),
    ("[healthcheck.http]", HTTP),
];

/// The key that `wrong` was probably meant to be, and the tables it belongs to.
pub(super) fn homes(wrong: &str) -> Option<(String, Vec<&'static str>)> {
    let key = nearest(wrong, TABLES.iter().flat_map(|(_, keys)| *keys).filter(|key| **key != "cmd"))?;
    let homes = TABLES.iter().filter(|(_, keys)| keys.contains(&key.as_str())).map(|(table, _)| *table);
    Some((key.clone(), homes.take(3).collect()))
}

/// Variables that psflip sets itself (contract C3).
const RESERVED: &[&str] = &["PSFLIP_GENERATION", "PSFLIP_SLOT"];

/// The default pace of probes (config.md): a command costs a process, so it is tried less often than a connection.
fn pace(interval: Duration) -> Pace {
    Pace { after: Duration::ZERO, interval, timeout: Duration::from_secs(5), successes: 1 }
}

/// Builds the plan. It is meaningful only if `reader` has no errors afterwards.
pub(super) fn plan(reader: &mut Reader<'_>, root: &DeTable<'_>) -> Plan {
    let mut plan = Plan {
        cmd: Vec::new(),
        workdir: None,
        pidfile: None,
        quiet: false,
        env: Vec::new(),
        upgrade: Upgrade { signal: Signal::HUP, timeout: Duration::from_secs(60) },
        shutdown: Shutdown {
            delay: Duration::ZERO,
            signal: Signal::TERM,
            timeout: Duration::from_secs(10),
            orphans: Orphans::Kill,
        },
        health: Health::Alive { timeout: Duration::from_secs(5) },
        log: Log { format: LogFormat::Text, level: tracing::Level::INFO },
    };
    let file = Section::new("", root);
    // Locals first, wherever they stand: every other value may use them.
    if let Some(locals) = find(&file, "locals").and_then(|node| reader.table("locals", node)) {
        reader.announce(&locals);
        for (name, _, node) in &locals.entries {
            reader.local(name, node);
        }
    }
    for (key, span, node) in &file.entries {
        match *key {
            "cmd" => plan.cmd = reader.argv("cmd", node).unwrap_or_default(),
            "workdir" => plan.workdir = reader.path("workdir", node),
            "pidfile" => plan.pidfile = pidfile(reader, node),
            "quiet" => plan.quiet = reader.boolean("quiet", node).unwrap_or_default(),
            "locals" => {}
            "env" => env(reader, node, &mut plan.env),
            "upgrade" => upgrade(reader, node, &mut plan.upgrade),
            "shutdown" => shutdown(reader, node, &mut plan.shutdown),
            "healthcheck" => healthcheck(reader, node, &mut plan.health),
            "log" => log(reader, node, &mut plan.log),
            _ => reader.unknown(&file, key, span, TOP),
        }
    }
    if find(&file, "cmd").is_none() && !misspelled(&file, "cmd", TOP) {
        reader.error(
            Error::whole("`cmd` is missing: the program to run")
                .help("write it above the first `[table]` line, one string per argument: `cmd = [\"./server\", \"--port\", \"8080\"]`"),
        );
    }
    plan
}

fn find<'t>(section: &Section<'t>, key: &str) -> Option<Node<'t>> {
    section.entries.iter().find(|(name, ..)| *name == key).map(|(.., node)| *node)
}

/// Whether a key of the section will get the hint to be `key`, so that its absence needs no message of its own.
fn misspelled(section: &Section<'_>, key: &str, allowed: &[&str]) -> bool {
    // Comparing names costs time, and a table of so many keys has other troubles.
    section
        .entries
        .iter()
        .take(100)
        .any(|(name, ..)| !allowed.contains(name) && meant(name, allowed).as_deref() == Some(key))
}

fn pidfile(reader: &mut Reader<'_>, node: Node<'_>) -> Option<std::path::PathBuf> {
    let path = reader.path("pidfile", node)?;
    let text = path.to_string_lossy();
    if text.ends_with('/') || path.file_name().is_none() {
        reader.error(
            Error::at(node.span(), format!("the pidfile {} is a directory", quoted(&text)))
                .help("write the path of the file, for example `/run/app/psflip.pid`"),
        );
        return None;
    }
    Some(path)
}

fn env(reader: &mut Reader<'_>, node: Node<'_>, changes: &mut Vec<EnvChange>) {
    let Some(section) = reader.table("env", node) else { return };
    for (name, span, node) in &section.entries {
        if RESERVED.contains(name) {
            reader.error(
                Error::at(span.clone(), format!("{} can't be set in `[env]`", quoted(name)))
                    .help("psflip sets it for every child; choose another name"),
            );
            continue;
        }
        if name.is_empty() || name.contains(['=', '\0']) {
            let reason =
                if name.is_empty() { "it is empty" } else { "it has a `=` or a NUL character in it" };
            reader.error(Error::at(
                span.clone(),
                format!("{} is no name of a variable: {reason}", quoted(name)),
            ));
            continue;
        }
        match node.get_ref() {
            DeValue::Boolean(false) => changes.push(EnvChange::Remove((*name).to_owned())),
            DeValue::String(_) => {
                if let Some(value) = reader.string(&format!("env.{name}"), node) {
                    changes.push(EnvChange::Set((*name).to_owned(), value));
                }
            }
            _ => reader.variable_type(name, node),
        }
    }
}

fn upgrade(reader: &mut Reader<'_>, node: Node<'_>, upgrade: &mut Upgrade) {
    let Some(section) = reader.table("upgrade", node) else { return };
    for (key, span, node) in &section.entries {
        match *key {
            "signal" => set(&mut upgrade.signal, reader.signal("signal", node, scalar::upgrade_signal)),
            "timeout" => {
                let zero = Zero::Refused("no new child could ever become healthy in time");
                set(&mut upgrade.timeout, reader.duration("timeout", node, zero));
            }
            _ => reader.unknown(&section, key, span, UPGRADE),
        }
    }
}

fn shutdown(reader: &mut Reader<'_>, node: Node<'_>, shutdown: &mut Shutdown) {
    let Some(section) = reader.table("shutdown", node) else { return };
    for (key, span, node) in &section.entries {
        match *key {
            "delay" => set(&mut shutdown.delay, reader.duration("delay", node, Zero::Allowed)),
            "signal" => set(&mut shutdown.signal, reader.signal("signal", node, scalar::shutdown_signal)),
            "timeout" => set(&mut shutdown.timeout, reader.duration("timeout", node, Zero::Allowed)),
            "orphans" => {
                let words = [("kill", Orphans::Kill), ("leave", Orphans::Leave)];
                set(&mut shutdown.orphans, reader.word("orphans", node, &words));
            }
            _ => reader.unknown(&section, key, span, SHUTDOWN),
        }
    }
}

fn log(reader: &mut Reader<'_>, node: Node<'_>, log: &mut Log) {
    use tracing::Level;
    let Some(section) = reader.table("log", node) else { return };
    for (key, span, node) in &section.entries {
        match *key {
            "format" if node.get_ref().as_str() == Some("journald") => {
                let error = Error::at(node.span(), "`format` can't be `journald`");
                reader
                    .error(error.help(
                        "this version of psflip doesn't have `journald` yet; it has `text` and `json`",
                    ));
            }
            "format" => {
                let words = [("text", LogFormat::Text), ("json", LogFormat::Json)];
                set(&mut log.format, reader.word("format", node, &words));
            }
            "level" => {
                let words = [
                    ("error", Level::ERROR),
                    ("warn", Level::WARN),
                    ("info", Level::INFO),
                    ("debug", Level::DEBUG),
                    ("trace", Level::TRACE),
                ];
                set(&mut log.level, reader.word("level", node, &words));
            }
            _ => reader.unknown(&section, key, span, LOG),
        }
    }
}

fn healthcheck(reader: &mut Reader<'_>, node: Node<'_>, health: &mut Health) {
    let Some(section) = reader.table("healthcheck", node) else { return };
    let mut first: Option<&str> = None;
    for (kind, span, node) in &section.entries {
        if !KINDS.contains(kind) {
            unknown_kind(reader, &section, kind, span, node);
            continue;
        }
        if let Some(first) = first {
            reader.error(
                Error::at(span.clone(), format!("two health checks, `{first}` and `{kind}`"))
                    .help("a child is healthy by one check: keep one; a `command` can test several things"),
            );
        }
        first = first.or(Some(kind));
        let Some(table) = reader.table(&format!("healthcheck.{kind}"), node) else { continue };
        set(health, check(reader, kind, &table, node));
    }
    if section.entries.is_empty() {
        reader.error(Error::at(node.span(), "`[healthcheck]` says no kind of check").help(format!(
            "write `[healthcheck.KIND]` with one of {}, or leave it out for the default: healthy when still running after 5s",
            any_of(KINDS)
        )));
    }
}

/// A kind that does not exist, or a key of a kind that stands in `[healthcheck]` itself.
fn unknown_kind(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    kind: &str,
    span: &std::ops::Range<usize>,
    node: Node<'_>,
) {
    let key = [ALIVE, COMMAND, TCP, UNIX, HTTP].iter().any(|keys| keys.contains(&kind));
    if key && !node.get_ref().is_table() {
        reader.error(
            Error::at(span.clone(), format!("`{kind}` can't stand in `[healthcheck]` itself"))
                .help(format!("name the kind of check: `[healthcheck.KIND]` with one of {}", any_of(KINDS))),
        );
    } else if matches!(kind, "docker" | "fcgi" | "notify") {
        reader.unknown(section, kind, span, KINDS);
    } else {
        let error = Error::at(span.clone(), format!("there is no health check {}", quoted(kind)));
        reader.error(match nearest(kind, KINDS) {
            Some(near) => error.help(format!("did you mean `[healthcheck.{near}]`?")),
            None => error.help(format!("there are {}", all_of(KINDS))),
        });
    }
}

fn check(reader: &mut Reader<'_>, kind: &str, section: &Section<'_>, node: Node<'_>) -> Option<Health> {
    let quick = pace(Duration::from_millis(100));
    match kind {
        "alive" => {
            let mut timeout = Duration::from_secs(5);
            for (key, span, node) in &section.entries {
                match *key {
                    "timeout" => set(&mut timeout, reader.duration("timeout", node, Zero::Allowed)),
                    _ => reader.unknown(section, key, span, ALIVE),
                }
            }
            Some(Health::Alive { timeout })
        }
        "command" => {
            let slow = pace(Duration::from_secs(1));
            let read = |reader: &mut Reader<'_>, key: &str, node: Node<'_>| reader.argv(key, node);
            let (cmd, pace) = probe(reader, section, node, "cmd", COMMAND, slow, read);
            Some(Health::Command { cmd: cmd?, pace })
        }
        "tcp" => {
            let read = |reader: &mut Reader<'_>, key: &str, node: Node<'_>| {
                reader.parsed(key, node, |text| Ok((address::tcp(text)?, text.to_owned())))
            };
            let (address, pace) = probe(reader, section, node, "address", TCP, quick, read);
            let (addresses, text) = address?;
            Some(Health::Tcp { addresses, text, pace })
        }
        "unix" => {
            let read =
                |reader: &mut Reader<'_>, key: &str, node: Node<'_>| reader.parsed(key, node, address::unix);
            let (path, pace) = probe(reader, section, node, "path", UNIX, quick, read);
            Some(Health::Unix { path: path?, pace })
        }
        _ => {
            let read =
                |reader: &mut Reader<'_>, key: &str, node: Node<'_>| reader.parsed(key, node, address::url);
            let (request, pace) = probe(reader, section, node, "url", HTTP, quick, read);
            let mut codes = vec![200..=399];
            if let Some(node) = find(section, "status") {
                set(&mut codes, status(reader, node));
            }
            Some(Health::Http { request: request?, status: codes, pace })
        }
    }
}

/// Reads the keys that all probes have, and the one that says what to probe.
fn probe<T>(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    node: Node<'_>,
    target: &str,
    allowed: &[&str],
    mut pace: Pace,
    read: impl FnOnce(&mut Reader<'_>, &str, Node<'_>) -> Option<T>,
) -> (Option<T>, Pace) {
    let value = match find(section, target) {
        Some(node) => read(reader, target, node),
        None if misspelled(section, target, allowed) => None,
        None => {
            reader.error(
                Error::at(node.span(), format!("`{target}` is missing in `{}`", section.name)).help(match target {
                    "cmd" => "the command whose exit code 0 means healthy: `cmd = [\"curl\", \"-fsS\", \"http://127.0.0.1:8080/up\"]`",
                    "address" => "where to connect: `address = \"127.0.0.1:8080\"`",
                    "path" => "where to connect: `path = \"/run/app/app.sock\"`",
                    _ => "what to get: `url = \"http://127.0.0.1:8080/up\"`",
                }),
            );
            None
        }
    };
    for (key, span, node) in &section.entries {
        match *key {
            "after" => set(&mut pace.after, reader.duration("after", node, Zero::Allowed)),
            "interval" => {
                let zero = Zero::Refused("probes without a pause would load the machine");
                set(&mut pace.interval, reader.duration("interval", node, zero));
            }
            "timeout" => {
                let zero = Zero::Refused("no probe could ever succeed in time");
                set(&mut pace.timeout, reader.duration("timeout", node, zero));
            }
            "successes" => set(&mut pace.successes, reader.count("successes", node)),
            key if allowed.contains(&key) => {}
            _ => reader.unknown(section, key, span, allowed),
        }
    }
    (value, pace)
}

/// `status`: a string, or one code as an integer.
fn status(reader: &mut Reader<'_>, node: Node<'_>) -> Option<Vec<std::ops::RangeInclusive<u16>>> {
    match node.get_ref() {
        DeValue::Integer(number) => match address::status(&number.to_string()) {
            Ok(codes) => Some(codes),
            Err(Refused { message, help }) => {
                reader.error(Error { message, span: Some(node.span()), help });
                None
            }
        },
        DeValue::String(_) => reader.parsed("status", node, address::status),
        _ => {
            reader.error(
                Error::at(node.span(), format!("`status` must be a string, not {}", a(node)))
                    .help("write codes and ranges in one string: `\"200,204,300-399\"`"),
            );
            None
        }
    }
}

/// Keeps the default where the value could not be read.
fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}
