//! This generation's child with its process tree, and whether it is healthy.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use nix::sys::epoll::EpollFlags;

use super::descendants::Descendants;
use super::poller::Token;
use super::readiness::Readiness;
use super::timers::Key;
use super::waiting::Waiting;
use crate::config::{Health, Orphans, Plan, Shutdown};
use crate::exit_status::ExitStatus;
use crate::flip::Failure;
use crate::flip::signals::Reach;
use crate::health::{self, Checker, ChildInfo};
use crate::process::keeper::{Report, Tree};
use crate::process::launch::{Launch, Place};
use crate::process::reaper::Reaper;
use crate::signal::Signal;
use crate::sys::early::SignalSetup;
use crate::sys::pidfd::PidFd;
use crate::sys::signal::Received;
use crate::sys::tree;

/// After this time, a child that is not healthy yet gets a log line.
const NOT_HEALTHY_AFTER: Duration = Duration::from_secs(1);
/// After this time, it gets the next one.
pub(super) const NOT_HEALTHY_AGAIN: Duration = Duration::from_secs(10);
/// How many processes are listed that survived SIGKILL.
const MOST_SURVIVORS: usize = 10;

/// The child.
#[derive(Debug)]
pub(super) struct Child {
    /// Its environment, without the variables that describe its sockets.
    pub(super) envp: Rc<[CString]>,
    /// Its process tree, once it was started.
    pub(super) tree: Option<Tree>,
    /// Where its program was found, if it may have to start again.
    pub(super) place: Option<Place>,
    /// Its health check, while it runs.
    checker: Option<CheckerSlot>,
    /// Its `NOTIFY_SOCKET`, if it gets one.
    pub(super) readiness: Option<Readiness>,
    /// When it was found healthy, until a probe fails.
    pub(super) healthy_since: Option<Instant>,
    /// The processes below it, while it settles.
    pub(super) descendants: Option<Descendants>,
    /// How often it was found healthy.
    pub(super) found_healthy: u32,
    /// The result of the last failed probe, once probing is over.
    last_probe_failure: Option<String>,
    pub(super) reaper: Reaper,
}

/// A running health check. `Checker` does not implement Debug.
struct CheckerSlot(Checker);

impl fmt::Debug for CheckerSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checker").field("probes", &self.0.probes()).finish_non_exhaustive()
    }
}

impl Child {
    /// A child that is not started yet.
    pub(super) fn new(envp: Rc<[CString]>, reaper: Reaper) -> Self {
        Self {
            envp,
            tree: None,
            place: None,
            checker: None,
            readiness: None,
            healthy_since: None,
            descendants: None,
            found_healthy: 0,
            last_probe_failure: None,
            reaper,
        }
    }

    /// Its pid, once it was started.
    pub(super) fn pid(&self) -> Option<u32> {
        self.tree.as_ref().and_then(Tree::child_pid)
    }

    /// Its keeper, unless nothing is left of its tree.
    pub(super) fn keeper(&self) -> Option<&PidFd> {
        self.tree.as_ref().filter(|tree| !tree.is_over()).map(Tree::keeper)
    }

    /// Starts it, and watches its keeper.
    ///
    /// # Errors
    /// Those of socket(2), fork(2) and epoll_ctl(2).
    pub(super) fn start(&mut self, mut launch: Launch, plan: &Plan, wait: &mut Waiting) -> io::Result<()> {
        // The socket must exist before the child does.
        if let Some(address) = self.open_notifications(&plan.health, plan.upgrade.timeout, wait)? {
            launch = launch.with_variable("NOTIFY_SOCKET", &address);
        }
        let tree = Tree::start(launch)?;
        wait.poller.watch(Token::Tree, tree.as_fd())?;
        self.tree = Some(tree);
        Ok(())
    }

    /// The next report of its keeper; `None` if there is none at the moment, or no keeper.
    ///
    /// # Errors
    /// ENOMEM.
    pub(super) fn next_report(&mut self, wait: &mut Waiting) -> io::Result<Option<Report>> {
        let Some(tree) = &mut self.tree else { return Ok(None) };
        let Some(report) = tree.next_report()? else { return Ok(None) };
        if tree.is_over() {
            wait.poller.forget(Token::Tree);
        }
        if tree.has_reported_exit() {
            wait.poller.forget(Token::Child);
            wait.timers.clear(Key::Keeper);
        }
        Ok(Some(report))
    }

    /// Watches the child itself, since a keeper that is stopped or hangs does not report the exit.
    pub(super) fn watch(&self, wait: &mut Waiting) {
        if let Some(child) = self.tree.as_ref().and_then(Tree::unreported_child)
            && let Err(error) = wait.poller.watch(Token::Child, child)
        {
            tracing::debug!(%error, "can't wait for the child itself, only for its keeper's report");
        }
    }

    /// The child has exited, and its keeper has not reported that. After a while, the keeper is killed.
    pub(super) fn press_keeper(&mut self, wait: &mut Waiting) {
        if let Some(late) = self.tree.as_mut().and_then(Tree::press_keeper) {
            wait.poller.forget(Token::Child); // it would stay ready forever
            wait.timers.set(Key::Keeper, late.saturating_duration_since(Instant::now()));
        }
    }

    /// Kills what a lost keeper left, except these processes. Returns whether nothing is left.
    pub(super) fn sweep(&mut self, except: impl Iterator<Item = u32>, wait: &mut Waiting) -> bool {
        // The keeper has exited, but a debugger may keep it from being reaped.
        let keeper = self.tree.as_ref().map(Tree::keeper_pid);
        let spared: Vec<u32> = except.chain(keeper).collect();
        let is_over = self.reaper.sweep(&spared);
        if is_over {
            wait.timers.clear(Key::Sweep);
        } else if let Some(next) = self.reaper.next_sweep() {
            wait.timers.set(Key::Sweep, next.saturating_duration_since(Instant::now()));
        }
        is_over
    }

    /// Sends it a signal of psflip's own. Returns whether it got a signal that it can act on.
    pub(super) fn signal(&mut self, signal: Signal) -> bool {
        let Some(tree) = &mut self.tree else { return false };
        if tree.child_pid().is_none() && signal == Signal::KILL {
            // Its exec hangs (on a dead network file system), so only the keeper can be killed.
            tree.kill_keeper();
            return false;
        }
        if signal == Signal::KILL {
            tree.wake_keeper();
        }
        match tree.signal_child(signal) {
            Ok(()) => {
                tracing::debug!(child = tree.child_pid(), %signal, "signal sent to the child");
                signal != Signal::KILL
            }
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => false, // its exit is about to be reported
            Err(error) => {
                tracing::error!(child = tree.child_pid(), %signal, %error, "can't signal the child");
                false
            }
        }
    }

    /// Forwards a signal to it.
    pub(super) fn forward(&mut self, received: &Received, reach: Reach) {
        if let Some(tree) = &mut self.tree
            && let Err(error) = tree.forward(received, reach)
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            tracing::error!(signal = %received.signal, %error, "can't forward a signal to the child");
        }
    }

    /// Sends the stop signal to leftover processes, or leaves them alone.
    pub(super) fn signal_orphans(&self, shutdown: &Shutdown) {
        match shutdown.orphans {
            Orphans::Kill => {
                let signal = shutdown.signal;
                // A stopped process can't act on the signal.
                self.on_tree(|tree| tree.signal_all(signal).and_then(|()| tree.signal_all(Signal::CONT)));
            }
            Orphans::Leave => self.on_tree(Tree::leave_all),
        }
    }

    /// Kills leftover processes, unless they may stay.
    pub(super) fn kill_orphans(&self, orphans: Orphans) {
        if orphans == Orphans::Leave {
            return self.on_tree(Tree::leave_all);
        }
        self.on_tree(|tree| {
            tree.wake_keeper();
            // If the keeper can't be reached, it is killed, and psflip kills the rest of the tree itself.
            if tree.kill_all().is_err() {
                tree.kill_keeper();
            }
            Ok(())
        });
    }

    /// Sends a command to the keeper, unless it has reported that its tree is gone.
    fn on_tree(&self, command: impl FnOnce(&Tree) -> io::Result<()>) {
        if let Some(tree) = &self.tree
            && !tree.is_over()
        {
            let _ = command(tree); // EPIPE: it has just exited, which is reported
        }
    }

    /// The exit status of a child whose keeper was killed.
    pub(super) fn end_with_lost_keeper(&self) -> ExitStatus {
        let end = self.tree.as_ref().map(Tree::exit_status_of_lost_child);
        end.unwrap_or(ExitStatus::Killed(Signal::KILL))
    }

    /// The processes that survived SIGKILL, as text, as far as psflip sees them.
    pub(super) fn survivors(&self) -> String {
        let Some(tree) = &self.tree else { return String::new() };
        // The processes of a lost keeper are below psflip itself.
        let root = if tree.is_over() { std::process::id() } else { tree.keeper_pid() };
        let mut found = tree::described_below(root, self.reaper.foreign());
        let more = found.len().saturating_sub(MOST_SURVIVORS);
        found.truncate(MOST_SURVIVORS);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", found.join(", "))
    }

    /// Before psflip exits: reaps the keeper, and kills what else psflip has started or adopted.
    pub(super) fn finish(&mut self, orphans: Orphans) {
        if let Some(tree) = self.tree.take().filter(Tree::is_over) {
            tree.reap_keeper();
        }
        // psflip doesn't kill processes that it was configured to leave alone, nor, as PID 1 of a container,
        // processes that it did not start.
        if orphans == Orphans::Leave || std::process::id() == 1 {
            return;
        }
        // Also after processes were left behind (contract U5): a keeper that was too slow is killed
        // here, and then psflip kills what becomes its own child.
        self.reaper.kill_own_children();
    }
}

/// The health check.
impl Child {
    /// Where it runs: a symlink such as `current` may lead to another release by now.
    fn workdir(&self, plan: &Plan) -> Option<PathBuf> {
        let place = self.place.as_ref().and_then(Place::workdir);
        place.map(Path::to_path_buf).or_else(|| plan.workdir.clone())
    }

    /// Starts the health check. `old_psflips`: the pids of those whose children run beside.
    pub(super) fn start_probing(
        &mut self,
        plan: &Plan,
        signals: SignalSetup,
        old_psflips: Vec<u32>,
        wait: &mut Waiting,
    ) -> health::Verdict {
        let Some(pid) = self.pid() else { return health::Verdict::Open };
        self.healthy_since = None;
        let (envp, workdir) = (self.envp.clone(), self.workdir(plan));
        let child = ChildInfo { pid, envp, workdir, signals, old_psflips };
        if !matches!(plan.health, Health::Alive { .. }) {
            wait.timers.set(Key::NotHealthyYet, NOT_HEALTHY_AFTER);
        }
        self.checker = Checker::new(&plan.health, child).map(CheckerSlot);
        self.check(Checker::start, wait)
    }

    /// Starts the health check of a child that has the traffic on trial, unless it has no probes.
    pub(super) fn start_watching(
        &mut self,
        plan: &Plan,
        signals: SignalSetup,
        old_psflips: Vec<u32>,
        wait: &mut Waiting,
    ) -> health::Verdict {
        let Some(pid) = self.pid() else { return health::Verdict::Open };
        let (envp, workdir) = (self.envp.clone(), self.workdir(plan));
        let child = ChildInfo { pid, envp, workdir, signals, old_psflips };
        self.checker = Checker::watching(&plan.health, child).map(CheckerSlot);
        self.check(Checker::start, wait)
    }

    /// Drops the health check with its running probe, and keeps its last failure.
    pub(super) fn stop_probing(&mut self, wait: &mut Waiting) {
        wait.timers.clear(Key::Check);
        wait.timers.clear(Key::NotHealthyYet);
        wait.timers.clear(Key::Settle);
        self.stop_watching_descendants(wait);
        wait.poller.forget(Token::Check);
        if let Some(CheckerSlot(checker)) = &self.checker {
            self.last_probe_failure = checker.last_failure().map(str::to_owned);
        }
        self.checker = None;
    }

    /// Drops the health check, which may have processes of its own.
    pub(super) fn drop_check(&mut self) {
        self.checker = None;
    }

    /// Continues the health check.
    pub(super) fn check(
        &mut self,
        go_on: impl FnOnce(&mut Checker) -> health::CheckResult,
        wait: &mut Waiting,
    ) -> health::Verdict {
        let Some(CheckerSlot(checker)) = &mut self.checker else { return health::Verdict::Open };
        let step = go_on(checker);
        match step.timer {
            health::Timer::Keep => {}
            health::Timer::Set(time) => wait.timers.set(Key::Check, time),
            health::Timer::Off => wait.timers.clear(Key::Check),
        }
        let watched = match checker.watch() {
            Some((fd, interest)) => {
                let flags = match interest {
                    health::Interest::Read => EpollFlags::EPOLLIN,
                    health::Interest::Write => EpollFlags::EPOLLOUT,
                };
                wait.poller.watch_for(Token::Check, fd, flags)
            }
            None => {
                wait.poller.forget(Token::Check);
                Ok(())
            }
        };
        if let Err(error) = watched {
            tracing::error!(%error, "can't wait for the health check");
        }
        step.verdict
    }

    /// Watches the processes below it. Nothing but log lines depends on that.
    pub(super) fn watch_descendants(&mut self, settle: Duration, wait: &mut Waiting) {
        let Some(tree) = &self.tree else { return };
        if self.descendants.is_none() {
            let Ok(new) = Descendants::new() else { return };
            if wait.poller.watch(Token::Descendants, new.as_fd()).is_err() {
                return;
            }
            self.descendants = Some(new);
        }
        if let Some(descendants) = &mut self.descendants {
            descendants.look(tree.keeper_pid(), tree.child_pid());
            wait.timers.set(Key::Descendants, Descendants::interval(settle));
        }
    }

    fn stop_watching_descendants(&mut self, wait: &mut Waiting) {
        wait.timers.clear(Key::Descendants);
        wait.poller.forget(Token::Descendants);
        self.descendants = None;
    }

    /// Whether it is checked by probes.
    pub(super) fn has_probes(&self) -> bool {
        self.checker.is_some()
    }

    /// How long it has been healthy; `None`: it is not.
    pub(super) fn healthy_for(&self) -> Option<Duration> {
        self.healthy_since.map(|since| Duration::from_millis(since.elapsed().as_millis() as u64))
    }

    /// The result of the last probe that failed.
    pub(super) fn failed_probe(&self) -> Option<&str> {
        self.checker.as_ref().and_then(|CheckerSlot(checker)| checker.failed())
    }

    /// Why it is not healthy yet. `None`: it has no health check. Schedules the next log line.
    pub(super) fn why_not_healthy_yet(&self, wait: &mut Waiting) -> Option<String> {
        let reason = match (&self.readiness, &self.checker) {
            (Some(notified), _) => notified.why_not_ready(),
            (None, Some(CheckerSlot(checker))) => {
                checker.last_failure().unwrap_or("no probe has finished yet").to_owned()
            }
            (None, None) => return None,
        };
        wait.timers.set(Key::NotHealthyYet, NOT_HEALTHY_AGAIN);
        Some(reason)
    }

    /// What its health check says about this failure.
    pub(super) fn last_probe(&mut self, failure: Failure) -> Option<String> {
        let is_healthy = self.healthy_since.is_some();
        let last_probe = match &self.checker {
            Some(CheckerSlot(checker)) => checker.last_failure().map(str::to_owned),
            None => self.last_probe_failure.take(),
        };
        match (&self.readiness, failure) {
            (Some(notified), Failure::NotHealthy) if !is_healthy => Some(notified.why_not_ready()),
            (Some(_), _) => self.last_words(),
            (None, Failure::NeverHealthy) => last_probe,
            (None, _) => last_probe.map(|probe| format!("last probe: {probe}")),
        }
    }
}
