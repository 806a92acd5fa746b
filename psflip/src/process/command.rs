//! A command that psflip runs on the way: a health check's, or a hook.
//!
//! It runs under a keeper of its own, so that its end, or the end of psflip, is the end of all it started (contract H2, C7, C8).
//! Standard output and error go into one pipe, of which the end is kept for messages.

use std::ffi::CString;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::end::End;
use crate::process::keeper::{Report, Tree};
use crate::process::launch::{Launch, Refusal, Stage};
use crate::sys::early::SignalSetup;
use crate::sys::fd;
use crate::sys::seam::{self, Call};
use crate::text;

/// How much of the output is kept, in bytes.
const KEPT: usize = 4 * 1024;
/// How much is read at most in one go, in bytes: as much as a pipe holds by default (pipe(7)), so that a command that
/// writes without end can't keep psflip from its other work.
const GULP: usize = 64 * 1024;
/// How much of the program's path is shown, in characters.
const SHOWN: usize = 100;

/// The program, without its arguments: they may hold passwords, and messages are for logs.
fn shown(argv: &[String]) -> String {
    let program = text::head(&argv[0], SHOWN);
    if argv.len() > 1 { format!("{program} ...") } else { program }
}

/// A command that runs. Dropping it ends it and all that it started.
#[derive(Debug)]
pub struct SupervisedCommand {
    tree: Tree,
    /// `None`: every writer has closed it.
    output: Option<io::PipeReader>,
    kept: Vec<u8>,
    /// Readable when the tree, its first process, or the output is.
    either: Epoll,
    argv: Vec<String>,
}

impl SupervisedCommand {
    /// Starts it. `variables` are added to the environment `envp`.
    ///
    /// # Errors
    /// As text for the log: no descriptor, no process.
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
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?; // this end only: the command's own may block
        let tree = Tree::start(launch.with_output(writer.into()))?;
        seam::before(Call::EpollCreate)?;
        let either = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        seam::before(Call::EpollControl)?;
        either.add(&tree, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        seam::before(Call::EpollControl)?;
        either.add(&output, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self { tree, output: Some(output), kept: Vec::new(), either, argv: argv.to_vec() })
    }

    /// Reads what is there, for the command not to wait for a reader.
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
                    // It would be readable for ever.
                    let _ = self.either.delete(&*output);
                    self.output = None;
                    return;
                }
            }
        }
    }

    /// Goes as far as is possible without waiting: whether the command has ended with 0.
    ///
    /// # Errors
    /// It ended in another way, or could not be executed: as text for the log, with the end of its output.
    pub fn advance(&mut self) -> Result<bool, String> {
        self.drain();
        loop {
            match self.tree.next_report() {
                Ok(Some(Report::Ended(end))) => {
                    // What it wrote is in the pipe by now. Whoever else holds the pipe is not waited for.
                    self.drain();
                    return self.judge(end);
                }
                Ok(Some(Report::Refused(refusal))) => return Err(self.refused(&refusal)),
                Ok(Some(Report::Lost | Report::Gone)) => {
                    return Err(
                        self.with_output("exited, but its keeper was killed, so its exit status is unknown")
                    );
                }
                Ok(Some(Report::Started)) => {
                    if let Some(process) = self.tree.unreported_child() {
                        // Without it, an end that its keeper does not tell is known by the time that it takes.
                        let _ = self.either.add(process, EpollEvent::new(EpollFlags::EPOLLIN, 0));
                    }
                }
                Ok(Some(
                    Report::Stopped(_)
                    | Report::Continued
                    | Report::Other(_)
                    | Report::About { .. }
                    | Report::CaughtUp,
                )) => {}
                Ok(None) => {
                    // Its keeper is about to tell, or was stopped. What hangs has a time limit of its own.
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

    fn judge(&self, end: End) -> Result<bool, String> {
        match end {
            End::Exited(0) => Ok(true),
            End::Exited(code) => Err(self.with_output(&format!("exited with code {code}"))),
            End::Killed(signal) => Err(self.with_output(&format!("was killed by {signal}"))),
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

    /// What it wrote last, if anything.
    #[must_use]
    pub fn output(&self) -> Option<String> {
        text::tail(&self.kept)
    }

    /// That it did not end within `limit`, for the log.
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
