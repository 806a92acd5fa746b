//! A command that psflip runs during its work: the command of a health check, or a hook.
//!
//! It runs under a keeper of its own: when the command or psflip exits, everything that it started
//! is killed (contract H2, C7, C8). Standard output and standard error go into one pipe. The last
//! part of the output is kept for messages.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::exit_status::ExitStatus;
use crate::process::keeper::{Report, Tree};
use crate::process::launch::{Launch, Refusal, Stage};
use crate::sys::early::SignalSetup;
use crate::sys::fd;
use crate::sys::seam::{self, Call};
use crate::text;

/// How much of the output is kept, in bytes.
const KEPT: usize = 4 * 1024;
/// The most that is read at once, in bytes: as much as a pipe holds by default (pipe(7)). A command that
/// writes endlessly can't keep psflip from its other work.
const GULP: usize = 64 * 1024;
/// How much of the program's path is shown, in characters.
const SHOWN: usize = 100;

/// The program without its arguments: those may hold passwords, and messages go to logs.
fn shown(argv: &[String]) -> String {
    let program = text::head(&argv[0], SHOWN);
    if argv.len() > 1 { format!("{program} ...") } else { program }
}

/// A running command. Dropping it kills the command and everything that it started.
#[derive(Debug)]
pub struct SupervisedCommand {
    tree: Tree,
    /// `None`: every writer has closed the pipe.
    output: Option<io::PipeReader>,
    kept: Vec<u8>,
    /// Readable when the tree, its first process, or the output is.
    either: Epoll,
    argv: Vec<String>,
}

impl SupervisedCommand {
    /// Starts the command. `variables` are added to the environment `envp`.
    ///
    /// # Errors
    /// As text for the log: no file descriptor left, or fork failed.
    pub fn start(
        argv: &[String],
        envp: &[CString],
        variables: &[(&str, &str)],
        workdir: Option<PathBuf>,
        signals: SignalSetup,
    ) -> Result<Self, String> {
        let mut launch = Launch::new(argv, envp.to_vec(), workdir, signals);
        for (name, value) in variables {
            launch = launch.with_variable(name, value);
        }
        Self::launch(argv, launch).map_err(|error| format!("`{}` could not be started: {error}", shown(argv)))
    }

    fn launch(argv: &[String], launch: Launch) -> io::Result<Self> {
        seam::before(Call::Pipe)?;
        let (output, writer) = io::pipe()?;
        seam::before(Call::DescriptorFlags)?;
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?; // this end only: the command's end may block
        let tree = Tree::start(launch.with_output(writer.into()))?;
        seam::before(Call::EpollCreate)?;
        let either = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        seam::before(Call::EpollControl)?;
        either.add(&tree, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        seam::before(Call::EpollControl)?;
        either.add(&output, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { tree, output: Some(output), kept: Vec::new(), either, argv: argv.to_vec() })
    }

    /// Reads what is in the pipe, so that the command never waits for a reader.
    fn drain(&mut self) {
        let Some(output) = &mut self.output else { return };
        let mut buffer = [0; 4096];
        for _ in 0..GULP / buffer.len() {
            match output.read(&mut buffer) {
                Ok(length) if length > 0 => {
                    self.kept.extend_from_slice(&buffer[..length]);
                    let surplus = self.kept.len().saturating_sub(KEPT);
                    self.kept.drain(..surplus);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => {
                    // A closed pipe stays readable for ever.
                    let _ = self.either.delete(&*output);
                    self.output = None;
                    return;
                }
            }
        }
    }

    /// Proceeds as far as possible without waiting. Returns whether the command has exited with 0.
    ///
    /// # Errors
    /// The command failed, or could not be executed: as text for the log, with the last part of its output.
    pub fn advance(&mut self) -> Result<bool, String> {
        self.drain();
        loop {
            match self.tree.next_report() {
                Ok(Some(Report::Exited(end))) => {
                    // All output of the command is in the pipe by now. psflip does not wait for other
                    // processes that hold the pipe open.
                    self.drain();
                    return self.judge(end);
                }
                Ok(Some(Report::Refused(refusal))) => return Err(self.refused(&refusal)),
                Ok(Some(Report::KeeperDied | Report::Gone)) => {
                    return Err(
                        self.with_output("exited, but its keeper was killed, so its exit status is unknown")
                    );
                }
                Ok(Some(Report::Started)) => {
                    if let Some(process) = self.tree.unreported_child() {
                        // If this fails, an exit that the keeper does not report is noticed by
                        // the command's time limit.
                        let _ = self.either.add(process, EpollEvent::new(EpollFlags::EPOLLIN, 0));
                    }
                }
                Ok(Some(
                    Report::Stopped(_)
                    | Report::Continued
                    | Report::Other(_)
                    | Report::About { .. }
                    | Report::CaughtUp
                    | Report::Pending(_),
                )) => {}
                Ok(None) => {
                    // The keeper is about to report, or was stopped. A command that hangs has
                    // a time limit of its own.
                    if let Some(process) = self.tree.unreported_child().map(|process| process.as_raw_fd())
                        && self.tree.press_keeper().is_some()
                    {
                        fd::forget_in_epoll(self.either.0.as_fd(), process); // it would be ready for ever
                    }
                    return Ok(false);
                }
                Err(error) => return Err(self.with_output(&format!("could not be watched: {error}"))),
            }
        }
    }

    fn judge(&self, end: ExitStatus) -> Result<bool, String> {
        match end {
            ExitStatus::Exited(0) => Ok(true),
            ExitStatus::Exited(code) => Err(self.with_output(&format!("exited with code {code}"))),
            ExitStatus::Killed(signal) => Err(self.with_output(&format!("was killed by {signal}"))),
        }
    }

    fn refused(&self, refusal: &Refusal) -> String {
        let error = &refusal.error;
        let why = match (refusal.stage, error.kind()) {
            (Stage::Exec, io::ErrorKind::NotFound) => "command not found",
            (Stage::Exec, _) => "can't be executed",
            (Stage::Workdir, _) => "its working directory can't be entered",
            (Stage::Fork | Stage::ParentDeath, _) => "could not be started",
        };
        format!("`{}`: {why}: {error}", shown(&self.argv))
    }

    fn with_output(&self, what: &str) -> String {
        let command = shown(&self.argv);
        match text::tail(&self.kept) {
            Some(tail) => format!("`{command}` {what}: {tail}"),
            None => format!("`{command}` {what}, without output"),
        }
    }

    /// The last lines of the output, if there are any.
    #[must_use]
    pub fn output(&self) -> Option<String> {
        text::tail(&self.kept)
    }

    /// The message for the log that the command did not exit within `limit`.
    #[must_use]
    pub fn overdue(&self, limit: Duration) -> String {
        self.with_output(&format!("gave no answer within {limit:?}"))
    }
}

/// Readable when [`SupervisedCommand::advance`] has something to do.
impl AsFd for SupervisedCommand {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.either.0.as_fd()
    }
}
