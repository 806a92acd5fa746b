//! `psflip watch`: one stable process for a supervisor that needs one, as the parent of a program that
//! replaces itself and its pidfile.
//!
//! It starts a command under a keeper (`process/keeper`), which is the subreaper of the command's whole tree,
//! and follows the pidfile. The process that the pidfile names is the *service*. Signals go to the service,
//! and `psflip watch` exits with the service's exit status (contract C5). Before there is a service, the
//! command itself takes its place.
//!
//! A name is checked before it counts: the pidfile must have been written since the command was started, and
//! the named process must be a descendant of the command. It stays the service until the pidfile names
//! another process, even if the file is removed.
//!
//! `psflip watch` exits when the service has exited and either no process is left, or the pidfile and the
//! previous service are gone. Otherwise another process may be about to take over (the previous service,
//! which takes its pidfile back, or a new one that isn't ready), and `psflip watch` waits for it for a
//! limited time. At the end leftover processes are stopped (contract C8). If this process dies, all of them
//! die with it (contract C7).
//!
//! `state.rs` decides, without system calls. This file has the loop; `collect.rs` turns what it finds into
//! events, and `perform.rs` performs what follows from them.

mod collect;
mod exits;
mod file;
mod job_control;
mod perform;
mod state;

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use self::file::Pidfile;
use self::state::State;
use crate::exit_status::ExitStatus;
use crate::process::job_control::{Job, JobControl};
use crate::process::keeper::Tree;
use crate::process::launch::{Launch, Refusal, Stage, candidates};
use crate::process::reaper::Reaper;
use crate::sys::early;
use crate::sys::memory::{self, Code};
use crate::sys::pidfd::PidFd;
use crate::sys::process;
use crate::sys::seam::{self, Call};
use crate::sys::signal::{SignalFd, SignalSet};

/// What to watch, and how long to wait.
#[derive(Clone, Debug)]
pub struct Options {
    /// The pidfile that names the service.
    pub pidfile: PathBuf,
    /// The command and its arguments; not empty.
    pub argv: Vec<OsString>,
    /// How long another process may take to become the service after the service has exited. It applies if
    /// the pidfile is still there, or if the previous service still runs.
    pub patience: Duration,
    /// How long leftover processes may take to exit before they are killed.
    pub grace: Duration,
}

/// Why there is nothing to watch.
#[derive(Debug)]
pub enum Failure {
    /// The command could not be started.
    Start(Refusal),
    /// This process lacks something that it needs: what it could not do, and the error.
    Own(&'static str, io::Error),
}

/// Starts the command and watches it until the service has exited. Returns the exit status for this process.
///
/// # Errors
/// Nothing was started, or nothing is left.
pub fn run(options: Options) -> Result<ExitStatus, Failure> {
    memory::reserve_stack(); // before there is a service that a failure would kill
    let own = |what| move |error| Failure::Own(what, error);
    early::stop_ignoring_sigchld().map_err(own("take note of processes that end"))?;
    let signals = SignalFd::open(SignalSet::from_bits(u64::MAX)).map_err(own("read signals"))?;
    let reaper = Reaper::new().map_err(own("become a subreaper"))?;
    // Before the start, because the present content is stale.
    let file = Pidfile::watch(&options.pidfile).map_err(own("watch the pidfile"))?;
    let strings = options.argv.iter().cloned().map(OsString::into_vec);
    let argv: Vec<CString> = strings.filter_map(|bytes| CString::new(bytes).ok()).collect();
    let envp = process::raw_environment();
    let found = candidates(argv.first().map_or(c"", CString::as_c_str), &envp);
    let launch = Launch::with_candidates(found, argv, envp, None, early::inherited_signals());
    let tree = Tree::start_reporting_all(launch).map_err(own("start a keeper"))?;
    let mut watch = Watch::new(options, tree, signals, file, reaper);
    let ended = watch.run();
    watch.reaper.kill_own_children();
    watch.job_control.take_terminal_back();
    ended
}

/// The loop.
struct Watch {
    options: Options,
    tree: Tree,
    signals: SignalFd,
    file: Pidfile,
    reaper: Reaper,
    state: State,
    /// The processes that the state knows.
    processes: Vec<(u32, PidFd)>,
    /// The process that the pidfile named when it was read last.
    named: Option<(u32, PidFd)>,
    /// When the time is up that the state waits for.
    until: Option<Instant>,
    /// Until when a stop request applies to a process that becomes the service.
    stop_until: Option<Instant>,
    job_control: JobControl,
    /// The exit status, once it is decided.
    exit: Option<ExitStatus>,
}

impl Watch {
    fn new(options: Options, tree: Tree, signals: SignalFd, file: Pidfile, reaper: Reaper) -> Self {
        Self {
            state: State::new(!options.patience.is_zero()),
            options,
            tree,
            signals,
            file,
            reaper,
            processes: Vec::new(),
            named: None,
            until: None,
            stop_until: None,
            job_control: JobControl::new(Job::of(None)),
            exit: None,
        }
    }

    fn run(&mut self) -> Result<ExitStatus, Failure> {
        let mut was_settled = false;
        loop {
            self.on_keeper_reports()?;
            if let Some(end) = self.exit {
                return Ok(end);
            }
            let late = self.tree.press_keeper();
            self.look();
            self.read_signals();
            self.look_at_the_time();
            let is_settled = self.state.has_service();
            let is_new = is_settled && !std::mem::replace(&mut was_settled, is_settled);
            // This process runs as long as the service.
            self.wait(late, if is_new { Code::IsDropped } else { Code::Stays });
        }
    }

    fn wait(&self, late: Option<Instant>, code: Code) {
        let fds = [self.tree.as_fd(), self.signals.as_fd(), self.file.as_fd()];
        let awaited = self.processes.iter().filter(|(pid, _)| self.state.awaits(*pid));
        let fds = fds.into_iter().chain(awaited.map(|(_, process)| process.as_fd()));
        let fds = fds.chain(self.tree.unreported_child());
        let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let until = [self.until, late].into_iter().flatten().min();
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        // EINTR can't happen: all signals are blocked
        let _ = seam::before(Call::Poll).and_then(|()| memory::poll(&mut fds, timeout, code));
    }
}

impl Failure {
    /// The exit code (contract C6).
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Start(Refusal { stage: Stage::Exec, error }) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => crate::exit::NOT_FOUND,
                _ => crate::exit::NOT_EXECUTABLE,
            },
            Self::Start(_) | Self::Own(..) => crate::exit::FAILURE,
        }
    }
}
