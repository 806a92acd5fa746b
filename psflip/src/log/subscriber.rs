//! The one subscriber of the log: encodes each event in the chosen format, and writes it at once.
//!
//! It keeps no spans: which process writes a line is known from the start ([`Source`]). A registry of spans
//! would take 32 kB of heap.

use std::io;

use jiff::Timestamp;
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata};

use super::source::Source;
use super::{journal, json, text};

/// How an event is encoded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Encoder {
    /// A line for people; `colour` is for a terminal.
    Text { colour: bool },
    /// A line with one JSON object.
    Json,
    /// A datagram of the journal's native protocol.
    Journald,
}

pub(super) struct Subscriber<W> {
    pub(super) level: LevelFilter,
    pub(super) source: Source,
    pub(super) encoder: Encoder,
    /// Writes an encoded event. If the journal does not take it, it goes to standard error.
    pub(super) write: W,
}

impl<W: Fn(&[u8]) -> io::Result<()> + 'static> tracing::Subscriber for Subscriber<W> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let Self { source, write, .. } = self;
        // A line that can't be written is lost.
        let _ = match self.encoder {
            Encoder::Text { colour } => {
                write(text::line(event, source, Some(Timestamp::now()), colour).as_bytes())
            }
            Encoder::Json => write(json::line(event, source, Timestamp::now()).as_bytes()),
            Encoder::Journald => write(&journal::entry(event, source))
                .or_else(|_| super::to_stderr(text::line(event, source, None, false).as_bytes())),
        };
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1) // all spans have the same ID, which nothing reads
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Returns what is written for the events of `report`, which generation 7 with pid 99 reports. The time of a
/// line is replaced by `TIME`.
#[cfg(test)]
pub(super) fn written(encoder: Encoder, report: impl FnOnce()) -> String {
    let source = Source { name: "psflip", generation: Some(7), pid: 99 };
    written_by(source, encoder, report)
}

/// As [`written`], for this process.
#[cfg(test)]
pub(super) fn written_by(source: Source, encoder: Encoder, report: impl FnOnce()) -> String {
    let (sender, written) = std::sync::mpsc::channel();
    let write = move |bytes: &[u8]| {
        sender.send(bytes.to_owned()).unwrap();
        Ok(())
    };
    let subscriber = Subscriber { level: LevelFilter::INFO, source, encoder, write };
    tracing::subscriber::with_default(subscriber, report);
    let bytes: Vec<u8> = written.try_iter().flatten().collect();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let time = text.match_indices("20").map(|(at, _)| at).find_map(|at| {
        let time: Timestamp = text.get(at..at + "2026-11-23T16:16:46.588318Z".len())?.parse().ok()?;
        Some((at, time))
    });
    match time {
        Some((at, time)) => text.replace(&text[at..at + format!("{time:.6}").len()], "TIME"),
        None => text,
    }
}

/// An event with every kind of value.
#[cfg(test)]
pub(super) fn report_everything() {
    let address = std::net::Ipv4Addr::LOCALHOST;
    let list = ["a", "b"];
    tracing::warn!(
        text = "a \"b\"\n\u{1b}[31m\u{202e}",
        ?list,
        %address,
        child = 8_u64,
        change = -3_i64,
        is_root = true,
        share = 0.25_f64,
        "upgrade {}", "failed",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_below_the_level_are_not_written() {
        for encoder in [Encoder::Text { colour: false }, Encoder::Json, Encoder::Journald] {
            assert_eq!(written(encoder, || tracing::debug!("decided")), "", "{encoder:?}");
        }
    }
}
