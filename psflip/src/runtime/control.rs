//! The server side of the control socket in the loop: requests from clients, and the status report
//! (`crate::control`).

use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Instant;

use super::poller::Token;
use super::tell::{in_words, kind};
use super::timers::Key;
use super::upgrade_log::promoted;
use super::{Predecessor, Runtime};
use crate::config;
use crate::control::protocol::{self, Event as Told, State, Status, Wish};
use crate::control::server::{Asked, Interest, Server, Then};
use crate::flip::{self, ChildSignal, Event, News, Outcome, Timer, UpgradeBlocked};
use crate::handover::predecessor::Inheritance;
use crate::history;
use crate::process::invocation::FileStamp;
use crate::process::keeper::Tree;
use crate::text;
use crate::traffic::activation::Activation;
use crate::traffic::listen::{Given, Listeners};

/// The control socket of this generation.
#[derive(Debug, Default)]
pub(super) struct Control {
    /// The socket that the predecessor handed over, until this generation opens its own.
    given: Option<Given>,
    /// The socket, in the form in which it is handed over.
    pub(super) listeners: Listeners,
    /// The server of the socket; `None`: there is no control socket.
    server: Option<Server>,
}

impl Control {
    pub(super) fn new(inheritance: &mut Inheritance) -> Self {
        Self { given: inheritance.control.take(), ..Self::default() }
    }

    /// Clients that waited for `waiting` now wait until psflip exits.
    pub(super) fn await_end(&mut self, waiting: Interest) {
        if let Some(server) = &mut self.server {
            server.change(waiting, Interest::Stop);
        }
    }
}

impl Runtime {
    /// Opens the control socket, or takes over that of the predecessor, which accepts on it until this
    /// generation is promoted.
    ///
    /// # Errors
    /// A text: the socket can't be had, though it is configured or was in use until now.
    pub(super) fn open_control(&mut self) -> Result<(), String> {
        let is_default = matches!(self.plan.control, config::Control::Default | config::Control::Runtime(_));
        let is_wanted = !is_default || self.control.given.is_some();
        match self.try_to_open_control() {
            Err(error) if is_wanted => return Err(error),
            Err(error) => {
                tracing::warn!(
                    error,
                    "going on without a control socket; `[control]` can name another place for it"
                );
            }
            Ok(()) => {}
        }
        if self.predecessor.is_none() {
            self.hear_operators();
        }
        Ok(())
    }

    fn try_to_open_control(&mut self) -> Result<(), String> {
        let wanted = self.plan.control.listener(self.plan.pidfile.as_deref());
        let given = self.control.given.take().into_iter().collect();
        let listeners = Listeners::open(wanted.as_slice(), given, &Activation::default());
        let listeners = listeners.map_err(|error| error.to_string())?;
        if let Some((address, socket, _)) = listeners.to_hand_over().next() {
            let heard = Server::new(socket).and_then(|server| {
                self.poller.watch(Token::Control, server.as_fd())?;
                Ok(server)
            });
            match heard {
                Ok(server) => self.control.server = Some(server),
                Err(error) => {
                    listeners.remove_new_files();
                    return Err(format!("can't answer on `{address}`: {error}"));
                }
            }
        }
        self.control.listeners = listeners;
        Ok(())
    }

    /// Whether there is a control socket.
    pub(super) fn has_control(&self) -> bool {
        self.control.server.is_some()
    }

    /// Creates the socket again if its file is gone. Returns whether it was gone.
    ///
    /// # Errors
    /// A text: the socket can't be created, so clients can't reach this psflip.
    pub(super) fn mend_control_socket(&mut self) -> Result<bool, String> {
        let Some(server) = self.control.server.as_mut().filter(|_| self.control.listeners.has_lost_files())
        else {
            return Ok(false);
        };
        let wanted = self.plan.control.listener(self.plan.pidfile.as_deref());
        let listeners = Listeners::open(wanted.as_slice(), Vec::new(), &Activation::default());
        let listeners = listeners.map_err(|error| error.to_string())?;
        if let Some((address, socket, _)) = listeners.to_hand_over().next()
            && let Err(error) = server.replace_listener(socket)
        {
            listeners.remove_new_files();
            return Err(format!("can't answer on `{address}`: {error}"));
        }
        self.control.listeners = listeners;
        Ok(true)
    }

    /// From now on, this generation accepts clients.
    pub(super) fn hear_operators(&mut self) {
        if let Some(server) = &self.control.server {
            server.start_accepting();
        }
    }

    /// The successor is promoted and accepts clients from now on. Clients that wait for this upgrade stay
    /// connected here.
    pub(super) fn let_go_of_operators(&mut self) {
        let current = self.upgrade_log.begun;
        if let Some(server) = &mut self.control.server {
            server.stop_accepting();
            let to = |interest| Told::Moved {
                upgrade: match interest {
                    Interest::Upgrade(upgrade) => Some(upgrade),
                    Interest::Unknown | Interest::Changes | Interest::Stop | Interest::Nothing => None,
                },
            };
            server.send_away(
                |interest| interest == Interest::Upgrade(current) || interest == Interest::Unknown,
                to,
            );
        }
        self.control.listeners = Listeners::default();
    }

    /// The control socket or a client is ready.
    pub(super) fn on_clients(&mut self) {
        let Some(server) = &mut self.control.server else { return };
        for asked in server.on_ready() {
            self.asked(asked);
        }
        self.set_control_timer();
    }

    /// Closes clients that have been silent for too long.
    pub(super) fn control_timer(&mut self) {
        if let Some(server) = &mut self.control.server {
            server.on_timer();
        }
        self.set_control_timer();
    }

    fn set_control_timer(&mut self) {
        match self.control.server.as_ref().and_then(Server::next_timer) {
            Some(time) => self.timers.set(Key::Control, time),
            None => self.timers.clear(Key::Control),
        }
    }

    /// Reports the news to waiting clients, and records them for later status requests.
    pub(super) fn tell_operators(&mut self, news: News) {
        match news {
            News::Promoted => {
                self.hear_operators();
                self.note_promotion();
                self.look_after_files();
            }
            News::UpgradeStarted => self.note_upgrade(),
            News::UpgradeFailed | News::UpgradeFailedWithoutChild | News::UpgradeAborted => {
                self.note_failure(&self.upgrade_failure.clone().unwrap_or_default());
            }
            News::RequestRefused => {
                let refused = Told::Refused { reason: in_words(UpgradeBlocked::Ends).to_owned() };
                self.tell_clients(Interest::Upgrade(self.upgrade_log.next()), &refused, Then::Close);
            }
            News::StopIgnored => {
                let child = self.child();
                let timeout_ms = self.plan.shutdown.timeout.as_millis() as u64;
                self.tell_clients(Interest::Stop, &Told::Ignored { child, timeout_ms }, Then::Close);
            }
            News::PredecessorLost => self.hear_operators(),
            News::PredecessorDrained => {
                self.note_drained();
                self.look_after_files(); // the old child may have removed the pidfile as its own
            }
            News::AwaitingPredecessor => {
                if let Some(predecessor) = self.draining() {
                    self.tell_clients(Interest::Stop, &Told::Waiting { predecessor }, Then::Stay);
                }
            }
            News::RequestRemembered
            | News::Stopping
            | News::SuccessorLeftBehind
            | News::ChildEndedDuringUpgrade(_)
            | News::ChildEnded(_)
            | News::ServiceDown(_)
            | News::Superseded
            | News::PredecessorLate
            | News::Failed(_)
            | News::ChildKilled
            | News::OrphansKilled
            | News::LeftBehind => {}
        }
    }

    pub(super) fn tell_clients(&mut self, interest: Interest, event: &Told, then: Then) {
        if let Some(server) = &mut self.control.server {
            server.tell(interest, event, then);
        }
    }

    /// Sends the status to clients that watch it, if it has changed.
    pub(super) fn tell_changes(&mut self) {
        let changed = std::mem::take(&mut self.changed);
        let watched = self.control.server.as_ref().is_some_and(|server| server.has(Interest::Changes));
        if changed && watched {
            let status = Told::Status { status: Box::new(self.report()) };
            if let Some(server) = &mut self.control.server {
                server.tell_change(&status);
            }
        }
    }

    /// psflip exits: all clients get a last event.
    pub(super) fn tell_of_end(&mut self, outcome: Outcome) {
        let Some(server) = &mut self.control.server else { return };
        if outcome == Outcome::Superseded {
            let killed = self.upgrade_log.upgrade.as_ref().is_some_and(|under_way| under_way.record.killed());
            let upgrade = self.upgrade_log.begun;
            server.send_away(
                |_| false,
                |interest| match interest {
                    Interest::Upgrade(_) => Told::Drained { upgrade, killed },
                    // It connected before the promotion, and its request was not read. It has to repeat it at
                    // the successor.
                    Interest::Unknown | Interest::Changes | Interest::Stop | Interest::Nothing => {
                        Told::Moved { upgrade: None }
                    }
                },
            );
            return;
        }
        let end = crate::exit::end_for(outcome);
        let reason = format!("psflip exits: {end}");
        server.send_away(
            |_| false,
            |interest| match interest {
                Interest::Upgrade(_) => Told::Refused { reason: reason.clone() },
                Interest::Unknown | Interest::Changes | Interest::Stop | Interest::Nothing => {
                    Told::stopped(end)
                }
            },
        );
    }

    fn answer(&mut self, client: u64, event: &Told, then: Then) {
        if let Some(server) = &mut self.control.server {
            server.answer(client, event, then);
        }
    }

    /// From now on the client gets events about `interest`; the first one is `event`.
    fn keep(&mut self, client: u64, interest: Interest, event: &Told) {
        if let Some(server) = &mut self.control.server {
            server.note(client, interest);
            server.answer(client, event, Then::Stay);
        }
    }

    fn asked(&mut self, asked: Asked) {
        let Asked { client, wish, pid, uid } = asked;
        self.look_after_files();
        match wish {
            _ if self.state.is_superseded() => {
                let upgrade = if let Wish::Follow { upgrade } = wish { Some(upgrade) } else { None };
                self.answer(client, &Told::Moved { upgrade }, Then::Close);
            }
            Wish::Status => {
                let status = Told::Status { status: Box::new(self.report()) };
                self.answer(client, &status, Then::Close);
            }
            Wish::Watch => {
                let status = Told::Status { status: Box::new(self.report()) };
                self.keep(client, Interest::Changes, &status);
            }
            Wish::Upgrade => self.asked_for_upgrade(client, pid, uid),
            Wish::Follow { upgrade } => self.follow(client, upgrade),
            Wish::Stop => self.asked_to_end(client, pid, uid),
        }
    }

    fn asked_for_upgrade(&mut self, client: u64, pid: i32, uid: u32) {
        let not_now = self.state.why_not_now();
        let because = not_now.map(|why| in_words(why).to_owned());
        if not_now == Some(UpgradeBlocked::Ends) {
            let reason = because.unwrap_or_default();
            self.answer(client, &Told::Refused { reason }, Then::Close);
            return;
        }
        let from = text::sender(pid, uid);
        tracing::info!(from, "upgrade requested over the control socket");
        let upgrade = self.upgrade_log.next();
        self.keep(client, Interest::Upgrade(upgrade), &Told::Accepted { upgrade, because });
        self.upgrade_log.asked(Some(history::over_control_socket(&from)));
        self.dispatch(Event::UpgradeRequested);
    }

    fn follow(&mut self, client: u64, upgrade: u64) {
        let under_way = self.upgrade_log.upgrade.as_ref().map(|under_way| &under_way.record);
        let here = under_way.or(self.upgrade_log.own.as_ref()).filter(|record| record.upgrade == upgrade);
        if let Some(record) = here.cloned() {
            self.keep(client, Interest::Upgrade(upgrade), &Told::Accepted { upgrade, because: None });
            for history::Timed { step, at_ms } in record.steps {
                let (pid, child) = (record.pid, record.child);
                let step = Told::Step { upgrade, step, at_ms, pid, child, probe: None };
                self.answer(client, &step, Then::Stay);
            }
            return;
        }
        if let Some(record) = self.upgrade_log.history.get(upgrade) {
            let event = match &record.reason {
                None => promoted(record),
                Some(reason) => Told::Failed {
                    upgrade,
                    generation: record.to,
                    reason: reason.clone(),
                    output: None,
                    pid: record.pid,
                    child: self.child(),
                },
            };
            let drained = record.drained_ms().map(|_| Told::Drained { upgrade, killed: record.killed() });
            let is_over = record.result != Some(history::Outcome::Promoted) || record.from.is_none();
            self.keep(client, Interest::Upgrade(upgrade), &event);
            match drained {
                Some(drained) => self.answer(client, &drained, Then::Close),
                None if is_over => self.close(client),
                None => {}
            }
            return;
        }
        if upgrade == self.upgrade_log.next() && self.state.remembered {
            let because = self.state.why_not_now().map(|why| in_words(why).to_owned());
            self.keep(client, Interest::Upgrade(upgrade), &Told::Accepted { upgrade, because });
            return;
        }
        let reason = format!("there is no upgrade {upgrade}; the last one was {}", self.upgrade_log.begun);
        self.answer(client, &Told::Error { reason }, Then::Close);
    }

    fn close(&mut self, client: u64) {
        if let Some(server) = &mut self.control.server {
            server.close(client);
        }
    }

    fn asked_to_end(&mut self, client: u64, pid: i32, uid: u32) {
        let from = text::sender(pid, uid);
        tracing::info!(from, "stop requested over the control socket");
        let child = self.child();
        let timeout_ms = self.plan.shutdown.timeout.as_millis() as u64;
        let signal = Some(self.plan.shutdown.signal.to_string());
        self.keep(client, Interest::Stop, &Told::Stopping { child, timeout_ms, signal });
        self.dispatch(Event::StopRequested(ChildSignal::Send));
    }

    /// The child's pid, unless the child has exited and psflip only waits for the predecessor.
    fn child(&self) -> Option<u32> {
        self.tree.as_ref().and_then(Tree::child_pid).filter(|_| !self.state.awaits_predecessor())
    }

    /// The draining predecessor, as far as it has reported its step.
    fn draining(&self) -> Option<protocol::Predecessor> {
        let Predecessor { pid, .. } = self.predecessor.as_ref()?;
        let said = self.upgrade_log.predecessor;
        let left = |(_, until): (_, Instant)| until.saturating_duration_since(Instant::now());
        Some(protocol::Predecessor {
            pid: *pid,
            step: said.map(|(step, _)| step),
            left_ms: said.map(left).map(|left| left.as_millis() as u64),
        })
    }

    /// The status report.
    fn report(&self) -> Status {
        let Self { plan, identity, upgrade_log, .. } = self;
        let text = |path: &Path| text::lossy(path);
        let absolute = |path: &Path| text(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        let control = plan.control.path(plan.pidfile.as_deref());
        let is_first_start = upgrade_log.active_since.is_none();
        let (upgrade, timer) = match (&upgrade_log.upgrade, &upgrade_log.own) {
            (Some(under_way), _) => (Some(&under_way.record), Timer::Successor),
            (None, own) => (own.as_ref().filter(|_| is_first_start), Timer::Healthy),
        };
        Status {
            psflip: protocol::PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            anchor: self.managers.anchor.as_ref().map(crate::anchor::Link::anchor),
            state: state(&self.state),
            generation: identity.generation,
            slot: identity.slot.as_str().to_owned(),
            child: self.child(),
            command: plan.cmd.clone(),
            started_at: upgrade_log.started_at,
            active_since: upgrade_log.active_since,
            health: kind(&plan.health).to_owned(),
            config: identity.config.as_ref().map(FileStamp::source),
            program: identity.origin.source(),
            pidfile: plan.pidfile.as_deref().map(absolute),
            control: control.as_deref().map(absolute),
            listeners: plan
                .listeners
                .iter()
                .zip(self.listeners.addresses())
                .map(|(listener, address)| protocol::Listener { address, name: listener.name.clone() })
                .collect(),
            switch: plan
                .switch
                .as_ref()
                .map(|link| protocol::Switch { path: text(&link.path), to: text(&link.to) }),
            remembered: self.state.remembered,
            predecessor: self.draining(),
            upgrade_left_ms: upgrade
                .and_then(|_| self.timers.left(Key::Flip(timer)))
                .map(|left| left.as_millis() as u64),
            upgrade: upgrade.cloned(),
            history: upgrade_log.history.iter().cloned().collect(),
        }
    }
}

fn state(state: &flip::State) -> State {
    if state.is_stopping() {
        State::Stopping
    } else if state.successor().is_some() {
        State::Upgrading
    } else if state.is_service() {
        State::Serving
    } else {
        State::Starting
    }
}
