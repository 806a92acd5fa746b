//! What operators see of this generation and request from it: the control socket, the log of upgrades, the
//! status report, and the log lines. Nothing in `flip` depends on any of this.
//!
//! Imports point one way: `report` and `requests` (events of the loop) -> `status` -> this module ->
//! `control`, `upgrade_log`, `files`.

pub(super) mod control;
mod files;
mod report;
mod requests;
mod status;
pub(super) mod upgrade_log;

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::handover::Handover;
use super::waiting::Waiting;
use crate::config::Plan;
use crate::control::protocol::Event as ControlEvent;
use crate::control::server::{AfterReply, Interest};
use crate::exit;
use crate::flip::Outcome;
use crate::handover::{ToPredecessor, ToSuccessor};
use crate::history::{self, Drain, HookState, UpgradeStep};
use crate::manager::pidfile::Pidfile;
use control::Control;
use files::Files;
pub(super) use status::kind;
use upgrade_log::{UnderWay, UpgradeLog};

/// The state of everything that operators see.
#[derive(Debug)]
pub(super) struct Operators {
    pub(super) control: Control,
    pub(super) log: UpgradeLog,
    pub(super) files: Files,
    /// The upgrade whose bake is to end at once, and who requested that, by `psflip upgrade --keep`.
    keep_of: Option<(u64, String)>,
    /// Who requests to kill the old generation, by `psflip upgrade --end-draining`, while that is decided.
    pub(super) end_draining_from: Option<String>,
    /// Whether the status that operators see has changed.
    changed: bool,
}

impl Operators {
    pub(super) fn new(control: Control, log: UpgradeLog) -> Self {
        let files = Files::default();
        Self { control, log, files, keep_of: None, end_draining_from: None, changed: false }
    }

    /// The files of `[output]` are opened again for this client, whose connection is returned.
    pub(super) fn reopening(&mut self, client: u64, event: &ControlEvent) -> Option<OwnedFd> {
        self.control.subscribe(client, Interest::Stop, event); // it stays connected until it is taken
        self.control.take(client)
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
    pub(super) fn notify_waiting(&mut self, event: Option<ControlEvent>, after: AfterReply) {
        if let Some(event) = event
            && let Some(upgrade) = upgrade_of(&event)
        {
            self.control.notify(Interest::Upgrade(upgrade), &event, after);
        }
    }

    /// Records and reports a step of this generation's start. `child`: the child's pid.
    pub(super) fn record_step(&mut self, step: UpgradeStep, child: Option<u32>, handover: &Handover) {
        let noted = self.log.record_step(step, child, None);
        self.make_known(noted, handover);
    }

    /// Records and reports that the child has to stay healthy for this long.
    pub(super) fn record_settling(&mut self, settle: Duration, child: Option<u32>, handover: &Handover) {
        let noted = self.log.record_step(UpgradeStep::Settling, child, Some(settle));
        self.make_known(noted, handover);
    }

    /// Records and reports that the child has the traffic on trial. The predecessor waits for that.
    ///
    /// # Errors
    /// As [`Handover::send_to_predecessor`].
    pub(super) fn record_bake(&mut self, child: Option<u32>, handover: &Handover) -> io::Result<()> {
        let Some((_, message)) = self.log.record_step(UpgradeStep::Baking, child, None) else {
            return Ok(());
        };
        self.changed = true;
        handover.send_to_predecessor(&message)
    }

    /// Records and reports a failed probe.
    pub(super) fn record_probe(&mut self, failure: &str, handover: &Handover) {
        let noted = self.log.record_probe(failure);
        self.make_known(noted, handover);
    }

    /// Reports a step of this generation's start. With a predecessor, clients wait there; without one, they
    /// wait here.
    fn make_known(&mut self, noted: Option<(ControlEvent, ToPredecessor)>, handover: &Handover) {
        let Some((event, message)) = noted else { return };
        if handover.predecessor.is_some() {
            handover.report(&message);
        } else {
            self.notify_waiting(Some(event), AfterReply::KeepOpen);
        }
        self.changed = true;
    }

    /// Records and reports a step of the successor.
    pub(super) fn record_progress(
        &mut self,
        step: UpgradeStep,
        pid: Option<u32>,
        child: Option<u32>,
        probe: Option<String>,
        left: Option<Duration>,
    ) {
        if let Some(event) = self.log.record_progress(step, pid, child, probe, left) {
            self.notify_waiting(Some(event), AfterReply::KeepOpen);
            self.changed = true;
        }
    }

    /// Reports that the new generation has the traffic on trial, for this long.
    pub(super) fn report_bake(&mut self, bake: Duration) {
        let baking = self.log.upgrade.as_ref().map(|UnderWay { record, .. }| ControlEvent::Baking {
            upgrade: record.upgrade,
            generation: record.to,
            bake_ms: bake.as_millis() as u64,
        });
        self.notify_waiting(baking, AfterReply::KeepOpen);
        self.changed = true;
    }

    /// Passes a warning of the new generation on to clients that wait for the upgrade.
    pub(super) fn pass_warning_on(&mut self, text: String) {
        let upgrade = self.log.upgrade.as_ref().map(|under_way| under_way.record.upgrade);
        self.notify_waiting(
            upgrade.map(|upgrade| ControlEvent::Warning { upgrade, text }),
            AfterReply::KeepOpen,
        );
    }

    /// Records and reports that the upgrade failed. This generation keeps serving, or exits without a child.
    fn record_failure(
        &mut self,
        result: history::Outcome,
        reason: &str,
        child: Option<u32>,
        is_stopping: bool,
    ) {
        let Some(failed) = self.log.fail_upgrade(result, reason, child) else { return };
        let waiting = upgrade_of(&failed).map(Interest::Upgrade);
        if is_stopping {
            // The clients go on waiting until psflip exits. systemd stops a reload together with the service,
            // and must not take the failed reload for a failure of the service.
            self.notify_waiting(Some(failed), AfterReply::KeepOpen);
            if let Some(waiting) = waiting {
                self.control.await_exit(waiting);
            }
        } else {
            self.notify_waiting(Some(failed), AfterReply::Close);
        }
        self.changed = true;
    }

    /// Records and reports that this generation is the service.
    fn record_promotion(&mut self, has_predecessor: bool) {
        let Some(event) = self.log.promote() else { return };
        self.notify_waiting(Some(event), AfterReply::KeepOpen);
        if !has_predecessor {
            self.record_drained();
        }
        self.changed = true;
    }

    /// Records the predecessor's step of draining.
    pub(super) fn record_drain_step(&mut self, step: Drain) {
        self.log.record_drain_step(step);
        self.changed = true;
    }

    /// Records a step of draining of this generation, which is older than the predecessor.
    pub(super) fn record_older_drain(&mut self, generation: u64, step: Drain) {
        self.log.record_older(generation, |record, at_ms| {
            if record.drain.last().map(|last| last.step) != Some(step) {
                record.drain(step, at_ms);
            }
        });
        self.changed = true;
    }

    /// Records that this generation, which is older than the predecessor, is gone.
    pub(super) fn record_older_gone(&mut self, generation: u64) {
        let mut drained = None;
        self.log.record_older(generation, |record, at_ms| {
            record.drain(Drain::Gone, at_ms);
            drained = Some(ControlEvent::Drained { upgrade: record.upgrade, killed: record.killed() });
        });
        self.notify_waiting(drained, AfterReply::Close);
        self.changed = true;
    }

    /// Records what the proxy of this generation, which is older than the predecessor, had under way at the
    /// promotion.
    pub(super) fn record_older_answered(&mut self, generation: u64, passed_on: u64, waited_for: u64) {
        self.log.record_older(generation, |record, _| {
            (record.passed_on, record.waited_for) = (Some(passed_on), Some(waited_for));
        });
        self.changed = true;
    }

    /// Records what the predecessor's proxy had under way at the promotion.
    pub(super) fn record_answered(&mut self, passed_on: u64, waited_for: u64) {
        self.log.record_answered(passed_on, waited_for);
        self.changed = true;
    }

    /// Records what became of `hooks.promoted`, for clients that wait for it. `failure`: why it failed.
    pub(super) fn record_hook(&mut self, state: HookState, failure: Option<&str>) {
        self.log.record_hook(state, failure);
        self.changed = true;
    }

    /// Records and reports that the predecessor is gone, or that there was none.
    fn record_drained(&mut self) {
        if let Some(drained) = self.log.record_drained() {
            self.notify_waiting(Some(drained), AfterReply::Close);
            self.changed = true;
        }
    }

    /// The successor is promoted, and accepts clients from now on.
    pub(super) fn let_go(&mut self) {
        let promoted = self.log.promote_successor();
        self.notify_waiting(promoted, AfterReply::KeepOpen);
        self.control.let_go(self.log.begun);
    }

    /// Reports this generation's step of draining to the successor.
    pub(super) fn record_own_drain(&mut self, step: Drain, left: Duration, handover: &Handover) {
        self.log.record_own_drain(step);
        handover.send_to_successor(&ToSuccessor::Draining { step, left }); // it may be gone by now
    }

    /// psflip exits: all clients get a last event.
    pub(super) fn finish(&mut self, outcome: Outcome) {
        if outcome == Outcome::Superseded {
            let killed = self.log.upgrade.as_ref().is_some_and(|under_way| under_way.record.killed());
            let upgrade = self.log.begun;
            self.control.send_all_away(|interest| match interest {
                Interest::Upgrade(_) => ControlEvent::Drained { upgrade, killed },
                // It connected before the promotion, and its request was not read. It has to repeat it at
                // the successor.
                Interest::Unknown | Interest::Changes | Interest::Stop | Interest::Nothing => {
                    ControlEvent::Moved { upgrade: None }
                }
            });
            return;
        }
        let end = exit::exit_status_for(outcome);
        let reason = format!("psflip exits: {end}");
        self.control.send_all_away(|interest| match interest {
            Interest::Upgrade(_) => ControlEvent::Refused { reason: reason.clone() },
            Interest::Unknown | Interest::Changes | Interest::Stop | Interest::Nothing => {
                ControlEvent::stopped(end)
            }
        });
    }
}

/// The number of the upgrade that an event is about.
fn upgrade_of(event: &ControlEvent) -> Option<u64> {
    match event {
        ControlEvent::Step { upgrade, .. }
        | ControlEvent::Warning { upgrade, .. }
        | ControlEvent::Baking { upgrade, .. }
        | ControlEvent::Promoted { upgrade, .. }
        | ControlEvent::Failed { upgrade, .. }
        | ControlEvent::Drained { upgrade, .. } => Some(*upgrade),
        _ => None,
    }
}
