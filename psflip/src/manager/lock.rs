//! Locks of files that are held as long as their process lives (flock(2)).

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::sys::pidfd::PidFd;
use crate::sys::process::{self, Fork};
use crate::sys::seam::{self, Call};

/// How long the lock of a file is waited for in which nobody alive is named. Whoever has it looks at the file, replaces it, or
/// is about to end: that takes microseconds, unless it is stopped.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a file is locked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    /// By one.
    Exclusive,
    /// By any number.
    Shared,
}

/// A file with its lock, which goes with it. That the lock is dropped may fail (ENOLCK on NFS), and is no reason to panic: the
/// close that follows drops it as well.
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
        // By itself, and not only by the close: a process that is just being forked may have the file open as well.
        let _ = self.0.unlock();
    }
}

/// flock(2), without waiting. EWOULDBLOCK: somebody else has it.
pub(super) fn lock(file: File, how: Lock) -> Result<Locked, (File, Errno)> {
    let locked = seam::before(Call::Lock).map_err(io::Error::from).and_then(|()| {
        let locked = match how {
            Lock::Exclusive => file.try_lock(),
            Lock::Shared => file.try_lock_shared(),
        };
        locked.map_err(|error| match error {
            TryLockError::WouldBlock => Errno::EWOULDBLOCK.into(),
            TryLockError::Error(error) => error,
        })
    });
    match locked {
        Ok(()) => Ok(Locked(file)),
        Err(error) => Err((file, Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))),
    }
}

/// Waits until the file can be locked, for [`PATIENCE`] at most; [`lock`] then tells. Neither flock(2) nor F_OFD_SETLKW of fcntl(2) can be told when to give up:
/// that takes a signal, and psflip blocks them all. So a process of its own waits. It has the same open file description, so what
/// it locks is locked for this process, too.
pub(super) fn wait(file: &File, how: Lock) -> io::Result<()> {
    wait_at_most(PATIENCE, file, how)
}

fn wait_at_most(patience: Duration, file: &File, how: Lock) -> io::Result<()> {
    let this = std::process::id();
    let waiting = match process::fork()? {
        Fork::Parent(pid) => pid,
        Fork::Child => {
            let waited = process::die_with_parent(this).and_then(|()| match how {
                Lock::Exclusive => file.lock(),
                Lock::Shared => file.lock_shared(),
            });
            process::exit_now(u8::from(waited.is_err()))
        }
    };
    // Nobody else reaps it, so its pid is its own until then.
    let process = PidFd::open(waiting);
    if let Ok(process) = &process {
        let patience = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)], patience); // whoever wakes early gives up early
    }
    let pid = Pid::from_raw(waiting.cast_signed());
    let _ = kill(pid, Signal::SIGKILL); // it may have ended
    waitpid(pid, None)?;
    process.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::gettid;

    /// The processes that wait for a lock on behalf of this thread, which has no other children. Other threads run other tests.
    fn waiting(thread: Pid) -> usize {
        let children = std::fs::read_to_string(format!("/proc/self/task/{thread}/children")).unwrap();
        children.split_whitespace().count()
    }

    #[test]
    fn a_lock_that_is_let_go_of_is_waited_for() {
        // Contract: P3
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        for (theirs, ours) in [(Lock::Shared, Lock::Exclusive), (Lock::Exclusive, Lock::Shared)] {
            let open = || File::options().create(true).append(true).open(&path).unwrap();
            let held = lock(open(), theirs).unwrap();
            let file = open();
            assert_eq!(lock(open(), ours).unwrap_err().1, Errno::EWOULDBLOCK);
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::scope(|scope| {
                let waits = scope.spawn(|| {
                    tell.send(gettid()).unwrap();
                    // Longer than a busy machine keeps the other thread from looking.
                    wait_at_most(Duration::from_secs(3600), &file, ours).unwrap();
                    assert_eq!(waiting(gettid()), 0);
                });
                let thread = told.recv().unwrap();
                testkit::wait_until(testkit::Deadline::default(), "somebody to wait for the lock", || {
                    (waiting(thread) > 0).then_some(())
                });
                drop(held);
                waits.join().unwrap();
            });
            // It is had already: by who waited, and so by us.
            assert_eq!(lock(open(), Lock::Exclusive).unwrap_err().1, Errno::EWOULDBLOCK);
            drop(lock(file, ours).unwrap());
            lock(open(), Lock::Exclusive).unwrap();
        }
    }

    #[test]
    fn a_lock_that_is_kept_is_not_waited_for_without_end() {
        // Contract: P3, F12
        let file = tempfile::NamedTempFile::new().unwrap();
        let held = lock(file.reopen().unwrap(), Lock::Shared).unwrap();
        let ours = file.reopen().unwrap();
        wait(&ours, Lock::Exclusive).unwrap();
        assert_eq!(waiting(gettid()), 0);
        assert_eq!(lock(ours, Lock::Exclusive).unwrap_err().1, Errno::EWOULDBLOCK);
        drop(held);
    }
}
