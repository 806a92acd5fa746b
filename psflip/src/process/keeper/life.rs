//! The process that is the keeper: what it does from its fork to its end.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{Pid, getpgid};

use crate::end::End;
use crate::process::launch::{Launch, Refusal, Stage};
use crate::signal::Signal;
use crate::sys::children::{self, Ending};
use crate::sys::memory;
use crate::sys::pidfd::PidFd;
use crate::sys::process::{self, ChangeKind};
use crate::sys::seam::{self, Call, Moment};
use crate::sys::signal::{SignalFd, SignalSet};
use crate::sys::socket::{Packet, Socket};

/// The keeper's life. All signals are blocked, as they are in psflip.
pub(super) fn keep(launch: Launch, psflip_socket: &Socket, psflip: &PidFd, tells_all: bool) -> ! {
    process::set_name(c"psflip: keeper");
    memory::reserve_stack(); // no child yet that would end with it
    seam::step(Moment::Begins, format_args!("keeper"));
    let own_pid = std::process::id();
    let mut read = SignalSet::default();
    read.insert(Signal::CHLD);
    read.insert(Signal::CONT); // psflip continues its keeper by it; it would stay pending for ever
    // Nothing that may fail comes after the child's start: a child that was told of isn't taken back (contract F10).
    // In a group of its own it outlives what is sent to psflip's (contract C10). There is no child yet that it could fail.
    let ready = process::lead_group()
        .and_then(|()| process::set_subreaper(true))
        .and_then(|()| process::continue_with_parents_end())
        .and_then(|()| SignalFd::open(read))
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
        child,
        psflip_socket,
        psflip,
        signals: &signals,
        tells_all,
        child_ended: false,
        ending: None,
        reaped: VecDeque::with_capacity(REMEMBERED),
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
    children::end_children(std::process::id(), Vec::new(), true);
    process::exit_now(crate::exit::FAILURE)
}

/// Ends the keeper, which has not started anything, with a reason.
fn refuse(socket: &Socket, stage: Stage, error: &io::Error) -> ! {
    let mut packet = [b'R', stage.as_byte(), 0, 0, 0, 0];
    packet[2..].copy_from_slice(&error.raw_os_error().unwrap_or(libc::EINVAL).to_ne_bytes());
    tell(socket, &packet, &[]);
    process::exit_now(0)
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

struct Keeper<'a> {
    child: u32,
    psflip_socket: &'a Socket,
    psflip: &'a PidFd,
    signals: &'a SignalFd,
    tells_all: bool,
    child_ended: bool,
    /// Everything is being killed.
    ending: Option<Ending>,
    /// Those that were reaped last.
    reaped: VecDeque<u32>,
}

/// How many pids of reaped processes a keeper remembers: its word about one is asked for within moments of its end.
const REMEMBERED: usize = 64;

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
            if let Some(ending) = &mut self.ending {
                ending.go_on();
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
        let timeout = self.ending.as_ref().and_then(Ending::next_look).map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        // In a test it may fail, and is made again.
        let _ = seam::before(Call::Poll).and_then(|()| poll(&mut fds, timeout)); // EINTR can't happen: all signals are blocked
    }

    fn reap(&mut self) {
        loop {
            let change = process::next_change();
            if let Ok(Some(change)) = &change
                && change.end().is_some()
            {
                self.reaped.truncate(REMEMBERED - 1);
                self.reaped.push_front(change.pid);
                if let Some(ending) = &mut self.ending {
                    ending.was_reaped(change.pid);
                }
            }
            match change {
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
        children::end_children(self.child, Vec::new(), true);
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
                    [b'K'] => self.ending = Some(Ending::new(self.child, Vec::new())),
                    [b'?'] => {
                        self.reap();
                        tell(self.psflip_socket, b"!", &[]);
                    }
                    [b'W', a, b, c, d] => {
                        self.reap();
                        let pid = u32::from_ne_bytes([a, b, c, d]);
                        let belongs = self.reaped.contains(&pid) || children::is_below(pid, self.child);
                        tell(self.psflip_socket, &[b'w', a, b, c, d, u8::from(belongs)], &[]);
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
