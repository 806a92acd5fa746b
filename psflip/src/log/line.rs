//! A log line for people: time, level, process, event.

use std::fmt::{self, Write as _};

use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::FormatFields as _;
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

use crate::text;

/// `2026-11-23T16:16:46.588318Z  INFO psflip{generation=1 pid=20553}: healthy, active child=20555`
///
/// It formats events directly. A registry of spans would take 32 kB at the first line, and
/// such a line doesn't need one.
pub(super) struct Text<W> {
    pub(super) level: LevelFilter,
    pub(super) generation: u64,
    pub(super) pid: u32,
    /// For a terminal. The text of a line is never coloured, so that it can be searched for.
    pub(super) colour: bool,
    pub(super) write: W,
}

impl<W: Fn(&str) + 'static> Subscriber for Text<W> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = String::new();
        if self.format(&mut line, event).is_ok() {
            (self.write)(&line);
        }
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1) // all spans have the same ID, which nothing reads
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

impl<W> Text<W> {
    fn format(&self, line: &mut String, event: &Event<'_>) -> fmt::Result {
        let level = *event.metadata().level();
        let (begin, end) = if self.colour { (colour(level), "\x1b[0m") } else { ("", "") };
        if self.colour {
            line.write_str("\x1b[2m")?;
        }
        SystemTime.format_time(&mut Writer::new(line))?;
        let Self { generation, pid, .. } = self;
        write!(line, "{end} {begin}{level:>5}{end} psflip{{generation={generation} pid={pid}}}: ")?;
        let mut text = String::new();
        DefaultFields::new().format_fields(Writer::new(&mut text), event)?;
        // A path or an error in it may contain any characters.
        line.write_str(&text::escaped(&text))?;
        line.write_char('\n')
    }
}

/// The level, as shown on a terminal.
fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[1;31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[2m",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// The line that `tell` writes, without the digits of its time; empty if it writes none.
    fn line(colour: bool, tell: impl FnOnce()) -> String {
        let (sender, written) = mpsc::channel();
        let write = move |line: &str| sender.send(line.to_owned()).unwrap();
        let text = Text { level: LevelFilter::INFO, generation: 2, pid: 7, colour, write };
        tracing::subscriber::with_default(text, tell);
        let text: String = written.try_iter().collect();
        let Some(time) = text.find("20") else { return text };
        format!("{}TIME{}", &text[..time], &text[time + 27..])
    }

    #[test]
    fn what_is_below_the_level_is_not_written() {
        assert_eq!(line(false, || tracing::debug!("decided")), "");
    }

    #[test]
    fn a_line_says_when_who_and_what() {
        let plain = line(false, || tracing::info!(child = 8, reason = "a \"b\"\u{1b}[31m", "upgrade failed"));
        assert_eq!(
            plain,
            "TIME  INFO psflip{generation=2 pid=7}: upgrade failed child=8 reason=\"a \\\"b\\\"\\u{1b}[31m\"\n"
        );
    }

    #[test]
    fn a_terminal_gets_the_level_in_colour() {
        let text = line(true, || tracing::error!("failed"));
        assert_eq!(text, "\x1b[2mTIME\x1b[0m \x1b[1;31mERROR\x1b[0m psflip{generation=2 pid=7}: failed\n");
    }
}
