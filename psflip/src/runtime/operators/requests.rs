//! Requests of clients of the control socket.

use super::status::in_words;
use super::upgrade_log::promoted;
use crate::control::protocol::{Event as Told, Wish};
use crate::control::server::{Asked, Interest, Then};
use crate::flip::{ChildSignal, Event, UpgradeBlocked};
use crate::history;
use crate::runtime::Runtime;
use crate::text;

impl Runtime {
    /// The control socket or a client is ready.
    pub(in crate::runtime) fn on_clients(&mut self) {
        for asked in self.operators.control.on_ready() {
            self.asked(asked);
        }
        self.operators.control.set_timer(&mut self.wait);
    }

    fn asked(&mut self, asked: Asked) {
        let Asked { client, wish, pid, uid } = asked;
        self.look_after_files();
        match wish {
            _ if self.machine.state.is_superseded() => {
                let upgrade = if let Wish::Follow { upgrade } = wish { Some(upgrade) } else { None };
                self.operators.control.answer(client, &Told::Moved { upgrade }, Then::Close);
            }
            Wish::Status => {
                let status = Told::Status { status: Box::new(self.report()) };
                self.operators.control.answer(client, &status, Then::Close);
            }
            Wish::Watch => {
                let status = Told::Status { status: Box::new(self.report()) };
                self.operators.control.keep(client, Interest::Changes, &status);
            }
            Wish::Upgrade => self.asked_for_upgrade(client, pid, uid),
            Wish::Follow { upgrade } => self.follow(client, upgrade),
            Wish::Stop => self.asked_to_end(client, pid, uid),
        }
    }

    fn asked_for_upgrade(&mut self, client: u64, pid: i32, uid: u32) {
        let not_now = self.machine.state.why_not_now();
        let because = not_now.map(|why| in_words(why).to_owned());
        if not_now == Some(UpgradeBlocked::Ends) {
            let reason = because.unwrap_or_default();
            self.operators.control.answer(client, &Told::Refused { reason }, Then::Close);
            return;
        }
        let from = text::sender(pid, uid);
        tracing::info!(from, "upgrade requested over the control socket");
        let upgrade = self.operators.log.next();
        let accepted = Told::Accepted { upgrade, because };
        self.operators.control.keep(client, Interest::Upgrade(upgrade), &accepted);
        self.operators.log.asked(Some(history::over_control_socket(&from)));
        self.dispatch(Event::UpgradeRequested);
    }

    fn asked_to_end(&mut self, client: u64, pid: i32, uid: u32) {
        let from = text::sender(pid, uid);
        tracing::info!(from, "stop requested over the control socket");
        let child = self.shown_child();
        let timeout_ms = self.plan.shutdown.timeout.as_millis() as u64;
        let signal = Some(self.plan.shutdown.signal.to_string());
        let stopping = Told::Stopping { child, timeout_ms, signal };
        self.operators.control.keep(client, Interest::Stop, &stopping);
        self.dispatch(Event::StopRequested(ChildSignal::Send));
    }

    fn follow(&mut self, client: u64, upgrade: u64) {
        let child = self.shown_child();
        let (log, control) = (&self.operators.log, &mut self.operators.control);
        let under_way = log.upgrade.as_ref().map(|under_way| &under_way.record);
        let here = under_way.or(log.own.as_ref()).filter(|record| record.upgrade == upgrade);
        if let Some(record) = here {
            let accepted = Told::Accepted { upgrade, because: None };
            control.keep(client, Interest::Upgrade(upgrade), &accepted);
            for history::Timed { step, at_ms } in &record.steps {
                let (pid, child, step, at_ms) = (record.pid, record.child, *step, *at_ms);
                let step = Told::Step { upgrade, step, at_ms, pid, child, probe: None };
                control.answer(client, &step, Then::Stay);
            }
            return;
        }
        if let Some(record) = log.history.get(upgrade) {
            let event = match &record.reason {
                None => promoted(record),
                Some(reason) => Told::Failed {
                    upgrade,
                    generation: record.to,
                    reason: reason.clone(),
                    output: None,
                    pid: record.pid,
                    child,
                },
            };
            let drained = record.drained_ms().map(|_| Told::Drained { upgrade, killed: record.killed() });
            let is_over = record.result != Some(history::Outcome::Promoted) || record.from.is_none();
            control.keep(client, Interest::Upgrade(upgrade), &event);
            match drained {
                Some(drained) => control.answer(client, &drained, Then::Close),
                None if is_over => control.close(client),
                None => {}
            }
            return;
        }
        if upgrade == log.next() && self.machine.state.remembered {
            let because = self.machine.state.why_not_now().map(|why| in_words(why).to_owned());
            control.keep(client, Interest::Upgrade(upgrade), &Told::Accepted { upgrade, because });
            return;
        }
        let reason = format!("there is no upgrade {upgrade}; the last one was {}", log.begun);
        control.answer(client, &Told::Error { reason }, Then::Close);
    }
}
