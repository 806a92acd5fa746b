//! The keeper: a small process between psflip and a process tree. It makes sure that no
//! process of the tree outlives psflip.
//!
//! A keeper is a fork of psflip without an exec. It is the subreaper of its tree, so every orphan in the tree
//! becomes the keeper's child, and the keeper reaps it (contract C9). It reports to psflip what happens to
//! the tree's first process, the *child*. When psflip dies, for whatever reason, it kills the whole tree
//! (contract C7). This covers a child that changed its credentials, which clears the kernel's parent-death
//! signal. That signal is armed as well, for the keeper's own death. The rest of the tree then becomes
//! children of psflip, which is a subreaper too (see `process/reaper.rs`).
//!
//! psflip has one keeper for its child, and one for every command of a health check and every hook.
//!
//! A message is a packet of one byte and its arguments. Both ends are copies of the same program,
//! so the messages need no version.

mod life;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::life::keep;
use crate::exit_status::ExitStatus;
use crate::flip::signals::Reach;
use crate::process::launch::{Launch, Refusal, Stage};
use crate::process::reaper;
use crate::signal::Signal;
use crate::sys::pidfd::PidFd;
use crate::sys::process::{self, Fork};
use crate::sys::signal::Received;
use crate::sys::socket::{Packet, Socket};
use crate::sys::wait::{Change, ChangeKind};

/// A keeper's report.
#[derive(Debug)]
pub enum Report {
    /// The program runs.
    Started,
    /// The program could not be started; there is no tree.
    Refused(Refusal),
    /// The child was stopped by a signal.
    Stopped(Signal),
    /// The child was continued.
    Continued,
    /// The child has exited. Leftover processes may still be there.
    Exited(ExitStatus),
    /// A change of another process that is the keeper's own child, since its parent exited. Only for a tree
    /// that was started by [`Tree::start_reporting_all`].
    Other(Change),
    /// Whether a process belongs to the tree, or belonged to it when it exited: the
    /// answer to [`Tree::query_membership`].
    About {
        /// The process.
        pid: u32,
        /// Whether it belongs to the tree.
        belongs: bool,
    },
    /// Whether a signal is pending in a process: the answer to [`Tree::ask_whether_pending`].
    Pending(bool),
    /// Everything that had exited when [`Tree::request_catch_up`] was called has been reported.
    CaughtUp,
    /// Nothing is left of the tree.
    Gone,
    /// The keeper died. The kernel killed the child; the rest of the tree has become psflip's own children.
    KeeperDied,
}

/// A process tree under a keeper, as psflip sees it. Dropping it makes the keeper kill everything.
#[derive(Debug)]
pub struct Tree {
    socket: Socket,
    keeper: PidFd,
    keeper_pid: u32,
    child: Option<(u32, PidFd)>,
    /// Signals that arrived before the child's pidfd.
    waiting: Vec<(Received, Reach)>,
    /// The child's exit was reported.
    exit_reported: bool,
    /// The child has left processes behind when it exited.
    left_processes: bool,
    /// The child has exited, and its keeper must report that before this time.
    late: Option<Instant>,
    over: bool,
}

impl Tree {
    /// Starts a program under a new keeper. [`Report::Started`] or [`Report::Refused`] reports the outcome.
    ///
    /// # Errors
    /// The errors of socketpair(2), pidfd_open(2) and fork(2): EMFILE, EAGAIN, ENOMEM, ...
    pub fn start(launch: Launch) -> io::Result<Self> {
        Self::start_keeper(launch, false)
    }

    /// As [`Tree::start`], with a keeper that reports changes of every process that it
    /// adopts ([`Report::Other`]).
    ///
    /// # Errors
    /// As [`Tree::start`].
    pub fn start_reporting_all(launch: Launch) -> io::Result<Self> {
        Self::start_keeper(launch, true)
    }

    fn start_keeper(launch: Launch, reports_all: bool) -> io::Result<Self> {
        let (ours, theirs) = Socket::pair()?;
        let psflip = PidFd::open(std::process::id())?;
        match process::fork()? {
            Fork::Child => {
                drop(ours);
                keep(launch, &theirs, &psflip, reports_all)
            }
            Fork::Parent(keeper_pid) => {
                // The keeper is a child of this process and not reaped: the pid can't have been reused.
                let keeper = PidFd::open(keeper_pid)?;
                reaper::has_started(keeper_pid);
                Ok(Self {
                    socket: ours,
                    keeper,
                    keeper_pid,
                    child: None,
                    waiting: Vec::new(),
                    exit_reported: false,
                    left_processes: false,
                    late: None,
                    over: false,
                })
            }
        }
    }

    /// The keeper's process, which exits after the whole tree.
    #[must_use]
    pub fn keeper(&self) -> &PidFd {
        &self.keeper
    }

    /// The keeper's pid.
    #[must_use]
    pub fn keeper_pid(&self) -> u32 {
        self.keeper_pid
    }

    /// Readable once the child has exited and its keeper has not reported that, until
    /// [`Tree::press_keeper`] has noticed.
    #[must_use]
    pub fn unreported_child(&self) -> Option<BorrowedFd<'_>> {
        let child = self.child.as_ref().filter(|_| !self.has_reported_exit() && self.late.is_none());
        child.map(|(_, child)| child.as_fd())
    }

    /// Whether the child has been started and has not exited, reported or not.
    #[must_use]
    pub fn is_child_running(&self) -> bool {
        self.child.as_ref().is_some_and(|(_, child)| !child.has_exited())
    }

    /// Whether the child's exit was reported, or no report can follow.
    #[must_use]
    pub fn has_reported_exit(&self) -> bool {
        self.exit_reported || self.over
    }

    /// Whether other processes of the tree were there when the child had exited.
    #[must_use]
    pub fn left_processes(&self) -> bool {
        self.left_processes
    }

    /// Makes sure that the child's exit is reported. Call it when all reports have been read.
    ///
    /// If the child has exited, the keeper is continued, since it may have been stopped. If it still has not
    /// reported after `REPORT_TIMEOUT`, it is killed. Returns when this must be called again at the latest.
    pub fn press_keeper(&mut self) -> Option<Instant> {
        let child = self.child.as_ref().filter(|_| !self.has_reported_exit());
        match self.late {
            _ if !child.is_some_and(|(_, child)| child.has_exited()) => self.late = None,
            Some(late) if late > Instant::now() => {}
            late => {
                if late.is_none() {
                    self.wake_keeper();
                } else {
                    tracing::error!(
                        child = self.child_pid(),
                        keeper = self.keeper_pid,
                        "the child has exited, but its keeper did not report that within {REPORT_TIMEOUT:?}; killing the keeper"
                    );
                    self.kill_keeper();
                }
                self.late = Some(Instant::now() + REPORT_TIMEOUT);
            }
        }
        self.late
    }

    /// The exit status of a child whose keeper is [`Report::KeeperDied`] and could not report it. The
    /// child is this process's own child now, and is reaped here. If it had not exited before,
    /// the kernel killed it or is about to.
    #[must_use]
    pub fn exit_status_of_lost_child(&self) -> ExitStatus {
        // A process closes its sockets before its children get another parent.
        self.wait_for_keeper();
        let ended = self.child.as_ref().filter(|(_, child)| child.has_exited());
        let end = ended.and_then(|(_, child)| child.try_reap().ok().flatten());
        end.unwrap_or(ExitStatus::Killed(Signal::KILL))
    }

    /// The child's pid, once it is known.
    #[must_use]
    pub fn child_pid(&self) -> Option<u32> {
        self.child.as_ref().map(|(pid, _)| *pid)
    }

    /// The next report, if there is one. [`Report::Gone`], [`Report::Refused`] and
    /// [`Report::KeeperDied`] are the last ones.
    ///
    /// # Errors
    /// The errors of recvmsg(2): EMFILE, ENOMEM. The report itself is not lost then, but
    /// its descriptor may be.
    pub fn next_report(&mut self) -> io::Result<Option<Report>> {
        while !self.over {
            let (bytes, fds) = match self.socket.receive()? {
                Packet::Data(bytes, fds) => (bytes, fds),
                Packet::Nothing => return Ok(None),
                Packet::Closed => {
                    self.close();
                    return Ok(Some(Report::KeeperDied));
                }
            };
            if let Some(report) = self.read(&bytes, fds) {
                if matches!(report, Report::Gone | Report::Refused(_)) {
                    self.close();
                }
                return Ok(Some(report));
            }
        }
        Ok(None)
    }

    fn read(&mut self, bytes: &[u8], fds: Vec<OwnedFd>) -> Option<Report> {
        match *bytes {
            [b'X', a, b, c, d] => {
                let pid = u32::from_ne_bytes([a, b, c, d]);
                let Some(pidfd) = fds.into_iter().next() else {
                    // This process has no file descriptor left for the pidfd, so it
                    // could not signal the child.
                    self.kill_keeper();
                    let error = io::Error::from_raw_os_error(libc::EMFILE);
                    return Some(Report::Refused(Refusal { stage: Stage::Fork, error }));
                };
                self.child = Some((pid, PidFd::from_owned(pidfd)));
                for (received, reach) in std::mem::take(&mut self.waiting) {
                    let _ = self.forward(&received, reach); // it may have exited
                }
                Some(Report::Started)
            }
            [b'R', stage, a, b, c, d] => {
                let error = io::Error::from_raw_os_error(i32::from_ne_bytes([a, b, c, d]));
                Some(Report::Refused(Refusal {
                    stage: Stage::from_byte(stage).unwrap_or(Stage::Fork),
                    error,
                }))
            }
            [kind @ (b'x' | b's' | b'T' | b'C'), value, left] => Some(match change_kind(kind, value)? {
                ChangeKind::Exited(end) => {
                    (self.exit_reported, self.left_processes) = (true, left == 1);
                    Report::Exited(end)
                }
                ChangeKind::Stopped(signal) => Report::Stopped(signal),
                ChangeKind::Continued => Report::Continued,
            }),
            [b'O', a, b, c, d, kind, value] => {
                let pid = u32::from_ne_bytes([a, b, c, d]);
                change_kind(kind, value).map(|kind| Report::Other(Change { pid, kind }))
            }
            [b'!'] => Some(Report::CaughtUp),
            [b'w', a, b, c, d, belongs] => {
                Some(Report::About { pid: u32::from_ne_bytes([a, b, c, d]), belongs: belongs == 1 })
            }
            [b'p', is_pending] => Some(Report::Pending(is_pending == 1)),
            [b'G'] => Some(Report::Gone),
            _ => None,
        }
    }

    /// The keeper has exited or is about to. It is reaped now, or later with the other children of psflip.
    fn close(&mut self) {
        self.over = true;
        self.try_reap_keeper();
    }

    /// Reaps a keeper after its last report. It is killed first: it was about to exit, and
    /// could be stopped (SIGSTOP) before.
    pub fn reap_keeper(self) {
        self.kill_keeper();
        self.wait_for_keeper();
        self.try_reap_keeper();
    }

    fn try_reap_keeper(&self) {
        // ECHILD: reaped along with other children.
        if let Ok(Some(_)) = self.keeper.try_reap() {
            reaper::was_reaped(self.keeper_pid);
        }
    }

    /// Waits until a killed keeper has exited, for a limited time: a tracer (ptrace(2)) may delay its exit.
    fn wait_for_keeper(&self) {
        let mut fds = [PollFd::new(self.keeper.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(DEAD_KEEPER)); // EINTR can't happen: all signals are blocked
    }

    /// Whether the last report has been read.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Sends a signal to the child, or queues it until the child has started.
    ///
    /// # Errors
    /// ESRCH: the child has exited. EPERM: see [`PidFd::send`].
    pub fn signal_child(&mut self, signal: Signal) -> io::Result<()> {
        match &self.child {
            Some((_, child)) => child.send(signal),
            None => {
                self.waiting.push((Received::of_our_own(signal), Reach::Child));
                Ok(())
            }
        }
    }

    /// Forwards a signal to the child, or queues it until the child has started.
    ///
    /// # Errors
    /// As [`PidFd::forward`].
    pub fn forward(&mut self, received: &Received, reach: Reach) -> io::Result<()> {
        match (&self.child, reach) {
            (Some((_, child)), Reach::Child) => child.forward(received),
            (Some((pid, child)), Reach::Group) => {
                self.signal_group(*pid, received.signal).or_else(|_| child.forward(received))
            }
            (None, _) => {
                self.waiting.push((*received, reach));
                Ok(())
            }
        }
    }

    /// Sends a signal to the process group of one of the keeper's own children, or to that
    /// child alone if it leads no group. The keeper sends it: it has not reaped that child, so
    /// the pid can't belong to another process.
    ///
    /// # Errors
    /// EPIPE: the tree is gone. ENOBUFS, ENOMEM.
    pub fn signal_group(&self, child: u32, signal: Signal) -> io::Result<()> {
        self.wake_keeper();
        let [a, b, c, d] = child.to_ne_bytes();
        self.socket.send(&[b'P', signal.number() as u8, a, b, c, d], &[])
    }

    /// Continues one of the keeper's own children and its whole process group.
    pub fn continue_group(&self, of: u32) {
        if self.signal_group(of, Signal::CONT).is_err()
            && let Some((_, child)) = self.child.as_ref().filter(|(child, _)| *child == of)
        {
            let _ = child.send(Signal::CONT); // it may have exited
        }
    }

    /// Sends a signal to all processes of the tree.
    ///
    /// # Errors
    /// EPIPE: the tree is gone.
    pub fn signal_all(&self, signal: Signal) -> io::Result<()> {
        self.socket.send(&[b'S', signal.number() as u8], &[])
    }

    /// Kills everything in the tree, until nothing is left.
    ///
    /// # Errors
    /// EPIPE: the tree is gone.
    pub fn kill_all(&self) -> io::Result<()> {
        self.socket.send(b"K", &[])
    }

    /// Requests [`Report::CaughtUp`].
    ///
    /// # Errors
    /// EPIPE: the tree is gone.
    pub fn request_catch_up(&self) -> io::Result<()> {
        self.socket.send(b"?", &[])
    }

    /// Asks whether a process that can't be looked up belongs to the tree. The answer is [`Report::About`].
    ///
    /// # Errors
    /// EPIPE: the tree is gone. EAGAIN: the keeper does not read.
    pub fn query_membership(&self, pid: u32) -> io::Result<()> {
        let mut packet = [b'W', 0, 0, 0, 0];
        packet[1..].copy_from_slice(&pid.to_ne_bytes());
        self.socket.send(&packet, &[])
    }

    /// Asks whether a signal is pending in one of the keeper's own children. The answer, [`Report::Pending`],
    /// comes after the keeper has sent what [`Tree::signal_group`] and [`Tree::forward`] requested before.
    ///
    /// # Errors
    /// EPIPE: the tree is gone. EAGAIN: the keeper does not read.
    pub fn ask_whether_pending(&self, child: u32, signal: Signal) -> io::Result<()> {
        let [a, b, c, d] = child.to_ne_bytes();
        self.socket.send(&[b'Q', signal.number() as u8, a, b, c, d], &[])
    }

    /// Lets the leftover processes run on; the keeper exits. For a tree whose child has exited.
    ///
    /// # Errors
    /// EPIPE: the tree is gone.
    pub fn leave_all(&self) -> io::Result<()> {
        self.socket.send(b"L", &[])
    }

    /// Continues a keeper that was stopped (SIGSTOP), so that it acts on the next message or event.
    pub fn wake_keeper(&self) {
        let _ = self.keeper.send(Signal::CONT); // it may have exited
    }

    /// Sends SIGKILL to a keeper that does not answer. The kernel then kills the child as well.
    pub fn kill_keeper(&self) {
        let _ = self.keeper.send(Signal::KILL); // it may have exited
    }
}

/// Closes the socket to the keeper, which then kills the whole tree.
impl Drop for Tree {
    fn drop(&mut self) {
        self.wake_keeper(); // it may have been stopped
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// How long to wait for the exit of a killed keeper, in milliseconds.
const DEAD_KEEPER: u16 = 1000;

/// How long a continued keeper may take to report that its child has exited. Then it is killed.
const REPORT_TIMEOUT: Duration = Duration::from_secs(10);

/// Decodes a change that a keeper reports (encoded in `life.rs`).
fn change_kind(kind: u8, value: u8) -> Option<ChangeKind> {
    let signal = || Signal::from_number(i32::from(value));
    match kind {
        b'x' => Some(ChangeKind::Exited(ExitStatus::Exited(value))),
        b's' => signal().map(|signal| ChangeKind::Exited(ExitStatus::Killed(signal))),
        b'T' => signal().map(ChangeKind::Stopped),
        b'C' => Some(ChangeKind::Continued),
        _ => None,
    }
}
