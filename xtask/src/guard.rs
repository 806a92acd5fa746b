//! Runs a program so that nothing it started outlives it, however it exits: by itself, by Ctrl-C, by a crash.
//!
//! xtask becomes a child subreaper (prctl(2), `PR_SET_CHILD_SUBREAPER`), waits for the program, and then
//! kills every process that is left. By then all of them are its own children, and it kills before it reaps,
//! so no pid can have been reused. Signals that would terminate xtask are blocked and read from a
//! signalfd(2). The program must not start with blocked signals. So xtask itself, as a trampoline under
//! another name, unblocks them and then executes the program.

use std::env;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getppid};

use crate::{Error, Outcome, step};

/// The hidden task that executes another program: `xtask TRAMPOLINE PARENT PROGRAM [ARGUMENT...]`.
pub(crate) const TRAMPOLINE: &str = "__become";
/// Set for an xtask that already runs under a guard: the directory for its files, which the guard removes.
const GUARDED: &str = "XTASK_GUARDED";
/// How long leftover processes may take to exit before they are killed.
const GRACE: Duration = Duration::from_secs(5);
/// The signals that would terminate xtask before it has cleaned up.
const DEADLY: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// A subreaper that outlives what it runs. Create it before any thread starts: threads inherit the signal
/// mask.
pub(crate) struct Guard {
    signals: SignalFd,
    /// Processes that xtask started for itself before, such as the testkit's guard.
    own: Vec<Pid>,
}

impl Guard {
    /// Blocks the deadly signals in this thread, and makes this process a subreaper.
    pub(crate) fn new() -> Result<Self, Error> {
        prctl::set_child_subreaper(true).map_err(|errno| format!("can't become a subreaper: {errno}"))?;
        let mut set = watched();
        set.add(Signal::SIGCHLD);
        set.thread_block().map_err(|errno| format!("can't block signals: {errno}"))?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|errno| format!("can't open a signalfd: {errno}"))?;
        Ok(Self { signals, own: children()? })
    }

    /// Runs a command until it exits, then kills its leftover processes.
    ///
    /// # Errors
    /// It can't be started, fails, or leaves processes that are still there after [`GRACE`].
    pub(crate) fn run(&self, command: &Command) -> Outcome {
        let program = self.start(command)?;
        let status = self.wait_for(program)?;
        let left = self.sweep()?;
        match status {
            WaitStatus::Exited(_, 0) if left.is_empty() => Ok(()),
            WaitStatus::Exited(_, 0) => Err(format!(
                "`{}` left processes (killed now):\n    {}",
                step::shown(command),
                left.join("\n    ")
            )
            .into()),
            WaitStatus::Exited(_, code) => {
                Err(Failed(format!("`{}` exited with code {code}", step::shown(command))).into())
            }
            other => Err(Failed(format!("`{}` exited by {other:?}", step::shown(command))).into()),
        }
    }

    fn start(&self, command: &Command) -> Result<Pid, Error> {
        // This path still works if a build has replaced the file meanwhile.
        let mut trampoline = Command::new("/proc/self/exe");
        trampoline.arg(TRAMPOLINE).arg(std::process::id().to_string());
        trampoline.arg(command.get_program()).args(command.get_args());
        if let Some(directory) = command.get_current_dir() {
            trampoline.current_dir(directory);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => trampoline.env(name, value),
                None => trampoline.env_remove(name),
            };
        }
        let child = trampoline.spawn().map_err(|error| step::cannot_start(command, &error))?;
        Ok(Pid::from_raw(child.id().cast_signed()))
    }

    /// Reaps all children until the program itself has exited; forwards signals that it did not get.
    fn wait_for(&self, program: Pid) -> Result<WaitStatus, Error> {
        let mut asked = 0;
        loop {
            while let Some(status) = reap()? {
                if status.pid() == Some(program) {
                    return Ok(status);
                }
            }
            self.wait_for_signal(PollTimeout::NONE)?;
            while let Some(info) = self.signals.read_signal()? {
                let Ok(signal) = Signal::try_from(info.ssi_signo.cast_signed()) else { continue };
                if signal != Signal::SIGCHLD && !came_from_terminal(&info) {
                    asked += 1;
                    // The program is not reaped yet, so its pid can't have been reused.
                    let _ = kill(program, if asked == 1 { signal } else { Signal::SIGKILL });
                }
            }
        }
    }

    /// Waits for leftover processes to exit, kills them after [`GRACE`], and returns the command lines of the
    /// killed ones.
    fn sweep(&self) -> Result<Vec<String>, Error> {
        let deadline = Instant::now() + GRACE;
        loop {
            while reap()?.is_some() {}
            if self.left()?.is_empty() {
                return Ok(Vec::new());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.wait_for_signal(PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX))?;
            while self.signals.read_signal()?.is_some() {}
        }
        let mut left = Vec::new();
        loop {
            // Killing a process reparents its children to this one, so repeat until there are none.
            for child in self.left()? {
                left.push(format!("{child} {}", command_line(child)));
                let _ = kill(child, Signal::SIGKILL);
                let _ = waitpid(child, None);
            }
            while reap()?.is_some() {}
            if self.left()?.is_empty() {
                return Ok(left);
            }
        }
    }

    /// The children, except xtask's own.
    fn left(&self) -> Result<Vec<Pid>, Error> {
        let mut left = children()?;
        left.retain(|child| !self.own.contains(child));
        Ok(left)
    }

    fn wait_for_signal(&self, timeout: PollTimeout) -> Outcome {
        match poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(format!("can't wait for signals: {errno}").into()),
        }
    }
}

/// The program failed and has already reported why.
#[derive(Debug)]
pub(crate) struct Failed(String);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// The directory for the files of a guarded task; `None` if this xtask doesn't run under a guard yet.
pub(crate) fn scratch() -> Option<PathBuf> {
    env::var_os(GUARDED).map(PathBuf::from)
}

/// Runs this task again, under a guard and with an empty directory.
pub(crate) fn run_again_guarded() -> Outcome {
    let guard = Guard::new()?;
    let directory = env::temp_dir().join(format!("psflip-xtask-{}", std::process::id()));
    fs::create_dir(&directory).map_err(|error| format!("can't make `{}`: {error}", directory.display()))?;
    let mut command = Command::new("/proc/self/exe");
    command.args(env::args_os().skip(1)).env(GUARDED, &directory);
    let outcome = guard.run(&command);
    let _ = fs::remove_dir_all(&directory);
    outcome
}

/// Unblocks the signals that [`Guard::new`] has blocked, and executes another program. Returns only if that
/// fails.
pub(crate) fn trampoline(mut parser: lexopt::Parser) -> ExitCode {
    let Ok(mut words) = parser.raw_args() else { return ExitCode::FAILURE };
    let parent = words.next().and_then(|word| word.to_string_lossy().parse().ok());
    let (Some(parent), Some(program)) = (parent, words.next()) else { return ExitCode::FAILURE };
    // If xtask is killed and so can't clean up, the program at least gets a signal.
    let _ = prctl::set_pdeathsig(Signal::SIGTERM);
    if getppid() != Pid::from_raw(parent) {
        return ExitCode::FAILURE;
    }
    let mut set = watched();
    set.add(Signal::SIGCHLD);
    if let Err(errno) = set.thread_unblock() {
        eprintln!("xtask: can't unblock signals: {errno}");
        return ExitCode::FAILURE;
    }
    let error = Command::new(&program).args(words).exec();
    eprintln!("xtask: can't start `{}`: {error}", program.to_string_lossy());
    ExitCode::from(127)
}

/// The child processes of this one, of all its threads.
pub(crate) fn children() -> Result<Vec<Pid>, Error> {
    children_of(Pid::this())
}

/// The child processes of `parent`; none if it is gone.
pub(crate) fn children_of(parent: Pid) -> Result<Vec<Pid>, Error> {
    let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else { return Ok(Vec::new()) };
    let mut children = Vec::new();
    for thread in threads {
        let list = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        children.extend(list.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
    }
    Ok(children)
}

fn watched() -> SigSet {
    DEADLY.into_iter().collect()
}

/// Reaps one child that has exited, if there is one.
fn reap() -> Result<Option<WaitStatus>, Error> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => Ok(None),
        Ok(status) => Ok(Some(status)),
        Err(errno) => Err(format!("can't wait for children: {errno}").into()),
    }
}

/// The kernel sends a terminal's signals (`SI_KERNEL`, sigaction(2)) to the whole foreground process group,
/// so the program got it, too.
fn came_from_terminal(info: &siginfo) -> bool {
    const SI_KERNEL: i32 = 0x80;
    info.ssi_code == SI_KERNEL
}

fn command_line(pid: Pid) -> String {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&text).replace('\0', " ");
    if line.is_empty() { "(ending)".to_owned() } else { line }
}
