//! A log line for people: time, level, process, event.

use std::fmt::{self, Write as _};

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::source::Source;
use crate::text;

/// `2026-11-23T16:16:46.588318Z  INFO psflip{generation=1 pid=20553}: healthy, active child=20555`
///
/// The text itself is never coloured, so that it can be searched for.
pub(super) fn line(event: &Event<'_>, source: &Source, time: Option<Timestamp>, colour: bool) -> String {
    let level = *event.metadata().level();
    let (dim, begin, end) = if colour { ("\x1b[2m", level_colour(level), "\x1b[0m") } else { ("", "", "") };
    let mut fields = Fields::default();
    event.record(&mut fields);
    let mut line = String::with_capacity(128);
    // Writing to a String can't fail.
    if let Some(time) = time {
        let _ = write!(line, "{dim}{time:.6}{end} ");
    }
    let _ = write!(line, "{begin}{level:>5}{end} {source}: ");
    // A path or an error in it may contain any characters.
    line += &text::escaped(&fields.0);
    line.push('\n');
    line
}

/// The level, as shown on a terminal.
fn level_colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[1;31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        _ => "\x1b[2m",
    }
}

/// The message, and ` name=value` for each other field.
#[derive(Default)]
struct Fields(String);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, "{name}={value:?}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use crate::log::source::Source;
    use crate::log::subscriber::{Encoder, report_everything, written, written_by};

    const PLAIN: Encoder = Encoder::Text { colour: false };

    #[test]
    fn a_line_has_time_level_process_message_and_fields() {
        insta::assert_snapshot!(
            written(PLAIN, report_everything),
            @r#"TIME  WARN psflip{generation=7 pid=99}: upgrade failed text="a \"b\"\n\u{1b}[31m\u{202e}" list=["a", "b"] address=127.0.0.1 child=8 change=-3 is_root=true share=0.25"#
        );
    }

    #[test]
    fn a_line_of_watch_has_no_generation() {
        let source = Source { name: "watch", generation: None, pid: 99 };
        let line = written_by(source, PLAIN, || tracing::info!(service = 8, "follows the pidfile"));
        assert_eq!(line, "TIME  INFO watch{pid=99}: follows the pidfile service=8\n");
    }

    #[test]
    fn a_terminal_gets_the_level_in_colour() {
        let text = written(Encoder::Text { colour: true }, || tracing::error!("failed"));
        assert_eq!(text, "\x1b[2mTIME\x1b[0m \x1b[1;31mERROR\x1b[0m psflip{generation=7 pid=99}: failed\n");
    }
}
