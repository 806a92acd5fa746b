//! Why this generation, or an upgrade that it started, fails, and why the service is down: for the log, for
//! operators, and for `psflip status` after psflip has exited.

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::child::Child;
use super::post_mortem::ChildStderr;
use crate::config::{Orphans, Plan, spell};
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::flip::{Failure, Outcome};
use crate::handover::{ToPredecessor, predecessor};
use crate::history::Record;
use crate::manager::last_exit::{self, LastExit};
use crate::process::keeper::Tree;
use crate::secrets;
use crate::signal::Signal;
use crate::sys::tree;

/// What is known of failures.
#[derive(Debug, Default)]
pub(super) struct Reasons {
    /// Why the last upgrade failed.
    pub(super) upgrade_failure: Option<String>,
    /// It had the traffic, and was rolled back from its bake.
    pub(super) rolled_back: bool,
    /// Why this generation fails.
    failure: Option<String>,
    /// The last signal without a meaning for psflip that the child got, forwarded by psflip or from the
    /// terminal.
    signal: Option<(Signal, Instant)>,
    /// Which process stays in the background after the child exited with 0, and what to do about it.
    background: Option<String>,
    /// Why the service is down.
    outage: Option<String>,
    /// The child's standard error, once there is a child.
    pub(super) child_stderr: Option<ChildStderr>,
}

/// A failure of this generation.
impl Reasons {
    /// Records the reason of a failure where it happens. [`Reasons::fail`] uses it.
    pub(super) fn set_failure(&mut self, reason: String) {
        self.failure = Some(reason);
    }

    /// The reason of the failure, or else of the failed upgrade, that makes psflip exit.
    pub(super) fn of_exit(&self) -> &str {
        let reason = self.failure.as_ref().or(self.upgrade_failure.as_ref());
        reason.map_or("", String::as_str)
    }

    /// Puts the failure into words. `probe`: what the health check says about it; `healthy`: how long the
    /// child had been healthy, if it was.
    pub(super) fn fail(
        &mut self,
        failure: Failure,
        probe: Option<String>,
        healthy: Option<Duration>,
        plan: &Plan,
    ) -> &str {
        let (timeout, settle) = (plan.upgrade.timeout, plan.health.settle());
        let probe = probe.map_or_else(String::new, |probe| format!("; {probe}"));
        let reason = match (failure, self.failure.take()) {
            // The place of the failure has set a more detailed reason.
            (
                Failure::Precheck
                | Failure::Start(_)
                | Failure::Relay
                | Failure::Hook
                | Failure::Switch
                | Failure::Pidfile
                | Failure::ReadyNotSent,
                Some(reason),
            ) => reason,
            (Failure::Precheck, None) => "`upgrade.precheck` failed".to_owned(),
            (Failure::Start(_), None) => "the child could not be started".to_owned(),
            (Failure::Relay, None) => "the relay could not be started".to_owned(),
            (Failure::Hook, None) => "`hooks.promote` failed".to_owned(),
            (Failure::Switch, None) => "clients could not be sent to the new child".to_owned(),
            (Failure::Pidfile, None) => "the pidfile could not be taken".to_owned(),
            (Failure::ExitedEarly(end), _) => {
                if let Some(healthy) = healthy {
                    let before = match plan.upgrade.bake {
                        _ if healthy < settle => format!("before `settle` ({}) was over", spell(settle)),
                        Some(bake) => format!("before its bake ({}) was over", spell(bake)),
                        None => "before it was promoted".to_owned(),
                    };
                    let healthy = spell(healthy);
                    format!(
                        "the child exited {healthy} after it was found healthy, {before}: {end}{}{probe}",
                        self.background()
                    )
                } else {
                    format!("the child exited before it was healthy: {end}{}{probe}", self.background())
                }
            }
            (Failure::Unhealthy, _) => format!("the health check failed in the bake{probe}"),
            (Failure::NeverHealthy, _) => match healthy {
                Some(healthy) => {
                    format!("the child failed {} after it was found healthy{probe}", spell(healthy))
                }
                None => format!("the child can't become healthy{probe}"),
            },
            (Failure::NotHealthy, _) if let Some(healthy) = healthy => format!(
                "the child was not healthy within {timeout:?}: it has been healthy for {}, and `settle` is {}{probe}",
                spell(healthy),
                spell(settle)
            ),
            (Failure::NotHealthy, _) => format!("the child was not healthy within {timeout:?}{probe}"),
            (Failure::Aborted, reason) => reason.unwrap_or_else(|| "the upgrade was aborted".to_owned()),
            (Failure::ReadyNotSent, None) => {
                "the old psflip could not be notified that this generation is ready".to_owned()
            }
            (Failure::NoAcknowledgement, _) => {
                format!("the old psflip did not acknowledge within {:?}", predecessor::ACKNOWLEDGEMENT)
            }
        };
        self.failure.insert(secrets::hide(&reason).into_owned())
    }

    /// Puts it into words that the child was healthy within `upgrade.timeout`, but the relay not ready.
    pub(super) fn fail_by_relay(&mut self, timeout: Duration) -> &str {
        self.failure.insert(format!(
            "the relay for `[[proxy]]` was not ready within {timeout:?}, although the child is healthy"
        ))
    }

    /// The message that reports the failure to the predecessor.
    pub(super) fn for_predecessor(&self, outcome: Outcome) -> Option<ToPredecessor> {
        let Outcome::Failed(failure) = outcome else { return None };
        let code = exit::code_for(outcome);
        let (child_code, reason) = match (failure, self.failure.clone()) {
            (Failure::ExitedEarly(ExitStatus::Exited(code)), Some(reason)) => (Some(code), reason),
            (_, reason) => (None, reason.unwrap_or_else(|| "it failed".to_owned())),
        };
        Some(ToPredecessor::Failed { code, child_code, reason })
    }
}

/// Exits of the child without a stop request.
impl Reasons {
    /// The child got a signal that has no meaning for psflip.
    pub(super) fn record_signal(&mut self, signal: Signal) {
        self.signal = Some((signal, Instant::now()));
    }

    /// The child has exited with 0, without a stop request. This looks at leftover processes now, before they
    /// are stopped, too.
    pub(super) fn look_for_background(&mut self, child: &Child, plan: &Plan) {
        let tree = child.tree.as_ref().filter(|tree| tree.left_processes());
        let Some(keeper) = tree.map(Tree::keeper_pid) else { return };
        let Some(pid) = tree::children(keeper).first().copied() else { return };
        let name = tree::name_of(pid).unwrap_or_default();
        let program = plan.cmd[0].rsplit('/').next().unwrap_or_default();
        let then = match plan.shutdown.orphans {
            Orphans::Kill => "is stopped",
            Orphans::Leave => "keeps running",
        };
        self.background = Some(format!(
            "`{program}` put itself into the background, where psflip can't follow it; what it started there ({}, pid {pid}) {then}; {}",
            crate::text::head(&name, 16),
            in_the_foreground(program)
        ));
    }

    /// What [`Self::look_for_background`] found, to be appended to a reason.
    fn background(&self) -> String {
        self.background.as_ref().map_or_else(String::new, |text| format!("; {text}"))
    }

    /// The child of the service exited without a stop request. `window`: how old a signal may be that
    /// explains the exit.
    pub(super) fn service_is_down(&mut self, child: Option<u32>, end: ExitStatus, window: Duration) {
        if let Some(signal) = self.terminating_signal(end, window) {
            tracing::info!(child, %end, %signal, "the child was terminated by a signal that psflip forwarded to it");
            return;
        }
        match &self.background {
            None => {
                tracing::error!(child, %end, "the service is down: the child terminated without a stop request");
            }
            Some(background) => {
                tracing::error!(child, %end, background, "the service is down: the child terminated without a stop request");
            }
        }
        let reason = format!("the child terminated without a stop request: {end}{}", self.background());
        self.outage = Some(reason);
    }

    /// The child of the service exited during an upgrade. Only the upgrade can restore the service (contract
    /// F7).
    pub(super) fn service_may_be_down(&mut self, end: ExitStatus) {
        self.outage = Some(format!("the child terminated without a stop request: {end}"));
    }

    /// The recent signal that explains the child's exit. For SIGQUIT only exit code 0 counts: it is the
    /// graceful stop of many servers, while others dump their state on it and keep running.
    fn terminating_signal(&self, end: ExitStatus, window: Duration) -> Option<Signal> {
        let (signal, at) = self.signal?;
        let explains = match end {
            ExitStatus::Killed(by) => by == signal,
            ExitStatus::Exited(code) => signal == Signal::QUIT && code == exit::OK,
        };
        (explains && at.elapsed() <= window).then_some(signal)
    }

    /// Keeps psflip's exit for `psflip status`, if it is an outage. `has_predecessor`: another generation
    /// serves; `upgrade`: the last one.
    pub(super) fn keep_last_exit(
        &mut self,
        outcome: Outcome,
        plan: &Plan,
        generation: u64,
        has_predecessor: bool,
        upgrade: Option<&Record>,
    ) {
        let reason = match outcome {
            Outcome::Relay(_) => self.outage.as_ref(),
            // No outage: another psflip serves with this pidfile, a stop was requested, or another generation
            // serves.
            Outcome::Failed(Failure::Pidfile | Failure::Aborted) | Outcome::Superseded => None,
            Outcome::Failed(_) if has_predecessor => None,
            Outcome::Failed(_) => self.failure.as_ref(),
        };
        let (Some(reason), Some(path)) = (reason, last_exit_path(plan)) else { return };
        let exit = LastExit {
            psflip_last_exit: 1,
            at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64),
            generation,
            pid: std::process::id(),
            reason: crate::text::head(&secrets::hide(reason), 2000),
            end: exit::exit_status_for(outcome).to_string(),
            upgrade: upgrade.cloned(),
            stderr: self.child_stderr.as_ref().map(ChildStderr::place).unwrap_or_default(),
            output: self.child_stderr.take().and_then(ChildStderr::last_lines),
        };
        if let Err(error) = exit.write(&path) {
            tracing::debug!(path = %path.display(), %error, "can't keep this exit for `psflip status`");
        }
    }
}

/// Path of the file with the last exit.
fn last_exit_path(plan: &Plan) -> Option<PathBuf> {
    let pidfile = plan.pidfile.as_deref();
    last_exit::path(pidfile, plan.control.path(pidfile).as_deref())
}

/// A generation serves, so an earlier outage is of no interest.
pub(super) fn forget_last_exit(plan: &Plan) {
    if let Some(path) = last_exit_path(plan) {
        last_exit::remove(&path);
    }
}

/// How to keep a program in the foreground.
fn in_the_foreground(program: &str) -> String {
    let option = match program {
        "nginx" => "`-g 'daemon off;'`",
        "redis-server" | "valkey-server" => "`--daemonize no`",
        "apache2" | "apache2ctl" | "apachectl" | "httpd" => "`-D FOREGROUND`",
        "haproxy" => "`-db`",
        name if name.starts_with("php-fpm") => "`--nodaemonize`",
        _ => "its option for that, such as `--foreground` or `--no-daemon`",
    };
    format!("run it in the foreground ({option}), or under `psflip watch` if it can't")
}
