//! `[healthcheck.*]`: the kinds of health check and their keys.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::error::{Error, all_of, any_of, nearest, quoted};
use super::keys::{self, HEALTHCHECKS};
use super::plan::{FcgiRequest, Health, Pace};
use super::proxy::Proxy;
use super::reader::{Reader, a};
use super::scalar::{Refused, refuse_help, spell};
use super::section::{Node, Section};
use super::{address, http};

/// Other tools' names for the kinds of health check.
const SYNONYMS: &[(&str, &str)] = &[
    ("container", "docker"),
    ("podman", "docker"),
    ("fastcgi", "fcgi"),
    ("php", "fcgi"),
    ("sd_notify", "notify"),
    ("systemd", "notify"),
];
/// The longest `params` of an `fcgi` check, in bytes: more than any web server sends.
const LONGEST_PARAMS: usize = 64 * 1024;

const COMMAND_HELP: &str =
    "the command whose exit code 0 means healthy: `cmd = [\"curl\", \"-fsS\", \"http://127.0.0.1:8080/up\"]`";

const SCRIPT_HELP: &str = "set the script to request (SCRIPT_FILENAME and SCRIPT_NAME): `script = \"/srv/app/ping.php\"`, or php-fpm's `ping.path`";

/// Reads `[healthcheck]`. `proxies`: those of the same file, if they are valid.
pub(super) fn healthcheck(reader: &mut Reader<'_>, file: &Section<'_>, proxies: Option<&[Proxy]>) -> Health {
    let default = |reader: &mut Reader<'_>| alive(reader, &Section::absent(&keys::ALIVE));
    let Some(node) = file.find("healthcheck") else { return default(reader) };
    let Some(entries) = reader.map("healthcheck", node) else { return default(reader) };
    let (mut first, mut health) = (None, None);
    for (kind, span, node) in &entries {
        let Some((kind, table)) = HEALTHCHECKS.iter().find(|(known, _)| known == kind) else {
            unknown_kind(reader, kind, span, node);
            continue;
        };
        if let Some(first) = first {
            reader.error(
                Error::at(span.clone(), format!("two health checks, `{first}` and `{kind}`"))
                    .help("a child is healthy by one check: keep one; a `command` can test several things"),
            );
        }
        first = first.or(Some(kind));
        let Some(section) = reader.section(table, node) else { continue };
        health = check(reader, kind, &section, proxies).or(health);
    }
    if entries.is_empty() {
        reader.error(Error::at(node.span(), "`[healthcheck]` has no kind of check").help(format!(
            "write `[healthcheck.KIND]` with one of {}, or leave it out for the default: healthy when still running after {}",
            any_of(&kinds()),
            default_time()
        )));
    }
    health.unwrap_or_else(|| default(reader))
}

fn kinds() -> Vec<&'static str> {
    HEALTHCHECKS.iter().map(|(kind, _)| *kind).collect()
}

/// How long a child must run that has no other health check.
fn default_time() -> &'static str {
    keys::ALIVE.key("timeout").and_then(|key| key.absent.value()).unwrap_or_default()
}

/// Reports a kind that does not exist, or a key of a kind that is in `[healthcheck]` itself.
fn unknown_kind(reader: &mut Reader<'_>, kind: &str, span: &Range<usize>, node: Node<'_>) {
    let is_key = HEALTHCHECKS.iter().any(|(_, table)| table.key(kind).is_some());
    if is_key && !node.get_ref().is_table() {
        reader.error(
            Error::at(span.clone(), format!("`{kind}` is not allowed in `[healthcheck]` itself")).help(
                format!("name the kind of check: `[healthcheck.KIND]` with one of {}", any_of(&kinds())),
            ),
        );
    } else {
        let error = Error::at(span.clone(), format!("there is no health check {}", quoted(kind)));
        let synonym = SYNONYMS.iter().find(|(other, _)| *other == kind).map(|(_, kind)| (*kind).to_owned());
        reader.error(match synonym.or_else(|| nearest(kind, kinds())) {
            Some(near) => error.help(format!("did you mean `[healthcheck.{near}]`?")),
            None => error.help(format!("there are {}", all_of(&kinds()))),
        });
    }
}

fn check(
    reader: &mut Reader<'_>,
    kind: &str,
    section: &Section<'_>,
    proxies: Option<&[Proxy]>,
) -> Option<Health> {
    match kind {
        "alive" => Some(alive(reader, section)),
        "command" => {
            let pace = pace(reader, section);
            reader.require(section, "cmd", COMMAND_HELP);
            let cmd = reader.argv(section, "cmd");
            (!cmd.is_empty()).then_some(Health::Command { cmd, pace })
        }
        "tcp" => {
            let pace = pace(reader, section);
            reader.require(section, "address", "where to connect: `address = \"127.0.0.1:8080\"`");
            let read = |text: &str| Ok((address::tcp(text)?, text.to_owned()));
            let (addresses, text) = reader.parsed(section, "address", read)?;
            Some(Health::Tcp { addresses, text, pace })
        }
        "unix" => {
            let pace = pace(reader, section);
            reader.require(section, "path", "where to connect: `path = \"/run/app/app.sock\"`");
            Some(Health::Unix { path: reader.parsed(section, "path", address::unix)?, pace })
        }
        "http" => {
            let pace = pace(reader, section);
            reader.require(section, "url", "what to get: `url = \"http://127.0.0.1:8080/up\"`");
            let request = http::request(reader, section, proxies);
            let status = status(reader, section);
            Some(Health::Http { request: request?, status: status?, pace })
        }
        "fcgi" => {
            let pace = pace(reader, section);
            let request = fcgi_request(reader, section);
            let status = status(reader, section);
            Some(Health::Fcgi { request: request?, status: status?, pace })
        }
        "docker" => {
            let pace = pace(reader, section);
            reader.require(section, "container", "the name that `docker ps` shows: `container = \"web\"`");
            let container = reader.parsed(section, "container", container);
            let socket = reader.parsed(section, "socket", address::engine);
            Some(Health::Docker { container: container?, socket: socket?, pace })
        }
        _ => Some(Health::Notify {
            extend: reader.duration(section, "extend"),
            settle: reader.duration(section, "settle"),
        }),
    }
}

fn alive(reader: &mut Reader<'_>, section: &Section<'_>) -> Health {
    Health::Alive { timeout: reader.duration(section, "timeout") }
}

/// Reads the keys that all probes have.
fn pace(reader: &mut Reader<'_>, section: &Section<'_>) -> Pace {
    Pace {
        after: reader.duration(section, "after"),
        interval: reader.duration(section, "interval"),
        timeout: reader.duration(section, "timeout"),
        successes: reader.number(section, "successes"),
        failures: reader.number(section, "failures"),
        settle: reader.duration(section, "settle"),
    }
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

/// The request of an `fcgi` check.
fn fcgi_request(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<FcgiRequest> {
    reader.require(
        section,
        "address",
        "where to connect: `address = \"unix:///run/app/app.sock\"` or `\"127.0.0.1:9000\"`",
    );
    let read = |text: &str| Ok((address::endpoint(text)?, text.to_owned()));
    let address = reader.parsed(section, "address", read);
    reader.require(section, "script", SCRIPT_HELP);
    let script = reader.parsed(section, "script", |text| match text {
        "" => refuse_help("`script` is empty", SCRIPT_HELP),
        text => Ok(text.to_owned()),
    });
    let query = reader.parsed(section, "query", |text| match text.strip_prefix('?') {
        Some(rest) => refuse_help(
            "the query begins with a `?`, which is no part of it",
            format!("did you mean {}?", quoted(rest)),
        ),
        None => Ok(text.to_owned()),
    });
    let mut params = Vec::new();
    if let Some(node) = section.find("params") {
        for (name, span, node) in reader.map("healthcheck.fcgi.params", node).unwrap_or_default() {
            if name == "CONTENT_LENGTH" {
                reader.error(
                    Error::at(span, "`CONTENT_LENGTH` can't be set in `[healthcheck.fcgi.params]`")
                        .help("psflip sends a request without a body"),
                );
            } else if reader.is_name(name, &span, "a parameter")
                && let Some(value) = reader.string(&format!("params.{name}"), node)
            {
                params.push((name.to_owned(), value));
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

/// Reports a `settle` that can't be over within `patience` (`upgrade.timeout`): no child could be promoted.
pub(super) fn fits(reader: &mut Reader<'_>, file: &Section<'_>, health: &Health, patience: Duration) {
    let (kind, after) = match health {
        Health::Alive { .. } => return,
        Health::Notify { .. } => ("notify", Duration::ZERO),
        Health::Command { pace, .. } => ("command", pace.after),
        Health::Docker { pace, .. } => ("docker", pace.after),
        Health::Tcp { pace, .. } => ("tcp", pace.after),
        Health::Unix { pace, .. } => ("unix", pace.after),
        Health::Http { pace, .. } => ("http", pace.after),
        Health::Fcgi { pace, .. } => ("fcgi", pace.after),
    };
    let (settle, total) = (health.settle(), after + health.settle());
    if settle.is_zero() || total < patience {
        return;
    }
    let mut node = file.find("healthcheck");
    for name in [kind, "settle"] {
        node = node.and_then(|node| match node.get_ref() {
            DeValue::Table(table) => table.get(name),
            _ => None,
        });
    }
    let what = if after.is_zero() { "`settle` takes" } else { "`after` and `settle` together take" };
    reader.error(Error {
        message: format!(
            "{what} {}, and `upgrade.timeout` is {}: no child could be promoted",
            spell(total),
            spell(patience)
        ),
        span: node.map(Spanned::span),
        help: Some("make `upgrade.timeout` longer: it is the time for the start and all of this".to_owned()),
    });
}

/// Reports settings that conflict with the health check.
pub(super) fn conflicts(reader: &mut Reader<'_>, file: &Section<'_>, health: &Health) {
    if !matches!(health, Health::Notify { .. }) {
        return;
    }
    let Some(DeValue::Table(env)) = file.find("env").map(toml::Spanned::get_ref) else { return };
    if let Some((name, _)) = env.get_key_value("NOTIFY_SOCKET") {
        reader.error(
            Error::at(name.span(), "`NOTIFY_SOCKET` can't be set in `[env]` beside `[healthcheck.notify]`")
                .help("psflip sets it to the socket on which it waits for READY=1; leave it out"),
        );
    }
}

/// Reads `status`: a string, or a single code as an integer.
fn status(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    let node = section.find("status");
    match node.map(|node| (node, node.get_ref())) {
        Some((node, DeValue::Integer(number))) => match address::status(&number.to_string()) {
            Ok(codes) => Some(codes),
            Err(refused) => {
                reader.refused(node, refused);
                None
            }
        },
        None | Some((_, DeValue::String(_))) => reader.parsed(section, "status", address::status),
        Some((node, _)) => {
            reader.error(
                Error::at(node.span(), format!("`status` must be a string, not {}", a(node)))
                    .help("write codes and ranges in one string: `\"200,204,300-399\"`"),
            );
            None
        }
    }
}
