//! `command`: the child is healthy when a command exits 0.
//!
//! The command runs under a keeper of its own, so that its end, or the end of psflip, is the end of all it started
//! (contract H2, C7). Standard output and error go into one pipe, of which the end is kept for messages.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::{Attempt, Begun, ChildInfo, Interest, Probe, Progress, text};
use crate::end::End;
use crate::keeper::{Report, Tree};
use crate::launch::{Launch, Refusal, Stage};
use crate::sys::seam::{self, Call};

/// How much of the output is kept, in bytes.
const KEPT: usize = 4 * 1024;
/// How much is read at most in one go, in bytes: as much as a pipe holds by default (pipe(7)), so that a command that
/// writes without end can't keep psflip from its other work.
const GULP: usize = 64 * 1024;
/// How much of the command is shown, in characters.
const SHOWN: usize = 100;

pub(super) struct Command {
    argv: Vec<String>,
}

impl Command {
    pub(super) fn new(argv: &[String]) -> Self {
        Self { argv: argv.to_vec() }
    }
}

impl Probe for Command {
    fn begin(&self, child: &ChildInfo) -> Result<Begun, String> {
        let run = Run::start(&self.argv, child)
            .map_err(|error| format!("`{}` could not be started: {error}", shown(&self.argv)))?;
        Ok(Begun::Pending(Box::new(run)))
    }
}

fn shown(argv: &[String]) -> String {
    text::head(&argv.join(" "), SHOWN)
}

/// A command that runs.
struct Run {
    tree: Tree,
    /// `None`: every writer has closed it.
    output: Option<io::PipeReader>,
    kept: Vec<u8>,
    /// Readable when the tree or the output is.
    either: Epoll,
    argv: Vec<String>,
}

impl Run {
    fn start(argv: &[String], child: &ChildInfo) -> io::Result<Self> {
        seam::before(Call::Pipe)?;
        let (output, writer) = io::pipe()?;
        seam::before(Call::DescriptorFlags)?;
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?; // this end only: the command's own may block
        let launch = Launch::new(argv, child.envp.clone(), child.workdir.clone(), child.signals)
            .with_variable("PSFLIP_CHILD_PID", &child.pid.to_string())
            .with_output(writer.into());
        let tree = Tree::start(launch)?;
        seam::before(Call::EpollCreate)?;
        let either = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        seam::before(Call::EpollControl)?;
        either.add(&tree, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
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

    /// Whether the command has ended with 0.
    fn go_on(&mut self) -> Result<bool, String> {
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
                    return Err(self.with_output("ended, but its keeper was killed and can't tell how"));
                }
                Ok(Some(Report::Started | Report::Stopped(_) | Report::Continued)) => {}
                Ok(None) => return Ok(false),
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
}

impl Attempt for Run {
    fn watch(&self) -> (BorrowedFd<'_>, Interest) {
        (self.either.0.as_fd(), Interest::Read)
    }

    fn advance(&mut self) -> Progress {
        self.go_on().into()
    }

    fn overdue(&self, limit: Duration) -> String {
        self.with_output(&format!("gave no answer within {limit:?}"))
    }
}
