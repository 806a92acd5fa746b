//! How the service last went down, saved beside the pidfile for `psflip status` when no psflip is running.
//!
//! The file is `<pidfile>.last`, or `<control socket>.last` without a pidfile. The last generation writes it
//! when the service went down without a stop request; the next promotion removes it. Only its owner can read
//! it (0600), as with the control socket: a reason may quote output of the child or of a health check.
//! Nothing depends on this file, so a failure to write it is not an error.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use serde::{Deserialize, Serialize};

use crate::history::Record;

/// The longest file that is read, in bytes.
const LONGEST: u64 = 64 * 1024;

/// How the service went down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// The version of this format: 1. It is the first key, so that a file of another kind is
    /// not mistaken for one of these.
    pub psflip_last_exit: u32,
    /// The time, in milliseconds since 1970 (UTC).
    pub at: u64,
    /// The generation that served, or was about to.
    pub generation: u64,
    /// The pid of its psflip.
    pub pid: u32,
    /// What happened, in one line.
    pub reason: String,
    /// The exit status of psflip itself: `exit code 3`, `SIGKILL`.
    pub end: String,
    /// The last upgrade, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Record>,
    /// Where the child's standard error led, for people. Empty: no child was started, or an older version
    /// wrote this.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// The last lines that the child wrote there, as far as they are known: from a regular file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// The path of the file. `None`: there is neither a pidfile nor a control socket.
#[must_use]
pub fn path(pidfile: Option<&Path>, control: Option<&Path>) -> Option<PathBuf> {
    let beside =
        pidfile.or_else(|| control.filter(|path| !path.as_os_str().to_string_lossy().starts_with('@')))?;
    let mut path = OsString::from(beside);
    path.push(".last");
    Some(path.into())
}

/// Reads the file. `None`: it does not exist, or it was not written by a psflip of root, this
/// user, or the directory's owner.
#[must_use]
pub fn read(path: &Path) -> Option<LastExit> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok()?;
    let there = file.metadata().ok()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_trusted = |owner: u32| {
        owner == 0
            || owner == nix::unistd::geteuid().as_raw()
            || fs::metadata(parent).is_ok_and(|parent| parent.uid() == owner)
    };
    if !there.is_file() || there.len() > LONGEST || !is_trusted(there.uid()) {
        return None;
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok().filter(|exit: &LastExit| exit.psflip_last_exit > 0)
}

/// Removes the file, unless it was not written by psflip.
pub fn remove(path: &Path) {
    if read(path).is_some() {
        let _ = fs::remove_file(path); // in a read-only directory it stays; `status` shows its time
    }
}

impl LastExit {
    /// Writes the file, atomically. A file that was not written by psflip is kept.
    ///
    /// # Errors
    /// EEXIST: there is another file. Otherwise those of open(2), write(2) and
    /// rename(2): EACCES, EROFS, ENOSPC, ...
    pub fn write(&self, path: &Path) -> io::Result<()> {
        if fs::symlink_metadata(path).is_ok() && read(path).is_none() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut temporary = OsString::from(path);
        temporary.push(format!(".{}", std::process::id()));
        let result = Self::create(Path::new(&temporary)).and_then(|mut file| {
            file.write_all(&serde_json::to_vec(self)?)?;
            file.write_all(b"\n")?;
            fs::rename(&temporary, path)
        });
        if result.is_err() {
            let _ = fs::remove_file(&temporary); // it may never have existed
        }
        result
    }

    fn create(path: &Path) -> io::Result<File> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags.bits()).open(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> LastExit {
        LastExit {
            psflip_last_exit: 1,
            at: 5,
            generation: 2,
            pid: 7,
            reason: "it crashed".to_owned(),
            end: "SIGSEGV".to_owned(),
            upgrade: Some(Record { upgrade: 4, ..Record::default() }),
            stderr: "/var/log/app.log".to_owned(),
            output: Some("panic".to_owned()),
        }
    }

    #[test]
    fn the_last_exit_round_trips_and_only_the_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(Some(&folder.path().join("a.pid")), None).unwrap();
        assert_eq!(path, folder.path().join("a.pid.last"));
        for generation in [2, 3] {
            let exit = LastExit { generation, ..sample() };
            exit.write(&path).unwrap();
            assert_eq!(read(&path), Some(exit));
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        remove(&path);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_of_an_older_version_is_understood() {
        let text = r#"{"psflip_last_exit":1,"at":5,"generation":2,"pid":7,"reason":"no","end":"SIGSEGV"}"#;
        let exit: LastExit = serde_json::from_str(text).unwrap();
        assert_eq!((exit.upgrade, exit.stderr.as_str(), exit.output), (None, "", None));
    }

    #[test]
    fn files_that_psflip_did_not_write_are_never_touched() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.last");
        for content in ["", "precious", "{}", "{\"generation\":1}"] {
            fs::write(&path, content).unwrap();
            assert!(sample().write(&path).is_err(), "{content}");
            remove(&path);
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
        fs::remove_file(&path).unwrap();
        let precious = folder.path().join("precious");
        sample().write(&precious).unwrap();
        std::os::unix::fs::symlink(&precious, &path).unwrap();
        assert!(sample().write(&path).is_err());
        remove(&path);
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink() && precious.exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing else is left");
    }

    #[test]
    fn a_missing_directory_is_only_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gone/app.pid.last");
        assert_eq!(sample().write(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(read(&path), None);
        remove(&path);
    }
}
