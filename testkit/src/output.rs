//! What a program and all its successors write: collected line by line, with times, until the last of them has closed it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::report;
use crate::wait::Deadline;

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
    /// The pseudo-terminal, where both arrive.
    Pty,
}

/// One line of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When it was complete, since the start of the program.
    pub at: Duration,
    /// Where it was written.
    pub stream: Stream,
    /// Without the line end; bytes that are no UTF-8 are replaced.
    pub text: String,
}

impl Line {
    /// The line as JSON, when it is an object: psflip's log with `format = "json"`.
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
    /// Streams that are still open, each with the bytes of a line that has no end yet.
    open: Vec<(Stream, Vec<u8>)>,
}

impl Output {
    pub(crate) fn new(started: Instant) -> Arc<Self> {
        Arc::new(Self { started, collected: Mutex::default(), changed: Condvar::new() })
    }

    /// Reads `source` in a thread of its own until everyone has closed the other end.
    pub(crate) fn collect(self: &Arc<Self>, stream: Stream, mut source: File) {
        self.lock().open.push((stream, Vec::new()));
        let output = Arc::clone(self);
        let read = move || {
            let mut buffer = vec![0; 16 * 1024];
            loop {
                match source.read(&mut buffer) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // EIO: nobody has the terminal open any more, see pty(7).
                    Ok(0) | Err(_) => break,
                    Ok(length) => output.take(stream, &buffer[..length]),
                }
            }
            output.close(stream);
        };
        std::thread::Builder::new()
            .name("testkit-output".into())
            .spawn(read)
            .expect("a thread can be started");
    }

    fn take(&self, stream: Stream, bytes: &[u8]) {
        let at = self.started.elapsed();
        let mut collected = self.lock();
        let Collected { lines, open } = &mut *collected;
        let Some((_, tail)) = open.iter_mut().find(|(known, _)| *known == stream) else { return };
        tail.extend_from_slice(bytes);
        while let Some(end) = tail.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = tail.drain(..=end).collect();
            lines.push(Line { at, stream, text: text(&line[..end]) });
        }
        drop(collected);
        self.changed.notify_all();
    }

    fn close(&self, stream: Stream) {
        let at = self.started.elapsed();
        let mut collected = self.lock();
        if let Some(index) = collected.open.iter().position(|(known, _)| *known == stream) {
            let (_, tail) = collected.open.remove(index);
            if !tail.is_empty() {
                collected.lines.push(Line { at, stream, text: text(&tail) });
            }
        }
        drop(collected);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Collected> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything so far, in the order in which it arrived. A last line without its end (a prompt) is included.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.snapshot(&self.lock())
    }

    fn snapshot(&self, collected: &Collected) -> Vec<Line> {
        let at = self.started.elapsed();
        let unfinished = collected.open.iter().filter(|(_, tail)| !tail.is_empty());
        let unfinished = unfinished.map(|(stream, tail)| Line { at, stream: *stream, text: text(tail) });
        collected.lines.iter().cloned().chain(unfinished).collect()
    }

    /// The text of one stream so far, with line ends.
    #[must_use]
    pub fn text(&self, stream: Stream) -> String {
        let lines = self.lines();
        lines.iter().filter(|line| line.stream == stream).map(|line| format!("{}\n", line.text)).collect()
    }

    /// How many whole lines there are: a mark for [`Output::wait_after`].
    #[must_use]
    pub fn mark(&self) -> usize {
        self.lock().lines.len()
    }

    /// Whether everyone who could write has closed every stream.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().open.is_empty()
    }

    /// Waits for a line of `stream` that contains `part`, those already there included, and gives the first.
    ///
    /// # Panics
    /// When it doesn't come within the default deadline, or everyone has closed the stream without it.
    #[track_caller]
    pub fn wait(&self, stream: Stream, part: &str) -> Line {
        self.wait_after(0, stream, part)
    }

    /// As [`Output::wait`], but looks only at lines that came after `mark` (see [`Output::mark`]).
    ///
    /// # Panics
    /// As [`Output::wait`].
    #[track_caller]
    pub fn wait_after(&self, mark: usize, stream: Stream, part: &str) -> Line {
        let what = format!("a line with `{part}` on {stream:?}");
        self.wait_for(Deadline::default(), &what, |lines| {
            let new = lines.iter().skip(mark);
            new.filter(|line| line.stream == stream).find(|line| line.text.contains(part)).cloned()
        })
    }

    /// Waits for as many as `count` lines of `stream` that contain `part`, and gives them all.
    ///
    /// # Panics
    /// As [`Output::wait`].
    #[track_caller]
    pub fn wait_count(&self, count: usize, stream: Stream, part: &str) -> Vec<Line> {
        let what = format!("{count} lines with `{part}` on {stream:?}");
        self.wait_for(Deadline::default(), &what, |lines| {
            let found = lines.iter().filter(|line| line.stream == stream && line.text.contains(part));
            let found: Vec<_> = found.cloned().collect();
            (found.len() >= count).then_some(found)
        })
    }

    /// Waits until `check` finds something in all the lines so far.
    ///
    /// # Panics
    /// When the deadline has passed, or everything is closed and `check` still finds nothing.
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
            let closed = collected.open.is_empty();
            if let Some(found) = check(&self.snapshot(&collected)) {
                return found;
            }
            if closed || expired {
                drop(collected); // the report reads the lines as well
                if closed {
                    report::fail(&format!("waited for {what}, but the output has ended without it"));
                }
                report::expired(&deadline, &what);
            }
            let waited = self.changed.wait_timeout(collected, deadline.remaining());
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until everyone who could write has ended or closed its output.
    ///
    /// # Panics
    /// When the deadline has passed.
    #[track_caller]
    pub fn wait_closed(&self) {
        let deadline = Deadline::default();
        if !self.closes_within(deadline.remaining()) {
            report::expired(&deadline, &"the end of all output");
        }
    }

    /// Waits at most `limit` for the end of all output; says whether it has come.
    pub(crate) fn closes_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut collected = self.lock();
        while !collected.open.is_empty() && Instant::now() < end {
            let waited = self.changed.wait_timeout(collected, end.saturating_duration_since(Instant::now()));
            collected = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        collected.open.is_empty()
    }
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    String::from_utf8_lossy(bytes).into_owned()
}
