//! Where the child's output goes (`[output]`): a pipe, and a process at its other end that appends to a file
//! (`writer.rs`), or keeps a logger running (`logger.rs`).
//!
//! That process is a fork of psflip without an exec, like a keeper, but it is not tied to psflip: it reads
//! until every process that writes has closed the pipe. So the last lines arrive, however the child ends and
//! psflip with it (contract N1). psflip holds the reading end as well, and starts the process again if it is
//! killed, so that the child never gets SIGPIPE (N2).

mod file;
mod logger;
mod writer;

use std::ffi::CString;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::kill;
use nix::unistd::Pid;

pub use self::file::LogFile;
pub(crate) use self::file::no_link;
use crate::config::{FileOptions, Target};
use crate::process::reaper;
use crate::signal::Signal;
use crate::sys::early::SignalSetup;
use crate::sys::memory;
use crate::sys::pidfd::PidFd;
use crate::sys::process::{self, Fork};
use crate::sys::seam::{self, Call, Moment};
use crate::sys::socket::Socket;
use crate::sys::wait;

/// How long a logger may take to exit once no process can write to it any more. Then it is killed.
const LAST_LINES: Duration = Duration::from_secs(5);
/// How long psflip and the anchor wait for output processes before they exit: these have killed their loggers
/// by then.
pub const PATIENCE: Duration = Duration::from_secs(6);
/// The shortest time between two starts of the same process or logger.
pub const PAUSE: Duration = Duration::from_secs(1);

/// What an output process is started with.
#[derive(Clone, Copy)]
pub struct Setting<'s> {
    /// The environment of a logger.
    pub envp: &'s [CString],
    /// The working directory of a logger; `None`: psflip's own.
    pub workdir: Option<&'s Path>,
    /// The signal mask and ignored signals of a logger.
    pub signals: SignalSetup,
    /// The generation, for messages.
    pub generation: u64,
    /// Called in the new process.
    pub announce: &'s dyn Fn(),
}

/// A pipe for the child's output, and the process that reads it.
#[derive(Debug)]
pub struct Channel {
    target: Target,
    reader: PipeReader,
    /// The child's end, kept for the children of later generations. Only of a logger: they share it.
    writer: Option<PipeWriter>,
    /// The file, until the first process takes it.
    file: Option<LogFile>,
    process: Option<Running>,
    /// When the last process was started.
    started: Option<Instant>,
    /// How many of the last processes have exited soon after their start.
    quick: u32,
}

#[derive(Debug)]
struct Running {
    /// `None`: it is not a child of this process.
    pid: Option<u32>,
    process: PidFd,
    /// For [`Channel::reopen`]. `None`: the process was started by another generation.
    commands: Option<Socket>,
}

impl Running {
    /// A process that another generation has started.
    fn elsewhere(process: PidFd) -> Self {
        Self { pid: None, process, commands: None }
    }
}

/// Why an output process has exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was written, and no process can write any more.
    Finished,
    /// It was killed.
    TooEarly,
}

impl Channel {
    /// Makes the pipe. Returns it with the child's end. `file`: for [`Target::Append`].
    ///
    /// # Errors
    /// EMFILE, ENFILE.
    pub fn new(target: &Target, file: Option<LogFile>) -> io::Result<(Self, OwnedFd)> {
        seam::before(Call::Pipe)?;
        let (reader, writer) = io::pipe()?;
        let is_shared = matches!(target, Target::Pipe(_));
        let kept = is_shared.then(|| duplicate(&writer)).transpose()?;
        let channel = Self {
            target: target.clone(),
            reader,
            writer: kept,
            file,
            process: None,
            started: None,
            quick: 0,
        };
        Ok((channel, writer.into()))
    }

    /// A logger that another generation has started. `process`: its output process, if that runs.
    #[must_use]
    pub fn of_logger(line: String, reader: OwnedFd, writer: OwnedFd, process: Option<PidFd>) -> Self {
        Self {
            target: Target::Pipe(line),
            reader: reader.into(),
            writer: Some(writer.into()),
            file: None,
            process: process.map(Running::elsewhere),
            started: None,
            quick: 0,
        }
    }

    /// Another generation has started the process again.
    pub fn set_process(&mut self, process: PidFd) {
        self.process = Some(Running::elsewhere(process));
    }

    /// What another generation needs to share a logger: both ends of the pipe, and the process if it runs.
    /// `None`: it is no logger.
    #[must_use]
    pub fn shared(&self) -> Option<Vec<BorrowedFd<'_>>> {
        let writer = self.writer.as_ref()?;
        Some([self.reader.as_fd(), writer.as_fd()].into_iter().chain(self.process()).collect())
    }

    /// Where it leads.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Another copy of the child's end, for a logger that is still there.
    ///
    /// # Errors
    /// EMFILE.
    pub fn writer(&self) -> io::Result<Option<OwnedFd>> {
        self.writer.as_ref().map(duplicate).transpose().map(|writer| writer.map(Into::into))
    }

    /// Starts the process that reads.
    ///
    /// # Errors
    /// Those of socketpair(2), fork(2) and pidfd_open(2): EMFILE, EAGAIN, ENOMEM, ...
    pub fn start(&mut self, setting: &Setting<'_>, files: &FileOptions) -> io::Result<()> {
        self.started = Some(Instant::now());
        let (ours, theirs) = Socket::pair()?;
        let file = self.file.take();
        match process::fork()? {
            Fork::Child => {
                drop(ours);
                self.run(file, setting, files, &theirs)
            }
            Fork::Parent(pid) => {
                // It is a child of this process and not reaped: the pid can't have been reused.
                reaper::output_has_started(pid);
                let process = PidFd::open(pid).inspect_err(|_| {
                    // Nobody would notice its exit, and the next one would read beside it.
                    let _ = kill(Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL);
                })?;
                self.process = Some(Running { pid: Some(pid), process, commands: Some(ours) });
                Ok(())
            }
        }
    }

    /// The process itself. All signals are blocked, as they are in psflip.
    fn run(
        &self,
        file: Option<LogFile>,
        setting: &Setting<'_>,
        options: &FileOptions,
        commands: &Socket,
    ) -> ! {
        process::set_name(c"psflip: output");
        memory::reserve_stack();
        seam::step(Moment::Begins, format_args!("output"));
        // A signal to psflip's group must not end it, nor a stop that psflip can't see any more. Both can
        // only fail under a test.
        let _ = process::lead_group();
        let _ = process::continue_on_parent_exit();
        (setting.announce)();
        let reader = self.reader.as_fd();
        match &self.target {
            Target::Pipe(line) => {
                process::close_above_standard(&[reader]);
                logger::keep(reader, line, setting)
            }
            Target::Append(path) => {
                let file = file.unwrap_or_else(|| LogFile::unopened(path, options));
                let open = [Some(reader), Some(commands.as_fd()), file.as_fd()];
                process::close_above_standard(&open.into_iter().flatten().collect::<Vec<_>>());
                writer::run(reader, commands, file, setting.generation)
            }
            Target::Inherit | Target::Null => process::exit_now(0),
        }
    }

    /// The process that reads: readable when it has exited.
    #[must_use]
    pub fn process(&self) -> Option<BorrowedFd<'_>> {
        self.process.as_ref().map(|running| running.process.as_fd())
    }

    /// Whether its process has exited since the last call, and why. What is left of its logger is killed.
    /// `forget` is called while the descriptor of [`Channel::process`] is still open.
    pub fn has_exited(&mut self, forget: impl FnOnce()) -> Option<Exit> {
        let Running { pid, .. } = self.process.take_if(|running| {
            let is_over = running.process.has_exited();
            if is_over {
                forget();
            }
            is_over
        })?;
        // A logger may consist of several processes, all of its group. As long as the process is not reaped,
        // no other group has its number.
        if let Some(pid) = pid.filter(|pid| wait::is_child(*pid)) {
            let _ = process::signal_group(pid, Signal::KILL); // it may be empty
        }
        Some(if state(self.reader.as_fd()).is_over() { Exit::Finished } else { Exit::TooEarly })
    }

    /// When to start its process again, which has exited too early: at once, but from the second time on that
    /// it ran for less than [`PAUSE`] only so often.
    #[must_use]
    pub fn next_start(&mut self) -> Duration {
        let left = self.started.map_or(Duration::ZERO, |started| PAUSE.saturating_sub(started.elapsed()));
        self.quick = if left.is_zero() { 0 } else { self.quick + 1 };
        if self.quick > 1 { left } else { Duration::ZERO }
    }

    /// What it is for messages: the file, or the logger's program without its arguments.
    #[must_use]
    pub fn shown(&self) -> String {
        match &self.target {
            Target::Pipe(line) => logger::shown(line),
            Target::Append(_) | Target::Inherit | Target::Null => self.target.to_string(),
        }
    }

    /// The file that can be opened again.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.target.file()
    }

    /// Requests that its process opens the file again, and sends the result to this client of the control
    /// socket. Returns whether it will; without a process, the next one opens the file.
    ///
    /// # Errors
    /// EAGAIN: it hangs. EPIPE: it has just exited.
    pub fn reopen(&self, client: BorrowedFd<'_>) -> io::Result<bool> {
        let commands = self.process.as_ref().and_then(|running| running.commands.as_ref());
        let Some(commands) = commands else { return Ok(false) };
        commands.send(writer::REOPEN, &[client]).map(|()| true)
    }

    /// Closes the child's end.
    pub fn close(&mut self) {
        self.writer = None;
    }

    /// Waits until the process has exited, at most until this time.
    pub fn wait(&self, until: Instant) {
        if let Some(running) = &self.process {
            running.process.wait(until);
        }
    }
}

fn duplicate(writer: &PipeWriter) -> io::Result<PipeWriter> {
    seam::before(Call::Dup)?;
    writer.try_clone()
}

/// The state of a pipe, seen from its reading end.
#[derive(Clone, Copy, Debug)]
struct PipeState {
    has_data: bool,
    /// No process can write any more.
    is_closed: bool,
}

impl PipeState {
    fn is_over(self) -> bool {
        self.is_closed && !self.has_data
    }
}

fn state(reader: BorrowedFd<'_>) -> PipeState {
    let mut fds = [PollFd::new(reader, PollFlags::POLLIN)];
    let _ = poll(&mut fds, PollTimeout::ZERO); // it can't fail: all signals are blocked
    let found = fds[0].revents().unwrap_or(PollFlags::empty());
    let has = |flag| found.contains(flag);
    PipeState { has_data: has(PollFlags::POLLIN), is_closed: has(PollFlags::POLLHUP) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seam::testing;
    use nix::errno::Errno;
    use std::io::Read as _;

    #[test]
    fn a_process_that_could_not_be_watched_does_not_run_on() {
        // Contract: F10
        let target = Target::Append("out.log".into());
        let (mut channel, _writer) = Channel::new(&target, None).unwrap();
        let (mut until, held) = io::pipe().unwrap();
        let announce = || loop {
            std::thread::park(); // in the new process, which has a copy of `held`
        };
        let signals = crate::sys::early::inherited_signals();
        let setting = Setting { envp: &[], workdir: None, signals, generation: 1, announce: &announce };
        let (started, calls) =
            testing::with(Some((2, Errno::EMFILE)), || channel.start(&setting, &FileOptions::default()));
        assert_eq!(started.unwrap_err().raw_os_error(), Some(libc::EMFILE));
        assert_eq!(calls, [Call::Socketpair, Call::Fork, Call::PidfdOpen]);
        drop(held);
        assert_eq!(until.read(&mut [0]).unwrap(), 0, "it is gone");
        assert!(channel.process().is_none());
    }
}
