//! The anchor's life: it waits for signals, for what generations say, and for the end.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::message::Message;
use super::relay;
use super::renew;
use super::state::{Speaks, State};
use crate::end::End;
use crate::flip::job_control::asks_to_stop;
use crate::flip::signals::{Situation, meaning};
use crate::process::job_control as job;
use crate::process::reaper::Reaper;
use crate::signal::Signal;
use crate::sys::datagram;
use crate::sys::memory;
use crate::sys::pidfd::PidFd;
use crate::sys::process::{self, ChangeKind};
use crate::sys::seam::{self, Call};
use crate::sys::signal::{Received, SignalFd, stop_self};
use crate::sys::socket::Socket;
use crate::sys::tree;

/// How many signals are kept for a generation that is still to come.
const MOST_WAITING: usize = 1000;

/// So many packets are heard before everything else is looked at: more than all generations together ever send in one upgrade.
const AT_ONCE: usize = 1000;

/// The anchor. All signals are blocked, as they are in psflip.
#[derive(Debug)]
pub(super) struct Steward {
    pub(super) socket: Socket,
    signals: SignalFd,
    pub(super) reaper: Reaper,
    pub(super) state: State,
    /// No process has the other end of the socket any more.
    closed: bool,
    /// Signals for a generation that is still to come.
    waiting: Vec<Received>,
    /// One of the signals of job control has come, and the active generation has not been continued since.
    asked_to_stop: bool,
    /// A SIGCONT has been passed on.
    continues: bool,
    /// A generation, or a successor before its promotion, was killed while another one goes on: its keeper may have been killed with it, and then what is left of its tree is
    /// the anchor's (contract C7).
    bereaved: bool,
    /// What such a generation left is being ended.
    sweeping: bool,
    /// A successor was promoted: what it speaks.
    promoted: Option<Option<Speaks>>,
}

impl Steward {
    pub(super) fn new(socket: Socket, signals: SignalFd, reaper: Reaper, state: State) -> Self {
        Self {
            socket,
            signals,
            reaper,
            state,
            closed: false,
            waiting: Vec::new(),
            asked_to_stop: false,
            continues: false,
            bereaved: false,
            sweeping: false,
            promoted: None,
        }
    }

    /// Stays until everything is over. Returns how the last generation ended.
    pub(super) fn stay(mut self) -> End {
        process::set_name(c"psflip: anchor");
        memory::reserve_stack();
        // What it inherited is for its generations: it holds neither sockets nor pipes open, but for the standard streams.
        process::close_above_standard(&[self.socket.as_fd(), self.signals.as_fd()]);
        loop {
            // Who is active is known before signals are forwarded, and what somebody said last before its end.
            self.hear();
            self.read_signals();
            self.reap();
            self.settle();
            if let Some(end) = self.state.outcome(self.closed) {
                return self.finish(end);
            }
            let is_tidy = !self.bereaved && !self.sweeping && self.state.calm().is_some();
            if let Some(speaks) = self.promoted.take_if(|_| is_tidy) {
                renew::renew(&self, speaks);
            }
            // It has little to do, and may wait for months until the next time.
            memory::let_go_of_startup_heap();
            memory::let_go_of_startup_code();
            self.wait();
        }
    }

    /// Waits until the kernel has something to tell.
    fn wait(&self) {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [watch(self.signals.as_fd()), watch(self.socket.as_fd())];
        let count = if self.closed { 1 } else { 2 };
        let timeout = self.reaper.next_sweep().map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        // In a test it may fail, and is made again. EINTR can't happen but for a debugger: all signals are blocked.
        let _ = seam::before(Call::Poll).and_then(|()| poll(&mut fds[..count], timeout));
    }

    /// Hears what generations say: all there is, unless somebody talks without end.
    fn hear(&mut self) {
        let mut packet = [0; 256];
        for _ in 0..AT_ONCE {
            if self.closed {
                return;
            }
            match datagram::receive(self.socket.as_fd(), &mut packet) {
                // Nobody sends empty packets.
                Ok(Some(datagram)) if datagram.length == 0 => self.closed = true,
                Ok(Some(datagram)) => {
                    let (Some(sender), Some(message)) =
                        (datagram.sender, Message::decode(&packet[..datagram.length]))
                    else {
                        continue;
                    };
                    if let Some(speaks) = self.state.said(sender.pid, message) {
                        self.promoted = Some(speaks);
                    }
                }
                // ENOMEM: what there is to read is still there, and is read at the next turn.
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn read_signals(&mut self) {
        // An error is one for lack of memory, and the signal is still there.
        while let Ok(Some(received)) = self.signals.next() {
            self.signalled(&received);
        }
    }

    fn signalled(&mut self, received: &Received) {
        if received.signal == Signal::CHLD {
            return; // children are looked at in every turn
        }
        self.asked_to_stop |= asks_to_stop(received.signal);
        if received.signal == Signal::CONT {
            self.asked_to_stop = false;
            self.continues = true;
            if self.state.active() == Some(received.pid) && !received.is_from_kernel() {
                return; // it runs again, and so is this process to
            }
        }
        // Whether it is an upgrade request, and whether the child's whole group gets it, the generation knows.
        let situation = Situation { upgrade_signal: None, suspended: false };
        if meaning(received.signal, job::sender(received), &situation).forward.is_some() {
            self.forward(received);
        }
    }

    /// To the active generation, or to the next one if that has just died.
    fn forward(&mut self, received: &Received) {
        let sent = match self.state.active() {
            Some(active) => send_to_living(active, |process| process.forward(&relay::wrap(received))),
            None => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        };
        match sent {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {
                if self.waiting.len() < MOST_WAITING {
                    self.waiting.push(*received);
                }
            }
            Err(error) => say(&format!("can't forward {} to the active psflip: {error}", received.signal)),
        }
    }

    fn reap(&mut self) {
        while let Some(change) = self.reaper.next_change() {
            match change.kind {
                ChangeKind::Ended(end) => {
                    self.hear(); // what it said last may have come a moment ago
                    self.read_signals(); // and so may what was sent to the whole service
                    self.bereaved |= matches!(end, End::Killed(_)) && self.state.is_generation(change.pid);
                    self.state.ended(change.pid, end);
                }
                ChangeKind::Stopped(signal) if self.state.active() == Some(change.pid) => {
                    self.active_was_stopped(signal);
                }
                ChangeKind::Continued if self.state.active() == Some(change.pid) => {
                    self.asked_to_stop = false;
                }
                ChangeKind::Stopped(_) | ChangeKind::Continued => {}
            }
        }
    }

    /// Job control (contract S3): a generation stops itself after its child, and the shell has to see that its job is stopped. It does so
    /// by SIGTSTP, of which nobody else can stop it, since it is blocked. Former versions did by SIGSTOP.
    fn active_was_stopped(&mut self, signal: Signal) {
        self.continues = false;
        self.read_signals(); // what asked it to stop, or to go on again, may still wait here
        let by_itself = signal == Signal::TSTP || self.asked_to_stop && job::has_terminal();
        if by_itself && !self.continues {
            stop_self();
        }
    }

    fn settle(&mut self) {
        if self.state.settle(process::is_child) {
            for received in std::mem::take(&mut self.waiting) {
                self.forward(&received);
            }
        }
        for former in self.state.hurry_up() {
            let _ = send_to_living(former, |process| process.send(Signal::TERM)); // it may have ended
        }
        self.tidy_up();
    }

    /// Ends what generations that were killed have left to the anchor, once nothing else can be among its children than those that live.
    /// PID 1 has other people's orphans, too, and can't tell.
    fn tidy_up(&mut self) {
        if !(self.bereaved || self.sweeping) || std::process::id() == 1 || self.state.has_left() {
            (self.bereaved, self.sweeping) = (false, false);
            return;
        }
        // A successor is among the anchor's children as soon as it exists, and was announced before that. So who is below the anchor is
        // looked at first, and what was announced then.
        let found = tree::children(std::process::id());
        self.hear();
        let Some((active, _, former)) = self.state.calm() else { return };
        let is_left =
            |pid: &u32| *pid != active && !former.contains(pid) && !self.reaper.foreign().contains(pid);
        let left: Vec<u32> = found.into_iter().filter(is_left).collect();
        for pid in &left {
            // Nobody else reaps it, so the pid is still its own. What is below it falls to the anchor then, and is found in the next turn.
            let _ = PidFd::open(*pid).and_then(|process| process.send(Signal::KILL)); // it may have ended
        }
        (self.bereaved, self.sweeping) = (false, !left.is_empty());
    }

    fn finish(mut self, end: End) -> End {
        // A tree whose psflip and keeper were killed together falls to the anchor. PID 1's end ends everything anyway, and what was left
        // alone on purpose is not ours to end.
        if !self.state.leaves() && std::process::id() != 1 {
            self.reaper.end_our_own();
        }
        // A generation that was killed had perhaps lent the terminal to its child.
        job::Loan::take_from_nobody(job::Job::of(None));
        end
    }
}

/// Does something to a process of ours that is not reaped yet.
fn send_to_living(pid: u32, send: impl FnOnce(&PidFd) -> io::Result<()>) -> io::Result<()> {
    let process = PidFd::open(pid)?;
    // A zombie would take it without a word.
    if process.has_ended() { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { send(&process) }
}

/// The anchor has read no configuration, and its lines are few: as plain as those of a psflip that does not start.
pub(super) fn say(what: &str) {
    crate::log::plain(&format!("psflip: anchor (pid {}): {what}\n", std::process::id()));
}
