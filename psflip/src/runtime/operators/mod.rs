//! What operators see of this generation and request from it: the control socket, the log of upgrades, the
//! status report, and the log lines. Nothing in `flip` depends on any of this.
//!
//! Imports point one way: `tell` and `requests` (events of the loop) -> `status` -> this module ->
//! `control`, `upgrade_log`, `files`.

pub(super) mod control;
mod files;
mod requests;
mod status;
mod tell;
pub(super) mod upgrade_log;

use std::time::Duration;

use super::KILL;
use super::handover::Handover;
use super::waiting::Waiting;
use crate::config::{Plan, Shutdown};
use crate::control::protocol::Event as Told;
use crate::control::server::{Interest, Then};
use crate::exit;
use crate::flip::{Outcome, Step as Towards};
use crate::handover::{ToPredecessor, ToSuccessor};
use crate::history::{Drain, Step};
use crate::manager::pidfile::Pidfile;
use control::Control;
use files::Files;
pub(super) use status::kind;
use upgrade_log::UpgradeLog;

/// The state of everything that operators see.
#[derive(Debug)]
pub(super) struct Operators {
    pub(super) control: Control,
    pub(super) log: UpgradeLog,
    pub(super) files: Files,
    /// Whether the status that operators see has changed.
    changed: bool,
}

impl Operators {
    pub(super) fn new(control: Control, log: UpgradeLog) -> Self {
        Self { control, log, files: Files::default(), changed: false }
    }

    /// The status that operators see has changed.
    pub(super) fn set_changed(&mut self) {
        self.changed = true;
    }

    /// Writes the pidfile and creates the control socket again if they are gone. `child`: the child's pid.
    pub(super) fn mend_files(&mut self, pidfile: Option<&mut Pidfile>, plan: &Plan, child: Option<u32>) {
        self.files.mend(pidfile, &mut self.control, plan, child);
    }

    /// Watches pidfile and control socket, if every user may change them.
    pub(super) fn watch_files(&mut self, pidfile: Option<&Pidfile>, plan: &Plan, wait: &mut Waiting) {
        self.files.watch(pidfile, &self.control, plan, wait);
    }

    /// Sends an event of an upgrade to the clients that wait for this upgrade.
    pub(super) fn tell_waiting(&mut self, event: Option<Told>, then: Then) {
        if let Some(event) = event
            && let Some(upgrade) = upgrade_of(&event)
        {
            self.control.tell(Interest::Upgrade(upgrade), &event, then);
        }
    }

    /// Records and reports a step of this generation's start. `child`: the child's pid.
    pub(super) fn note(&mut self, step: Step, child: Option<u32>, handover: &Handover) {
        let noted = self.log.note(step, child);
        self.make_known(noted, handover);
    }

    /// Records and reports a failed probe.
    pub(super) fn note_probe(&mut self, failure: &str, handover: &Handover) {
        let noted = self.log.note_probe(failure);
        self.make_known(noted, handover);
    }

    /// Reports a step of this generation's start. With a predecessor, clients wait there; without one, they
    /// wait here.
    fn make_known(&mut self, noted: Option<(Told, ToPredecessor)>, handover: &Handover) {
        let Some((event, message)) = noted else { return };
        if handover.predecessor.is_some() {
            handover.report(&message);
        } else {
            self.tell_waiting(Some(event), Then::Stay);
        }
        self.changed = true;
    }

    /// Records and reports a step of the successor.
    pub(super) fn note_progress(
        &mut self,
        step: Step,
        pid: Option<u32>,
        child: Option<u32>,
        probe: Option<String>,
    ) {
        if let Some(event) = self.log.note_progress(step, pid, child, probe) {
            self.tell_waiting(Some(event), Then::Stay);
            self.changed = true;
        }
    }

    /// Passes a warning of the new generation on to clients that wait for the upgrade.
    pub(super) fn pass_warning_on(&mut self, text: String) {
        let upgrade = self.log.upgrade.as_ref().map(|under_way| under_way.record.upgrade);
        self.tell_waiting(upgrade.map(|upgrade| Told::Warning { upgrade, text }), Then::Stay);
    }

    /// Records and reports that the upgrade failed. This generation keeps serving, or exits without a child.
    fn note_failure(&mut self, reason: &str, child: Option<u32>, is_stopping: bool) {
        let Some(failed) = self.log.fail_upgrade(reason, child) else { return };
        let waiting = upgrade_of(&failed).map(Interest::Upgrade);
        if is_stopping {
            // The clients go on waiting until psflip exits. systemd stops a reload together with the service,
            // and must not take the failed reload for a failure of the service.
            self.tell_waiting(Some(failed), Then::Stay);
            if let Some(waiting) = waiting {
                self.control.await_end(waiting);
            }
        } else {
            self.tell_waiting(Some(failed), Then::Close);
        }
        self.changed = true;
    }

    /// Records and reports that this generation is the service.
    fn note_promotion(&mut self, has_predecessor: bool) {
        let Some(event) = self.log.promote() else { return };
        self.tell_waiting(Some(event), Then::Stay);
        if !has_predecessor {
            self.note_drained();
        }
        self.changed = true;
    }

    /// Records the predecessor's step of draining.
    pub(super) fn note_drain(&mut self, step: Drain, left: Duration) {
        self.log.note_drain(step, left);
        self.changed = true;
    }

    /// Records and reports that the predecessor is gone, or that there was none.
    fn note_drained(&mut self) {
        if let Some(drained) = self.log.note_drained() {
            self.tell_waiting(Some(drained), Then::Close);
            self.changed = true;
        }
    }

    /// The successor is promoted, and accepts clients from now on.
    pub(super) fn let_go(&mut self) {
        let promoted = self.log.promote_successor();
        self.tell_waiting(promoted, Then::Stay);
        self.control.let_go(self.log.begun);
    }

    /// Reports this generation's step of draining to the successor.
    pub(super) fn note_own_drain(&mut self, step: Towards, shutdown: &Shutdown, handover: &Handover) {
        let (step, left) = match step {
            Towards::Delay => (Drain::Delay, shutdown.delay),
            Towards::Asked => (Drain::Asked, shutdown.timeout),
            Towards::Killed => (Drain::Killed, KILL),
            Towards::Orphans => (Drain::Orphans, shutdown.timeout),
            Towards::OrphansKilled => (Drain::OrphansKilled, KILL),
        };
        self.log.note_own_drain(step);
        handover.tell_successor(&ToSuccessor::Draining { step, left }); // it may be gone by now
    }

    /// psflip exits: all clients get a last event.
    pub(super) fn finish(&mut self, outcome: Outcome) {
        if outcome == Outcome::Superseded {
            let killed = self.log.upgrade.as_ref().is_some_and(|under_way| under_way.record.killed());
            let upgrade = self.log.begun;
            self.control.send_all_away(|interest| match interest {
                Interest::Upgrade(_) => Told::Drained { upgrade, killed },
                // It connected before the promotion, and its request was not read. It has to repeat it at
                // the successor.
                Interest::Unknown | Interest::Changes | Interest::Stop | Interest::Nothing => {
                    Told::Moved { upgrade: None }
                }
            });
            return;
        }
        let end = exit::end_for(outcome);
        let reason = format!("psflip exits: {end}");
        self.control.send_all_away(|interest| match interest {
            Interest::Upgrade(_) => Told::Refused { reason: reason.clone() },
            Interest::Unknown | Interest::Changes | Interest::Stop | Interest::Nothing => Told::stopped(end),
        });
    }
}

/// The number of the upgrade that an event is about.
fn upgrade_of(event: &Told) -> Option<u64> {
    match event {
        Told::Step { upgrade, .. }
        | Told::Warning { upgrade, .. }
        | Told::Promoted { upgrade, .. }
        | Told::Failed { upgrade, .. }
        | Told::Drained { upgrade, .. } => Some(*upgrade),
        _ => None,
    }
}
