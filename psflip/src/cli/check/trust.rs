//! Files that psflip runs or reads, and that a user other than root and psflip's own can change: that user
//! decides what psflip runs. And directories of log files: such a user decides which file psflip writes to.
//! `psflip check` assumes that psflip will run as the user that runs the check.

use std::ffi::{CString, OsStr};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Group, User, geteuid};

use super::paths::places_of;
use crate::config::{Health, Plan, Target, Warning, logger_argv};
use crate::process::environment::child_environment;

/// The bits of a mode (stat(2)) that matter here.
const WRITABLE_BY_ALL: u32 = 0o002;
const WRITABLE_BY_GROUP: u32 = 0o020;
const STICKY: u32 = 0o1000;

/// A warning for each place that another user can change: a file, or a directory above it. `config` is the
/// path of the configuration, if it is a file.
pub(super) fn of(plan: &Plan, config: &Path, envp: &[CString]) -> Vec<Warning> {
    let mut files: Vec<(&str, PathBuf)> = vec![("", config.to_owned())];
    files.extend(plan.env_sources.iter().map(|source| (source.key(), source.path.clone())));
    files.extend(plan.workdir.iter().map(|workdir| ("workdir", workdir.clone())));
    let workdir = plan.workdir.as_deref().unwrap_or(Path::new("."));
    let envp = child_environment(envp, plan.environment(), &[]);
    let hooks = &plan.hooks;
    let mut programs = vec![
        ("cmd", plan.argv().next()),
        ("hooks.promote", first(&hooks.promote)),
        ("hooks.promoted", first(&hooks.promoted)),
        ("hooks.failed", first(&hooks.failed)),
    ];
    let keys = ["output.stdout", "output.stderr"];
    let mut logs: Vec<(&str, &Path)> = Vec::new();
    for (key, (_, target)) in keys.into_iter().zip(plan.output.targets()) {
        match target {
            Target::Pipe(line) => programs.push((key, Some(OsStr::new(logger_argv(line)[0])))),
            Target::Append(path) => logs.push((key, path)),
            Target::Inherit | Target::Null => {}
        }
    }
    logs.extend(plan.log.file.as_deref().map(|path| ("log.file", path)));
    if let Health::Command { cmd, .. } = &plan.health {
        programs.push(("healthcheck.command.cmd", first(cmd)));
    }
    for (key, name) in programs {
        for place in name.and_then(|name| places_of(name, workdir, &envp)).into_iter().flatten() {
            if place.is_file() {
                files.push((key, place));
                break; // only the first match is executed
            }
            // A user who can write to a directory that is searched earlier can place another program there.
            files.extend(
                place
                    .parent()
                    .filter(|directory| directory.is_dir())
                    .map(|directory| (key, directory.to_owned())),
            );
        }
    }
    let runs = files.into_iter().map(|(key, file)| (key, file, "what psflip runs"));
    let writes = logs.into_iter().map(|(key, log)| {
        let directory =
            log.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (key, directory.to_owned(), "which file psflip writes to")
    });
    let mut reported: Vec<PathBuf> = Vec::new();
    let mut found = Vec::new();
    for (key, file, what) in runs.chain(writes) {
        let Some((place, who)) = changeable(&file).filter(|(place, _)| !reported.contains(place)) else {
            continue;
        };
        found.push(Warning {
            key: key.to_owned(),
            message: format!("{who} can change `{}`, and so decides {what}", place.display()),
            help: "let only root, or the user that psflip runs as, write there; `psflip check` takes the user that it runs as for psflip's"
                .to_owned(),
        });
        reported.push(place);
    }
    found
}

/// The program of a command.
fn first(argv: &[String]) -> Option<&OsStr> {
    argv.first().map(OsStr::new)
}

/// The first place where another user can change or replace this file, and who can do it.
fn changeable(file: &Path) -> Option<(PathBuf, String)> {
    if !file.is_file() && !file.is_dir() {
        return None; // it does not exist yet, or it is a pipe
    }
    // Both the path as written, whose symlinks may be replaced, and the path that it resolves to.
    let paths = [std::path::absolute(file).ok(), fs::canonicalize(file).ok()];
    paths.iter().flatten().find_map(|path| {
        path.ancestors().find_map(|place| {
            let there = fs::metadata(place).ok()?;
            // In a sticky directory only the owner of a file can replace the file.
            let who = if there.is_dir() && there.mode() & STICKY != 0 { None } else { writers(&there) };
            who.or_else(|| owner(&there)).map(|who| (place.to_owned(), who))
        })
    })
}

fn owner(there: &Metadata) -> Option<String> {
    let uid = there.uid();
    (uid != 0 && uid != geteuid().as_raw()).then(|| match User::from_uid(uid.into()) {
        Ok(Some(user)) => format!("the user `{}`", user.name),
        Ok(None) | Err(_) => format!("the user {uid}"),
    })
}

fn writers(there: &Metadata) -> Option<String> {
    if there.mode() & WRITABLE_BY_ALL != 0 {
        return Some("every user".to_owned());
    }
    // A group without other members is harmless: `staff` of Debian's `/usr/local`, or the private group of a
    // user.
    let group = Group::from_gid(there.gid().into()).ok().flatten().filter(|group| group.gid.as_raw() != 0)?;
    let own = User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
    let is_other = |member: &String| member != "root" && Some(member) != own.as_ref();
    let may = there.mode() & WRITABLE_BY_GROUP != 0 && group.mem.iter().any(is_other);
    may.then(|| format!("the group `{}`", group.name))
}
