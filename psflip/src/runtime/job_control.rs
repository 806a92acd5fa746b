//! Stops of the child by signals, and lending the terminal to it (contract S3). `process/job_control.rs`
//! performs what follows from a stop. And the log line of a signal.

use std::io;

use super::Runtime;
use crate::flip::Notice;
use crate::flip::signals::{Reach, Request};
use crate::process::job_control as job;
use crate::signal::Signal;
use crate::sys::signal::Received;
use crate::sys::tree;

impl Runtime {
    pub(super) fn child_was_stopped(&mut self, signal: Signal) -> io::Result<()> {
        self.job_control.on_stop(signal);
        let read = self.read_signals(); // a pending signal may be the cause of the stop, or undo it
        self.follow_stopped_child();
        read
    }

    /// The keeper has found out whether the child has not acted on a signal yet.
    pub(super) fn child_has_pending(&mut self, is_pending: bool) {
        if self.job_control.on_answer(is_pending) {
            self.follow_stopped_child();
        }
    }

    fn follow_stopped_child(&mut self) {
        if let Some(tree) = &self.child.tree
            && let Some(child) = tree.child_pid()
        {
            self.job_control.follow_stopped(tree, child, self.machine.state.part());
        }
    }

    /// Another generation has exited, or no longer needs the terminal: a child that waits for the terminal
    /// may get it now.
    pub(super) fn terminal_may_be_free(&mut self, notice: Notice) {
        let is_free = matches!(
            notice,
            Notice::UpgradeFailed
                | Notice::UpgradeRolledBack
                | Notice::Promoted
                | Notice::PredecessorDrained
                | Notice::OlderDrained
                | Notice::PredecessorKilled
        );
        if !is_free {
            return;
        }
        self.job_control.take_terminal_from_nobody();
        if self.job_control.awaits_terminal() {
            self.follow_stopped_child();
        }
    }

    /// Forwards a signal to the child.
    pub(super) fn forward(&mut self, received: &Received, reach: Reach) {
        if received.signal == Signal::CONT {
            self.job_control.on_continue();
        }
        self.child.forward(received, reach);
    }

    /// A stopped process exits only on SIGKILL. So psflip continues a child that has been sent a stop signal,
    /// as systemd does.
    pub(super) fn continue_child_to_stop(&mut self) {
        let Some(tree) = &self.child.tree else { return };
        let is_stopped = |child| self.job_control.is_stopped() || tree::is_stopped(child);
        if let Some(child) = tree.child_pid().filter(|child| is_stopped(*child)) {
            tracing::info!(
                child,
                "the child is stopped (SIGSTOP); continuing it, so that it can act on the stop request"
            );
            tree.continue_group(child);
            self.job_control.on_continue();
        }
    }
}

/// Logs a signal: its sender (contract S6), and the signal that the child gets if that is another one
/// (contract S8).
pub(super) fn log_signal(received: &Received, sent: Option<Signal>, request: Option<Request>) {
    let Received { signal, .. } = received;
    let from = job::sender_text(received);
    let forward = sent.is_some();
    if let Some(sent) = sent.filter(|sent| sent != signal) {
        return match request {
            Some(Request::Stop) => tracing::info!(%signal, from, forward_as = %sent, "stop requested"),
            _ => tracing::debug!(%signal, from, forward_as = %sent, "signal received"),
        };
    }
    match request {
        Some(Request::Upgrade) => tracing::info!(%signal, from, "upgrade requested"),
        Some(Request::Stop) => tracing::info!(%signal, from, forward, "stop requested"),
        None => tracing::debug!(%signal, from, forward, "signal received"),
    }
}
