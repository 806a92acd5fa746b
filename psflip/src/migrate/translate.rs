//! Translates upstream's keys, one after the other in the order of the file.

use std::collections::BTreeSet;

use super::draft::{Draft, Line, Section, array, key, string};
use super::go;
use super::source::{Entry, Node, Position, Source, Value};
use super::value::{self, Meant};
use super::{Kind, Remark};
use crate::config::error::nearest;

/// A key of upstream's file itself.
struct Known {
    name: &'static str,
    /// Only upstream's first versions have this key.
    is_old: bool,
    /// Translates the key.
    translate: fn(&mut Work<'_>, &Entry),
}

impl Known {
    const fn new(name: &'static str, translate: fn(&mut Work<'_>, &Entry)) -> Self {
        Self { name, is_old: false, translate }
    }

    const fn old(name: &'static str, translate: fn(&mut Work<'_>, &Entry)) -> Self {
        Self { name, is_old: true, translate }
    }
}

/// All keys.
#[expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the path of a method stands for one lifetime of `Work`, a closure for each"
)]
const TOP: &[Known] = &[
    Known::new("cmd", |work, entry| {
        work.put(FILE, "cmd", entry.at, &entry.node, |work| work.argv("cmd", &entry.node));
    }),
    Known::new("workdir", |work, entry| work.path_of_file("workdir", entry)),
    Known::new("env", |work, entry| work.env(entry)),
    Known::new("pidfile", |work, entry| work.path_of_file("pidfile", entry)),
    Known::new("quiet", |work, entry| {
        work.put(FILE, "quiet", entry.at, &entry.node, |work| {
            let meant = value::boolean(&entry.node).map(|meant| (meant.value.to_string(), meant.note));
            work.setting("quiet", &entry.node, meant)
        });
    }),
    Known::new("locals", |work, entry| work.locals(entry)),
    Known::new("proxy", |work, entry| work.proxy(entry)),
    Known::new("upgrade", |work, entry| work.table("[upgrade]", entry, &[("timeout", "1m")])),
    Known::new("shutdown", |work, entry| {
        work.table("[shutdown]", entry, &[("timeout", "10s"), ("delay", "0s")]);
    }),
    Known::new("healthcheck", |work, entry| work.healthcheck(entry)),
    Known::old("upgrade_timeout", |work, entry| work.old_timeout("[upgrade]", "upgrade", entry, "1m")),
    Known::old("child_timeout", |work, entry| work.old_timeout("[shutdown]", "shutdown", entry, "5s")),
    Known::old("signals", |work, entry| work.signals(entry)),
];

/// The key of this name in the spelling of the table, if upstream has it.
fn known(name: &str) -> Option<&'static Known> {
    TOP.iter().find(|known| known.name == name)
}

/// The table name for the keys of the file itself.
const FILE: &str = "";
/// The remark about an old key.
const FIRST_VERSIONS: &str = "a key of upstream's first versions; later ones ignore it";

/// The remark about `shutdown.delay`.
const SHUTDOWN_DELAY: &str =
    "upstream waits so long at every stop; psflip only after a promotion, before the old child is stopped";

/// The translation of a value: the new line, or the original line, which is then commented out.
pub(super) type Made = Result<String, String>;

/// Translates a file.
pub(super) fn translate(source: &Source<'_>) -> (Draft, Vec<Remark>) {
    let mut work = Work {
        source,
        draft: Draft::default(),
        remarks: Vec::new(),
        comments_written: 0,
        set: BTreeSet::new(),
    };
    work.file();
    (work.draft, work.remarks)
}

/// The state of a translation.
pub(super) struct Work<'s> {
    pub(super) source: &'s Source<'s>,
    pub(super) draft: Draft,
    pub(super) remarks: Vec<Remark>,
    /// How many of the file's comments are already written.
    comments_written: usize,
    /// The tables and keys that are already written.
    set: BTreeSet<(String, String)>,
}

impl Work<'_> {
    pub(super) fn note(&mut self, at: Position, text: &str) {
        self.remarks.push(Remark::new(at, Kind::Note, text));
    }

    pub(super) fn left(&mut self, at: Position, text: &str) {
        self.remarks.push(Remark::new(at, Kind::Left, text));
    }

    /// The next comments of the file, up to this line.
    pub(super) fn comments(&mut self, line: usize) -> Vec<String> {
        let rest = &self.source.comments[self.comments_written..];
        let count = rest.iter().take_while(|comment| comment.line <= line).count();
        self.comments_written += count;
        rest[..count].iter().map(|comment| comment.text.clone()).collect()
    }

    /// Writes a line of a table: the file's comments, then the remarks of `make`, then its result.
    pub(super) fn put(
        &mut self,
        table: &str,
        key: &str,
        at: Position,
        node: &Node,
        make: impl FnOnce(&mut Self) -> Made,
    ) {
        let end = if matches!(node.value, Value::Map(_)) { at.line } else { node.end.max(at.line) };
        let mut comments = self.comments(end);
        let mark = self.remarks.len();
        let twice = self.has(table, key);
        let made = if twice {
            self.left(at, &format!("`{key}` is set already; upstream takes one of them"));
            Err(format!("{key} = {}", raw(node)))
        } else {
            make(self)
        };
        comments.extend(self.remarks[mark..].iter().map(Remark::comment));
        let (text, left) = match made {
            Ok(text) => (text, false),
            Err(text) => (text, true),
        };
        if !left && !text.is_empty() {
            self.set.insert((table.to_owned(), key.to_owned()));
        }
        self.draft.section(table).lines.push(Line { from: Some(at), comments, text, left });
    }

    /// Adds a line that upstream's file doesn't have.
    pub(super) fn add(&mut self, table: &str, comment: &str, text: String) {
        let line = Line { from: None, comments: vec![comment.to_owned()], text, left: false };
        self.draft.section(table).lines.push(line);
    }

    fn file(&mut self) {
        let source = self.source;
        let mut seen: Vec<String> = Vec::new();
        self.draft.section(FILE);
        for entry in &source.root {
            let name = entry.key.to_lowercase();
            if seen.contains(&name) {
                self.put(FILE, &entry.key, entry.at, &entry.node, |work| {
                    work.left(
                        entry.at,
                        "the same key stands above in other letters; upstream takes one of them",
                    );
                    Err(shown(entry))
                });
                continue;
            }
            self.top(&name, entry);
            seen.push(name);
        }
        self.finish();
    }

    fn top(&mut self, name: &str, entry: &Entry) {
        let Entry { at, node, .. } = entry;
        let Some(known) = known(name) else { return self.unknown_in_file(entry) };
        if matches!(node.value, Value::Null) && name != "cmd" {
            return self.put(FILE, name, *at, node, |work| {
                work.note(*at, &format!("`{name}` is empty, so it is not set"));
                Ok(String::new())
            });
        }
        (known.translate)(self, entry);
    }

    fn path_of_file(&mut self, name: &str, entry: &Entry) {
        self.put(FILE, name, entry.at, &entry.node, |work| work.path(name, &entry.node));
    }

    fn unknown_in_file(&mut self, entry: &Entry) {
        let names: Vec<&str> = TOP.iter().map(|known| known.name).collect();
        self.unknown(FILE, entry, &names);
    }

    /// Handles a key that upstream doesn't know and ignores.
    pub(super) fn unknown(&mut self, table: &str, entry: &Entry, known: &[&str]) {
        let Entry { key: name, at, anchored, node, .. } = entry;
        self.put(table, name, *at, node, |work| {
            if *anchored || name.starts_with("x-") || name.starts_with('.') {
                work.note(*at, &format!("`{name}` is no key of upstream's; what repeats it has it"));
                return Err(shown(entry));
            }
            let hint = match nearest(name, known) {
                Some(near) => format!("; did it mean `{near}`?"),
                None => String::new(),
            };
            work.left(*at, &format!("upstream has no key `{name}` here, and ignores it{hint}"));
            Err(shown(entry))
        });
    }

    /// The keys of a table, or a remark that it is not a table.
    pub(super) fn entries<'n>(&mut self, table: &str, entry: &'n Entry) -> Option<&'n [Entry]> {
        if let Value::Map(entries) = &entry.node.value {
            let comments = self.comments(entry.at.line);
            self.draft.section(table).comments.extend(comments);
            return Some(entries);
        }
        self.put(table, &entry.key, entry.at, &entry.node, |work| {
            work.left(entry.at, &format!("upstream refuses it: `{}` has keys of its own", entry.key));
            Err(shown(entry))
        });
        None
    }

    /// `[upgrade]` and `[shutdown]`: a signal, and durations with upstream's defaults.
    fn table(&mut self, table: &str, entry: &Entry, durations: &[(&str, &str)]) {
        for inner in self.entries(table, entry).unwrap_or_default() {
            let Entry { at, node, .. } = inner;
            let name = inner.key.to_lowercase();
            if name == "signal" {
                self.put(table, "signal", *at, node, |work| work.signal(node));
            } else if let Some((key, default)) = durations.iter().find(|(key, _)| *key == name) {
                self.put(table, key, *at, node, |work| {
                    let made = work.duration(key, node, default);
                    if *key == "delay" && made.as_ref().is_ok_and(|line| !line.contains("\"0s\"")) {
                        work.note(*at, SHUTDOWN_DELAY);
                    }
                    made
                });
            } else {
                let names: Vec<&str> = durations.iter().map(|(key, _)| *key).chain(["signal"]).collect();
                self.unknown(table, inner, &names);
            }
        }
    }

    /// `signals` of upstream's first versions.
    fn signals(&mut self, entry: &Entry) {
        let Value::Map(entries) = &entry.node.value else {
            return self.unknown_in_file(entry);
        };
        for inner in entries {
            let Entry { at, node, .. } = inner;
            let (table, newer) = match inner.key.to_lowercase().as_str() {
                "upgrade" => ("[upgrade]", "upgrade"),
                "terminate" => ("[shutdown]", "shutdown"),
                _ => {
                    self.unknown("[upgrade]", inner, &["upgrade", "terminate"]);
                    continue;
                }
            };
            let replaced = self.find(newer, "signal");
            self.put(table, "signal", *at, node, |work| match replaced {
                true => work.replaced(&format!("signals.{}", inner.key), newer, inner),
                false => {
                    work.note(*at, FIRST_VERSIONS);
                    work.signal(node)
                }
            });
        }
    }

    fn old_timeout(&mut self, table: &str, newer: &str, entry: &Entry, default: &str) {
        let replaced = self.find(newer, "timeout");
        self.put(table, "timeout", entry.at, &entry.node, |work| match replaced {
            true => work.replaced(&entry.key, newer, entry),
            false => {
                work.note(entry.at, FIRST_VERSIONS);
                work.duration("timeout", &entry.node, default)
            }
        });
    }

    /// An old key beside its newer equivalent.
    fn replaced(&mut self, name: &str, newer: &str, entry: &Entry) -> Made {
        self.note(
            entry.at,
            &format!("`{name}` is of upstream's first versions; the newer key in `{newer}` is taken"),
        );
        Err(shown(entry))
    }

    /// Whether the file has this key in this table.
    fn find(&self, table: &str, key: &str) -> bool {
        let same = |entry: &&Entry, name: &str| entry.key.eq_ignore_ascii_case(name);
        let table = self.source.root.iter().find(|entry| same(entry, table));
        matches!(table.map(|entry| &entry.node.value), Some(Value::Map(entries)) if entries.iter().any(|entry| same(&entry, key)))
    }

    pub(super) fn has(&self, table: &str, key: &str) -> bool {
        self.set.contains(&(table.to_owned(), key.to_owned()))
    }

    fn signal(&mut self, node: &Node) -> Made {
        if matches!(&node.value, Value::Text(text) if text.is_empty()) || matches!(node.value, Value::Null) {
            self.note(node.at, "it is empty, so upstream's default holds, which is psflip's too");
            return Ok(String::new());
        }
        let meant = value::signal(node).map(|Meant { value, note }| (string(&value), note));
        self.setting("signal", node, meant)
    }

    pub(super) fn duration(&mut self, key: &str, node: &Node, default: &str) -> Made {
        if matches!(node.value, Value::Null) {
            self.note(node.at, "it is empty, so upstream's default holds");
            return Ok(format!("{key} = {}", string(default)));
        }
        let meant = value::duration(node, default).map(|Meant { value, note }| (string(&value), note));
        self.setting(key, node, meant)
    }

    /// The line of a translated value, or a remark with the reason why it can't be translated.
    fn setting(&mut self, key: &str, node: &Node, meant: Result<(String, Option<String>), String>) -> Made {
        match meant {
            Ok((value, note)) => {
                if let Some(note) = note {
                    self.note(node.at, &note);
                }
                Ok(format!("{key} = {value}"))
            }
            Err(reason) => {
                self.left(node.at, &reason);
                Err(format!("{key} = {}", raw(node)))
            }
        }
    }

    /// A text of upstream's, translated if it is a Go template.
    pub(super) fn text(&mut self, node: &Node) -> Option<String> {
        self.part(node, 0)
    }

    /// As `text`, from this byte on.
    fn part(&mut self, node: &Node, from: usize) -> Option<String> {
        let Value::Text(text) = &node.value else {
            return match value::weak_text(node) {
                Some(Meant { value, note }) => {
                    if let Some(note) = note {
                        self.note(node.at, &note);
                    }
                    // Upstream does not treat it as a template, and it contains no braces.
                    Some(value)
                }
                None => {
                    let what = match &node.value {
                        Value::Other(what) => what,
                        Value::List(_) => "a list",
                        _ => "a map",
                    };
                    self.left(node.at, &format!("upstream refuses {what} here; put a text into quotes"));
                    None
                }
            };
        };
        let place = |at: usize| match node.verbatim {
            Some(start) => self.source.position(start + from + at),
            None => node.at,
        };
        match go::translate(&text[from..]) {
            Ok(translation) => {
                let notes: Vec<_> =
                    translation.notes.into_iter().map(|(at, note)| (place(at), note)).collect();
                notes.iter().for_each(|(at, note)| self.note(*at, note));
                if text.contains("PSFLIP_AB_FLAG") && !text.contains("{{") {
                    self.left(
                        node.at,
                        "upstream's variable `PSFLIP_AB_FLAG` is `PSFLIP_SLOT` in psflip's children",
                    );
                }
                Some(translation.text)
            }
            Err(fault) => {
                let at = place(fault.at);
                self.left(at, &format!("this template can't be translated: {}", fault.message));
                None
            }
        }
    }

    /// A path. For upstream an empty path is the same as none.
    fn path(&mut self, name: &str, node: &Node) -> Made {
        match self.text(node) {
            Some(path) if path.is_empty() => {
                self.note(node.at, &format!("`{name}` is empty, so it is not set"));
                Ok(String::new())
            }
            Some(path) => Ok(format!("{name} = {}", string(&path))),
            None => Err(format!("{name} = {}", raw(node))),
        }
    }

    /// A command.
    pub(super) fn argv(&mut self, key: &str, node: &Node) -> Made {
        let items = match &node.value {
            Value::List(items) => items.as_slice(),
            // Upstream reads a single value as a list of one: a program without arguments.
            Value::Text(text) if !text.is_empty() => {
                if text.contains(' ') {
                    self.note(node.at, "it is one word, no command line: the name of a program with a space in it, as upstream has it");
                }
                std::slice::from_ref(node)
            }
            _ => &[],
        };
        if items.is_empty() {
            self.left(node.at, &format!("upstream refuses it: `{key}` is a list of texts"));
            return Err(format!("{key} = {}", raw(node)));
        }
        let made: Vec<Option<String>> = items.iter().map(|item| self.text(item)).collect();
        match made.into_iter().collect::<Option<Vec<String>>>() {
            Some(items) => Ok(array(key, &items)),
            None => Err(format!("{key} = {}", raw(node))),
        }
    }

    fn locals(&mut self, entry: &Entry) {
        for inner in self.entries("[locals]", entry).unwrap_or_default() {
            let Entry { key: name, at, node, .. } = inner;
            self.put("[locals]", name, *at, node, |work| match work.text(node) {
                Some(text) => Ok(format!("{} = {}", key(name), string(&text))),
                None => Err(shown(inner)),
            });
        }
    }

    fn env(&mut self, entry: &Entry) {
        match &entry.node.value {
            Value::Map(entries) => {
                self.entries("[env]", entry);
                for (index, inner) in entries.iter().enumerate() {
                    self.put("[env]", &inner.key, inner.at, &inner.node, |work| {
                        if index == 0 {
                            work.note(entry.at, "upstream refuses names with values here and wants a list of `NAME=value`; they are taken as they look");
                        }
                        match work.text(&inner.node) {
                            Some(text) => Ok(format!("{} = {}", key(&inner.key), string(&text))),
                            None => Err(shown(inner)),
                        }
                    });
                }
            }
            Value::List(items) => {
                let comments = self.comments(entry.at.line);
                self.draft.section("[env]").comments.extend(comments);
                items.iter().for_each(|item| self.variable(item));
            }
            _ => self.variable(&entry.node),
        }
    }

    /// `NAME=value`.
    fn variable(&mut self, node: &Node) {
        let (name, after) = match &node.value {
            Value::Text(text) => match text.split_once('=') {
                Some((name, _)) => (name.to_owned(), name.len() + 1),
                None => (String::new(), 0),
            },
            _ => (String::new(), 0),
        };
        self.put("[env]", &name, node.at, node, |work| {
            let refused = |work: &mut Self, reason: &str| {
                work.left(node.at, reason);
                Err(raw(node))
            };
            if name.contains("{{") {
                return refused(work, "in psflip only the value of a variable is a template, not its name");
            }
            if name.is_empty() {
                return refused(work, "it sets no variable: write `NAME=value`");
            }
            if name == "PATH" {
                work.note(node.at, "psflip looks for `cmd` in this PATH; upstream looked in its own");
            }
            match work.part(node, after) {
                Some(text) => Ok(format!("{} = {}", key(&name), string(&text))),
                None => Err(raw(node)),
            }
        });
    }

    /// Adds what depends on all keys.
    fn finish(&mut self) {
        let is_old = |entry: &Entry| known(&entry.key.to_lowercase()).is_some_and(|known| known.is_old);
        let is_old = self.source.root.iter().any(is_old);
        if is_old && !self.has("[shutdown]", "timeout") && !self.find("shutdown", "timeout") {
            let comment =
                "The default of upstream's first versions, whose keys this file has; psflip's is 10s.";
            self.add("[shutdown]", comment, "timeout = \"5s\"".to_owned());
        }
        self.finish_health();
        if let Some(at) = self.source.ignored {
            let remark =
                Remark::new(at, Kind::Left, "a second document begins here; upstream reads only the first");
            self.draft.tail.push(remark.comment());
            self.remarks.push(remark);
        }
        let rest = self.comments(usize::MAX);
        self.draft.tail.extend(rest);
    }

    /// Writes a whole table as a comment.
    pub(super) fn section_left(
        &mut self,
        header: String,
        comments: Vec<String>,
        lines: Vec<(Position, String)>,
    ) {
        let line = |(at, text)| Line { from: Some(at), comments: Vec::new(), text, left: true };
        let lines = lines.into_iter().map(line).collect();
        self.draft.sections.push(Section { header, comments, lines });
    }
}

/// An entry in its original form, on one line.
pub(super) fn shown(entry: &Entry) -> String {
    format!("{} = {}", key(&entry.key), raw(&entry.node))
}

/// A value in its original form, in TOML syntax.
pub(super) fn raw(node: &Node) -> String {
    let mut text = String::new();
    write_raw(node, &mut text);
    text
}

fn write_raw(node: &Node, out: &mut String) {
    const LONGEST: usize = 2000;
    if out.len() > LONGEST {
        return out.push('…');
    }
    match &node.value {
        Value::Text(text) if text.len() > LONGEST => out.push_str(&string(&crate::text::head(text, LONGEST))),
        Value::Text(text) => out.push_str(&string(text)),
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_raw(item, out);
                if out.len() > LONGEST {
                    break;
                }
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push_str("{ ");
            for (index, entry) in entries.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                out.push_str(&format!("{} = ", key(&entry.key)));
                write_raw(&entry.node, out);
                if out.len() > LONGEST {
                    break;
                }
            }
            out.push_str(" }");
        }
        _ => out.push_str(node.written.as_deref().unwrap_or("null")),
    }
}
