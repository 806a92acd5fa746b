//! Requests of clients of the control socket.

use std::time::Duration;

use super::status::in_words;
use super::upgrade_log::{self, promoted};
use crate::control::protocol::{ControlRequest, Event as ControlEvent};
use crate::control::server::{AfterReply, ClientRequest, Interest};
use crate::flip::{ChildSignal, Event, UpgradeBlocked};
use crate::history;
use crate::proxy::Hold;
use crate::runtime::Runtime;
use crate::text;

/// Why `psflip keep` is refused.
const NOTHING_TO_KEEP: &str = "no generation bakes: there is nothing to keep";
/// Why `psflip rollback` is refused.
const NOTHING_TO_ROLL_BACK: &str = "no generation bakes: there is nothing to roll back; to go back, deploy the old version and upgrade to it";
/// Why the configuration is not shown.
const TOO_LONG: &str = "the configuration has more than 64 KiB, so psflip did not keep its text";
/// Why there is nothing to hold.
const NO_PROXY: &str = "this generation has no `[[proxy]]`, so clients connect to the child itself";

impl Runtime {
    /// The control socket or a client is ready.
    pub(in crate::runtime) fn on_clients(&mut self) {
        for from_client in self.operators.control.on_ready() {
            self.on_request(from_client);
        }
        self.operators.control.set_timer(&mut self.wait);
    }

    fn on_request(&mut self, from_client: ClientRequest) {
        let ClientRequest { client, request, pid, uid } = from_client;
        self.look_after_files();
        match request {
            _ if self.machine.state.is_superseded() => {
                let upgrade =
                    if let ControlRequest::Follow { upgrade, .. } = request { Some(upgrade) } else { None };
                self.operators.control.answer(client, &ControlEvent::Moved { upgrade }, AfterReply::Close);
            }
            ControlRequest::Status => {
                let status = ControlEvent::Status { status: Box::new(self.status_report()) };
                self.operators.control.answer(client, &status, AfterReply::Close);
            }
            ControlRequest::Config => {
                let text = self.identity.config_text.as_deref().map(str::to_owned);
                let answer = match text {
                    Some(text) => ControlEvent::Config { generation: self.identity.generation, text },
                    None => ControlEvent::Refused { reason: TOO_LONG.to_owned() },
                };
                self.operators.control.answer(client, &answer, AfterReply::Close);
            }
            ControlRequest::Watch => {
                let status = ControlEvent::Status { status: Box::new(self.status_report()) };
                self.operators.control.subscribe(client, Interest::Changes, &status);
            }
            ControlRequest::Upgrade { keep, end_draining } => {
                if keep {
                    self.operators.keep_of = Some((self.operators.log.begun, text::sender(pid, uid)));
                    self.keep_if_requested();
                }
                self.on_upgrade_request(client, end_draining, pid, uid);
            }
            ControlRequest::Keep | ControlRequest::Rollback if !self.machine.state.successor_bakes() => {
                let keeps = request == ControlRequest::Keep;
                let reason = if keeps { NOTHING_TO_KEEP } else { NOTHING_TO_ROLL_BACK };
                let refused = ControlEvent::Refused { reason: reason.to_owned() };
                self.operators.control.answer(client, &refused, AfterReply::Close);
            }
            ControlRequest::Keep => {
                self.subscribe_to_upgrade(client);
                self.keep(&text::sender(pid, uid));
            }
            ControlRequest::Rollback => {
                self.subscribe_to_upgrade(client);
                self.roll_back(&text::sender(pid, uid));
            }
            ControlRequest::Follow { upgrade, end_draining } => {
                let end_draining = end_draining.then(|| text::sender(pid, uid));
                self.follow(client, upgrade, end_draining);
            }
            ControlRequest::Stop => self.on_stop_request(client, pid, uid),
            ControlRequest::Hold { max_ms } => self.on_hold_request(client, max_ms, &text::sender(pid, uid)),
            ControlRequest::Reopen => self.on_reopen_request(client, &text::sender(pid, uid)),
            ControlRequest::Resume => self.on_resume_request(client, &text::sender(pid, uid)),
        }
    }

    fn on_upgrade_request(&mut self, client: u64, end_draining: bool, pid: i32, uid: u32) {
        let not_now = self.machine.state.why_not_now();
        let because = not_now.map(|why| self.why_blocked(why, end_draining));
        if not_now == Some(UpgradeBlocked::ShuttingDown) {
            let reason = because.unwrap_or_default();
            self.operators.control.answer(client, &ControlEvent::Refused { reason }, AfterReply::Close);
            return;
        }
        let from = text::sender(pid, uid);
        tracing::info!(from, "upgrade requested over the control socket");
        let upgrade = self.operators.log.next();
        let accepted = ControlEvent::Accepted { upgrade, because };
        self.operators.control.subscribe(client, Interest::Upgrade(upgrade), &accepted);
        self.operators.log.set_requester(Some(history::over_control_socket(&from)));
        if end_draining {
            self.end_draining(from);
        }
        self.dispatch(Event::UpgradeRequested);
    }

    fn end_draining(&mut self, from: String) {
        self.operators.end_draining_from = Some(from);
        self.dispatch(Event::EndDrainingRequested);
        self.operators.end_draining_from = None;
    }

    /// From now on the client gets the events of the running upgrade.
    fn subscribe_to_upgrade(&mut self, client: u64) {
        let upgrade = self.operators.log.begun;
        let accepted = ControlEvent::Accepted { upgrade, because: None };
        self.operators.control.subscribe(client, Interest::Upgrade(upgrade), &accepted);
    }

    fn keep(&mut self, from: &str) {
        tracing::info!(from, "end of the bake requested over the control socket");
        self.dispatch(Event::KeepRequested);
    }

    /// Ends the bake of the running upgrade if that was requested, perhaps before the bake began.
    pub(in crate::runtime) fn keep_if_requested(&mut self) {
        let begun = self.operators.log.begun;
        if self.machine.state.successor_bakes()
            && let Some((_, from)) = self.operators.keep_of.take_if(|(upgrade, _)| *upgrade == begun)
        {
            self.keep(&from);
        }
    }

    fn roll_back(&mut self, from: &str) {
        tracing::info!(from, "roll-back requested over the control socket");
        self.handover.set_rollback(format!("requested by {from}"));
        self.dispatch(Event::RollbackRequested);
    }

    fn on_stop_request(&mut self, client: u64, pid: i32, uid: u32) {
        let from = text::sender(pid, uid);
        tracing::info!(from, "stop requested over the control socket");
        let child = self.shown_child();
        let timeout_ms = self.plan.shutdown.timeout.as_millis() as u64;
        let signal = Some(self.plan.shutdown.signal.to_string());
        let stopping = ControlEvent::Stopping { child, timeout_ms, signal };
        self.operators.control.subscribe(client, Interest::Stop, &stopping);
        self.dispatch(Event::StopRequested(ChildSignal::Send));
    }

    /// A second request changes how long a request may wait.
    fn on_hold_request(&mut self, client: u64, max_ms: u64, from: &str) {
        if let Some(reason) = self.why_no_hold() {
            let refused = ControlEvent::Refused { reason: reason.to_owned() };
            self.operators.control.answer(client, &refused, AfterReply::Close);
            return;
        }
        let hold = Hold { since: self.proxy.hold().map_or_else(upgrade_log::now, |hold| hold.since), max_ms };
        let longest_wait = hold.longest_wait();
        tracing::info!(
            from,
            ?longest_wait,
            "hold requested over the control socket; no connection is accepted"
        );
        self.hold_connections(Some(hold));
        self.operators.control.answer(client, &ControlEvent::Held { hold }, AfterReply::Close);
    }

    /// Also during a stop, which would wait for the requests that are held.
    fn on_resume_request(&mut self, client: u64, from: &str) {
        let hold = self.proxy.hold();
        if hold.is_none() && self.plan.proxies.is_empty() {
            let refused = ControlEvent::Refused { reason: NO_PROXY.to_owned() };
            self.operators.control.answer(client, &refused, AfterReply::Close);
            return;
        }
        if let Some(hold) = hold {
            let held = Duration::from_millis(upgrade_log::now().saturating_sub(hold.since));
            tracing::info!(from, ?held, "resume requested over the control socket; connections are accepted");
            self.hold_connections(None);
        }
        self.operators.control.answer(client, &ControlEvent::Resumed { hold }, AfterReply::Close);
    }

    /// Why connections can't be held now.
    fn why_no_hold(&self) -> Option<&'static str> {
        if self.plan.proxies.is_empty() {
            return Some(NO_PROXY);
        }
        self.machine.state.is_stopping().then(|| in_words(UpgradeBlocked::ShuttingDown))
    }

    /// `end_draining`: who requests not to wait for an old generation that drains.
    fn follow(&mut self, client: u64, upgrade: u64, end_draining: Option<String>) {
        let child = self.shown_child();
        let (log, control) = (&self.operators.log, &mut self.operators.control);
        let under_way = log.upgrade.as_ref().map(|under_way| &under_way.record);
        let here = under_way.or(log.own.as_ref()).filter(|record| record.upgrade == upgrade);
        if let Some(record) = here {
            let accepted = ControlEvent::Accepted { upgrade, because: None };
            control.subscribe(client, Interest::Upgrade(upgrade), &accepted);
            for history::Timed { step, at_ms } in &record.steps {
                let (pid, child, step, at_ms) = (record.pid, record.child, *step, *at_ms);
                let step =
                    ControlEvent::Step { upgrade, step, at_ms, pid, child, probe: None, left_ms: None };
                control.answer(client, &step, AfterReply::KeepOpen);
            }
            return;
        }
        if let Some(record) = log.history.get(upgrade) {
            let event = match &record.reason {
                None => promoted(record),
                Some(reason) => ControlEvent::Failed {
                    upgrade,
                    generation: record.to,
                    reason: reason.clone(),
                    rolled_back: record.result == Some(history::Outcome::RolledBack),
                    output: None,
                    pid: record.pid,
                    child,
                    waited_ms: record.waited_ms,
                },
            };
            let drained =
                record.drained_ms().map(|_| ControlEvent::Drained { upgrade, killed: record.killed() });
            let is_over = record.result != Some(history::Outcome::Promoted) || record.from.is_none();
            control.subscribe(client, Interest::Upgrade(upgrade), &event);
            match drained {
                Some(drained) => control.answer(client, &drained, AfterReply::Close),
                None if is_over => control.close(client),
                None => {}
            }
            return;
        }
        if upgrade == log.next() && self.machine.state.upgrade_queued {
            let not_now = self.machine.state.why_not_now();
            let because = not_now.map(|why| self.why_blocked(why, end_draining.is_some()));
            let accepted = ControlEvent::Accepted { upgrade, because };
            self.operators.control.subscribe(client, Interest::Upgrade(upgrade), &accepted);
            if let Some(from) = end_draining {
                self.end_draining(from);
            }
            return;
        }
        let reason = format!("there is no upgrade {upgrade}; the last one was {}", log.begun);
        control.answer(client, &ControlEvent::Error { reason }, AfterReply::Close);
    }
}
