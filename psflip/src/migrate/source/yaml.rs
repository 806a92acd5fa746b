//! Parses YAML, and JSON as a subset of YAML. The parser does not recurse, so it can report any depth of
//! nesting.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::{
    Comment, DEEPEST, Entry, MOST_ITEMS, MOST_KEYS, MOST_NODES, Node, Position, Source, Starts, Unreadable,
    Value, numbers,
};

/// Parses a JSON text.
pub(super) fn read_json(text: &str) -> Result<Source<'_>, Unreadable> {
    // YAML allows more than JSON does, so JSON errors are reported first.
    let strict: Result<serde::de::IgnoredAny, _> = serde_json::from_str(text.trim_start_matches('\u{feff}'));
    if let Err(error) = strict {
        let full = error.to_string();
        let message = full.split(" at line ").next().unwrap_or_default();
        let at = Position { line: error.line().max(1), column: error.column().max(1) };
        return Err(Unreadable::at(at, format!("not valid JSON: {message}")));
    }
    read(text)
}

/// Parses the first document of a YAML text, as upstream does.
pub(super) fn read(text: &str) -> Result<Source<'_>, Unreadable> {
    let mut builder = Builder { text, open: Vec::new(), anchors: BTreeMap::new(), nodes: 0, root: None };
    let (mut comments, mut ignored, mut documents) = (Vec::new(), None, 0);
    let options = granit_parser::options! {
        flow_nesting_limit: DEEPEST,
        block_nesting_limit: DEEPEST,
        block_scalar_eof_without_line_feed: true,
        max_buffered_comment_events: 10_000,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let marker = error.marker();
            let at = Position { line: marker.line().max(1), column: marker.col() + 1 };
            Unreadable::at(at, format!("not valid YAML: {}", plain(&error)))
        })?;
        match event {
            Event::Comment(comment, _) => {
                comments.push(Comment { line: span.start.line(), text: comment.trim().to_owned() });
            }
            Event::DocumentStart(..) => {
                documents += 1;
                if documents == 2 {
                    ignored = Some(position(&span));
                    break;
                }
            }
            other => builder.take(other, &span)?,
        }
    }
    let whole = |message: &str| Unreadable { at: None, message: message.to_owned() };
    let root = match builder.root {
        Some(Node { value: Value::Map(entries), .. }) => entries,
        Some(Node { value: Value::Null, .. }) | None => return Err(whole("the file is empty")),
        Some(node) => return Err(Unreadable::at(node.at, "the file is no table of keys and values")),
    };
    Ok(Source { text, root, comments, ignored, starts: Starts::of(text) })
}

/// The parser's message without the place, which precedes it.
fn plain(error: &granit_parser::ScanError) -> String {
    error.info().trim_end_matches('.').to_owned()
}

fn position(span: &Span) -> Position {
    Position { line: span.start.line().max(1), column: span.start.col() + 1 }
}

/// A list or a map that is not complete.
struct Open {
    node: Node,
    anchor: usize,
    /// Of a map: the key whose value comes next, and whether that key has an anchor.
    key: Option<(String, Position)>,
}

struct Builder<'t> {
    text: &'t str,
    open: Vec<Open>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    root: Option<Node>,
}

impl Builder<'_> {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Unreadable> {
        let at = position(span);
        match event {
            Event::Scalar(word, style, anchor, tag) => {
                let tag = tag.as_ref().and_then(|tag| tag.core_suffix()).map(str::to_owned);
                let node = self.scalar(&word, style, tag.as_deref(), span);
                self.finish(node, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.begin(Value::List(Vec::new()), anchor, at),
            Event::MappingStart(_, anchor, _) => self.begin(Value::Map(Vec::new()), anchor, at),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open { mut node, anchor, .. }) => {
                    node.end = span.end.line().max(node.at.line);
                    self.finish(node, anchor)
                }
                None => Ok(()),
            },
            Event::Alias(anchor) => {
                let Some(mut node) = self.anchors.get(&anchor).cloned() else {
                    return Err(Unreadable::at(at, "the alias stands inside of what it repeats"));
                };
                self.nodes += count(&node);
                node.at = at;
                node.end = at.line;
                self.finish(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, value: Value, anchor: usize, at: Position) -> Result<(), Unreadable> {
        if self.open.len() >= DEEPEST {
            return Err(Unreadable::at(at, format!("nested more than {DEEPEST} deep")));
        }
        let node = Node { at, end: at.line, verbatim: None, written: None, value };
        self.open.push(Open { node, anchor, key: None });
        Ok(())
    }

    fn scalar(&self, word: &str, style: ScalarStyle, tag: Option<&str>, span: &Span) -> Node {
        let at = position(span);
        let range = span.byte_range().unwrap_or_default();
        let source = self.text.get(range.clone()).unwrap_or_default();
        let value = match (tag, style) {
            (Some("str"), _) | (None, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted) => {
                Value::Text(word.to_owned())
            }
            (None, ScalarStyle::Literal | ScalarStyle::Folded) => Value::Text(word.to_owned()),
            _ => numbers::resolve(word),
        };
        let is_text = matches!(value, Value::Text(_));
        Node {
            at,
            end: span.end.line().max(at.line),
            verbatim: source.find(word).filter(|_| is_text).map(|start| range.start + start),
            written: (!is_text).then(|| word.to_owned()),
            value,
        }
    }

    /// Adds a complete value to the enclosing list or map, as a key or as a value.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Unreadable> {
        self.nodes += match &node.value {
            Value::Text(text) => 1 + text.len() / 64,
            _ => 1,
        };
        if self.nodes > MOST_NODES {
            return Err(Unreadable::at(node.at, format!("more than {MOST_NODES} values, aliases included")));
        }
        if anchor != 0 {
            self.nodes += count(&node);
            self.anchors.insert(anchor, node.clone());
        }
        let Some(open) = self.open.last_mut() else {
            self.root.get_or_insert(node);
            return Ok(());
        };
        match &mut open.node.value {
            Value::List(items) if items.len() >= MOST_ITEMS => {
                return Err(Unreadable::at(node.at, format!("more than {MOST_ITEMS} values in one list")));
            }
            Value::List(items) => items.push(node),
            Value::Map(entries) => match open.key.take() {
                None => open.key = Some((key(&node)?, node.at)),
                Some((key, _)) if key == "<<" => {
                    self.nodes += count(&node);
                    merge(entries, node)?;
                }
                Some((_, at)) if entries.len() >= MOST_KEYS => {
                    return Err(Unreadable::at(at, format!("more than {MOST_KEYS} keys in one map")));
                }
                Some((key, at)) => {
                    let anchored = anchor != 0;
                    match entries.iter_mut().find(|entry| entry.key == key) {
                        Some(entry) if entry.merged => {
                            *entry = Entry { key, at, anchored, merged: false, node };
                        }
                        Some(first) => {
                            let message =
                                format!("the key `{key}` is there already, in line {}", first.at.line);
                            return Err(Unreadable::at(at, message));
                        }
                        None => entries.push(Entry { key, at, anchored, merged: false, node }),
                    }
                }
            },
            _ => {}
        }
        Ok(())
    }
}

fn key(node: &Node) -> Result<String, Unreadable> {
    match (&node.value, &node.written) {
        (Value::Text(text), _) => Ok(text.clone()),
        (Value::List(_) | Value::Map(_), _) => Err(Unreadable::at(node.at, "a list or a map can't be a key")),
        (_, written) => Ok(written.clone().unwrap_or_default()),
    }
}

/// Merges `<<: *other`: adds the keys that are absent. Keys of the map itself take precedence.
fn merge(entries: &mut Vec<Entry>, node: Node) -> Result<(), Unreadable> {
    let maps = match node.value {
        Value::List(maps) => maps,
        _ => vec![node],
    };
    for map in maps {
        let at = map.at;
        let Value::Map(others) = map.value else {
            return Err(Unreadable::at(at, "only a map can be merged by `<<`"));
        };
        for other in others {
            if !entries.iter().any(|entry| entry.key == other.key) {
                entries.push(Entry { merged: true, ..other });
            }
        }
    }
    Ok(())
}

/// The number of values; a long text counts as several. The recursion is never deeper than twice [`DEEPEST`],
/// since aliases nest.
fn count(node: &Node) -> usize {
    1 + match &node.value {
        Value::Text(text) => text.len() / 64,
        Value::List(items) => items.iter().map(count).sum(),
        Value::Map(entries) => entries.iter().map(|entry| count(&entry.node)).sum(),
        _ => 0,
    }
}
