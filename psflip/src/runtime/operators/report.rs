//! What happens, for operators: one log line for each event that matters to them, and the events for waiting
//! clients of the control socket.

use std::time::Duration;

use super::status::{in_words, kind};
use crate::control::protocol::Event as ControlEvent;
use crate::control::server::{AfterReply, Interest};
use crate::flip::{DrainStep, Failure, Notice, Timer, UpgradeBlocked};
use crate::handover::ToPredecessor;
use crate::history;
use crate::process::launch::{ChangedFiles, Place};
use crate::runtime::timers::Key;
use crate::runtime::{KILL, Runtime, reasons};
use crate::secrets;

impl Runtime {
    /// Reports the notice: in the log, to service managers and to clients of the control socket.
    pub(in crate::runtime) fn report(&mut self, notice: Notice) {
        self.log(notice);
        if notice == Notice::Promoted {
            self.start_readers_again(); // those that both generations used
        }
        self.terminal_may_be_free(notice);
        self.notify_managers(notice);
        // Last: `psflip upgrade` in ExecReload= waits for this, and systemd must have its messages before
        // that client exits.
        self.notify_operators(notice);
        self.notice_for_recycling(notice);
        self.notice_for_changes(notice);
    }

    /// Writes the notice to the log.
    fn log(&mut self, notice: Notice) {
        let child = self.child.pid();
        match notice {
            Notice::Promoted => {
                reasons::forget_last_exit(&self.plan);
                let took = span(self.operators.log.took());
                let waited = self.operators.log.end_wait().map(span).map(tracing::field::display);
                tracing::info!(child, health = kind(&self.plan.health), %took, clients_waited = waited, "healthy, active");
            }
            Notice::UpgradeStarted => {
                tracing::info!(next_generation = self.identity.generation + 1, "upgrade started");
            }
            Notice::Baking => self.log_bake(),
            Notice::BakeOver => tracing::info!(child, "the bake is over; taking over"),
            Notice::NotAcknowledgedYet => tracing::warn!(
                child,
                old_psflip = self.handover.predecessor_pid(),
                "the old psflip does not answer, suspended perhaps; this child has the traffic and keeps it"
            ),
            Notice::RollingBack => {
                let reason = self.handover.successor_failure().unwrap_or("it was killed, or crashed");
                tracing::error!(
                    child,
                    reason,
                    "this generation has the traffic again; the new one is stopped"
                );
            }
            Notice::UpgradeFailed | Notice::UpgradeRolledBack => {
                self.operators.log.set_waiting_since(None);
                let reason = self.upgrade_failure();
                self.reasons.rolled_back = notice == Notice::UpgradeRolledBack;
                let took = span(self.operators.log.upgrade_took().unwrap_or_default());
                if self.machine.state.is_stopping() {
                    tracing::info!(child, reason, %took, "upgrade aborted by a stop request");
                } else if notice == Notice::UpgradeRolledBack {
                    tracing::error!(child, reason, %took, "upgrade rolled back; the old child keeps running");
                } else {
                    tracing::error!(child, reason, %took, "upgrade failed; the old child keeps running");
                }
            }
            Notice::UpgradeAborted => {
                let reason = self.upgrade_failure();
                tracing::info!(reason, "upgrade aborted by a stop request; stopping");
            }
            Notice::UpgradeFailedWithoutChild => {
                let reason = self.upgrade_failure();
                tracing::error!(reason, "upgrade failed, and the old child had exited meanwhile; stopping");
            }
            Notice::GivesWay => {
                self.operators.log.begin_wait();
                self.warn_of_changed_files();
                tracing::info!(
                    child,
                    "the new generation is prepared; stopping the old child before the new one starts \
                 (`upgrade.overlap = false`)"
                );
            }
            Notice::CantGiveWay => {
                self.operators.log.set_waiting_since(None);
                self.handover.set_successor_failure("the old child could not be stopped for the new one");
            }
            Notice::StartsAgain => {
                let reason = self.upgrade_failure();
                tracing::error!(reason, "upgrade failed; starting the old child again");
            }
            Notice::ServesAgain => {
                let took = span(self.operators.log.upgrade_took().unwrap_or_default());
                let waited = self.operators.log.end_wait().map(span).map(tracing::field::display);
                tracing::info!(child, %took, clients_waited = waited, "the old child serves again after the failed upgrade");
            }
            Notice::NotServingAgain(failure) => {
                let probe = self.child.last_probe(failure);
                let reason =
                    self.reasons.fail(failure, probe, self.child.healthy_for(), &self.plan).to_owned();
                tracing::error!(
                    child,
                    reason,
                    "the service is down: after a failed upgrade the old child could not be started again"
                );
                let upgrade = self.reasons.upgrade_failure.take().unwrap_or_default();
                let both = format!("{upgrade}; then the old child could not be started again: {reason}");
                self.reasons.upgrade_failure = Some(both);
            }
            Notice::TreeSurvivedKill => tracing::error!(
                "processes of the other generation are still there {KILL:?} after SIGKILL; no longer waiting for them"
            ),
            Notice::UpgradeQueued => {
                tracing::info!(because = self.machine.state.why_not_now().map(in_words), "upgrade queued");
            }
            Notice::RequestRefused => tracing::warn!("upgrade request refused: this generation is stopping"),
            Notice::Stopping => tracing::debug!(child, "waiting for the child to exit"),
            Notice::StopIgnored => tracing::warn!(
                child,
                waited = ?self.plan.shutdown.timeout,
                "the child did not exit on the stop request and keeps running; SIGKILL to psflip stops both at once"
            ),
            Notice::SuccessorSurvivedKill => self.handover.leave_successor_behind(),
            Notice::ChildExitedDuringUpgrade(end) => {
                self.reasons.service_may_be_down(end);
                tracing::error!(child, %end, "the child exited during an upgrade; the new generation takes over when it is healthy");
            }
            Notice::ChildExited(end) => tracing::info!(child, %end, "the child has exited"),
            Notice::ServiceDown(end) => self.reasons.service_is_down(child, end, self.plan.shutdown.timeout),
            Notice::PredecessorKilled if self.machine.state.is_on_trial() => tracing::error!(
                child,
                "the old psflip was killed; there is nothing to go back to, so the bake is over"
            ),
            Notice::PredecessorKilled => tracing::error!(
                child,
                "the old psflip was killed; going on alone; the service is down until this child is healthy"
            ),
            Notice::PredecessorDrained => {
                let drained = span(self.operators.log.drained().unwrap_or_default());
                tracing::info!(%drained, "the old generation is gone");
            }
            Notice::OlderDrained => {} // logged with its number
            Notice::AwaitingPredecessor => {
                for old in self.handover.old_generations() {
                    tracing::info!(
                        old_generation = old.generation,
                        old_psflip = old.pid,
                        "stopped; waiting for the old generation, which still drains"
                    );
                }
            }
            Notice::PredecessorTimedOut => {
                for old in self.handover.old_generations() {
                    tracing::warn!(
                        old_generation = old.generation,
                        old_psflip = old.pid,
                        "the old generation did not exit within the time that it announced; no longer waiting for it"
                    );
                }
            }
            Notice::Superseded => {
                let pid = self.handover.successor_process().map(|(pid, _)| pid);
                let signal = self.plan.shutdown.signal;
                match self.machine.state.drain() {
                    Some(DrainStep::PassingOn) => {
                        tracing::info!(new_psflip = pid, "new generation took over");
                    }
                    _ => {
                        tracing::info!(child, new_psflip = pid, %signal, "new generation took over; stopping the old child");
                    }
                }
            }
            Notice::RelayTimedOut => tracing::warn!(
                waited = ?self.drain_time(),
                "the proxy still answers requests; no longer waiting for them"
            ),
            Notice::Failed(failure) => self.log_failure(failure),
            Notice::EndsAtOnce => {
                let cut: u64 = self.proxy.counts().iter().map(|counts| counts.under_way).sum();
                let cut = (!self.plan.proxies.is_empty()).then_some(cut);
                tracing::warn!(
                    child,
                    requests_cut = cut,
                    "the active generation does not wait for this one any more; killing the child"
                );
            }
            Notice::ChildKilled => tracing::warn!(
                child,
                waited = ?self.plan.shutdown.timeout,
                "the child did not exit in time; killing it"
            ),
            Notice::OrphansKilled => tracing::warn!(
                waited = ?self.plan.shutdown.timeout,
                "leftover processes of the child did not exit in time; killing them"
            ),
            Notice::SurvivedKill => {
                let processes = self.child.survivors();
                tracing::error!(
                    child,
                    processes,
                    "SIGKILL did not terminate all processes within {KILL:?}: they hang in the kernel, or psflip may not kill them; leaving them behind"
                );
            }
        }
    }

    /// Why the upgrade failed. The link to the successor is of no more use then.
    fn upgrade_failure(&mut self) -> String {
        if self.reasons.upgrade_failure.is_none() || self.handover.knows_why_upgrade_failed() {
            self.reasons.upgrade_failure = Some(self.handover.why_upgrade_failed(&mut self.wait));
        }
        self.reasons.upgrade_failure.clone().unwrap_or_default()
    }

    /// The old child is about to stop, and may have to start again.
    fn warn_of_changed_files(&mut self) {
        let changed = self.child.place.as_ref().map(Place::changed).unwrap_or_default();
        let ChangedFiles { overwritten, moved } = changed;
        if !overwritten.is_empty() {
            self.warn_of_no_return(
                &format!("`{}` changed since the old child started", overwritten.join("`, `")),
                "deploy each version into a directory of its own",
            );
        }
        if !moved.is_empty() {
            self.warn_of_no_return(
                &format!("a symlink in `{}` has moved since the old child started", moved.join("`, `")),
                "set `workdir` to the directory of the version, and write the arguments of `cmd` relative to it",
            );
        }
    }

    fn warn_of_no_return(&mut self, what: &str, advice: &str) {
        let text = format!("{what}: if the new version fails, psflip can't go back to the old one; {advice}");
        let text = secrets::hide(&text).into_owned();
        tracing::warn!("{text}");
        self.operators.pass_warning_on(text);
    }

    fn log_bake(&self) {
        let child = self.child.pid();
        if self.machine.state.successor_bakes() {
            let pid = self.handover.successor_process().map(|(pid, _)| pid);
            tracing::info!(
                child,
                new_psflip = pid,
                bake = ?self.handover.bake(),
                "the new generation has the traffic and bakes; this one stands by"
            );
        } else {
            let bake = self.plan.upgrade.bake.unwrap_or_default();
            tracing::info!(child, ?bake, "has the traffic and bakes");
        }
    }

    /// The child is still not healthy: logs why, and schedules the next line.
    pub(in crate::runtime) fn log_not_healthy_yet(&mut self) {
        if !self.machine.state.is_starting() || self.proxy.is_awaited() {
            return;
        }
        let Some(reason) = self.child.why_not_healthy_yet(&mut self.wait) else { return };
        let left = self.wait.timers.left(Key::Flip(Timer::Healthy)).unwrap_or_default().as_secs();
        tracing::warn!(child = self.child.pid(), reason, left = format_args!("{left}s"), "not healthy yet");
    }

    /// Logs warnings about a configuration that is new to this service.
    pub(in crate::runtime) fn log_warnings(&mut self) {
        for text in std::mem::take(&mut self.identity.warnings) {
            tracing::warn!("{text}");
            let text = secrets::hide(&text).into_owned();
            self.handover.report(&ToPredecessor::Warning { text });
        }
    }

    fn log_failure(&mut self, failure: Failure) {
        let probe = self.child.last_probe(failure);
        let reason = if failure == Failure::NotHealthy && self.proxy.is_awaited() {
            self.reasons.fail_by_relay(self.plan.upgrade.timeout)
        } else {
            self.reasons.fail(failure, probe, self.child.healthy_for(), &self.plan)
        };
        if failure == Failure::Aborted {
            // A stop request may be the cause, so nothing is said about the old generation here.
            tracing::warn!(reason, "this generation gives up");
        } else if self.handover.has_turn() {
            tracing::error!(reason, "this generation failed; the old one starts its child again");
        } else if self.handover.predecessor.is_some() {
            tracing::error!(reason, "this generation failed; the old one keeps running");
        } else {
            tracing::error!(reason, "failed");
        }
    }

    /// Reports the notice to waiting clients, and records them for later status requests.
    fn notify_operators(&mut self, notice: Notice) {
        match notice {
            Notice::Promoted => {
                self.proxy.close_link_back();
                self.take_older_generations_over();
                self.operators.control.accept();
                self.operators.record_promotion(self.handover.predecessor.is_some());
                self.look_after_files();
            }
            Notice::Baking => {
                if !self.machine.state.successor_bakes() {
                    self.report_bake_begun();
                }
            }
            Notice::UpgradeStarted => {
                let started = self
                    .operators
                    .log
                    .begin_upgrade(self.identity.generation, self.plan.output.stderr.file());
                self.operators.notify_waiting(Some(started), AfterReply::KeepOpen);
            }
            Notice::UpgradeFailed
            | Notice::UpgradeRolledBack
            | Notice::UpgradeFailedWithoutChild
            | Notice::UpgradeAborted
            | Notice::ServesAgain
            | Notice::NotServingAgain(_) => {
                let reason = self.reasons.upgrade_failure.clone().unwrap_or_default();
                let is_stopping = self.machine.state.is_stopping();
                let result = match notice {
                    Notice::UpgradeRolledBack => history::Outcome::RolledBack,
                    _ => history::Outcome::Failed,
                };
                let is_gone = matches!(
                    notice,
                    Notice::NotServingAgain(_) | Notice::UpgradeFailedWithoutChild | Notice::UpgradeAborted
                );
                let child = self.child.pid().filter(|_| !is_gone);
                self.operators.record_failure(result, &reason, child, is_stopping);
            }
            Notice::RequestRefused => {
                let refused =
                    ControlEvent::Refused { reason: in_words(UpgradeBlocked::ShuttingDown).to_owned() };
                let waiting = Interest::Upgrade(self.operators.log.next());
                self.operators.control.notify(waiting, &refused, AfterReply::Close);
            }
            Notice::StopIgnored => {
                let child = self.shown_child();
                let timeout_ms = self.plan.shutdown.timeout.as_millis() as u64;
                let ignored = ControlEvent::Ignored { child, timeout_ms };
                self.operators.control.notify(Interest::Stop, &ignored, AfterReply::Close);
            }
            Notice::PredecessorKilled => {
                self.take_older_generations_over(); // nobody else can reach them any more
                self.operators.control.accept();
            }
            Notice::OlderDrained => self.look_after_files(),
            Notice::PredecessorDrained => {
                self.operators.record_drained();
                self.look_after_files(); // the old child may have removed the pidfile as its own
            }
            Notice::AwaitingPredecessor => {
                for predecessor in self.older().into_iter().chain(self.draining()) {
                    let waiting = ControlEvent::Waiting { predecessor };
                    self.operators.control.notify(Interest::Stop, &waiting, AfterReply::KeepOpen);
                }
            }
            Notice::GivesWay
            | Notice::CantGiveWay
            | Notice::StartsAgain
            | Notice::TreeSurvivedKill
            | Notice::UpgradeQueued
            | Notice::Stopping
            | Notice::BakeOver
            | Notice::NotAcknowledgedYet
            | Notice::RollingBack
            | Notice::SuccessorSurvivedKill
            | Notice::ChildExitedDuringUpgrade(_)
            | Notice::ChildExited(_)
            | Notice::ServiceDown(_)
            | Notice::Superseded
            | Notice::RelayTimedOut
            | Notice::PredecessorTimedOut
            | Notice::Failed(_)
            | Notice::EndsAtOnce
            | Notice::ChildKilled
            | Notice::OrphansKilled
            | Notice::SurvivedKill => {}
        }
    }

    /// Sends the status to clients that watch it, if it has changed.
    pub(in crate::runtime) fn notify_watchers(&mut self) {
        if std::mem::take(&mut self.operators.changed) && self.operators.control.is_watched() {
            let status = ControlEvent::Status { status: Box::new(self.status_report()) };
            self.operators.control.notify_watchers(&status);
        }
    }
}

/// A time in whole milliseconds. Debug of zero would print `0ns`.
fn span(time: Duration) -> String {
    if time.is_zero() { "0ms".to_owned() } else { format!("{time:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_printed_in_milliseconds_or_seconds() {
        let spans = [0, 1, 346, 1500].map(|time| span(Duration::from_millis(time)));
        assert_eq!(spans, ["0ms", "1ms", "346ms", "1.5s"]);
    }
}
