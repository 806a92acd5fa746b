//! `psflip migrate`: translates upstream's configuration (YAML, JSON or TOML, with Go templates) into a
//! `psflip.toml`. Pure: text -> values with places (`source`) -> their translation (`translate`, `health`,
//! `proxy`, `go`) -> text with comments (`draft`), checked by psflip's own parser.
//!
//! Nothing is dropped: a setting without a counterpart becomes a comment at its place in the output, and a
//! remark.

mod draft;
mod go;
mod health;
mod proxy;
mod source;
pub mod supervisor;
#[cfg(test)]
mod tests;
mod translate;
mod value;

use std::fmt;

use crate::config::{self, Generation};
use draft::Draft;
pub use source::{Format, Position, Unreadable};

/// How often the result is parsed, each time with the rejected lines commented out.
const ROUNDS: usize = 8;

/// The kind of a remark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Translated, with a difference that the user should know.
    Note,
    /// Not translated.
    Left,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Note => "note",
            Self::Left => "left to do",
        })
    }
}

/// What the user should know about the translation of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// The place in upstream's file.
    pub at: Position,
    /// Whether something is left to do.
    pub kind: Kind,
    /// The text; a lowercase fragment.
    pub text: String,
}

/// The longest remark, in characters.
const LONGEST: usize = 400;

impl Remark {
    fn new(at: Position, kind: Kind, text: &str) -> Self {
        Self { at, kind, text: crate::text::head(text, LONGEST) }
    }

    /// The remark as it appears in the output.
    fn comment(&self) -> String {
        let kind = match self.kind {
            Kind::Note => "NOTE",
            Kind::Left => "LEFT TO DO",
        };
        format!("{kind} (line {}): {}", self.at.line, self.text)
    }
}

/// A migrated configuration.
#[derive(Clone, Debug)]
pub struct Migrated {
    /// The `psflip.toml`.
    pub text: String,
    /// The remarks, in the order of upstream's file.
    pub remarks: Vec<Remark>,
    /// Why psflip would reject the result as it is; `None`: it would not.
    pub refused: Option<String>,
}

impl Migrated {
    /// How many settings are left to do.
    #[must_use]
    pub fn left(&self) -> usize {
        self.remarks.iter().filter(|remark| remark.kind == Kind::Left).count()
    }
}

/// Translates the configuration `text`, called `name` in the output, and checks the result as `generation`
/// would read it.
///
/// # Errors
/// `text` is not a table of keys and values in this format.
pub fn migrate(
    name: &str,
    text: &str,
    format: Format,
    generation: &Generation<'_>,
) -> Result<Migrated, Unreadable> {
    let source = source::read(text, format)?;
    let (mut draft, mut remarks) = translate::translate(&source);
    let refused = settle(&mut draft, &mut remarks, generation);
    remarks.sort_by_key(|remark| remark.at);
    draft.comments = opening(name, remarks.iter().filter(|remark| remark.kind == Kind::Left).count());
    let (text, _) = draft.render();
    Ok(Migrated { text, remarks, refused })
}

/// The comments at the beginning of the file.
fn opening(name: &str, left: usize) -> Vec<String> {
    let name = crate::text::head(name, 100);
    let mut opening = vec![
        format!(
            "Made from `{name}` of upstream psflip by `psflip migrate`, psflip {}.",
            env!("CARGO_PKG_VERSION")
        ),
        "What differs whatever the file says, and what else there is to do: docs/migrating.md.".to_owned(),
    ];
    match left {
        0 => {}
        1 => opening.push("1 thing is left to do: look for LEFT TO DO.".to_owned()),
        left => opening.push(format!("{left} things are left to do: look for LEFT TO DO.")),
    }
    opening
}

/// Parses the draft as psflip does, and comments out rejected lines, with a remark, until psflip accepts the
/// rest. Returns the errors that remain: missing keys, and files that can't be read here.
fn settle(draft: &mut Draft, remarks: &mut Vec<Remark>, generation: &Generation<'_>) -> Option<String> {
    for _ in 0..ROUNDS {
        let (text, owners) = draft.render();
        let Err(errors) = config::parse("the result", &text, generation) else { return None };
        let mut changed = false;
        for error in errors.iter() {
            let owner = errors.position(error).and_then(|(line, _)| *owners.get(line - 1)?);
            let Some((section, line)) = owner else { continue };
            let section = &mut draft.sections[section];
            let line = &mut section.lines[line];
            let Some(at) = line.from.filter(|_| !line.left && !is_of_this_machine(&error.message)) else {
                continue;
            };
            let help = error.help.as_ref().map(|help| format!("; {help}")).unwrap_or_default();
            let remark = Remark::new(at, Kind::Left, &format!("{}{help}", error.message));
            line.left = true;
            line.comments.push(remark.comment());
            remarks.push(remark);
            if section.header == proxy::HEADER {
                section.header.insert_str(0, "# ");
                section.lines.iter_mut().for_each(|line| line.left = true);
            }
            changed = true;
        }
        if !changed {
            return Some(errors.to_string());
        }
    }
    let (text, _) = draft.render();
    config::parse("the result", &text, generation).err().map(|errors| errors.to_string())
}

/// Whether the error depends on this host: a template reads a file that does not exist here.
fn is_of_this_machine(message: &str) -> bool {
    message.starts_with("can't read ")
}
