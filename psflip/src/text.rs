//! Text for one line of a log: output of other programs made fit for it, and the names of processes.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;

/// The longest quotation of an output in a message, in characters.
const TAIL: usize = 300;

/// The last [`TAIL`] characters of an output: whole lines if there is at least one, control characters
/// escaped. `None`: there is only white space.
pub(crate) fn tail(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let text = text.trim();
    let start = text.char_indices().rev().nth(TAIL - 1).map_or(0, |(start, _)| start);
    let mut tail = &text[start..];
    if start > 0
        && !text[..start].ends_with('\n')
        && let Some((_, whole)) = tail.split_once('\n')
        && !whole.is_empty()
    {
        tail = whole;
    }
    (!tail.is_empty()).then(|| escaped(tail))
}

/// The last lines of an output, as lines. Other control characters are escaped. `None`: there is only white
/// space.
pub(crate) fn last_lines(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<String> = text.trim_end().lines().map(escaped).collect();
    let lines = lines.join("\n");
    (!lines.trim().is_empty()).then_some(lines)
}

/// Whether a line comes from psflip's own log, and not from the child.
pub(crate) fn is_of_psflips_log(line: &str) -> bool {
    line.contains(" psflip{generation=") || line.contains("\"name\":\"psflip\"")
}

/// The first `longest` characters, control characters escaped. `…` shows that the text was longer.
pub(crate) fn head(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        None => escaped(text),
        Some((end, _)) => escaped(&text[..end]) + "…",
    }
}

/// Whether `text` matches `pattern`: `*` stands for any bytes and `?` for any one, as far as `stands_for`
/// allows.
pub(crate) fn matches(pattern: &[u8], text: &[u8], stands_for: impl Fn(u8) -> bool) -> bool {
    let (mut at, mut read) = (0, 0);
    // Where to go on when the text does not match: a `*` takes one byte more.
    let mut star = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, read));
                at += 1;
            }
            Some(byte) if *byte == text[read] || *byte == b'?' && stands_for(text[read]) => {
                at += 1;
                read += 1;
            }
            _ => match star {
                Some((before, taken)) if stands_for(text[taken]) => {
                    star = Some((before, taken + 1));
                    at = before + 1;
                    read = taken + 1;
                }
                _ => return false,
            },
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// The sender of a signal or a request: `pid 12 (root)`, or `pid 12 (uid 1000)`.
///
/// The kernel reports pid 0 for a process that this PID namespace does not show (pid_namespaces(7)), such as
/// the container engine when psflip is PID 1.
pub(crate) fn sender(pid: impl Into<i64>, uid: u32) -> String {
    let user = user(uid);
    match pid.into() {
        0 => format!("a process outside of this PID namespace ({user})"),
        pid => format!("pid {pid} ({user})"),
    }
}

/// A user: `root`, or `uid 1000`. Other names are not looked up, since the user database may be on the
/// network (nsswitch.conf(5)), and psflip's loop must not wait for that.
pub(crate) fn user(uid: u32) -> String {
    if uid == 0 { "root".to_owned() } else { format!("uid {uid}") }
}

/// A path or an argument as text: bytes that are not UTF-8 as `\xE9`, all else unchanged. Different values
/// give different texts, unless a value contains such an escape itself.
pub(crate) fn lossy(value: impl AsRef<OsStr>) -> String {
    let mut text = String::new();
    for chunk in value.as_ref().as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02X}");
        }
    }
    text
}

/// Escapes all characters that would not be visible as themselves: control characters, marks of writing
/// direction, and characters without a width.
pub(crate) fn escaped(text: &str) -> String {
    escaped_but(text, &[])
}

/// As [`escaped`], but keeps these characters.
pub(crate) fn escaped_but(text: &str, kept: &[char]) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        if is_hidden(char) && !kept.contains(&char) {
            escaped.extend(char.escape_default());
        } else {
            escaped.push(char);
        }
    }
    escaped
}

/// JSON without characters that a terminal does not show as themselves: they are escaped.
pub(crate) fn json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hidden(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                let _ = write!(out, "\\u{unit:04x}"); // writing to a string can't fail
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a terminal does not show a character as itself: control characters, format characters (general
/// category Cf of Unicode: marks of writing direction, joiners, tags), line separators, and fillers that look
/// like a space.
pub(crate) fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{110bd}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_escaped() {
        assert_eq!(escaped("a\u{202e}b\u{200b}\u{feff}\u{e0041}c"), r"a\u{202e}b\u{200b}\u{feff}\u{e0041}c");
        assert_eq!(escaped("\u{1b}[2J\u{9b}x"), r"\u{1b}[2J\u{9b}x");
        assert_eq!(escaped("Größe, 日本語, עברית"), "Größe, 日本語, עברית");
        assert_eq!(escaped_but("a\n\tb\u{202e}", &['\n', '\t']), "a\n\tb\\u{202e}");
    }

    #[test]
    fn short_output_is_shown_completely_on_one_line() {
        assert_eq!(tail(b" one\ntwo\x1b[0m\n\n").as_deref(), Some(r"one\ntwo\u{1b}[0m"));
        assert_eq!(tail(b" \n"), None);
    }

    #[test]
    fn of_long_output_the_last_complete_lines_are_shown() {
        let long = format!("{}\n{}\nlast\n", "x".repeat(250), "y".repeat(250));
        assert_eq!(tail(long.as_bytes()), Some(format!("{}\\nlast", "y".repeat(250))));
        assert_eq!(tail("ü".repeat(1000).as_bytes()), Some("ü".repeat(300)));
    }

    #[test]
    fn bytes_that_are_not_utf_8_are_escaped() {
        assert_eq!(lossy(OsStr::from_bytes(b"caf\xe9 \xc3\xa9\xff")), r"caf\xE9 é\xFF");
    }

    #[test]
    fn root_is_named_and_nobody_else_is_looked_up() {
        // Contract: S6
        assert_eq!([sender(12, 0), sender(12, 65534)], ["pid 12 (root)", "pid 12 (uid 65534)"]);
        assert_eq!(sender(0, 0), "a process outside of this PID namespace (root)");
    }

    #[test]
    fn a_truncated_head_is_marked() {
        assert_eq!(head("abc", 3), "abc");
        assert_eq!(head("ab\r\n", 3), r"ab\r…");
    }
}
