//! The anchor process: it waits for signals, for messages of generations, and for their exits.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::message::AnchorMessage;
use super::relay;
use super::renew;
use super::state::{AnchorState, Speaks};
use crate::exit_status::ExitStatus;
use crate::flip::signals::{Situation, meaning};
use crate::output::PATIENCE;
use crate::process::job_control::{self as job, Job, JobControl};
use crate::process::reaper::Reaper;
use crate::signal::Signal;
use crate::sys::datagram;
use crate::sys::memory::{self, Code};
use crate::sys::pidfd::PidFd;
use crate::sys::process;
use crate::sys::seam::{self, Call};
use crate::sys::signal::{Received, SignalFd};
use crate::sys::socket::Socket;
use crate::sys::tree;
use crate::sys::wait::{self, ChangeKind};

/// How many signals are queued for a generation that is not active yet.
const MOST_WAITING: usize = 1000;

/// How long the anchor waits for output processes whose generation has done so already.
const AGAIN: Duration = Duration::from_secs(1);

/// How many packets are read before everything else is looked at: more than all
/// generations send in one upgrade.
const AT_ONCE: usize = 1000;

/// The anchor. All signals are blocked, as they are in psflip.
#[derive(Debug)]
pub(super) struct Anchor {
    pub(super) socket: Socket,
    signals: SignalFd,
    pub(super) reaper: Reaper,
    pub(super) state: AnchorState,
    /// No process has the other end of the socket any more.
    closed: bool,
    /// Signals queued for a generation that is not active yet.
    waiting: Vec<Received>,
    /// Of the active generation.
    job_control: JobControl,
    /// A generation, or a successor before its promotion, was killed while another generation runs
    /// on. Its keeper may have been killed with it, and then the rest of its tree has become
    /// children of the anchor (contract C7).
    may_have_orphans: bool,
    /// The leftover processes of such a generation are being killed.
    sweeping: bool,
    /// A successor was promoted: the protocols that it supports.
    promoted: Option<Option<Speaks>>,
}

impl Anchor {
    pub(super) fn new(socket: Socket, signals: SignalFd, reaper: Reaper, state: AnchorState) -> Self {
        Self {
            socket,
            signals,
            reaper,
            state,
            closed: false,
            waiting: Vec::new(),
            job_control: JobControl::new(Job::of(None)),
            may_have_orphans: false,
            sweeping: false,
            promoted: None,
        }
    }

    /// Runs until the service has exited. Returns the exit status of the last generation.
    pub(super) fn stay(mut self) -> ExitStatus {
        process::set_name(c"psflip: anchor");
        memory::reserve_stack();
        // Inherited descriptors are for the generations. The anchor keeps no sockets or pipes
        // open, except the standard streams.
        process::close_above_standard(&[self.socket.as_fd(), self.signals.as_fd()]);
        loop {
            // Messages come first: they say which generation gets the signals, and what a
            // process sent before it exited.
            self.receive_messages();
            self.read_signals();
            self.reap();
            self.settle();
            if let Some(end) = self.state.outcome(self.closed) {
                return self.finish(end);
            }
            let is_tidy = !self.may_have_orphans && !self.sweeping && self.state.calm().is_some();
            if let Some(speaks) = self.promoted.take_if(|_| is_tidy) {
                renew::renew(&self, speaks);
            }
            if self.wait(Some(memory::QUIET), Code::Stays) {
                // The anchor has little to do, and may wait for months until the next event.
                memory::release_startup_heap();
                self.wait(None, Code::IsDropped);
            }
        }
    }

    /// Waits for an event, at most for this time. Returns whether there was none for all of it: a look at
    /// processes that are to be gone may come earlier.
    fn wait(&self, at_most: Option<Duration>, code: Code) -> bool {
        let watch = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut fds = [watch(self.signals.as_fd()), watch(self.socket.as_fd())];
        let count = if self.closed { 1 } else { 2 };
        let left = self
            .reaper
            .next_sweep()
            .map(|until| until.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let is_look = left.is_some_and(|left| at_most.is_none_or(|most| left <= most));
        let timeout = left
            .into_iter()
            .chain(at_most)
            .min()
            .map_or(PollTimeout::NONE, |time| PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX));
        // A test can make poll fail; then it is called again. EINTR happens only under a
        // debugger: all signals are blocked.
        let count = seam::before(Call::Poll).and_then(|()| memory::poll(&mut fds[..count], timeout, code));
        count == Ok(0) && !is_look
    }

    /// Reads the messages of generations: all that are there, but no more than [`AT_ONCE`].
    fn receive_messages(&mut self) {
        let mut packet = [0; 256];
        for _ in 0..AT_ONCE {
            if self.closed {
                return;
            }
            match datagram::receive(self.socket.as_fd(), &mut packet) {
                // Generations never send empty packets.
                Ok(Some(datagram)) if datagram.length == 0 => self.closed = true,
                Ok(Some(datagram)) => {
                    let (Some(sender), Some(message)) =
                        (datagram.sender, AnchorMessage::decode(&packet[..datagram.length]))
                    else {
                        continue;
                    };
                    if message == AnchorMessage::Output && self.state.is_full_of_outputs() {
                        let is_gone = |error: io::Error| error.raw_os_error() == Some(libc::ESRCH);
                        self.state.retain_outputs(|pid| !PidFd::open(pid).is_err_and(is_gone));
                    }
                    if let Some(speaks) = self.state.on_message(sender.pid, message) {
                        self.promoted = Some(speaks);
                    }
                }
                // The packet is still in the socket, and is read at the next turn. Every error is taken as a
                // transient one (`sys/errors.rs`): the anchor has no better answer to any.
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn read_signals(&mut self) {
        // The only error is lack of memory, and the signal is still pending then.
        while let Ok(Some(received)) = self.signals.next() {
            self.signalled(&received);
        }
    }

    fn signalled(&mut self, received: &Received) {
        if received.signal == Signal::CHLD {
            return; // children are examined in every turn
        }
        let sender = job::sender(received);
        self.job_control.on_signal(received.signal, sender);
        if received.signal == Signal::CONT {
            self.job_control.on_continue();
            if self.state.active() == Some(received.pid) && !received.is_from_kernel() {
                return; // it runs again, and so must this process
            }
        }
        // The generation decides whether the signal is an upgrade request, and whether the
        // child's whole group gets it.
        let situation = Situation { upgrade_signal: None, suspended: false };
        if meaning(received.signal, sender, &situation).forward.is_some() {
            self.forward(received);
        }
    }

    /// Forwards a signal to the active generation, or to the next one if that has just died.
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
            Err(error) => {
                print_line(&format!("can't forward {} to the active psflip: {error}", received.signal));
            }
        }
    }

    fn reap(&mut self) {
        while let Some(change) = self.reaper.next_change() {
            match change.kind {
                ChangeKind::Exited(end) => {
                    self.receive_messages(); // its last message may have come a moment ago
                    self.read_signals(); // and so may a signal to the whole service
                    self.may_have_orphans |=
                        matches!(end, ExitStatus::Killed(_)) && self.state.is_generation(change.pid);
                    self.state.on_exit(change.pid, end);
                }
                ChangeKind::Stopped(signal) if self.state.active() == Some(change.pid) => {
                    self.active_was_stopped(signal);
                }
                ChangeKind::Continued if self.state.active() == Some(change.pid) => {
                    self.job_control.on_continue();
                }
                ChangeKind::Stopped(_) | ChangeKind::Continued => {}
            }
        }
    }

    /// Job control (contract S3): a generation stops itself after its child, and the shell must see that its
    /// job is stopped. The generation uses SIGTSTP, by which no other process can stop it, since it blocks
    /// that signal. Older versions of psflip used SIGSTOP.
    fn active_was_stopped(&mut self, signal: Signal) {
        self.job_control.on_stop(signal);
        self.read_signals(); // the signal that stopped it, or a SIGCONT, may still be unread
        let by_itself = signal == Signal::TSTP || self.job_control.is_stop_requested() && job::has_terminal();
        if by_itself && self.job_control.is_stopped() {
            self.job_control.stop_too();
        }
    }

    fn settle(&mut self) {
        if self.state.settle(wait::is_child) {
            for received in std::mem::take(&mut self.waiting) {
                self.forward(&received);
            }
        }
        for former in self.state.hurry_up() {
            let _ = send_to_living(former, |process| process.send(Signal::TERM)); // it may have exited
        }
        self.tidy_up();
    }

    /// Kills what killed generations have left to the anchor, once all its other children are known to be
    /// generations. PID 1 also adopts orphans of other programs, and can't tell them apart.
    fn tidy_up(&mut self) {
        if !(self.may_have_orphans || self.sweeping) || std::process::id() == 1 || self.state.has_left() {
            (self.may_have_orphans, self.sweeping) = (false, false);
            return;
        }
        // A successor announces itself before it can become a child of the anchor. So the children are read
        // first, and the announcements after that.
        let found = tree::children(std::process::id());
        self.receive_messages();
        let Some((active, _, former)) = self.state.calm() else { return };
        let is_left = |pid: &u32| {
            let is_known = *pid == active || former.contains(pid) || self.state.outputs().contains(pid);
            !is_known && !self.reaper.foreign().contains(pid)
        };
        let left: Vec<u32> = found.into_iter().filter(is_left).collect();
        for pid in &left {
            // Only the anchor reaps this process, so the pid is still its own. The processes below it become
            // children of the anchor, and are found in the next turn.
            let _ = PidFd::open(*pid).and_then(|process| process.send(Signal::KILL)); // it may have exited
        }
        (self.may_have_orphans, self.sweeping) = (false, !left.is_empty());
    }

    /// Output processes whose generation was killed. They write the last lines of its child, and exit as soon
    /// as the child's tree is gone (contract N1).
    fn living_outputs(&self) -> Vec<(u32, PidFd)> {
        let children = self.state.outputs().iter().filter(|pid| wait::is_child(**pid));
        children.filter_map(|pid| Some((*pid, PidFd::open(*pid).ok()?))).collect()
    }

    fn finish(mut self, end: ExitStatus) -> ExitStatus {
        // If a psflip and its keeper were killed together, their tree has become children of the anchor. The
        // exit of PID 1 kills everything anyway. Processes that were left alone on purpose are not killed.
        let kills = !self.state.leaves() && std::process::id() != 1;
        let outputs = if self.state.leaves() { Vec::new() } else { self.living_outputs() };
        if !outputs.is_empty() {
            if kills {
                self.reaper.kill_children_but(outputs.iter().map(|(pid, _)| *pid));
            }
            let until = Instant::now() + patience(end);
            for (_, process) in &outputs {
                process.wait(until);
            }
        }
        if kills {
            self.reaper.kill_own_children();
        }
        // A generation that was killed may have lent the terminal to its child.
        self.job_control.take_terminal_from_nobody();
        end
    }
}

/// How long to wait for output processes after the last generation has ended so.
fn patience(end: ExitStatus) -> Duration {
    // A generation that exits by itself has waited for its own output. It dies by the signal that killed its
    // child (contract C5), but no other process can kill it by one of these, which it blocks.
    let by_itself = match end {
        ExitStatus::Exited(_) => true,
        ExitStatus::Killed(signal) => [Signal::TERM, Signal::INT, Signal::HUP].contains(&signal),
    };
    if by_itself { AGAIN } else { PATIENCE }
}

/// Sends a signal to a child that has not exited yet.
fn send_to_living(pid: u32, send: impl FnOnce(&PidFd) -> io::Result<()>) -> io::Result<()> {
    let process = PidFd::open(pid)?;
    // A zombie would accept the signal without an error.
    if process.has_exited() { Err(io::Error::from_raw_os_error(libc::ESRCH)) } else { send(&process) }
}

/// Writes a line to standard error. The anchor has read no configuration, so the line is plain, as those of a
/// psflip that fails to start.
pub(super) fn print_line(what: &str) {
    crate::log::plain(&format!("psflip: anchor (pid {}): {what}\n", std::process::id()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_that_a_generation_has_waited_for_is_not_waited_for_as_long_again() {
        // Contract: N1
        assert_eq!(patience(ExitStatus::Exited(3)), AGAIN);
        assert_eq!(patience(ExitStatus::Killed(Signal::TERM)), AGAIN, "as its child");
        assert_eq!(patience(ExitStatus::Killed(Signal::KILL)), PATIENCE);
    }
}
