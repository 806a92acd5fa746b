//! Upstream's values: how Go and its configuration library (fig, mapstructure) read them, translated for
//! psflip.

use std::time::Duration;

use super::source::{Node, Value};
use crate::config::scalar;
use crate::signal::Signal;

/// A translated value, and a note about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Meant<T> {
    pub(super) value: T,
    pub(super) note: Option<String>,
}

impl<T> Meant<T> {
    fn plainly(value: T) -> Self {
        Self { value, note: None }
    }

    fn with(value: T, note: impl Into<String>) -> Self {
        Self { value, note: Some(note.into()) }
    }
}

/// A value of another type as the text that upstream reads: `8080` is `8080`, but `1.10` is `1.1` and `true`
/// is `1`. `None`: it is a text, or can't become one.
pub(super) fn weak_text(node: &Node) -> Option<Meant<String>> {
    let text = match &node.value {
        Value::Int(number) => number.to_string(),
        Value::Float(number) if number.is_nan() => "NaN".to_owned(),
        Value::Float(number) if number.is_infinite() => {
            if *number > 0.0 { "+Inf" } else { "-Inf" }.to_owned()
        }
        Value::Float(number) => number.to_string(),
        Value::Bool(value) => u8::from(*value).to_string(),
        Value::Null => {
            return Some(Meant::with(
                String::new(),
                "nothing stands here; upstream took it for an empty text",
            ));
        }
        Value::Text(_) | Value::Other(_) | Value::List(_) | Value::Map(_) => return None,
    };
    let written = node.written.as_deref().unwrap_or_default();
    if written == text {
        return Some(Meant::plainly(text));
    }
    let note = format!("`{written}` stands without quotes; upstream took it for `{text}`");
    Some(Meant::with(text, note))
}

/// A boolean.
pub(super) fn boolean(node: &Node) -> Result<Meant<bool>, String> {
    match &node.value {
        Value::Bool(value) => Ok(Meant::plainly(*value)),
        Value::Int(number) => Ok(Meant::with(*number != 0, "a number stands for true unless it is 0")),
        Value::Text(text) => match text.as_str() {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Meant::plainly(true)),
            "" | "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Meant::plainly(false)),
            "yes" | "Yes" | "on" | "On" | "y" => {
                Ok(Meant::with(true, format!("upstream refuses `{text}` here")))
            }
            "no" | "No" | "off" | "Off" | "n" => {
                Ok(Meant::with(false, format!("upstream refuses `{text}` here")))
            }
            _ => Err("upstream refuses it: it is neither true nor false".to_owned()),
        },
        _ => Err("upstream refuses it: it is neither true nor false".to_owned()),
    }
}

/// A signal by name, or by its number on this system.
pub(super) fn signal(node: &Node) -> Result<Meant<String>, String> {
    match &node.value {
        Value::Text(text) => text
            .parse::<Signal>()
            .map(|signal| Meant::plainly(signal.to_string()))
            .map_err(|_| "it is no signal that psflip knows".to_owned()),
        Value::Int(number) => {
            let signal = i32::try_from(*number).ok().and_then(Signal::from_number);
            let signal = signal.ok_or("there is no signal of this number")?.to_string();
            let note = format!("signal {number} is {signal} on this host; on others it may be another one");
            Ok(Meant::with(signal, note))
        }
        _ => Err("upstream refuses it: it is no signal".to_owned()),
    }
}

/// A duration; `default` is what upstream uses in place of zero.
pub(super) fn duration(node: &Node, default: &str) -> Result<Meant<String>, String> {
    let nanoseconds = match &node.value {
        Value::Text(text) => parse(text).ok_or("upstream refuses it: it is no duration as Go writes them")?,
        Value::Int(number) => i128::from(*number),
        Value::Float(number) => *number as i128,
        _ => return Err("upstream refuses it: it is no duration".to_owned()),
    };
    if nanoseconds > i128::from(i64::MAX) {
        return Err("it is longer than upstream can count, which is 292 years".to_owned());
    }
    if nanoseconds < 0 {
        return Err("it is negative".to_owned());
    }
    if nanoseconds == 0 {
        return Ok(if default == "0s" {
            Meant::plainly("0s".to_owned())
        } else {
            Meant::with(default.to_owned(), format!("upstream took zero for its default, `{default}`"))
        });
    }
    let milliseconds = u64::try_from((nanoseconds + 999_999) / 1_000_000).unwrap_or(u64::MAX);
    let meant = Duration::from_millis(milliseconds);
    let spelled = scalar::spell(meant);
    match &node.value {
        Value::Text(text) if scalar::duration(text) == Ok(meant) => Ok(Meant::plainly(text.clone())),
        Value::Text(_) if nanoseconds % 1_000_000 != 0 => {
            Ok(Meant::with(spelled, "psflip counts in milliseconds; it is rounded up"))
        }
        Value::Text(_) => Ok(Meant::plainly(spelled)),
        _ if nanoseconds < 1_000_000 => Err(format!(
            "without a unit it is {nanoseconds} ns to upstream, which is hardly meant; write the unit, `\"{nanoseconds}s\"` for seconds"
        )),
        _ => Ok(Meant::with(spelled, "without a unit it is nanoseconds to upstream")),
    }
}

/// Go's time.ParseDuration, in nanoseconds.
pub(super) fn parse(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (whole, after) = rest.split_at(digits(rest));
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => after.split_at(digits(after)),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let unit: i128 = match &after[..end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        // No unit has more than 13 digits, so further digits of a fraction have no effect.
        let fraction = &fraction[..fraction.len().min(15)];
        if let Ok(number) = fraction.parse::<i128>() {
            total = total.checked_add(number * unit / 10_i128.pow(fraction.len() as u32))?;
        }
        rest = &after[end..];
    }
    (total <= i128::from(i64::MAX)).then_some(if negative { -total } else { total })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::migrate::source::Position;

    fn node(value: Value) -> Node {
        let written = match &value {
            Value::Int(number) => Some(number.to_string()),
            _ => None,
        };
        Node { at: Position { line: 1, column: 1 }, end: 1, verbatim: None, written, value }
    }

    fn read(text: &str) -> Result<Meant<String>, String> {
        duration(&node(Value::Text(text.to_owned())), "1m")
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        let valid = [
            ("5s", "5s"),
            ("1.5h", "1h30m"),
            ("90s", "90s"),
            ("30s1m", "1m30s"),
            ("+.5m", "30s"),
            ("100000us", "100ms"),
            ("1h15m30.918s", "1h15m30s918ms"),
            ("0", "1m"),
            ("0s", "1m"),
        ];
        for (go, ours) in valid {
            assert_eq!(read(go).map(|meant| meant.value).as_deref(), Ok(ours), "{go}");
        }
        assert_eq!(read("1m30s").map(|meant| meant.note), Ok(None));
        assert_eq!(read("1.2ms").map(|meant| meant.value).as_deref(), Ok("2ms"));
        for wrong in ["", "5", "s", ".s", "1d", "5 s", "-5s", "3000000h", "1e3s", "{{ 5 }}s", "1.5"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_are_nanoseconds() {
        assert_eq!(
            duration(&node(Value::Int(2_000_000_000)), "1m").map(|meant| meant.value).as_deref(),
            Ok("2s")
        );
        let error = duration(&node(Value::Int(5)), "1m").unwrap_err();
        assert!(error.contains("5 ns") && error.contains("\"5s\""), "{error}");
        assert!(duration(&node(Value::Int(-5)), "1m").is_err());
        assert!(duration(&node(Value::Float(1e41)), "1m").is_err());
    }
}
