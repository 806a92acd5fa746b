//! A configuration that consists of flags. psflip writes it as TOML, one line per flag, and parses that like
//! a file, so keys, templates and errors are the same. Only the place of an error is shown as the flag.

use std::ffi::{OsStr, OsString};

use super::proxy_flag::{self, ListenUrl};
use super::raw;
use super::render::{basic, key as quoted_key};
use crate::text;

/// The settings of flags, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    keys: Vec<Line>,
    listeners: Vec<Line>,
    proxies: Vec<Line>,
    env_files: Vec<Line>,
    env_dirs: Vec<Line>,
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

/// The keys of an item, each with the TOML of its values.
type Keys<'v> = Vec<(&'v str, Vec<String>)>;

/// Splits at commas, but not within a template.
fn pieces(value: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let whole = rest?;
        let mut depth = 0_usize;
        let comma = whole.char_indices().find(|(at, character)| {
            let tail = &whole[*at..];
            if tail.starts_with("{{") {
                depth += 1;
            } else if tail.starts_with("}}") {
                depth = depth.saturating_sub(1);
            }
            *character == ',' && depth == 0
        });
        let (piece, after) = match comma {
            Some((at, _)) => (&whole[..at], Some(&whole[at + 1..])),
            None => (whole, None),
        };
        rest = after;
        Some(piece)
    })
}

/// Splits `ADDRESS[,KEY=VALUE]...`.
fn item(value: &str) -> (&str, Keys<'_>) {
    let mut pieces = pieces(value);
    let address = pieces.next().unwrap_or_default();
    let mut keys: Keys<'_> = Vec::new();
    for piece in pieces {
        let (key, written) = piece.split_once('=').unwrap_or((piece, "true"));
        let is_number = !written.is_empty() && written.bytes().all(|byte| byte.is_ascii_digit());
        let bare =
            matches!(written, "true" | "false") || is_number && ["backlog", "fd", "pool"].contains(&key);
        let written = if bare { written.to_owned() } else { basic(written) };
        match keys.iter_mut().find(|(other, _)| *other == key) {
            Some((_, list)) => list.push(written),
            None => keys.push((key, vec![written])),
        }
    }
    (address, keys)
}

/// An item of an array of tables, on one line.
fn inline_table(first: &str, value: &str, keys: &Keys<'_>) -> String {
    let mut toml = format!("{{ {first} = {}", basic(value));
    for (key, list) in keys {
        let written =
            if let [only] = list.as_slice() { only.clone() } else { format!("[{}]", list.join(", ")) };
        toml += &format!(", {} = {written}", quoted_key(key));
    }
    toml + " },"
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

    /// Adds a path to `env_file`, or to `env_dir`.
    pub fn variables(&mut self, flag: &str, is_dir: bool, path: &str) {
        let lines = if is_dir { &mut self.env_dirs } else { &mut self.env_files };
        lines.push(Line { flag: shown(flag, path), toml: basic(path) + "," });
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
        let (address, keys) = item(value);
        let toml = inline_table("address", address, &keys);
        self.listeners.push(Line { flag: shown(flag, value), toml });
    }

    /// Adds a `[[proxy]]` from `URL[,KEY=VALUE]...` (`proxy_flag`). Without a key `forward` it forwards to
    /// `own`. Returns where it forwards to, in TOML.
    pub fn proxy(&mut self, flag: &str, value: &str, own: &str, has_ipv6: impl FnOnce() -> bool) -> String {
        let (url, mut keys) = item(value);
        let ListenUrl { listen, protocol, v6only } = proxy_flag::listen_url(url, has_ipv6);
        let v6only = v6only.map(|value| ("v6only", value.to_string()));
        let protocol = protocol.map(|word| ("protocol", basic(word)));
        for (key, written) in [Some(("forward", basic(own))), protocol, v6only].into_iter().flatten() {
            if !keys.iter().any(|(other, _)| *other == key) {
                keys.push((key, vec![written]));
            }
        }
        let forward = keys.iter().find(|(key, _)| *key == "forward").and_then(|(_, list)| list.first());
        let forward = forward.cloned().unwrap_or_default();
        let toml = inline_table("listen", &listen, &keys);
        self.proxies.push(Line { flag: shown(flag, value), toml });
        forward
    }

    /// The text, and the flag of each of its lines.
    pub(super) fn lines(&self) -> (String, Vec<String>) {
        let mut lines = self.keys.clone();
        let arrays = [
            ("listen", &self.listeners),
            ("proxy", &self.proxies),
            ("env_file", &self.env_files),
            ("env_dir", &self.env_dirs),
        ];
        for (key, items) in arrays {
            let bracket = |toml: String| Line { flag: format!("--{}", key.replace('_', "-")), toml };
            if !items.is_empty() {
                lines.push(bracket(format!("{key} = [")));
                lines.extend(items.iter().cloned());
                lines.push(bracket("]".to_owned()));
            }
        }
        let text = lines.iter().map(|line| line.toml.clone() + "\n").collect();
        (text, lines.into_iter().map(|line| line.flag).collect())
    }
}
