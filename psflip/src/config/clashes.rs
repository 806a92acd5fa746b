//! Compares the paths that psflip writes with all other paths of the same configuration, so that psflip never
//! overwrites or blocks one of them. Files that the configuration does not mention are checked when the path
//! is used.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use super::error::{Error, quoted};
use super::listener::{ListenAddress, Listener};
use super::plan::{Endpoint, Health, Plan};
use super::proxy::Forward;
use super::reader::Reader;
use super::section::Section;

/// A path and its purpose.
struct Use {
    /// The key that sets it.
    key: &'static str,
    what: &'static str,
    path: PathBuf,
}

/// Reports every path that psflip writes and that the configuration also uses for something else. `name` is
/// the path of the configuration.
pub(super) fn refuse(reader: &mut Reader<'_>, file: &Section<'_>, plan: &Plan, name: &str) {
    let own = own(plan);
    if own.is_empty() {
        return;
    }
    let used = used(plan, name);
    for (index, Use { key, what, path }) in own.iter().enumerate() {
        let others = own[..index].iter().chain(&used);
        let Some(other) = others.into_iter().find(|other| other.key != *key && is_same(&other.path, path))
        else {
            continue;
        };
        let message = format!("{what} {} is also {}", quoted(&path.to_string_lossy()), other.what);
        // The default of `control.socket` is derived from the pidfile.
        let span = file
            .find(key)
            .or_else(|| file.find("pidfile"))
            .or_else(|| file.find("log"))
            .map(toml::Spanned::span);
        reader.error(Error { message, span, help: Some("give each a path of its own".to_owned()) });
    }
}

/// Paths that psflip creates, replaces and removes.
fn own(plan: &Plan) -> Vec<Use> {
    let pidfile = plan.pidfile.clone().map(|path| Use { key: "pidfile", what: "the pidfile", path });
    let link = plan.switch.as_ref().map(|link| Use {
        key: "switch",
        what: "the link of `[switch]`",
        path: link.path.clone(),
    });
    let listeners = plan.listeners.iter().filter_map(|listener| listener.address.unix_path());
    let listeners = listeners.map(|path| Use {
        key: "listen",
        what: "the address of a `[[listen]]`",
        path: path.to_owned(),
    });
    let proxies = plan.proxies.iter().filter_map(|proxy| proxy.socket.address.unix_path());
    let proxies =
        proxies.map(|path| Use { key: "proxy", what: "the address of a `[[proxy]]`", path: path.to_owned() });
    let control = plan.control.path(plan.pidfile.as_deref());
    // It is beside the pidfile, or without one beside the control socket (`manager::last_exit::path`).
    let record = match (&plan.pidfile, &control) {
        (Some(pidfile), _) => Some(("pidfile", pidfile)),
        (None, Some(control)) => Some(("control", control)),
        (None, None) => None,
    };
    let record = record.map(|(key, beside)| {
        let mut path = beside.as_os_str().to_owned();
        path.push(".last");
        Use { key, what: "the record of the last exit", path: path.into() }
    });
    let control = control.map(|path| Use { key: "control", what: "the control socket", path });
    let own = pidfile.into_iter().chain(record).chain(link).chain(listeners).chain(proxies).chain(control);
    own.chain(logs(plan)).collect()
}

/// Files to which psflip appends. Output and log may go to one file.
fn logs(plan: &Plan) -> impl Iterator<Item = Use> {
    let targets = plan.output.targets().into_iter();
    let targets = targets.filter_map(|(_, target)| Some((target.file()?, "the file of `[output]`")));
    let log = plan.log.file.iter().map(|path| (path.as_path(), "the file of `log.file`"));
    targets.chain(log).map(|(path, what)| Use { key: "output", what, path: path.to_owned() })
}

/// Paths that the configuration uses for something else.
fn used(plan: &Plan, name: &str) -> Vec<Use> {
    let mut used = vec![Use { key: "", what: "the configuration", path: name.into() }];
    let workdir = plan.workdir.as_deref().unwrap_or(Path::new(""));
    let programs = [
        ("the program of `cmd`", &plan.cmd),
        ("the program of `upgrade.precheck`", &plan.upgrade.precheck),
        ("the program of `hooks.promote`", &plan.hooks.promote),
        ("the program of `hooks.promoted`", &plan.hooks.promoted),
        ("the program of `hooks.failed`", &plan.hooks.failed),
    ];
    let probe = match &plan.health {
        Health::Command { cmd, .. } => Some(("the program of the health check", cmd)),
        _ => None,
    };
    // A name without a slash is looked up in PATH (execvp(3)).
    used.extend(programs.into_iter().chain(probe).filter_map(|(what, argv)| {
        let program = argv.first().filter(|program| program.contains('/'))?;
        Some(Use { key: "", what, path: workdir.join(program) })
    }));
    if let Some(workdir) = &plan.workdir {
        used.push(Use { key: "", what: "`workdir`", path: workdir.clone() });
    }
    if let Some(link) = &plan.switch {
        // The target of a symlink is relative to the directory of the symlink (symlink(7)).
        let to = link.path.parent().unwrap_or(Path::new("")).join(&link.to);
        for path in [to, link.to.clone()] {
            used.push(Use { key: "switch", what: "where the link of `[switch]` points to", path });
        }
    }
    // `proxies.rs` compares it with the sockets that psflip opens.
    used.extend(plan.proxies.iter().filter_map(|proxy| match &proxy.forward {
        Forward::Unix(path) if plan.sockets().all(|socket| socket.address.unix_path() != Some(path)) => {
            Some(Use { key: "proxy", what: "where a `[[proxy]]` forwards to", path: path.clone() })
        }
        Forward::Unix(_) | Forward::Tcp(_) => None,
    }));
    // A health check of a shared listener has an error of its own. A health check may connect through the
    // symlink on purpose.
    let socket = match &plan.health {
        Health::Unix { path, .. } => Some(path),
        Health::Docker { socket, .. } => Some(socket),
        Health::Http { request, .. } => unix(&request.target),
        Health::Fcgi { request, .. } => unix(&request.target),
        _ => None,
    };
    let is_other = |path: &&PathBuf| {
        let link = plan.switch.as_ref().map(|link| &link.path);
        let mut addresses = plan.sockets().map(|socket| socket.address.unix_path());
        let shared = addresses.any(|address| address == Some(path));
        !shared && link.is_none_or(|link| !is_same(link, path))
    };
    used.extend(socket.filter(is_other).map(|path| Use {
        key: "healthcheck",
        what: "the socket that the health check probes",
        path: path.clone(),
    }));
    used
}

fn unix(target: &Endpoint) -> Option<&PathBuf> {
    match target {
        Endpoint::Unix(path) => Some(path),
        Endpoint::Tcp(_) => None,
    }
}

/// Whether two paths name the same file as they are written; symlinks are not followed.
fn is_same(one: &Path, other: &Path) -> bool {
    if one.file_name() != other.file_name() && !ends_in_dots(one) && !ends_in_dots(other) {
        return false; // the usual case
    }
    if one.is_absolute() == other.is_absolute() {
        return plain(one) == plain(other);
    }
    match (std::path::absolute(one), std::path::absolute(other)) {
        (Ok(one), Ok(other)) => plain(&one) == plain(&other),
        _ => false,
    }
}

fn ends_in_dots(path: &Path) -> bool {
    path.file_name().is_none()
}

/// The path without `.` and `..`, as far as that is possible.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

/// Reports a health check that would reach a shared listener.
pub(super) fn refuse_shared(reader: &mut Reader<'_>, file: &Section<'_>, plan: &Plan) {
    let Some(listener) = shared_with(&plan.listeners, &plan.health) else { return };
    let address = quoted(&listener.address.to_string());
    let (message, help) = match listener.address {
        ListenAddress::Unixgram(_) | ListenAddress::Unixpacket(_) => {
            (format!("the health check can't connect to {address}: it is no stream socket"), NO_STREAM)
        }
        _ => (format!("the health check probes the shared listener {address}"), SHARED),
    };
    let span = file.find("healthcheck").map(toml::Spanned::span);
    reader.error(Error { message, span, help: Some(help.to_owned()) });
}

const SHARED: &str = "the old child accepts on it too, so its answer would be taken for the new one's; use `[healthcheck.notify]`, \
     `[healthcheck.command]` or an address of the new child's own";

const NO_STREAM: &str = "use `[healthcheck.notify]` or `[healthcheck.command]`; the old child reads from it too, so an answer would say \
     nothing anyway";

/// The listener that a connection of this health check would reach, if any. While a new child starts, the old
/// child accepts on it as well, so a success would prove nothing about the new one. A Unix socket of another
/// type counts as well: a connection to it never succeeds.
fn shared_with<'l>(listeners: &'l [Listener], health: &Health) -> Option<&'l Listener> {
    let (tcp, unix): (&[SocketAddr], Option<&Path>) = match health {
        Health::Alive { .. } | Health::Command { .. } | Health::Docker { .. } | Health::Notify { .. } => {
            return None;
        }
        Health::Tcp { addresses, .. } => (addresses, None),
        Health::Unix { path, .. } => (&[], Some(path)),
        Health::Http { request, .. } => parts(&request.target),
        Health::Fcgi { request, .. } => parts(&request.target),
    };
    listeners.iter().find(|listener| match &listener.address {
        ListenAddress::Tcp(bound) => tcp.iter().any(|address| reaches(*address, *bound)),
        ListenAddress::Udp(_) | ListenAddress::Systemd(_) => false,
        address => unix.is_some() && address.unix_path() == unix,
    })
}

fn parts(target: &Endpoint) -> (&[SocketAddr], Option<&Path>) {
    match target {
        Endpoint::Tcp(addresses) => (addresses, None),
        Endpoint::Unix(path) => (&[], Some(path)),
    }
}

/// Whether a socket bound to `bound` accepts connections to `address`.
fn reaches(address: SocketAddr, bound: SocketAddr) -> bool {
    let everywhere = bound.ip().is_unspecified() && (bound.is_ipv6() || address.is_ipv4());
    address.port() == bound.port() && (everywhere || address.ip() == bound.ip())
}
