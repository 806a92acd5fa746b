//! Messages of the child on `NOTIFY_SOCKET` (see [`crate::health::Notifications`]), and the extra time that
//! it may ask for.

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

/// The longest extension is divided into this many parts. Each deadline that is passed to the predecessor
/// exceeds the one before by at least a part. Otherwise a child that asks very often would fill the queue of
/// the predecessor's socket.
const PARTS: u32 = 16;

/// How long the socket is not read when processes outside the child's tree flood it. While the child starts,
/// its READY=1 may be delayed by no more than that; later nothing is urgent.
const PAUSE_WHILE_STARTING: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_secs(1);

/// The socket, and the time that the child gets.
#[derive(Debug)]
pub(super) struct Readiness {
    pub(super) notifications: Notifications,
    /// When the time to become healthy began.
    since: Instant,
    /// The extended time, if the child asked for more than `upgrade.timeout`.
    extended: Option<Duration>,
    /// The time that the predecessor was notified of.
    told: Duration,
    /// Whether the flood was logged.
    flood_logged: bool,
}

impl Readiness {
    /// Why the child is not ready at the end of its time.
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

/// Rounds down to whole milliseconds, for messages.
fn whole_ms(time: Duration) -> Duration {
    time - Duration::from_nanos(u64::from(time.subsec_nanos() % 1_000_000))
}

impl Runtime {
    /// Opens the socket, if the configuration wants one, and watches it. Returns its address.
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
        self.readiness = Some(Readiness {
            notifications,
            since: Instant::now(),
            extended: None,
            told,
            flood_logged: false,
        });
        Ok(Some(address))
    }

    /// Starts to wait for `READY=1`, which may have come already.
    pub(super) fn await_ready(&mut self) {
        if self.readiness.as_ref().is_some_and(|notified| notified.notifications.is_ready()) {
            self.queue.push_back(Event::ChildHealthy);
        }
    }

    /// Restarts the time to become healthy.
    pub(super) fn begin_patience(&mut self) {
        if let Some(notified) = &mut self.readiness {
            (notified.since, notified.extended) = (Instant::now(), None);
        }
    }

    /// Reads the socket.
    ///
    /// # Errors
    /// ENOMEM.
    pub(super) fn on_notifications(&mut self) -> io::Result<()> {
        let (Some(notified), Some(tree)) = (&mut self.readiness, &self.tree) else { return Ok(()) };
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

    /// Stops reading for a while. Meanwhile the kernel queues a few messages (net.unix.max_dgram_qlen) and
    /// blocks further senders.
    fn pause_notifications(&mut self) {
        let Some(notified) = &mut self.readiness else { return };
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

    /// Reads the socket again after a pause.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC.
    pub(super) fn resume_notifications(&mut self) -> io::Result<()> {
        let Some(notified) = &self.readiness else { return Ok(()) };
        if let Err(error) = self.poller.watch(Token::Notifications, notified.notifications.as_fd()) {
            self.timers.set(Key::Notifications, PAUSE);
            return Err(error);
        }
        Ok(())
    }

    /// The keeper has reported whether a sender belongs to its tree.
    pub(super) fn sender_is_known(&mut self, pid: u32, belongs: bool) {
        if let Some(notified) = &mut self.readiness {
            let heard = notified.notifications.answer(pid, belongs);
            self.heard(heard);
        }
    }

    fn heard(&mut self, heard: Heard) {
        // After the promotion nothing depends on these messages.
        if !self.state.is_starting() {
            return;
        }
        if let Some(time) = heard.extend {
            self.extend(time);
        }
        // Before the start of the child was reported, this has to wait for `await_ready`.
        if heard.ready && self.tree.as_ref().and_then(Tree::child_pid).is_some() {
            self.dispatch(Event::ChildHealthy);
        }
    }

    /// The child asks for this much time from now on. It gets it, up to the configured `extend`, and never
    /// less than it had anyway.
    fn extend(&mut self, time: Duration) {
        let (Some(notified), Health::Notify { extend }) = (&mut self.readiness, &self.plan.health) else {
            return;
        };
        let timeout = self.plan.upgrade.timeout;
        let spent = notified.since.elapsed();
        let until = whole_ms(spent.saturating_add(time)).min(timeout + *extend);
        if until <= notified.extended.unwrap_or(timeout) {
            return;
        }
        if !self.timers.postpone(Key::Flip(Timer::Healthy), until.saturating_sub(spent)) {
            return; // a stop request ended the wait
        }
        notified.extended = Some(until);
        if until <= notified.told {
            return;
        }
        notified.told = (until + *extend / PARTS).min(timeout + *extend);
        tracing::debug!(until = ?notified.told, "the child requests more time");
        let left = notified.told.saturating_sub(spent);
        let deadline = left + self.promotion() + self.grace();
        self.managers_be_patient(deadline);
        if let Some(Predecessor { link, .. }) = &self.predecessor {
            let _ = link.send(&ToPredecessor::Extended { deadline }); // it may be gone
        }
    }

    /// The child's last message, for the reason of its failure. The child may have sent it and exited at
    /// once, so the socket is read once more.
    pub(super) fn last_words(&mut self) -> Option<String> {
        let (notified, tree) = (self.readiness.as_mut()?, self.tree.as_ref()?);
        // Messages that can\'t be read are left out.
        let _ = notified.notifications.hear(tree.keeper_pid(), tree.child_pid());
        notified.notifications.last_words()
    }
}
