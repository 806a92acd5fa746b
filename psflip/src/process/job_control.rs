//! The sender of a signal, the terminal, and the shell's job control (contract S2, S3, S6), for every psflip
//! process that forwards signals.

use nix::unistd::{Pid, getpgid, getpgrp, getpid, getsid};

use crate::flip::job_control::Foreground;
use crate::flip::signals::Sender;
use crate::sys::process;
use crate::sys::signal::Received;
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
    if received.is_from_kernel() { "the kernel".to_owned() } else { text::sender(pid, *uid) }
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

    /// Its process group.
    #[must_use]
    pub fn group(self) -> u32 {
        group_of(self.0).unwrap_or_else(|| getpgrp().as_raw().cast_unsigned())
    }

    /// Whether this is an orphaned process group (setpgid(2)): no shell waits for it, so nothing would
    /// continue it. Only this process and its ancestors are examined.
    #[must_use]
    pub fn is_orphaned(self) -> bool {
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
}

/// The terminal while it is lent to a child that needs it: the child's process group is
/// the foreground group then.
#[derive(Debug, Default)]
pub struct Loan {
    /// The process group that it is lent to.
    to: Option<u32>,
}

impl Loan {
    /// Which process group is in the foreground. `child`: the pid of the child, which leads a group.
    #[must_use]
    pub fn foreground(&self, job: Job, child: Option<u32>) -> Foreground {
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
    ///
    /// # Errors
    /// As [`Terminal::set_foreground`].
    pub fn lend(&mut self, child: u32) -> std::io::Result<()> {
        if let Some(terminal) = Terminal::open() {
            terminal.set_foreground(child)?;
            self.to = Some(child);
        }
        Ok(())
    }

    /// Makes the job's group the foreground group again, if this process had lent the terminal and
    /// the shell has not taken it back.
    pub fn take_back(&mut self, job: Job) {
        if self.to.is_some() {
            Self::take(job, |group| self.is_of_borrower(group));
            self.to = None;
        }
    }

    /// Takes the terminal back from an empty group: another process had lent it to a child
    /// that exited without returning it.
    pub fn take_from_nobody(job: Job) {
        Self::take(job, process::is_empty_group);
    }

    fn take(job: Job, may_be_taken_from: impl FnOnce(u32) -> bool) {
        if let Some(terminal) = Terminal::open()
            && let Some(group) = terminal.foreground()
            && group != job.group()
            && may_be_taken_from(group)
        {
            let _ = terminal.set_foreground(job.group()); // the terminal may have hung up
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
