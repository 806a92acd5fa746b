//! The keys of a configuration, their defaults, and how they become a [`Plan`].

use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::error::{Error, meant, nearest, quoted};
use super::listen::ListenAddress;
use super::plan::{
    Control, EnvChange, Health, Hooks, Log, LogFormat, Orphans, Plan, Shutdown, Symlink, Upgrade,
};
use super::reader::{Node, Reader, Section, Zero};
use super::{clashes, control, health, keys, listen, scalar, signals};
use crate::signal::Signal;

/// The keys of the file itself.
pub(super) const TOP: &[&str] = keys::TOP.names;
const UPGRADE: &[&str] = keys::UPGRADE.names;
const SHUTDOWN: &[&str] = keys::SHUTDOWN.names;
const SWITCH: &[&str] = keys::SWITCH.names;
const SYMLINK: &[&str] = keys::SYMLINK.names;
const HOOKS: &[&str] = keys::HOOKS.names;
pub(super) const CONTROL: &[&str] = keys::CONTROL.names;
const LOG: &[&str] = keys::LOG.names;

/// The tables with fixed keys, except those of the health checks.
const TABLES: &[(&str, &[&str])] = &[("[upgrade]", UPGRADE), ("[shutdown]", SHUTDOWN), ("[log]", LOG)];
const TRAFFIC: &[(&str, &[&str])] =
    &[("[hooks]", HOOKS), ("[[listen]]", listen::LISTEN), ("[control]", CONTROL)];

/// The key that the user probably meant by `wrong`, and the tables it belongs to.
pub(super) fn homes(wrong: &str) -> Option<(String, Vec<&'static str>)> {
    let tables = || TABLES.iter().chain(health::TABLES).chain(TRAFFIC);
    let key = nearest(wrong, tables().flat_map(|(_, keys)| *keys).filter(|key| **key != "cmd"))?;
    let homes = tables().filter(|(_, keys)| keys.contains(&key.as_str())).map(|(table, _)| *table);
    Some((key.clone(), homes.take(3).collect()))
}

/// Variables that psflip sets itself (contract C3).
const RESERVED: &[&str] = &["PSFLIP_GENERATION", "PSFLIP_SLOT"];

/// Builds the plan. It is valid only if `reader` has no errors afterwards. `name` is the path of the
/// configuration.
pub(super) fn plan(reader: &mut Reader<'_>, root: &DeTable<'_>, name: &str) -> Plan {
    let mut plan = Plan {
        cmd: Vec::new(),
        raw_cmd: None,
        workdir: None,
        pidfile: None,
        quiet: false,
        env: Vec::new(),
        signals: Vec::new(),
        upgrade: Upgrade { signal: Signal::HUP, timeout: Duration::from_secs(60) },
        shutdown: Shutdown {
            delay: Duration::ZERO,
            signal: Signal::TERM,
            timeout: Duration::from_secs(10),
            orphans: Orphans::Kill,
        },
        health: Health::Alive { timeout: Duration::from_secs(5) },
        listeners: Vec::new(),
        switch: None,
        hooks: Hooks {
            promote: Vec::new(),
            promoted: Vec::new(),
            failed: Vec::new(),
            timeout: Duration::from_secs(30),
        },
        control: Control::Default,
        log: Log { format: LogFormat::Auto, level: tracing::Level::INFO },
    };
    let file = Section::new("", root);
    // Locals come first, wherever they are in the file: every other value may use them.
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
            "signals" => plan.signals = signals::signals(reader, node),
            "upgrade" => upgrade(reader, node, &mut plan.upgrade),
            "shutdown" => shutdown(reader, node, &mut plan.shutdown),
            "healthcheck" => health::healthcheck(reader, node, &mut plan.health),
            "listen" => plan.listeners = listen::listeners(reader, node),
            "switch" => plan.switch = switch(reader, node),
            "hooks" => hooks(reader, node, &mut plan.hooks),
            "control" => control::control(reader, node, &mut plan.control),
            "log" => log(reader, node, &mut plan.log),
            _ => reader.unknown(&file, key, span, TOP),
        }
    }
    health::conflicts(reader, &file, &plan.health);
    signals::conflicts(reader, find(&file, "signals"), plan.upgrade.signal, &plan.signals);
    if let Some(listener) = listen::shared_with(&plan.listeners, &plan.health) {
        let address = quoted(&listener.address.to_string());
        let span = find(&file, "healthcheck").map(toml::Spanned::span);
        let (message, help) = match listener.address {
            ListenAddress::Unixgram(_) | ListenAddress::Unixpacket(_) => {
                (format!("the health check can't connect to {address}: it is no stream socket"), NO_STREAM)
            }
            _ => (format!("the health check probes the shared listener {address}"), SHARED),
        };
        reader.error(Error { message, span, help: Some(help.to_owned()) });
    }
    if plan.control == Control::Default
        && plan.pidfile.is_none()
        && let Some(directories) = reader.variable("RUNTIME_DIRECTORY")
    {
        plan.control = control::in_runtime_directory(&directories);
    }
    clashes::refuse(reader, &file, &plan, name);
    if find(&file, "cmd").is_none() && !misspelled(&file, "cmd", TOP) {
        reader.error(
            Error::whole("`cmd` is missing: the program to run")
                .help("write it above the first `[table]` line, one string per argument: `cmd = [\"./server\", \"--port\", \"8080\"]`"),
        );
    }
    plan
}

const SHARED: &str = "the old child accepts on it too, so its answer would be taken for the new one's; use `[healthcheck.notify]`, \
     `[healthcheck.command]` or an address of the new child's own";

const NO_STREAM: &str = "use `[healthcheck.notify]` or `[healthcheck.command]`; the old child reads from it too, so an answer would say \
     nothing anyway";

/// The value of a key.
pub(super) fn find<'t>(section: &Section<'t>, key: &str) -> Option<Node<'t>> {
    section.entries.iter().find(|(name, ..)| *name == key).map(|(.., node)| *node)
}

/// Whether the message about a misspelled key of this section will suggest `key`. Then a message that `key`
/// is missing is superfluous.
pub(super) fn misspelled(section: &Section<'_>, key: &str, allowed: &[&str]) -> bool {
    // Comparing names takes time, and a table with so many keys has worse problems.
    section
        .entries
        .iter()
        .take(100)
        .any(|(name, ..)| !allowed.contains(name) && meant(name, allowed).as_deref() == Some(key))
}

/// In bytes. With escapes it can take twice that in a message of the hand-over, which has at most 4096 bytes.
const LONGEST_PIDFILE: usize = 1024;

fn pidfile(reader: &mut Reader<'_>, node: Node<'_>) -> Option<std::path::PathBuf> {
    let path = reader.path("pidfile", node)?;
    let text = path.to_string_lossy();
    if text.len() > LONGEST_PIDFILE {
        reader.error(Error::at(node.span(), format!("the path in `pidfile` has {} bytes", text.len())).help(
            format!(
                "at most {LONGEST_PIDFILE} bytes are allowed: it is part of the first message to a new psflip"
            ),
        ));
        return None;
    }
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
        if !is_name(reader, name, span, "a variable") {
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

/// Whether `name` is valid before the `=` of an environment variable; reports an error if not.
pub(super) fn is_name(reader: &mut Reader<'_>, name: &str, span: &std::ops::Range<usize>, of: &str) -> bool {
    if !name.is_empty() && !name.contains(['=', '\0']) {
        return true;
    }
    let reason = if name.is_empty() { "it is empty" } else { "it has a `=` or a NUL character in it" };
    reader.error(Error::at(span.clone(), format!("{} is no name of {of}: {reason}", quoted(name))));
    false
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

fn switch(reader: &mut Reader<'_>, node: Node<'_>) -> Option<Symlink> {
    let section = reader.table("switch", node)?;
    let mut symlink = None;
    for (key, span, node) in &section.entries {
        match *key {
            "symlink" => symlink = read_symlink(reader, node),
            _ => reader.unknown(&section, key, span, SWITCH),
        }
    }
    symlink
}

fn read_symlink(reader: &mut Reader<'_>, node: Node<'_>) -> Option<Symlink> {
    let section = reader.table("switch.symlink", node)?;
    let (mut path, mut to) = (None, None);
    for (key, span, node) in &section.entries {
        match *key {
            "path" => path = reader.path("path", node),
            "to" => to = reader.path("to", node),
            _ => reader.unknown(&section, key, span, SYMLINK),
        }
    }
    for key in SYMLINK {
        if find(&section, key).is_none() && !misspelled(&section, key, SYMLINK) {
            reader.error(
                Error::at(node.span(), format!("`{key}` is missing in `[switch.symlink]`"))
                    .help("write `symlink = { path = \"/run/app/app.sock\", to = \"/run/app/{{ blue_green() }}.sock\" }`"),
            );
        }
    }
    let (path, to) = (path?, to?);
    if path.file_name().is_none() || path.to_string_lossy().ends_with('/') {
        reader.error(Error::at(node.span(), format!("{} can't be a link", quoted(&path.to_string_lossy()))));
        return None;
    }
    if path == to {
        reader.error(Error::at(
            node.span(),
            format!("the link {} would point to itself", quoted(&path.to_string_lossy())),
        ));
        return None;
    }
    Some(Symlink { path, to })
}

fn hooks(reader: &mut Reader<'_>, node: Node<'_>, hooks: &mut Hooks) {
    let Some(section) = reader.table("hooks", node) else { return };
    for (key, span, node) in &section.entries {
        let place = match *key {
            "promote" => &mut hooks.promote,
            "promoted" => &mut hooks.promoted,
            "failed" => &mut hooks.failed,
            "timeout" => {
                let zero = Zero::Refused("no hook could ever exit in time");
                set(&mut hooks.timeout, reader.duration("timeout", node, zero));
                continue;
            }
            _ => {
                reader.unknown(&section, key, span, HOOKS);
                continue;
            }
        };
        // `promoted = []` explicitly disables the hook.
        if !matches!(node.get_ref(), DeValue::Array(items) if items.is_empty()) {
            set(place, reader.argv(key, node));
        }
    }
}

fn log(reader: &mut Reader<'_>, node: Node<'_>, log: &mut Log) {
    use tracing::Level;
    let Some(section) = reader.table("log", node) else { return };
    for (key, span, node) in &section.entries {
        match *key {
            "format" => {
                let words = [
                    ("auto", LogFormat::Auto),
                    ("text", LogFormat::Text),
                    ("json", LogFormat::Json),
                    ("journald", LogFormat::Journald),
                ];
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

/// Keeps the default if the value could not be read.
pub(super) fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}
