//! A service under psflip: start, upgrades over the control socket, stop.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::control::{self, DirectoryWatch, Request};
use super::log::Log;
use super::processes::{self, Usage};
use super::reaper::{End, Reaper};
use crate::clock::Clock;
use crate::report::{Result as UpgradeResult, Step};

/// Variables that a service manager sets for another process.
const FOREIGN: &[&str] = &[
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "INVOCATION_ID",
    "MAINPID",
];
/// psflip promises an answer within milliseconds; a busy host needs more.
const ANSWER: Duration = Duration::from_secs(10);
/// How often psflip's end is looked for while there is no control socket.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The longest time without any event of an upgrade. Limits of psflip's own are shorter in practice.
const NO_EVENT: Duration = Duration::from_secs(15 * 60);

/// How psflip is started.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) program: PathBuf,
    /// `run -c FILE`, or `run FLAGS -- COMMAND`.
    pub(crate) args: Vec<OsString>,
    pub(crate) control: PathBuf,
    /// Set if the control socket is there only because of RUNTIME_DIRECTORY (contract O4).
    pub(crate) runtime_directory: Option<Arc<TempDir>>,
}

/// The running service.
#[derive(Debug)]
pub(crate) struct Service {
    control: PathBuf,
    pid: Pid,
    _child: Child,
    reaper: Reaper,
    clock: Clock,
}

/// An upgrade as psflip reported it.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) steps: Vec<Step>,
    pub(crate) result: UpgradeResult,
    pub(crate) generation: Option<u64>,
    pub(crate) killed: bool,
}

/// Why the service did not start.
#[derive(Debug)]
pub(crate) enum StartError {
    Io(io::Error),
    Ended(End),
    TimeOut,
    /// The user has pressed Ctrl-C.
    Interrupted,
}

impl Service {
    /// Starts psflip. It is not ready yet.
    ///
    /// # Errors
    /// It can't be executed.
    pub(crate) fn start(
        invocation: &Invocation,
        reaper: &Reaper,
        log: &Log,
        clock: Clock,
    ) -> io::Result<Self> {
        let mut command = Command::new(&invocation.program);
        command.args(&invocation.args);
        for (name, _) in std::env::vars_os() {
            let is_foreign =
                name.to_str().is_some_and(|name| FOREIGN.contains(&name) || name.starts_with("PSFLIP_"));
            if is_foreign {
                command.env_remove(name);
            }
        }
        if let Some(directory) = &invocation.runtime_directory {
            command.env("RUNTIME_DIRECTORY", directory.path());
        }
        let output = log.pipe("service")?;
        command.stdout(output.try_clone()?).stderr(output);
        let (pid, child) = reaper.spawn(&mut command)?;
        Ok(Self { control: invocation.control.clone(), pid, _child: child, reaper: reaper.clone(), clock })
    }

    /// Waits until the first child is healthy. `on_wait` is called again and again meanwhile, until it
    /// returns false: then the waiting is over.
    ///
    /// # Errors
    /// The service has exited, or is not ready within `limit`.
    pub(crate) fn wait_ready(
        &self,
        limit: Duration,
        mut on_wait: impl FnMut() -> bool,
    ) -> Result<(), StartError> {
        let until = Instant::now() + limit;
        loop {
            if !on_wait() {
                return Err(StartError::Interrupted);
            }
            if let Some(end) = self.end() {
                return Err(StartError::Ended(end));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StartError::TimeOut);
            }
            if self.is_serving(until, &mut on_wait)? {
                return Ok(());
            }
            self.wait_control(left.min(LOOK_AGAIN));
        }
    }

    /// Whether this psflip, and no other one, serves; waits while its first child starts.
    fn is_serving(&self, until: Instant, on_wait: &mut impl FnMut() -> bool) -> Result<bool, StartError> {
        let Ok(mut request) = Request::send(&self.control, r#"{"psflip":1,"request":"watch"}"#) else {
            return Ok(false);
        };
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match request.next(left.min(LOOK_AGAIN)) {
                Ok(Some(event)) if !self.is_ours(&event["status"]["pid"]) => return Ok(false),
                Ok(Some(event)) if event["status"]["state"] == "serving" => return Ok(true),
                Ok(Some(_)) => {}
                // psflip exits: its exit status says why.
                Ok(None) => {
                    let end = self.reaper.wait(self.pid, ANSWER);
                    return Err(end.map_or(StartError::TimeOut, StartError::Ended));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && left.is_zero() => {
                    return Err(StartError::TimeOut);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && on_wait() => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(StartError::Interrupted);
                }
                Err(error) => return Err(StartError::Io(error)),
            }
        }
    }

    /// Whether this pid is the psflip that was started, or runs below it. The real service may answer at the same
    /// path while this one finds out that it can't start.
    fn is_ours(&self, pid: &Value) -> bool {
        let pid = pid.as_i64().and_then(|pid| i32::try_from(pid).ok());
        let own = i32::try_from(std::process::id()).unwrap_or_default();
        pid.is_some_and(|pid| processes::tree(&[own]).iter().any(|one| one.pid == pid && pid != own))
    }

    /// Waits until there may be a control socket.
    fn wait_control(&self, limit: Duration) {
        let directory = self.control.parent().unwrap_or(Path::new("/"));
        // The service may still make the directory.
        let watch = DirectoryWatch::new(directory).ok();
        // psflip's end is no event of the directory, nor is a directory that is made later.
        match watch.filter(|_| !self.control.exists()) {
            Some(watch) => watch.wait(limit),
            None => drop(self.reaper.wait(self.pid, limit.min(LOOK_AGAIN / 5))),
        }
    }

    /// How psflip has ended, if it has.
    pub(crate) fn end(&self) -> Option<End> {
        self.reaper.end(self.pid)
    }

    /// The status of the active generation.
    pub(crate) fn status(&self) -> io::Result<Value> {
        control::status(&self.control, ANSWER)
    }

    /// Upgrades the service, and waits until the old generation is gone. `at` is called for each step.
    ///
    /// # Errors
    /// psflip does not answer as it promises.
    pub(crate) fn upgrade(&self, mut at: impl FnMut(&Step)) -> io::Result<Upgrade> {
        let mut steps = Vec::new();
        let mut request = Request::send(&self.control, r#"{"psflip":1,"request":"upgrade"}"#)?;
        // As they arrive; on a busy host that is late, so psflip's own times replace these below.
        let mut step = |name: &str| {
            let step = Step { step: name.to_owned(), at_ms: self.clock.now_ms() };
            at(&step);
            steps.push(step);
        };
        step("requested");
        let (mut generation, mut upgrade) = (None, 0);
        let (result, killed) = loop {
            let Some(event) = request.next(NO_EVENT)? else {
                return Err(io::Error::other(
                    "psflip closed the control connection before the upgrade was over",
                ));
            };
            upgrade = event["upgrade"].as_u64().unwrap_or(upgrade);
            match event["event"].as_str().unwrap_or_default() {
                "step" if event["step"] != "probe" => {
                    step(event["step"].as_str().unwrap_or_default());
                }
                "promoted" => {
                    generation = event["generation"].as_u64();
                    step("promoted");
                }
                "drained" => break (UpgradeResult::Promoted, event["killed"] == true),
                "failed" => {
                    let reason = event["reason"].as_str().unwrap_or_default().to_owned();
                    break (
                        UpgradeResult::Failed { reason, rolled_back: event["rolled_back"] == true },
                        false,
                    );
                }
                "moved" => {
                    let follow = format!(r#"{{"psflip":1,"request":"follow","upgrade":{upgrade}}}"#);
                    request = Request::send(&self.control, &follow)?;
                }
                "error" | "refused" => {
                    return Err(io::Error::other(event["reason"].as_str().unwrap_or("refused").to_owned()));
                }
                _ => {}
            }
        };
        step(if result == UpgradeResult::Promoted { "gone" } else { "failed" });
        self.correct(&mut steps, upgrade);
        Ok(Upgrade { steps, result, generation, killed })
    }

    /// Takes psflip's own times of the steps, in whole milliseconds, and adds those of the old generation's
    /// shutdown, which only the history has.
    fn correct(&self, steps: &mut Vec<Step>, upgrade: u64) {
        let status = self.status().unwrap_or_default();
        let Some(record) =
            status["history"].as_array().into_iter().flatten().find(|record| record["upgrade"] == upgrade)
        else {
            return;
        };
        let began = record["began_at"].as_f64().unwrap_or_default();
        let at = |step: &Value, key: &str| Some(self.clock.of_unix_ms(began + step[key].as_f64()?));
        let own = |key: &str| record[key].as_array().cloned().unwrap_or_default();
        for step in own("steps") {
            let known = steps.iter_mut().find(|known| step["step"] == known.step.as_str());
            if let (Some(known), Some(at_ms)) = (known, at(&step, "at_ms")) {
                known.at_ms = at_ms;
            }
        }
        if let (Some(known), Some(at_ms)) =
            (steps.iter_mut().find(|step| step.step == "promoted"), at(record, "took_ms"))
        {
            known.at_ms = at_ms;
        }
        for step in own("drain") {
            let name = match step["step"].as_str() {
                Some("asked") => "stop-signal",
                Some("gone") | None => continue, // there already
                Some(other) => other,
            };
            steps.extend(at(&step, "at_ms").map(|at_ms| Step { step: name.to_owned(), at_ms }));
        }
        // The request itself comes first, whatever was rounded.
        let requested = steps.first().map_or(0.0, |step| step.at_ms);
        steps.iter_mut().for_each(|step| step.at_ms = step.at_ms.max(requested));
        steps.sort_by(|a, b| a.at_ms.total_cmp(&b.at_ms));
    }

    /// What psflip and the child use: of psflip's own processes, and of the child's tree.
    pub(crate) fn usage(&self) -> (Usage, Usage) {
        let status = self.status().unwrap_or_default();
        let child = status["child"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
        let children = if child > 0 { processes::tree(&[child]) } else { Vec::new() };
        let mut own = processes::tree(&[self.pid.as_raw()]);
        own.retain(|one| !children.iter().any(|other| other.pid == one.pid));
        (processes::usage(&own), processes::usage(&children))
    }

    /// Stops psflip gracefully. `None`: it has not exited within `limit`, and was killed.
    pub(crate) fn stop(&self, limit: Duration) -> Option<End> {
        self.reaper.stop(self.pid, limit)
    }
}
