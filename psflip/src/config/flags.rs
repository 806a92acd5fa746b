//! A configuration that consists of flags. psflip writes it as TOML, one line per flag, and parses that like
//! a file, so keys, templates and errors are the same. Only the place of an error is shown as the flag.

use std::ffi::{OsStr, OsString};

use super::raw;
use super::render::{basic, key as quoted_key};
use crate::text;

/// The settings of flags, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    keys: Vec<Line>,
    listeners: Vec<Line>,
    /// Whether some values are not UTF-8.
    is_raw: bool,
}

/// One flag: how it was given, and its TOML. Neither contains a newline.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    flag: String,
    toml: String,
}

/// The longest part of a flag in a message, in characters.
const SHOWN: usize = 80;

/// A flag and its value as shown in messages.
fn shown(flag: &str, value: &str) -> String {
    let mut text = format!("{flag} {value}").trim_end().to_owned();
    if let Some((end, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Flags {
    fn add(&mut self, flag: &str, value: &str, key: &str, toml: &str) {
        self.keys.push(Line { flag: shown(flag, value), toml: format!("{key} = {toml}") });
    }

    /// Sets `key` (dotted, as in TOML) to this string.
    pub fn text(&mut self, flag: &str, key: &str, value: &str) {
        self.add(flag, value, key, &basic(value));
    }

    /// Sets `key` to `toml`, which is not a quoted user value: a number, `true`, or a constant string in
    /// quotes.
    pub fn literal(&mut self, flag: &str, key: &str, toml: &str) {
        let value = if toml.bytes().all(|byte| byte.is_ascii_digit()) { toml } else { "" };
        self.add(flag, value, key, toml);
    }

    /// Sets `key` to this path, which need not be UTF-8.
    pub fn path(&mut self, flag: &str, key: &str, value: &OsStr) {
        let toml = basic(&self.encode(value));
        self.add(flag, &text::lossy(value), key, &toml);
    }

    /// Sets the child's argv, the words after `--`, which need not be UTF-8.
    pub fn command(&mut self, argv: &[OsString]) {
        let items: Vec<String> = argv.iter().map(|argument| basic(&self.encode(argument))).collect();
        let shown: Vec<String> = argv.iter().map(text::lossy).collect();
        self.add("--", &shown.join(" "), "cmd", &format!("[{}]", items.join(", ")));
    }

    fn encode(&mut self, value: &OsStr) -> String {
        let (text, marked) = raw::encode(value);
        self.is_raw |= marked;
        text
    }

    /// Whether the text of [`Flags::lines`] contains bytes that are not UTF-8, in the encoding of `raw`.
    pub(super) fn is_raw(&self) -> bool {
        self.is_raw
    }

    /// Sets `key` to an argv that runs this line with a shell.
    pub fn shell(&mut self, flag: &str, key: &str, line: &str) {
        self.add(flag, line, key, &format!("[\"sh\", \"-c\", {}]", basic(line)));
    }

    /// Sets one name of a table of strings, whose dotted key is `table`.
    pub fn entry(&mut self, flag: &str, table: &str, name: &str, value: &str) {
        // The value may be a secret, so messages don't show it.
        self.add(flag, name, &format!("{table}.{}", quoted_key(name)), &basic(value));
    }

    /// Sets or removes an environment variable of the child.
    pub fn variable(&mut self, flag: &str, name: &str, value: Option<&str>) {
        let key = format!("env.{}", quoted_key(name));
        match value {
            // The value may be a secret, so messages don't show it.
            Some(value) => self.add(flag, name, &key, &basic(value)),
            None => self.add(flag, name, &key, "false"),
        }
    }

    /// Adds a line to `[signals]`: the child gets `sent` in place of `received`.
    pub fn signal(&mut self, flag: &str, received: &str, sent: &str) {
        let toml = if sent == "false" { sent.to_owned() } else { basic(sent) };
        let key = format!("signals.{}", quoted_key(received));
        self.add(flag, &format!("{received}={sent}"), &key, &toml);
    }

    /// Sets `[switch]`: the symlink `link` is repointed to `to`.
    pub fn link(&mut self, flag: &str, link: &str, to: &str) {
        let toml = format!("{{ path = {}, to = {} }}", basic(link), basic(to));
        self.add(flag, &format!("{link}={to}"), "switch.symlink", &toml);
    }

    /// Adds a `[[listen]]` from `ADDRESS[,KEY=VALUE]...`. A key alone means `KEY=true`; a key that is given
    /// twice becomes an array.
    pub fn listener(&mut self, flag: &str, value: &str) {
        let mut pieces = value.split(',');
        let mut toml = format!("{{ address = {}", basic(pieces.next().unwrap_or_default()));
        let mut keys: Vec<(&str, Vec<String>)> = Vec::new();
        for piece in pieces {
            let (key, written) = piece.split_once('=').unwrap_or((piece, "true"));
            let bare = matches!(written, "true" | "false")
                || key == "backlog"
                    && !written.is_empty()
                    && written.bytes().all(|byte| byte.is_ascii_digit());
            let written = if bare { written.to_owned() } else { basic(written) };
            match keys.iter_mut().find(|(other, _)| *other == key) {
                Some((_, list)) => list.push(written),
                None => keys.push((key, vec![written])),
            }
        }
        for (key, list) in keys {
            let written =
                if let [only] = list.as_slice() { only.clone() } else { format!("[{}]", list.join(", ")) };
            toml += &format!(", {} = {written}", quoted_key(key));
        }
        self.listeners.push(Line { flag: shown(flag, value), toml: toml + " }," });
    }

    /// The text, and the flag of each of its lines.
    pub(super) fn lines(&self) -> (String, Vec<String>) {
        let bracket = |toml: &str| Line { flag: "--listen".to_owned(), toml: toml.to_owned() };
        let mut lines = self.keys.clone();
        if !self.listeners.is_empty() {
            lines.push(bracket("listen = ["));
            lines.extend(self.listeners.iter().cloned());
            lines.push(bracket("]"));
        }
        let text = lines.iter().map(|line| line.toml.clone() + "\n").collect();
        (text, lines.into_iter().map(|line| line.flag).collect())
    }
}
