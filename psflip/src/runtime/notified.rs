//! What the child says on `NOTIFY_SOCKET` (see [`crate::health::Notifications`]), and how long it may put off being ready.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::poller::Token;
use super::timers::Key;
use super::{Predecessor, Runtime};
use crate::config::Health;
use crate::flip::{Event, Timer};
use crate::handover::ToPredecessor;
use crate::health::{Heard, Notifications};
use crate::process::keeper::Tree;

/// Into how many parts the longest extension is divided: the predecessor is told of an extension when it is by at least one of
/// them longer than what it was told before, however many the child asks for. Its socket's queue would be full at some time.
const PARTS: u32 = 16;

/// How long the socket is not read when strangers flood it: while the child is waited for, its READY=1 may be delayed by no
/// more than that; later nothing is urgent.
const PAUSE_WHILE_STARTING: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_secs(1);

/// The socket, and the time that it is about.
#[derive(Debug)]
pub(super) struct Notified {
    pub(super) notifications: Notifications,
    /// When the time to become healthy began.
    since: Instant,
    /// What it has been given, if it has asked for more than `upgrade.timeout`.
    extended: Option<Duration>,
    /// How long the predecessor thinks that it may take.
    told: Duration,
    /// The flood was logged.
    flood_logged: bool,
}

impl Notified {
    /// Why the child is not ready, after the time that it was given.
    pub(super) fn why_not_ready(&self) -> String {
        match self.extended {
            Some(time) => format!(
                "EXTEND_TIMEOUT_USEC had put that off to {time:?}; {}",
                self.notifications.why_not_ready()
            ),
            None => self.notifications.why_not_ready(),
        }
    }
}

/// Without the parts of a millisecond, which nobody wants to read.
fn whole_ms(time: Duration) -> Duration {
    time - Duration::from_nanos(u64::from(time.subsec_nanos() % 1_000_000))
}

impl Runtime {
    /// Makes the socket, if the child is to have one, and waits for what comes. Gives its address.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM, ENOSPC.
    pub(super) fn open_notifications(&mut self) -> io::Result<Option<String>> {
        if !matches!(self.plan.health, Health::Notify { .. }) {
            return Ok(None);
        }
        let notifications = Notifications::open()?;
        self.poller.watch(Token::Notifications, notifications.as_fd())?;
        let address = notifications.address();
        let told = self.plan.upgrade.timeout;
        self.notified = Some(Notified {
            notifications,
            since: Instant::now(),
            extended: None,
            told,
            flood_logged: false,
        });
        Ok(Some(address))
    }

    /// Begins to wait for `READY=1`, which may have come already.
    pub(super) fn await_ready(&mut self) {
        if self.notified.as_ref().is_some_and(|notified| notified.notifications.is_ready()) {
            self.queue.push_back(Event::ChildHealthy);
        }
    }

    /// The time to become healthy begins anew.
    pub(super) fn begin_patience(&mut self) {
        if let Some(notified) = &mut self.notified {
            (notified.since, notified.extended) = (Instant::now(), None);
        }
    }

    /// Something came on the socket.
    ///
    /// # Errors
    /// ENOMEM.
    pub(super) fn hear_notifications(&mut self) -> io::Result<()> {
        let (Some(notified), Some(tree)) = (&mut self.notified, &self.tree) else { return Ok(()) };
        let heard = notified.notifications.hear(tree.keeper_pid(), tree.child_pid())?;
        for pid in notified.notifications.take_questions() {
            if tree.ask_about(pid).is_err() {
                let _ = notified.notifications.answer(pid, false); // the tree is gone
            }
        }
        if heard.flooded {
            self.pause_notifications();
        }
        self.heard(heard);
        Ok(())
    }

    /// Stops reading for a while. The kernel keeps a few messages (net.unix.max_dgram_qlen) and lets further senders wait.
    fn pause_notifications(&mut self) {
        let Some(notified) = &mut self.notified else { return };
        if !std::mem::replace(&mut notified.flood_logged, true)
            && let Some(sender) = notified.notifications.last_stranger()
        {
            tracing::warn!(
                pid = sender.pid,
                uid = sender.uid,
                "a process that is not below the child floods NOTIFY_SOCKET; reading it at intervals"
            );
        }
        self.poller.forget(Token::Notifications);
        let pause = if self.state.is_starting() { PAUSE_WHILE_STARTING } else { PAUSE };
        self.timers.set(Key::Notifications, pause);
    }

    /// The pause is over.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC.
    pub(super) fn resume_notifications(&mut self) -> io::Result<()> {
        let Some(notified) = &self.notified else { return Ok(()) };
        if let Err(error) = self.poller.watch(Token::Notifications, notified.notifications.as_fd()) {
            self.timers.set(Key::Notifications, PAUSE);
            return Err(error);
        }
        Ok(())
    }

    /// The keeper says whether a sender belongs to its tree.
    pub(super) fn sender_is_known(&mut self, pid: u32, belongs: bool) {
        if let Some(notified) = &mut self.notified {
            let heard = notified.notifications.answer(pid, belongs);
            self.heard(heard);
        }
    }

    fn heard(&mut self, heard: Heard) {
        // After it was promoted nobody waits.
        if !self.state.is_starting() {
            return;
        }
        if let Some(time) = heard.extend {
            self.extend(time);
        }
        // Before its start was told, that has to wait for `await_ready`.
        if heard.ready && self.tree.as_ref().and_then(Tree::child_pid).is_some() {
            self.happened(Event::ChildHealthy);
        }
    }

    /// The child asks for this much time from now on. It gets it, but not more than `extend` of the configuration allows, and
    /// never less than it had anyway.
    fn extend(&mut self, time: Duration) {
        let (Some(notified), Health::Notify { extend }) = (&mut self.notified, &self.plan.health) else {
            return;
        };
        let timeout = self.plan.upgrade.timeout;
        let spent = notified.since.elapsed();
        let until = whole_ms(spent.saturating_add(time)).min(timeout + *extend);
        if until <= notified.extended.unwrap_or(timeout) {
            return;
        }
        if !self.timers.postpone(Key::Flip(Timer::Healthy), until.saturating_sub(spent)) {
            return; // a stop request: the wait is over
        }
        notified.extended = Some(until);
        if until <= notified.told {
            return;
        }
        notified.told = (until + *extend / PARTS).min(timeout + *extend);
        tracing::debug!(until = ?notified.told, "the child asks for more time");
        let left = notified.told.saturating_sub(spent);
        let deadline = left + self.promotion() + self.grace();
        self.managers_be_patient(deadline);
        if let Some(Predecessor { link, .. }) = &self.predecessor {
            let _ = link.send(&ToPredecessor::Extended { deadline }); // it may be gone
        }
    }

    /// What the child said last, for the reason of its failure: it may have said it and ended at once.
    pub(super) fn last_words(&mut self) -> Option<String> {
        let (notified, tree) = (self.notified.as_mut()?, self.tree.as_ref()?);
        let _ = notified.notifications.hear(tree.keeper_pid(), tree.child_pid()); // what can't be read is not told
        notified.notifications.last_words()
    }
}
