//! Warnings about `[output]` and `log.file`: a file that can't be written, a logger that is not found.

use std::ffi::{CString, OsStr};
use std::fs;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use super::paths::{directory, program};
use crate::config::{Plan, Target, Warning, logger_argv};
use crate::process::environment::child_environment;

/// All of them. psflip checks the same at its start, and an upgrade fails then.
pub(super) fn of(plan: &Plan, envp: &[CString]) -> Vec<Warning> {
    let mut found = Vec::new();
    for (name, target) in plan.output.targets() {
        let key = format!("output.{name}");
        match target {
            Target::Inherit | Target::Null => {}
            Target::Append(path) => found.extend(file(&key, path)),
            Target::Pipe(line) => {
                let envp = child_environment(envp, plan.environment(), &[]);
                let workdir = plan.workdir.as_deref().unwrap_or(Path::new("."));
                found.extend(program(&key, OsStr::new(logger_argv(line)[0]), workdir, &envp));
            }
        }
    }
    found.extend(plan.log.file.as_ref().and_then(|path| file("log.file", path)));
    found
}

/// Warns of a file to which nothing could be appended.
fn file(key: &str, path: &Path) -> Option<Warning> {
    let warning =
        |message: String, help: &str| Warning { key: key.to_owned(), message, help: help.to_owned() };
    let shown = path.display();
    match fs::symlink_metadata(path) {
        Ok(there) if there.is_symlink() => Some(warning(
            format!("`{shown}` is a symbolic link: psflip could not start"),
            "name the file that it leads to; psflip does not follow a link there",
        )),
        Ok(there) if !there.is_file() => Some(warning(
            format!("`{shown}` is not a regular file: psflip could not start"),
            "name a file; `pipe:COMMAND` is for a logger",
        )),
        Ok(_) => access(path, AccessFlags::W_OK).is_err().then(|| {
            warning(
                format!("`{shown}` can't be written to: psflip could not start"),
                "let the user that psflip runs as write to it",
            )
        }),
        Err(_) => directory(key, path).or_else(|| {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            access(parent, AccessFlags::W_OK).is_err().then(|| {
                warning(
                    format!("`{shown}` can't be created in `{}`: psflip could not start", parent.display()),
                    "let the user that psflip runs as write there, or create the file for it",
                )
            })
        }),
    }
}
