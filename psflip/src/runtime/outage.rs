//! Exits of the child without a stop request: their log lines, and what `psflip status` shows of them later.

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::Runtime;
use crate::config::Orphans;
use crate::end::End;
use crate::exit;
use crate::flip::{Failure, Outcome};
use crate::manager::last_exit::{self, LastExit};
use crate::process::keeper::Tree;
use crate::signal::Signal;
use crate::sys::tree;

/// What a generation knows of the outage with which it exits.
#[derive(Debug, Default)]
pub(super) struct Outage {
    /// The last signal without a meaning for psflip that the child got, forwarded by psflip or from the
    /// terminal.
    signal: Option<(Signal, Instant)>,
    /// Which process stays in the background after the child exited with 0, and what to do about it.
    background: Option<String>,
    /// Why the service is down.
    reason: Option<String>,
}

impl Runtime {
    /// The child got a signal that has no meaning for psflip.
    pub(super) fn note_signal(&mut self, signal: Signal) {
        self.outage.signal = Some((signal, Instant::now()));
    }

    /// The child has exited. This looks at leftover processes now, before they are stopped, too.
    pub(super) fn note_end(&mut self, end: End) {
        if end != End::Exited(0) || self.state.is_stopping() {
            return;
        }
        let Some(keeper) = self.tree.as_ref().map(Tree::keeper_pid) else { return };
        let Some(pid) = tree::children(keeper).first().copied() else { return };
        let name = tree::name_of(pid).unwrap_or_default();
        let program = self.plan.cmd[0].rsplit('/').next().unwrap_or_default();
        let then = match self.plan.shutdown.orphans {
            Orphans::Kill => "is stopped",
            Orphans::Leave => "keeps running",
        };
        self.outage.background = Some(format!(
            "`{program}` put itself into the background, where psflip can't follow it; what it started there ({}, pid {pid}) {then}; {}",
            crate::text::head(&name, 16),
            in_the_foreground(program)
        ));
    }

    /// What [`Self::note_end`] found, to be appended to a reason.
    pub(super) fn background(&self) -> String {
        self.outage.background.as_ref().map_or_else(String::new, |text| format!("; {text}"))
    }

    /// The child of the service exited without a stop request.
    pub(super) fn service_is_down(&mut self, child: Option<u32>, end: End) {
        if let Some(signal) = self.signal_that_ended(end) {
            tracing::info!(child, %end, %signal, "the child was terminated by a signal that psflip forwarded to it");
            return;
        }
        match &self.outage.background {
            None => {
                tracing::error!(child, %end, "the service is down: the child terminated without a stop request");
            }
            Some(background) => {
                tracing::error!(child, %end, background, "the service is down: the child terminated without a stop request");
            }
        }
        let reason = format!("the child terminated without a stop request: {end}{}", self.background());
        self.outage.reason = Some(reason);
    }

    /// The child of the service exited during an upgrade. Only the upgrade can restore the service (contract
    /// F7).
    pub(super) fn service_may_be_down(&mut self, end: End) {
        self.outage.reason = Some(format!("the child terminated without a stop request: {end}"));
    }

    /// The recent signal that explains the child's exit. For SIGQUIT only exit code 0 counts: it is the
    /// graceful stop of many servers, while others dump their state on it and keep running.
    fn signal_that_ended(&self, end: End) -> Option<Signal> {
        let (signal, at) = self.outage.signal?;
        let explains = match end {
            End::Killed(by) => by == signal,
            End::Exited(code) => signal == Signal::QUIT && code == exit::OK,
        };
        (explains && at.elapsed() <= self.plan.shutdown.timeout).then_some(signal)
    }

    /// Path of the file with the last exit.
    fn last_exit_path(&self) -> Option<PathBuf> {
        let pidfile = self.plan.pidfile.as_deref();
        last_exit::path(pidfile, self.plan.control.path(pidfile).as_deref())
    }

    /// A generation serves, so an earlier outage is of no interest.
    pub(super) fn forget_last_exit(&self) {
        if let Some(path) = self.last_exit_path() {
            last_exit::remove(&path);
        }
    }

    /// Keeps psflip's exit for `psflip status`, if it is an outage.
    pub(super) fn keep_last_exit(&self, outcome: Outcome) {
        let reason = match outcome {
            Outcome::Relay(_) => self.outage.reason.as_ref(),
            // No outage: another psflip serves with this pidfile, a stop was requested, or another generation
            // serves.
            Outcome::Failed(Failure::Pidfile | Failure::Aborted) | Outcome::Superseded => None,
            Outcome::Failed(_) if self.predecessor.is_some() => None,
            Outcome::Failed(_) => self.failure.as_ref(),
        };
        let (Some(reason), Some(path)) = (reason, self.last_exit_path()) else { return };
        let exit = LastExit {
            psflip_last_exit: 1,
            at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis() as u64),
            generation: self.identity.generation,
            pid: std::process::id(),
            reason: crate::text::head(reason, 2000),
            end: exit::end_for(outcome).to_string(),
        };
        if let Err(error) = exit.write(&path) {
            tracing::debug!(path = %path.display(), %error, "can't keep this exit for `psflip status`");
        }
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
