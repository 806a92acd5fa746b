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

mod ends;
mod file;
mod job_control;

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::ends::Ends;
use self::file::{Content, Pidfile};
use crate::end::End;
use crate::flip::signals::{Meaning, Reach, Request, Situation, meaning};
use crate::process::job_control::{self as job, Job, JobControl};
use crate::process::keeper::{Report, Tree};
use crate::process::launch::{Launch, Refusal, Stage, candidates};
use crate::process::reaper::Reaper;
use crate::signal::Signal;
use crate::sys::pidfd::PidFd;
use crate::sys::process;
use crate::sys::seam::{self, Call};
use crate::sys::signal::{Received, SignalFd, SignalSet};
use crate::sys::tree::{self, Place};
use crate::sys::wait::{Change, ChangeKind};
use crate::sys::{early, memory};

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

/// How long killed processes may take to disappear. After that, their keeper counts as hung.
const KILLED: Duration = Duration::from_secs(5);

/// How many signals are queued for a service that isn't there yet.
const KEPT: usize = 1000;

/// Starts the command and watches it until the service has exited. Returns the exit status for this process.
///
/// # Errors
/// Nothing was started, or nothing is left.
pub fn run(options: Options) -> Result<End, Failure> {
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
    let tree = Tree::start_telling_all(launch).map_err(own("start a keeper"))?;
    let mut watch = Watch::new(options, tree, signals, file, reaper);
    let ended = watch.run();
    watch.reaper.end_our_own();
    watch.job_control.take_terminal_back();
    ended
}

/// A process that is or was the service.
#[derive(Debug)]
struct Service {
    pid: u32,
    process: PidFd,
    /// It has exited, and the keeper was asked for its exit status.
    asked: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Watching,
    /// The service has exited, with this status if known. Another process may take over until this time.
    Waiting(Option<End>, Instant),
    /// The service has exited for good, with this status. Leftover processes are killed at this time.
    Ending(End, Instant),
    Killing(End, Instant),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Service(u32),
    Command(u32),
    Nobody,
}

struct Watch {
    options: Options,
    tree: Tree,
    signals: SignalFd,
    file: Pidfile,
    reaper: Reaper,
    phase: Phase,
    service: Option<Service>,
    /// The previous service, which may take over again: nginx's old process does when the new one has exited.
    older: Option<Service>,
    command_ended: Option<End>,
    /// The command itself was the service at some time.
    command_served: bool,
    /// There is no service any more; the exit status of the last one, if it is known.
    last: Option<Option<End>>,
    ends: Ends,
    /// Signals queued for a service that isn't there yet.
    waiting: Vec<Received>,
    /// The last stop request. A process that becomes the service right after it gets it too.
    stop: Option<(Received, Instant)>,
    job_control: JobControl,
}

impl Watch {
    fn new(options: Options, tree: Tree, signals: SignalFd, file: Pidfile, reaper: Reaper) -> Self {
        Self {
            options,
            tree,
            signals,
            file,
            reaper,
            phase: Phase::Watching,
            service: None,
            older: None,
            command_ended: None,
            command_served: false,
            last: None,
            ends: Ends::default(),
            waiting: Vec::new(),
            stop: None,
            job_control: JobControl::new(Job::of(None)),
        }
    }

    fn run(&mut self) -> Result<End, Failure> {
        let mut was_settled = false;
        loop {
            if let Some(over) = self.on_keeper_report() {
                return over;
            }
            let late = self.tree.press_keeper();
            if let Err(error) = self.file.take_events() {
                tracing::error!(%error, "can't watch the pidfile's directory");
            }
            self.look();
            self.read_signals();
            self.look_at_the_time();
            let is_settled = self.service.is_some();
            if is_settled && !std::mem::replace(&mut was_settled, is_settled) {
                memory::let_go_of_startup_code(); // this process runs as long as the service
            }
            self.wait(late);
        }
    }

    fn wait(&self, late: Option<Instant>) {
        let older = self.older.as_ref().filter(|_| matches!(self.phase, Phase::Waiting(..)));
        let ending = [self.service.as_ref(), older].map(|one| one.filter(|one| !one.asked));
        let fds = [Some(self.tree.as_fd()), Some(self.signals.as_fd()), Some(self.file.as_fd())];
        let fds = fds.into_iter().chain(ending.map(|one| one.map(|one| one.process.as_fd())));
        let fds = fds.chain([self.tree.unreported_child()]);
        let mut fds: Vec<_> = fds.flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let until = match self.phase {
            Phase::Watching => None,
            Phase::Waiting(_, until) => Some(until),
            Phase::Ending(_, until) | Phase::Killing(_, until) => Some(until),
        };
        let until = [until, late].into_iter().flatten().min();
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        // EINTR can't happen: all signals are blocked
        let _ = seam::before(Call::Poll).and_then(|()| poll(&mut fds, timeout));
    }

    /// Reads the keeper's reports. `Some`: nothing is left.
    fn on_keeper_report(&mut self) -> Option<Result<End, Failure>> {
        loop {
            match self.tree.next_report() {
                Ok(Some(Report::Started)) => {
                    // The pidfile may have named the command before the keeper reported its pid.
                    let named = [&self.service, &self.older].into_iter().flatten();
                    self.command_served |= named.map(|one| one.pid).any(|pid| self.is_command(pid));
                }
                Ok(Some(Report::Refused(refusal))) => return Some(Err(Failure::Start(refusal))),
                Ok(Some(Report::Stopped(signal))) => {
                    self.was_stopped(self.tree.child_pid().unwrap_or_default(), signal);
                }
                Ok(Some(Report::Continued)) => {
                    self.was_continued(self.tree.child_pid().unwrap_or_default());
                }
                Ok(Some(Report::Ended(end))) => {
                    self.read_signals(); // a signal to the whole service may have come a moment ago
                    self.job_control.take_terminal_back();
                    self.command_ended = Some(end);
                    self.one_has_ended(self.tree.child_pid().unwrap_or_default(), end);
                }
                Ok(Some(Report::Other(Change { pid, kind }))) => match kind {
                    ChangeKind::Ended(end) => {
                        self.read_signals();
                        self.one_has_ended(pid, end);
                    }
                    ChangeKind::Stopped(signal) => self.was_stopped(pid, signal),
                    ChangeKind::Continued => self.was_continued(pid),
                },
                Ok(Some(Report::CaughtUp)) => self.keeper_has_told(),
                Ok(Some(Report::About { .. })) => {} // never requested
                Ok(Some(Report::Gone)) => return Some(Ok(self.end_of_all())),
                Ok(Some(Report::Lost)) => {
                    tracing::error!("the keeper was killed; killing all that is left");
                    return Some(Ok(self.tree.end_of_lost_child()));
                }
                Ok(None) => return None,
                Err(error) => {
                    tracing::error!(%error, "can't receive from the keeper");
                    return None;
                }
            }
        }
    }

    /// A process of the tree has exited.
    fn one_has_ended(&mut self, pid: u32, end: End) {
        self.ends.note(pid, end);
        if self.service.as_ref().is_some_and(|service| !service.process.has_ended()) {
            // It exited while the service runs, so it can't become the service again.
            self.older.take_if(|older| older.pid == pid && older.process.has_ended());
        }
    }

    /// Finds out which process is the service, and what follows if there is none.
    fn look(&mut self) {
        if let Phase::Ending(..) | Phase::Killing(..) = self.phase {
            return;
        }
        let content = self.file.read();
        if let Content::Pid(pid) = content {
            self.is_named(pid);
        }
        let who_matters = match self.phase {
            Phase::Waiting(..) => self.older.as_mut(),
            _ => self.service.as_mut(),
        };
        if let Some(one) = who_matters
            && one.process.has_ended()
            && !std::mem::replace(&mut one.asked, true)
        {
            let _ = self.tree.ask_to_catch_up(); // if the keeper is gone, a report says so
        }
        if self.service.is_some() {
            return;
        }
        let Some(end) = self.command_ended.filter(|_| matches!(self.phase, Phase::Watching)) else { return };
        match self.last {
            Some(last) => self.conclude(last),
            // A stop may have been sent just after the command had exited.
            None if end != End::Exited(0) || self.recent_stop().is_some() => self.over(end),
            None => {} // the command became a daemon that has not written its pid yet
        }
    }

    /// The pidfile names this process anew.
    fn is_named(&mut self, pid: u32) {
        if self.service.as_ref().is_some_and(|service| service.pid == pid && !service.process.has_ended()) {
            self.file.judged();
            return;
        }
        let Ok(process) = PidFd::open(pid) else {
            self.dead_is_named(pid);
            return;
        };
        match tree::place(pid, self.tree.keeper_pid()) {
            Place::Below if !process.has_ended() => {
                self.file.judged();
                self.becomes_service(pid, process);
            }
            Place::Below | Place::Gone => self.dead_is_named(pid),
            Place::Elsewhere => {
                self.file.judged();
                tracing::warn!(
                    named = pid,
                    pidfile = %self.options.pidfile.display(),
                    "the pidfile names a process that is none of the command's; it is ignored"
                );
            }
        }
    }

    /// It wrote its pid and exited at once, or never belonged to the tree. The keeper's reports tell which.
    fn dead_is_named(&mut self, pid: u32) {
        if self.service.as_ref().is_some_and(|service| !service.process.has_ended()) {
            return; // the current service runs on
        }
        if let Some(end) = self.ends.of(pid) {
            self.file.judged();
            self.service = None;
            self.has_ended(Some(end));
        }
    }

    fn becomes_service(&mut self, pid: u32, process: PidFd) {
        self.command_served |= self.is_command(pid) && self.command_ended.is_none();
        self.ends.forget(pid);
        self.phase = Phase::Watching;
        self.last = None;
        tracing::info!(service = pid, "follows the pidfile");
        if let Some(received) = self.recent_stop() {
            tracing::info!(service = pid, signal = %received.signal, "it was named after the stop request, and gets it too");
            let _ = process.forward(&received); // it may have exited
            self.waiting.retain(|waiting| waiting.signal != received.signal);
        }
        for received in std::mem::take(&mut self.waiting) {
            let _ = process.forward(&received); // it may have exited
        }
        let named = Service { pid, process, asked: false };
        let replaced = self.service.replace(named);
        // A previous service that took over again replaces one that gave up, which is then no
        // longer kept as the previous one.
        self.older = match self.older.take() {
            Some(before) if before.pid == pid => None,
            before => replaced.or(before).filter(|older| older.pid != pid && !older.process.has_ended()),
        };
    }

    /// The keeper has reported all that it knows about an exited service, or about the previous one.
    fn keeper_has_told(&mut self) {
        let _ = self.file.take_events(); // an error is reported at the next look
        if let Content::Pid(pid) = self.file.read() {
            self.is_named(pid);
        }
        if let Some(service) = self.service.take_if(|service| service.asked) {
            self.has_ended(self.ends.of(service.pid));
        } else if let Phase::Waiting(end, _) = self.phase
            && self.older.as_ref().is_some_and(|older| older.asked)
        {
            self.conclude(end);
        }
    }

    /// The service has exited, with this status if it is known, and the pidfile names no other process.
    fn has_ended(&mut self, end: Option<End>) {
        let told = end.map_or_else(|| "in an unknown way".to_owned(), |end| end.to_string());
        tracing::info!(end = told, "the service has exited");
        self.last = Some(end);
        if self.command_ended.is_none() && !self.command_served {
            // The command still runs and never was the service: it is a wrapper. Wait for its exit.
            for received in std::mem::take(&mut self.waiting) {
                let _ = self.tree.forward(&received, Reach::Child); // it may have exited
            }
        } else {
            self.conclude(end);
        }
    }

    /// There is neither a service nor a wrapper. Stop, unless another process may be about to take over.
    fn conclude(&mut self, end: Option<End>) {
        // The service may have removed its pidfile before the previous service has noticed its exit.
        let older_lives = self.older.as_ref().is_some_and(|older| !older.process.has_ended());
        let may_come = older_lives || self.file.read() != Content::Missing;
        let patience = self.options.patience;
        if !may_come || self.recent_stop().is_some() || patience.is_zero() {
            self.over_after(end);
        } else {
            tracing::warn!(?patience, "waiting for another process to take its place");
            self.phase = Phase::Waiting(end, Instant::now() + patience);
        }
    }

    /// The last stop request, if it is recent enough to apply to a process that becomes the service now.
    fn recent_stop(&self) -> Option<Received> {
        self.stop.filter(|(_, when)| when.elapsed() < self.options.grace).map(|(received, _)| received)
    }

    /// The last service has exited, with this status if it is known, and no process took over.
    fn over_after(&mut self, end: Option<End>) {
        self.report_outage(end);
        let end = self.known(end);
        self.over(end);
    }

    /// The service has exited for good: leftover processes are stopped.
    fn over(&mut self, end: End) {
        tracing::info!(%end, "stopped; stopping what is left");
        self.phase = Phase::Ending(end, Instant::now() + self.options.grace);
        let _ = self.tree.signal_all(Signal::TERM); // an error means that nothing is left
        let _ = self.tree.signal_all(Signal::CONT); // a stopped process can't act on SIGTERM
    }

    fn look_at_the_time(&mut self) {
        let now = Instant::now();
        match self.phase {
            Phase::Waiting(end, until) if until <= now => self.over_after(end),
            Phase::Ending(end, until) if until <= now => {
                tracing::warn!("killing what did not exit within {:?}", self.options.grace);
                self.phase = Phase::Killing(end, now + KILLED);
                let _ = self.tree.kill_all(); // an error means that nothing is left
            }
            Phase::Killing(end, until) if until <= now => {
                self.phase = Phase::Killing(end, now + KILLED);
                self.tree.kill_keeper(); // its orphans become children of this process
            }
            _ => {}
        }
    }

    fn target(&self) -> Target {
        match (&self.service, self.tree.child_pid()) {
            (Some(service), _) if !service.process.has_ended() => Target::Service(service.pid),
            (None, None) if self.command_ended.is_none() => Target::Command(0),
            (None, Some(pid)) if self.command_ended.is_none() => Target::Command(pid),
            _ => Target::Nobody,
        }
    }

    fn read_signals(&mut self) {
        loop {
            match self.signals.next() {
                Ok(Some(received)) if received.signal == Signal::CHLD => {
                    while self.reaper.next().is_some() {}
                }
                Ok(Some(received)) => self.signalled(&received),
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "can't read signals");
                    return;
                }
            }
        }
    }

    fn signalled(&mut self, received: &Received) {
        let target = self.target();
        let sender = job::sender(received);
        let suspended = self.job_control.on_signal(received.signal, sender);
        if received.signal == Signal::CONT {
            self.job_control.on_continue();
        }
        let situation = Situation { upgrade_signal: None, suspended };
        let Meaning { forward: Some(reach), request } = meaning(received.signal, sender, &situation) else {
            return; // raised by a failed write
        };
        if request == Some(Request::Stop) {
            let from = job::sender_text(received);
            tracing::info!(signal = %received.signal, from, "stop requested");
            self.stop = Some((*received, Instant::now()));
        }
        let sent = match (target, self.phase) {
            (_, Phase::Ending(..) | Phase::Killing(..)) => self.tree.signal_all(received.signal),
            (Target::Nobody, phase) => {
                self.nobody_is_signalled(received, request, phase);
                Ok(())
            }
            (Target::Command(_), _) => self.tree.forward(received, reach),
            // If the service is a direct child of the keeper, the keeper can signal its whole group.
            (Target::Service(pid), _)
                if reach == Reach::Group && tree::parent_of(pid) == Some(self.tree.keeper_pid()) =>
            {
                self.tree.signal_group(pid, received.signal)
            }
            (Target::Service(_), _) => {
                self.service.as_ref().map_or(Ok(()), |service| service.process.forward(received))
            }
        };
        if let Err(error) = sent
            && !matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EPIPE))
        {
            tracing::error!(signal = %received.signal, %error, "can't forward a signal");
        }
    }

    /// There is no service. A stop request ends the wait for one; other signals are queued for it.
    fn nobody_is_signalled(&mut self, received: &Received, request: Option<Request>, phase: Phase) {
        match (request, phase) {
            (Some(Request::Stop), Phase::Waiting(end, _)) => self.over_after(end),
            // Otherwise the service has exited just now, and the keeper is about to report its exit status.
            (Some(Request::Stop), _) if self.service.is_none() => self.over(End::Killed(received.signal)),
            _ if self.waiting.len() < KEPT => self.waiting.push(*received),
            _ => {}
        }
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
