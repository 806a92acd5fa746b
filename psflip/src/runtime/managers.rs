//! The only module that notifies service managers of the state of the service: systemd
//! (`crate::manager::systemd`) and the anchor (`anchor_client.rs`).
//!
//! Only the service's main process notifies them, since they accept messages from no other process
//! (`NotifyAccess=main`). The first generation does from its start. A successor does once its predecessor has
//! announced it (`main` of the hand-over), or once the predecessor is gone. `docs/systemd.md` has the order
//! of all messages.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::EpollFlags;

use super::anchor_client::AnchorClient;
use super::handover::Handover;
use super::poller::Token;
use super::timers::Key;
use super::waiting::Waiting;
use super::{KILL, MARGIN, Runtime};
use crate::anchor::AnchorLink;
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::flip::{Notice, Outcome};
use crate::handover::ToSuccessor;
use crate::manager::systemd::{ManagerMessage, Notifier, keeps_descriptors, watchdog_interval};
use crate::traffic::listen::Listeners;

/// How long a generation that has drained stays alive when the service manager does not read the message that
/// another process is the main process.
const MANAGER_TIMEOUT: Duration = Duration::from_secs(10);

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
    pub(super) anchor: AnchorClient,
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
    /// The number of this generation.
    generation: u64,
}

impl Managers {
    /// Finds them in the environment with which psflip was started. `is_first`: no other generation notifies
    /// them.
    pub(super) fn new(
        variable: impl Fn(&str) -> Option<String>,
        anchor: Option<AnchorLink>,
        is_first: bool,
        generation: u64,
    ) -> Self {
        let name = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty());
        let systemd = name.and_then(|name| match Notifier::new(&name) {
            Ok(notifier) => Some(notifier),
            Err(error) => {
                tracing::warn!(socket = name, %error, "can't notify the service manager (NOTIFY_SOCKET)");
                None
            }
        });
        let main = anchor.as_ref().map_or_else(std::process::id, AnchorLink::anchor);
        let stores = systemd.is_some() && keeps_descriptors(&variable);
        let watchdog = systemd.as_ref().and_then(|_| watchdog_interval(variable, main));
        Self {
            systemd,
            anchor: AnchorClient::new(anchor),
            stores,
            watchdog,
            voice: if is_first { Voice::Own } else { Voice::Predecessor },
            known: is_first,
            stopping: false,
            healthy_since: None,
            patient_until: None,
            errno: None,
            generation,
        }
    }

    /// Whether this generation notifies systemd.
    fn speaks(&self) -> bool {
        self.voice == Voice::Own && self.systemd.is_some()
    }

    /// Whether systemd keeps the sockets for a psflip that starts after this one. A requested stop is no
    /// exception: `systemctl restart` stops the service as well, and clients that connect before the next
    /// psflip starts are to wait for it.
    pub(super) fn keeps_sockets(&self) -> bool {
        self.stores
    }

    /// The first generation starts. `time`: how long that may take.
    pub(super) fn begin(&mut self, time: Duration, wait: &mut Waiting) {
        if self.speaks() {
            let message = self.patience(ManagerMessage::new(), time);
            self.send(message.status(&format!("starting generation {}", self.generation)), wait);
            self.show_signs_of_life(wait);
        }
    }

    /// The child became healthy, for the status line.
    fn note_healthy(&mut self) {
        if self.systemd.is_some() {
            self.healthy_since = Some(in_utc(jiff::Timestamp::now()));
        }
    }

    /// The successor is acknowledged, so it is the main process. This comes first: until the service managers
    /// know the successor, they would take the exit of this process for the exit of the service. `time`: how
    /// long stopping the old child may take.
    pub(super) fn hand_over(&mut self, handover: &Handover, time: Duration, wait: &mut Waiting) {
        let successor = handover.successor_process();
        if let Some((pid, _)) = successor {
            self.anchor.report_main(pid);
        }
        if !self.speaks() {
            return;
        }
        if let Some((pid, process)) = successor {
            let next = self.generation + 1;
            // Below an anchor, the anchor stays the main process.
            let message = ManagerMessage::new();
            let message = if self.anchor.is_there() { message } else { message.main_pid(pid, Some(process)) };
            let message = message.ready();
            let message = if self.watchdog.is_some() { message.watchdog() } else { message };
            // The client that requested the upgrade may wait for the end of the old child.
            let message = message.extend_timeout(time);
            self.send(message.status(&format!("generation {next} took over")), wait);
        }
        self.voice = Voice::Successor;
        wait.timers.clear(Key::SignOfLife);
        self.pass_voice_on(handover);
    }

    /// Notifies the successor that it is its turn to notify them, once all messages of this generation are
    /// sent.
    fn pass_voice_on(&self, handover: &Handover) {
        let waits = self.systemd.as_ref().is_some_and(Notifier::waits);
        if self.voice == Voice::Successor && !waits {
            handover.send_to_successor(&ToSuccessor::Main); // it may be dead
        }
    }

    /// Whether the predecessor has announced this generation to them, now that it drains. To systemd it does
    /// that in its own time (`main` of the hand-over), to an anchor before it drains.
    pub(super) fn know_by_drain(&self) -> bool {
        self.systemd.is_none() || self.voice != Voice::Predecessor
    }

    /// The predecessor has announced this generation to them.
    fn set_known(&mut self) {
        self.known |= self.voice == Voice::Predecessor;
    }

    /// The predecessor is gone, or has sent its last message to them. Returns whether it is this generation's
    /// turn now.
    fn take_voice(&mut self) -> bool {
        let is_next = self.voice == Voice::Predecessor;
        if is_next {
            self.voice = Voice::Own;
        }
        is_next
    }

    /// Sends the first messages of a generation that is the service.
    fn introduce(&mut self, status: &str, listeners: &mut Listeners, wait: &mut Waiting) {
        if !self.speaks() {
            return;
        }
        let mut message = ManagerMessage::new();
        if !self.known && !self.anchor.is_there() {
            // The predecessor was killed. If systemd accepts messages of this generation at all, it does now.
            // An upgrade may have been announced as a reload.
            message = message.main_pid(std::process::id(), None);
        }
        if !self.known || self.generation == 1 {
            message = message.ready();
        }
        self.known = true;
        if self.watchdog.is_some() {
            message = message.watchdog();
        }
        self.send(message.status(status), wait);
        self.store_sockets(listeners, wait);
        self.show_signs_of_life(wait);
    }

    /// Stores the sockets of this generation with systemd, and no others. After a crash the next psflip finds
    /// them there, with the connections that wait in them.
    fn store_sockets(&mut self, listeners: &mut Listeners, wait: &mut Waiting) {
        let Some(notifier) = self.systemd.as_mut().filter(|_| self.stores) else { return };
        for (name, socket) in listeners.to_store() {
            notifier.send(ManagerMessage::new().store(&name), Some(socket));
        }
        for name in listeners.stored() {
            notifier.send(ManagerMessage::new().store_no_more(&name), None);
        }
        self.wait_for_room(wait);
    }

    /// Announces that the current operation may take this long from now on.
    pub(super) fn be_patient(&mut self, time: Duration, wait: &mut Waiting) {
        let until = Instant::now() + time;
        // Nothing to send if the time announced before is long enough; its margin covers small differences.
        let is_announced = self.patient_until.is_none_or(|announced| until <= announced);
        if self.speaks() && !is_announced {
            let message = self.patience(ManagerMessage::new(), time + MARGIN);
            self.send(message, wait);
        }
    }

    fn patience(&mut self, message: ManagerMessage, time: Duration) -> ManagerMessage {
        self.patient_until = Some(Instant::now() + time);
        message.extend_timeout(time)
    }

    /// Starts the watchdog messages, if systemd wants them.
    fn show_signs_of_life(&self, wait: &mut Waiting) {
        if let Some(interval) = self.watchdog.filter(|_| self.speaks()) {
            wait.timers.set(Key::SignOfLife, interval);
        }
    }

    /// Sends a watchdog message.
    pub(super) fn sign_of_life(&mut self, wait: &mut Waiting) {
        // A message that still waits to be sent will do.
        if self.speaks() && !self.systemd.as_ref().is_some_and(Notifier::waits) {
            self.send(ManagerMessage::new().watchdog(), wait);
        }
        self.show_signs_of_life(wait);
    }

    /// Sends the last messages before psflip exits.
    pub(super) fn finish(&mut self, outcome: Outcome, handover: &Handover, wait: &mut Waiting) {
        if self.speaks() {
            let mut message = ManagerMessage::new();
            if let (Outcome::Failed(_), Some(errno)) = (outcome, self.errno) {
                message = message.errno(errno);
            }
            // systemd sees a death by signal itself.
            if let ExitStatus::Exited(code) = exit::exit_status_for(outcome) {
                message = message.exit_status(code);
            }
            if message != ManagerMessage::new() {
                self.send(message, wait);
            }
        }
        if outcome == Outcome::Superseded {
            self.stay_until_notified(handover);
        }
    }

    /// A service manager that does not know the successor would stop it when this process exits.
    fn stay_until_notified(&mut self, handover: &Handover) {
        let deadline = Instant::now() + MANAGER_TIMEOUT;
        while let Some(notifier) = self.systemd.as_mut().filter(|notifier| notifier.waits()) {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut room = [PollFd::new(notifier.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut room, PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO)) {
                Ok(0) => {
                    tracing::error!(waited = ?MANAGER_TIMEOUT, "the service manager does not read which process is the main process now");
                    return;
                }
                Ok(_) | Err(_) => notifier.go_on(),
            }
        }
        self.pass_voice_on(handover);
    }

    fn send(&mut self, message: ManagerMessage, wait: &mut Waiting) {
        if let Some(notifier) = &mut self.systemd {
            notifier.send(message, None);
            self.wait_for_room(wait);
        }
    }

    fn wait_for_room(&self, wait: &mut Waiting) {
        if let Some(notifier) = self.systemd.as_ref().filter(|notifier| notifier.waits()) {
            let watched = wait.poller.watch_for(Token::Managers, notifier.as_fd(), EpollFlags::EPOLLOUT);
            if let Err(error) = watched {
                tracing::error!(%error, "can't wait for the service manager");
            }
        }
    }

    /// They have read messages, so waiting ones can be sent.
    pub(super) fn have_room(&mut self, handover: &Handover, wait: &mut Waiting) {
        let Some(notifier) = &mut self.systemd else { return };
        notifier.go_on();
        if !notifier.waits() {
            wait.poller.forget(Token::Managers);
            self.pass_voice_on(handover);
        }
    }

    /// The status line. `upgrade_failure`: why the last upgrade failed, and whether it was rolled back.
    fn status(
        &self,
        child: Option<u32>,
        is_held: bool,
        draining: &[u64],
        upgrade_failure: Option<(&str, bool)>,
    ) -> String {
        let mut status = format!("generation {}", self.generation);
        if let Some(since) = &self.healthy_since {
            status += &format!(", healthy since {since}");
        }
        if let Some(child) = child {
            status += &format!(", child {child}");
        }
        if is_held {
            status += "; connections held";
        }
        match draining {
            [] => {}
            [one] => status += &format!("; generation {one} still drains"),
            [oldest, ..] => {
                status +=
                    &format!("; {} old generations still drain, the oldest is {oldest}", draining.len());
            }
        }
        match upgrade_failure {
            Some((reason, true)) => status += &format!("; last upgrade rolled back: {reason}"),
            Some((reason, false)) => status += &format!("; last upgrade failed: {reason}"),
            None => {}
        }
        status
    }
}

impl Runtime {
    /// Notifies service managers of the notice that concerns them.
    pub(super) fn notify_managers(&mut self, notice: Notice) {
        match notice {
            Notice::Promoted => self.managers.note_healthy(),
            Notice::Stopping => self.managers.stopping = true,
            Notice::StopIgnored => self.managers.stopping = false,
            _ => {}
        }
        self.managers.anchor.notify_anchor(notice);
        if !self.managers.speaks() {
            return;
        }
        if notice == Notice::Promoted {
            self.introduce();
            return;
        }
        let Some((message, time, status)) = self.message_of(notice) else { return };
        let message = match time {
            Some(time) => self.managers.patience(message, time),
            None => message,
        };
        self.managers.send(message.status(&status), &mut self.wait);
    }

    /// The message about the notice: its first part, the time that the operation may take from now on, and
    /// the status line.
    fn message_of(&self, notice: Notice) -> Option<(ManagerMessage, Option<Duration>, String)> {
        let status = self.status();
        let message = match notice {
            Notice::UpgradeStarted => {
                let time = self.plan.upgrade.timeout + self.promotion() + self.grace() + MARGIN;
                let status = self.status_of_upgrade();
                (ManagerMessage::new().reloading(), Some(time), status)
            }
            // A reload ends here: the new version has the traffic.
            Notice::Baking => (ManagerMessage::new().ready(), None, self.status_of_bake()),
            Notice::RollingBack => {
                (ManagerMessage::new(), None, format!("{status}; the new generation is stopped"))
            }
            Notice::UpgradeFailed | Notice::UpgradeRolledBack | Notice::ServesAgain => {
                (ManagerMessage::new().ready(), None, status)
            }
            Notice::StartsAgain => {
                let time = KILL + self.plan.upgrade.timeout + self.grace();
                (
                    ManagerMessage::new(),
                    Some(time),
                    "an upgrade failed; starting the old child again".to_owned(),
                )
            }
            // The child may ignore the stop, and `STOPPING=1` can't be undone, so it is sent only when the
            // child exits.
            Notice::Stopping => {
                let time = self.drain_time() + self.grace() + self.handover.successor_grace();
                let status = format!("stop requested, waiting for the child to exit; {status}");
                (ManagerMessage::new(), Some(time), status)
            }
            Notice::StopIgnored => {
                (ManagerMessage::new(), None, format!("{status}; the child ignored a stop request"))
            }
            Notice::ChildExited(end) | Notice::ServiceDown(end) => {
                let message = if self.managers.stopping {
                    ManagerMessage::new().stopping()
                } else {
                    ManagerMessage::new()
                };
                (message, Some(self.grace()), format!("the child has exited: {end}"))
            }
            Notice::UpgradeAborted => {
                (ManagerMessage::new(), Some(self.grace()), "stopping; an upgrade was aborted".to_owned())
            }
            Notice::UpgradeFailedWithoutChild | Notice::NotServingAgain(_) | Notice::Failed(_) => {
                (ManagerMessage::new(), Some(self.grace()), format!("failed: {}", self.reasons.of_exit()))
            }
            Notice::AwaitingPredecessor => {
                let old: Vec<_> =
                    self.handover.old_generations().map(|old| old.generation.to_string()).collect();
                let verb = if old.len() == 1 { "drains" } else { "drain" };
                let status =
                    format!("stopped, waiting for generation {}, which still {verb}", old.join(", "));
                (ManagerMessage::new(), Some(self.predecessor_deadline()), status)
            }
            Notice::PredecessorDrained | Notice::OlderDrained if self.machine.state.successor().is_some() => {
                (ManagerMessage::new(), None, self.status_of_upgrade())
            }
            Notice::PredecessorDrained | Notice::OlderDrained => (ManagerMessage::new(), None, status),
            Notice::Promoted
            | Notice::GivesWay
            | Notice::CantGiveWay
            | Notice::TreeSurvivedKill
            | Notice::UpgradeQueued
            | Notice::RequestRefused
            | Notice::SuccessorSurvivedKill
            | Notice::ChildExitedDuringUpgrade(_)
            | Notice::PredecessorKilled
            | Notice::BakeOver
            | Notice::NotAcknowledgedYet
            | Notice::PredecessorTimedOut
            | Notice::Superseded
            | Notice::RelayTimedOut
            | Notice::EndsAtOnce
            | Notice::ChildKilled
            | Notice::OrphansKilled
            | Notice::SurvivedKill => return None,
        };
        Some(message)
    }

    /// Shows in the status line whether connections are held, unless it shows a stop.
    pub(super) fn notify_managers_of_hold(&mut self) {
        let state = &self.machine.state;
        if self.managers.speaks() && state.is_service() && !state.is_stopping() {
            let status = if state.successor_bakes() {
                self.status_of_bake()
            } else if state.successor().is_some() {
                self.status_of_upgrade()
            } else {
                self.status()
            };
            self.managers.send(ManagerMessage::new().status(&status), &mut self.wait);
        }
    }

    /// The predecessor has announced this generation to them.
    pub(super) fn managers_know(&mut self) {
        self.managers.set_known();
        self.nobody_else_speaks();
    }

    /// The predecessor is gone, or has sent its last message to them.
    pub(super) fn nobody_else_speaks(&mut self) {
        if !self.managers.take_voice() {
            return;
        }
        if self.machine.state.is_service() {
            self.introduce();
        } else {
            self.managers.show_signs_of_life(&mut self.wait);
        }
    }

    fn introduce(&mut self) {
        let status = self.status();
        self.managers.introduce(&status, &mut self.traffic.listeners, &mut self.wait);
    }

    /// The status line during a bake. Nothing renews it, so it has the end of the bake, not the time left.
    fn status_of_bake(&self) -> String {
        let generation = self.identity.generation + 1;
        let until =
            in_utc(jiff::Timestamp::now().saturating_add(self.handover.bake_left()).unwrap_or_default());
        format!(
            "generation {generation} has the traffic and bakes until {until}, `psflip rollback` goes back; {}",
            self.status()
        )
    }

    /// The status line during an upgrade.
    fn status_of_upgrade(&self) -> String {
        format!("{}; starting generation {}", self.status(), self.identity.generation + 1)
    }

    /// The status line.
    fn status(&self) -> String {
        let is_held = self.proxy.hold().is_some();
        let draining: Vec<_> = match self.machine.state.old_generations_drain() {
            true => self.handover.old_generations().map(|old| old.generation).collect(),
            false => Vec::new(),
        };
        let failure = self.reasons.upgrade_failure.as_deref();
        let failure = failure.map(|reason| (reason, self.reasons.rolled_back));
        self.managers.status(self.child.pid(), is_held, &draining, failure)
    }
}

/// In UTC: the time zone database would stay in memory.
fn in_utc(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}
