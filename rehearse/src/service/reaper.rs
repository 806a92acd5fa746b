//! Reaps all children of this process: those that it started, and those that the kernel gives to it because
//! their parents have exited.

use std::collections::HashMap;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Exited(i32),
    Killed(Signal),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Killed(signal) => write!(f, "was terminated by {signal}"),
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    ends: HashMap<Pid, End>,
    /// Children that were started, which wakes the thread if it had none to wait for.
    started: u64,
    /// The process groups of those, without the ones that may outlive the rehearsal.
    groups: Vec<Pid>,
}

/// The thread that reaps.
#[derive(Clone, Debug)]
pub(crate) struct Reaper(Arc<Shared>);

impl Reaper {
    /// Adopts processes whose parents exit, and starts the thread.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start() -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        thread::Builder::new().name("reaper".to_owned()).spawn(move || own.run())?;
        Ok(Self(shared))
    }

    /// Starts a process. Its `Child` must not be waited for.
    ///
    /// # Errors
    /// As [`Command::spawn`].
    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<(Pid, std::process::Child)> {
        // In a process group of its own: Ctrl-C is for the rehearsal, which then stops the service itself.
        let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
        let pid = i32::try_from(child.id()).map(Pid::from_raw).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut state = self.0.lock();
        state.started += 1;
        state.groups.push(pid);
        drop(state);
        self.0.changed.notify_all();
        Ok((pid, child))
    }

    /// Lets what a command has left in its process group outlive the rehearsal.
    pub(crate) fn release(&self, leader: Pid) {
        self.0.lock().groups.retain(|group| *group != leader);
    }

    /// The process groups that must not outlive the rehearsal.
    pub(crate) fn groups(&self) -> Vec<Pid> {
        self.0.lock().groups.clone()
    }

    /// How the process has ended, if it has.
    pub(crate) fn end(&self, pid: Pid) -> Option<End> {
        self.0.lock().ends.get(&pid).copied()
    }

    /// Stops a process gracefully. `None`: it has not exited within `limit`, and was killed.
    pub(crate) fn stop(&self, pid: Pid, limit: Duration) -> Option<End> {
        signal(pid, Signal::SIGTERM);
        let end = self.wait(pid, limit);
        if end.is_none() {
            signal(pid, Signal::SIGKILL);
        }
        end
    }

    /// Waits until the process has ended, or for `limit`.
    pub(crate) fn wait(&self, pid: Pid, limit: Duration) -> Option<End> {
        let until = Instant::now() + limit;
        let mut state = self.0.lock();
        loop {
            if let Some(end) = state.ends.get(&pid) {
                return Some(*end);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.0.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        // WNOWAIT: the status is stored before the process is reaped. Until then its pid can't be used again.
        let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        loop {
            let started = self.lock().started;
            let (pid, end) = match waitid(Id::All, look) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, End::Exited(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, End::Killed(signal)),
                Err(Errno::ECHILD) => {
                    self.wait_for_children(started);
                    continue;
                }
                Ok(_) | Err(_) => continue,
            };
            self.lock().ends.insert(pid, end);
            let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED);
            self.changed.notify_all();
        }
    }

    fn wait_for_children(&self, started: u64) {
        let mut state = self.lock();
        // Without a child of its own, this process adopts none.
        while state.started == started {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Sends a signal; a process that is gone needs none.
pub(crate) fn signal(pid: Pid, signal: Signal) {
    let _ = kill(pid, signal);
}
