//! Stops of the service, and the terminal that it may need (contract S3). `process/job_control.rs` performs
//! what follows from a stop.

use super::Watch;
use super::state::Target;
use crate::flip::job_control::Part;
use crate::signal::Signal;
use crate::sys::tree;

impl Watch {
    fn is_target(&mut self, pid: u32) -> bool {
        self.refresh();
        match self.state.target() {
            Target::Service(target) | Target::Command(target) => target == pid,
            Target::Nobody => false,
        }
    }

    /// Job control (contract S3): the parent of this process must see that its job is stopped.
    pub(super) fn was_stopped(&mut self, pid: u32, signal: Signal) {
        if self.is_target(pid) {
            self.job_control.on_stop(signal);
            self.read_signals();
            if self.is_target(pid) && tree::is_stopped(pid) {
                self.job_control.follow_stopped(&self.tree, pid, Part::Alone);
            }
        }
    }

    /// The keeper has found out whether the service has not acted on a signal yet.
    pub(super) fn has_pending(&mut self, is_pending: bool) {
        if !self.job_control.on_answer(is_pending) {
            return;
        }
        self.refresh();
        if let Target::Service(pid) | Target::Command(pid) = self.state.target()
            && tree::is_stopped(pid)
        {
            self.job_control.follow_stopped(&self.tree, pid, Part::Alone);
        }
    }

    pub(super) fn was_continued(&mut self, pid: u32) {
        if self.is_target(pid) {
            self.job_control.on_continue();
        }
    }
}
