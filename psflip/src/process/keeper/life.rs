//! The keeper process itself, from its fork to its exit.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, getpgid};

use crate::exit_status::ExitStatus;
use crate::process::launch::{Launch, Refusal, Stage};
use crate::signal::Signal;
use crate::sys::children::{self, Killing};
use crate::sys::memory::{self, Code};
use crate::sys::pidfd::PidFd;
use crate::sys::process;
use crate::sys::seam::{self, Call, Moment};
use crate::sys::signal::{SignalFd, SignalSet};
use crate::sys::socket::{Packet, Socket};
use crate::sys::tree;
use crate::sys::wait::{self, ChangeKind};

/// Runs the keeper. All signals are blocked, as they are in psflip.
pub(super) fn keep(mut launch: Launch, psflip_socket: &Socket, psflip: &PidFd, reports_all: bool) -> ! {
    process::set_name(c"psflip: keeper");
    memory::reserve_stack(); // before there is a child that a failure would kill
    seam::step(Moment::Begins, format_args!("keeper"));
    let lease = launch.lease.take();
    let own_pid = std::process::id();
    let mut read = SignalSet::default();
    read.insert(Signal::CHLD);
    // psflip sends it to continue its keeper; unread, it would stay pending for ever
    read.insert(Signal::CONT);
    // All steps that may fail come before the child's start, since a reported start can't be
    // taken back (contract F10). In a group of its own, the keeper survives signals that are
    // sent to psflip's group (contract C10).
    let ready = process::lead_group()
        .and_then(|()| process::set_subreaper(true))
        .and_then(|()| process::continue_on_parent_exit())
        .and_then(|()| SignalFd::open(read))
        .and_then(|signals| Ok((signals, start_child(launch, own_pid)?)));
    let (signals, (child, child_fd)) = match ready {
        Ok((signals, Ok(started))) => (signals, started),
        Ok((_, Err(refusal))) => refuse(psflip_socket, refusal.stage, &refusal.error),
        Err(error) => refuse(psflip_socket, Stage::Fork, &error),
    };
    let mut packet = [b'X', 0, 0, 0, 0];
    packet[1..].copy_from_slice(&child.to_ne_bytes());
    report(psflip_socket, &packet, &[child_fd.as_fd()]);
    drop(child_fd);
    let mut keeps = vec![psflip_socket.as_fd(), psflip.as_fd(), signals.as_fd()];
    keeps.extend(lease.as_ref().map(AsFd::as_fd));
    process::close_all_but(&keeps);
    drop(keeps);
    Keeper {
        child,
        psflip_socket,
        psflip,
        signals: &signals,
        reports_all,
        child_exited: false,
        killing: None,
        reaped: VecDeque::with_capacity(MOST_REAPED),
    }
    .run()
}

/// Starts the child. Returns its pid and pidfd, or why its program could not be executed.
fn start_child(launch: Launch, own_pid: u32) -> io::Result<Result<(u32, PidFd), Refusal>> {
    process::spawn(|| {
        seam::step(Moment::Begins, format_args!("child"));
        if let Err(error) = process::die_with_parent(own_pid) {
            return Refusal { stage: Stage::ParentDeath, error };
        }
        // Signals that the child sends to its own group must not reach other processes (contract C10).
        match process::lead_group() {
            Ok(()) => launch.exec(),
            Err(error) => Refusal { stage: Stage::Fork, error },
        }
    })
}

/// How often a report to psflip is tried. After a try that fails for lack of memory, the
/// keeper pauses for 10 ms.
const TRIES: u32 = 500;

/// Sends a report to psflip. If psflip is gone, the main loop notices that.
///
/// Each report is sent once only, so this waits until there is room in the socket, or memory:
/// without the report psflip would wait for the child's exit for ever. A keeper that still can't
/// send kills its tree and exits, which psflip sees.
fn report(socket: &Socket, packet: &[u8], fds: &[BorrowedFd<'_>]) {
    for _ in 0..TRIES {
        let Err(error) = socket.send(packet, fds) else { return };
        let (flags, patience) = match error.raw_os_error() {
            Some(libc::EPIPE | libc::ECONNRESET) => return,
            // poll reports room, and psflip's exit
            Some(libc::EAGAIN) => (PollFlags::POLLOUT, PollTimeout::NONE),
            _ => (PollFlags::empty(), PollTimeout::from(10_u8)), // poll does not report memory
        };
        // the send is tried again in any case
        let _ = poll(&mut [PollFd::new(socket.as_fd(), flags)], patience);
    }
    children::kill_all_children(std::process::id(), Vec::new(), true);
    process::exit_now(crate::exit::FAILURE)
}

/// Reports the reason and exits. The keeper has not started anything yet.
fn refuse(socket: &Socket, stage: Stage, error: &io::Error) -> ! {
    let mut packet = [b'R', stage.as_byte(), 0, 0, 0, 0];
    packet[2..].copy_from_slice(&error.raw_os_error().unwrap_or(libc::EINVAL).to_ne_bytes());
    report(socket, &packet, &[]);
    process::exit_now(0)
}

/// Signals the process group of a child of this process, or the child alone if it leads no group.
fn signal_group_of(child: u32, signal: Signal) {
    if !wait::is_child(child) {
        return; // it was reaped
    }
    if getpgid(Some(Pid::from_raw(child.cast_signed())))
        .is_ok_and(|group| group.as_raw() == child.cast_signed())
    {
        let _ = process::signal_group(child, signal); // all of the group may have exited
    } else if let Ok(process) = PidFd::open(child) {
        let _ = process.send(signal); // it may have exited
    }
}

/// A change of a process, as bytes of a report.
fn change_bytes(kind: ChangeKind) -> [u8; 2] {
    match kind {
        ChangeKind::Exited(ExitStatus::Exited(code)) => [b'x', code],
        ChangeKind::Exited(ExitStatus::Killed(signal)) => [b's', signal.number() as u8],
        ChangeKind::Stopped(signal) => [b'T', signal.number() as u8],
        ChangeKind::Continued => [b'C', 0],
    }
}

struct Keeper<'a> {
    child: u32,
    psflip_socket: &'a Socket,
    psflip: &'a PidFd,
    signals: &'a SignalFd,
    reports_all: bool,
    child_exited: bool,
    /// Set while everything is being killed.
    killing: Option<Killing>,
    /// The pids that were reaped last.
    reaped: VecDeque<u32>,
}

/// How many pids of reaped processes a keeper stores. psflip's query about a process comes within moments
/// of its exit.
const MOST_REAPED: usize = 64;

impl Keeper<'_> {
    fn run(mut self) -> ! {
        let mut is_new = true; // it has the code of its start
        loop {
            while let Ok(Some(_)) = self.signals.next() {}
            self.reap();
            if self.psflip.has_exited() {
                self.psflip_is_gone();
            }
            self.obey();
            if let Some(killing) = &mut self.killing {
                killing.go_on();
            }
            if is_new {
                if self.wait(Some(memory::QUIET), Code::Stays) {
                    is_new = false;
                    self.wait(None, Code::IsDropped); // it runs for as long as the service does
                }
            } else {
                self.wait(None, Code::Stays);
            }
        }
    }

    /// Waits for an event, at most for this time. Returns whether there is none.
    fn wait(&self, at_most: Option<Duration>, code: Code) -> bool {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds =
            [watch(self.psflip_socket.as_fd()), watch(self.psflip.as_fd()), watch(self.signals.as_fd())];
        let next_look = self.killing.as_ref().and_then(Killing::next_look);
        let left =
            next_look.map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let timeout = left
            .into_iter()
            .chain(at_most)
            .min()
            .map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
        // A test can make poll fail; then it is called again.
        seam::before(Call::Poll).and_then(|()| memory::poll(&mut fds, timeout, code)) == Ok(0)
    }

    fn reap(&mut self) {
        loop {
            let change = wait::next_change();
            if let Ok(Some(change)) = &change
                && change.exit_status().is_some()
            {
                self.reaped.truncate(MOST_REAPED - 1);
                self.reaped.push_front(change.pid);
                if let Some(killing) = &mut self.killing {
                    killing.was_reaped(change.pid);
                }
            }
            match change {
                // Once the child has exited, its pid may belong to another process.
                Ok(Some(change)) if change.pid == self.child && !self.child_exited => {
                    self.child_exited = change.exit_status().is_some();
                    let [kind, value] = change_bytes(change.kind);
                    let left = self.child_exited && wait::has_children();
                    report(self.psflip_socket, &[kind, value, u8::from(left)], &[]);
                }
                Ok(Some(change)) if self.reports_all => {
                    let [a, b, c, d] = change.pid.to_ne_bytes();
                    let [kind, value] = change_bytes(change.kind);
                    report(self.psflip_socket, &[b'O', a, b, c, d, kind, value], &[]);
                }
                Ok(Some(_)) => {}
                Ok(None) => return,
                Err(_) => self.tree_is_gone(),
            }
        }
    }

    /// No child is left, and so no orphan either.
    fn tree_is_gone(&self) -> ! {
        report(self.psflip_socket, b"G", &[]);
        process::exit_now(0)
    }

    fn psflip_is_gone(&self) -> ! {
        children::kill_all_children(self.child, Vec::new(), true);
        process::exit_now(0)
    }

    fn obey(&mut self) {
        loop {
            match self.psflip_socket.receive() {
                Ok(Packet::Data(command, _)) => match *command {
                    [b'S', signal] => {
                        if let Some(signal) = Signal::from_number(i32::from(signal)) {
                            children::signal_all_below(self.child, signal);
                        }
                    }
                    [b'P', signal, a, b, c, d] => {
                        if let Some(signal) = Signal::from_number(i32::from(signal)) {
                            signal_group_of(u32::from_ne_bytes([a, b, c, d]), signal);
                        }
                    }
                    [b'Q', signal, a, b, c, d] => {
                        let pid = u32::from_ne_bytes([a, b, c, d]);
                        let is_pending = Signal::from_number(i32::from(signal))
                            .is_some_and(|signal| wait::is_child(pid) && tree::is_pending(pid, signal));
                        report(self.psflip_socket, &[b'p', u8::from(is_pending)], &[]);
                    }
                    [b'K'] => self.killing = Some(Killing::new(self.child, Vec::new())),
                    [b'?'] => {
                        self.reap();
                        report(self.psflip_socket, b"!", &[]);
                    }
                    [b'W', a, b, c, d] => {
                        self.reap();
                        let pid = u32::from_ne_bytes([a, b, c, d]);
                        let belongs = self.reaped.contains(&pid) || children::is_below(pid, self.child);
                        report(self.psflip_socket, &[b'w', a, b, c, d, u8::from(belongs)], &[]);
                    }
                    [b'L'] if self.child_exited => self.tree_is_gone(),
                    _ => {}
                },
                // The packet is still in the socket, and is read at the next turn. Every error is taken as a
                // transient one (`sys/errors.rs`): the child must not depend on it.
                Ok(Packet::Nothing) | Err(_) => return,
                // psflip has dropped the tree, or is dying. In both cases the tree is killed.
                Ok(Packet::Closed) => self.psflip_is_gone(),
            }
        }
    }
}
