//! Journal entries, as `journalctl --output=json` prints them.

use serde_json::Value;

/// One journal entry, written by a process of a unit, or by systemd about the unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The message.
    pub message: String,
    /// The pid of the writer, as seen inside of the machine.
    pub pid: Option<u32>,
    /// The writer's name for itself: `systemd`, or the unit's first program.
    pub identifier: String,
    /// From 0 (emergency) to 7 (debug), as in syslog(3).
    pub priority: Option<u8>,
    fields: Value,
}

impl Entry {
    pub(super) fn parse(line: &str) -> Option<Self> {
        let fields: Value = serde_json::from_str(line).ok()?;
        Some(Self {
            message: text(fields.get("MESSAGE")?),
            pid: fields.get("_PID").and_then(|value| text(value).parse().ok()),
            identifier: fields.get("SYSLOG_IDENTIFIER").map(text).unwrap_or_default(),
            priority: fields.get("PRIORITY").and_then(|value| text(value).parse().ok()),
            fields,
        })
    }

    /// Any other field by name: one of systemd.journal-fields(7), or the writer's own.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<String> {
        self.fields.get(name).map(text)
    }
}

/// journalctl prints a field as a string or, if it has unprintable characters, as a list of bytes.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(bytes) => {
            let bytes: Vec<u8> = bytes.iter().filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_read_also_with_unprintable_characters() {
        let line = r#"{"MESSAGE":[104,105,27],"_PID":"12","SYSLOG_IDENTIFIER":"a","PRIORITY":"6","X":"y"}"#;
        let entry = Entry::parse(line).unwrap();
        assert_eq!((entry.message.as_str(), entry.pid, entry.priority), ("hi\u{1b}", Some(12), Some(6)));
        assert_eq!((entry.identifier.as_str(), entry.field("X").as_deref()), ("a", Some("y")));
        assert_eq!(Entry::parse("{}"), None);
    }
}
