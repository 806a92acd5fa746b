//! Text for operators: pure functions from psflip's answers to lines of a given width. ASCII only, so that
//! every terminal can show it.

mod history;
mod list;
pub(super) mod metrics;
mod progress;
mod status;
#[cfg(test)]
mod tests;
pub(super) mod timeline;

use jiff::Timestamp;

pub(super) use list::{list, name};
pub(super) use progress::{Progress, failure};
pub(super) use status::{last_exit, status, summary};

use crate::text;

/// How to format output.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// The width in columns; no line is longer.
    pub(super) width: usize,
    /// Whether to use colours.
    pub(super) colour: bool,
    /// The current time, in milliseconds since 1970 (UTC).
    pub(super) now: u64,
}

/// The width of a line if there is no terminal: nothing is wrapped, since programs read the output line by
/// line.
pub(super) const UNLIMITED: usize = usize::MAX;

/// A colour, by its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Paint {
    Good,
    Bad,
    Busy,
    Strong,
    Faint,
}

impl View {
    fn paint(&self, paint: Paint, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Good => "32",
            Paint::Bad => "1;31",
            Paint::Busy => "33",
            Paint::Strong => "1",
            Paint::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A time in UTC, as in the log, so that lines of both can be compared. With the date if that is not
    /// today.
    fn moment(&self, at: u64) -> String {
        let utc = |ms: u64| {
            let ms = i64::try_from(ms).unwrap_or_default();
            Timestamp::from_millisecond(ms).unwrap_or_default()
        };
        let day = |time: Timestamp| time.strftime("%F").to_string();
        let (at, now) = (utc(at), utc(self.now));
        let format = if day(at) == day(now) { "%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
        at.strftime(format).to_string()
    }

    /// The current time.
    pub(super) fn moment_of_now(&self) -> String {
        self.moment(self.now)
    }

    /// The time since then.
    fn ago(&self, at: u64) -> String {
        format!("{} ago", span(self.now.saturating_sub(at)))
    }

    /// `label` in the first column and `value` in the second, wrapped.
    fn row(&self, label: &str, value: &str, paint: Option<Paint>) -> String {
        let mut out = String::new();
        for (index, line) in wrap(value, self.width.saturating_sub(LABEL)).iter().enumerate() {
            let label = if index == 0 { format!("{label:<LABEL$}") } else { " ".repeat(LABEL) };
            let line = paint.map_or_else(|| line.clone(), |paint| self.paint(paint, line));
            out += &format!("{}{line}\n", self.paint(Paint::Faint, &label));
        }
        out
    }
}

/// The width of the column of labels.
const LABEL: usize = 10;

/// A duration in milliseconds, with about three digits.
pub(super) fn span(ms: u64) -> String {
    let (s, min, h) = (ms / 1000, ms / 60_000, ms / 3_600_000);
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..10_000 => format!("{}.{:02} s", s, ms % 1000 / 10),
        10_000..60_000 => format!("{}.{} s", s, ms % 1000 / 100),
        60_000..3_600_000 => format!("{min} min {} s", s % 60),
        3_600_000..86_400_000 => format!("{h} h {} min", min % 60),
        _ => format!("{} d {} h", h / 24, h % 24),
    }
}

/// External text (a path, output, a reason), fit for one line.
pub(super) fn clean(text: &str) -> String {
    text::head(text, 2000)
}

/// Breaks a text into lines of at most `width` characters, between words if possible.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(8);
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        let mut word = word;
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() {
            line.push(' ');
        }
        while word.chars().count() > width {
            let room = width - line.chars().count();
            let cut = word.char_indices().nth(room).map_or(word.len(), |(at, _)| at);
            line += &word[..cut];
            word = &word[cut..];
            lines.push(std::mem::take(&mut line));
        }
        line += word;
    }
    lines.push(line);
    lines
}

/// At most `width` characters of a line that is overwritten later: `~` marks a longer line.
pub(super) fn cut(line: &str, width: usize) -> String {
    match line.char_indices().nth(width) {
        None => line.to_owned(),
        Some(_) => line.chars().take(width.saturating_sub(1)).chain(['~']).collect(),
    }
}
