//! Warnings about paths that do not exist (yet), and about directories in which other users could replace a
//! file.

use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use crate::config::{Control, Endpoint, Forward, Health, Plan, Warning};
use crate::process::environment::child_environment;
use crate::process::launch::candidates;

/// The bits of a directory's mode (stat(2)) that matter here.
const WRITABLE_BY_ALL: u32 = 0o002;
const STICKY: u32 = 0o1000;

/// All warnings about paths. Relative paths are looked up as psflip does, from its own directory or from
/// `workdir`.
pub(super) fn of(plan: &Plan, envp: &[CString]) -> Vec<Warning> {
    let mut found = Vec::new();
    let workdir = plan.workdir.clone().unwrap_or_else(|| ".".into());
    if workdir.is_dir() {
        let envp = child_environment(envp, plan.environment(), &[]);
        found.extend(plan.argv().next().and_then(|name| program("cmd", name, &workdir, &envp)));
        let mut programs = Vec::new();
        if let Health::Command { cmd, .. } = &plan.health {
            programs.push(("healthcheck.command.cmd", cmd));
        }
        let hooks = &plan.hooks;
        programs.extend([
            ("upgrade.precheck", &plan.upgrade.precheck),
            ("hooks.promote", &hooks.promote),
            ("hooks.promoted", &hooks.promoted),
            ("hooks.failed", &hooks.failed),
        ]);
        found.extend(
            programs.iter().filter_map(|(key, argv)| program(key, argv.first()?.as_ref(), &workdir, &envp)),
        );
    } else {
        found.push(missing("workdir", &workdir, "is not a directory (yet)", "no child could be started"));
    }
    if let Some(pidfile) = &plan.pidfile {
        found.extend(shared_pidfile(plan, pidfile));
        found.extend(directory("pidfile", pidfile));
        found.extend(writable("pidfile", pidfile));
    }
    if let Control::At(socket) = &plan.control {
        found.extend(directory("control.socket", socket));
        found.extend(writable("control.socket", socket));
    }
    for (index, listener) in plan.listeners.iter().enumerate() {
        if let Some(path) = listener.address.unix_path()
            && !is_abstract(path)
        {
            found.extend(directory(&format!("listen.{index}.address"), path));
        }
    }
    for (index, proxy) in plan.proxies.iter().enumerate() {
        let forward = match &proxy.forward {
            Forward::Unix(path) => Some(path.as_path()),
            Forward::Tcp(_) => None,
        };
        for (key, path) in [("listen", proxy.socket.address.unix_path()), ("forward", forward)] {
            let path = path.filter(|path| !is_abstract(path));
            found.extend(path.and_then(|path| directory(&format!("proxy.{index}.{key}"), path)));
        }
    }
    let socket = match &plan.health {
        Health::Unix { path, .. } => Some(("healthcheck.unix.path", path)),
        Health::Docker { socket, .. } => Some(("healthcheck.docker.socket", socket)),
        Health::Http { request, .. } => unix(&request.target).map(|path| ("healthcheck.http.url", path)),
        Health::Fcgi { request, .. } => unix(&request.target).map(|path| ("healthcheck.fcgi.address", path)),
        _ => None,
    };
    found.extend(socket.filter(|(_, path)| !is_abstract(path)).and_then(|(key, path)| directory(key, path)));
    if let Health::Fcgi { request, .. } = &plan.health {
        let script = Path::new(&request.script);
        // php-fpm's `ping.path` looks like a path, but has no extension.
        if script.is_absolute() && script.extension().is_some() && !script.is_file() {
            found.push(missing(
                "healthcheck.fcgi.script",
                script,
                "is no file (yet)",
                "the application would answer 404",
            ));
        }
    }
    if let Some(symlink) = &plan.switch {
        found.extend(directory("switch.symlink.path", &symlink.path));
    }
    found
}

/// The command line of the child contains psflip's pidfile, so the child would write it as well.
fn shared_pidfile(plan: &Plan, pidfile: &Path) -> Option<Warning> {
    let names_it = |argument: &&OsStr| {
        let argument = argument.as_bytes();
        let value = argument.iter().position(|byte| *byte == b'=').map_or(argument, |at| &argument[at + 1..]);
        Path::new(OsStr::from_bytes(value)) == pidfile
    };
    let argument = plan.argv().skip(1).find(names_it)?;
    Some(Warning {
        key: "cmd".to_owned(),
        message: format!(
            "`{}` gives psflip's pidfile to the child: it would write its own process ID there, and remove the file when it stops",
            argument.display()
        ),
        help: "give the child a pidfile of its own, or none".to_owned(),
    })
}

fn missing(key: &str, path: &Path, what: &str, effect: &str) -> Warning {
    Warning {
        key: key.to_owned(),
        message: format!("`{}` {what}: {effect}", path.display()),
        help: "fine if it is created before psflip starts, else correct it".to_owned(),
    }
}

fn unix(target: &Endpoint) -> Option<&PathBuf> {
    match target {
        Endpoint::Unix(path) => Some(path),
        Endpoint::Tcp(_) => None,
    }
}

/// A name of the abstract namespace (unix(7)) has no directory.
fn is_abstract(path: &Path) -> bool {
    path.as_os_str().as_bytes().starts_with(b"@")
}

/// The directory of a file.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Warns if the directory of a file that will be created does not exist.
pub(super) fn directory(key: &str, path: &Path) -> Option<Warning> {
    let parent = parent(path);
    let effect = format!("`{}` could not be made there", path.display());
    (!parent.is_dir()).then(|| missing(key, parent, "is not a directory (yet)", &effect))
}

/// Where execvp(3) looks for a program, in this order. `None`: no program can have this name.
pub(super) fn places_of(name: &OsStr, workdir: &Path, envp: &[CString]) -> Option<Vec<PathBuf>> {
    let places = candidates(&CString::new(name.as_bytes()).ok()?, envp);
    let places = places.iter().map(|place| Path::new(OsStr::from_bytes(place.to_bytes())));
    // The path as the user wrote it, if it is looked up from psflip's own directory.
    let from_workdir = places.map(|place| match place.strip_prefix(".") {
        _ if workdir == Path::new(".") => place.to_owned(),
        Ok(inside) => workdir.join(inside),
        Err(_) => workdir.join(place),
    });
    Some(from_workdir.collect())
}

/// Warns of a program that execvp(3) would not find.
pub(super) fn program(key: &str, name: &OsStr, workdir: &Path, envp: &[CString]) -> Option<Warning> {
    let places = places_of(name, workdir, envp)?;
    if places.iter().any(|place| place.is_file() && access(place, AccessFlags::X_OK).is_ok()) {
        return None;
    }
    let effect = match key {
        "cmd" => "no child could be started",
        "output.stdout" | "output.stderr" => "psflip could not start",
        _ => "it would fail",
    };
    Some(match places.iter().find(|place| place.exists()) {
        Some(there) => Warning {
            key: key.to_owned(),
            message: format!("`{}` can't be executed: {effect}", there.display()),
            help: "it must be a file, and executable for the user that psflip runs as: `chmod +x`".to_owned(),
        },
        None if name.as_bytes().contains(&b'/') => missing(key, &places[0], "does not exist (yet)", effect),
        None => missing(key, Path::new(name), "is not found in the child's `PATH`", effect),
    })
}

/// Warns of a directory in which every user may create files.
fn writable(key: &str, path: &Path) -> Option<Warning> {
    let parent = parent(path);
    let mode = fs::metadata(parent).ok()?.permissions().mode();
    if mode & WRITABLE_BY_ALL == 0 {
        return None;
    }
    let effect = match (key, mode & STICKY == 0) {
        ("pidfile", true) => {
            "every user may replace the pidfile with one that names another process, which then gets the signals meant for psflip"
        }
        (_, true) => {
            "every user may replace the socket with another one, which then answers in psflip's place"
        }
        (_, false) => "every user may create the file before psflip does, which keeps it from starting",
    };
    Some(Warning {
        key: key.to_owned(),
        message: format!("everybody may write to `{}`: {effect}", parent.display()),
        help: "use a directory that belongs to the user psflip runs as, such as `/run/NAME` (`RuntimeDirectory=` of systemd)".to_owned(),
    })
}
