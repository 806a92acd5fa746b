//! A started program: its first process, output and exit status.

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

/// The number of final output lines in a report.
const TAIL: usize = 100;

/// A program that was started in a sandbox. Output and exit status stay available after it has exited.
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
    /// The executable, if it is a psflip.
    pub(crate) service: Option<PathBuf>,
    pub(crate) history: Option<PidfileHistory>,
}

/// The arguments of [`Running::new`].
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
        // Only this handle reaps the process, so the pid can't have been reused.
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

    /// The started process.
    #[must_use]
    pub fn first(&self) -> Process {
        self.first
    }

    /// The pid of the started process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.first.pid()
    }

    /// The command line, quoted for a shell.
    #[must_use]
    pub fn command_line(&self) -> &str {
        &self.line
    }

    /// The output of the program, its children and its successors.
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

    /// Sends a signal to the first process.
    ///
    /// # Panics
    /// If the signal can't be sent, for example because the process has exited.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = self.pidfd.signal(signal) {
            report::fail(&format!("{signal} can't be sent to process {}: {error}", self.first));
        }
    }

    /// The exit status of the first process, if it has exited.
    pub fn try_status(&self) -> Option<ExitStatus> {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let (child, status) = &mut *end;
        if status.is_none() {
            *status = child.try_wait().ok().flatten();
        }
        *status
    }

    /// True if a wait for any child (`waitpid(-1)`) elsewhere in the test has reaped the process.
    fn was_reaped_by_another(&self) -> bool {
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        end.1.is_none() && end.0.try_wait().is_err()
    }

    /// Sends a signal with a value to the first process; see [`queue_signal`].
    ///
    /// # Panics
    /// See [`queue_signal`].
    #[track_caller]
    pub fn queue_signal(&self, name: &str, value: i32) {
        queue_signal(self.first, name, value);
    }

    /// Waits until the first process has exited and, if no other process of the sandbox is left, until all
    /// output has been read.
    ///
    /// # Panics
    /// If it still runs at the default deadline.
    #[track_caller]
    pub fn wait_exit(&self) -> ExitStatus {
        self.wait_exit_by(Deadline::default())
    }

    /// [`Running::wait_exit`] with a deadline of your own.
    ///
    /// # Panics
    /// If it still runs at the deadline.
    #[track_caller]
    pub fn wait_exit_by(&self, deadline: Deadline) -> ExitStatus {
        let what = format!("process {} (`{}`) to exit", self.first, self.line);
        let status = wait_on(deadline, what, &[self.pidfd.as_fd()], || {
            self.try_status().or_else(|| {
                if self.pidfd.has_exited() && self.was_reaped_by_another() {
                    report::fail(&format!(
                        "process {} has exited, but another process has taken its exit status",
                        self.first
                    ));
                }
                None
            })
        });
        // Its last output is in the pipe already. If no other process has the pipe open, the end of file
        // follows at once.
        let others = self.sandbox.upgrade().is_some_and(|sandbox| !sandbox.members().is_empty());
        if !others {
            self.output.wait_closed();
        }
        status
    }

    /// Writes to stdin, which must be [`crate::Stdin::Pipe`], or types on the terminal (`"\x03"` is Ctrl-C).
    ///
    /// # Panics
    /// If the program has neither, or has closed it.
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

    /// Closes the pipe to stdin.
    pub fn close_stdin(&self) {
        self.stdin.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Resizes the terminal; its foreground process group gets SIGWINCH.
    ///
    /// # Panics
    /// If the program has no terminal.
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

    /// A pidfd: readable once the first process has exited.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(crate) fn describe(&self, text: &mut String) {
        let end =
            self.try_status().map_or_else(|| "running".to_owned(), |status| format!("exited with {status}"));
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
            let _ = writeln!(
                text,
                "--- {name}, last {shown} of {} lines (seconds since the start of the sandbox)",
                lines.len()
            );
            for line in &lines[lines.len() - shown..] {
                let _ = writeln!(text, "  {line}");
            }
        }
    }
}

/// Sends a signal with a value (sigqueue(3)), including real-time signals such as `RTMIN+3`. The receiver
/// sees the pid of `kill` (procps or util-linux) as the sender's.
///
/// # Panics
/// If it can't be sent.
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
    report::fail(&format!("SIG{name} can't be sent to process {process}: it has exited"));
}
