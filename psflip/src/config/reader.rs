//! Reads typed values out of the TOML tree. Every error is collected with its place, and reading continues
//! after it.

use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Error, all_of, any_of, meant, nearest, quoted};
use super::scalar::{self, Refused};
use super::template::{LONGEST, Local, Templates, is_template};

/// A value in the tree.
pub(super) type Node<'t> = &'t Spanned<DeValue<'t>>;

/// The keys and values of a table, in the order of the file.
pub(super) struct Section<'t> {
    /// Its name in messages: `[upgrade]`; empty for the file itself.
    pub(super) name: String,
    pub(super) entries: Vec<(&'t str, Range<usize>, Node<'t>)>,
}

impl<'t> Section<'t> {
    pub(super) fn new(name: impl Into<String>, table: &'t DeTable<'t>) -> Self {
        let mut entries: Vec<_> =
            table.iter().map(|(key, value)| (&**key.get_ref(), key.span(), value)).collect();
        entries.sort_by_key(|(_, span, _)| span.start);
        Self { name: name.into(), entries }
    }
}

/// Keys that a later version has. The message says so instead of suggesting another key.
const LATER: &[(&str, &[&str])] = &[("", &["proxy"])];

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

/// Whether a duration may be zero.
#[derive(Clone, Copy)]
pub(super) enum Zero {
    Allowed,
    /// With the reason.
    Refused(&'static str),
}

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

    fn refused(&mut self, node: Node<'_>, refused: Refused) {
        self.error(Error { message: refused.message, span: Some(node.span()), help: refused.help });
    }

    /// Adds an error about a key that does not exist.
    pub(super) fn unknown(
        &mut self,
        section: &Section<'_>,
        key: &str,
        span: &Range<usize>,
        allowed: &[&str],
    ) {
        let place = if section.name.is_empty() { String::new() } else { format!(" in `{}`", section.name) };
        let error = Error::at(span.clone(), format!("unknown key {}{place}", quoted(key)));
        let later = LATER.iter().any(|(name, keys)| *name == section.name && keys.contains(&key));
        let help = if later {
            format!("this version of psflip doesn't have `{key}` yet")
        } else if let Some(near) = meant(key, allowed) {
            format!("did you mean `{near}`?")
        } else if !section.name.is_empty() && super::build::TOP.contains(&key) {
            if matches!(key, "cmd" | "workdir" | "pidfile" | "quiet") {
                format!("`{key}` belongs to no table: move it above the first `[table]` line")
            } else {
                format!("`[{key}]` is a table of its own")
            }
        } else if let Some((key, homes)) = super::build::homes(key) {
            format!("`{key}` belongs to {}", any_of(&homes))
        } else {
            format!("here {} can be set", all_of(allowed))
        };
        self.error(error.help(help));
    }

    /// A table.
    pub(super) fn table<'t>(&mut self, name: &str, node: Node<'t>) -> Option<Section<'t>> {
        if let DeValue::Table(table) = node.get_ref() {
            return Some(Section::new(format!("[{name}]"), table));
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

    /// Reads a local: renders it, and makes it known to the templates that follow.
    pub(super) fn local(&mut self, name: &str, node: Node<'_>) {
        let value = match node.get_ref() {
            DeValue::String(_) => self.string(&format!("locals.{name}"), node),
            _ => {
                self.wrong_type(node, &format!("the local {} must be a string", quoted(name)), None);
                None
            }
        };
        self.templates.set_local(name, value.map_or(Local::Broken, Local::Rendered));
    }

    /// Declares the names of all locals before the first is rendered.
    pub(super) fn announce(&mut self, section: &Section<'_>) {
        self.templates.announce(section.entries.iter().map(|(name, ..)| (*name).to_owned()));
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
    fn wrong_type(&mut self, node: Node<'_>, message: &str, hint: Option<String>) {
        let written = self.text.get(node.span()).unwrap_or_default();
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
        let hint = super::build::TOP
            .contains(&name)
            .then(|| format!("if you mean psflip's own `{name}`: move it above the first `[table]` line"));
        let message = format!("the variable {} must be a string, or `false` to remove it", quoted(name));
        self.wrong_type(node, &message, hint);
    }

    /// Adds an error about a value of `[signals]` that is neither a string nor `false`.
    pub(super) fn signal_type(&mut self, name: &str, node: Node<'_>) {
        let message = format!("{} must become a signal, or `false` for none", quoted(name));
        self.wrong_type(node, &message, Some("for example `\"SIGQUIT\"`".to_owned()));
    }

    /// A string that `parse` accepts.
    pub(super) fn parsed<T>(
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

    /// A duration (contract X3).
    pub(super) fn duration(&mut self, key: &str, node: Node<'_>, zero: Zero) -> Option<Duration> {
        let written = self.text.get(node.span()).unwrap_or_default();
        let duration = match node.get_ref() {
            DeValue::Integer(_) | DeValue::Float(_) => {
                let error = Error::at(node.span(), format!("the duration {} has no unit", quoted(written)));
                let digits = written.replace('_', "");
                self.error(error.help(match zero {
                    Zero::Refused(reason) if digits == "0" => {
                        format!("`{key}` can't be zero at all: {reason}")
                    }
                    _ => scalar::unit_hint(&digits, "\""),
                }));
                return None;
            }
            DeValue::String(_) => self.parsed(key, node, scalar::duration)?,
            _ => {
                let hint = Some("for example `\"10s\"`".to_owned());
                self.wrong_type(node, &format!("`{key}` must be a duration"), hint);
                return None;
            }
        };
        if let (true, Zero::Refused(reason)) = (duration.is_zero(), zero) {
            self.error(Error::at(node.span(), format!("`{key}` can't be zero: {reason}")));
            return None;
        }
        Some(duration)
    }

    /// A signal, read by `parse`.
    pub(super) fn signal(
        &mut self,
        key: &str,
        node: Node<'_>,
        parse: impl FnOnce(&str) -> Result<crate::signal::Signal, Refused>,
    ) -> Option<crate::signal::Signal> {
        if let DeValue::Integer(number) = node.get_ref() {
            let number = i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX);
            self.refused(node, scalar::signal_number(number));
            return None;
        }
        self.parsed(key, node, parse)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, key: &str, node: Node<'_>) -> Option<bool> {
        if let DeValue::Boolean(value) = node.get_ref() {
            return Some(*value);
        }
        let hint = match node.get_ref() {
            DeValue::String(text) if matches!(&**text, "true" | "false") => {
                format!("write `{text}` without quotes")
            }
            DeValue::String(text) if is_template(text) => {
                format!("`{key}` takes no template: write `true` or `false`")
            }
            _ => "write `true` or `false`".to_owned(),
        };
        self.wrong_type(node, &format!("`{key}` must be `true` or `false`"), Some(hint));
        None
    }

    /// A whole number of at least 1.
    pub(super) fn count(&mut self, key: &str, node: Node<'_>) -> Option<u32> {
        self.whole(key, node, 1..=1000)
    }

    /// A whole number in this range.
    pub(super) fn whole(&mut self, key: &str, node: Node<'_>, range: RangeInclusive<u32>) -> Option<u32> {
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        let DeValue::Integer(number) = node.get_ref() else {
            let number = node.get_ref().as_str().is_some_and(|text| text.parse::<u32>().is_ok());
            let hint = number.then(|| "write it without quotes: `2`".to_owned());
            self.wrong_type(node, &format!("`{key}` must be {allowed}"), hint);
            return None;
        };
        let value =
            u32::from_str_radix(number.as_str(), number.radix()).ok().filter(|value| range.contains(value));
        if value.is_none() {
            let written = quoted(self.text.get(node.span()).unwrap_or_default());
            self.error(Error::at(node.span(), format!("`{key}` must be {allowed}, not {written}")));
        }
        value
    }

    /// One of a few words.
    pub(super) fn word<T: Copy>(&mut self, key: &str, node: Node<'_>, words: &[(&str, T)]) -> Option<T> {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        self.parsed(key, node, |text| match words.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Ok(*value),
            None => Err(Refused {
                message: format!("`{key}` can't be {}", quoted(text)),
                help: Some(match nearest(text, &names) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it can be {}", any_of(&names)),
                }),
            }),
        })
    }

    /// A path that is not empty.
    pub(super) fn path(&mut self, key: &str, node: Node<'_>) -> Option<PathBuf> {
        self.parsed(key, node, |text| {
            if text.is_empty() {
                scalar::refuse_help(format!("`{key}` is empty"), "write a path, or leave the key out")
            } else if text.len() > 4095 {
                scalar::refuse_help(
                    format!("the path in `{key}` has {} bytes", text.len()),
                    "the kernel allows at most 4095",
                )
            } else {
                Ok(PathBuf::from(text))
            }
        })
    }

    /// An argv.
    pub(super) fn argv(&mut self, key: &str, node: Node<'_>) -> Option<Vec<String>> {
        let example = "one string per argument, without a shell: `[\"./server\", \"--port\", \"8080\"]`";
        let items = match node.get_ref() {
            DeValue::Array(items) => items,
            DeValue::String(text) => {
                self.error(
                    Error::at(node.span(), format!("`{key}` must be an array of strings, not one string"))
                        .help(array_hint(text)),
                );
                return None;
            }
            _ => {
                self.wrong_type(
                    node,
                    &format!("`{key}` must be an array of strings"),
                    Some(example.to_owned()),
                );
                return None;
            }
        };
        if items.is_empty() {
            self.error(Error::at(node.span(), format!("`{key}` is empty")).help(example));
            return None;
        }
        let mut argv = Vec::with_capacity(items.len());
        let mut total = 0;
        for item in items.iter() {
            if !item.get_ref().is_str() {
                self.wrong_type(item, &format!("every argument in `{key}` must be a string"), None);
                continue;
            }
            let Some(argument) = self.string(key, item) else { continue };
            if argument.is_empty() && argv.is_empty() && item.span() == items[0].span() {
                self.error(Error::at(
                    item.span(),
                    format!("the first string of `{key}`, the program, is empty"),
                ));
            }
            total += argument.len();
            argv.push(argument);
        }
        if total > 16 * LONGEST {
            self.error(
                Error::at(node.span(), format!("the arguments in `{key}` have {total} bytes together"))
                    .help(format!("at most {} are allowed", 16 * LONGEST)),
            );
            return None;
        }
        (argv.len() == items.len()).then_some(argv)
    }
}

/// How to write a command line as an array.
fn array_hint(text: &str) -> String {
    let simple = !text.is_empty()
        && text.len() <= 60
        && text.chars().all(|c| c.is_alphanumeric() || " ./_-=:,@%+".contains(c));
    if simple {
        let words: Vec<String> = text.split_whitespace().map(|word| format!("\"{word}\"")).collect();
        return format!("there is no shell, so write one string per argument: `[{}]`", words.join(", "));
    }
    "there is no shell, so write one string per argument: `[\"./server\", \"--port\", \"8080\"]`; \
     if you need a shell: `[\"sh\", \"-c\", \"…\"]`"
        .to_owned()
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
