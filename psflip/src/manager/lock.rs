//! The lock of a pidfile, which no other user can interfere with.
//!
//! Everyone can read a pidfile, and a process that can read a file can flock(2) it, or take a read lock of
//! fcntl(2). So the mark of a held pidfile is a *write* lock of its open file description (F_OFD_SETLK of
//! fcntl(2)). It needs a descriptor that is open for writing, and can be tested without taking a lock
//! (F_OFD_GETLK). Older versions of psflip use only flock(2), so a new pidfile gets both locks. They are
//! taken while the file is new and has mode 0600, so that no other user can have opened it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, Uid};

use crate::sys::open_files;
use crate::sys::pidfd::PidFd;
use crate::sys::process::{self, Fork};
use crate::sys::seam::{self, Call};
use crate::sys::tree;

/// How long to wait for another psflip's turn. It examines the pidfile and replaces it, which takes
/// microseconds unless that psflip is stopped.
const TURN_TIMEOUT: Duration = Duration::from_secs(1);

/// How often to look at the file of the turn again after another process has removed it.
const ATTEMPTS: usize = 100;

/// A file with its locks, which are released with it.
///
/// Releasing a lock may fail (ENOLCK on NFS). That is no reason to panic: the close that
/// follows releases it as well.
#[derive(Debug)]
pub(super) struct Locked(File);

impl std::ops::Deref for Locked {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Not only by the close: a process that is just being forked may have the file open as well.
        let _ = self.0.unlock();
        let _ = fcntl(&self.0, FcntlArg::F_OFD_SETLK(&whole(libc::F_UNLCK)));
    }
}

/// A lock of a whole file, for fcntl(2).
fn whole(kind: i32) -> libc::flock {
    libc::flock { l_type: kind as _, l_whence: libc::SEEK_SET as _, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Locks a new file that no other process has open, for the lifetime of the value.
///
/// # Errors
/// Those of flock(2): ENOLCK.
pub(super) fn lock_new(file: File) -> io::Result<Locked> {
    if !lock(&file)? {
        return Err(Errno::EWOULDBLOCK.into());
    }
    let file = Locked(file);
    // NFS implements flock(2) as a lock of fcntl(2), so this second lock is refused there. The first lock is
    // enough: an older version finds it there as well.
    let _ = fcntl(&*file, FcntlArg::F_OFD_SETLK(&whole(libc::F_WRLCK)));
    Ok(file)
}

/// flock(2), exclusive and without waiting. Returns whether this process has the lock now.
fn lock(file: &File) -> io::Result<bool> {
    seam::before(Call::Lock)?;
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether a running psflip holds this pidfile. `pid`: the pid in the file.
///
/// # Errors
/// Those of flock(2): ENOLCK.
pub(super) fn is_held(file: &File, pid: Option<u32>) -> io::Result<bool> {
    seam::before(Call::Lock)?;
    // Only a write lock conflicts with a read lock, and a process that can only read the file can't have one.
    let mut there = whole(libc::F_RDLCK);
    if fcntl(file, FcntlArg::F_OFD_GETLK(&mut there)).is_ok() && i32::from(there.l_type) != libc::F_UNLCK {
        return Ok(true);
    }
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| false),
        // The lock of an older psflip, or of any process that can read the file. Only psflip is named in the
        // file and has it open for writing.
        Err(TryLockError::WouldBlock) => Ok(pid.is_some_and(|pid| is_of_older_version(pid, file))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Whether this process may be an older psflip that holds this pidfile. If that can't be
/// found out, the answer is yes.
fn is_of_older_version(pid: u32, file: &File) -> bool {
    let Ok(ours) = file.metadata() else { return true };
    let Ok(uid) = open_files::effective_uid(pid) else {
        return !open_files::proc_is_there(); // without proc(5) nothing is known
    };
    if !uid.is_some_and(|uid| [0, Uid::effective().as_raw(), ours.uid()].contains(&uid)) {
        return false; // another user's process has this pid by now
    }
    match open_files::may_write(pid, |there| is_same(&ours, there)) {
        Ok(writes) => writes,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

/// Finds the psflip that holds a removed pidfile of this path, by its flock(2) lock. `None`: none is found.
pub(super) fn holder_of_removed(directory: &Path, path: &Path) -> Option<u32> {
    let removed = fs::canonicalize(directory).ok()?.join(path.file_name()?);
    let own = std::process::id();
    let mut others = open_files::flock_writers().into_iter().filter(|pid| *pid != own).peekable();
    let name_of_own = others.peek().and_then(|_| tree::name_of(own))?;
    others
        .filter(|pid| tree::name_of(*pid).is_some_and(|name| name == name_of_own))
        .find(|pid| open_files::has_removed(*pid, &removed))
}

/// Whether both are the same file.
pub(super) fn is_same(one: &fs::Metadata, other: &fs::Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

/// Whether the path still leads to this file.
pub(super) fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(there)) => is_same(&file, &there),
        _ => false,
    }
}

/// The turn: the right to replace a pidfile that a crash has left.
///
/// Of several processes that find such a file, one at a time has the turn. It locks an empty file,
/// `.NAME.lock`, that only its owner can open, and removes that file afterwards.
#[derive(Debug)]
pub(super) struct Turn {
    path: PathBuf,
    file: Locked,
}

impl Turn {
    /// Waits for the turn, for [`TURN_TIMEOUT`] at most. `None`: another process has it for longer.
    ///
    /// # Errors
    /// The file can't be created or locked, or a file of that name was not made by psflip.
    pub(super) fn take(path: PathBuf) -> io::Result<Option<Self>> {
        for _ in 0..ATTEMPTS {
            // One descriptor is enough for all of it: without another one (EMFILE) the file would be left.
            let file = Self::open(&path)?;
            if !lock(&file)? {
                wait(&file)?;
                if !lock(&file)? {
                    return Ok(None);
                }
            }
            let locked = Locked(file);
            // The previous holder of the turn has removed its file.
            if is_at(&locked, &path) {
                return Ok(Some(Self { path, file: locked }));
            }
        }
        Ok(None)
    }

    fn open(path: &Path) -> io::Result<File> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let open = || {
            seam::before(Call::CreatePidfile)?;
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(false).mode(0o600).custom_flags(flags.bits()).open(path)
        };
        // Replace a file that a crash has left when psflip ran as another user.
        let is_ours =
            |there: &fs::Metadata| there.uid() == Uid::effective().as_raw() && there.mode() & 0o077 == 0;
        if let Ok(there) = fs::symlink_metadata(path)
            && there.is_file()
            && there.len() == 0
            && !is_ours(&there)
        {
            fs::remove_file(path)?;
        }
        let file = open()?;
        let there = file.metadata()?;
        if !there.is_file() || there.len() > 0 || !is_ours(&there) {
            return Err(io::Error::other("it is not the empty file of mode 0600 that psflip makes"));
        }
        Ok(file)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if is_at(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path); // the next turn uses an empty file that stays
        }
    }
}

/// Waits until the file can be locked, for [`TURN_TIMEOUT`] at most. [`lock`] then takes the lock.
///
/// flock(2) and F_OFD_SETLKW of fcntl(2) have no time limit: only a signal could interrupt them,
/// and psflip blocks all signals. So a forked process waits. It has the same open file description,
/// so its lock is also this process's lock.
fn wait(file: &File) -> io::Result<()> {
    wait_at_most(TURN_TIMEOUT, file)
}

fn wait_at_most(patience: Duration, file: &File) -> io::Result<()> {
    let this = std::process::id();
    let waiting = match process::fork()? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            let waited = process::die_with_parent(this).and_then(|()| file.lock());
            process::exit_now(u8::from(waited.is_err()))
        }
    };
    // Only this process reaps it, so its pid can't be reused until then.
    let process = PidFd::open(waiting);
    if let Ok(process) = &process {
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        // an early return only shortens the wait
        let _ = poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], patience);
    }
    let pid = Pid::from_raw(waiting.cast_signed());
    let _ = kill(pid, Signal::SIGKILL); // it may have exited
    waitpid(pid, None)?;
    process.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::gettid;

    /// The number of processes that wait for a lock on behalf of this thread, which has no other children.
    /// Other threads run other tests.
    fn waiting(thread: Pid) -> usize {
        let children = std::fs::read_to_string(format!("/proc/self/task/{thread}/children")).unwrap();
        children.split_whitespace().count()
    }

    fn turn(directory: &Path) -> PathBuf {
        directory.join(".x.pid.lock")
    }

    #[test]
    fn a_lock_is_waited_for_and_leaves_no_file() {
        // Contract: P3
        let directory = tempfile::tempdir().unwrap();
        let path = turn(directory.path());
        let first = Turn::take(path.clone()).unwrap().unwrap();
        let file = Turn::open(&path).unwrap();
        let (sender, receiver) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| {
                sender.send(gettid()).unwrap();
                // Long enough for a busy host to run the other thread.
                wait_at_most(Duration::from_secs(3600), &file).unwrap();
                assert_eq!(waiting(gettid()), 0);
            });
            let thread = receiver.recv().unwrap();
            testkit::wait_until(testkit::Deadline::default(), "a process to wait for the turn", || {
                (waiting(thread) > 0).then_some(())
            });
            drop(first);
            waits.join().unwrap();
        });
        // The file is removed, so the next process gets the turn at once, even while the
        // old file is still open.
        let next = Turn::take(path.clone()).unwrap().unwrap();
        assert!(path.exists());
        drop((next, file));
        assert!(!path.exists());
    }

    #[test]
    fn the_wait_for_a_held_lock_is_bounded() {
        // Contract: P3, F12
        let directory = tempfile::tempdir().unwrap();
        let path = turn(directory.path());
        let kept = Turn::take(path.clone()).unwrap().unwrap();
        assert!(Turn::take(path.clone()).unwrap().is_none());
        assert_eq!(waiting(gettid()), 0);
        drop(kept);
        // A file that a crash has left is reused.
        drop(Turn::open(&path).unwrap());
        drop(Turn::take(path.clone()).unwrap().unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_foreign_file_with_the_name_of_the_lock_stays() {
        // Contract: P3, P4
        let directory = tempfile::tempdir().unwrap();
        let path = turn(directory.path());
        fs::write(&path, "data").unwrap();
        let error = Turn::take(path.clone()).unwrap_err().to_string();
        assert!(error.contains("is not the empty file"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "data");
        fs::remove_file(&path).unwrap();
        fs::write(directory.path().join("victim"), "").unwrap();
        std::os::unix::fs::symlink("victim", &path).unwrap();
        assert_eq!(Turn::take(path).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn a_lock_of_a_mere_reader_does_not_count_and_the_creators_does() {
        // Contract: P3
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        let own = std::process::id();
        let create =
            || File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        let look = |pid| is_held(&File::open(&path).unwrap(), pid).unwrap();
        let held = lock_new(create()).unwrap();
        assert!(look(None) && look(Some(own)));
        drop(held);
        assert!(!look(None) && !look(Some(own)));
        // Any local user can lock the file like this, and may have the pid in it by now.
        let reader = File::open(&path).unwrap();
        reader.lock().unwrap();
        fcntl(&reader, FcntlArg::F_OFD_SETLK(&whole(libc::F_RDLCK))).unwrap();
        assert!(!look(None) && !look(Some(own)) && !look(Some(1)));
        drop(reader);
        // Locked as by older versions.
        let older = create();
        older.lock().unwrap();
        assert!(look(Some(own)) && !look(None));
        let copy = File::open(&path).unwrap();
        assert!(copy.try_lock().is_err(), "and they see a new one as held, too");
    }
}
