//! The keeper: a small process between psflip and a process tree, so that nothing of the tree outlives psflip.
//!
//! A keeper is a fork of psflip without an exec. It is the subreaper of its tree, so every orphan in it becomes the keeper's
//! child; it reaps all of them (contract C9), tells psflip how the tree's first process, the *child*, fares, and ends the whole
//! tree when psflip dies for whatever reason, also where the child changed its credentials, which clears the kernel's
//! parent-death signal (contract C7). That signal is armed too and points at the keeper: it covers the keeper's own death.
//! What then is left of the tree falls to psflip, which is a subreaper itself (see `process/reaper.rs`).
//!
//! psflip keeps one for its child, and one for every command that it runs as a health check, for the same reasons.
//!
//! Messages are packets of one byte and its arguments, between two copies of the same program: no version is needed.

mod life;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use self::life::keep;
use crate::end::End;
use crate::flip::signals::Reach;
use crate::process::launch::{Launch, Refusal, Stage};
use crate::process::reaper;
use crate::signal::Signal;
use crate::sys::pidfd::PidFd;
use crate::sys::process::{self, Change, ChangeKind, Fork};
use crate::sys::signal::Received;
use crate::sys::socket::{Packet, Socket};

/// What a keeper tells.
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
    /// The child has exited; processes that it left behind may still be there.
    Ended(End),
    /// Something happened to another process that is the keeper's own child: one whose parent has ended. Only of a tree that was
    /// started by [`Tree::start_telling_all`].
    Other(Change),
    /// Whether a process belongs to the tree, or did so until it ended: the answer to [`Tree::ask_about`].
    About {
        /// Which one.
        pid: u32,
        /// Whether it does.
        belongs: bool,
    },
    /// All that had ended when [`Tree::ask_to_catch_up`] was called has been told.
    CaughtUp,
    /// Nothing is left of the tree.
    Gone,
    /// The keeper died. The kernel killed the child; what else is left has become psflip's own children.
    Lost,
}

/// A process tree under a keeper, as psflip sees it. Dropping it lets the keeper end everything.
#[derive(Debug)]
pub struct Tree {
    socket: Socket,
    keeper: PidFd,
    keeper_pid: u32,
    child: Option<(u32, PidFd)>,
    /// Signals that came before the child's pidfd did.
    waiting: Vec<(Received, Reach)>,
    /// The child's end was told.
    ended: bool,
    /// It was not, and is to be until then.
    late: Option<Instant>,
    over: bool,
}

impl Tree {
    /// Starts a program under a new keeper. Whether it runs is told by [`Report::Started`] or [`Report::Refused`].
    ///
    /// # Errors
    /// What socketpair(2), pidfd_open(2) and fork(2) say: EMFILE, EAGAIN, ENOMEM, ...
    pub fn start(launch: Launch) -> io::Result<Self> {
        Self::start_keeper(launch, false)
    }

    /// As [`Tree::start`], with a keeper that tells of every process that falls to it ([`Report::Other`]).
    ///
    /// # Errors
    /// As [`Tree::start`].
    pub fn start_telling_all(launch: Launch) -> io::Result<Self> {
        Self::start_keeper(launch, true)
    }

    fn start_keeper(launch: Launch, tells_all: bool) -> io::Result<Self> {
        let (ours, theirs) = Socket::pair()?;
        let psflip = PidFd::open(std::process::id())?;
        match process::fork()? {
            Fork::Child => {
                drop(ours);
                keep(launch, &theirs, &psflip, tells_all)
            }
            Fork::Parent(keeper_pid) => {
                // Our own child, not reaped: the pid can't have been reused.
                let keeper = PidFd::open(keeper_pid)?;
                reaper::has_started(keeper_pid);
                Ok(Self {
                    socket: ours,
                    keeper,
                    keeper_pid,
                    child: None,
                    waiting: Vec::new(),
                    ended: false,
                    late: None,
                    over: false,
                })
            }
        }
    }

    /// The keeper's pid.
    #[must_use]
    pub fn keeper_pid(&self) -> u32 {
        self.keeper_pid
    }

    /// Readable once the child has exited, whatever the keeper says, until [`Tree::press_keeper`] has seen that.
    #[must_use]
    pub fn unreported_child(&self) -> Option<BorrowedFd<'_>> {
        let child = self.child.as_ref().filter(|_| !self.has_told_end() && self.late.is_none());
        child.map(|(_, child)| child.as_fd())
    }

    /// Whether the child's end was told, or nothing will be told any more.
    #[must_use]
    pub fn has_told_end(&self) -> bool {
        self.ended || self.over
    }

    /// Sees to it that the child's end is told, once all that was told is read: if it has ended, the keeper is continued, which somebody may
    /// have stopped, and killed if it still has not told after `PATIENCE`. Returns when this is to be called again at the latest.
    pub fn press_keeper(&mut self) -> Option<Instant> {
        let child = self.child.as_ref().filter(|_| !self.has_told_end());
        match self.late {
            _ if !child.is_some_and(|(_, child)| child.has_ended()) => self.late = None,
            Some(late) if late > Instant::now() => {}
            late => {
                if late.is_none() {
                    self.wake_keeper();
                } else {
                    tracing::error!(
                        child = self.child_pid(),
                        keeper = self.keeper_pid,
                        "the child has exited, but its keeper did not report that within {PATIENCE:?}; killing the keeper"
                    );
                    self.kill_keeper();
                }
                self.late = Some(Instant::now() + PATIENCE);
            }
        }
        self.late
    }

    /// How the child ended, which was not told since the keeper is [`Report::Lost`]: it is this process's own child now, and reaped. A
    /// child that did not end before was killed by the kernel, or is about to be.
    #[must_use]
    pub fn end_of_lost_child(&self) -> End {
        // A process closes its sockets before its children get another parent.
        self.wait_for_keeper();
        let ended = self.child.as_ref().filter(|(_, child)| child.has_ended());
        let end = ended.and_then(|(_, child)| child.try_reap().ok().flatten());
        end.unwrap_or(End::Killed(Signal::KILL))
    }

    /// The child's pid, once it is known.
    #[must_use]
    pub fn child_pid(&self) -> Option<u32> {
        self.child.as_ref().map(|(pid, _)| *pid)
    }

    /// The next report, if one is there. [`Report::Gone`], [`Report::Refused`] and [`Report::Lost`] are the last ones.
    ///
    /// # Errors
    /// What recvmsg(2) says: EMFILE, ENOMEM. The report is not lost then, but its descriptor may be.
    pub fn next_report(&mut self) -> io::Result<Option<Report>> {
        while !self.over {
            let (bytes, fds) = match self.socket.receive()? {
                Packet::Data(bytes, fds) => (bytes, fds),
                Packet::Nothing => return Ok(None),
                Packet::Closed => {
                    self.close();
                    return Ok(Some(Report::Lost));
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
                    // This process could not take one more descriptor, and could not signal the child.
                    self.kill_keeper();
                    let error = io::Error::from_raw_os_error(libc::EMFILE);
                    return Some(Report::Refused(Refusal { stage: Stage::Fork, error }));
                };
                self.child = Some((pid, PidFd::from_owned(pidfd)));
                for (received, reach) in std::mem::take(&mut self.waiting) {
                    let _ = self.forward(&received, reach); // it may have ended already
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
            [kind @ (b'x' | b's' | b'T' | b'C'), value] => Some(match change_kind(kind, value)? {
                ChangeKind::Ended(end) => {
                    self.ended = true;
                    Report::Ended(end)
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
            [b'G'] => Some(Report::Gone),
            _ => None,
        }
    }

    /// The keeper has ended or is about to: it is reaped now, or later with whatever else falls to psflip.
    fn close(&mut self) {
        self.over = true;
        self.try_reap_keeper();
    }

    /// Reaps a keeper that has given its last report: it was about to exit anyway, and is not left the chance to be stopped before that.
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

    /// Waits for the end of a keeper that was killed, but not if that takes too long: somebody may trace it.
    fn wait_for_keeper(&self) {
        let mut fds = [PollFd::new(self.keeper.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(DEAD_KEEPER)); // EINTR can't happen: all signals are blocked
    }

    /// Whether the last report was given.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Sends a signal to the child, or keeps it until there is one.
    ///
    /// # Errors
    /// ESRCH: it has ended. EPERM: see [`PidFd::send`].
    pub fn signal_child(&mut self, signal: Signal) -> io::Result<()> {
        match &self.child {
            Some((_, child)) => child.send(signal),
            None => {
                self.waiting.push((Received::of_our_own(signal), Reach::Child));
                Ok(())
            }
        }
    }

    /// Forwards a signal to the child, or keeps it until there is one.
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

    /// Sends a signal to the whole process group of one of the keeper's own children, if it leads one, or else to it alone. The keeper
    /// does it, which has not reaped that child: its pid can't be another process's.
    ///
    /// # Errors
    /// EPIPE: the tree is gone. ENOBUFS, ENOMEM.
    pub fn signal_group(&self, child: u32, signal: Signal) -> io::Result<()> {
        self.wake_keeper();
        let [a, b, c, d] = child.to_ne_bytes();
        self.socket.send(&[b'P', signal.number() as u8, a, b, c, d], &[])
    }

    /// Continues the child with all of its process group.
    pub fn continue_child(&self) {
        if let Some((pid, child)) = &self.child
            && self.signal_group(*pid, Signal::CONT).is_err()
        {
            let _ = child.send(Signal::CONT); // it may have ended
        }
    }

    /// Sends a signal to everything that is left of the tree.
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

    /// Asks for [`Report::CaughtUp`].
    ///
    /// # Errors
    /// EPIPE: the tree is gone.
    pub fn ask_to_catch_up(&self) -> io::Result<()> {
        self.socket.send(b"?", &[])
    }

    /// Asks whether a process that can't be looked up belongs to the tree. [`Report::About`] is the answer.
    ///
    /// # Errors
    /// EPIPE: the tree is gone. EAGAIN: the keeper does not read.
    pub fn ask_about(&self, pid: u32) -> io::Result<()> {
        let mut packet = [b'W', 0, 0, 0, 0];
        packet[1..].copy_from_slice(&pid.to_ne_bytes());
        self.socket.send(&packet, &[])
    }

    /// Leaves what is left of the tree to itself; the keeper ends. For a tree whose child has ended.
    ///
    /// # Errors
    /// EPIPE: the tree is gone.
    pub fn leave_all(&self) -> io::Result<()> {
        self.socket.send(b"L", &[])
    }

    /// Continues a keeper that somebody stopped: it has to see what is about to happen.
    pub fn wake_keeper(&self) {
        let _ = self.keeper.send(Signal::CONT); // it may have ended already
    }

    /// Sends SIGKILL to the keeper, and so to the child: for a keeper that does not answer.
    pub fn kill_keeper(&self) {
        let _ = self.keeper.send(Signal::KILL); // it may have ended already
    }
}

/// Nobody hears the keeper any more, which ends everything.
impl Drop for Tree {
    fn drop(&mut self) {
        self.wake_keeper(); // somebody may have stopped it
    }
}

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// How long a killed keeper is waited for, in milliseconds.
const DEAD_KEEPER: u16 = 1000;

/// How long a keeper may take to tell that its child has ended, once it was continued. Then it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads what a keeper tells of a change (`life.rs`).
fn change_kind(kind: u8, value: u8) -> Option<ChangeKind> {
    let signal = || Signal::from_number(i32::from(value));
    match kind {
        b'x' => Some(ChangeKind::Ended(End::Exited(value))),
        b's' => signal().map(|signal| ChangeKind::Ended(End::Killed(signal))),
        b'T' => signal().map(ChangeKind::Stopped),
        b'C' => Some(ChangeKind::Continued),
        _ => None,
    }
}
