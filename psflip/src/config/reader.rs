//! Reads tables and strings out of the TOML tree (`values.rs` reads the values of keys). Every error is
//! collected with its place, and reading continues after it.

use std::ops::Range;

use toml::de::DeValue;

use super::error::{Error, all_of, any_of, meant, misplaced, quoted};
use super::keys::{ALIVE, Kind, TOP, Table};
use super::scalar::Refused;
use super::section::{Entries, Node, Section, entries};
use super::template::{Templates, is_template};

/// Collects errors while values are read.
pub(super) struct Reader<'a> {
    text: &'a str,
    templates: Templates<'a>,
    errors: Vec<Error>,
    /// Errors beyond [`MOST_KEPT`].
    dropped: usize,
}

/// How many errors are kept. They are shown in the order of the file, which is not the order in which they
/// are found.
const MOST_KEPT: usize = 1000;

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, templates: Templates<'a>) -> Self {
        Self { text, templates, errors: Vec::new(), dropped: 0 }
    }

    /// A variable of psflip's environment.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        self.templates.variable(name)
    }

    /// Adds an error.
    pub(super) fn error(&mut self, error: Error) {
        if self.errors.len() < MOST_KEPT {
            self.errors.push(error);
        } else {
            self.dropped += 1;
        }
    }

    /// The errors, and the number of further ones.
    pub(super) fn mistakes(self) -> (Vec<Error>, usize) {
        (self.errors, self.dropped)
    }

    /// A value as it is written in the file.
    pub(super) fn written(&self, node: Node<'_>) -> &'a str {
        self.text.get(node.span()).unwrap_or_default()
    }

    /// Adds an error about a value.
    pub(super) fn refused(&mut self, node: Node<'_>, refused: Refused) {
        self.error(Error { message: refused.message, span: Some(node.span()), help: refused.help });
    }

    /// Adds an error about each key that the table does not have.
    pub(super) fn refuse_unknown(&mut self, section: &Section<'_>) {
        for (name, span, _) in &section.entries {
            if section.table.key(name).is_none() {
                self.unknown(section.table, name, span);
            }
        }
    }

    fn unknown(&mut self, table: &Table, name: &str, span: &Range<usize>) {
        let title = table.title;
        let place = if title.is_empty() { String::new() } else { format!(" in `{title}`") };
        let error = Error::at(span.clone(), format!("unknown key {}{place}", quoted(name)));
        let allowed = table.names();
        let help = if title == ALIVE.title && name == "settle" {
            "`timeout` already is the time that the child must run: make it longer".to_owned()
        } else if let Some(near) = meant(name, &allowed) {
            format!("did you mean `{near}`?")
        } else if !title.is_empty()
            && let Some(key) = TOP.key(name)
        {
            match key.kind {
                Kind::Table(_) | Kind::One(_) | Kind::Many(..) | Kind::Map(_) | Kind::Signals => {
                    format!("`[{name}]` is a table of its own")
                }
                _ => format!("`{name}` belongs to no table: move it above the first `[table]` line"),
            }
        } else if let Some((key, homes)) = homes(name) {
            format!("`{key}` belongs to {}", any_of(&homes))
        } else {
            format!("here {} can be set", all_of(&allowed))
        };
        self.error(error.help(help));
    }

    /// A table with fixed keys; other keys are errors.
    pub(super) fn section<'t>(&mut self, table: &'static Table, node: Node<'t>) -> Option<Section<'t>> {
        let entries = self.map(table.title.trim_matches(['[', ']']), node)?;
        let section = Section { table, entries, span: Some(node.span()) };
        self.refuse_unknown(&section);
        Some(section)
    }

    /// A table with any keys; `name` is its dotted name.
    pub(super) fn map<'t>(&mut self, name: &str, node: Node<'t>) -> Option<Entries<'t>> {
        if let DeValue::Table(table) = node.get_ref() {
            return Some(entries(table));
        }
        let message = if matches!(node.get_ref(), DeValue::Array(array) if array.iter().any(|item| item.get_ref().is_table()))
        {
            format!("`{name}` is given more than once as `[[{name}]]`")
        } else {
            format!("`{name}` must be a table, not {}", a(node))
        };
        let help = match name {
            // These two contain only tables, so a line `[NAME]` alone would be the next error.
            "healthcheck" => "write the kind of check on a line of its own and its keys below: `[healthcheck.tcp]`, then `address = \"127.0.0.1:8080\"`".to_owned(),
            "switch" => "write `[switch]` on a line of its own, and below `symlink = { path = \"/run/app/app.sock\", to = \"/run/app/{{ blue_green() }}.sock\" }`".to_owned(),
            _ => format!("write `[{name}]` on a line of its own and its keys below"),
        };
        self.error(Error::at(node.span(), message).help(help));
        None
    }

    /// Adds an error if a required key is missing. `help`: how to write it.
    pub(super) fn require(&mut self, section: &Section<'_>, name: &str, help: &str) {
        if section.find(name).is_none() && !section.is_misspelled(name) {
            let message = format!("`{name}` is missing in `{}`", section.table.title);
            self.error(Error { message, span: section.span.clone(), help: Some(help.to_owned()) });
        }
    }

    /// Whether a value depends on the slot.
    pub(super) fn uses_slot(&self) -> bool {
        self.templates.use_slot()
    }

    /// Reads `[locals]`: renders each, and makes it known to the templates that follow.
    pub(super) fn locals(&mut self, node: Node<'_>) {
        let Some(locals) = self.map("locals", node) else { return };
        // The names of all are known before the first is rendered.
        self.templates.announce(locals.iter().map(|(name, ..)| (*name).to_owned()));
        for (name, _, node) in &locals {
            let value = match node.get_ref() {
                DeValue::String(_) => self.string(&format!("locals.{name}"), node),
                _ => {
                    self.wrong_type(node, &format!("the local {} must be a string", quoted(name)), None);
                    None
                }
            };
            self.templates.set_local(name, value);
        }
    }

    /// Whether `name` is valid before the `=` of an environment variable; adds an error if not.
    pub(super) fn is_name(&mut self, name: &str, span: &Range<usize>, of: &str) -> bool {
        if !name.is_empty() && !name.contains(['=', '\0']) {
            return true;
        }
        let reason = if name.is_empty() { "it is empty" } else { "it has a `=` or a NUL character in it" };
        self.error(Error::at(span.clone(), format!("{} is no name of {of}: {reason}", quoted(name))));
        false
    }

    /// A rendered string.
    pub(super) fn string(&mut self, key: &str, node: Node<'_>) -> Option<String> {
        let DeValue::String(text) = node.get_ref() else {
            self.wrong_type(node, &format!("`{key}` must be a string"), None);
            return None;
        };
        match self.templates.render(text) {
            Ok(value) => Some(value),
            Err(fault) => {
                if !fault.silent {
                    let span = self.narrow(node.span(), text, fault.range);
                    self.error(Error { message: fault.message, span: Some(span), help: fault.help });
                }
                None
            }
        }
    }

    /// The place of a part of a string in the file, if the string is written there without escapes.
    fn narrow(&self, span: Range<usize>, value: &str, part: Option<Range<usize>>) -> Range<usize> {
        let Some(part) = part else { return span };
        let literal = self.text.get(span.clone()).unwrap_or_default();
        for quote in ["\"\"\"", "'''", "\"", "'"] {
            let Some(inner) = literal.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote)) else {
                continue;
            };
            let skipped = if quote.len() == 3 && inner.starts_with('\n') { 1 } else { 0 };
            if &inner[skipped..] == value {
                let start = span.start + quote.len() + skipped;
                return start + part.start..start + part.end;
            }
        }
        span
    }

    /// Adds an error about a wrong type where a string is required; `hint` replaces the quoted value.
    pub(super) fn wrong_type(&mut self, node: Node<'_>, message: &str, hint: Option<String>) {
        let written = self.written(node);
        let scalar = !matches!(node.get_ref(), DeValue::Array(_) | DeValue::Table(_) | DeValue::String(_));
        let quote = || (scalar && written.len() < 60).then(|| format!("did you mean `\"{written}\"`?"));
        let help = hint.or_else(quote);
        let error = Error::at(node.span(), format!("{message}, not {}", a(node)));
        self.error(match help {
            Some(help) => error.help(help),
            None => error,
        });
    }

    /// Adds an error about a variable whose value is neither a string nor `false`.
    pub(super) fn variable_type(&mut self, name: &str, node: Node<'_>) {
        let hint = TOP
            .key(name)
            .map(|_| format!("if you mean psflip's own `{name}`: move it above the first `[table]` line"));
        let message = format!("the variable {} must be a string, or `false` to remove it", quoted(name));
        self.wrong_type(node, &message, hint);
    }

    /// Adds an error about a value of `[signals]` that is neither a string nor `false`.
    pub(super) fn signal_type(&mut self, name: &str, node: Node<'_>) {
        let message = format!("{} must become a signal, or `false` for none", quoted(name));
        self.wrong_type(node, &message, Some("for example `\"SIGQUIT\"`".to_owned()));
    }

    /// A string that `parse` accepts.
    pub(super) fn parsed_string<T>(
        &mut self,
        key: &str,
        node: Node<'_>,
        parse: impl FnOnce(&str) -> Result<T, Refused>,
    ) -> Option<T> {
        let text = self.string(key, node)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(mut refused) => {
                if matches!(node.get_ref(), DeValue::String(raw) if is_template(raw)) {
                    refused.message.push_str(" (as its template was rendered)");
                }
                self.refused(node, refused);
                None
            }
        }
    }
}

/// The type of a value, with its article.
pub(super) fn a(node: Node<'_>) -> &'static str {
    match node.get_ref() {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(true) => "`true`",
        DeValue::Boolean(false) => "`false`",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// The key of another table that the user probably meant by `wrong`, and the tables it belongs to.
fn homes(wrong: &str) -> Option<(String, Vec<&'static str>)> {
    let tables = TOP.below();
    let names = tables.iter().flat_map(|table| table.keys).map(|key| key.name);
    let key = misplaced(wrong, names.filter(|name| *name != "cmd"))?;
    let homes = tables.iter().filter(|table| table.key(&key).is_some()).map(|table| table.title);
    Some((key.clone(), homes.take(3).collect()))
}
