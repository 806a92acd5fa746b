//! `psflip migrate start_server ...` and its siblings: from a command line of start_server or spawn-fcgi, a
//! section of supervisord, a `run` script of runit, or a line of a Procfile to a `psflip.toml`. Pure.
//!
//! What can't be carried over becomes a comment in the output and a remark; an option that does not exist is
//! an error. Nothing is dropped silently.

mod options;
mod procfile;
mod runit;
mod shell;
mod spawn_fcgi;
mod start_server;
mod supervisord;
#[cfg(test)]
mod tests;

use std::fmt;

use super::Kind;
use super::draft::{self, Draft, Line, Section};
use crate::config::{self, Generation};

pub use procfile::procfile;
pub use runit::runit;
pub use spawn_fcgi::spawn_fcgi;
pub use start_server::start_server;
pub use supervisord::supervisord;

/// A setting that needs attention.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Where it was set: an option, or `line 7`.
    pub place: String,
    /// Whether something is left to do.
    pub kind: Kind,
    /// The text; a lowercase fragment.
    pub text: String,
}

/// The resulting configuration.
#[derive(Clone, Debug)]
pub struct Translated {
    /// The `psflip.toml`.
    pub text: String,
    /// The remarks, in the order of the source.
    pub remarks: Vec<Remark>,
    /// Why psflip would reject the result as it is; `None`: it would not.
    pub refused: Option<String>,
}

/// Why there is nothing to translate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Where: an option with the number of its argument, or a line; empty for the whole.
    pub place: String,
    /// What is wrong; a lowercase fragment.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl Wrong {
    fn new(place: impl Into<String>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into(), help: help.into() }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            write!(f, "{}: ", self.place)?;
        }
        write!(f, "{}\n  = help: {}", self.message, self.help)
    }
}

/// A `psflip.toml` in the making.
struct Output {
    draft: Draft,
    remarks: Vec<Remark>,
    /// Comments for the next key.
    pending: Vec<String>,
}

impl Output {
    /// `from` is what is translated: "a command line of start_server".
    fn new(from: &str) -> Self {
        let mut draft = Draft::default();
        draft
            .comments
            .push(format!("Made from {from} by `psflip migrate`, psflip {}.", env!("CARGO_PKG_VERSION")));
        Self { draft, remarks: Vec::new(), pending: Vec::new() }
    }

    /// A comment at the beginning of the file, without a remark.
    fn comment(&mut self, text: impl Into<String>) {
        self.draft.comments.push(text.into());
    }

    fn remark(&mut self, kind: Kind, place: &str, text: impl Into<String>) -> String {
        let text = text.into();
        let word = match kind {
            Kind::Note => "NOTE",
            Kind::Left => "LEFT TO DO",
        };
        let comment = format!("{word} ({place}): {text}");
        self.remarks.push(Remark { place: place.to_owned(), kind, text });
        comment
    }

    /// A remark above the next key that is set.
    fn note(&mut self, place: &str, text: impl Into<String>) {
        let comment = self.remark(Kind::Note, place, text);
        self.pending.push(comment);
    }

    /// A remark at the beginning of the file: there is no key for it.
    fn note_at_top(&mut self, place: &str, text: impl Into<String>) {
        let comment = self.remark(Kind::Note, place, text);
        self.draft.comments.push(comment);
    }

    /// A comment above the next key, without a remark: the key means what the source means.
    fn explain(&mut self, text: &str) {
        self.pending.push(text.to_owned());
    }

    /// What the user must do, at the beginning of the file.
    fn left(&mut self, place: &str, text: impl Into<String>) {
        let comment = self.remark(Kind::Left, place, text);
        self.draft.comments.push(comment);
    }

    fn line(&mut self, header: &str, text: String) {
        let comments = std::mem::take(&mut self.pending);
        self.draft.section(header).lines.push(Line { comments, text, ..Line::default() });
    }

    /// Sets a key to TOML as it is.
    fn bare(&mut self, header: &str, key: &str, toml: impl fmt::Display) {
        self.line(header, format!("{key} = {toml}"));
    }

    /// Sets a key to this string, in which nothing is a template.
    fn text(&mut self, header: &str, key: &str, value: &str) {
        self.template(header, key, &literal(value));
    }

    /// Sets a key to this template.
    fn template(&mut self, header: &str, key: &str, value: &str) {
        self.bare(header, &draft::key(key), draft::string(value));
    }

    /// Sets a variable of the child to this template; a later value replaces an earlier one.
    fn variable(&mut self, name: &str, template: &str) {
        let text = format!("{} = {}", draft::key(name), draft::string(template));
        let begin = format!("{} = ", draft::key(name));
        let section = self.draft.section("[env]");
        match section.lines.iter_mut().find(|line| line.text.starts_with(&begin)) {
            Some(line) => line.text = text,
            None => self.line("[env]", text),
        }
    }

    /// Sets the child's argv.
    fn command(&mut self, argv: &[String]) {
        let argv: Vec<String> = argv.iter().map(|argument| literal(argument)).collect();
        self.command_of_templates(&argv);
    }

    fn command_of_templates(&mut self, argv: &[String]) {
        self.line("", draft::array("cmd", argv));
    }

    /// Begins an item of an array of tables; later calls with this header belong to it.
    fn item(&mut self, header: &str) {
        let comments = std::mem::take(&mut self.pending);
        // The header of earlier items is never used again.
        for section in self.draft.sections.iter_mut().filter(|section| section.header == header) {
            section.header.push(' ');
        }
        self.draft.sections.push(Section { header: header.to_owned(), comments, lines: Vec::new() });
    }

    /// How psflip's own commands find the service, if nothing says so.
    fn without_pidfile(&mut self) {
        self.comment(
            "`psflip upgrade` and `psflip status` find the service by `pidfile`: set one, such as \"/run/app/app.pid\".",
        );
    }

    /// A program that listens by itself is reached by an address that only one generation can have.
    fn own_listener(&mut self, place: &str) {
        self.note_at_top(
            place,
            "during an upgrade two generations run. A program that opens a port or socket by itself needs \
             `[[proxy]]` or `[[listen]]` for that (docs/traffic.md); one that can't run twice, \
             `upgrade.overlap = false`",
        );
    }

    /// The text, checked by psflip's own parser.
    fn finish(mut self, generation: &Generation<'_>) -> Translated {
        match self.remarks.iter().filter(|remark| remark.kind == Kind::Left).count() {
            0 => {}
            1 => self.draft.comments.insert(1, "1 thing is left to do: look for LEFT TO DO.".to_owned()),
            left => {
                self.draft.comments.insert(1, format!("{left} things are left to do: look for LEFT TO DO."));
            }
        }
        for section in &mut self.draft.sections {
            section.header.truncate(section.header.trim_end().len());
        }
        self.draft.tail = self.pending;
        let (text, _) = self.draft.render();
        let refused = config::parse("the result", &text, generation).err().map(|errors| errors.to_string());
        Translated { text, remarks: self.remarks, refused }
    }
}

/// Text as a template that renders to it.
fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match chars.next_if(|next| c == '{' && ['{', '%', '#'].contains(next)) {
            Some(next) => out += &format!("{{{{ '{c}{next}' }}}}"),
            None => out.push(c),
        }
    }
    out
}

/// A whole number of seconds as a duration, if psflip has such a long one.
fn seconds(text: &str) -> Option<String> {
    let seconds: u64 = text.parse().ok()?;
    (seconds <= 365 * 24 * 3600).then(|| config::spell(std::time::Duration::from_secs(seconds)))
}
