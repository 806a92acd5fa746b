//! Mistakes in the TOML itself, in words that say what to do.

use toml::Spanned;
use toml::de::DeTable;

use super::error::{Error, quoted};

/// Above this size only the first mistake is told: each costs memory, and a large file of garbage has a million.
const LARGE: usize = 64 * 1024;

/// The tree of the file, or its mistakes, at most one per line: what follows on the same line mostly comes of the first.
pub(super) fn tree(text: &str) -> Result<Spanned<DeTable<'_>>, Vec<Error>> {
    if text.len() > LARGE {
        return DeTable::parse(text).map_err(|error| vec![explain(&error, text)]);
    }
    let (root, mistakes) = DeTable::parse_recoverable(text);
    if mistakes.is_empty() {
        return Ok(root);
    }
    let mut list: Vec<Error> = mistakes.iter().map(|error| explain(error, text)).collect();
    // An open string swallows what follows, so it comes before what is then missing at the same place.
    list.sort_by_key(|error| (start(error), error.message != OPEN_STRING));
    if let Some(open) =
        list.iter().position(|error| error.message == OPEN_STRING || error.message == OPEN_ARRAY)
    {
        list.truncate(open + 1); // the rest was read as what it is not
    }
    let mut seen = None;
    list.retain(|error| {
        let between = text.get(seen.unwrap_or_default()..start(error)).unwrap_or_default();
        let kept = seen.is_none() || between.contains('\n');
        seen = Some(start(error));
        kept
    });
    Err(list)
}

const OPEN_STRING: &str = "the string is not closed";
const OPEN_ARRAY: &str = "the array is not closed, or a comma is missing";

fn start(error: &Error) -> usize {
    error.span.as_ref().map_or(0, |span| span.start)
}

fn explain(error: &toml::de::Error, text: &str) -> Error {
    let told = error.message();
    let span = error.span();
    let written = span.clone().and_then(|span| text.get(span)).unwrap_or_default();
    let (message, help) = if told.contains("duplicate key") {
        (format!("{} is set twice", quoted(written)), Some("keep one of the two".to_owned()))
    } else if told.contains("must be quoted") {
        let value = written.trim();
        let help = match value {
            "" => None,
            "yes" | "Yes" | "on" | "On" | "True" | "TRUE" => Some("did you mean `true`?".to_owned()),
            "no" | "No" | "off" | "Off" | "False" | "FALSE" => Some("did you mean `false`?".to_owned()),
            _ => Some(format!("did you mean `\"{value}\"`?")),
        };
        (format!("{} is not a value: strings stand in quotes", quoted(value)), help)
    } else if told.contains("key with no value") {
        ("a key without a value".to_owned(), Some("write `key = value`".to_owned()))
    } else if told.contains("unclosed array") || told.contains("missing comma between array elements") {
        (OPEN_ARRAY.to_owned(), Some("write `[\"one\", \"two\"]`".to_owned()))
    } else if told.contains("escaped value") {
        let help = "write `\\\\` for a backslash, or put the string into single quotes: `'C:\\dir'`";
        ("what follows the backslash is no escape that TOML has".to_owned(), Some(help.to_owned()))
    } else if told.contains("invalid basic string") || told.contains("invalid literal string") {
        let help = "a string ends on the line where it begins; in `\"…\"` a backslash and a quote are written `\\\\` and `\\\"`";
        (OPEN_STRING.to_owned(), Some(help.to_owned()))
    } else if told.contains("invalid unquoted key") {
        (format!("not valid TOML: {told}"), Some("the format is TOML: `key = value`".to_owned()))
    } else {
        (format!("not valid TOML: {told}"), None)
    };
    Error { message, span, help }
}
