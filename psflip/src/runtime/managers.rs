//! The only module that notifies service managers of the state of the service: systemd
//! (`crate::manager::systemd`) and the anchor (`anchored.rs`).
//!
//! Only the service's main process notifies them, since they accept messages from no other process
//! (`NotifyAccess=main`). The first generation does from its start. A successor does once its predecessor has
//! announced it (`main` of the hand-over), or once the predecessor is gone. `docs/systemd.md` has the order
//! of all messages.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::EpollFlags;

use super::poller::Token;
use super::timers::Key;
use super::{MARGIN, Runtime};
use crate::anchor;
use crate::end::End;
use crate::exit;
use crate::flip::{News, Outcome};
use crate::handover::{ToSuccessor, successor};
use crate::manager::systemd::{Message, Notifier, keeps_descriptors, watchdog_interval};
use crate::process::keeper::Tree;

/// How long a generation that has drained stays alive when the service manager does not read the message that
/// another process is the main process.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which generation notifies the service managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Voice {
    /// Still the predecessor.
    Predecessor,
    /// This generation.
    Own,
    /// The successor.
    Successor,
}

/// The service managers, and what they have been notified of.
#[derive(Debug)]
pub(super) struct Managers {
    systemd: Option<Notifier>,
    /// The anchor above this generation (`anchored.rs`).
    pub(super) anchor: Option<anchor::Link>,
    /// systemd's file descriptor store keeps sockets for psflip.
    stores: bool,
    /// The interval of messages to systemd's watchdog.
    watchdog: Option<Duration>,
    voice: Voice,
    /// They know that this is the main process.
    known: bool,
    /// A stop was requested, and the child has not ignored it so far.
    stopping: bool,
    /// When the child became healthy, as text for the status line.
    healthy_since: Option<String>,
    /// The time announced to them for the current operation; later they take it for hung.
    patient_until: Option<Instant>,
    /// The errno of the failed start of the child.
    pub(super) errno: Option<i32>,
}

impl Managers {
    /// Finds them in the environment with which psflip was started. `is_first`: no other generation notifies
    /// them.
    pub(super) fn new(
        variable: impl Fn(&str) -> Option<String>,
        anchor: Option<anchor::Link>,
        is_first: bool,
    ) -> Self {
        let name = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let systemd = name.and_then(|name| match Notifier::new(&name) {
            Ok(notifier) => Some(notifier),
            Err(error) => {
                tracing::warn!(socket = name, %error, "can't notify the service manager (NOTIFY_SOCKET)");
                None
            }
        });
        let main = anchor.as_ref().map_or_else(std::process::id, anchor::Link::anchor);
        let stores = systemd.is_some() && keeps_descriptors(&variable);
        let watchdog = systemd.as_ref().and_then(|_| watchdog_interval(variable, main));
        Self {
            systemd,
            anchor,
            stores,
            watchdog,
            voice: if is_first { Voice::Own } else { Voice::Predecessor },
            known: is_first,
            stopping: false,
            healthy_since: None,
            patient_until: None,
            errno: None,
        }
    }

    /// Whether this generation notifies systemd.
    fn speaks(&self) -> bool {
        self.voice == Voice::Own && self.systemd.is_some()
    }

    /// Whether systemd keeps the sockets for a psflip that starts after this one: no stop was requested.
    pub(super) fn keep_sockets(&self) -> bool {
        self.stores && !self.stopping
    }
}

impl Runtime {
    /// The first generation starts.
    pub(super) fn managers_begin(&mut self) {
        if self.managers.speaks() {
            let time = self.plan.upgrade.timeout + self.promotion() + self.grace();
            let message = self.patience(Message::new(), time);
            self.say(message.status(&format!("starting generation {}", self.identity.generation)));
            self.show_signs_of_life();
        }
    }

    /// Notifies service managers of the news that concerns them.
    pub(super) fn tell_managers(&mut self, news: News) {
        if news == News::Promoted && self.managers.systemd.is_some() {
            // In UTC: the time zone database would stay in memory.
            self.managers.healthy_since =
                Some(jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
        }
        match news {
            News::Stopping => self.managers.stopping = true,
            News::StopIgnored => self.managers.stopping = false,
            _ => {}
        }
        self.tell_anchor_of(news);
        if !self.managers.speaks() {
            return;
        }
        let status = self.status();
        match news {
            News::Promoted => self.introduce(),
            News::UpgradeStarted => {
                let time = self.plan.upgrade.timeout + self.promotion() + self.grace() + MARGIN;
                let message = self.patience(Message::new().reloading(), time);
                let next = self.identity.generation + 1;
                self.say(message.status(&format!("{status}; starting generation {next}")));
            }
            News::UpgradeFailed => self.say(Message::new().ready().status(&status)),
            // The child may ignore the stop, and `STOPPING=1` can't be undone, so it is sent only when the
            // child exits.
            News::Stopping => {
                let time =
                    self.grace() + self.successor.as_ref().map_or(Duration::ZERO, successor::Link::grace);
                let message = self.patience(Message::new(), time);
                self.say(message.status(&format!("stop requested, waiting for the child to exit; {status}")));
            }
            News::StopIgnored => {
                self.say(Message::new().status(&format!("{status}; the child ignored a stop request")));
            }
            News::ChildEnded(end) | News::ServiceDown(end) => {
                let message = if self.managers.stopping { Message::new().stopping() } else { Message::new() };
                let message = self.patience(message, self.grace());
                self.say(message.status(&format!("the child has exited: {end}")));
            }
            News::UpgradeAborted => {
                let message = self.patience(Message::new(), self.grace());
                self.say(message.status("stopping; an upgrade was aborted"));
            }
            News::UpgradeFailedWithoutChild | News::Failed(_) => {
                let reason = self.failure.as_ref().or(self.upgrade_failure.as_ref());
                let status = format!("failed: {}", reason.map_or("", String::as_str));
                let message = self.patience(Message::new(), self.grace());
                self.say(message.status(&status));
            }
            News::AwaitingPredecessor => {
                let time = self.predecessor_deadline();
                let message = self.patience(Message::new(), time);
                let old = self.identity.generation - 1;
                self.say(
                    message.status(&format!("stopped, waiting for generation {old}, which still drains")),
                );
            }
            News::PredecessorDrained => self.say(Message::new().status(&status)),
            News::RequestRemembered
            | News::RequestRefused
            | News::SuccessorLeftBehind
            | News::ChildEndedDuringUpgrade(_)
            | News::PredecessorLost
            | News::PredecessorLate
            | News::Superseded
            | News::ChildKilled
            | News::OrphansKilled
            | News::LeftBehind => {}
        }
    }

    /// The successor is acknowledged, so it is the main process. This comes first: until the service managers
    /// know the successor, they would take the exit of this process for the exit of the service.
    pub(super) fn hand_over_managers(&mut self) {
        self.hand_over_anchor();
        if !self.managers.speaks() {
            return;
        }
        if let Some((pid, process)) = self.successor.as_ref().and_then(successor::Link::process) {
            let next = self.identity.generation + 1;
            // Below an anchor, the anchor stays the main process.
            let message = Message::new();
            let message =
                if self.managers.anchor.is_none() { message.main_pid(pid, Some(process)) } else { message };
            let message = message.ready();
            let message = if self.managers.watchdog.is_some() { message.watchdog() } else { message };
            // As long as stopping the old child may take: the client that requested the upgrade may wait for
            // that.
            let message = message.extend_timeout(self.plan.shutdown.delay + self.grace());
            self.say(message.status(&format!("generation {next} took over")));
        }
        self.managers.voice = Voice::Successor;
        self.timers.clear(Key::SignOfLife);
        self.pass_voice_on();
    }

    /// Notifies the successor that it is its turn to notify them, once all messages of this generation are
    /// sent.
    fn pass_voice_on(&self) {
        let waits = self.managers.systemd.as_ref().is_some_and(Notifier::waits);
        if self.managers.voice == Voice::Successor
            && !waits
            && let Some(link) = &self.successor
        {
            let _ = link.send(&ToSuccessor::Main); // it may be dead
        }
    }

    /// The predecessor has announced this generation to them.
    pub(super) fn managers_know(&mut self) {
        if self.managers.voice == Voice::Predecessor {
            self.managers.known = true;
            self.nobody_else_speaks();
        }
    }

    /// The predecessor is gone, or has sent its last message to them.
    pub(super) fn nobody_else_speaks(&mut self) {
        if self.managers.voice == Voice::Predecessor {
            self.managers.voice = Voice::Own;
            if self.state.is_service() {
                self.introduce();
            } else {
                self.show_signs_of_life();
            }
        }
    }

    /// Sends the first messages of a generation that is the service.
    fn introduce(&mut self) {
        if !self.managers.speaks() {
            return;
        }
        let mut message = Message::new();
        if !self.managers.known && self.managers.anchor.is_none() {
            // The predecessor was killed. If systemd accepts messages of this generation at all, it does now.
            // An upgrade may have been announced as a reload.
            message = message.main_pid(std::process::id(), None);
        }
        if !self.managers.known || self.identity.generation == 1 {
            message = message.ready();
        }
        self.managers.known = true;
        if self.managers.watchdog.is_some() {
            message = message.watchdog();
        }
        let status = self.status();
        self.say(message.status(&status));
        self.store_sockets();
        self.show_signs_of_life();
    }

    /// Stores the sockets of this generation with systemd, and no others. After a crash the next psflip finds
    /// them there, with the connections that wait in them.
    fn store_sockets(&mut self) {
        let Some(notifier) = self.managers.systemd.as_mut().filter(|_| self.managers.stores) else { return };
        for (name, socket) in self.listeners.to_store() {
            notifier.send(Message::new().store(&name), Some(socket));
        }
        for name in self.listeners.stored() {
            notifier.send(Message::new().store_no_more(&name), None);
        }
        self.wait_for_room();
    }

    /// Announces that the current operation may take this long from now on.
    pub(super) fn managers_be_patient(&mut self, time: Duration) {
        let until = Instant::now() + time;
        // Nothing to send if the time announced before is long enough; its margin covers small differences.
        let is_told = self.managers.patient_until.is_none_or(|told| until <= told);
        if self.managers.speaks() && !is_told {
            let message = self.patience(Message::new(), time + MARGIN);
            self.say(message);
        }
    }

    fn patience(&mut self, message: Message, time: Duration) -> Message {
        self.managers.patient_until = Some(Instant::now() + time);
        message.extend_timeout(time)
    }

    /// Starts the watchdog messages, if systemd wants them.
    fn show_signs_of_life(&mut self) {
        if let Some(interval) = self.managers.watchdog.filter(|_| self.managers.speaks()) {
            self.timers.set(Key::SignOfLife, interval);
        }
    }

    /// Sends a watchdog message.
    pub(super) fn sign_of_life(&mut self) {
        // A message that still waits to be sent will do.
        if self.managers.speaks() && !self.managers.systemd.as_ref().is_some_and(Notifier::waits) {
            self.say(Message::new().watchdog());
        }
        self.show_signs_of_life();
    }

    /// Sends the last messages before psflip exits.
    pub(super) fn managers_end(&mut self, outcome: Outcome) {
        if self.managers.speaks() {
            let mut message = Message::new();
            if let (Outcome::Failed(_), Some(errno)) = (outcome, self.managers.errno) {
                message = message.errno(errno);
            }
            // systemd sees a death by signal itself.
            if let End::Exited(code) = exit::end_for(outcome) {
                message = message.exit_status(code);
            }
            if message != Message::new() {
                self.say(message);
            }
        }
        if outcome == Outcome::Superseded {
            self.stay_until_told();
        }
    }

    /// A service manager that does not know the successor would stop it when this process exits.
    fn stay_until_told(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while let Some(notifier) = self.managers.systemd.as_mut().filter(|notifier| notifier.waits()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut room = [PollFd::new(notifier.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut room, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
                Ok(0) => {
                    tracing::error!(waited = ?PATIENCE, "the service manager does not read which process is the main process now");
                    return;
                }
                Ok(_) | Err(_) => notifier.go_on(),
            }
        }
        self.pass_voice_on();
    }

    /// The status line.
    fn status(&self) -> String {
        let mut status = format!("generation {}", self.identity.generation);
        if let Some(since) = &self.managers.healthy_since {
            status += &format!(", healthy since {since}");
        }
        if let Some(child) = self.tree.as_ref().and_then(Tree::child_pid) {
            status += &format!(", child {child}");
        }
        if self.state.predecessor_drains() {
            status += &format!("; generation {} still drains", self.identity.generation - 1);
        }
        if let Some(reason) = &self.upgrade_failure {
            status += &format!("; last upgrade failed: {reason}");
        }
        status
    }

    fn say(&mut self, message: Message) {
        if let Some(notifier) = &mut self.managers.systemd {
            notifier.send(message, None);
            self.wait_for_room();
        }
    }

    fn wait_for_room(&mut self) {
        if let Some(notifier) = self.managers.systemd.as_ref().filter(|notifier| notifier.waits()) {
            let watched = self.poller.watch_for(Token::Managers, notifier.as_fd(), EpollFlags::EPOLLOUT);
            if let Err(error) = watched {
                tracing::error!(%error, "can't wait for the service manager");
            }
        }
    }

    /// They have read messages, so waiting ones can be sent.
    pub(super) fn managers_have_room(&mut self) {
        let Some(notifier) = &mut self.managers.systemd else { return };
        notifier.go_on();
        if !notifier.waits() {
            self.poller.forget(Token::Managers);
            self.pass_voice_on();
        }
    }
}
