//! The keeper: a small process between psflip and a process tree, so that nothing of the tree outlives psflip.
//!
//! A keeper is a fork of psflip without an exec. It is the subreaper of its tree, so every orphan in it becomes the keeper's
//! child; it reaps all of them (contract C9), tells psflip how the tree's first process, the *child*, fares, and ends the whole
//! tree when psflip dies for whatever reason, also where the child changed its credentials, which clears the kernel's
//! parent-death signal (contract C7). That signal is armed too and points at the keeper: it covers the keeper's own death.
//! What then is left of the tree falls to psflip, which is a subreaper itself (see `reaper.rs`).
//!
//! psflip keeps one for its child, and one for every command that it runs as a health check, for the same reasons.
//!
//! Messages are packets of one byte and its arguments, between two copies of the same program: no version is needed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, getpgid};

use crate::end::End;
use crate::flip::signals::Reach;
use crate::launch::{Launch, Refusal, Stage};
use crate::signal::Signal;
use crate::sys::memory;
use crate::sys::pidfd::PidFd;
use crate::sys::process::{self, Change, ChangeKind, Fork};
use crate::sys::seam::{self, Call, Moment};
use crate::sys::signal::{Received, SignalFd, SignalSet};
use crate::sys::socket::{Packet, Socket};
use crate::sys::tree;

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
    /// The child has ended; processes that it left behind may still be there.
    Ended(End),
    /// Something happened to another process that is the keeper's own child: one whose parent has ended. Only of a tree that was
    /// started by [`Tree::start_telling_all`].
    Other(Change),
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
                Ok(Self { socket: ours, keeper, keeper_pid, child: None, waiting: Vec::new(), over: false })
            }
        }
    }

    /// The keeper's pid.
    #[must_use]
    pub fn keeper_pid(&self) -> u32 {
        self.keeper_pid
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
                ChangeKind::Ended(end) => Report::Ended(end),
                ChangeKind::Stopped(signal) => Report::Stopped(signal),
                ChangeKind::Continued => Report::Continued,
            }),
            [b'O', a, b, c, d, kind, value] => {
                let pid = u32::from_ne_bytes([a, b, c, d]);
                change_kind(kind, value).map(|kind| Report::Other(Change { pid, kind }))
            }
            [b'!'] => Some(Report::CaughtUp),
            [b'G'] => Some(Report::Gone),
            _ => None,
        }
    }

    /// The keeper has ended or is about to: it is reaped now, or later with whatever else falls to psflip.
    fn close(&mut self) {
        self.over = true;
        let _ = self.keeper.try_reap(); // ECHILD: reaped along with other children
    }

    /// Waits for the end of a keeper that has given its last report: it was about to exit anyway, and is not left the chance
    /// to be stopped before that.
    pub fn reap_keeper(self) {
        self.kill_keeper();
        let _ = self.keeper.reap(); // ECHILD: reaped along with other children
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

impl AsFd for Tree {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The keeper's life. All signals are blocked, as they are in psflip.
fn keep(launch: Launch, psflip_socket: &Socket, psflip: &PidFd, tells_all: bool) -> ! {
    process::set_name(c"psflip: keeper");
    memory::reserve_stack(); // no child yet that would end with it
    seam::step(Moment::Begins, format_args!("keeper"));
    let own_pid = std::process::id();
    let mut only_children = SignalSet::default();
    only_children.insert(Signal::CHLD);
    // Nothing that may fail comes after the child's start: a child that was told of isn't taken back (contract F10).
    // In a group of its own it outlives what is sent to psflip's (contract C10). There is no child yet that it could fail.
    let ready = process::lead_group()
        .and_then(|()| process::set_subreaper(true))
        .and_then(|()| process::continue_with_parents_end())
        .and_then(|()| SignalFd::open(only_children))
        .and_then(|signals| Ok((signals, start_child(launch, own_pid)?)));
    let (signals, (child, child_fd)) = match ready {
        Ok((signals, Ok(started))) => (signals, started),
        Ok((_, Err(refusal))) => refuse(psflip_socket, refusal.stage, &refusal.error),
        Err(error) => refuse(psflip_socket, Stage::Fork, &error),
    };
    let mut packet = [b'X', 0, 0, 0, 0];
    packet[1..].copy_from_slice(&child.to_ne_bytes());
    tell(psflip_socket, &packet, &[child_fd.as_fd()]);
    drop(child_fd);
    process::close_all_but(&[psflip_socket.as_fd(), psflip.as_fd(), signals.as_fd()]);
    Keeper {
        own_pid,
        child,
        psflip_socket,
        psflip,
        signals: &signals,
        tells_all,
        child_ended: false,
        killing: false,
    }
    .run()
}

/// Starts the child; returns its pid and pidfd, or why its program could not be executed.
fn start_child(launch: Launch, own_pid: u32) -> io::Result<Result<(u32, PidFd), Refusal>> {
    process::spawn(|| {
        seam::step(Moment::Begins, format_args!("child"));
        if let Err(error) = process::die_with_parent(own_pid) {
            return Refusal { stage: Stage::ParentDeath, error };
        }
        // What it sends to its group is for nobody else (contract C10).
        match process::lead_group() {
            Ok(()) => launch.exec(),
            Err(error) => Refusal { stage: Stage::Fork, error },
        }
    })
}

/// How often it is tried to tell psflip something. A try that fails for lack of memory is followed by a pause of 10 ms.
const TRIES: u32 = 500;

/// Tells psflip; if psflip is gone, the loop will see that. What is told is told once, so that this waits until there is room, or
/// memory: psflip would wait for a child's end for ever. A keeper that can't speak for good is of no use, and ends with all it has:
/// that is seen.
fn tell(socket: &Socket, packet: &[u8], fds: &[BorrowedFd<'_>]) {
    for _ in 0..TRIES {
        let Err(error) = socket.send(packet, fds) else { return };
        let (flags, patience) = match error.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => return,
            Some(libc::EAGAIN) => (PollFlags::POLLOUT, PollTimeout::NONE), // room is told, and so is psflip's end
            _ => (PollFlags::empty(), PollTimeout::from(10_u8)),           // memory isn't told
        };
        let _ = poll(&mut [PollFd::new(socket.as_fd(), flags)], patience); // whatever it says, it is tried again
    }
    end_everything(std::process::id());
    process::exit_now(crate::exit::FAILURE)
}

/// Ends the keeper, which has not started anything, with a reason.
fn refuse(socket: &Socket, stage: Stage, error: &io::Error) -> ! {
    let mut packet = [b'R', stage.as_byte(), 0, 0, 0, 0];
    packet[2..].copy_from_slice(&error.raw_os_error().unwrap_or(libc::EINVAL).to_ne_bytes());
    tell(socket, &packet, &[]);
    process::exit_now(0)
}

/// Kills everything below this process and reaps it.
pub fn end_everything(own_pid: u32) {
    // A pass that finds nothing may have missed what was being forked, so only having no children at all is the end of it.
    loop {
        let found = tree::signal_descendants(own_pid, Signal::KILL);
        let reaped = if found > 0 { process::reap_next() } else { process::next_change().map(drop) };
        if reaped.is_err() {
            return;
        }
    }
}

/// Signals the group of a child of this process, or the child alone where it leads no group.
fn signal_group_of(child: u32, signal: Signal) {
    if !process::is_child(child) {
        return; // it was reaped
    }
    if getpgid(Some(Pid::from_raw(child.cast_signed())))
        .is_ok_and(|group| group.as_raw() == child.cast_signed())
    {
        let _ = process::signal_group(child, signal); // all of it may have ended
    } else if let Ok(process) = PidFd::open(child) {
        let _ = process.send(signal); // it may have ended
    }
}

/// What happened to a process, for a message.
fn change_bytes(kind: ChangeKind) -> [u8; 2] {
    match kind {
        ChangeKind::Ended(End::Exited(code)) => [b'x', code],
        ChangeKind::Ended(End::Killed(signal)) => [b's', signal.number() as u8],
        ChangeKind::Stopped(signal) => [b'T', signal.number() as u8],
        ChangeKind::Continued => [b'C', 0],
    }
}

/// Reads [`change_bytes`].
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

struct Keeper<'a> {
    own_pid: u32,
    child: u32,
    psflip_socket: &'a Socket,
    psflip: &'a PidFd,
    signals: &'a SignalFd,
    tells_all: bool,
    child_ended: bool,
    killing: bool,
}

impl Keeper<'_> {
    fn run(mut self) -> ! {
        let mut is_new = true;
        loop {
            while let Ok(Some(_)) = self.signals.next() {}
            self.reap();
            if self.psflip.has_ended() {
                self.psflip_is_gone();
            }
            self.obey();
            if self.killing {
                // Again at every turn: what was forked meanwhile is found now.
                let _ = tree::signal_descendants(self.own_pid, Signal::KILL);
            }
            if std::mem::take(&mut is_new) {
                memory::let_go_of_startup_code(); // it stays for as long as the service does
            }
            self.wait();
        }
    }

    /// Waits until the kernel has something to tell.
    fn wait(&self) {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds =
            [watch(self.psflip_socket.as_fd()), watch(self.psflip.as_fd()), watch(self.signals.as_fd())];
        // In a test it may fail, and is made again.
        let _ = seam::before(Call::Poll).and_then(|()| poll(&mut fds, PollTimeout::NONE)); // EINTR can't happen: all signals are blocked
    }

    fn reap(&mut self) {
        loop {
            match process::next_change() {
                // Once it has ended, its pid may be another's.
                Ok(Some(change)) if change.pid == self.child && !self.child_ended => {
                    self.child_ended = change.end().is_some();
                    tell(self.psflip_socket, &change_bytes(change.kind), &[]);
                }
                Ok(Some(change)) if self.tells_all => {
                    let [a, b, c, d] = change.pid.to_ne_bytes();
                    let [kind, value] = change_bytes(change.kind);
                    tell(self.psflip_socket, &[b'O', a, b, c, d, kind, value], &[]);
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => self.tree_is_gone(),
            }
        }
    }

    /// There is no child left, so there are no orphans either.
    fn tree_is_gone(&self) -> ! {
        tell(self.psflip_socket, b"G", &[]);
        process::exit_now(0)
    }

    fn psflip_is_gone(&self) -> ! {
        end_everything(self.own_pid);
        process::exit_now(0)
    }

    fn obey(&mut self) {
        loop {
            match self.psflip_socket.receive() {
                Ok(Packet::Data(command, _)) => match *command {
                    [b'S', signal] => {
                        if let Some(signal) = Signal::from_number(i32::from(signal)) {
                            let _ = tree::signal_descendants(self.own_pid, signal);
                        }
                    }
                    [b'P', signal, a, b, c, d] => {
                        if let Some(signal) = Signal::from_number(i32::from(signal)) {
                            signal_group_of(u32::from_ne_bytes([a, b, c, d]), signal);
                        }
                    }
                    [b'K'] => self.killing = true,
                    [b'?'] => {
                        self.reap();
                        tell(self.psflip_socket, b"!", &[]);
                    }
                    [b'L'] if self.child_ended => self.tree_is_gone(),
                    _ => {}
                },
                // ENOMEM: what there is to read is still there, and is read at the next turn.
                Ok(Packet::Nothing) | Err(_) => return,
                // psflip let go of the tree, or is dying: both mean that it has to end.
                Ok(Packet::Closed) => self.psflip_is_gone(),
            }
        }
    }
}
