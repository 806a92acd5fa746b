//! A psflip with a child that is ready at once, and its pidfile, watched by inotify(7).

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::{Build, write_config};
use crate::Error;

/// The time limit of every wait.
const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

/// A running psflip. This process is its subreaper. So without an anchor every generation is its child, and a
/// pid can't be reused before it is reaped here.
pub(super) struct Supervised {
    /// The active generation.
    pub(super) pid: Pid,
    /// The started process, if it is the anchor.
    pub(super) anchor: Option<Pid>,
    pidfile: PathBuf,
    log: PathBuf,
    inotify: Inotify,
}

impl Supervised {
    /// Starts a psflip in a directory of its own, and waits for its pidfile.
    pub(super) fn start(build: &Build, directory: &Path) -> Result<Self, Error> {
        prctl::set_child_subreaper(true)?;
        let directory = directory.join(build.name);
        fs::create_dir_all(&directory)?;
        let (pidfile, log) = (directory.join("psflip.pid"), directory.join("log"));
        let config = write_config(&directory, "psflip.toml", &["sleep", "infinity"], Some(&pidfile))?;
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        inotify.add_watch(&directory, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE)?;
        let stderr = fs::File::create(&log)?;
        let mut command = Command::new(&build.program);
        command
            .args(build.arguments)
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        let child =
            command.spawn().map_err(|error| format!("can't start `{}`: {error}", build.program.display()))?;
        let started = Pid::from_raw(child.id().cast_signed());
        let mut this = Self { pid: started, anchor: None, pidfile, log, inotify };
        this.pid = this.wait_for_pid(|_| true)?;
        this.anchor = Some(started).filter(|started| *started != this.pid);
        this.reap();
        Ok(this)
    }

    /// Requests an upgrade, waits until the pidfile names the next generation, and returns how long that
    /// took. The old generation may still run.
    pub(super) fn flip(&mut self) -> Result<(Duration, Pid), Error> {
        let old = self.pid;
        let start = Instant::now();
        kill(self.anchor.unwrap_or(old), Signal::SIGHUP)?;
        self.pid = self.wait_for_pid(|pid| pid != old)?;
        Ok((start.elapsed(), old))
    }

    /// Waits until a generation has exited and its processes are reaped.
    pub(super) fn wait_until_gone(&self, generation: Pid) -> Result<(), Error> {
        if self.anchor.is_some() {
            // The anchor reaps it.
            let generation = testkit::Process::find(generation.as_raw().cast_unsigned());
            testkit::wait_until(testkit::Deadline::after(WAIT_TIMEOUT), "the old generation to exit", || {
                (!generation.is_some_and(|generation| generation.is_alive())).then_some(())
            });
            return Ok(());
        }
        match waitpid(generation, None) {
            Ok(WaitStatus::Exited(_, 0)) => {
                self.reap();
                Ok(())
            }
            Ok(status) => {
                Err(self.error(&format!("generation {generation} exited by {status:?} instead of code 0")))
            }
            Err(errno) => {
                Err(self.error(&format!("generation {generation} is no child of its subreaper: {errno}")))
            }
        }
    }

    /// Stops psflip, and waits until it has exited.
    pub(super) fn stop(&self) -> Result<(), Error> {
        let known = self.anchor.unwrap_or(self.pid);
        kill(known, Signal::SIGTERM)?;
        waitpid(known, None)?;
        self.reap();
        Ok(())
    }

    /// The pid in the pidfile, once it is a wanted one.
    fn wait_for_pid(&self, wanted: impl Fn(Pid) -> bool) -> Result<Pid, Error> {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            if let Some(pid) = self.named()?.filter(|pid| wanted(*pid)) {
                return Ok(pid);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.error(&format!(
                    "`{}` did not name the new generation within {WAIT_TIMEOUT:?}",
                    self.pidfile.display()
                )));
            }
            match poll(
                &mut [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)],
                PollTimeout::try_from(left)?,
            ) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            match self.inotify.read_events() {
                Ok(_) | Err(Errno::EAGAIN) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The pid in the pidfile; `None` while there is no pidfile.
    fn named(&self) -> Result<Option<Pid>, Error> {
        match fs::read_to_string(&self.pidfile) {
            Ok(text) => Ok(text.trim().parse().ok().map(Pid::from_raw)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("can't read `{}`: {error}", self.pidfile.display()).into()),
        }
    }

    /// Reaps processes that were reparented to this one, but never the active generation or the anchor.
    fn reap(&self) {
        let children = crate::guard::children().unwrap_or_default();
        for child in children.into_iter().filter(|child| *child != self.pid && Some(*child) != self.anchor) {
            let _ = waitpid(child, Some(WaitPidFlag::WNOHANG));
        }
    }

    fn error(&self, message: &str) -> Error {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let from = log.lines().count().saturating_sub(20);
        let tail: Vec<&str> = log.lines().skip(from).collect();
        format!("{message}; psflip's last lines:\n  {}", tail.join("\n  ")).into()
    }
}
