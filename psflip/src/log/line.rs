//! A log line for people: time, level, who, what.

use std::fmt;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// `2026-11-23T16:16:46.588318Z  INFO psflip{generation=1 pid=20553}: healthy, active child=20555`
pub(super) struct Text {
    pub(super) generation: u64,
    pub(super) pid: u32,
    /// For a terminal. The words of a line are never coloured, so that they are found by whoever searches for them.
    pub(super) colour: bool,
}

impl<S, N> FormatEvent<S, N> for Text
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        let (begin, end) = if self.colour { (colour(level), "\x1b[0m") } else { ("", "") };
        if self.colour {
            writer.write_str("\x1b[2m")?;
        }
        SystemTime.format_time(&mut writer)?;
        let Self { generation, pid, .. } = self;
        write!(writer, "{end} {begin}{level:>5}{end} psflip{{generation={generation} pid={pid}}}: ")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writer.write_char('\n')
    }
}

/// How a level begins on a terminal.
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
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The line that `tell` writes, without the digits of its time.
    fn line(colour: bool, tell: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Text { generation: 2, pid: 7, colour })
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, tell);
        let bytes = written.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        let time = text.find("20").unwrap();
        format!("{}TIME{}", &text[..time], &text[time + 27..])
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
