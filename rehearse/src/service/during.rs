//! `--during`: a service under any other tool, upgraded by a command.

use std::io;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::log::Log;
use super::processes;
use super::reaper::{self, End, Reaper};
use crate::clock::Clock;
use crate::interrupt::Interrupt;
use crate::report::{Result as UpgradeResult, Step};

/// A command of `sh -c` that runs until it is stopped.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) pid: Pid,
    _child: Arc<Child>,
    reaper: Reaper,
}

impl Running {
    /// # Errors
    /// There is no shell.
    pub(crate) fn start(line: &str, name: &'static str, reaper: &Reaper, log: &Log) -> io::Result<Self> {
        let (pid, child) = reaper.spawn(&mut shell(line, name, log)?)?;
        Ok(Self { pid, _child: Arc::new(child), reaper: reaper.clone() })
    }

    /// Itself; or, if it has exited, the one other child of this process that is none of `others`.
    pub(crate) fn current(&self, own: i32, others: &[Pid]) -> Self {
        if self.reaper.end(self.pid).is_none() {
            return self.clone();
        }
        let is_new =
            |one: &&processes::Process| one.parent == own && !others.contains(&Pid::from_raw(one.pid));
        let all = processes::all();
        let mut children = all.iter().filter(is_new);
        match (children.next(), children.next()) {
            (Some(one), None) => Self { pid: Pid::from_raw(one.pid), ..self.clone() },
            _ => self.clone(),
        }
    }

    /// Stops it gracefully. `None`: it has not exited within `limit`, and was killed.
    pub(crate) fn stop(&self, limit: Duration) -> Option<End> {
        self.reaper.stop(self.pid, limit)
    }
}

fn shell(line: &str, name: &'static str, log: &Log) -> io::Result<Command> {
    let output = log.pipe(name)?;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", line]).stdout(output.try_clone()?).stderr(output);
    Ok(command)
}

/// How long the command may take to exit when the user has interrupted it.
const INTERRUPTED: Duration = Duration::from_secs(10);
/// How often an interruption is looked for.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Runs the command of `--during` once, and waits until it has exited. An interruption is passed on to it, as a
/// terminal would. Of a command that was interrupted, or took too long, nothing is left in its process group.
///
/// # Errors
/// There is no shell.
pub(crate) fn upgrade(
    line: &str,
    service: Option<&Running>,
    reaper: &Reaper,
    log: &Log,
    clock: Clock,
    limit: Duration,
    interrupt: &Interrupt,
) -> io::Result<super::psflip::Upgrade> {
    let mut command = shell(line, "during", log)?;
    if let Some(service) = service {
        command.env("SERVICE_PID", service.pid.to_string());
    }
    let mut steps = vec![Step { step: "requested".to_owned(), at_ms: clock.now_ms() }];
    let (pid, _child) = reaper.spawn(&mut command)?;
    let (mut until, mut limit, mut is_interrupted) = (Instant::now() + limit, limit, false);
    let end = loop {
        let left = until.saturating_duration_since(Instant::now());
        let end = reaper.wait(pid, left.min(LOOK_AGAIN));
        if end.is_some() || left.is_zero() {
            break end;
        }
        if interrupt.is_seen() && !std::mem::replace(&mut is_interrupted, true) {
            reaper::signal(Pid::from_raw(-pid.as_raw()), Signal::SIGINT); // its process group
            limit = INTERRUPTED;
            until = Instant::now() + limit;
        }
    };
    if end.is_none() || is_interrupted {
        processes::kill_group(pid);
    }
    reaper.release(pid); // the service that it has started goes on
    let by = if is_interrupted { " after Ctrl-C" } else { "" };
    let result = match end {
        Some(End::Exited(0)) => UpgradeResult::Promoted,
        Some(end) => UpgradeResult::Failed { reason: format!("the command {end}{by}"), rolled_back: false },
        None => {
            let reason = format!("the command did not exit within {} s{by}", limit.as_secs());
            UpgradeResult::Failed { reason, rolled_back: false }
        }
    };
    let last = if result == UpgradeResult::Promoted { "promoted" } else { "failed" };
    steps.push(Step { step: last.to_owned(), at_ms: clock.now_ms() });
    Ok(super::psflip::Upgrade { steps, result, generation: None, killed: false })
}
