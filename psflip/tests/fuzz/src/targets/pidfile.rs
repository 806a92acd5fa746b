//! `pidfile`: any contents of a pidfile that is there already, held by somebody or stale.

use std::fs::File;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use psflip::manager::pidfile::{From, Pidfile, check};

use super::{Run, ensure};
use crate::Error;
use crate::rng::hash;

pub(super) const WORDS: &[&str] = &["1", "4711", "\n", " ", "-1", "0", "4194304", "pid"];

pub(super) fn start(folder: &Path) -> Result<Run, Error> {
    let path = folder.join("app.pid");
    Ok(Box::new(move |bytes| run(&path, bytes)))
}

fn run(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| format!("the test itself failed: {error}");
    let read = || std::fs::read(path).map_err(|error| text(&error));
    std::fs::write(path, bytes).map_err(|error| text(&error))?;
    // Somebody holds it, whatever is in it. Where that isn't who it names, psflip looks a thousand times.
    if hash(bytes).is_multiple_of(64) {
        held(path, bytes)?;
    }
    // Nobody does.
    check(path, From::Nobody).map_err(|error| format!("a stale pidfile blocks: {error}"))?;
    let taken =
        Pidfile::take(path, From::Nobody).map_err(|error| format!("a stale pidfile blocks: {error}"))?;
    let own = format!("{}\n", std::process::id());
    ensure(taken.names_us() && read()? == own.as_bytes(), || "it does not name its owner".to_owned())?;
    taken.remove().map_err(|error| text(&error))?;
    let folder = path.parent().unwrap_or(path);
    let left = std::fs::read_dir(folder).map_err(|error| text(&error))?.count();
    ensure(left == 1, || format!("{left} files are left in the folder, only the driver's one may be"))
}

fn held(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| format!("the test itself failed: {error}");
    let file = File::open(path).map_err(|error| text(&error))?;
    let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| text(&errno))?;
    for refused in [check(path, From::Nobody).err(), Pidfile::take(path, From::Nobody).err()] {
        let Some(error) = refused else { return Err("a pidfile that is held is taken".to_owned()) };
        let error = error.to_string();
        ensure(error.contains("is running with this pidfile"), || error.clone())?;
        ensure(error.len() < 500 && !error.contains(char::is_control), || format!("{error:?}"))?;
    }
    ensure(std::fs::read(path).map_err(|error| text(&error))? == bytes, || {
        "a pidfile that is held was changed".to_owned()
    })?;
    drop(held);
    Ok(())
}
