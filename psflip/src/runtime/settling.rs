//! The time in which a child that was found healthy must stay healthy before it is promoted (contract H6).

use std::time::Instant;

use super::Runtime;
use super::child::NOT_HEALTHY_AGAIN;
use super::operators::kind;
use super::timers::Key;
use crate::config::spell;
use crate::flip::Event;
use crate::health::Checker;

/// A child that becomes healthy and unhealthy in turns is reported this often, later only for every power of
/// two.
const REPORTED: u32 = 10;

impl Runtime {
    /// The child was found healthy.
    pub(super) fn start_settling(&mut self) {
        let settle = self.plan.health.settle();
        self.child.healthy_since = Some(Instant::now());
        self.child.found_healthy = self.child.found_healthy.saturating_add(1);
        if settle.is_zero() {
            self.machine.push(Event::ChildSettled);
            return;
        }
        if self.child.has_given_up() {
            self.machine.push(Event::ChildNeverHealthy);
            return;
        }
        self.wait.timers.clear(Key::NotHealthyYet);
        self.wait.timers.set(Key::Settle, settle);
        self.child.watch_descendants(settle, &mut self.wait);
        if self.is_worth_a_report() {
            let (child, health) = (self.child.pid(), kind(&self.plan.health));
            tracing::info!(child, health, "healthy, settling for {}", spell(settle));
            self.operators.record_settling(settle, child, &self.handover);
        }
    }

    /// The child has been healthy for as long as it has to. One more probe decides, if there are probes.
    pub(super) fn settle_is_over(&mut self) {
        if self.child.has_probes() {
            self.check(Checker::settle_is_over);
        } else {
            self.machine.push(Event::ChildSettled);
        }
        self.drain_queue();
    }

    /// A probe has failed after the child was found healthy.
    pub(super) fn child_is_unhealthy(&mut self) {
        if self.proxy.stop_waiting() {
            return; // nothing was made of it yet
        }
        self.wait.timers.clear(Key::Settle);
        self.wait.timers.set(Key::NotHealthyYet, NOT_HEALTHY_AGAIN);
        if self.is_worth_a_report() {
            let reason = self.child.failed_probe();
            let healthy_for = self.child.healthy_for().map(spell);
            tracing::warn!(
                child = self.child.pid(),
                reason,
                healthy_for,
                "not healthy any more; it has to settle again"
            );
        }
        self.child.healthy_since = None;
        self.machine.push(Event::ChildUnhealthy);
    }

    fn is_worth_a_report(&self) -> bool {
        let times = self.child.found_healthy;
        times <= REPORTED || times.is_power_of_two()
    }
}
