//! The pidfile (contract P): which psflip is active, for people, scripts and managers.
//!
//! A generation that is named keeps its file open and locked (flock(2)). So a file is stale exactly when nobody holds its
//! lock, whatever pid is in it and whoever uses that pid by now: the kernel drops the lock with the process (P3). A new file is
//! written and locked under a temporary name and renamed into place, so nobody ever sees a part of it (P1, P4).
//!
//! It isn't synced to disk: its contents mean nothing after a crash of the machine, and what such a crash leaves is not locked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use nix::unistd::{AccessFlags, eaccess};

use super::lock::{self, Lock, Locked};
use crate::sys::seam::{self, Call};

/// A pidfile that names this process.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    file: Locked,
}

/// Why a pidfile can't be used. Every message begins with its path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// P3.
    #[error("pidfile `{path}`: {holder} is running with this pidfile; stop it first, or use another pidfile")]
    Held {
        /// Where.
        path: PathBuf,
        /// `psflip (pid 12)`.
        holder: String,
    },
    /// P4: a symbolic link may lead anywhere, a directory can't be replaced.
    #[error(
        "pidfile `{path}` is {kind}, and only a regular file is replaced; remove it, or use another path"
    )]
    NotRegular {
        /// Where.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The operating system said no.
    #[error("pidfile `{path}`: can't {action}: {error}")]
    System {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: String,
        /// Why it failed.
        error: io::Error,
    },
}

/// From whom a pidfile is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// From nobody: whoever is named must be dead.
    Nobody,
    /// From the predecessor, which knows of it, or from a successor that is dead.
    Relative,
}

/// Finds out early whether [`Pidfile::take`] would be refused, before anything is started.
///
/// # Errors
/// [`Error`], the first that applies.
pub fn check(path: &Path, from: From) -> Result<(), Error> {
    let directory = directory(path);
    seam::before(Call::AccessDirectory)
        .and_then(|()| eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK))
        .map_err(|errno| system(path, format!("create a file in `{}`", directory.display()), errno.into()))?;
    for _ in 0..ATTEMPTS {
        match open_existing(path)? {
            // Shared: two that only look are not in each other's way.
            Some(file) if from == From::Nobody => {
                let stale = lock_stale(path, file, Lock::Shared)?;
                if is_at(&stale, path) {
                    return Ok(());
                }
            }
            Some(_) | None => return Ok(()),
        }
    }
    Err(contended(path))
}

impl Pidfile {
    /// Lets the pidfile name this process.
    ///
    /// # Errors
    /// [`Error`]; nothing is changed then and nothing is left behind.
    pub fn take(path: &Path, from: From) -> Result<Self, Error> {
        let (new, file) = Temporary::write(path, std::process::id())?;
        match from {
            From::Relative => new.replace(path)?,
            From::Nobody => new.place(path)?,
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// Whether the pidfile still is the one of this process.
    #[must_use]
    pub fn names_us(&self) -> bool {
        self.look().unwrap_or(false)
    }

    /// As [`Pidfile::names_us`], if that can be found out.
    fn look(&self) -> io::Result<bool> {
        match fs::symlink_metadata(&self.path) {
            Ok(there) => Ok(is_same(&self.file.metadata()?, &there)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets the pidfile name this process again, if it doesn't.
    ///
    /// # Errors
    /// As [`Pidfile::take`].
    pub fn reclaim(&mut self) -> Result<(), Error> {
        if !self.names_us() {
            *self = Self::take(&self.path, From::Relative)?;
        }
        Ok(())
    }

    /// Lets the pidfile name another process again, which does not look at the moment, and lets go of it.
    ///
    /// # Errors
    /// As [`Pidfile::take`].
    pub fn give_back(self, pid: u32) -> Result<(), Error> {
        if self.names_us() { Temporary::write(&self.path, pid)?.0.replace(&self.path) } else { Ok(()) }
    }

    /// Removes it, if it still names this process (contract P2).
    ///
    /// # Errors
    /// What lstat(2) and unlink(2) say.
    pub fn remove(self) -> Result<(), Error> {
        if self.look().map_err(|error| system(&self.path, "look at it", error))? {
            asking(Call::Unlink, || fs::remove_file(&self.path))
                .map_err(|error| system(&self.path, "remove it", error))?;
        }
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn system(path: &Path, action: impl Into<String>, error: io::Error) -> Error {
    Error::System { path: path.to_owned(), action: action.into(), error }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a call that a test may let fail.
fn asking<T>(call: Call, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    seam::before(call)?;
    make()
}

/// Whether this file is still the one of that name.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(there)) => is_same(&file, &there),
        _ => false,
    }
}

fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Opens what is there, if it is a regular file, without following links and without waiting for anything.
fn open_existing(path: &Path) -> Result<Option<File>, Error> {
    let kind = match asking(Call::StatPidfile, || fs::symlink_metadata(path)) {
        Ok(there) => there.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(system(path, "look at it", error)),
    };
    if !kind.is_file() {
        let kind = if kind.is_symlink() {
            "a symbolic link"
        } else if kind.is_dir() {
            "a directory"
        } else {
            "a special file"
        };
        return Err(Error::NotRegular { path: path.to_owned(), kind });
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let open = || OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    match asking(Call::OpenPidfile, open) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(system(path, "open it", error)),
    }
}

/// How often what is there is looked at again after somebody else has replaced it.
const ATTEMPTS: usize = 100;

fn contended(path: &Path) -> Error {
    Error::Held { path: path.to_owned(), holder: "another psflip, just starting,".to_owned() }
}

/// Locks a stale pidfile, or says who holds it. Another psflip that tries the same at this moment is waited for, so the file may
/// have been replaced meanwhile.
fn lock_stale(path: &Path, file: File, how: Lock) -> Result<Locked, Error> {
    match lock::lock(file, how) {
        Ok(lock) => Ok(lock),
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let read = Read::by_ref(&mut file).take(20).read_to_string(&mut pid);
            let pid = read.ok().and_then(|_| pid.trim().parse::<u32>().ok());
            // Who holds a pidfile is named in it, and has it open.
            if let Some(pid) = pid.filter(|pid| has_open(*pid, &file)) {
                return Err(Error::Held { path: path.to_owned(), holder: format!("psflip (pid {pid})") });
            }
            lock::wait(&file, how).map_err(|error| system(path, "wait for its lock", error))?;
            lock::lock(file, how).map_err(|(_, errno)| match errno {
                Errno::EWOULDBLOCK => contended(path),
                errno => system(path, "lock it", errno.into()),
            })
        }
        Err((_, errno)) => Err(system(path, "lock it", errno.into())),
    }
}

/// Whether this process has the file open, as far as we may know.
fn has_open(pid: u32, file: &File) -> bool {
    let Ok(ours) = file.metadata() else { return true };
    match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(fds) => fds.flatten().any(|fd| fs::metadata(fd.path()).is_ok_and(|there| is_same(&ours, &there))),
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// The other name of a complete, locked pidfile. Dropping it removes that name, if it is still there.
struct Temporary(PathBuf);

impl Temporary {
    fn write(target: &Path, pid: u32) -> Result<(Self, Locked), Error> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = directory(target).join(format!(".{name}.{}", std::process::id()));
        let fail = |action: &str, error| system(target, format!("{action} `{}`", path.display()), error);
        let file = Self::create(&path).map_err(|error| fail("create", error))?;
        let new = Self(path.clone());
        let file = lock::lock(file, Lock::Exclusive).map_err(|(_, errno)| fail("lock", errno.into()))?;
        // Readable for all, whatever the umask: that is what it is for.
        asking(Call::Chmod, || file.set_permissions(fs::Permissions::from_mode(0o644)))
            .map_err(|error| fail("set the mode of", error))?;
        let mut contents: &File = &file;
        asking(Call::WritePidfile, || contents.write_all(format!("{pid}\n").as_bytes()))
            .map_err(|error| fail("write", error))?;
        Ok((new, file))
    }

    /// Creates the file; one of the same name is left from a dead process that had our pid.
    fn create(path: &Path) -> io::Result<File> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let open = || {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600).custom_flags(flags.bits());
            asking(Call::CreatePidfile, || options.open(path))
        };
        match open() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(path)?;
                open()
            }
            other => other,
        }
    }

    /// Puts it in the target's place, whatever is there.
    fn replace(&self, target: &Path) -> Result<(), Error> {
        if let Ok(there) = fs::symlink_metadata(target)
            && there.is_dir()
        {
            return Err(Error::NotRegular { path: target.to_owned(), kind: "a directory" });
        }
        asking(Call::Rename, || fs::rename(&self.0, target))
            .map_err(|error| system(target, "replace it", error))
    }

    /// Puts it in the target's place if nobody alive holds what is there. Of several processes that try this at the same time
    /// one succeeds: only one can create the name, or lock the stale file.
    fn place(&self, target: &Path) -> Result<(), Error> {
        for _ in 0..ATTEMPTS {
            let Some(existing) = open_existing(target)? else {
                let renamed = seam::before(Call::Rename).and_then(|()| {
                    renameat2(AT_FDCWD, &self.0, AT_FDCWD, target, RenameFlags::RENAME_NOREPLACE)
                });
                match renamed {
                    Ok(()) => return Ok(()),
                    Err(Errno::EEXIST) => continue, // somebody was faster: look again
                    // A file system without this flag (NFS): the race between two first starts stays open there.
                    Err(Errno::EINVAL) => return self.replace(target),
                    Err(errno) => return Err(system(target, "create it", errno.into())),
                }
            };
            let stale = lock_stale(target, existing, Lock::Exclusive)?;
            // What was locked may have been replaced between the open and the lock.
            if is_at(&stale, target) {
                return self.replace(target);
            }
        }
        Err(contended(target))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // after a rename it is gone already
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn content(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn it_holds_the_pid_and_a_newline_and_goes_with_its_owner() {
        // Contract: P1, P2
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        let pidfile = Pidfile::take(&path, From::Nobody).unwrap();
        assert_eq!(content(&path), format!("{}\n", std::process::id()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
        assert!(pidfile.names_us());
        pidfile.remove().unwrap();
        assert!(names(directory.path()).is_empty());
    }

    #[test]
    fn one_that_is_held_is_refused_and_one_that_is_stale_is_not() {
        // Contract: P3
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        let first = Pidfile::take(&path, From::Nobody).unwrap();
        let wanted = format!("psflip (pid {}) is running", std::process::id());
        for error in
            [check(&path, From::Nobody).unwrap_err(), Pidfile::take(&path, From::Nobody).unwrap_err()]
        {
            assert!(error.to_string().contains(&wanted), "{error}");
        }
        drop(first); // as if it had crashed: the file stays, the lock doesn't
        // Even a pid that is alive (init's) does not make it less stale.
        fs::write(&path, "1\n").unwrap();
        check(&path, From::Nobody).unwrap();
        let second = Pidfile::take(&path, From::Nobody).unwrap();
        assert_eq!(content(&path), format!("{}\n", std::process::id()));
        drop(second);
        assert_eq!(names(directory.path()), ["x.pid"]);
    }

    #[test]
    fn a_successor_replaces_it_and_the_old_one_no_longer_removes_it() {
        // Contract: P1, P2
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        let old = Pidfile::take(&path, From::Nobody).unwrap();
        let new = Pidfile::take(&path, From::Relative).unwrap();
        assert!(!old.names_us() && new.names_us());
        old.remove().unwrap();
        assert!(new.names_us());
    }

    #[test]
    fn it_is_given_back_and_reclaimed() {
        // Contract: F6, U8
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        let mut old = Pidfile::take(&path, From::Nobody).unwrap();
        let new = Pidfile::take(&path, From::Relative).unwrap();
        new.give_back(4711).unwrap();
        assert_eq!(content(&path), "4711\n");
        old.reclaim().unwrap();
        assert_eq!(content(&path), format!("{}\n", std::process::id()));
        assert!(check(&path, From::Nobody).is_err(), "it is locked again");
    }

    #[test]
    fn what_is_no_file_is_refused_and_left_alone() {
        // Contract: P4
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let link = directory.path().join("link.pid");
        symlink(&victim, &link).unwrap();
        let inner = directory.path().join("dir.pid");
        fs::create_dir(&inner).unwrap();
        let fifo = directory.path().join("fifo.pid");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for (path, kind) in [(&link, "a symbolic link"), (&inner, "a directory"), (&fifo, "a special file")] {
            for error in
                [check(path, From::Nobody).unwrap_err(), Pidfile::take(path, From::Nobody).unwrap_err()]
            {
                assert!(error.to_string().contains(kind), "{error}");
            }
        }
        assert_eq!(content(&victim), "precious");
        assert_eq!(names(directory.path()).len(), 4, "nothing was left behind");
    }

    #[test]
    fn a_directory_that_is_missing_is_named() {
        // Contract: P4
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("no/x.pid");
        let error = check(&path, From::Nobody).unwrap_err().to_string();
        assert!(error.contains("/no`: ") && error.contains("No such file"), "{error}");
    }

    /// Lets each call of `work` fail once with each of these errors, every time after `prepare`; `judge` sees what came of it.
    /// Returns how often.
    fn each_fault<T>(prepare: impl Fn(), work: impl Fn() -> T, mut judge: impl FnMut(Call, T)) -> usize {
        prepare();
        let (_, calls) = seam::testing::with(None, &work);
        let errors = [Errno::EACCES, Errno::EMFILE, Errno::ENOSPC, Errno::ENOMEM, Errno::EROFS, Errno::EIO];
        for (number, call) in calls.iter().enumerate() {
            for errno in errors {
                prepare();
                let (result, _) = seam::testing::with(Some((number, errno)), &work);
                judge(*call, result);
            }
        }
        calls.len() * errors.len()
    }

    #[test]
    fn whatever_fails_a_new_pidfile_is_whole_or_not_there() {
        // Contract: F10, P4
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        let remove = || drop(fs::remove_file(&path)); // the first time it isn't there
        let take = || Pidfile::take(&path, From::Nobody);
        let mut refused = 0;
        let tried = each_fault(remove, take, |call, taken| match taken {
            Ok(pidfile) => assert!(pidfile.names_us() && names(directory.path()).len() == 1, "{call:?}"),
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("x.pid`: can't "), "{call:?}: {error}");
                assert!(names(directory.path()).is_empty(), "{call:?} left {:?}", names(directory.path()));
            }
        });
        assert!(refused > 0 && tried >= 36, "{refused} of {tried}");
    }

    #[test]
    fn whatever_fails_a_pidfile_that_is_replaced_names_the_old_or_the_new_owner() {
        // Contract: F10, P1, P4
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        let old = std::cell::RefCell::new(Pidfile::take(&path, From::Nobody).unwrap());
        let hand_over = || Pidfile::take(&path, From::Relative);
        let reclaim = || old.borrow_mut().reclaim().unwrap();
        each_fault(reclaim, hand_over, |call, taken| {
            let named = taken.as_ref().map_or(old.borrow().names_us(), Pidfile::names_us);
            assert!(named && names(directory.path()) == ["x.pid"], "{call:?}: {:?}", names(directory.path()));
        });
        let give_back = || {
            let new = Pidfile::take(&path, From::Relative)?;
            new.give_back(4711)
        };
        each_fault(reclaim, give_back, |call, returned| {
            let there = content(&path);
            let whole = there == "4711\n" || there == format!("{}\n", std::process::id());
            assert!(whole && (returned.is_err() || there == "4711\n"), "{call:?}: {there}");
            assert_eq!(names(directory.path()), ["x.pid"], "{call:?}");
        });
    }

    #[test]
    fn of_many_that_want_it_at_once_one_gets_it() {
        // Contract: P3
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        for stale in [false, true] {
            if stale {
                fs::write(&path, "1\n").unwrap();
            }
            // One process: temporary names are by pid, so the attempts must not overlap; the winners' locks must.
            let taken: Vec<_> = (0..5).filter_map(|_| Pidfile::take(&path, From::Nobody).ok()).collect();
            assert_eq!(taken.len(), 1);
            drop(taken);
            fs::remove_file(&path).unwrap();
        }
    }
}
