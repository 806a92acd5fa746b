//! Errors of the TOML syntax, explained with what to do.

use toml::Spanned;
use toml::de::DeTable;

use super::error::{Error, quoted};

/// Above this size only the first error is reported: each error takes memory, and a large file of garbage has
/// a million.
const LARGE: usize = 64 * 1024;

/// The tree of the file, or its errors, at most one per line: further errors on the same line mostly follow
/// from the first.
pub(super) fn tree(text: &str) -> Result<Spanned<DeTable<'_>>, Vec<Error>> {
    if text.len() > LARGE {
        return DeTable::parse(text).map_err(|error| vec![explain(&error, text)]);
    }
    let (root, mistakes) = DeTable::parse_recoverable(text);
    if mistakes.is_empty() {
        return Ok(root);
    }
    let mut list: Vec<Error> = mistakes.iter().map(|error| explain(error, text)).collect();
    // An unterminated string swallows the text that follows it, so it comes before other errors at the same
    // place.
    list.sort_by_key(|error| (start(error), error.message != OPEN_STRING));
    if let Some(open) =
        list.iter().position(|error| error.message == OPEN_STRING || error.message == OPEN_ARRAY)
    {
        list.truncate(open + 1); // the parser misread the rest
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
/// The message about dotted keys, which the library reports without a place.
const TOO_DEEP: &str = "recursion limit";
const OPEN_ARRAY: &str = "the array is not closed, or a comma is missing";

fn start(error: &Error) -> usize {
    error.span.as_ref().map_or(0, |span| span.start)
}

fn explain(error: &toml::de::Error, text: &str) -> Error {
    let original = error.message();
    if original.contains(TOO_DEEP) || original.contains("cannot recurse further") {
        let span = error.span().unwrap_or_else(|| deepest(text));
        return Error::at(span, "tables, arrays or dotted keys are nested too deeply")
            .help("no key of psflip is deeper than `healthcheck.http.url`");
    }
    let span = error.span();
    let written = span.clone().and_then(|span| text.get(span)).unwrap_or_default();
    let (message, help) = if original.contains("duplicate key") {
        (format!("{} is set twice", quoted(written)), Some("keep one of the two".to_owned()))
    } else if original.contains("must be quoted") {
        let value = written.trim();
        let help = match value {
            "" => None,
            "yes" | "Yes" | "on" | "On" | "True" | "TRUE" => Some("did you mean `true`?".to_owned()),
            "no" | "No" | "off" | "Off" | "False" | "FALSE" => Some("did you mean `false`?".to_owned()),
            _ => Some(format!("did you mean `\"{value}\"`?")),
        };
        (format!("{} is not a value: write strings in quotes", quoted(value)), help)
    } else if original.contains("key with no value") {
        ("a key without a value".to_owned(), Some("write `key = value`".to_owned()))
    } else if original.contains("unclosed array") || original.contains("missing comma between array elements")
    {
        (OPEN_ARRAY.to_owned(), Some("write `[\"one\", \"two\"]`".to_owned()))
    } else if original.contains("escaped value") {
        let help = "write `\\\\` for a backslash, or put the string into single quotes: `'C:\\dir'`";
        ("what follows the backslash is no escape that TOML has".to_owned(), Some(help.to_owned()))
    } else if original.contains("invalid basic string") || original.contains("invalid literal string") {
        let help = "a string ends on the line where it begins; in `\"…\"` a backslash and a quote are written `\\\\` and `\\\"`";
        (OPEN_STRING.to_owned(), Some(help.to_owned()))
    } else if original.contains("invalid unquoted key") {
        (format!("not valid TOML: {original}"), Some("the format is TOML: `key = value`".to_owned()))
    } else {
        (format!("not valid TOML: {original}"), None)
    };
    Error { message, span, help }
}

/// The first line that is nested too deeply, which the library does not report. It is the last line of the
/// shortest beginning of the file that has this error.
fn deepest(text: &str) -> std::ops::Range<usize> {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).chain([text.len()]).collect();
    let too_deep =
        |end: &usize| DeTable::parse(&text[..*end]).is_err_and(|error| error.message().contains(TOO_DEEP));
    let index = ends.partition_point(|end| !too_deep(end)).min(ends.len() - 1);
    let start = if index == 0 { 0 } else { ends[index - 1] + 1 };
    start..ends[index]
}
