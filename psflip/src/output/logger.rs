//! The process that keeps a logger running, which reads the child's output from its standard input.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{LAST_LINES, PAUSE, Setting, state};
use crate::config::logger_argv;
use crate::exit_status::ExitStatus;
use crate::process::launch::{Launch, Refusal, Stage};
use crate::signal::Signal;
use crate::sys::children;
use crate::sys::fd;
use crate::sys::process;
use crate::sys::seam::{self, Call};
use crate::sys::signal::{SignalFd, SignalSet};
use crate::sys::wait;
use crate::text;

/// How much of the logger's command is shown, in characters.
const SHOWN: usize = 100;

/// From so many quick exits in a row on, it is taken for a logger that can't run.
const TOO_QUICK: u32 = 2;

/// The program without its arguments: those may hold passwords, and messages go to logs.
pub(super) fn shown(line: &str) -> String {
    text::head(line.split_whitespace().next().unwrap_or_default(), SHOWN)
}

/// Runs until no process can write to the pipe any more, and the logger has exited.
pub(super) fn keep(reader: BorrowedFd<'_>, line: &str, setting: &Setting<'_>) -> ! {
    let mut read = SignalSet::default();
    read.insert(Signal::CHLD);
    read.insert(Signal::CONT); // psflip sends it to continue this process
    // What the logger has started is killed with it (contract N3).
    let ready = process::set_subreaper(true).and_then(|()| SignalFd::open(read));
    let kept = ready.map(|signals| {
        let now = Instant::now();
        Keeping { reader, line, setting, signals, logger: None, due: Some(now), quick: 0, end: None }.run();
    });
    process::exit_now(u8::from(kept.is_err()))
}

struct Keeping<'a> {
    reader: BorrowedFd<'a>,
    line: &'a str,
    setting: &'a Setting<'a>,
    signals: SignalFd,
    /// Its pid, and when it was started.
    logger: Option<(u32, Instant)>,
    /// When to start it again.
    due: Option<Instant>,
    /// How often in a row it has exited soon after its start.
    quick: u32,
    /// When the logger must have exited, once no process can write any more.
    end: Option<Instant>,
}

impl Keeping<'_> {
    fn run(mut self) {
        loop {
            while let Ok(Some(_)) = self.signals.next() {}
            self.reap();
            let pipe = state(self.reader);
            if pipe.is_closed && self.end.is_none() {
                self.end = Some(Instant::now() + LAST_LINES);
            }
            let is_late = self.end.is_some_and(|end| end <= Instant::now());
            if is_late {
                let logger = shown(self.line);
                tracing::error!(
                    logger,
                    "the logger did not exit within {LAST_LINES:?} after the last process that could write; killing it"
                );
            }
            if is_late || pipe.is_over() && self.logger.is_none() {
                children::kill_all_children(std::process::id(), Vec::new(), false);
                return;
            }
            if self.due.is_some_and(|due| due <= Instant::now()) {
                self.start();
            }
            self.wait();
        }
    }

    /// Waits for an event.
    fn wait(&self) {
        let mut fds = [
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.reader, PollFlags::empty()), // that no process can write any more
        ];
        let count = if self.end.is_some() { 1 } else { 2 };
        let until = [self.due, self.end].into_iter().flatten().min();
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        // A test can make poll fail; then it is called again.
        let _ = seam::before(Call::Poll).and_then(|()| poll(&mut fds[..count], timeout));
    }

    fn reap(&mut self) {
        while let Ok(Some(change)) = wait::next_change() {
            let Some(end) = change.exit_status() else { continue };
            if self.logger.is_some_and(|(pid, _)| pid == change.pid) {
                self.has_exited(end);
            }
        }
    }

    fn has_exited(&mut self, end: ExitStatus) {
        let Some((_, started)) = self.logger.take() else { return };
        // Another process of it must not read what the next one is to read.
        children::kill_all_children(std::process::id(), Vec::new(), false);
        let pipe = state(self.reader);
        if pipe.is_over() {
            if end != ExitStatus::Exited(0) {
                tracing::warn!(logger = shown(self.line), "the logger failed at its end: {end}");
            }
            return;
        }
        self.again(started, &format!("the logger has exited ({end})"));
    }

    /// Starts the logger again, at most once in [`PAUSE`].
    fn again(&mut self, started: Instant, what: &str) {
        self.quick = if started.elapsed() < PAUSE { self.quick + 1 } else { 0 };
        let now = Instant::now();
        self.due = Some(if self.quick > 1 { started + PAUSE } else { now });
        let logger = shown(self.line);
        if self.quick < TOO_QUICK {
            tracing::error!(logger, "{what}; starting it again, and the child's output waits");
        } else if self.quick.is_power_of_two() {
            let times = self.quick + 1;
            tracing::error!(
                logger,
                times,
                "{what}, each time soon after its start: the child blocks as soon as its pipe is full; mend what the logger needs, or change `output`"
            );
        }
    }

    fn start(&mut self) {
        self.due = None;
        let now = Instant::now();
        let Setting { envp, workdir, signals, .. } = *self.setting;
        let launch = Launch::new(logger_argv(self.line), envp.to_vec(), workdir.map(Into::into), signals);
        let (own_pid, reader) = (std::process::id(), self.reader);
        let started = process::spawn(|| {
            let prepared = process::die_with_parent(own_pid).and_then(|()| as_input(reader));
            match prepared {
                Ok(()) => launch.exec(),
                Err(error) => Refusal { stage: Stage::Fork, error },
            }
        });
        match started {
            Ok(Ok((pid, _))) => self.logger = Some((pid, now)),
            Ok(Err(Refusal { error, .. })) | Err(error) => {
                self.again(now, &format!("the logger could not be started: {error}"));
            }
        }
    }
}

/// Makes this the standard input, which survives an exec.
fn as_input(reader: BorrowedFd<'_>) -> io::Result<()> {
    if reader.as_raw_fd() == 0 {
        return fd::set_close_on_exec(reader, false); // dup2(2) does nothing
    }
    process::duplicate_onto(reader, 0)
}
