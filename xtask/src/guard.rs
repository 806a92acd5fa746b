//! Runs a program so that nothing it started outlives it, however it ends: by itself, by Ctrl-C, by a crash.
//!
//! xtask becomes the subreaper of what it starts (prctl(2), `PR_SET_CHILD_SUBREAPER`), waits for the program, and then ends every process that is
//! still there. All of these are its own children by then and are not reaped before they are killed, so that no pid can mean another process.
//! Signals that would end xtask are blocked and read from a signalfd(2). The program must not start with them blocked, so a trampoline, xtask
//! itself under another name, unblocks them and then becomes the program.

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

/// The hidden task that becomes another program: `xtask TRAMPOLINE PARENT PROGRAM [ARGUMENT...]`.
pub(crate) const TRAMPOLINE: &str = "__become";
/// Set for an xtask that runs under a guard already: the directory it may fill, which the guard removes.
const GUARDED: &str = "XTASK_GUARDED";
/// How long processes that are just ending may take to be gone.
const GRACE: Duration = Duration::from_secs(5);
/// The signals that would end xtask before it has cleaned up.
const DEADLY: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT];

/// The subreaper that outlives what it runs. Make it before any thread is started: a thread takes the signal mask of its maker.
pub(crate) struct Guard {
    signals: SignalFd,
    /// What xtask has started for itself before: the testkit's guard, for instance, when it has made a sandbox.
    own: Vec<Pid>,
}

impl Guard {
    /// Blocks the deadly signals in this thread and makes this process a subreaper.
    pub(crate) fn new() -> Result<Self, Error> {
        prctl::set_child_subreaper(true).map_err(|errno| format!("can't become a subreaper: {errno}"))?;
        let mut set = watched();
        set.add(Signal::SIGCHLD);
        set.thread_block().map_err(|errno| format!("can't block signals: {errno}"))?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(|errno| format!("can't open a signalfd: {errno}"))?;
        Ok(Self { signals, own: children()? })
    }

    /// Runs a command to its end, then ends what it left behind.
    ///
    /// # Errors
    /// When it can't be started, ends without success, or left processes behind that were still there after [`GRACE`].
    pub(crate) fn run(&self, command: &Command) -> Outcome {
        let program = self.start(command)?;
        let status = self.wait_for(program)?;
        let left = self.sweep()?;
        match status {
            WaitStatus::Exited(_, 0) if left.is_empty() => Ok(()),
            WaitStatus::Exited(_, 0) => Err(format!(
                "`{}` left processes behind (ended now):\n    {}",
                step::shown(command),
                left.join("\n    ")
            )
            .into()),
            WaitStatus::Exited(_, code) => {
                Err(Failed(format!("`{}` ended with code {code}", step::shown(command))).into())
            }
            other => Err(Failed(format!("`{}` ended by {other:?}", step::shown(command))).into()),
        }
    }

    fn start(&self, command: &Command) -> Result<Pid, Error> {
        // By this path it is found even when a build has replaced the file meanwhile.
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

    /// Reaps everything until the program itself has ended; passes on signals that it did not get.
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
                    // The program is not reaped yet, so its pid is its own.
                    let _ = kill(program, if asked == 1 { signal } else { Signal::SIGKILL });
                }
            }
        }
    }

    /// Waits for the leftovers to end, kills them after [`GRACE`], and returns their command lines.
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
            // Their children become ours when they die, so this goes on until there are none.
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

    /// The children that are not xtask's own.
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

/// The program ended without success and has said why itself.
#[derive(Debug)]
pub(crate) struct Failed(String);

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failed {}

/// The directory for what a guarded task writes; `None` when this xtask doesn't run under a guard yet.
pub(crate) fn scratch() -> Option<PathBuf> {
    env::var_os(GUARDED).map(PathBuf::from)
}

/// Starts this very task again, under a guard and with an empty directory.
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

/// Becomes another program, with the signals unblocked that [`Guard::new`] has blocked. Returns only when that fails.
pub(crate) fn trampoline(mut parser: lexopt::Parser) -> ExitCode {
    let Ok(mut words) = parser.raw_args() else { return ExitCode::FAILURE };
    let parent = words.next().and_then(|word| word.to_string_lossy().parse().ok());
    let (Some(parent), Some(program)) = (parent, words.next()) else { return ExitCode::FAILURE };
    // When xtask is killed so that it can't clean up, the program at least gets to hear of it.
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

/// The processes whose parent this one is, of all its threads.
pub(crate) fn children() -> Result<Vec<Pid>, Error> {
    children_of(Pid::this())
}

/// The processes whose parent is `parent`; none when it is gone.
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

/// Reaps one child that has ended, if there is one.
fn reap() -> Result<Option<WaitStatus>, Error> {
    match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => Ok(None),
        Ok(status) => Ok(Some(status)),
        Err(errno) => Err(format!("can't wait for children: {errno}").into()),
    }
}

/// The kernel sends the terminal's signals to the whole foreground group (`SI_KERNEL`, sigaction(2)); the program got it then.
fn came_from_terminal(info: &siginfo) -> bool {
    const SI_KERNEL: i32 = 0x80;
    info.ssi_code == SI_KERNEL
}

fn command_line(pid: Pid) -> String {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&text).replace('\0', " ");
    if line.is_empty() { "(ending)".to_owned() } else { line }
}
