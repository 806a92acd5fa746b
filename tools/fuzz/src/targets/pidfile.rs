//! `pidfile`: any content of the pidfile, locked by a reader or not: psflip takes it over if it can be a
//! pidfile, and refuses otherwise.

use std::fs::File;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use psflip::testing::manager::pidfile::{Pidfile, TakenFrom, check};

use super::{Run, ensure};
use crate::Error;
use crate::rng::hash;

pub(super) const WORDS: &[&str] = &["1", "4711", "\n", " ", "-1", "0", "4194304", "pid"];

pub(super) fn start(folder: &Path) -> Result<Run, Error> {
    let path = folder.join("app.pid");
    Ok(Box::new(move |bytes| run(&path, bytes)))
}

/// Whether the content is that of a pidfile: empty, or one decimal number, surrounded by white space and
/// NULs.
fn is_pidfile(bytes: &[u8]) -> bool {
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
    let words: Vec<&[u8]> = bytes.split(is_blank).filter(|word| !word.is_empty()).collect();
    bytes.len() <= 64 && words.len() <= 1 && words.iter().all(|word| word.iter().all(u8::is_ascii_digit))
}

fn run(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| format!("the test itself failed: {error}");
    let read = || std::fs::read(path).map_err(|error| text(&error));
    std::fs::write(path, bytes).map_err(|error| text(&error))?;
    // Any user who can read the file can lock it, so a lock must not matter.
    let locked = if hash(bytes).is_multiple_of(2) {
        let file = File::open(path).map_err(|error| text(&error))?;
        Some(Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| text(&errno))?)
    } else {
        None
    };
    if !is_pidfile(bytes) {
        for refused in
            [check(path, TakenFrom::NoProcess, None).err(), Pidfile::take(path, TakenFrom::NoProcess).err()]
        {
            let Some(error) = refused else { return Err("what is no pidfile is taken for one".to_owned()) };
            let error = error.to_string();
            ensure(error.contains("no process ID"), || error.clone())?;
            ensure(error.len() < 500 && !error.contains(char::is_control), || format!("{error:?}"))?;
        }
        return ensure(read()? == bytes, || "what is no pidfile was changed".to_owned());
    }
    check(path, TakenFrom::NoProcess, None).map_err(|error| format!("a stale pidfile blocks: {error}"))?;
    let taken = Pidfile::take(path, TakenFrom::NoProcess)
        .map_err(|error| format!("a stale pidfile blocks: {error}"))?;
    drop(locked);
    let own = format!("{}\n", std::process::id());
    ensure(taken.names_us() && read()? == own.as_bytes(), || "it does not name its owner".to_owned())?;
    let Some(error) = check(path, TakenFrom::NoProcess, None).err() else {
        return Err("it is not held".to_owned());
    };
    ensure(error.to_string().contains("is running with this pidfile"), || error.to_string())?;
    taken.remove().map_err(|error| text(&error))?;
    let folder = path.parent().unwrap_or(path);
    let left = std::fs::read_dir(folder).map_err(|error| text(&error))?.count();
    ensure(left == 1, || format!("{left} files are left in the directory, only the driver's may be"))
}
