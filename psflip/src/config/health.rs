//! `[healthcheck.*]`: the kinds of health check and their keys.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::build::{find, is_name, misspelled, set};
use super::error::{Error, all_of, any_of, nearest, quoted};
use super::plan::{Endpoint, FcgiRequest, Health, Pace};
use super::reader::{Node, Reader, Section, Zero, a};
use super::scalar::{Refused, refuse_help};
use super::{address, http, keys};

const KINDS: &[&str] = &["alive", "command", "docker", "tcp", "unix", "http", "fcgi", "notify"];
/// Other tools' names for the kinds of health check.
const SYNONYMS: &[(&str, &str)] = &[
    ("container", "docker"),
    ("podman", "docker"),
    ("fastcgi", "fcgi"),
    ("php", "fcgi"),
    ("sd_notify", "notify"),
    ("systemd", "notify"),
];
const ALIVE: &[&str] = keys::ALIVE.names;
const COMMAND: &[&str] = keys::COMMAND.names;
const DOCKER: &[&str] = keys::DOCKER.names;
const TCP: &[&str] = keys::TCP.names;
const UNIX: &[&str] = keys::UNIX.names;
const HTTP: &[&str] = keys::HTTP.names;
const FCGI: &[&str] = keys::FCGI.names;
const NOTIFY: &[&str] = keys::NOTIFY.names;

/// The tables and their keys.
pub(super) const TABLES: &[(&str, &[&str])] = &[
    ("[healthcheck.alive]", ALIVE),
    ("[healthcheck.command]", COMMAND),
    ("[healthcheck.tcp]", TCP),
    ("[healthcheck.unix]", UNIX),
    ("[healthcheck.http]", HTTP),
    ("[healthcheck.fcgi]", FCGI),
    ("[healthcheck.docker]", DOCKER),
    ("[healthcheck.notify]", NOTIFY),
];

/// Where Docker's Engine listens by default.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// The longest `params` of an `fcgi` check, in bytes: more than any web server sends.
const LONGEST_PARAMS: usize = 64 * 1024;

const SCRIPT_HELP: &str = "set the script to request (SCRIPT_FILENAME and SCRIPT_NAME): `script = \"/srv/app/ping.php\"`, or php-fpm's `ping.path`";

/// The default pace of probes. A command costs a process, and the Engine itself probes no more often, so both
/// have a longer interval than a connection.
fn pace(interval: Duration) -> Pace {
    Pace { after: Duration::ZERO, interval, timeout: Duration::from_secs(5), successes: 1 }
}

/// Reads `[healthcheck]`.
pub(super) fn healthcheck(reader: &mut Reader<'_>, node: Node<'_>, health: &mut Health) {
    let Some(section) = reader.table("healthcheck", node) else { return };
    let mut first: Option<&str> = None;
    for (kind, span, node) in &section.entries {
        if !KINDS.contains(kind) {
            unknown_kind(reader, kind, span, node);
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
        reader.error(Error::at(node.span(), "`[healthcheck]` has no kind of check").help(format!(
            "write `[healthcheck.KIND]` with one of {}, or leave it out for the default: healthy when still running after 5s",
            any_of(KINDS)
        )));
    }
}

/// Reports a kind that does not exist, or a key of a kind that is in `[healthcheck]` itself.
fn unknown_kind(reader: &mut Reader<'_>, kind: &str, span: &Range<usize>, node: Node<'_>) {
    let key = TABLES.iter().any(|(_, keys)| keys.contains(&kind));
    if key && !node.get_ref().is_table() {
        reader.error(
            Error::at(span.clone(), format!("`{kind}` is not allowed in `[healthcheck]` itself"))
                .help(format!("name the kind of check: `[healthcheck.KIND]` with one of {}", any_of(KINDS))),
        );
    } else {
        let error = Error::at(span.clone(), format!("there is no health check {}", quoted(kind)));
        let synonym = SYNONYMS.iter().find(|(other, _)| *other == kind).map(|(_, kind)| (*kind).to_owned());
        reader.error(match synonym.or_else(|| nearest(kind, KINDS)) {
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
        "http" => {
            let read =
                |reader: &mut Reader<'_>, key: &str, node: Node<'_>| reader.parsed(key, node, address::url);
            let (request, pace) = probe(reader, section, node, "url", HTTP, quick, read);
            let request = http::request(reader, section, request);
            Some(Health::Http { request: request?, status: statuses(reader, section), pace })
        }
        "fcgi" => {
            let read = |reader: &mut Reader<'_>, key: &str, node: Node<'_>| {
                reader.parsed(key, node, |text| Ok((address::endpoint(text)?, text.to_owned())))
            };
            let (address, pace) = probe(reader, section, node, "address", FCGI, quick, read);
            let status = statuses(reader, section);
            let request = fcgi_request(reader, section, node, address);
            Some(Health::Fcgi { request: request?, status, pace })
        }
        "docker" => {
            let slow = pace(Duration::from_secs(1));
            let read =
                |reader: &mut Reader<'_>, key: &str, node: Node<'_>| reader.parsed(key, node, container);
            let (container, pace) = probe(reader, section, node, "container", DOCKER, slow, read);
            let mut socket = Some(PathBuf::from(DOCKER_SOCKET));
            if let Some(node) = find(section, "socket") {
                socket = reader.parsed("socket", node, address::engine);
            }
            Some(Health::Docker { container: container?, socket: socket?, pace })
        }
        _ => {
            let mut extend = Duration::from_secs(600);
            for (key, span, node) in &section.entries {
                match *key {
                    "extend" => set(&mut extend, reader.duration("extend", node, Zero::Allowed)),
                    _ => reader.unknown(section, key, span, NOTIFY),
                }
            }
            Some(Health::Notify { extend })
        }
    }
}

/// The status codes that mean healthy.
fn statuses(reader: &mut Reader<'_>, section: &Section<'_>) -> Vec<RangeInclusive<u16>> {
    let mut codes = vec![200..=399];
    if let Some(node) = find(section, "status") {
        set(&mut codes, status(reader, node));
    }
    codes
}

/// A container's name or id, limited to the characters that the Engine allows in a path.
fn container(text: &str) -> Result<String, Refused> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if text.is_empty() {
        return refuse_help("the name of the container is empty", "write the name that `docker ps` shows");
    }
    if let Some(bad) = text.chars().find(|c| !allowed(*c)) {
        return refuse_help(
            format!(
                "{} is no name of a container: it has a {} in it",
                quoted(text),
                quoted(&bad.to_string())
            ),
            "letters, digits, `_`, `.` and `-` are allowed: the name or id that `docker ps` shows",
        );
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) || text.len() > 255 {
        return refuse_help(
            format!("{} is no name of a container", quoted(text)),
            "it begins with a letter or a digit and has at most 255 characters",
        );
    }
    Ok(text.to_owned())
}

/// The request of an `fcgi` check; `address` is already read.
fn fcgi_request(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    node: Node<'_>,
    address: Option<(Endpoint, String)>,
) -> Option<FcgiRequest> {
    let script = match find(section, "script") {
        Some(node) => reader.parsed("script", node, |text| match text {
            "" => refuse_help("`script` is empty", SCRIPT_HELP),
            text => Ok(text.to_owned()),
        }),
        None if misspelled(section, "script", FCGI) => None,
        None => {
            reader.error(
                Error::at(node.span(), format!("`script` is missing in `{}`", section.name))
                    .help(SCRIPT_HELP),
            );
            None
        }
    };
    let mut query = Some(String::new());
    if let Some(node) = find(section, "query") {
        query = reader.parsed("query", node, |text| match text.strip_prefix('?') {
            Some(rest) => refuse_help(
                "the query begins with a `?`, which is no part of it",
                format!("did you mean {}?", quoted(rest)),
            ),
            None => Ok(text.to_owned()),
        });
    }
    let mut params = Vec::new();
    if let Some(node) = find(section, "params")
        && let Some(table) = reader.table("healthcheck.fcgi.params", node)
    {
        for (name, span, node) in &table.entries {
            if *name == "CONTENT_LENGTH" {
                reader.error(
                    Error::at(span.clone(), "`CONTENT_LENGTH` can't be set in `[healthcheck.fcgi.params]`")
                        .help("psflip sends a request without a body"),
                );
            } else if is_name(reader, name, span, "a parameter")
                && let Some(value) = reader.string(&format!("params.{name}"), node)
            {
                params.push(((*name).to_owned(), value));
            }
        }
        let total: usize = params.iter().map(|(name, value)| name.len() + value.len()).sum();
        if total > LONGEST_PARAMS {
            reader.error(
                Error::at(node.span(), format!("the parameters have {total} bytes together"))
                    .help(format!("at most {LONGEST_PARAMS} are allowed")),
            );
        }
    }
    let (target, address) = address?;
    Some(FcgiRequest { address, target, script: script?, query: query?, params })
}

/// Reports settings that conflict with the health check.
pub(super) fn conflicts(reader: &mut Reader<'_>, file: &Section<'_>, health: &Health) {
    if !matches!(health, Health::Notify { .. }) {
        return;
    }
    let Some(DeValue::Table(env)) = find(file, "env").map(toml::Spanned::get_ref) else { return };
    if let Some((name, _)) = env.get_key_value("NOTIFY_SOCKET") {
        reader.error(
            Error::at(name.span(), "`NOTIFY_SOCKET` can't be set in `[env]` beside `[healthcheck.notify]`")
                .help("psflip sets it to the socket on which it waits for READY=1; leave it out"),
        );
    }
}

/// Reads the keys that all probes have, and the key that says what to probe.
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
                    "address" if section.name == "[healthcheck.fcgi]" => "where to connect: `address = \"unix:///run/app/app.sock\"` or `\"127.0.0.1:9000\"`",
                    "address" => "where to connect: `address = \"127.0.0.1:8080\"`",
                    "container" => "the name that `docker ps` shows: `container = \"web\"`",
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
                let zero = Zero::Refused("probes without a pause would load the host");
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

/// Reads `status`: a string, or a single code as an integer.
fn status(reader: &mut Reader<'_>, node: Node<'_>) -> Option<Vec<RangeInclusive<u16>>> {
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
