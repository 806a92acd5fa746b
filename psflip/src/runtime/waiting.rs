//! What the loop waits for: descriptors, deadlines and signals.

use std::io;
use std::os::fd::AsFd;

use super::Predecessor;
use super::poller::{Poller, Token};
use super::timers::Timers;
use crate::anchor::AnchorLink;
use crate::sys::early;
use crate::sys::signal::{SignalFd, SignalSet};

/// The descriptors of the loop itself.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) poller: Poller,
    pub(super) timers: Timers,
    pub(super) signals: SignalFd,
}

impl Waiting {
    /// Opens them, and watches what is there from the beginning.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub(super) fn open(predecessor: Option<&Predecessor>, anchor: Option<&AnchorLink>) -> io::Result<Self> {
        early::stop_ignoring_sigchld()?;
        let mut poller = Poller::new()?;
        let signals = SignalFd::open(SignalSet::from_bits(u64::MAX))?;
        let timers = Timers::new()?;
        poller.watch(Token::Signals, signals.as_fd())?;
        poller.watch(Token::Timers, timers.as_fd())?;
        if let Some(anchor) = anchor {
            poller.watch(Token::Anchor, anchor.as_fd())?;
            if let Some(parent) = anchor.former_parent() {
                let _ = poller.watch(Token::FormerParent, parent.as_fd()); // ENOSPC: then at the promotion
            }
        }
        if let Some(Predecessor { link, .. }) = predecessor {
            poller.watch(Token::Predecessor, link.as_fd())?;
            poller.watch(Token::PredecessorProcess, link.process().as_fd())?;
        }
        Ok(Self { poller, timers, signals })
    }
}
