//! Errors of a configuration and how they are shown: message, place, source line, help. All errors are
//! reported at once.

use std::fmt::{self, Write as _};
use std::ops::Range;

use crate::text::is_hidden;

/// One error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What is wrong, with the offending text in backticks; a lowercase fragment.
    pub message: String,
    /// Where, in bytes of the file; `None` if the error is about the file as a whole.
    pub span: Option<Range<usize>>,
    /// What is allowed, or what to do; a lowercase fragment.
    pub help: Option<String>,
}

impl Error {
    /// An error at `span`.
    pub(super) fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { message: message.into(), span: Some(span), help: None }
    }

    /// An error about the file as a whole.
    pub(super) fn whole(message: impl Into<String>) -> Self {
        Self { message: message.into(), span: None, help: None }
    }

    /// Adds a line of help.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// All errors of one file, in the order of the file; never empty.
#[derive(Clone, Debug)]
pub struct Errors {
    name: String,
    text: String,
    list: Vec<Error>,
    left_out: usize,
    /// For each line of the text the flag that it was made of; empty for the text of a file.
    flags: Vec<String>,
}

/// Further errors are only counted: a file of garbage must not fill the disk with its log.
const MOST: usize = 50;

/// The longest message and the longest help, in characters: a message of the TOML library may quote a whole
/// value.
const LONGEST: usize = 400;

fn shorten(text: &mut String) {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
}

impl Errors {
    /// Sorts `list` (not empty) into the order of `text`; `dropped` is the number of errors that are not in
    /// it.
    pub(super) fn new(name: &str, text: &str, mut list: Vec<Error>, dropped: usize) -> Self {
        debug_assert!(!list.is_empty(), "an error without a mistake");
        list.sort_by_key(|error| error.span.as_ref().map_or(0, |span| span.start));
        list.dedup();
        for text in
            list.iter_mut().flat_map(|error| std::iter::once(&mut error.message).chain(&mut error.help))
        {
            shorten(text);
        }
        let left_out = list.len().saturating_sub(MOST) + dropped;
        list.truncate(MOST);
        Self { name: name.to_owned(), text: text.to_owned(), list, left_out, flags: Vec::new() }
    }

    /// Marks the text as made of flags: `flags` has the flag of each line.
    pub(super) fn of_flags(self, flags: Vec<String>) -> Self {
        Self { flags, ..self }
    }

    /// Applies `change` to every message and help.
    pub(super) fn map_text(mut self, change: impl Fn(&str) -> String) -> Self {
        for error in &mut self.list {
            error.message = change(&error.message);
            error.help = error.help.as_deref().map(&change);
        }
        self
    }

    /// The errors, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Error> {
        self.list.iter()
    }

    /// The number of errors, including those that are not listed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.list.len() + self.left_out
    }

    /// Line and column of the start of `error`, both from 1; columns count characters.
    #[must_use]
    pub fn position(&self, error: &Error) -> Option<(usize, usize)> {
        let excerpt = SourceExcerpt::of(&self.text, error.span.as_ref()?);
        Some((excerpt.line, excerpt.before.chars().count() + 1))
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str("\n\n")?;
            }
            self.show(f, error)?;
        }
        if self.left_out > 0 {
            write!(f, "\n\n{}: {} more errors are not shown", printable(&self.name), self.left_out)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

impl Errors {
    fn show(&self, f: &mut fmt::Formatter<'_>, error: &Error) -> fmt::Result {
        let name = printable(&self.name);
        let message = printable(&error.message);
        let short = |f: &mut fmt::Formatter<'_>, name: &str| {
            write!(f, "{name}: {message}")?;
            match &error.help {
                Some(help) => write!(f, "\n  = help: {}", printable(help)),
                None => Ok(()),
            }
        };
        let Some(span) = &error.span else { return short(f, &name) };
        let excerpt = SourceExcerpt::of(&self.text, span);
        if let Some(flag) = self.flags.get(excerpt.line - 1) {
            return short(f, &printable(flag));
        }
        let line = excerpt.line.to_string();
        let margin = " ".repeat(line.len());
        let (shown, skip, carets) = excerpt.drawn();
        writeln!(f, "{name}:{line}:{}: {message}", excerpt.before.chars().count() + 1)?;
        writeln!(f, "{margin} |")?;
        writeln!(f, "{}", format!("{line} | {shown}").trim_end())?;
        write!(f, "{margin} | {}{}", " ".repeat(skip), "^".repeat(carets))?;
        if let Some(help) = &error.help {
            write!(f, "\n{margin} = help: {}", printable(help))?;
        }
        Ok(())
    }
}

/// The first line of a span, divided into the parts before, inside and after the span.
struct SourceExcerpt<'t> {
    line: usize,
    before: &'t str,
    inside: &'t str,
    behind: &'t str,
}

/// How many columns of the source are shown before, inside and after a span.
const SHOWN: (usize, usize, usize) = (50, 60, 30);

impl<'t> SourceExcerpt<'t> {
    fn of(text: &'t str, span: &Range<usize>) -> Self {
        // A byte order mark is not a character of the first line.
        let bom = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        let mut start = floor(text, span.start).max(bom);
        // The end of a file that ends with a newline is shown at the end of its last line.
        if start == text.len() && start > bom && text.ends_with('\n') {
            start = text.trim_end_matches(['\n', '\r']).len().max(bom);
        }
        let first = text[..start].rfind('\n').map_or(bom, |newline| newline + 1);
        let last = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let end = floor(text, span.end).clamp(start, last);
        let line = text[..start].matches('\n').count() + 1;
        Self {
            line,
            before: &text[first..start],
            inside: &text[start..end],
            behind: text[end..last].trim_end(),
        }
    }

    /// The line as shown, the columns before the carets, and the number of carets.
    fn drawn(&self) -> (String, usize, usize) {
        let mut shown = String::new();
        let before = self.before.chars().count();
        if before > SHOWN.0 {
            shown.push('…');
        }
        let mut skip = shown.chars().count();
        skip += draw(&mut shown, self.before.chars().skip(before.saturating_sub(SHOWN.0)));
        let inside = self.inside.trim_end();
        let mut carets = draw(&mut shown, inside.chars().take(SHOWN.1));
        let cut = inside.chars().count() > SHOWN.1;
        if !cut {
            draw(&mut shown, self.inside[inside.len()..].chars().chain(self.behind.chars()).take(SHOWN.2));
        }
        if cut || self.behind.chars().count() > SHOWN.2 {
            shown.push('…');
        }
        carets = carets.max(1);
        (shown, skip, carets)
    }
}

/// Appends characters, escaped so that they fit on one line, and returns the number of terminal columns they
/// take.
fn draw(shown: &mut String, chars: impl Iterator<Item = char>) -> usize {
    let mut columns = 0;
    for c in chars {
        match c {
            '\t' => shown.push_str("    "),
            c if is_hidden(c) => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
        columns += match c {
            '\t' => 4,
            c if wide(c) => 2,
            _ => 1,
        };
    }
    columns
}

/// Whether a character takes two columns of a terminal: East Asian characters and emoji (Unicode Standard
/// Annex 11, by blocks).
fn wide(c: char) -> bool {
    matches!(c, '\u{1100}'..='\u{115f}' | '\u{2e80}'..='\u{a4cf}' | '\u{ac00}'..='\u{d7a3}' | '\u{f900}'..='\u{faff}'
        | '\u{fe30}'..='\u{fe6f}' | '\u{ff00}'..='\u{ff60}' | '\u{1f300}'..='\u{1faff}' | '\u{20000}'..='\u{3fffd}')
}

/// The text on one line, without control characters.
fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if is_hidden(c) {
            // Writing to a String can't fail.
            let _ = write!(out, "{}", c.escape_debug());
        } else {
            out.push(c);
        }
        out
    })
}

/// The character boundary at or before `index`.
fn floor(text: &str, mut index: usize) -> usize {
    index = index.min(text.len());
    while !text.is_char_boundary(index) {
        index -= 1;
    }
    index
}

/// A value for a message, in backticks and shortened to one line.
pub(crate) fn quoted(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() <= LONGEST {
        return format!("`{text}`");
    }
    let head: String = text.chars().take(LONGEST).collect();
    format!("`{head}…`")
}

/// `a`, `b` or `c`, in backticks.
pub(super) fn any_of<T: AsRef<str>>(names: &[T]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{}`", name.as_ref())).collect();
    match names.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

/// The name that the user probably meant by `wrong`.
pub(crate) fn nearest<T: AsRef<str>>(wrong: &str, names: impl IntoIterator<Item = T>) -> Option<String> {
    // The comparison is quadratic in the length, and no name is that long.
    if wrong.len() > 64 {
        return None;
    }
    let wrong = wrong.to_lowercase().replace('-', "_");
    let mut best: Option<(usize, String)> = None;
    for name in names {
        let name = name.as_ref();
        // Finds `err` for `error`, and `warning` for `warn`.
        let shorter = wrong.len().min(name.len());
        let begins = shorter >= 3 && (wrong.starts_with(name) || name.starts_with(&wrong));
        let distance = if begins { 1 } else { strsim::damerau_levenshtein(&wrong, &name.to_lowercase()) };
        let allowed = (name.chars().count().max(wrong.chars().count()) / 3).max(1);
        if distance <= allowed && best.as_ref().is_none_or(|(least, _)| distance < *least) {
            best = Some((distance, name.to_owned()));
        }
    }
    best.map(|(_, name)| name)
}

/// The name of another place that `wrong` probably is. A far one would mislead, so it must be the same, or
/// differ in at most a quarter of its letters.
pub(super) fn misplaced<'n>(wrong: &str, names: impl Iterator<Item = &'n str>) -> Option<String> {
    if wrong.len() > 64 {
        return None; // as above
    }
    let wrong = wrong.to_lowercase().replace('-', "_");
    let distance = |name: &str| strsim::damerau_levenshtein(&wrong, name);
    let near = names.map(|name| (distance(name), name));
    let near = near.filter(|(distance, name)| distance * 4 <= name.chars().count());
    near.min_by_key(|(distance, _)| *distance).map(|(_, name)| name.to_owned())
}

/// As [`any_of`], with `and`.
pub(super) fn all_of<T: AsRef<str>>(names: &[T]) -> String {
    any_of(names).replace("` or `", "` and `")
}

/// Names that other tools use for a key.
const SYNONYMS: &[(&str, &str)] = &[
    ("command", "cmd"),
    ("args", "cmd"),
    ("exec", "cmd"),
    ("program", "cmd"),
    ("cwd", "workdir"),
    ("directory", "workdir"),
    ("environment", "env"),
    ("pid", "pidfile"),
    ("health", "healthcheck"),
    ("socket", "path"),
    ("addr", "address"),
    ("host", "address"),
    ("uri", "url"),
    ("delay", "after"),
    ("period", "interval"),
    ("grace", "timeout"),
];

/// The key of `allowed` that the user probably meant by `wrong`, by spelling or by meaning.
pub(super) fn meant(wrong: &str, allowed: &[&str]) -> Option<String> {
    let synonym = SYNONYMS.iter().find(|(other, key)| *other == wrong && allowed.contains(key));
    synonym.map(|(_, key)| (*key).to_owned()).or_else(|| nearest(wrong, allowed))
}
