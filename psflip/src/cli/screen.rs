//! Writes to standard output: lines that stay, and a line or a picture that the next one overwrites.

use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd;
use std::time::{SystemTime, UNIX_EPOCH};

use super::render::{UNLIMITED, View};
use crate::terminal;

/// The output of the command on standard output.
#[derive(Debug)]
pub(super) struct Screen {
    /// Lines can be overwritten: it is a terminal that supports that.
    pub(super) is_live: bool,
    /// The text that will be overwritten: a line, or the number of lines of a picture.
    line: bool,
    picture: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        let is_live = io::stdout().is_terminal()
            && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        Self { is_live, line: false, picture: 0 }
    }

    /// How to format the output for standard output.
    #[expect(clippy::unused_self, reason = "it is the screen's view")]
    pub(super) fn view(&self) -> View {
        view_of(&io::stdout())
    }

    /// Writes a permanent line. A closed standard output is not an error.
    pub(super) fn line(&mut self, text: &str) {
        self.clear();
        write(&format!("{text}\n"));
    }

    /// Writes a line that the next line replaces; only if lines can be overwritten.
    pub(super) fn live(&mut self, text: &str) {
        if self.is_live {
            write(&format!("\r\x1b[2K{text}"));
            self.line = true;
        }
    }

    /// Writes a text over the previous one. Lines beyond the height of the terminal are left out.
    pub(super) fn picture(&mut self, text: &str) {
        let rows = terminal::rows(&io::stdout()).unwrap_or(24).saturating_sub(1).max(1);
        let shown: Vec<&str> = text.lines().take(rows).collect();
        let up = if self.picture > 0 { format!("\x1b[{}A\r", self.picture) } else { String::new() };
        let lines: String = shown.iter().map(|line| format!("\x1b[2K{line}\n")).collect();
        write(&format!("{up}{lines}\x1b[J"));
        self.picture = shown.len();
    }

    /// Clears the screen for a new picture.
    pub(super) fn wipe(&mut self) {
        write("\x1b[2J\x1b[H");
        self.picture = 0;
    }

    /// Removes the line that would be replaced.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.line) {
            write("\r\x1b[2K");
        }
    }
}

/// How to format the output for standard error.
pub(super) fn stderr_view() -> View {
    view_of(&io::stderr())
}

fn view_of(stream: &(impl AsFd + io::IsTerminal)) -> View {
    View {
        width: terminal::columns(stream).map_or(UNLIMITED, |columns| columns.max(20)),
        colour: terminal::has_colour(stream, |name| std::env::var_os(name)),
        now: now(),
    }
}

fn write(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// The current time in milliseconds since 1970 (UTC).
pub(super) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
