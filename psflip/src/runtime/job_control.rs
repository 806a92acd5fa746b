//! Stops of the child by signals, and lending the terminal to it (contract S3). `flip/job_control.rs` decides
//! what follows from a stop.

use std::io;

use super::Runtime;
use crate::anchor;
use crate::flip::News;
use crate::flip::job_control::{AfterStop, ChildStop, Foreground, after_stop, needs_terminal};
use crate::flip::signals::{Reach, Sender};
use crate::process::job_control::{self as job, Job};
use crate::signal::Signal;
use crate::sys::early;
use crate::sys::pidfd::PidFd;
use crate::sys::signal::{Received, stop_self, stop_self_by_tstp};
use crate::sys::tree;

/// The state of job control for this generation's child.
#[derive(Debug, Default)]
pub(super) struct JobControl {
    /// psflip stopped itself after its child and has not seen a SIGCONT since.
    pub(super) suspended: bool,
    /// The last job-control signal that psflip got, until the child is continued.
    asked: Option<(Signal, Sender)>,
    /// The signal that stopped the child.
    stopped_by: Option<Signal>,
    loan: job::Loan,
}

impl JobControl {
    /// Records that psflip got a job-control signal.
    pub(super) fn ask(&mut self, signal: Signal, sender: Sender) {
        self.asked = Some((signal, sender));
    }

    /// Records that the child runs again.
    pub(super) fn continued(&mut self) {
        self.asked = None;
        self.stopped_by = None;
    }
}

impl Runtime {
    fn job(&self) -> Job {
        Job::of(self.managers.anchor.as_ref().map(anchor::Link::anchor))
    }

    pub(super) fn child_was_stopped(&mut self, signal: Signal) -> io::Result<()> {
        self.job_control.stopped_by = Some(signal);
        let read = self.read_signals(); // a pending signal may be the cause of the stop, or undo it
        self.follow_stopped_child();
        read
    }

    /// Acts on a stop of the child.
    fn follow_stopped_child(&mut self) {
        let Some(tree) = &self.tree else { return };
        let (Some(signal), Some(child)) = (self.job_control.stopped_by, tree.child_pid()) else { return };
        let stop = ChildStop {
            signal,
            asked: self.job_control.asked,
            foreground: self.job_control.loan.foreground(self.job(), Some(child)),
            part: self.state.part(),
            orphaned: self.job().is_orphaned(),
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
            AfterStop::Lend => match self.job_control.loan.lend(child) {
                Ok(()) => tree.continue_child(),
                Err(error) => tracing::warn!(child, %error, "can't let the child use the terminal"),
            },
            AfterStop::Continue => tree.continue_child(),
            AfterStop::StopToo => self.stop_too(),
        }
    }

    /// Stops psflip as well, so that the process that waits for it, usually a shell, sees its job stopped.
    fn stop_too(&mut self) {
        self.take_terminal_back();
        self.job_control.suspended = true;
        if self.managers.anchor.is_none() {
            stop_self();
        } else if let Err(error) =
            stop_self_by_tstp(early::inherited_signals().ignored.contains(Signal::TSTP))
        {
            tracing::error!(%error, "can't stop");
        }
    }

    /// The anchor stopped after this process, but the SIGCONT came to this process alone: passes it on.
    pub(super) fn continue_anchor(&self) {
        if let Some(anchor) = &self.managers.anchor {
            // An error means that it is gone.
            let _ = PidFd::open(anchor.anchor()).and_then(|anchor| anchor.send(Signal::CONT));
        }
    }

    /// Makes the job the foreground group again, if the child was.
    pub(super) fn take_terminal_back(&mut self) {
        let job = self.job();
        self.job_control.loan.take_back(job);
    }

    /// Another generation has exited, or no longer needs the terminal: a child that waits for the terminal
    /// may get it now.
    pub(super) fn terminal_may_be_free(&mut self, news: News) {
        let is_free = matches!(
            news,
            News::UpgradeFailed | News::Promoted | News::PredecessorDrained | News::PredecessorLost
        );
        if !is_free {
            return;
        }
        job::Loan::take_from_nobody(self.job());
        if self.job_control.stopped_by.is_some_and(needs_terminal) {
            self.follow_stopped_child();
        }
    }

    /// Forwards a signal to the child.
    pub(super) fn forward(&mut self, received: &Received, reach: Reach) {
        if received.signal == Signal::CONT {
            self.job_control.continued();
        }
        if let Some(tree) = &mut self.tree
            && let Err(error) = tree.forward(received, reach)
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            tracing::error!(signal = %received.signal, %error, "can't forward a signal to the child");
        }
    }

    /// A stopped process exits only on SIGKILL. So psflip continues a child that has been sent a stop signal,
    /// as systemd does.
    pub(super) fn continue_child_to_end(&mut self) {
        let Some(tree) = &self.tree else { return };
        let is_stopped = |child| self.job_control.stopped_by.is_some() || tree::is_stopped(child);
        if let Some(child) = tree.child_pid().filter(|child| is_stopped(*child)) {
            tracing::info!(
                child,
                "the child is stopped (SIGSTOP); continuing it, so that it can act on the stop request"
            );
            tree.continue_child();
            self.job_control.continued();
        }
    }
}
