//! A psflip in a sandbox: the service it keeps up, through however many generations.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::family::{child_of, has_other_generation};
use crate::output::{Line, Output, Stream};
use crate::pidfile::{NameWatch, PidfileHistory, named_process};
use crate::process::Process;
use crate::report;
use crate::running::Running;
use crate::sandbox::Inner;
use crate::wait::{Deadline, wait_on, wait_until};

/// A started psflip and everything that follows it: the handle follows the service from generation to generation.
#[derive(Debug)]
pub struct Psflip {
    pub(crate) inner: Arc<Inner>,
    pub(crate) running: Arc<Running>,
    pub(crate) pidfile: Option<PathBuf>,
    pub(crate) upgrade_signal: Signal,
}

/// A flip that has succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flip {
    /// The psflip that was asked.
    pub old: Process,
    /// The psflip that took over.
    pub new: Process,
    /// From the request to the pidfile naming the new one: the flip itself.
    pub duration: Duration,
    /// From the request to the end of the old one.
    pub drained: Duration,
}

impl Psflip {
    /// The started program: its output, stdin, terminal, and the first process.
    #[must_use]
    pub fn program(&self) -> &Running {
        &self.running
    }

    /// Everything that was written by psflip and its children, all generations.
    #[must_use]
    pub fn output(&self) -> &Output {
        self.running.output()
    }

    /// psflip's log so far: its standard error.
    #[must_use]
    pub fn log(&self) -> String {
        self.running.stderr()
    }

    /// Waits for the first line on `stream` that contains `part`. See [`Output::wait_after`] for a second one.
    ///
    /// # Panics
    /// When it doesn't come.
    #[track_caller]
    pub fn wait_for_line(&self, stream: Stream, part: &str) -> Line {
        self.output().wait(stream, part)
    }

    /// The pid of the psflip that was started first.
    #[must_use]
    pub fn first_pid(&self) -> u32 {
        self.running.pid()
    }

    /// The psflip that the pidfile names.
    ///
    /// # Panics
    /// When the pidfile is missing or names no living process.
    #[track_caller]
    #[must_use]
    pub fn active(&self) -> Process {
        let path = self.pidfile_path();
        named_process(path).unwrap_or_else(|| {
            report::fail(&format!("the pidfile `{}` names no living process", path.display()));
        })
    }

    /// The pid in the pidfile.
    ///
    /// # Panics
    /// As [`Psflip::active`].
    #[track_caller]
    #[must_use]
    pub fn active_pid(&self) -> u32 {
        self.active().pid()
    }

    /// The pidfile.
    ///
    /// # Panics
    /// When this psflip has none.
    #[track_caller]
    #[must_use]
    pub fn pidfile_path(&self) -> &Path {
        match &self.pidfile {
            Some(path) => path,
            None => {
                report::fail("this psflip was started without a pidfile, so nothing says which one is active")
            }
        }
    }

    /// The control socket, where it is by default.
    ///
    /// # Panics
    /// When this psflip has no pidfile.
    #[track_caller]
    #[must_use]
    pub fn control_path(&self) -> PathBuf {
        let mut path = self.pidfile_path().as_os_str().to_owned();
        path.push(".sock");
        path.into()
    }

    /// Every content that the pidfile had since before psflip was started.
    ///
    /// # Panics
    /// When this psflip has no pidfile.
    #[track_caller]
    #[must_use]
    pub fn history(&self) -> &PidfileHistory {
        match &self.running.history {
            Some(history) => history,
            None => report::fail("this psflip was started without a pidfile"),
        }
    }

    /// Waits until the pidfile names a living psflip; gives it.
    ///
    /// # Panics
    /// When it doesn't, or psflip ends before it does.
    #[track_caller]
    pub fn wait_pidfile(&self) -> Process {
        let path = self.pidfile_path();
        let watch = self.watch();
        let what = format!("the pidfile `{}` to name a living process", path.display());
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
                        "psflip {first} ended with {status} before its pidfile was written"
                    ));
                }
                None
            })
        })
    }

    /// Waits until the first child is healthy: that is when psflip writes its pidfile (contract P1). Gives the handle, for
    /// `let psflip = sandbox.psflip()….start().wait_ready();`.
    ///
    /// # Panics
    /// As [`Psflip::wait_pidfile`].
    #[track_caller]
    #[must_use]
    pub fn wait_ready(self) -> Self {
        self.wait_pidfile();
        self
    }

    /// Asks the active psflip for an upgrade, by signal, and does not wait for it.
    ///
    /// # Panics
    /// As [`Psflip::active`].
    #[track_caller]
    pub fn request_flip(&self) -> Process {
        let active = self.active();
        self.send(active, self.upgrade_signal);
        active
    }

    /// Asks for an upgrade and waits until the pidfile names a new psflip and the old one is gone.
    ///
    /// # Panics
    /// When it doesn't happen within the default deadline.
    #[track_caller]
    pub fn flip(&self) -> Flip {
        self.flip_by(Deadline::default())
    }

    /// As [`Psflip::flip`], with a deadline of your own.
    ///
    /// # Panics
    /// When it doesn't happen in time.
    #[track_caller]
    pub fn flip_by(&self, deadline: Deadline) -> Flip {
        let asked = Instant::now();
        let old = self.request_flip();
        let new = self.wait_successor_by(deadline, old);
        let duration = asked.elapsed();
        self.wait_gone_by(deadline, old);
        Flip { old, new, duration, drained: asked.elapsed() }
    }

    /// Waits until the pidfile names another living psflip than `old`; gives it.
    ///
    /// # Panics
    /// When it doesn't, or nothing of the service lives any more.
    #[track_caller]
    pub fn wait_successor(&self, old: Process) -> Process {
        self.wait_successor_by(Deadline::default(), old)
    }

    #[track_caller]
    fn wait_successor_by(&self, deadline: Deadline, old: Process) -> Process {
        let path = self.pidfile_path();
        let watch = self.watch();
        let pidfd = old.pidfd().ok(); // its end is worth a look too
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
                    "psflip {old} was asked for an upgrade and has ended; nothing of the service is left"
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
    /// When there is none.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.send(self.active(), signal);
    }

    /// Sends a signal to the active psflip's child.
    ///
    /// # Panics
    /// When there is none.
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

    /// The child of the active psflip, once it shows its arguments and its environment. See [`child_of`].
    ///
    /// # Panics
    /// When it has none within the default deadline.
    #[track_caller]
    #[must_use]
    pub fn child(&self) -> Process {
        // In the middle of execve(2) a process shows neither: psflip may be told already that it runs.
        let shows = |child: &Process| {
            !child.is_alive() || child.cmdline().map_or(true, |arguments| !arguments.is_empty())
        };
        // The active one is looked up anew: it may just have been replaced.
        wait_until(Deadline::default(), "the active psflip to have a child", || {
            child_of(self.active()).filter(shows)
        })
    }

    /// The pid of the active psflip's child.
    ///
    /// # Panics
    /// As [`Psflip::child`].
    #[track_caller]
    #[must_use]
    pub fn child_pid(&self) -> u32 {
        self.child().pid()
    }

    /// Waits until `process` has ended, and reaps it when it fell to the test.
    ///
    /// # Panics
    /// When it still lives at the default deadline.
    #[track_caller]
    pub fn wait_gone(&self, process: Process) {
        self.wait_gone_by(Deadline::default(), process);
    }

    #[track_caller]
    fn wait_gone_by(&self, deadline: Deadline, process: Process) {
        self.inner.note(process);
        if let Ok(pidfd) = process.pidfd() {
            wait_on(deadline, format!("the end of process {process}"), &[pidfd.as_fd()], || {
                pidfd.has_ended().then_some(())
            });
        }
        self.inner.reap();
    }

    /// Waits for the end of the first psflip; after a flip that is not the end of the service.
    ///
    /// # Panics
    /// When it still runs at the default deadline.
    #[track_caller]
    pub fn wait_exit(&self) -> ExitStatus {
        self.running.wait_exit()
    }

    /// Waits for the end of any psflip of this service; its exit status is known when it was started by the test or fell to
    /// it, as every successor does.
    ///
    /// # Panics
    /// When it still runs at the default deadline, or somebody else reaped it.
    #[track_caller]
    pub fn wait_end_of(&self, process: Process) -> ExitStatus {
        if process == self.running.first() {
            return self.wait_exit();
        }
        self.wait_gone(process);
        match self.inner.status_of(process) {
            Some(status) => status,
            None => report::fail(&format!(
                "process {process} has ended, but its exit status went to another parent"
            )),
        }
    }

    /// Ends the service: SIGTERM to the active psflip; waits for its end and gives its exit status, or that of the process that stays
    /// above all generations (the anchor), which is the same.
    ///
    /// # Panics
    /// When it still runs at the default deadline.
    #[track_caller]
    pub fn stop(&self) -> ExitStatus {
        let active = self.active();
        let anchored = active != self.running.first() && active.parent() == Some(self.running.first());
        self.wait_promoted(active);
        self.send(active, Signal::SIGTERM);
        if anchored { self.wait_exit() } else { self.wait_end_of(active) }
    }

    /// Whom the pidfile names may not be the service yet: it takes the pidfile just before its predecessor acknowledges it (contract
    /// U4), and a stop at that moment ends it as a generation that failed (F11). Its log, where it has one, says when it is.
    #[track_caller]
    fn wait_promoted(&self, process: Process) {
        let says = |what: &str| self.log().contains(&format!(" pid={}}}: {what}", process.pid()));
        if !says("child started") {
            return;
        }
        wait_until(Deadline::default(), format!("psflip {process} to be promoted"), || {
            // In a test where writing fails the line may be lost; then the predecessor's end says it.
            let is_over = says("healthy, active")
                || !process.is_alive()
                || !has_other_generation(&self.inner.members(), process);
            is_over.then_some(())
        });
    }
}
