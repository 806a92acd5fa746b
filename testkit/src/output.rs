//! Collects the output of a program and all its successors, line by line with times, until all of them have
//! closed it.
//!
//! A thread per stream waits for output, but a reader also takes what is there before it looks. So a mark
//! comes after every line that was written before the mark, and the log of a process that has exited is
//! complete.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::report;
use crate::wait::{Deadline, poll_readable};

/// The most that one look takes from a stream, in pieces of 16 KiB: more than a pipe holds, and a limit
/// against a writer that never pauses.
const PIECES: usize = 64;

/// The stream of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
    /// The pseudo-terminal, which carries both.
    Pty,
}

/// One line of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When the line was complete, since the start of the sandbox.
    pub at: Duration,
    /// The stream that it was written to.
    pub stream: Stream,
    /// The text without its line end; invalid UTF-8 is replaced.
    pub text: String,
}

impl Line {
    /// The line as JSON, if it is an object: psflip's log with `format = "json"`.
    #[must_use]
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_str(&self.text).ok().filter(serde_json::Value::is_object)
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stream = match self.stream {
            Stream::Stdout => "out",
            Stream::Stderr => "err",
            Stream::Pty => "pty",
        };
        write!(f, "{:9.3} {stream} {}", self.at.as_secs_f64(), self.text)
    }
}

/// The output of one started program, its children and its successors.
#[derive(Debug)]
pub struct Output {
    started: Instant,
    collected: Mutex<Collected>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Collected {
    lines: Vec<Line>,
    open: Vec<Source>,
}

/// A stream that a process still has open for writing.
#[derive(Debug)]
struct Source {
    stream: Stream,
    /// Read only with the lock held and when readable, so that no thread blocks while it holds the lock.
    file: Arc<File>,
    /// The bytes of an incomplete line.
    tail: Vec<u8>,
}

impl Output {
    pub(crate) fn new(started: Instant) -> Arc<Self> {
        Arc::new(Self { started, collected: Mutex::default(), changed: Condvar::new() })
    }

    /// Starts a thread that collects from `source` until every process has closed the other end.
    pub(crate) fn collect(self: &Arc<Self>, stream: Stream, source: File) {
        let file = Arc::new(source);
        self.lock().open.push(Source { stream, file: Arc::clone(&file), tail: Vec::new() });
        let output = Arc::clone(self);
        let wait = move || {
            let is_open = |source: &Source| Arc::ptr_eq(&source.file, &file);
            while output.look().open.iter().any(is_open) {
                poll_readable(&[file.as_fd()], Duration::from_secs(3600));
            }
        };
        std::thread::Builder::new()
            .name("testkit-output".into())
            .spawn(wait)
            .expect("a thread can be started");
    }

    /// Takes everything that was written until now.
    fn look(&self) -> MutexGuard<'_, Collected> {
        let mut collected = self.lock();
        self.take(&mut collected);
        collected
    }

    /// Takes what can be read, and wakes up the waiting threads.
    fn take(&self, collected: &mut Collected) {
        let Collected { lines, open } = collected;
        let mut any = false;
        open.retain_mut(|source| {
            let (is_open, news) = source.take(lines, self.started);
            any |= news;
            is_open
        });
        if any {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that was written until now, in order of arrival, including an incomplete last line (a
    /// prompt).
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.snapshot(&self.look())
    }

    fn snapshot(&self, collected: &Collected) -> Vec<Line> {
        let at = self.started.elapsed();
        let unfinished = collected.open.iter().filter(|source| !source.tail.is_empty());
        let unfinished =
            unfinished.map(|source| Line { at, stream: source.stream, text: text(&source.tail) });
        collected.lines.iter().cloned().chain(unfinished).collect()
    }

    /// The text of one stream so far, with line ends.
    #[must_use]
    pub fn text(&self, stream: Stream) -> String {
        let lines = self.lines();
        lines.iter().filter(|line| line.stream == stream).map(|line| format!("{}\n", line.text)).collect()
    }

    /// The number of complete lines until now: a mark for [`Output::wait_after`].
    #[must_use]
    pub fn mark(&self) -> usize {
        self.look().lines.len()
    }

    /// Whether every process has closed every stream.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.look().open.is_empty()
    }

    /// Waits for a line of `stream` that contains `part`, and returns the first, which may already be there.
    ///
    /// # Panics
    /// If none is written within the default deadline, or every process closes the stream first.
    #[track_caller]
    pub fn wait(&self, stream: Stream, part: &str) -> Line {
        self.wait_after(0, stream, part)
    }

    /// [`Output::wait`], but only for lines after `mark` (see [`Output::mark`]).
    ///
    /// # Panics
    /// See [`Output::wait`].
    #[track_caller]
    pub fn wait_after(&self, mark: usize, stream: Stream, part: &str) -> Line {
        let what = format!("a line with `{part}` on {stream:?}");
        self.wait_for(Deadline::default(), &what, |lines| {
            let new = lines.iter().skip(mark);
            new.filter(|line| line.stream == stream).find(|line| line.text.contains(part)).cloned()
        })
    }

    /// Waits for `count` lines of `stream` that contain `part`, and returns them all.
    ///
    /// # Panics
    /// See [`Output::wait`].
    #[track_caller]
    pub fn wait_count(&self, count: usize, stream: Stream, part: &str) -> Vec<Line> {
        let what = format!("{count} lines with `{part}` on {stream:?}");
        self.wait_for(Deadline::default(), &what, |lines| {
            let found = lines.iter().filter(|line| line.stream == stream && line.text.contains(part));
            let found: Vec<_> = found.cloned().collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// Waits until `check` returns something for all the lines so far.
    ///
    /// # Panics
    /// If it returns nothing until the deadline, or until all streams are closed.
    #[track_caller]
    pub fn wait_for<T>(
        &self,
        deadline: Deadline,
        what: &str,
        mut check: impl FnMut(&[Line]) -> Option<T>,
    ) -> T {
        let mut collected = self.lock();
        loop {
            let expired = deadline.has_expired();
            self.take(&mut collected);
            let closed = collected.open.is_empty();
            if let Some(found) = check(&self.snapshot(&collected)) {
                return found;
            }
            if closed || expired {
                drop(collected); // the failure report locks it again
                if closed {
                    report::fail(&format!("waited for {what}, but the output was closed without it"));
                }
                report::expired(&deadline, &what);
            }
            let waited = self.changed.wait_timeout(collected, deadline.remaining());
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until every process has exited or closed its output.
    ///
    /// # Panics
    /// If that takes longer than the default deadline.
    #[track_caller]
    pub fn wait_closed(&self) {
        let deadline = Deadline::default();
        if !self.closes_within(deadline.remaining()) {
            report::expired(&deadline, &"all output to be closed");
        }
    }

    /// Waits at most `limit` until all streams are closed; returns whether they are.
    pub(crate) fn closes_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut collected = self.look();
        while !collected.open.is_empty() && Instant::now() < end {
            let waited = self.changed.wait_timeout(collected, end.saturating_duration_since(Instant::now()));
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        collected.open.is_empty()
    }
}

impl Source {
    /// Takes what can be read now; returns whether the stream is still open, and whether anything changed.
    fn take(&mut self, lines: &mut Vec<Line>, started: Instant) -> (bool, bool) {
        let mut buffer = [0; 16 * 1024];
        for piece in 0..PIECES {
            if !poll_readable(&[self.file.as_fd()], Duration::ZERO)[0] {
                return (true, piece > 0);
            }
            let read = (&*self.file).read(&mut buffer);
            let at = started.elapsed();
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // EIO: no process has the terminal open any more, see pty(7).
                Ok(0) | Err(_) => {
                    if !self.tail.is_empty() {
                        lines.push(Line { at, stream: self.stream, text: text(&self.tail) });
                    }
                    return (false, true);
                }
                Ok(length) => {
                    self.tail.extend_from_slice(&buffer[..length]);
                    while let Some(end) = self.tail.iter().position(|byte| *byte == b'\n') {
                        let line: Vec<u8> = self.tail.drain(..=end).collect();
                        lines.push(Line { at, stream: self.stream, text: text(&line[..end]) });
                    }
                }
            }
        }
        (true, true)
    }
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn output_written_before_a_mark_is_included() {
        for round in 0..1000 {
            let output = Output::new(Instant::now());
            let (reader, mut writer) = io::pipe().unwrap();
            output.collect(Stream::Stderr, File::from(OwnedFd::from(reader)));
            for count in 1..=3 {
                writeln!(writer, "line {count}").unwrap();
                assert_eq!(output.mark(), count, "round {round}");
            }
            write!(writer, "no end").unwrap();
            assert_eq!((output.mark(), output.lines().len()), (3, 4), "round {round}");
            drop(writer);
            assert!(output.is_closed(), "round {round}");
            assert_eq!(output.text(Stream::Stderr), "line 1\nline 2\nline 3\nno end\n");
        }
    }
}
