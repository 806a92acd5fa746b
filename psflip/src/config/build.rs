//! How the keys of a configuration become a [`Plan`].

use std::borrow::Cow;

use toml::de::{DeTable, DeValue};

use super::document::COMMAND_LINE;
use super::error::{Error, Errors, quoted};
use super::generation::Generation;
use super::plan::{EnvChange, Hooks, Log, LogFormat, Orphans, Plan, Recycle, Shutdown, Symlink, Upgrade};
use super::reader::Reader;
use super::section::{Node, Section};
use super::template::Templates;
use super::template::ports::Ports;
use super::{clashes, control, env_files, health, keys, listen, output, proxies, scalar, signals, syntax};

/// Variables that psflip sets itself (contract C3).
pub(super) const RESERVED: &[&str] = &["PSFLIP_GENERATION", "PSFLIP_SLOT"];

/// Reads the configuration `text`; `name` precedes every message. It has no effects, except that a template
/// may read a file with `cat(path)` and try a port with `free_port(range)`, and that `env_file` and `env_dir`
/// are read.
///
/// # Errors
/// All errors, in the order of the text.
pub fn parse(name: &str, text: &str, generation: &Generation<'_>) -> Result<Plan, Errors> {
    match parse_with(name, text, generation, Ports::of(&service(name, text), true), true)? {
        (plan, None) => Ok(plan),
        (_, Some(errors)) => Err(errors),
    }
}

/// As [`parse`], but returns the valid parts as well, beside the errors of the rest. It is for finding the
/// control socket: `free_port()` gives ports that may be in use, and variables are not read from files.
///
/// # Errors
/// The text is not TOML.
pub(super) fn parse_even_if_broken(
    name: &str,
    text: &str,
    generation: &Generation<'_>,
) -> Result<(Plan, Option<Errors>), Errors> {
    parse_with(name, text, generation, Ports::of(&service(name, text), false), false)
}

/// What distinguishes a service from others on this host, and stays the same in each generation: the path of
/// its configuration, or its flags.
fn service<'t>(name: &str, text: &'t str) -> Cow<'t, str> {
    match std::path::absolute(name) {
        _ if name == COMMAND_LINE => text.into(),
        Ok(path) => path.to_string_lossy().into_owned().into(),
        Err(_) => name.to_owned().into(),
    }
}

fn parse_with(
    name: &str,
    text: &str,
    generation: &Generation<'_>,
    ports: Ports,
    reads_variables: bool,
) -> Result<(Plan, Option<Errors>), Errors> {
    let root = match syntax::tree(text) {
        Ok(root) => root,
        Err(list) => return Err(Errors::new(name, text, list, 0)),
    };
    let mut reader = Reader::new(text, Templates::new(generation, ports));
    let plan = plan(&mut reader, root.get_ref(), name, reads_variables);
    let (list, dropped) = reader.mistakes();
    let errors = (!list.is_empty()).then(|| Errors::new(name, text, list, dropped));
    Ok((plan, errors))
}

/// Builds the plan. It is valid only if `reader` has no errors afterwards. `name` is the path of the
/// configuration. `reads_variables`: whether to read the files of `env_file` and `env_dir`.
fn plan(reader: &mut Reader<'_>, root: &DeTable<'_>, name: &str, reads_variables: bool) -> Plan {
    let file = Section::file(&keys::TOP, root);
    reader.refuse_unknown(&file);
    // Locals come first, wherever they are in the file: every other value may use them.
    if let Some(node) = file.find("locals") {
        reader.locals(node);
    }
    let pidfile = pidfile(reader, &file);
    let control = table(reader, &file, "control");
    let control = control::control(reader, &control, pidfile.is_some());
    let listeners = listen::listeners(reader, &file);
    let proxies = proxies::proxies(reader, &file, &listeners);
    let mut plan = Plan {
        uses_slot: false,
        cmd: reader.argv(&file, "cmd"),
        raw_cmd: None,
        workdir: reader.path(&file, "workdir"),
        pidfile,
        quiet: reader.boolean(&file, "quiet"),
        env_sources: env_files::sources(reader, &file, reads_variables),
        env: file.find("env").map(|node| env(reader, node)).unwrap_or_default(),
        signals: file.find("signals").map(|node| signals::signals(reader, node)).unwrap_or_default(),
        upgrade: upgrade(reader, &file),
        recycle: recycle(reader, &file),
        shutdown: shutdown(reader, &file),
        health: health::healthcheck(reader, &file, proxies.as_deref()),
        listeners,
        proxies: proxies.unwrap_or_default(),
        switch: switch(reader, &file),
        hooks: hooks(reader, &file),
        output: output::output(reader, &file),
        control,
        log: log(reader, &file),
    };
    plan.uses_slot = reader.uses_slot(); // now that everything is rendered
    health::conflicts(reader, &file, &plan.health);
    refuse_bake(reader, &file, &plan);
    refuse_draining(reader, &file, &plan);
    health::fits(reader, &file, &plan.health, plan.upgrade.timeout);
    signals::conflicts(reader, file.find("signals"), plan.upgrade.signal, &plan.signals);
    clashes::refuse_shared(reader, &file, &plan);
    clashes::refuse(reader, &file, &plan, name);
    if file.find("cmd").is_none() && !file.is_misspelled("cmd") {
        reader.error(
            Error::whole("`cmd` is missing: the program to run")
                .help("write it above the first `[table]` line, one string per argument: `cmd = [\"./server\", \"--port\", \"8080\"]`"),
        );
    }
    plan
}

/// A table with fixed keys. If it is missing or no table, all its keys have their defaults.
fn table<'t>(reader: &mut Reader<'_>, file: &Section<'t>, name: &str) -> Section<'t> {
    let keys::Kind::Table(table) = file.key(name).kind else { return Section::absent(&keys::TOP) };
    let section = file.find(name).and_then(|node| reader.section(table, node));
    section.unwrap_or_else(|| Section::absent(table))
}

/// In bytes. With escapes it can take twice that in a message of the hand-over, which has at most 4096 bytes.
const LONGEST_PIDFILE: usize = 1024;

fn pidfile(reader: &mut Reader<'_>, file: &Section<'_>) -> Option<std::path::PathBuf> {
    let path = reader.path(file, "pidfile")?;
    let node = file.find("pidfile")?;
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

fn env(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<EnvChange> {
    let mut changes = Vec::new();
    for (name, span, node) in reader.map("env", node).unwrap_or_default() {
        if RESERVED.contains(&name) {
            reader.error(
                Error::at(span, format!("{} can't be set in `[env]`", quoted(name)))
                    .help("psflip sets it for every child; choose another name"),
            );
            continue;
        }
        if !reader.is_name(name, &span, "a variable") {
            continue;
        }
        match node.get_ref() {
            DeValue::Boolean(false) => changes.push(EnvChange::Remove(name.to_owned())),
            DeValue::String(_) => {
                if let Some(value) = reader.string(&format!("env.{name}"), node) {
                    changes.push(EnvChange::Set(name.to_owned(), value));
                }
            }
            _ => reader.variable_type(name, node),
        }
    }
    changes
}

fn upgrade(reader: &mut Reader<'_>, file: &Section<'_>) -> Upgrade {
    let section = table(reader, file, "upgrade");
    Upgrade {
        signal: reader.signal(&section, "signal", scalar::upgrade_signal),
        timeout: reader.duration(&section, "timeout"),
        draining: u8::try_from(reader.number(&section, "draining")).unwrap_or(1),
        overlap: reader.boolean(&section, "overlap"),
        precheck: reader.argv(&section, "precheck"),
        bake: section.find("bake").map(|_| reader.duration(&section, "bake")),
    }
}

fn recycle(reader: &mut Reader<'_>, file: &Section<'_>) -> Recycle {
    let section = table(reader, file, "recycle");
    Recycle {
        after: section.find("after").map(|_| reader.duration(&section, "after")),
        memory: reader.parsed(&section, "memory", scalar::size),
        jitter: reader.percent(&section, "jitter"),
        interval: reader.duration(&section, "interval"),
    }
}

/// Refuses several old generations that drain, if generations would then get into each other's way.
fn refuse_draining(reader: &mut Reader<'_>, file: &Section<'_>, plan: &Plan) {
    if plan.upgrade.draining == 1 {
        return;
    }
    let Some(DeValue::Table(upgrade)) = file.find("upgrade").map(toml::Spanned::get_ref) else { return };
    let Some((key, _)) = upgrade.get_key_value("draining") else { return };
    if !plan.upgrade.overlap {
        reader.error(
            Error::at(key.span(), "`upgrade.draining` and `overlap = false` exclude each other")
                .help("without overlap no old child runs beside the new one: remove one of them"),
        );
    } else if plan.uses_slot {
        reader.error(
            Error::at(key.span(), "`upgrade.draining` and `blue_green()` or `ab()` exclude each other").help(
                "there are two slots, and more generations than two would share them: use `generation()`, for example in `/run/app/{{ generation() }}.sock`, or `free_port(…)`",
            ),
        );
    }
}

/// Refuses a bake of a service whose traffic psflip can't give to the new child and back.
fn refuse_bake(reader: &mut Reader<'_>, file: &Section<'_>, plan: &Plan) {
    let Some(DeValue::Table(upgrade)) = file.find("upgrade").map(toml::Spanned::get_ref) else { return };
    let Some((key, _)) = upgrade.get_key_value("bake") else { return };
    if plan.upgrade.bake.is_some() && !plan.upgrade.overlap {
        reader.error(
            Error::at(key.span(), "`upgrade.bake` and `overlap = false` exclude each other").help(
                "in a bake the old child stands by while the new one has the traffic: remove one of them",
            ),
        );
        return;
    }
    let has = ["proxy", "listen", "switch"].into_iter().any(|name| file.find(name).is_some());
    if !has && plan.upgrade.bake.is_some() {
        reader.error(
            Error::at(key.span(), "`upgrade.bake` needs `[[proxy]]`, `[[listen]]` or `[switch]`").help(
                "without one of them psflip can't give the traffic back to the old child: clients reach each child on an address of its own",
            ),
        );
    }
}

fn shutdown(reader: &mut Reader<'_>, file: &Section<'_>) -> Shutdown {
    let section = table(reader, file, "shutdown");
    Shutdown {
        delay: reader.duration(&section, "delay"),
        signal: reader.signal(&section, "signal", scalar::shutdown_signal),
        timeout: reader.duration(&section, "timeout"),
        orphans: reader.word(&section, "orphans").unwrap_or(Orphans::Kill),
    }
}

fn switch(reader: &mut Reader<'_>, file: &Section<'_>) -> Option<Symlink> {
    let section = table(reader, file, "switch");
    let node = section.find("symlink")?;
    let section = reader.section(&keys::SYMLINK, node)?;
    for key in keys::SYMLINK.keys {
        reader.require(
            &section,
            key.name,
            "write `symlink = { path = \"/run/app/app.sock\", to = \"/run/app/{{ blue_green() }}.sock\" }`",
        );
    }
    let (path, to) = (reader.path(&section, "path"), reader.path(&section, "to"));
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

fn hooks(reader: &mut Reader<'_>, file: &Section<'_>) -> Hooks {
    let section = table(reader, file, "hooks");
    Hooks {
        promote: reader.argv(&section, "promote"),
        promoted: reader.argv(&section, "promoted"),
        failed: reader.argv(&section, "failed"),
        rolled_back: reader.argv(&section, "rolled_back"),
        timeout: reader.duration(&section, "timeout"),
    }
}

fn log(reader: &mut Reader<'_>, file: &Section<'_>) -> Log {
    let section = table(reader, file, "log");
    let format = reader.word(&section, "format").unwrap_or(LogFormat::Auto);
    let level = reader.word(&section, "level").unwrap_or(tracing::Level::INFO);
    let log_file = reader.path(&section, "file");
    if let Some(node) = section.find("file").filter(|_| format == LogFormat::Journald) {
        reader.error(
            Error::at(node.span(), "`log.file` and `log.format = \"journald\"` exclude each other")
                .help("the journal's entries go to no file: remove one of them"),
        );
    }
    Log { format, level, file: log_file }
}
