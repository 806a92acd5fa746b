//! Stops of the service, and the terminal that it may need (contract S3). `flip/job_control.rs`
//! decides what to do about a stop.

use super::{Target, Watch};
use crate::flip::job_control::{AfterStop, ChildStop, Part, after_stop};
use crate::process::job_control::Job;
use crate::signal::Signal;
use crate::sys::signal::stop_self;
use crate::sys::tree;

impl Watch {
    /// Job control (contract S3): the parent of this process must see that its job is stopped.
    pub(super) fn was_stopped(&mut self, pid: u32, signal: Signal) {
        self.read_signals(); // the signal that stopped it may still be unread
        let concerns_us = match self.target() {
            Target::Service(target) | Target::Command(target) => target == pid,
            Target::Nobody => false,
        };
        if !concerns_us || !tree::is_stopped(pid) {
            return;
        }
        let job = Job::of(None);
        let stop = ChildStop {
            signal,
            asked: self.asked,
            foreground: self.loan.foreground(job, Some(pid)),
            part: Part::Alone,
            orphaned: job.is_orphaned(),
        };
        match after_stop(&stop) {
            AfterStop::Nothing => {}
            AfterStop::Lend => match self.loan.lend(pid) {
                Ok(()) => self.continue_group(pid),
                Err(error) => tracing::warn!(pid, %error, "can't let the service use the terminal"),
            },
            AfterStop::Continue => self.continue_group(pid),
            AfterStop::StopToo => {
                self.loan.take_back(job);
                self.suspended = true;
                stop_self();
            }
        }
    }

    fn continue_group(&self, pid: u32) {
        let _ = self.tree.signal_group(pid, Signal::CONT); // all of the group may have exited
    }
}
