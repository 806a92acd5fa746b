//! What has changed on disk since a generation was started. The client finds that out, and psflip itself does
//! not: a file system that hangs, such as a network's, would stop psflip's loop. Here it stops one thread of
//! the client.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{AccessFlags, access, chroot, fchdir};
use serde_json::Value;

use crate::control::protocol::{Seen, Source, Status};
use crate::process::invocation::FileStamp;
use crate::process::launch::directory_of;

/// How long to wait for the file systems.
const PATIENCE: Duration = Duration::from_secs(2);

/// Looks at the files of a service, again and again for `--watch`.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// A thread that has not come back yet. There is never a second one.
    looks: Option<Receiver<Source>>,
}

impl Files {
    /// Sets [`Source::changed`] of all files, as far as their file systems answer in time.
    pub(super) fn compare(&mut self, status: &mut Status) {
        let all: Vec<Source> = sources(status).map(|source| source.clone()).collect();
        let mut compared = self.looked_at(all, executable(status), status.pid).into_iter();
        for source in sources(status) {
            match compared.next() {
                Some(found) => *source = found,
                None => source.seen = None,
            }
        }
    }

    fn looked_at(&mut self, all: Vec<Source>, executable: Option<String>, pid: u32) -> Vec<Source> {
        if self.looks.as_ref().is_some_and(is_at_work) {
            return Vec::new();
        }
        let (found, looks) = channel();
        let expected = all.len();
        let look = move || {
            see_as(pid, executable.as_deref());
            for source in all {
                if found.send(compared(source)).is_err() {
                    break;
                }
            }
        };
        // Without a thread nothing is known, as if no file system answered.
        drop(std::thread::Builder::new().spawn(look));
        let (mut compared, until) = (Vec::new(), Instant::now() + PATIENCE);
        self.looks = None;
        while compared.len() < expected {
            match looks.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(source) => compared.push(source),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.looks = Some(looks);
                    break;
                }
            }
        }
        compared
    }
}

/// Whether the thread has more to look at.
fn is_at_work(looks: &Receiver<Source>) -> bool {
    loop {
        match looks.try_recv() {
            Ok(_) => {}
            Err(none) => return none == TryRecvError::Empty,
        }
    }
}

/// The status object of an answer as received, so that keys of later versions are kept, with what [`Files`]
/// has found out.
pub(super) fn object(line: &str, status: &Status) -> Value {
    let mut event: Value = serde_json::from_str(line).unwrap_or_default();
    let mut object = event.get_mut("status").map(Value::take).unwrap_or_default();
    let mut set = |place: &str, source: &Source| {
        if let Some(keys) = object.pointer_mut(place).and_then(Value::as_object_mut) {
            keys.remove("seen");
            keys.insert("path".to_owned(), source.path.clone().into());
            keys.insert("changed".to_owned(), source.changed.into());
        }
    };
    for (place, source) in [("/config", &status.config), ("/program", &status.program)] {
        source.iter().for_each(|source| set(place, source));
    }
    for (index, source) in status.files.iter().flatten().enumerate() {
        set(&format!("/files/{index}"), source);
    }
    object
}

fn sources(status: &mut Status) -> impl Iterator<Item = &mut Source> {
    let Status { config, program, files, .. } = status;
    config.iter_mut().chain(program).chain(files.iter_mut().flatten())
}

/// What stat(2) has said about psflip's executable.
fn executable(status: &Status) -> Option<String> {
    match &status.program.as_ref()?.seen {
        Some(Seen::Executable { stamp, .. }) => stamp.clone(),
        _ => None,
    }
}

/// Lets this thread see the files that psflip sees: in a container, and in a unit with `PrivateTmp=`, those
/// are others. Only root may do that, and only a process that runs the same psflip is taken for it, since the
/// pid may be one of another PID namespace. Otherwise the files are those that this process sees.
fn see_as(pid: u32, executable: Option<&str>) {
    let of = |name: &str| PathBuf::from(format!("/proc/{pid}/{name}"));
    let namespace = |path: &Path| std::fs::read_link(path).ok();
    if executable.is_none()
        || stamp(&of("exe")).as_deref() != executable
        || namespace(&of("ns/mnt")) == namespace(Path::new("/proc/self/ns/mnt"))
    {
        return;
    }
    let root = File::options().read(true).custom_flags(OFlag::O_DIRECTORY.bits()).open(of("root"));
    if let (Ok(mounts), Ok(root)) = (File::open(of("ns/mnt")), root)
        && unshare(CloneFlags::CLONE_FS).is_ok()
        && setns(mounts, CloneFlags::CLONE_NEWNS).is_ok()
        && fchdir(root).is_ok()
    {
        // It may have another root than its mount namespace.
        let _ = chroot(".");
    }
}

/// Sets whether the source has changed. An earlier psflip has set that itself.
fn compared(mut source: Source) -> Source {
    let path = PathBuf::from(&source.path);
    let is = |now: Option<PathBuf>, then: &str| now.as_deref() == Some(Path::new(then));
    source.changed = match source.seen.take() {
        None => source.changed,
        Some(Seen::File { stamp: then }) => Some(stamp(&path) != then),
        Some(Seen::Executable { stamp: then, names }) => {
            if let Some(name) = names.iter().find(|name| Path::new(name).exists()).or(names.last()) {
                source.path.clone_from(name);
            }
            // Without /proc it is not known what runs, and reporting a change that did not happen would
            // mislead.
            Some(then.is_some() && stamp(Path::new(&source.path)) != then)
        }
        Some(Seen::Directory { name }) => Some(!is(Path::new(&name).canonicalize().ok(), &source.path)),
        Some(Seen::Program { stamp: then, names }) => {
            Some(stamp(&path) != then || !is(found(&names), &source.path))
        }
        Some(Seen::Argument { stamp: then, directory }) => {
            Some(stamp(&path) != then || !is(directory_of(&path), &directory))
        }
        Some(Seen::Other) => None,
    };
    source
}

fn stamp(path: &Path) -> Option<String> {
    FileStamp::look(path).stamp()
}

/// The program that these names lead to now, with all symlinks in its directory resolved.
fn found(names: &[String]) -> Option<PathBuf> {
    let is_program = |path: &&Path| access(*path, AccessFlags::X_OK).is_ok() && !path.is_dir();
    let found = names.iter().map(Path::new).find(is_program)?;
    Some(directory_of(found)?.join(found.file_name()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_psflip_has_found_out_is_kept_and_what_is_new_is_not_known() {
        let with = |changed, seen| Source { path: "/nowhere".to_owned(), changed, seen };
        for changed in [Some(true), Some(false), None] {
            assert_eq!(compared(with(changed, None)), with(changed, None));
        }
        let line = r#"{"path": "/nowhere", "seen": {"as": "of a later version", "names": []}}"#;
        let later: Source = serde_json::from_str(line).unwrap();
        assert_eq!(later.seen, Some(Seen::Other));
        assert_eq!(compared(later), with(None, None));
    }
}
