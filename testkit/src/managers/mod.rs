//! Real process managers in a sandbox, from their Debian packages: each supervises one service, and is gone with the sandbox.
//!
//! They all expect one steady process, restart it when it ends, and have a control program of their own. What they have seen of an end
//! is told in one way for all ([`Seen`]).

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

/// Which manager.
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

/// How a manager saw its process end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// By this exit code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl Kind {
    /// The Debian package that it comes from.
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

    /// Starts it with one service `app`: `text` is the service's `run` script, or the configuration's part about the program.
    ///
    /// # Panics
    /// When its package isn't installed.
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
            // The exit code, or something else for a signal, and the signal.
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

/// Fails the test when a program isn't installed, with the package that has it.
///
/// # Panics
/// When it isn't.
#[track_caller]
pub fn require(program: &str, package: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    if !folders.map(|folder| folder.join(program)).any(|file| file.is_file()) {
        report::fail(&format!("`{program}` is not installed; Debian has it in the package `{package}`"));
    }
}

fn executable(sandbox: &Sandbox, name: &str, text: &str) {
    // By a process of its own: a file that any process of this test has open for writing can't be executed.
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

/// A manager that runs.
#[derive(Debug)]
pub struct Managed {
    kind: Kind,
    folder: PathBuf,
    dir: PathBuf,
    running: Arc<Running>,
}

impl Managed {
    /// The manager's own process, with what it and the service print.
    #[must_use]
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// The process that it supervises, once that runs `exe`.
    #[must_use]
    pub fn process(&self, exe: &Path) -> Option<Process> {
        let exe = exe.canonicalize().ok()?;
        self.running
            .first()
            .children()
            .into_iter()
            .find(|child| child.is_alive() && child.exe().is_ok_and(|it| it == exe))
    }

    /// As [`Managed::process`], when there is one that isn't `before`.
    ///
    /// # Panics
    /// When there is none within the default deadline.
    #[track_caller]
    #[must_use]
    pub fn wait_process(&self, exe: &Path, before: Option<Process>) -> Process {
        wait_until(Deadline::default(), format!("{} to start a process", self.kind), || {
            self.process(exe).filter(|process| Some(*process) != before)
        })
    }

    /// What its own control program says of the service.
    ///
    /// # Panics
    /// When that fails.
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

    /// Lets it send SIGHUP to the service, as its users do.
    ///
    /// # Panics
    /// When its control program fails.
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

    /// Lets it stop the service, as its users do, and waits until it says that it is down.
    ///
    /// # Panics
    /// When it doesn't within the default deadline.
    #[track_caller]
    pub fn stop(&self) {
        let folder = self.folder.display().to_string();
        match self.kind {
            Kind::Runit => drop(self.control(&["sv", "-w", "30", "down", &folder])),
            Kind::S6 => drop(self.control(&["s6-svc", "-d", "-wD", "-T", "30000", &folder])),
            Kind::Daemontools => {
                self.control(&["svc", "-d", &folder]);
                wait_until(Deadline::default(), "svstat to say that it is down", || {
                    self.status().contains(": down").then_some(())
                });
            }
            Kind::Supervisord => {
                drop(self.control(&["supervisorctl", "-c", "supervisord.conf", "stop", "app"]));
            }
        }
    }

    /// How it saw its process end, every time; daemontools does not look at it and tells nothing.
    #[must_use]
    pub fn ends(&self) -> Vec<Seen> {
        let read = |name| fs::read_to_string(self.dir.join(name)).unwrap_or_default();
        match self.kind {
            Kind::Daemontools => Vec::new(),
            Kind::Supervisord => read("supervisord.log").lines().filter_map(supervisord_end).collect(),
            Kind::Runit | Kind::S6 => read("ends").lines().filter_map(finish_arguments).collect(),
        }
    }

    /// Ends it, and the service with it.
    ///
    /// # Panics
    /// When it does not end within the default deadline.
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
            report::fail(&format!("{} ended with {status}", self.kind));
        }
    }

    /// Runs a control program to its end.
    #[track_caller]
    fn control(&self, argv: &[&str]) -> String {
        let output = std::process::Command::new(argv[0]).args(&argv[1..]).current_dir(&self.dir).output();
        match output {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            other => report::fail(&format!("`{}`: {other:?}", argv.join(" "))),
        }
    }
}

/// What `finish` gets from runit (-1 for a signal) and s6 (256 for a signal), and then the signal.
fn finish_arguments(line: &str) -> Option<Seen> {
    let (code, signal) = line.split_once(' ')?;
    let code: i32 = code.parse().ok()?;
    if (0..256).contains(&code) { Some(Seen::Exited(code)) } else { signal.parse().ok().map(Seen::Killed) }
}

/// `... exited: app (exit status 23; not expected)`, `... exited: app (terminated by SIGKILL; not expected)`, and `stopped: app (...)`.
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
    fn what_managers_tell_is_read() {
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
