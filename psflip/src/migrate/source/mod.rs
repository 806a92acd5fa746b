//! Upstream's file as a tree of values with places, for all three formats.

mod numbers;
#[cfg(test)]
mod tests;
mod toml;
mod yaml;

pub(super) use numbers::integer;

use std::fmt;

/// The most values in one file. Values that an alias repeats count again; a long text counts as several.
const MOST_NODES: usize = 20_000;
/// The most keys in one map.
const MOST_KEYS: usize = 1000;
/// The most values in one list.
const MOST_ITEMS: usize = 5000;
/// The deepest nesting of lists and maps; upstream's keys are nested three deep.
const DEEPEST: usize = 32;

/// A place in a file: line and column from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The format of upstream's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML, as yaml.v3 (Go) reads it.
    Yaml,
    /// JSON.
    Json,
    /// TOML.
    Toml,
}

impl Format {
    /// The format that a file's extension indicates; case does not matter.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let (_, end) = name.rsplit_once('.')?;
        match end.to_ascii_lowercase().as_str() {
            "yml" | "yaml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            "toml" => Some(Self::Toml),
            _ => None,
        }
    }

    /// The likely format of a text.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        if text.trim_start_matches('\u{feff}').trim_start().starts_with('{') {
            Self::Json
        } else if ::toml::de::DeTable::parse(text).is_ok_and(|table| !table.get_ref().is_empty()) {
            Self::Toml
        } else {
            Self::Yaml
        }
    }
}

/// Why a file can't be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The place, if it is known.
    pub at: Option<Position>,
    /// The reason; a lowercase fragment.
    pub message: String,
}

impl Unreadable {
    fn at(at: Position, message: impl Into<String>) -> Self {
        Self { at: Some(at), message: message.into() }
    }
}

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// A value that no key of upstream accepts: a date, an integer that is too large.
    Other(&'static str),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A value with its place.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    /// Its last line.
    pub(super) end: usize,
    /// The offset of the text in the file, in bytes, if it is written there without escapes and line breaks.
    pub(super) verbatim: Option<usize>,
    /// As written, if it is not a text.
    pub(super) written: Option<String>,
    pub(super) value: Value,
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: Position,
    /// It has an anchor, so aliases may repeat it (YAML).
    pub(super) anchored: bool,
    /// It was merged from another map by `<<`; a key of this map overrides it (YAML).
    pub(super) merged: bool,
    pub(super) node: Node,
}

/// A comment, without its `#`.
#[derive(Clone, Debug)]
pub(super) struct Comment {
    pub(super) line: usize,
    pub(super) text: String,
}

/// A parsed file.
#[derive(Debug)]
pub(super) struct Source<'t> {
    pub(super) text: &'t str,
    /// The keys of the file itself.
    pub(super) root: Vec<Entry>,
    /// The comments, in the order of the file.
    pub(super) comments: Vec<Comment>,
    /// Where a part begins that upstream does not read: the second document of a YAML file.
    pub(super) ignored: Option<Position>,
    starts: Starts,
}

impl Source<'_> {
    /// The place of a byte offset.
    pub(super) fn position(&self, byte: usize) -> Position {
        self.starts.position(self.text, byte)
    }
}

/// The starts of lines, and the number of characters before each block of bytes. With it a place is found
/// without scanning a long line.
#[derive(Debug)]
struct Starts {
    lines: Vec<usize>,
    /// The characters before every [`BLOCK`]th byte.
    characters: Vec<usize>,
}

const BLOCK: usize = 1024;

impl Starts {
    fn of(text: &str) -> Self {
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let mut sum = 0;
        let characters = text.as_bytes().chunks(BLOCK).map(|block| {
            let before = sum;
            sum += characters(block);
            before
        });
        let mut characters: Vec<usize> = characters.collect();
        characters.push(sum);
        Self { lines, characters }
    }

    fn position(&self, text: &str, byte: usize) -> Position {
        let byte = byte.min(text.len());
        let before = |byte: usize| {
            let block = byte / BLOCK;
            self.characters[block] + characters(&text.as_bytes()[block * BLOCK..byte])
        };
        let line = self.lines.partition_point(|start| *start <= byte).max(1);
        let mut column = before(byte) - before(self.lines[line - 1]) + 1;
        if line == 1 && text.starts_with('\u{feff}') && column > 1 {
            column -= 1; // a byte order mark is not a character of the first line
        }
        Position { line, column }
    }
}

/// The number of characters that begin in these bytes of UTF-8.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}

/// Parses a file.
pub(super) fn read(text: &str, format: Format) -> Result<Source<'_>, Unreadable> {
    match format {
        Format::Yaml => yaml::read(text),
        Format::Json => yaml::read_json(text),
        Format::Toml => toml::read(text),
    }
}
