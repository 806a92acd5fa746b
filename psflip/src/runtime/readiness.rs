//! Messages of the child on `NOTIFY_SOCKET` (see [`crate::health::Notifications`]), and the extra time that
//! it may request.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::child::Child;
use super::poller::Token;
use super::timers::Key;
use super::waiting::Waiting;
use crate::config::Health;
use crate::flip::Timer;
use crate::health::{Notifications, NotifyUpdate};

/// The longest extension is divided into this many parts. Each deadline that is passed to the predecessor
/// exceeds the one before by at least a part. Otherwise a child with very many requests would fill the queue
/// of the predecessor's socket.
const PARTS: u32 = 16;

/// How long the socket is not read when processes outside the child's tree flood it. While the child starts,
/// its READY=1 may be delayed by no more than that; later nothing is urgent.
const PAUSE_WHILE_STARTING: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_secs(1);

/// The socket, and the time that the child gets.
#[derive(Debug)]
pub(super) struct Readiness {
    notifications: Notifications,
    /// When the time to become healthy began.
    since: Instant,
    /// The extended time, if the child requested more than `upgrade.timeout`.
    extended: Option<Duration>,
    /// The time that the predecessor was notified of.
    announced: Duration,
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

    /// Stops reading for a while. Meanwhile the kernel queues a few messages (net.unix.max_dgram_qlen) and
    /// blocks further senders.
    fn pause(&mut self, is_starting: bool, wait: &mut Waiting) {
        if !self.flood_logged
            && let Some(sender) = self.notifications.last_stranger()
        {
            self.flood_logged = true;
            tracing::warn!(
                pid = sender.pid,
                uid = sender.uid,
                "a process that is not below the child floods NOTIFY_SOCKET; reading it at intervals"
            );
        }
        wait.poller.forget(Token::Notifications);
        let pause = if is_starting { PAUSE_WHILE_STARTING } else { PAUSE };
        wait.timers.set(Key::Notifications, pause);
    }
}

/// Rounds down to whole milliseconds, for messages.
fn whole_ms(time: Duration) -> Duration {
    time - Duration::from_nanos(u64::from(time.subsec_nanos() % 1_000_000))
}

impl Child {
    /// Opens the socket, if the configuration wants one, and watches it. Returns its address.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM, ENOSPC.
    pub(super) fn open_notifications(
        &mut self,
        health: &Health,
        timeout: Duration,
        wait: &mut Waiting,
    ) -> io::Result<Option<String>> {
        if !matches!(health, Health::Notify { .. }) {
            return Ok(None);
        }
        let notifications = Notifications::open()?;
        wait.poller.watch(Token::Notifications, notifications.as_fd())?;
        let address = notifications.address();
        self.readiness = Some(Readiness {
            notifications,
            since: Instant::now(),
            extended: None,
            announced: timeout,
            flood_logged: false,
        });
        Ok(Some(address))
    }

    /// Whether it has sent `READY=1`.
    pub(super) fn has_said_ready(&self) -> bool {
        self.readiness.as_ref().is_some_and(|readiness| readiness.notifications.is_ready())
    }

    /// Whether it has sent `STOPPING=1` or `ERRNO=` after that.
    pub(super) fn has_given_up(&self) -> bool {
        self.readiness.as_ref().is_some_and(|readiness| readiness.notifications.has_given_up())
    }

    /// Restarts the time to become healthy.
    pub(super) fn begin_patience(&mut self) {
        if let Some(readiness) = &mut self.readiness {
            (readiness.since, readiness.extended) = (Instant::now(), None);
        }
    }

    /// Reads the socket. `is_starting`: something depends on the messages.
    ///
    /// # Errors
    /// ENOMEM.
    pub(super) fn read_notifications(
        &mut self,
        is_starting: bool,
        wait: &mut Waiting,
    ) -> io::Result<Option<NotifyUpdate>> {
        let (Some(readiness), Some(tree)) = (&mut self.readiness, &self.tree) else { return Ok(None) };
        let update = readiness.notifications.receive(tree.keeper_pid(), tree.child_pid())?;
        for pid in readiness.notifications.take_queries() {
            if tree.query_membership(pid).is_err() {
                let _ = readiness.notifications.answer(pid, false); // the tree is gone
            }
        }
        if update.flooded {
            readiness.pause(is_starting, wait);
        }
        Ok(Some(update))
    }

    /// Reads the socket again after a pause.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC.
    pub(super) fn resume_notifications(&self, wait: &mut Waiting) -> io::Result<()> {
        let Some(readiness) = &self.readiness else { return Ok(()) };
        if let Err(error) = wait.poller.watch(Token::Notifications, readiness.notifications.as_fd()) {
            wait.timers.set(Key::Notifications, PAUSE);
            return Err(error);
        }
        Ok(())
    }

    /// The keeper has reported whether a sender belongs to its tree.
    pub(super) fn sender_is_known(&mut self, pid: u32, belongs: bool) -> Option<NotifyUpdate> {
        self.readiness.as_mut().map(|readiness| readiness.notifications.answer(pid, belongs))
    }

    /// The child requests this much time from now on. It gets it, up to the configured `extend`, and never
    /// less than it had anyway. Returns how long it may take from now on, if others have to know that.
    /// `timeout`: `upgrade.timeout`.
    pub(super) fn extend(
        &mut self,
        time: Duration,
        health: &Health,
        timeout: Duration,
        wait: &mut Waiting,
    ) -> Option<Duration> {
        let (Some(readiness), Health::Notify { extend, .. }) = (&mut self.readiness, health) else {
            return None;
        };
        let spent = readiness.since.elapsed();
        let until = whole_ms(spent.saturating_add(time)).min(timeout + *extend);
        if until <= readiness.extended.unwrap_or(timeout) {
            return None;
        }
        if !wait.timers.postpone(Key::Flip(Timer::Healthy), until.saturating_sub(spent)) {
            return None; // a stop request has stopped the wait
        }
        readiness.extended = Some(until);
        if until <= readiness.announced {
            return None;
        }
        readiness.announced = (until + *extend / PARTS).min(timeout + *extend);
        tracing::debug!(until = ?readiness.announced, "the child requests more time");
        Some(readiness.announced.saturating_sub(spent))
    }

    /// The child's last message, for the reason of its failure. The child may have sent it and exited at
    /// once, so the socket is read once more.
    pub(super) fn last_words(&mut self) -> Option<String> {
        let (readiness, tree) = (self.readiness.as_mut()?, self.tree.as_ref()?);
        // Messages that can't be read are left out.
        let _ = readiness.notifications.receive(tree.keeper_pid(), tree.child_pid());
        readiness.notifications.last_words()
    }
}
