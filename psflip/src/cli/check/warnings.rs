//! Warnings about a valid configuration that is probably unintended: a health check that proves nothing,
//! times that contradict each other, paths that do not exist (`paths.rs`).

use std::ffi::CString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{Document, Endpoint, EnvChange, Health, Pace, Plan, Warning, spell};
use crate::signal::Signal;

use super::{bake, output, overlap, paths, proxies, recycle, trust, variables};

/// A longer delay before draining gets a warning.
const LONG_DELAY: Duration = Duration::from_secs(300);

/// All warnings about `plan`. `next` is the plan of the next generation, `envp` psflip's environment.
pub(super) fn of(plan: &Plan, next: Option<&Plan>, document: &Document, envp: &[CString]) -> Vec<Warning> {
    let mut found = of_outages(plan, next, document);
    found.extend(times(plan, document));
    found.extend(proxies::of(plan, next));
    found.extend(overlap::of(plan));
    found.extend(bake::of(plan));
    found.extend(recycle::of(plan, document));
    found.extend(signals(plan));
    found.extend(paths::of(plan, envp));
    found.extend(output::of(plan, envp));
    found.extend(variables::of(plan));
    found.extend(trust::of(plan, Path::new(document.name()), envp));
    found
}

/// Warnings of likely outages: a child that does not serve would be promoted, or no upgrade would work.
pub(super) fn of_outages(plan: &Plan, next: Option<&Plan>, document: &Document) -> Vec<Warning> {
    let mut found = Vec::new();
    found.extend(nothing_is_asked(plan, document));
    let proxied = proxies::of_outages(plan, next);
    // A check of the proxy's own address is constant as well, and one warning is enough.
    if plan.upgrade.overlap && !proxied.iter().any(|warning| warning.key == "healthcheck") {
        found.extend(next.and_then(|next| old_answers(&plan.health, &next.health)));
    }
    found.extend(proxied);
    found.extend(entered_through_a_link(plan, document));
    if next.is_none() {
        found.push(Warning {
            key: String::new(),
            message: "the next generation could not read it: every upgrade would fail".to_owned(),
            help: "a template has an error in the other slot: look at `ab(...)` and `generation()`"
                .to_owned(),
        });
    }
    found
}

/// A directory that was entered through a symlink, such as `current` of a release. psflip and its child stay
/// in the directory that the symlink pointed to then, and relative paths are always looked up there.
fn entered_through_a_link(plan: &Plan, document: &Document) -> Option<Warning> {
    let logical = PathBuf::from(std::env::var_os("PWD")?);
    let real = std::env::current_dir().ok()?;
    // As pwd(1) decides whether `PWD` is valid.
    let is_here = logical.is_absolute()
        && std::fs::metadata(&logical)
            .ok()
            .zip(std::fs::metadata(&real).ok())
            .is_some_and(|(one, other)| (one.dev(), one.ino()) == (other.dev(), other.ino()));
    if !is_here || logical == real {
        return None;
    }
    let relative = |path: &str| !path.starts_with('/');
    let file = document.file().filter(|path| relative(path));
    let program = plan.cmd.first().filter(|program| program.contains('/') && relative(program));
    let workdir_is_here = plan.workdir.as_ref().is_none_or(|workdir| workdir.is_relative());
    let (key, what) = match (file, program) {
        (Some(file), _) => ("", file.to_owned()),
        (None, Some(program)) if workdir_is_here => ("cmd", program.clone()),
        _ => return None,
    };
    Some(warning(
        key,
        format!(
            "`{what}` is looked up in `{}`, to which `{}` leads now: upgrades will not follow the link, and fail once that directory is removed",
            real.display(),
            logical.display()
        ),
        &format!(
            "name it with an absolute path through the link (`{}`), and set `workdir` to `{}`",
            logical.join(&what).display(),
            logical.display()
        ),
    ))
}

fn warning(key: &str, message: String, help: &str) -> Warning {
    Warning { key: key.to_owned(), message, help: help.to_owned() }
}

/// A server without a health check that probes it.
fn nothing_is_asked(plan: &Plan, document: &Document) -> Option<Warning> {
    let Health::Alive { timeout } = plan.health else { return None };
    let (key, why) = if !plan.listeners.is_empty() {
        ("listen", "it has a listener".to_owned())
    } else if !plan.proxies.is_empty() {
        ("proxy", "a proxy forwards to it".to_owned())
    } else if let Some(argument) = plan.cmd.iter().skip(1).find(|argument| names_an_address(argument)) {
        ("cmd", format!("`{argument}` looks like an address"))
    } else {
        let name = plan.env.iter().find_map(|change| match change {
            EnvChange::Set(name, _) if name == "PORT" || name.ends_with("_PORT") => Some(name),
            _ => None,
        })?;
        ("env", format!("`{name}` looks like a port"))
    };
    let key = if document.has_key("healthcheck") { "healthcheck.alive" } else { key };
    Some(warning(
        key,
        format!(
            "every start and upgrade waits {}, and the child counts as healthy if it still runs then, but {why}: a version that does not serve would be promoted, and the old one stopped",
            spell(timeout)
        ),
        if plan.listeners.is_empty() && !plan.proxies.is_empty() {
            proxies::check_of_child(&plan.proxies)
        } else if plan.listeners.is_empty() {
            "add a health check that probes it (`[healthcheck.http]`, `[healthcheck.tcp]`, `[healthcheck.unix]`, ...), or let it report that it is ready (`[healthcheck.notify]`)"
        } else {
            // Probes of the listener would reach the old child.
            "let it report that it is ready (`[healthcheck.notify]`), or let a command check it (`[healthcheck.command]`)"
        },
    ))
}

/// Matches `--port`, `--listen=x`, `:8080`, `0.0.0.0:80`, `app.sock`.
fn names_an_address(argument: &str) -> bool {
    let option = argument.trim_start_matches('-').split('=').next().unwrap_or_default();
    let is_option = argument.starts_with('-')
        && ["port", "listen", "bind", "socket", "addr", "address"].contains(&option);
    let port =
        argument.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
    is_option || port || argument.ends_with(".sock")
}

/// A health check that the old child passes as well.
fn old_answers(health: &Health, next: &Health) -> Option<Warning> {
    let tcp = |health: &Health| match health {
        Health::Tcp { addresses, text, .. } => Some((addresses.clone(), text.clone(), "tcp.address")),
        Health::Http { request, .. } => match &request.target {
            Endpoint::Tcp(addresses) => Some((addresses.clone(), request.url.clone(), "http.url")),
            Endpoint::Unix(_) => None,
        },
        Health::Fcgi { request, .. } => match &request.target {
            Endpoint::Tcp(addresses) => Some((addresses.clone(), request.address.clone(), "fcgi.address")),
            Endpoint::Unix(_) => None,
        },
        _ => None,
    };
    if let (Health::Docker { container, .. }, Health::Docker { container: other, .. }) = (health, next)
        && container == other
    {
        return Some(warning(
            "healthcheck.docker.container",
            format!(
                "every generation checks the container `{container}`: while the old one runs, its health is taken for the new one's"
            ),
            "give each generation a container of its own: `web-{{ blue_green() }}`",
        ));
    }
    let ((addresses, text, key), (others, ..)) = (tcp(health)?, tcp(next)?);
    (addresses == others).then(|| {
        warning(
            &format!("healthcheck.{key}"),
            format!("every generation probes `{text}`: while the old child listens there, its answer is taken for the new one's"),
            "give each generation a port of its own (`{{ ab('8080', '8081') }}`), or let psflip open the port for all (`[[listen]]`) and let the child report that it is ready (`[healthcheck.notify]`)",
        )
    })
}

/// Times that contradict each other.
fn times(plan: &Plan, document: &Document) -> Vec<Warning> {
    let mut found = Vec::new();
    let patience = plan.upgrade.timeout;
    let key = |rest: &str| format!("healthcheck.{rest}");
    match &plan.health {
        Health::Alive { timeout } if *timeout >= patience => found.push(warning(
            if document.has_key("healthcheck.alive.timeout") { "healthcheck.alive.timeout" } else { "upgrade.timeout" },
            format!("a child is healthy after {timeout}, and `upgrade.timeout` is {patience}: no upgrade can succeed", timeout = spell(*timeout), patience = spell(patience)),
            "make `upgrade.timeout` the longer one",
        )),
        Health::Command { pace, .. } => found.extend(pace_fits(pace, patience, &key("command"))),
        Health::Docker { pace, .. } => found.extend(pace_fits(pace, patience, &key("docker"))),
        Health::Tcp { pace, .. } => found.extend(pace_fits(pace, patience, &key("tcp"))),
        Health::Unix { pace, .. } => found.extend(pace_fits(pace, patience, &key("unix"))),
        Health::Http { pace, .. } => found.extend(pace_fits(pace, patience, &key("http"))),
        Health::Fcgi { pace, .. } => found.extend(pace_fits(pace, patience, &key("fcgi"))),
        Health::Alive { .. } | Health::Notify { .. } => {}
    }
    let hooks = &plan.hooks;
    if !hooks.promote.is_empty() && hooks.timeout >= patience {
        found.push(warning(
            "hooks.timeout",
            format!("`hooks.promote` may take {}, longer than the child may take to be healthy ({patience}): an upgrade that hangs there is noticed late", spell(hooks.timeout), patience = spell(patience)),
            "set `hooks.timeout` to what the hook needs",
        ));
    }
    let no_hook = plan.upgrade.precheck.is_empty()
        && hooks.promote.is_empty()
        && hooks.promoted.is_empty()
        && hooks.failed.is_empty();
    if no_hook && document.has_key("hooks.timeout") {
        found.push(warning(
            "hooks.timeout",
            "there is no hook that it could limit".to_owned(),
            "set `promote`, `promoted` or `failed`, or leave it out",
        ));
    }
    let shutdown = &plan.shutdown;
    if shutdown.delay >= LONG_DELAY {
        found.push(warning(
            "shutdown.delay",
            format!("for {} after an upgrade both children run, and the next upgrade waits for that", spell(shutdown.delay)),
            "it is time for clients to find the new child, not for the old one to finish its work: that is `shutdown.timeout`",
        ));
    }
    if shutdown.signal == Signal::KILL {
        found.push(warning(
            "shutdown.signal",
            "a child can't handle SIGKILL: what it is doing is lost at every upgrade".to_owned(),
            "use the signal on which your program shuts down gracefully; SIGKILL follows after `shutdown.timeout` anyway",
        ));
    }
    found
}

/// Stop requests that stop the child with another signal than an upgrade does.
fn signals(plan: &Plan) -> Vec<Warning> {
    let mut found = Vec::new();
    let stops = plan.signals.iter().filter(|(received, _)| [Signal::TERM, Signal::INT].contains(received));
    for (received, sent) in stops.filter_map(|(received, sent)| Some((*received, (*sent)?))) {
        if sent == Signal::KILL {
            found.push(warning(
                &format!("signals.{received}"),
                format!("{received} becomes SIGKILL, which a child can't handle: what it is doing is lost at every stop"),
                "use the signal on which your program shuts down gracefully",
            ));
        } else if received == Signal::TERM && plan.shutdown.signal == Signal::TERM && sent != Signal::TERM {
            found.push(warning(
                &format!("signals.{received}"),
                format!("SIGTERM becomes {sent}, but an old child gets SIGTERM at every upgrade (`shutdown.signal`)"),
                &format!("set `shutdown.signal = \"{sent}\"` too, if your program shuts down gracefully on it"),
            ));
        }
    }
    // SIGKILL has a warning of its own.
    let upgrade = plan.shutdown.signal;
    if ![Signal::TERM, Signal::KILL].contains(&upgrade)
        && !plan.signals.iter().any(|(received, _)| *received == Signal::TERM)
    {
        found.push(warning(
            "shutdown.signal",
            format!(
                "an upgrade stops the old child by {upgrade}, but SIGTERM of a supervisor (`systemctl stop`, `docker stop`) or of kill(1) is passed on as it is, and may break off what {upgrade} lets it finish"
            ),
            &format!("write what SIGTERM becomes for the child: `[signals]` with `SIGTERM = \"{upgrade}\"`, or with `SIGTERM = \"SIGTERM\"` if that is intended"),
        ));
    }
    found
}

/// Probes that can't succeed before `upgrade.timeout`.
fn pace_fits(pace: &Pace, patience: Duration, table: &str) -> Option<Warning> {
    let earliest = pace.after + pace.interval * (pace.successes - 1) + pace.settle;
    if earliest >= patience {
        let key = if pace.after >= patience {
            "after"
        } else if pace.successes > 1 {
            "successes"
        } else {
            "interval"
        };
        return Some(warning(
            &format!("{table}.{key}"),
            format!(
                "a child can be healthy after {earliest} at the earliest, and `upgrade.timeout` is {patience}: no upgrade can succeed",
                earliest = spell(earliest),
                patience = spell(patience)
            ),
            "make `upgrade.timeout` longer, or `after`, `interval`, `successes` and `settle` smaller",
        ));
    }
    (pace.timeout >= patience).then(|| {
        warning(
            &format!("{table}.timeout"),
            format!("one probe may take {}, and `upgrade.timeout` is {patience}: a probe that hangs is never repeated", spell(pace.timeout), patience = spell(patience)),
            "make `timeout` short enough for several probes",
        )
    })
}
