//! Parses TOML.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    Comment, DEEPEST, Entry, MOST_ITEMS, MOST_KEYS, MOST_NODES, Node, Source, Starts, Unreadable, Value,
};

/// Parses a TOML text.
pub(super) fn read(text: &str) -> Result<Source<'_>, Unreadable> {
    let starts = Starts::of(text);
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map(|span| starts.position(text, span.start));
        Unreadable { at, message: format!("not valid TOML: {}", error.message()) }
    })?;
    let mut reader = Reader { text, starts: &starts, strings: Vec::new(), nodes: 0 };
    let root = reader.entries(table.get_ref(), 0)?;
    if root.is_empty() {
        return Err(Unreadable { at: None, message: "the file is empty".to_owned() });
    }
    let comments = comments(text, &starts, &reader.strings);
    Ok(Source { text, root, comments, ignored: None, starts })
}

struct Reader<'a> {
    text: &'a str,
    starts: &'a Starts,
    /// The places of strings, in bytes: a `#` in a string starts no comment.
    strings: Vec<(usize, usize)>,
    nodes: usize,
}

impl Reader<'_> {
    fn entries(&mut self, table: &DeTable<'_>, depth: usize) -> Result<Vec<Entry>, Unreadable> {
        let mut entries = Vec::new();
        for (key, value) in table {
            let at = self.starts.position(self.text, key.span().start);
            self.strings.push((key.span().start, key.span().end));
            let node = self.node(value, depth + 1)?;
            entries.push(Entry { key: key.get_ref().to_string(), at, anchored: false, merged: false, node });
        }
        entries.sort_by_key(|entry| entry.at);
        Ok(entries)
    }

    fn node(&mut self, value: &Spanned<DeValue<'_>>, depth: usize) -> Result<Node, Unreadable> {
        let span = value.span();
        let at = self.starts.position(self.text, span.start);
        if depth > DEEPEST {
            return Err(Unreadable::at(at, format!("nested more than {DEEPEST} deep")));
        }
        self.nodes += 1;
        let (items, keys) = match value.get_ref() {
            DeValue::Array(items) => (items.len(), 0),
            DeValue::Table(table) => (0, table.len()),
            _ => (0, 0),
        };
        if self.nodes > MOST_NODES || items > MOST_ITEMS || keys > MOST_KEYS {
            return Err(Unreadable::at(at, "too many values"));
        }
        let source = self.text.get(span.clone()).unwrap_or_default();
        let mut verbatim = None;
        let too_large = Value::Other("a number that is too large");
        let value = match value.get_ref() {
            DeValue::String(text) => {
                self.strings.push((span.start, span.end));
                verbatim = source.find(text.as_ref()).map(|start| span.start + start);
                Value::Text(text.to_string())
            }
            DeValue::Integer(number) => {
                i64::from_str_radix(number.as_str(), number.radix()).map_or(too_large, Value::Int)
            }
            DeValue::Float(number) => number.as_str().parse().map_or(too_large, Value::Float),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Datetime(_) => Value::Other("a date"),
            DeValue::Array(items) => {
                Value::List(items.iter().map(|item| self.node(item, depth + 1)).collect::<Result<_, _>>()?)
            }
            DeValue::Table(table) => Value::Map(self.entries(table, depth)?),
        };
        let written = match &value {
            Value::Text(_) | Value::List(_) | Value::Map(_) => None,
            _ => Some(source.to_owned()),
        };
        let end = self.starts.position(self.text, span.end.max(span.start + 1) - 1).line;
        Ok(Node { at, end: end.max(at.line), verbatim, written, value })
    }
}

/// The comments: text after a `#` that is in no string.
fn comments(text: &str, starts: &Starts, strings: &[(usize, usize)]) -> Vec<Comment> {
    let mut strings = strings.to_vec();
    strings.sort_unstable();
    let mut comments = Vec::new();
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| rest.find('#')).map(|at| from + at) {
        // The last string that begins before the `#`.
        let index = strings.partition_point(|(start, _)| *start <= at);
        if let Some((_, end)) = index.checked_sub(1).map(|index| strings[index]).filter(|(_, end)| *end > at)
        {
            from = end;
            continue;
        }
        let end = text[at..].find('\n').map_or(text.len(), |newline| at + newline);
        comments.push(Comment {
            line: starts.position(text, at).line,
            text: text[at + 1..end].trim().to_owned(),
        });
        from = end;
    }
    comments
}
