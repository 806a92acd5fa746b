//! Real service managers in a sandbox, from their Debian packages. Each supervises one service, and stops
//! with the sandbox.
//!
//! All of them expect one process with a constant PID, restart it when it exits, and have a control program.
//! [`Seen`] is how each reported the exit of that process.

pub mod docker;

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::process::Process;
use crate::report;
use crate::running::Running;
use crate::sandbox::Sandbox;
use crate::wait::{Deadline, wait_until};

/// A service manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// runit's `runsv`.
    Runit,
    /// s6's `s6-supervise`.
    S6,
    /// daemontools' `supervise`.
    Daemontools,
    /// Supervisor's `supervisord`.
    Supervisord,
}

/// How a service manager saw its process exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// With this exit code.
    Exited(i32),
    /// Terminated by this signal.
    Killed(i32),
}

impl Kind {
    /// The Debian package that contains it.
    #[must_use]
    pub fn package(self) -> &'static str {
        match self {
            Self::Runit => "runit",
            Self::S6 => "s6",
            Self::Daemontools => "daemontools",
            Self::Supervisord => "supervisor",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Runit => "runsv",
            Self::S6 => "s6-supervise",
            Self::Daemontools => "supervise",
            Self::Supervisord => "supervisord",
        }
    }

    /// Starts it with one service `app`: `text` is the service's `run` script, or supervisord's
    /// `[program:app]` section.
    ///
    /// # Panics
    /// If its package isn't installed.
    #[track_caller]
    #[must_use]
    pub fn start(self, sandbox: &Sandbox, path: &str, text: &str) -> Managed {
        require(self.program(), self.package());
        let folder = sandbox.path("service");
        let argument = if self == Self::Supervisord {
            write_supervisord(sandbox, text);
            "supervisord.conf".to_owned()
        } else {
            executable(sandbox, "service/run", text);
            // `finish` gets the exit code (or -1 or 256 after a signal) and the signal number.
            let finish = format!("#!/bin/sh\necho \"$1 $2\" >> {}\n", sandbox.path("ends").display());
            executable(sandbox, "service/finish", &finish);
            folder.display().to_string()
        };
        let option = if self == Self::Supervisord { &["-c"][..] } else { &[] };
        let argv = [self.program()].into_iter().chain(option.iter().copied()).chain([argument.as_str()]);
        let running = sandbox.command(argv).env("PATH", path).start();
        Managed { kind: self, folder, dir: sandbox.dir().to_owned(), running }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program())
    }
}

/// Fails the test if a program isn't installed, and names its package.
///
/// # Panics
/// If the program isn't installed.
#[track_caller]
pub fn require(program: &str, package: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    if !folders.map(|folder| folder.join(program)).any(|file| file.is_file()) {
        report::fail(&format!("`{program}` is not installed; Debian has it in the package `{package}`"));
    }
}

fn executable(sandbox: &Sandbox, name: &str, text: &str) {
    // Another process writes the script: a file that a process of this test has open for writing can't be
    // executed (ETXTBSY).
    let path = sandbox.write(format!("{name}.text"), text);
    let copy = "cp \"$1\" \"$2\" && chmod 755 \"$2\"";
    let target = sandbox.path(name).display().to_string();
    let status =
        sandbox.command(["sh", "-c", copy, "sh", &path.display().to_string(), &target]).start().wait_exit();
    let mode = fs::metadata(&target).map(|there| there.permissions().mode() & 0o777);
    if !status.success() || mode.ok() != Some(0o755) {
        report::fail(&format!("`{target}` can't be written: {status}"));
    }
}

fn write_supervisord(sandbox: &Sandbox, program: &str) {
    let dir = sandbox.dir().display();
    let text = format!(
        "[supervisord]\nnodaemon = true\nlogfile = {dir}/supervisord.log\npidfile = {dir}/supervisord.pid\nchildlogdir = {dir}\n\
         [unix_http_server]\nfile = {dir}/supervisor.sock\n\
         [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n\
         [supervisorctl]\nserverurl = unix://{dir}/supervisor.sock\n{program}"
    );
    sandbox.write("supervisord.conf", text);
}

/// A running service manager.
#[derive(Debug)]
pub struct Managed {
    kind: Kind,
    folder: PathBuf,
    dir: PathBuf,
    running: Arc<Running>,
}

impl Managed {
    /// The service manager's own process, with its output and the service's.
    #[must_use]
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// The supervised process, once it runs `exe`.
    #[must_use]
    pub fn process(&self, exe: &Path) -> Option<Process> {
        let exe = exe.canonicalize().ok()?;
        self.running
            .first()
            .children()
            .into_iter()
            .find(|child| child.is_alive() && child.exe().is_ok_and(|it| it == exe))
    }

    /// [`Managed::process`], once it exists and isn't `before`.
    ///
    /// # Panics
    /// If there is none within the default deadline.
    #[track_caller]
    #[must_use]
    pub fn wait_process(&self, exe: &Path, before: Option<Process>) -> Process {
        wait_until(Deadline::default(), format!("{} to start a process", self.kind), || {
            self.process(exe).filter(|process| Some(*process) != before)
        })
    }

    /// The service's status, as the manager's control program prints it.
    ///
    /// # Panics
    /// If the control program fails.
    #[track_caller]
    #[must_use]
    pub fn status(&self) -> String {
        let folder = self.folder.display().to_string();
        match self.kind {
            Kind::Runit => self.control(&["sv", "status", &folder]),
            Kind::S6 => self.control(&["s6-svstat", &folder]),
            Kind::Daemontools => self.control(&["svstat", &folder]),
            Kind::Supervisord => self.control(&["supervisorctl", "-c", "supervisord.conf", "status", "app"]),
        }
    }

    /// Sends SIGHUP to the service through the control program, as an operator does.
    ///
    /// # Panics
    /// If the control program fails.
    #[track_caller]
    pub fn hang_up(&self) {
        let folder = self.folder.display().to_string();
        match self.kind {
            Kind::Runit => self.control(&["sv", "hup", &folder]),
            Kind::S6 => self.control(&["s6-svc", "-h", &folder]),
            Kind::Daemontools => self.control(&["svc", "-h", &folder]),
            Kind::Supervisord => {
                self.control(&["supervisorctl", "-c", "supervisord.conf", "signal", "HUP", "app"])
            }
        };
    }

    /// Stops the service through the control program, as an operator does, and waits until the manager
    /// reports it as down.
    ///
    /// # Panics
    /// If it isn't down within the default deadline.
    #[track_caller]
    pub fn stop(&self) {
        let folder = self.folder.display().to_string();
        match self.kind {
            Kind::Runit => drop(self.control(&["sv", "-w", "30", "down", &folder])),
            Kind::S6 => drop(self.control(&["s6-svc", "-d", "-wD", "-T", "30000", &folder])),
            Kind::Daemontools => {
                self.control(&["svc", "-d", &folder]);
                wait_until(Deadline::default(), "svstat to report that it is down", || {
                    self.status().contains(": down").then_some(())
                });
            }
            Kind::Supervisord => {
                drop(self.control(&["supervisorctl", "-c", "supervisord.conf", "stop", "app"]));
            }
        }
    }

    /// Every exit that the manager has recorded. daemontools records none.
    #[must_use]
    pub fn ends(&self) -> Vec<Seen> {
        let read = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        match self.kind {
            Kind::Daemontools => Vec::new(),
            Kind::Supervisord => read("supervisord.log").lines().filter_map(supervisord_end).collect(),
            Kind::Runit | Kind::S6 => read("ends").lines().filter_map(finish_arguments).collect(),
        }
    }

    /// Stops the service manager and its service.
    ///
    /// # Panics
    /// If it does not exit within the default deadline.
    #[track_caller]
    pub fn quit(&self) {
        let folder = self.folder.display().to_string();
        match self.kind {
            Kind::S6 => drop(self.control(&["s6-svc", "-dx", &folder])),
            Kind::Daemontools => drop(self.control(&["svc", "-dx", &folder])),
            Kind::Runit | Kind::Supervisord => self.running.signal(Signal::SIGTERM),
        }
        let status = self.running.wait_exit();
        if !status.success() {
            report::fail(&format!("{} exited with {status}", self.kind));
        }
    }

    /// Runs a control program until it exits.
    #[track_caller]
    fn control(&self, argv: &[&str]) -> String {
        let output = std::process::Command::new(argv[0]).args(&argv[1..]).current_dir(&self.dir).output();
        match output {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            other => report::fail(&format!("`{}`: {other:?}", argv.join(" "))),
        }
    }
}

/// Parses the arguments of `finish`: the exit code (-1 from runit and 256 from s6 after a signal), then the
/// signal.
fn finish_arguments(line: &str) -> Option<Seen> {
    let (code, signal) = line.split_once(' ')?;
    let code: i32 = code.parse().ok()?;
    if (0..256).contains(&code) { Some(Seen::Exited(code)) } else { signal.parse().ok().map(Seen::Killed) }
}

/// Parses `... exited: app (exit status 23; not expected)`, `... exited: app (terminated by SIGKILL; not
/// expected)`, and `stopped: app (...)`.
fn supervisord_end(line: &str) -> Option<Seen> {
    let (_, what) = line.split_once(": app (")?;
    if let Some(rest) = what.strip_prefix("exit status ") {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        return digits.parse().ok().map(Seen::Exited);
    }
    let name: String =
        what.strip_prefix("terminated by ")?.chars().take_while(char::is_ascii_alphanumeric).collect();
    name.parse::<Signal>().ok().map(|signal| Seen::Killed(signal as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_from_supervisors_are_parsed() {
        assert_eq!(finish_arguments("23 0"), Some(Seen::Exited(23)));
        assert_eq!(finish_arguments("-1 9"), Some(Seen::Killed(9)));
        assert_eq!(finish_arguments("256 15"), Some(Seen::Killed(15)));
        let line = |what| {
            supervisord_end(&format!("2026-11-23 16:00:00,000 WARN exited: app ({what}; not expected)"))
        };
        assert_eq!(line("exit status 23"), Some(Seen::Exited(23)));
        assert_eq!(line("terminated by SIGKILL"), Some(Seen::Killed(9)));
    }
}
