//! A psflip in a sandbox: a service through all its generations.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::builder::Written;
use crate::client::control::{self, Asking};
use crate::family::{child_of, has_other_generation};
use crate::output::{Line, Output, Stream};
use crate::pidfile::{NameWatch, PidfileHistory, named_process};
use crate::process::{Process, ProcessState};
use crate::report;
use crate::running::Running;
use crate::sandbox::Inner;
use crate::text::cmd_line;
use crate::wait::{Deadline, wait_on, wait_until};

/// A service under psflip. The handle follows it from generation to generation.
#[derive(Debug)]
pub struct Psflip {
    pub(crate) inner: Arc<Inner>,
    pub(crate) running: Arc<Running>,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) upgrade_signal: Signal,
    /// The configuration file; `None` if it is the test's own.
    pub(crate) written: Mutex<Option<Written>>,
}

/// A successful upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// The psflip that received the request.
    pub old: Process,
    /// The psflip that took over.
    pub new: Process,
    /// From the request until the pidfile named the new psflip.
    pub duration: Duration,
    /// From the request until the old psflip exited.
    pub drained: Duration,
}

/// A failed upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedFlip {
    /// The psflip that received the request, and stays active.
    pub active: Process,
    /// Why the upgrade failed, as `psflip upgrade` prints it.
    pub reason: String,
    /// From the request until it had failed.
    pub duration: Duration,
}

impl Psflip {
    /// The started program: its output, stdin, terminal, and first process.
    #[must_use]
    pub fn program(&self) -> &Running {
        &self.running
    }

    /// The output of psflip and its children, of all generations.
    #[must_use]
    pub fn output(&self) -> &Output {
        self.running.output()
    }

    /// psflip's log so far: standard error.
    #[must_use]
    pub fn log(&self) -> String {
        self.running.stderr()
    }

    /// Waits for the first line on `stream` that contains `part`. To wait for a later one, see
    /// [`Output::wait_after`].
    ///
    /// # Panics
    /// If it isn't written within the default deadline.
    #[track_caller]
    pub fn wait_for_line(&self, stream: Stream, part: &str) -> Line {
        self.output().wait(stream, part)
    }

    /// The pid of the process that was started: the first psflip, or the anchor.
    #[must_use]
    pub fn first_pid(&self) -> u32 {
        self.running.pid()
    }

    /// The psflip that the pidfile names.
    ///
    /// # Panics
    /// If the pidfile is missing or names no living process.
    #[track_caller]
    #[must_use]
    pub fn active(&self) -> Process {
        let path = self.pidfile_path();
        named_process(path).unwrap_or_else(|| {
            report::fail(&format!("the pidfile `{}` names no running process", path.display()));
        })
    }

    /// The pid in the pidfile.
    ///
    /// # Panics
    /// See [`Psflip::active`].
    #[track_caller]
    #[must_use]
    pub fn active_pid(&self) -> u32 {
        self.active().pid()
    }

    /// The path of the pidfile.
    ///
    /// # Panics
    /// If this psflip has no pidfile.
    #[track_caller]
    #[must_use]
    pub fn pidfile_path(&self) -> &Path {
        match &self.pidfile {
            Some(path) => path,
            None => report::fail("this psflip was started without a pidfile, so the active one is unknown"),
        }
    }

    /// The default path of the control socket.
    ///
    /// # Panics
    /// If this psflip has no pidfile.
    #[track_caller]
    #[must_use]
    pub fn control_path(&self) -> PathBuf {
        let mut path = self.pidfile_path().as_os_str().to_owned();
        path.push(".sock");
        path.into()
    }

    /// The history of the pidfile since before psflip was started.
    ///
    /// # Panics
    /// If this psflip has no pidfile.
    #[track_caller]
    #[must_use]
    pub fn history(&self) -> &PidfileHistory {
        match &self.running.history {
            Some(history) => history,
            None => report::fail("this psflip was started without a pidfile"),
        }
    }

    /// Waits until the pidfile names a living psflip, and returns it.
    ///
    /// # Panics
    /// If it doesn't within the default deadline, or psflip exits first.
    #[track_caller]
    pub fn wait_pidfile(&self) -> Process {
        let path = self.pidfile_path();
        let watch = self.watch();
        let what = format!("the pidfile `{}` to name a running process", path.display());
        let first = self.running.first();
        let fds = [watch.as_fd(), self.running.as_fd()];
        let fds = if self.running.try_status().is_some() { &fds[..1] } else { &fds[..] };
        wait_on(Deadline::default(), what, fds, || {
            watch.take();
            named_process(path).or_else(|| {
                if let Some(status) = self.running.try_status()
                    && named_process(path).is_none()
                    && self.inner.members().is_empty()
                {
                    report::fail(&format!(
                        "psflip {first} exited with {status} before its pidfile was written"
                    ));
                }
                None
            })
        })
    }

    /// Waits until the first child is healthy, which is when psflip writes its pidfile (contract P1). Returns
    /// the handle: `let psflip = sandbox.psflip()….start().wait_ready();`.
    ///
    /// # Panics
    /// See [`Psflip::wait_pidfile`].
    #[track_caller]
    #[must_use]
    pub fn wait_ready(self) -> Self {
        self.wait_pidfile();
        self
    }

    /// Requests an upgrade from the active psflip by a signal, and does not wait for it.
    ///
    /// # Panics
    /// See [`Psflip::active`].
    #[track_caller]
    pub fn request_flip(&self) -> Process {
        let active = self.active();
        self.send(active, self.upgrade_signal);
        active
    }

    /// Requests an upgrade, and waits until the pidfile names a new psflip and the old one has exited.
    ///
    /// # Panics
    /// If that doesn't happen within the default deadline.
    #[track_caller]
    pub fn flip(&self) -> Flip {
        self.flip_by(Deadline::default())
    }

    /// [`Psflip::flip`] with a deadline of your own.
    ///
    /// # Panics
    /// If the upgrade isn't over at the deadline.
    #[track_caller]
    pub fn flip_by(&self, deadline: Deadline) -> Flip {
        let asked = Instant::now();
        let (marks, origin) = (&self.inner.marks, self.inner.started);
        let mark = marks.begin(origin);
        let old = self.request_flip();
        let new = self.wait_successor_by(deadline, old);
        let duration = asked.elapsed();
        marks.active(origin, mark);
        self.wait_gone_by(deadline, old);
        marks.over(origin, mark, None);
        Flip { old, new, duration, drained: asked.elapsed() }
    }

    /// Requests an upgrade that must fail, over the control socket beside the pidfile, and waits until it
    /// has. The same psflip and child are active after it.
    ///
    /// ```no_run
    /// # use psflip_testkit::Sandbox;
    /// # let sandbox = Sandbox::new();
    /// # let psflip = sandbox.psflip().cmd(["server"]).start().wait_ready();
    /// psflip.set_cmd(["server", "--no-such-flag"]);
    /// let failed = psflip.flip_fails();
    /// assert!(failed.reason.contains("exit code 2"), "{}", failed.reason);
    /// ```
    ///
    /// # Panics
    /// If it succeeds, isn't over at the default deadline, or the child is another one after it.
    #[track_caller]
    pub fn flip_fails(&self) -> FailedFlip {
        let (active, child, asked) = (self.active(), self.child(), Instant::now());
        let (marks, origin) = (&self.inner.marks, self.inner.started);
        let mark = marks.begin(origin);
        let mut request = Asking::ask(&self.control_path(), r#"{"psflip":1,"request":"upgrade"}"#);
        let events = request.until(&["failed", "promoted", "refused", "error", "moved", "stopped"]);
        let last = events.last().cloned().unwrap_or_default();
        let duration = asked.elapsed();
        let Some(reason) = last["reason"].as_str().filter(|_| last["event"] == "failed") else {
            report::fail(&format!("the upgrade did not fail: {last}"))
        };
        marks.over(origin, mark, Some(reason.to_owned()));
        if (self.active(), self.child()) != (active, child) {
            report::fail(&format!(
                "the upgrade failed ({reason}), and {active} or its child {child} is not active now"
            ));
        }
        FailedFlip { active, reason: reason.to_owned(), duration }
    }

    /// Changes the child's command in the configuration, for the next upgrade.
    ///
    /// # Panics
    /// If the configuration is a file of the test's own ([`crate::PsflipBuilder::config_file`]).
    #[track_caller]
    pub fn set_cmd<A: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = A>) {
        self.rewrite(|written| written.cmd = Some(cmd_line(argv)));
    }

    /// Changes the text of the configuration, for the next upgrade. As with [`crate::PsflipBuilder::config`],
    /// the command and the pidfile come before it.
    ///
    /// # Panics
    /// See [`Psflip::set_cmd`].
    #[track_caller]
    pub fn set_config(&self, text: impl Into<String>) {
        self.rewrite(|written| written.config = text.into());
    }

    #[track_caller]
    fn rewrite(&self, change: impl FnOnce(&mut Written)) {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(written) = &mut *written else {
            report::fail("the configuration is a file of the test's own: the test has to change it itself")
        };
        change(written);
        written.write();
    }

    /// The address of the `[[listen]]` with this name, with the port that the kernel chose for port 0. From
    /// the status, over the control socket beside the pidfile.
    ///
    /// ```no_run
    /// # use psflip_testkit::{Sandbox, client::http::HttpClient};
    /// # let sandbox = Sandbox::new();
    /// let psflip = sandbox
    ///     .psflip()
    ///     .cmd(["server"])
    ///     .config("[[listen]]\naddress = \"127.0.0.1:0\"\nname = \"web\"\n")
    ///     .start()
    ///     .wait_ready();
    /// let answer = HttpClient::tcp(psflip.address("web")).get("/up").unwrap();
    /// ```
    ///
    /// # Panics
    /// If there is none, or it has no TCP or UDP address.
    #[track_caller]
    #[must_use]
    pub fn address(&self, name: &str) -> SocketAddr {
        let status = control::status(&self.control_path());
        let listeners = status["listeners"].as_array().cloned().unwrap_or_default();
        let Some(found) = listeners.iter().find(|one| one["name"] == name) else {
            let names: Vec<_> = listeners.iter().map(|one| one["name"].to_string()).collect();
            report::fail(&format!("there is no `[[listen]]` named `{name}`, but {}", names.join(", ")))
        };
        socket_address(&found["address"])
    }

    /// The address at which the first `[[proxy]]` listens: see [`Psflip::address`].
    ///
    /// # Panics
    /// If there is none, or it has no TCP address.
    #[track_caller]
    #[must_use]
    pub fn proxy_address(&self) -> SocketAddr {
        socket_address(&control::status(&self.control_path())["proxies"][0]["listen"])
    }

    /// Waits until the pidfile names another living psflip than `old`, and returns it.
    ///
    /// # Panics
    /// If it doesn't within the default deadline, or all processes of the service have exited.
    #[track_caller]
    pub fn wait_successor(&self, old: Process) -> Process {
        self.wait_successor_by(Deadline::default(), old)
    }

    #[track_caller]
    fn wait_successor_by(&self, deadline: Deadline, old: Process) -> Process {
        let path = self.pidfile_path();
        let watch = self.watch();
        let pidfd = old.pidfd().ok(); // also check when it exits
        let mut fds = vec![watch.as_fd()];
        fds.extend(pidfd.as_ref().map(AsFd::as_fd));
        let what = format!("the pidfile `{}` to name a successor of {old}", path.display());
        wait_on(deadline, what, &fds, || {
            watch.take();
            let new = named_process(path).filter(|new| *new != old);
            if new.is_none()
                && !old.is_alive()
                && self.inner.members().is_empty()
                && named_process(path).is_none()
            {
                report::fail(&format!(
                    "psflip {old} was requested to upgrade and has exited; no process of the service is left"
                ));
            }
            new
        })
    }

    #[track_caller]
    fn watch(&self) -> NameWatch {
        match NameWatch::new(self.pidfile_path()) {
            Ok(watch) => watch,
            Err(error) => report::fail(&error),
        }
    }

    /// Sends a signal to the active psflip.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.send(self.active(), signal);
    }

    /// Sends a signal to the active psflip's child.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn signal_child(&self, signal: Signal) {
        self.send(self.child(), signal);
    }

    #[track_caller]
    fn send(&self, process: Process, signal: Signal) {
        if let Err(error) = process.signal(signal) {
            report::fail(&format!("{signal} can't be sent to process {process}: {error}"));
        }
    }

    /// The child of the active psflip, once its arguments and environment can be read. See [`child_of`].
    ///
    /// # Panics
    /// If there is none within the default deadline.
    #[track_caller]
    #[must_use]
    pub fn child(&self) -> Process {
        // A process in the middle of execve(2) shows neither, even when psflip already reports it as running.
        let shows = |child: &Process| {
            !child.is_alive() || child.cmdline().map_or(true, |arguments| !arguments.is_empty())
        };
        // Look up the active psflip each time: an upgrade may just have replaced it.
        wait_until(Deadline::default(), "the active psflip to have a child", || {
            child_of(self.active()).filter(shows)
        })
    }

    /// Waits until the active psflip's child sleeps in a system call, and returns it. A shell that has just
    /// written a line may not have begun to wait yet, and runs its trap for a signal only after its next command.
    ///
    /// # Panics
    /// If it doesn't within the default deadline.
    #[track_caller]
    pub fn wait_child_sleeps(&self) -> Process {
        let child = self.child();
        let what = format!("child {child} to sleep in a system call");
        wait_until(Deadline::default(), what, || (child.state() == ProcessState::Sleeping).then_some(child))
    }

    /// The pid of the active psflip's child.
    ///
    /// # Panics
    /// See [`Psflip::child`].
    #[track_caller]
    #[must_use]
    pub fn child_pid(&self) -> u32 {
        self.child().pid()
    }

    /// Waits until `process` has exited; reaps it if it was reparented to the test.
    ///
    /// # Panics
    /// If it still runs at the default deadline.
    #[track_caller]
    pub fn wait_gone(&self, process: Process) {
        self.wait_gone_by(Deadline::default(), process);
    }

    #[track_caller]
    fn wait_gone_by(&self, deadline: Deadline, process: Process) {
        self.inner.note(process);
        if let Ok(pidfd) = process.pidfd() {
            wait_on(deadline, format!("process {process} to exit"), &[pidfd.as_fd()], || {
                pidfd.has_exited().then_some(())
            });
        }
        self.inner.reap();
    }

    /// Waits until the first process has exited. Without an anchor, that happens after the first upgrade and
    /// is not the end of the service.
    ///
    /// # Panics
    /// If it still runs at the default deadline.
    #[track_caller]
    pub fn wait_exit(&self) -> ExitStatus {
        self.running.wait_exit()
    }

    /// Waits until a psflip of this service has exited, and returns its exit status. The status is known if
    /// the test started the process or it was reparented to the test, as every successor is.
    ///
    /// # Panics
    /// If it still runs at the default deadline, or another process reaped it.
    #[track_caller]
    pub fn wait_end_of(&self, process: Process) -> ExitStatus {
        if process == self.running.first() {
            return self.wait_exit();
        }
        self.wait_gone(process);
        match self.inner.status_of(process) {
            Some(status) => status,
            None => report::fail(&format!(
                "process {process} has exited, but its exit status went to another parent"
            )),
        }
    }

    /// Stops the service by SIGTERM to the active psflip, and returns its exit status, or that of the anchor,
    /// which is the same.
    ///
    /// # Panics
    /// If it still runs at the default deadline.
    #[track_caller]
    pub fn stop(&self) -> ExitStatus {
        let active = self.active();
        let anchored = active != self.running.first() && active.parent() == Some(self.running.first());
        self.wait_promoted(active);
        self.send(active, Signal::SIGTERM);
        if anchored { self.wait_exit() } else { self.wait_end_of(active) }
    }

    /// Waits until the generation is promoted. A new generation writes the pidfile just before its
    /// predecessor acknowledges it (contract U4). A stop in between would be a failed upgrade (F11). The log,
    /// if there is one, shows the promotion.
    #[track_caller]
    fn wait_promoted(&self, process: Process) {
        let says = |what: &str| self.log().contains(&format!(" pid={}}}: {what}", process.pid()));
        if !says("child started") {
            return;
        }
        wait_until(Deadline::default(), format!("psflip {process} to be promoted"), || {
            // In tests where writes fail the line may be lost; then the predecessor's exit shows the
            // promotion.
            let is_over = says("healthy, active")
                || !process.is_alive()
                || !has_other_generation(&self.inner.members(), process);
            is_over.then_some(())
        });
    }
}

/// A TCP or UDP address in a status.
#[track_caller]
fn socket_address(value: &serde_json::Value) -> SocketAddr {
    let text = value.as_str().unwrap_or_default();
    let address = text.rsplit("://").next().unwrap_or(text);
    address.parse().unwrap_or_else(|_| report::fail(&format!("{value} is no TCP or UDP address")))
}
