//! A started program: its first process, its output, its end.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{PipeWriter, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use nix::sys::signal::Signal;

use crate::output::{Output, Stream};
use crate::pidfd::PidFd;
use crate::pidfile::PidfileHistory;
use crate::process::Process;
use crate::report;
use crate::sandbox::Inner;
use crate::wait::{Deadline, wait_on};

/// How many of the last lines a report shows.
const TAIL: usize = 100;

/// A program that was started in a sandbox. It may have ended; its handle still knows its output and its exit status.
#[derive(Debug)]
pub struct Running {
    sandbox: Weak<Inner>,
    first: Process,
    pidfd: PidFd,
    end: Mutex<(Child, Option<ExitStatus>)>,
    output: Arc<Output>,
    started: Instant,
    line: String,
    env_changes: Vec<String>,
    terminal: Option<File>,
    stdin: Mutex<Option<PipeWriter>>,
    /// The executable, when it is a psflip.
    pub(crate) service: Option<PathBuf>,
    pub(crate) history: Option<PidfileHistory>,
}

/// What [`Running::new`] is made of.
pub(crate) struct Start<'a> {
    pub(crate) inner: &'a Arc<Inner>,
    pub(crate) child: Child,
    pub(crate) output: Arc<Output>,
    pub(crate) started: Instant,
    pub(crate) line: String,
    pub(crate) env_changes: Vec<String>,
    pub(crate) terminal: Option<File>,
    pub(crate) stdin: Option<PipeWriter>,
    pub(crate) service: Option<PathBuf>,
    pub(crate) history: Option<PidfileHistory>,
}

impl Running {
    pub(crate) fn new(start: Start<'_>) -> Result<Arc<Self>, String> {
        // Nobody else reaps it before we do, so its pid is still its own.
        let pid = start.child.id();
        let first = Process::find(pid).ok_or_else(|| format!("/proc doesn't show our own child {pid}"))?;
        let pidfd = PidFd::open(pid).map_err(|error| format!("pidfd_open(2) of `{pid}` failed: {error}"))?;
        Ok(Arc::new(Self {
            sandbox: Arc::downgrade(start.inner),
            first,
            pidfd,
            end: Mutex::new((start.child, None)),
            output: start.output,
            started: start.started,
            line: start.line,
            env_changes: start.env_changes,
            terminal: start.terminal,
            stdin: Mutex::new(start.stdin),
            service: start.service,
            history: start.history,
        }))
    }

    /// The process that was started.
    #[must_use]
    pub fn first(&self) -> Process {
        self.first
    }

    /// The pid of the process that was started.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.first.pid()
    }

    /// The command line, quoted for a shell.
    #[must_use]
    pub fn command_line(&self) -> &str {
        &self.line
    }

    /// Everything that it, its children and its successors have written.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.output.text(Stream::Stdout)
    }

    /// Standard error so far: psflip's log.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.output.text(Stream::Stderr)
    }

    /// Sends a signal to the first process; fails when it has ended.
    ///
    /// # Panics
    /// When the signal can't be sent.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = self.pidfd.signal(signal) {
            report::fail(&format!("{signal} can't be sent to process {}: {error}", self.first));
        }
    }

    /// The exit status of the first process, if it has ended.
    pub fn try_status(&self) -> Option<ExitStatus> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let (child, status) = &mut *end;
        if status.is_none() {
            *status = child.try_wait().ok().flatten();
        }
        *status
    }

    /// A wait for any child (`waitpid(-1)`) somewhere in the test takes what is not its own.
    fn was_reaped_by_another(&self) -> bool {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.1.is_none() && end.0.try_wait().is_err()
    }

    /// Sends a signal with a payload to the first process; see [`queue_signal`].
    ///
    /// # Panics
    /// As [`queue_signal`].
    #[track_caller]
    pub fn queue_signal(&self, name: &str, value: i32) {
        queue_signal(self.first, name, value);
    }

    /// Waits for the end of the first process, and then for all output of everyone when nobody else can write any more.
    ///
    /// # Panics
    /// When it runs longer than the default deadline.
    #[track_caller]
    pub fn wait_exit(&self) -> ExitStatus {
        self.wait_exit_by(Deadline::default())
    }

    /// As [`Running::wait_exit`], with a deadline of your own.
    ///
    /// # Panics
    /// When it runs longer.
    #[track_caller]
    pub fn wait_exit_by(&self, deadline: Deadline) -> ExitStatus {
        let what = format!("the end of process {} (`{}`)", self.first, self.line);
        let status = wait_on(deadline, what, &[self.pidfd.as_fd()], || {
            self.try_status().or_else(|| {
                if self.pidfd.has_ended() && self.was_reaped_by_another() {
                    report::fail(&format!(
                        "process {} has ended, but somebody else has taken its exit status",
                        self.first
                    ));
                }
                None
            })
        });
        // What it wrote before its end is in the pipe; when nobody else has the pipe open, its end is there at once.
        let others = self.sandbox.upgrade().is_some_and(|sandbox| !sandbox.members().is_empty());
        if !others {
            self.output.wait_closed();
        }
        status
    }

    /// Writes to its stdin, which must be [`crate::Stdin::Pipe`], or types on its terminal (`"\x03"` is Ctrl-C).
    ///
    /// # Panics
    /// When it has neither, or nobody reads any more.
    #[track_caller]
    pub fn write_stdin(&self, text: impl AsRef<[u8]>) {
        let mut pipe = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        let result = match (&self.terminal, &mut *pipe) {
            (Some(terminal), _) => (&*terminal).write_all(text.as_ref()),
            (None, Some(pipe)) => pipe.write_all(text.as_ref()),
            (None, None) => {
                drop(pipe);
                report::fail(&format!("`{}` has neither a terminal nor a pipe as stdin", self.line))
            }
        };
        if let Err(error) = result {
            drop(pipe);
            report::fail(&format!("the stdin of `{}` can't be written: {error}", self.line));
        }
    }

    /// Closes the pipe that is its stdin.
    pub fn close_stdin(&self) {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Gives its terminal another size; the foreground process group gets SIGWINCH.
    ///
    /// # Panics
    /// When it has no terminal.
    #[track_caller]
    pub fn resize(&self, rows: u16, columns: u16) {
        let Some(terminal) = &self.terminal else {
            report::fail(&format!("`{}` has no terminal", self.line))
        };
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        if let Err(error) = rustix::termios::tcsetwinsize(terminal, size) {
            report::fail(&format!("the terminal of `{}` can't be resized: {error}", self.line));
        }
    }

    /// Readable once the first process has ended.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(crate) fn describe(&self, text: &mut String) {
        let end =
            self.try_status().map_or_else(|| "running".to_owned(), |status| format!("ended with {status}"));
        let _ = writeln!(
            text,
            "--- command (first process {}, {end}, started {:.3} s ago)",
            self.first,
            self.started.elapsed().as_secs_f64()
        );
        let _ = writeln!(text, "  {}", self.line);
        for change in &self.env_changes {
            let _ = writeln!(text, "  environment: {change}");
        }
        if let Some(history) = &self.history {
            history.describe(text);
        }
        let lines = self.output.lines();
        for (stream, name) in
            [(Stream::Stdout, "stdout"), (Stream::Stderr, "stderr"), (Stream::Pty, "terminal")]
        {
            let lines: Vec<_> = lines.iter().filter(|line| line.stream == stream).collect();
            if stream == Stream::Pty && lines.is_empty() {
                continue;
            }
            let shown = lines.len().min(TAIL);
            let _ =
                writeln!(text, "--- {name}, last {shown} of {} lines (seconds since its start)", lines.len());
            for line in &lines[lines.len() - shown..] {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
}

/// Sends a signal with a payload (sigqueue(3)), also a real-time one: `RTMIN+3`. It is sent by the program `kill` of procps or
/// util-linux, whose pid the receiver sees as the sender.
///
/// # Panics
/// When it can't be sent.
#[track_caller]
pub fn queue_signal(process: Process, name: &str, value: i32) {
    let name = name.trim_start_matches("SIG");
    if process.is_alive() {
        let (value, pid) = (value.to_string(), process.pid().to_string());
        let output = Command::new("/bin/kill").args(["-s", name, "-q", &value, &pid]).output();
        match output {
            Ok(output) if output.status.success() => return,
            Ok(output) => report::fail(&format!(
                "SIG{name} can't be sent to process {process}: {}",
                String::from_utf8_lossy(&output.stderr).trim_end()
            )),
            Err(error) => report::fail(&format!("`/bin/kill` can't be run: {error}")),
        }
    }
    report::fail(&format!("SIG{name} can't be sent to process {process}: it has ended"));
}
