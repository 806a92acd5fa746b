//! The log of the rehearsal: every line that the service writes, with the rehearsal's clock.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, PipeReader, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

/// The lines that a message shows when the service fails.
const LAST: usize = 12;

/// Where lines go.
#[derive(Clone, Debug)]
pub(crate) struct Log(Arc<Mutex<Shared>>);

#[derive(Debug)]
struct Shared {
    file: File,
    began: Instant,
    last: VecDeque<String>,
}

impl Log {
    pub(crate) fn new(file: File, began: Instant) -> Self {
        Self(Arc::new(Mutex::new(Shared { file, began, last: VecDeque::new() })))
    }

    /// A pipe for a program's output; its lines are marked with `name`.
    ///
    /// # Errors
    /// No pipe, or no thread.
    pub(crate) fn pipe(&self, name: &'static str) -> io::Result<io::PipeWriter> {
        let (reader, writer) = io::pipe()?;
        let log = self.clone();
        thread::Builder::new().name("log".to_owned()).spawn(move || log.copy(reader, name))?;
        Ok(writer)
    }

    fn copy(&self, reader: PipeReader, name: &str) {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(count) if count > 0) {
            self.line(name, String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    }

    /// Writes one line.
    pub(crate) fn line(&self, name: &str, text: &str) {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = shared.began.elapsed().as_secs_f64();
        // A full disk must not end the rehearsal.
        let _ = writeln!(shared.file, "{at:10.4} {name:7} {text}");
        if name != REHEARSAL {
            if shared.last.len() == LAST {
                shared.last.pop_front();
            }
            shared.last.push_back(text.to_owned());
        }
    }

    /// The last line of the service.
    pub(crate) fn last_line(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last.back().cloned()
    }

    /// The last lines of the service.
    pub(crate) fn last(&self) -> String {
        let shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.last.iter().map(|line| format!("    {line}\n")).collect()
    }
}

/// The name of this program's own lines.
pub(crate) const REHEARSAL: &str = "-";
