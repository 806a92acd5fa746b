//! Log lines for operators: one line for each event that matters to them.

use std::time::Duration;

use super::poller::Token;
use super::timers::Key;
use super::{CheckerSlot, KILL, Predecessor, Runtime};
use crate::config::Health;
use crate::control::protocol;
use crate::control::server::{Interest, Then};
use crate::flip::{Failure, News, Timer, UpgradeBlocked};
use crate::handover::{ToPredecessor, successor};
use crate::process::keeper::Tree;
use crate::secrets;
use crate::sys::tree;

/// After this time, a child that is not healthy yet gets a log line.
pub(super) const NOT_HEALTHY_AFTER: Duration = Duration::from_secs(1);
/// After this time, it gets the next one.
const NOT_HEALTHY_AGAIN: Duration = Duration::from_secs(10);
/// How many processes are listed that survived SIGKILL.
const MOST_SURVIVORS: usize = 10;

impl Runtime {
    /// Reports the news: in the log, to service managers and to clients of the control socket.
    pub(super) fn tell(&mut self, news: News) {
        self.log(news);
        self.terminal_may_be_free(news);
        self.tell_managers(news);
        // Last: `psflip upgrade` in ExecReload= waits for this, and systemd must have its messages before
        // that client exits.
        self.tell_operators(news);
    }

    /// Writes the news to the log.
    fn log(&mut self, news: News) {
        let child = self.tree.as_ref().and_then(Tree::child_pid);
        match news {
            News::Promoted => {
                self.forget_last_exit();
                let took = span(self.upgrade_log.took());
                tracing::info!(child, health = kind(&self.plan.health), %took, "healthy, active");
            }
            News::UpgradeStarted => {
                tracing::info!(next_generation = self.identity.generation + 1, "upgrade started");
            }
            News::UpgradeFailed => {
                let reason = self.why_upgrade_failed();
                let took = span(self.upgrade_log.upgrade_took().unwrap_or_default());
                if self.state.is_stopping() {
                    tracing::info!(child, reason, %took, "upgrade aborted by a stop request");
                } else {
                    tracing::error!(child, reason, %took, "upgrade failed; the old child keeps running");
                }
                self.upgrade_failure = Some(reason);
            }
            News::UpgradeAborted => {
                let reason = self.why_upgrade_failed();
                tracing::info!(reason, "upgrade aborted by a stop request; stopping");
                self.upgrade_failure = Some(reason);
            }
            News::UpgradeFailedWithoutChild => {
                let reason = self.why_upgrade_failed();
                tracing::error!(reason, "upgrade failed, and the old child had exited meanwhile; stopping");
                self.upgrade_failure = Some(reason);
            }
            News::RequestRemembered => {
                tracing::info!(because = self.state.why_not_now().map(in_words), "upgrade queued");
            }
            News::RequestRefused => tracing::warn!("upgrade request refused: this generation is stopping"),
            News::Stopping => tracing::debug!(child, "waiting for the child to exit"),
            News::StopIgnored => tracing::warn!(
                child,
                waited = ?self.plan.shutdown.timeout,
                "the child did not exit on the stop request and keeps running; SIGKILL to psflip stops both at once"
            ),
            News::SuccessorLeftBehind => self.leave_successor_behind(),
            News::ChildEndedDuringUpgrade(end) => {
                self.service_may_be_down(end);
                tracing::error!(child, %end, "the child exited during an upgrade; the new generation takes over when it is healthy");
            }
            News::ChildEnded(end) => tracing::info!(child, %end, "the child has exited"),
            News::ServiceDown(end) => self.service_is_down(child, end),
            News::PredecessorLost => tracing::error!(
                child,
                "the old psflip was killed; going on alone; the service is down until this child is healthy"
            ),
            News::PredecessorDrained => {
                let drained = span(self.upgrade_log.drained().unwrap_or_default());
                tracing::info!(%drained, "the old generation is gone");
            }
            News::AwaitingPredecessor => {
                let old = self.predecessor.as_ref().map(|predecessor| predecessor.pid);
                tracing::info!(
                    old_psflip = old,
                    "stopped; waiting for the old generation, which still drains"
                );
            }
            News::PredecessorLate => {
                let old = self.predecessor.as_ref().map(|predecessor| predecessor.pid);
                tracing::warn!(
                    old_psflip = old,
                    "the old generation did not exit within the time that it announced; no longer waiting for it"
                );
            }
            News::Superseded => {
                let pid = self.successor.as_ref().and_then(|link| link.process()).map(|(pid, _)| pid);
                let signal = self.plan.shutdown.signal;
                tracing::info!(child, new_psflip = pid, %signal, "new generation took over; stopping the old child");
            }
            News::Failed(failure) => self.tell_failure(failure),
            News::ChildKilled => tracing::warn!(
                child,
                waited = ?self.plan.shutdown.timeout,
                "the child did not exit in time; killing it"
            ),
            News::OrphansKilled => tracing::warn!(
                waited = ?self.plan.shutdown.timeout,
                "leftover processes of the child did not exit in time; killing them"
            ),
            News::LeftBehind => {
                self.left_behind = true;
                tracing::error!(
                    child,
                    processes = self.survivors(),
                    "SIGKILL did not terminate all processes within {KILL:?}: they hang in the kernel, or psflip may not kill them; leaving them behind"
                );
            }
        }
    }

    /// The processes that survived SIGKILL, as far as psflip can see them.
    fn survivors(&self) -> String {
        let Some(tree) = &self.tree else { return String::new() };
        // The processes of a lost keeper are below psflip itself.
        let root = if tree.is_over() { std::process::id() } else { tree.keeper_pid() };
        let mut found = tree::described_below(root, self.reaper.foreign());
        let more = found.len().saturating_sub(MOST_SURVIVORS);
        found.truncate(MOST_SURVIVORS);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", found.join(", "))
    }

    /// The child is still not healthy: logs why, and schedules the next line.
    pub(super) fn tell_not_healthy_yet(&mut self) {
        if !self.state.is_starting() {
            return;
        }
        let child = self.tree.as_ref().and_then(Tree::child_pid);
        let reason = match (&self.readiness, &self.checker) {
            (Some(notified), _) => notified.why_not_ready(),
            (None, Some(CheckerSlot(checker))) => {
                checker.last_failure().unwrap_or("no probe has finished yet").to_owned()
            }
            (None, None) => return,
        };
        let left = self.timers.left(Key::Flip(Timer::Healthy)).unwrap_or_default().as_secs();
        tracing::warn!(child, reason, left = format_args!("{left}s"), "not healthy yet");
        self.timers.set(Key::NotHealthyYet, NOT_HEALTHY_AGAIN);
    }

    /// Logs warnings about a configuration that is new to this service.
    pub(super) fn tell_warnings(&mut self) {
        for text in std::mem::take(&mut self.identity.warnings) {
            tracing::warn!("{text}");
            if let Some(Predecessor { link, .. }) = &self.predecessor {
                let text = secrets::hide(&text).into_owned();
                let _ = link.send(&ToPredecessor::Warning { text }); // it may be gone
            }
        }
    }

    /// Passes a warning of the new generation on to clients that wait for the upgrade.
    pub(super) fn pass_warning_on(&mut self, text: String) {
        let Some(upgrade) = self.upgrade_log.upgrade.as_ref().map(|under_way| under_way.record.upgrade)
        else {
            return;
        };
        self.tell_clients(
            Interest::Upgrade(upgrade),
            &protocol::Event::Warning { upgrade, text },
            Then::Stay,
        );
    }

    fn tell_failure(&mut self, failure: Failure) {
        let last_probe = match &self.checker {
            Some(CheckerSlot(checker)) => checker.last_failure().map(str::to_owned),
            None => self.last_probe_failure.take(),
        };
        let probe = match (&self.readiness, failure) {
            (Some(notified), Failure::NotHealthy) => Some(notified.why_not_ready()),
            (Some(_), _) => self.last_words(),
            (None, Failure::NeverHealthy) => last_probe,
            (None, _) => last_probe.map(|probe| format!("last probe: {probe}")),
        };
        let probe = probe.map_or_else(String::new, |probe| format!("; {probe}"));
        let reason = match (failure, self.failure.take()) {
            // The place of the failure has set a more detailed reason.
            (
                Failure::Start(_)
                | Failure::Hook
                | Failure::Switch
                | Failure::Pidfile
                | Failure::ReadyNotSent,
                Some(reason),
            ) => reason,
            (Failure::Start(_), None) => "the child could not be started".to_owned(),
            (Failure::Hook, None) => "`hooks.promote` failed".to_owned(),
            (Failure::Switch, None) => "clients could not be sent to the new child".to_owned(),
            (Failure::Pidfile, None) => "the pidfile could not be taken".to_owned(),
            (Failure::EndedEarly(end), _) => {
                format!("the child exited before it was healthy: {end}{}{probe}", self.background())
            }
            (Failure::NeverHealthy, _) => format!("the child can't become healthy{probe}"),
            (Failure::NotHealthy, _) => {
                format!("the child was not healthy within {:?}{probe}", self.plan.upgrade.timeout)
            }
            (Failure::Aborted, _) => "the upgrade was aborted".to_owned(),
            (Failure::ReadyNotSent, None) => {
                "the old psflip could not be notified that this generation is ready".to_owned()
            }
            (Failure::Silence, _) => format!(
                "the old psflip did not acknowledge within {:?}",
                crate::handover::predecessor::ACKNOWLEDGEMENT
            ),
        };
        let reason = secrets::hide(&reason).into_owned();
        if failure == Failure::Aborted {
            // A stop request may be the cause, so nothing is said about the old generation here.
            tracing::warn!(reason, "this generation gives up");
        } else if self.predecessor.is_some() {
            tracing::error!(reason, "this generation failed; the old one keeps running");
        } else {
            tracing::error!(reason, "failed");
        }
        self.failure = Some(reason);
    }

    /// The successor survived SIGKILL. Its keeper lives as long as it does, so the new child may still serve:
    /// whatever is below it is killed, as far as psflip finds it and may kill it.
    fn leave_successor_behind(&self) {
        let Some((pid, _)) = self.successor.as_ref().and_then(successor::Link::process) else { return };
        let below = tree::below(pid);
        tree::kill_known(&below);
        tracing::error!(
            new_psflip = pid,
            killed_below = below.len(),
            "SIGKILL did not terminate the new psflip within {KILL:?}: it hangs in the kernel, or psflip may not kill it; leaving it behind"
        );
    }

    /// The reason why the successor failed.
    fn why_upgrade_failed(&mut self) -> String {
        if let Some(error) = self.start_error.take() {
            return error;
        }
        // The link is of no more use. A successor that still lives exits on the `abort` that `let_go` sends.
        self.poller.forget(Token::SuccessorProcess);
        self.poller.forget(Token::Successor);
        let Some(link) = self.successor.take() else {
            return "the new psflip could not be started".to_owned();
        };
        let reason = match (link.failure(), link.process()) {
            (Some(reason), _) => reason.to_owned(),
            (None, Some((pid, _))) => {
                format!(
                    "the new psflip (pid {pid}) exited without a reason: killed, crashed, or not a psflip"
                )
            }
            (None, None) => {
                "the new psflip exited without a reason, before it began: killed, crashed, or not a psflip"
                    .to_owned()
            }
        };
        link.let_go();
        reason
    }
}

/// A time in whole milliseconds. Debug of zero would print `0ns`.
fn span(time: Duration) -> String {
    if time.is_zero() { "0ms".to_owned() } else { format!("{time:?}") }
}

/// Why an upgrade can't start at once.
pub(super) fn in_words(why: UpgradeBlocked) -> &'static str {
    match why {
        UpgradeBlocked::NotHealthy => "the child is not healthy yet",
        UpgradeBlocked::Stopping => "a stop was requested",
        UpgradeBlocked::PredecessorDrains => "the old generation still drains",
        UpgradeBlocked::UnderWay => "an upgrade is under way",
        UpgradeBlocked::Ends => "this generation is stopping",
    }
}

/// The name of a health check.
pub(super) fn kind(health: &Health) -> &'static str {
    match health {
        Health::Alive { .. } => "alive",
        Health::Command { .. } => "command",
        Health::Docker { .. } => "docker",
        Health::Tcp { .. } => "tcp",
        Health::Unix { .. } => "unix",
        Health::Http { .. } => "http",
        Health::Fcgi { .. } => "fcgi",
        Health::Notify { .. } => "notify",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_told_in_milliseconds_or_more() {
        let spans = [0, 1, 346, 1500].map(|time| span(Duration::from_millis(time)));
        assert_eq!(spans, ["0ms", "1ms", "346ms", "1.5s"]);
    }
}
