//! What a generation below an anchor (`crate::anchor`) sends to it and receives from it.

use std::io;

use super::Runtime;
use crate::anchor::{Link, Message};
use crate::config::Orphans;
use crate::exit;
use crate::flip::{News, Outcome};
use crate::handover::successor;
use crate::signal::Signal;
use crate::sys::process;
use crate::sys::signal::Received;

impl Runtime {
    fn tell_anchor(&self, message: Message) {
        if let Some(anchor) = &self.managers.anchor
            && let Err(error) = anchor.tell(message)
            && error.raw_os_error() != Some(libc::EPIPE)
        {
            tracing::error!(?message, %error, "can't notify the anchor");
        }
    }

    /// Notifies the anchor that this program has read its configuration.
    pub(super) fn tell_anchor_of_begin(&self) {
        self.tell_anchor(Message::begins(self.plan.shutdown.orphans == Orphans::Leave));
    }

    /// Notifies the anchor of the news that concerns it.
    pub(super) fn tell_anchor_of(&self, news: News) {
        match news {
            News::UpgradeStarted => self.tell_anchor(Message::Upgrading),
            News::UpgradeFailed | News::UpgradeFailedWithoutChild | News::UpgradeAborted => {
                self.tell_anchor(Message::Failed);
            }
            // The process that started this one has exited, so the anchor is the parent now.
            News::Promoted | News::PredecessorLost => self.die_with_anchor(),
            _ => {}
        }
    }

    fn die_with_anchor(&self) {
        if let Some(anchor) = &self.managers.anchor
            && let Err(error) = anchor.die_with_anchor()
        {
            tracing::debug!(%error, "the anchor is gone"); // the loop is about to see that, too
        }
    }

    /// The successor is acknowledged: the anchor learns its pid.
    pub(super) fn hand_over_anchor(&self) {
        if let Some((pid, _)) = self.successor.as_ref().and_then(successor::Link::process) {
            self.tell_anchor(Message::Main { pid });
        }
    }

    /// Nothing may outlive the anchor. The kernel kills this process when the anchor dies, but only once it
    /// is the anchor's child; before that, this function exits. The keeper kills the rest (contract C7).
    pub(super) fn anchor_is_gone(&mut self) -> io::Result<()> {
        let pid = self.managers.anchor.as_ref().map(Link::anchor);
        tracing::error!(anchor = pid, "the anchor was killed; stopping everything at once");
        process::exit_now(exit::FAILURE)
    }

    /// The original signal, if the anchor relayed it.
    pub(super) fn relayed(&self, received: &Received) -> Option<Received> {
        self.managers.anchor.as_ref().and_then(|_| Link::original(received))
    }

    /// Passes a signal from the anchor on to the successor, if this generation is no longer the active one:
    /// the anchor has not read yet which generation is. Returns whether the signal needs no other handling.
    pub(super) fn pass_on(&self, received: &Received, original: &Received) -> bool {
        let superseded = self.state.is_superseded() || self.outcome == Some(Outcome::Superseded);
        if !superseded {
            return false;
        }
        let Some((pid, process)) = self.successor.as_ref().and_then(successor::Link::process) else {
            return false;
        };
        tracing::debug!(signal = %original.signal, new_psflip = pid, "signal passed on to the new psflip");
        if let Err(error) = process.forward(received)
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            tracing::error!(signal = %original.signal, %error, "can't pass a signal on to the new psflip");
        }
        original.signal != Signal::CONT // psflip itself may be stopped, too
    }

    /// Before a superseded generation exits: passes pending signals on, which were meant for the active
    /// generation.
    pub(super) fn pass_last_signals_on(&self) {
        if self.managers.anchor.is_none() || self.outcome != Some(Outcome::Superseded) {
            return;
        }
        while let Ok(Some(received)) = self.signals.next() {
            if let Some(original) = self.relayed(&received) {
                self.pass_on(&received, &original);
            }
        }
    }
}
