//! What a generation below an anchor (`crate::anchor`) sends to it and receives from it.

use std::io;

use crate::anchor::{AnchorLink, AnchorMessage};
use crate::exit;
use crate::flip::Notice;
use crate::signal::Signal;
use crate::sys::pidfd::PidFd;
use crate::sys::process;
use crate::sys::signal::Received;

/// The anchor above this generation, if there is one.
#[derive(Debug)]
pub(super) struct AnchorClient(Option<AnchorLink>);

impl AnchorClient {
    pub(super) fn new(link: Option<AnchorLink>) -> Self {
        Self(link)
    }

    /// Whether the anchor itself sent this signal.
    pub(super) fn is_from(&self, received: &Received) -> bool {
        self.0.as_ref().is_some_and(|link| link.anchor() == received.pid)
    }

    /// The connection.
    pub(super) fn link(&self) -> Option<&AnchorLink> {
        self.0.as_ref()
    }

    /// Whether there is an anchor.
    pub(super) fn is_there(&self) -> bool {
        self.0.is_some()
    }

    fn report(&self, message: AnchorMessage) {
        if let Some(anchor) = &self.0
            && let Err(error) = anchor.send(message)
            && error.raw_os_error() != Some(libc::EPIPE)
        {
            tracing::error!(?message, %error, "can't notify the anchor");
        }
    }

    /// Notifies the anchor that this program has read its configuration. `leaves`: whether leftover processes
    /// are left alone.
    pub(super) fn report_start(&self, leaves: bool) {
        self.report(AnchorMessage::begins(leaves));
    }

    /// Notifies the anchor of the notice, if it concerns it.
    pub(super) fn notify_anchor(&self, notice: Notice) {
        match notice {
            Notice::UpgradeStarted => self.report(AnchorMessage::Upgrading),
            Notice::UpgradeFailed
            | Notice::UpgradeRolledBack
            | Notice::UpgradeFailedWithoutChild
            | Notice::UpgradeAborted
            | Notice::StartsAgain => {
                self.report(AnchorMessage::Failed);
            }
            // The process that started this one has exited, so the anchor is the parent now.
            Notice::Promoted | Notice::PredecessorKilled => self.die_with_anchor(),
            _ => {}
        }
    }

    /// The process that forked this one has exited, so the anchor is the parent now, and the kernel can kill
    /// this process when the anchor dies, even while it is stopped (contract A4).
    pub(super) fn is_parent(&mut self) {
        if let Some(anchor) = &mut self.0 {
            match anchor.former_parent_is_gone() {
                Ok(()) => tracing::debug!(anchor = anchor.anchor(), "the anchor is the parent now"),
                Err(error) => tracing::debug!(%error, "the anchor is gone"), // the loop is about to see that, too
            }
        }
    }

    fn die_with_anchor(&self) {
        if let Some(anchor) = &self.0
            && let Err(error) = anchor.die_with_anchor()
        {
            tracing::debug!(%error, "the anchor is gone"); // the loop is about to see that, too
        }
    }

    /// The successor is acknowledged: the anchor learns its pid.
    pub(super) fn report_main(&self, pid: u32) {
        self.report(AnchorMessage::Main { pid });
    }

    /// Nothing may outlive the anchor. The kernel kills this process when the anchor dies, but only once it
    /// is the anchor's child; before that, this function exits. The keeper kills the rest (contract C7).
    pub(super) fn is_gone(&self) -> io::Result<()> {
        let pid = self.0.as_ref().map(AnchorLink::anchor);
        tracing::error!(anchor = pid, "the anchor was killed; stopping everything at once");
        process::exit_now(exit::FAILURE)
    }

    /// The original signal, if the anchor relayed it.
    pub(super) fn original(&self, received: &Received) -> Option<Received> {
        self.0.as_ref().and_then(|_| AnchorLink::original(received))
    }

    /// The anchor stopped after this process, but the SIGCONT came to this process alone: passes it on.
    pub(super) fn wake(&self) {
        if let Some(anchor) = &self.0 {
            // An error means that it is gone.
            let _ = PidFd::open(anchor.anchor()).and_then(|anchor| anchor.send(Signal::CONT));
        }
    }
}
