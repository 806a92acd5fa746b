//! The sender of a signal, the terminal, and the shell's job control (contract S2, S3, S6), for every psflip
//! process that forwards signals. `flip/job_control.rs` decides what follows from a stop.

use nix::unistd::{Pid, getpgid, getpgrp, getpid, getsid};

use super::keeper::Tree;
use crate::flip::job_control::{
    AfterStop, ChildStop, Foreground, Part, after_stop, is_terminal_stop, needs_terminal,
};
use crate::flip::signals::Sender;
use crate::signal::Signal;
use crate::sys::early;
use crate::sys::process;
use crate::sys::signal::{Received, stop_self, stop_self_by_tstp};
use crate::sys::tree;
use crate::sys::tty::Terminal;
use crate::text;

/// The sender of a signal.
#[must_use]
pub fn sender(received: &Received) -> Sender {
    if received.is_from_kernel() {
        Sender::Kernel
    } else if received.pid == std::process::id() {
        Sender::Own
    } else {
        Sender::Process
    }
}

/// The sender of a signal, for the log (contract S6).
#[must_use]
pub fn sender_text(received: &Received) -> String {
    let Received { pid, uid, .. } = received;
    if received.is_from_kernel() { "the kernel".to_owned() } else { text::sender(*pid, *uid) }
}

/// Whether this process is the leader of its session.
#[must_use]
pub fn leads_session() -> bool {
    getsid(None).is_ok_and(|session| session == getpid())
}

/// Whether there is a controlling terminal, and so a shell that does job control.
#[must_use]
pub fn has_terminal() -> bool {
    Terminal::open().is_some()
}

fn group_of(pid: u32) -> Option<u32> {
    getpgid(Some(Pid::from_raw(pid.cast_signed()))).ok().map(|group| group.as_raw().cast_unsigned())
}

/// The process that the shell started: the anchor, or psflip itself. Its process group is the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job(u32);

impl Job {
    /// The job of a generation. `anchor`: the pid of its anchor, if there is one.
    #[must_use]
    pub fn of(anchor: Option<u32>) -> Self {
        Self(anchor.unwrap_or_else(std::process::id))
    }

    /// Whether this process is an anchor's generation, so that the anchor leads the job.
    fn is_of_anchor(self) -> bool {
        self.0 != std::process::id()
    }

    /// Its process group.
    fn group(self) -> u32 {
        group_of(self.0).unwrap_or_else(|| getpgrp().as_raw().cast_unsigned())
    }

    /// Whether this is an orphaned process group (setpgid(2)): no shell waits for it, so nothing would
    /// continue it. Only this process and its ancestors are examined.
    fn is_orphaned(self) -> bool {
        let session = |pid: u32| getsid(Some(Pid::from_raw(pid.cast_signed()))).ok();
        let (own_group, own_session) = (self.group(), session(self.0));
        let mut current = self.0;
        loop {
            let parent = tree::parent_of(current).filter(|parent| *parent != 0);
            match parent {
                None => return true,
                Some(parent) if session(parent) != own_session => return true,
                Some(parent) if group_of(parent) != Some(own_group) => return false,
                Some(parent) => current = parent,
            }
        }
    }

    /// Makes it the foreground group, if the present foreground group is another one that allows it.
    fn take_terminal(self, may_be_taken_from: impl FnOnce(u32) -> bool) {
        if let Some(terminal) = Terminal::open()
            && let Some(group) = terminal.foreground()
            && group != self.group()
            && may_be_taken_from(group)
        {
            let _ = terminal.set_foreground(self.group()); // the terminal may have hung up
        }
    }
}

/// What is known about stops: of this process, and of the process that gets its signals. That one is called
/// the child here. For a generation it is the child, for `psflip watch` the service, for an anchor the
/// active generation.
#[derive(Debug)]
pub struct JobControl {
    job: Job,
    /// This process stopped itself after the child, and has got no SIGCONT since.
    suspended: bool,
    /// The last job-control signal that this process got, until the child is continued.
    requested: Option<(Signal, Sender)>,
    /// The signal that stopped the child.
    stopped_by: Option<Signal>,
    /// Whether the stopped child has not acted on `requested` yet, if that is known.
    is_pending: Option<bool>,
    /// How many answers of the keeper about that are still to come.
    queries: u32,
    /// Whether the last of them is about the present stop and the present `requested`.
    is_query_current: bool,
    loan: Loan,
}

impl JobControl {
    /// For a child that runs.
    #[must_use]
    pub fn new(job: Job) -> Self {
        Self {
            job,
            suspended: false,
            requested: None,
            stopped_by: None,
            is_pending: None,
            queries: 0,
            is_query_current: false,
            loan: Loan::default(),
        }
    }

    /// Records a signal to this process. Returns whether the process was suspended until then.
    pub fn on_signal(&mut self, signal: Signal, sender: Sender) -> bool {
        let was_suspended = self.suspended;
        if is_terminal_stop(signal) {
            self.requested = Some((signal, sender));
            self.forget_pending();
        }
        self.suspended &= signal != Signal::CONT;
        was_suspended
    }

    /// Records that the child was stopped. Read the signals that have arrived before acting on it: one of
    /// them may be the cause of the stop, or undo it.
    pub fn on_stop(&mut self, signal: Signal) {
        self.stopped_by = Some(signal);
        self.forget_pending();
    }

    /// Records that the child runs again, or has exited.
    pub fn on_continue(&mut self) {
        self.requested = None;
        self.stopped_by = None;
        self.forget_pending();
    }

    /// Records the answer to [`Tree::ask_whether_pending`]. Returns whether to call
    /// [`JobControl::follow_stopped`] again: not for an answer to an older query while another one is
    /// outstanding, which would stop this process twice.
    #[must_use]
    pub fn on_answer(&mut self, is_pending: bool) -> bool {
        self.queries = self.queries.saturating_sub(1);
        if self.queries == 0 && std::mem::take(&mut self.is_query_current) {
            self.is_pending = Some(is_pending);
        }
        self.queries == 0
    }

    /// What was known, or will be answered, is about an earlier stop or an earlier signal.
    fn forget_pending(&mut self) {
        (self.is_pending, self.is_query_current) = (None, false);
    }

    /// Whether this process got a stop signal of job control, and the child has not been continued since.
    #[must_use]
    pub fn is_stop_requested(&self) -> bool {
        self.requested.is_some()
    }

    /// Whether the child is stopped, as far as was reported.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopped_by.is_some()
    }

    /// Whether the child is stopped until it may use the terminal.
    #[must_use]
    pub fn awaits_terminal(&self) -> bool {
        self.stopped_by.is_some_and(needs_terminal)
    }

    /// Acts on a stop of the child, which leads a process group and is in this tree: lends it the terminal,
    /// continues it, or stops this process as well.
    pub fn follow_stopped(&mut self, tree: &Tree, child: u32, part: Part) {
        let Some(signal) = self.stopped_by else { return };
        let stop = ChildStop {
            signal,
            requested: self.requested,
            is_pending: self.is_pending,
            foreground: self.loan.foreground(self.job, Some(child)),
            part,
            orphaned: self.job.is_orphaned(),
        };
        let what = after_stop(&stop);
        tracing::debug!(child, ?stop, ?what, "the child was stopped");
        match what {
            AfterStop::Nothing if needs_terminal(signal) && stop.foreground == Foreground::Other => {
                tracing::warn!(
                    child,
                    %signal,
                    "the child is stopped until it can use the terminal, which is not psflip's at the moment"
                );
            }
            AfterStop::Nothing => {}
            AfterStop::Lend => match self.loan.lend(child) {
                Ok(()) => tree.continue_group(child),
                Err(error) => tracing::warn!(child, %error, "can't let the child use the terminal"),
            },
            AfterStop::Continue => tree.continue_group(child),
            AfterStop::StopToo => self.stop_too(),
            AfterStop::FindOut if self.is_query_current => {} // the answer is to come
            AfterStop::FindOut => {
                let Some((requested, _)) = self.requested else { return };
                if tree.ask_whether_pending(child, requested).is_err() {
                    self.is_pending = Some(false); // the keeper is gone
                    return self.follow_stopped(tree, child, part);
                }
                self.queries += 1;
                self.is_query_current = true;
            }
        }
    }

    /// Stops this process as well, so that the process that waits for it, usually a shell, sees its job
    /// stopped. Returns when it was continued.
    pub fn stop_too(&mut self) {
        self.take_terminal_back();
        self.suspended = true;
        if !self.job.is_of_anchor() {
            stop_self();
        } else if let Err(error) =
            stop_self_by_tstp(early::inherited_signals().ignored.contains(Signal::TSTP))
        {
            tracing::error!(%error, "can't stop");
        }
    }

    /// Makes the job the foreground group again, if this process had lent the terminal and the shell has not
    /// taken it back.
    pub fn take_terminal_back(&mut self) {
        self.loan.take_back(self.job);
    }

    /// Makes the job the foreground group again if the foreground group is empty: another process had lent
    /// the terminal to a child that exited without returning it.
    pub fn take_terminal_from_nobody(&self) {
        self.job.take_terminal(process::is_empty_group);
    }
}

/// The terminal while it is lent to a child that needs it: the child's process group is
/// the foreground group then.
#[derive(Debug, Default)]
struct Loan {
    /// The process group that it is lent to.
    to: Option<u32>,
}

impl Loan {
    /// Which process group is in the foreground. `child`: the pid of the child, which leads a group.
    fn foreground(&self, job: Job, child: Option<u32>) -> Foreground {
        let Some(terminal) = Terminal::open() else { return Foreground::NoTerminal };
        match terminal.foreground() {
            None => Foreground::NoTerminal,
            Some(group) if group == job.group() => Foreground::Job,
            Some(group) if Some(group) == child => Foreground::Child,
            // The child passed the terminal on to another group of its tree, or it exited
            // without returning the terminal.
            Some(group) if self.is_of_borrower(group) => Foreground::Job,
            Some(_) => Foreground::Other,
        }
    }

    /// Makes the child's group the foreground group.
    fn lend(&mut self, child: u32) -> std::io::Result<()> {
        if let Some(terminal) = Terminal::open() {
            terminal.set_foreground(child)?;
            self.to = Some(child);
        }
        Ok(())
    }

    fn take_back(&mut self, job: Job) {
        if self.to.is_some() {
            job.take_terminal(|group| self.is_of_borrower(group));
            self.to = None;
        }
    }

    /// Whether the foreground group belongs to the tree that borrowed the terminal, or is empty.
    fn is_of_borrower(&self, group: u32) -> bool {
        if process::is_empty_group(group) {
            return true;
        }
        let is_below =
            || tree::below(std::process::id()).iter().any(|one| group_of(one.pid()) == Some(group));
        self.to.is_some_and(|borrower| borrower == group || is_below())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_the_last_query_counts_and_only_for_the_present_stop() {
        // Contract: S3
        let mut job = JobControl::new(Job::of(None));
        job.on_stop(Signal::TTIN);
        (job.queries, job.is_query_current) = (2, true);
        assert!(!job.on_answer(true), "it would stop this process once for each answer");
        assert_eq!(job.is_pending, None);
        assert!(job.on_answer(false));
        assert_eq!(job.is_pending, Some(false));
        // An answer about an earlier stop: the present one is followed without it.
        (job.queries, job.is_query_current) = (1, true);
        job.on_stop(Signal::TTIN);
        assert!(job.on_answer(true));
        assert_eq!(job.is_pending, None);
    }
}
