//! A log line for programs: one JSON object, with the event's fields beside time and level.

use std::fmt::{self, Write as _};

use jiff::Timestamp;
use serde_json::Value;
use tracing::Event;
use tracing::field::{Field, Visit};

use super::source::Source;

/// The keys in their order: `timestamp`, `level`, `message`, the other fields, and `span` with the process.
/// Numbers and booleans stay what they are; all other values are strings.
pub(super) fn line(event: &Event<'_>, source: &Source, time: Timestamp) -> String {
    let level = event.metadata().level();
    let mut line = String::with_capacity(256);
    // Writing to a String can't fail.
    let _ = write!(line, "{{\"timestamp\":\"{time:.6}\",\"level\":\"{level}\"");
    event.record(&mut Fields(&mut line));
    let Source { name, generation, pid } = source;
    line += ",\"span\":{";
    if let Some(generation) = generation {
        let _ = write!(line, "\"generation\":{generation},");
    }
    let _ = writeln!(line, "\"pid\":{pid},\"name\":\"{name}\"}}}}");
    line
}

/// Appends each field as `,"name":value`.
struct Fields<'a>(&'a mut String);

impl Fields<'_> {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        // The names are identifiers, or words with dots.
        let _ = write!(self.0, ",\"{}\":{}", field.name(), value.into());
    }
}

impl Visit for Fields<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::subscriber::{Encoder, report_everything, written};

    #[test]
    fn a_line_is_one_object_with_the_fields_between_level_and_span() {
        let line = written(Encoder::Json, report_everything);
        insta::assert_snapshot!(
            line.replace('\u{202e}', "U+202E"),
            @r#"{"timestamp":"TIME","level":"WARN","message":"upgrade failed","text":"a \"b\"\n\u001b[31mU+202E","list":"[\"a\", \"b\"]","address":"127.0.0.1","child":8,"change":-3,"is_root":true,"share":0.25,"span":{"generation":7,"pid":99,"name":"psflip"}}"#
        );
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["text"], "a \"b\"\n\u{1b}[31m\u{202e}");
    }
}
