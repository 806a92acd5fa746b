//! The child's output, if `[output]` leads it elsewhere: the pipes, and the processes that read them
//! (`crate::output`). An inherited stream costs nothing here.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Runtime;
use super::poller::Token;
use super::timers::Key;
use crate::anchor::AnchorMessage;
use crate::config::{Orphans, Target, logger_argv};
use crate::control::protocol::Event as ControlEvent;

use crate::flip::Outcome;
use crate::handover::ToSuccessor;
use crate::handover::predecessor::Logger;
use crate::handover::successor::{Handed, SuccessorLink};
use crate::output::{Channel, Exit, LogFile, PATIENCE, PAUSE, Setting};
use crate::process::launch::{Streams, find_program};
use crate::text;

/// The tokens of the processes that read standard output and standard error.
const TOKENS: [Token; 2] = [Token::Stdout, Token::Stderr];

/// How long a failed generation waits until the last lines of its child are in their file.
const FAILED: Duration = Duration::from_secs(1);

/// The child's output.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Of standard output and standard error. If both have the same target, the first one has it.
    channels: [Option<Channel>; 2],
    /// Files that were opened before the child starts.
    files: Vec<LogFile>,
    /// Loggers of the predecessor, until the child starts.
    given: Vec<Channel>,
}

impl Output {
    /// `loggers`: those of the predecessor.
    pub(super) fn new(loggers: Vec<Logger>) -> Self {
        let given = loggers.into_iter().filter_map(|logger| {
            let line = logger.target.strip_prefix("pipe:")?.to_owned();
            Some(Channel::of_logger(line, logger.reader, logger.writer, logger.process))
        });
        Self { given: given.collect(), ..Self::default() }
    }

    /// The loggers, which the successor's child may go on to use.
    pub(super) fn to_hand_over(&self) -> impl Iterator<Item = Handed<'_>> {
        self.channels.iter().flatten().filter_map(|channel| {
            let target = channel.target().to_string();
            Some(Handed { message: ToSuccessor::Logger { target }, descriptors: channel.shared()? })
        })
    }
}

/// A generation's part in it.
impl Runtime {
    /// Opens the files, so that no old child is touched if that fails (contract N5).
    ///
    /// # Errors
    /// As text: EACCES, ENOENT, ENOSPC, ...
    pub(super) fn open_output(&mut self) -> Result<(), String> {
        let output = &self.plan.output;
        let mut files: Vec<LogFile> = Vec::new();
        for (name, target) in output.targets() {
            if let Target::Pipe(line) = target {
                let argv = logger_argv(line);
                find_program(&argv, &self.child.envp, self.plan.workdir.as_deref())
                    .map_err(|refusal| refusal.of_exec(argv[0], self.plan.workdir.as_deref()))
                    .map_err(|error| format!("`output.{name}`: {error}"))?;
            }
            if let Target::Append(path) = target
                && files.iter().all(|file| file.path() != path)
            {
                let opened = LogFile::open(path, &output.files);
                files.push(opened.map_err(|error| format!("`output.{name}`: {error}"))?);
            }
        }
        self.output.files = files;
        Ok(())
    }

    /// Makes what the child writes to.
    ///
    /// # Errors
    /// As text: no descriptor left, or fork failed.
    pub(super) fn start_output(&mut self) -> Result<Streams, String> {
        let is_one = self.plan.output.stdout == self.plan.output.stderr;
        let mut streams = Streams::default();
        for (index, name) in ["stdout", "stderr"].into_iter().enumerate() {
            let failed = |error: io::Error| format!("`output.{name}`: {error}");
            streams.0[index] = match self.plan.output.targets()[index].1 {
                Target::Inherit => None,
                Target::Null => Some(null().map_err(failed)?),
                Target::Append(_) | Target::Pipe(_) if index == 1 && is_one => {
                    streams.0[0].as_ref().map(OwnedFd::try_clone).transpose().map_err(failed)?
                }
                Target::Append(_) | Target::Pipe(_) => Some(self.open_channel(index).map_err(failed)?),
            };
        }
        self.output.given.clear();
        Ok(streams)
    }

    fn open_channel(&mut self, index: usize) -> io::Result<OwnedFd> {
        let target = &self.plan.output.targets()[index].1.clone();
        // A logger is still there from the last generation, or from the last child.
        if let Some(given) = self.output.given.iter().position(|channel| channel.target() == target) {
            self.wait.poller.forget(TOKENS[index]);
            self.output.channels[index] = Some(self.output.given.remove(given));
            self.watch_reader(index)?;
        }
        let there = self.output.channels[index].as_ref().filter(|channel| channel.target() == target);
        if let Some(writer) = there.map(Channel::writer).transpose()?.flatten() {
            return Ok(writer);
        }
        let files = &mut self.output.files;
        let file = match target {
            Target::Append(path) => files.iter().position(|file| file.path() == path),
            Target::Inherit | Target::Null | Target::Pipe(_) => None,
        };
        let (channel, writer) = Channel::new(target, file.map(|file| files.remove(file)))?;
        // The process of an earlier child's output exits by itself.
        self.wait.poller.forget(TOKENS[index]);
        self.output.channels[index] = Some(channel);
        self.start_reader(index)?;
        Ok(writer)
    }

    fn start_reader(&mut self, index: usize) -> io::Result<()> {
        let Some(channel) = &mut self.output.channels[index] else { return Ok(()) };
        let anchor = self.managers.anchor.link();
        let announce = || {
            if let Some(anchor) = anchor {
                let _ = anchor.send(AnchorMessage::Output); // it may be dead
            }
        };
        let setting = Setting {
            envp: &self.child.envp,
            workdir: self.plan.workdir.as_deref(),
            signals: self.identity.signals,
            generation: self.identity.generation,
            announce: &announce,
        };
        channel.start(&setting, &self.plan.output.files)?;
        self.watch_reader(index)?;
        // It may be a logger that the successor's child uses, too.
        let shared = self.output.channels[index].as_ref().and_then(Channel::shared);
        if let (Some(fds), Some(link)) = (shared, &self.handover.successor) {
            let target = self.plan.output.targets()[index].1.to_string();
            let _ = link.send_with(&ToSuccessor::Logger { target }, &fds); // it may be gone
        }
        Ok(())
    }

    fn watch_reader(&mut self, index: usize) -> io::Result<()> {
        match self.output.channels[index].as_ref().and_then(Channel::process) {
            Some(process) => self.wait.poller.watch(TOKENS[index], process),
            None => Ok(()),
        }
    }

    /// The predecessor has started the output process of a logger again.
    pub(super) fn logger_is_new(&mut self, logger: Logger) {
        let Logger { target, process: Some(process), .. } = logger else { return };
        let is_it = |channel: &&mut Channel| channel.target().to_string() == target;
        // Before the descriptors of the old process are closed; see `look_at_readers`.
        TOKENS.into_iter().for_each(|token| self.wait.poller.forget(token));
        let mut channels = self.output.channels.iter_mut().flatten().chain(&mut self.output.given);
        if let Some(channel) = channels.find(is_it) {
            channel.set_process(process);
        }
        for index in 0..TOKENS.len() {
            if let Err(error) = self.watch_reader(index) {
                tracing::debug!(%error, "can't wait for the logger that the old psflip has started again");
            }
        }
    }

    /// A process that reads has exited, or may have.
    ///
    /// # Errors
    /// None.
    pub(super) fn look_at_readers(&mut self) -> io::Result<()> {
        for (index, token) in TOKENS.into_iter().enumerate() {
            let Some(channel) = &mut self.output.channels[index] else { continue };
            // Other generations may have the same descriptor: once it is closed here, epoll can't forget it
            // any more, and would report the exit for ever.
            let Some(exit) = channel.has_exited(|| self.wait.poller.forget(token)) else { continue };
            match exit {
                Exit::Finished => self.output.channels[index] = None,
                Exit::TooEarly => {
                    // Another generation starts a logger again that both use.
                    let is_shared = channel.shared().is_some();
                    let (output, next) = (channel.shown(), channel.next_start());
                    if !is_shared || self.answers_for_loggers() {
                        tracing::error!(
                            output,
                            "the process that reads the child's output was killed; starting it again"
                        );
                        self.wait.timers.set(Key::Output, next);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether this generation starts loggers again that it shares with another one.
    fn answers_for_loggers(&self) -> bool {
        let is_alone = self.handover.living_predecessor().is_none();
        // It was promoted, or is about to be. Until it exits, also while it stops, no old generation does it.
        let is_promoted = self.operators.log.active_since.is_some() || self.machine.state.is_service();
        !self.machine.is_superseded() && (is_alone || is_promoted)
    }

    /// Starts processes again that have exited too early.
    pub(super) fn start_readers_again(&mut self) {
        for index in 0..TOKENS.len() {
            let is_gone = self.output.channels[index].as_ref().is_some_and(|channel| {
                let is_own = channel.shared().is_none() || self.answers_for_loggers();
                channel.process().is_none() && is_own
            });
            if is_gone && let Err(error) = self.start_reader(index) {
                tracing::error!(%error, "can't start the process again that reads the child's output");
                self.wait.timers.set(Key::Output, PAUSE);
            }
        }
    }

    /// An operator requests to open the files again (contract N6).
    pub(super) fn on_reopen_request(&mut self, client: u64, from: &str) {
        tracing::info!(from, "reopen requested over the control socket");
        let generation = self.identity.generation;
        let begun = ControlEvent::Reopening { generation };
        let Some(client) = self.operators.reopening(client, &begun) else { return };
        self.reopen(&client);
        // The others are the successor, if there is one, and old generations that drain.
        if let Some(link) = &self.handover.successor {
            let _ = link.send_with(&ToSuccessor::Reopen, &[client.as_fd()]); // it may be gone
        }
        self.handover.pass_reopen_back(client.as_fd());
    }

    /// The active generation passes such a request on to this one, which drains.
    pub(super) fn reopen_for_successor(&mut self) {
        let client = self.handover.successor.as_mut().and_then(SuccessorLink::take_client);
        if let Some(client) = client {
            self.reopen(&client);
        }
    }

    /// Opens the files of this generation again. The results go to the client.
    pub(super) fn reopen(&mut self, client: &OwnedFd) {
        let generation = self.identity.generation;
        let report = |file: &Path, error: Option<String>| {
            let line = ControlEvent::Reopened { file: text::lossy(file), generation, error }.line();
            // A new connection has room for a line. The copy shares its flag not to block.
            let _ = client.try_clone().and_then(|client| File::from(client).write_all(&line));
        };
        // They wait for the start of the child, for example for `upgrade.precheck`.
        for file in &mut self.output.files {
            let error = file.reopen().err();
            report(file.path(), error);
        }
        for channel in self.output.channels.iter().flatten() {
            let Some(file) = channel.file() else { continue };
            let error = match channel.reopen(client.as_fd()) {
                Ok(true) => continue,
                Ok(false) => None,
                Err(error) => {
                    Some(format!("the process that writes `{}` can't be reached: {error}", file.display()))
                }
            };
            report(file, error);
        }
    }

    /// Before psflip exits: waits until everything is written (contract N1).
    pub(super) fn finish_output(&mut self, outcome: Outcome) {
        let output = &mut self.output;
        output.channels.iter_mut().flatten().for_each(Channel::close);
        if outcome == Outcome::Superseded || self.plan.shutdown.orphans == Orphans::Leave {
            return; // the supervisor kills nothing, or leftover processes can still write
        }
        let is_last = self.handover.living_predecessor().is_none();
        // The old psflip shows the last lines of a failed child, and its loggers are still in use.
        let until = Instant::now() + if is_last { PATIENCE } else { FAILED };
        let ends = output.channels.iter().flatten().filter(|channel| is_last || channel.file().is_some());
        ends.for_each(|channel| channel.wait(until));
    }
}

fn null() -> io::Result<OwnedFd> {
    Ok(File::options().write(true).open("/dev/null")?.into())
}
