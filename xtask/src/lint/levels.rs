//! The rule about log levels in documents: a log line that is quoted with its level must have that level in
//! the source.

use super::failures::joined;
use super::{Finding, Tree};

/// The minimum length of a piece of a log line: shorter ones are found anywhere.
const SHORTEST: usize = 6;
const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// Finds the two ways to state a level: `text` (level debug), also `text`, at level debug; and a line of the
/// log, ` INFO psflip{generation=1 pid=2}: text name=value`.
pub(super) fn untrue_level(tree: &Tree) -> Vec<Finding> {
    let sources: Vec<String> = tree
        .files
        .iter()
        .filter(|file| file.path.starts_with("psflip/src/") && file.path.ends_with(".rs"))
        .map(|file| joined(&file.text))
        .collect();
    let mut findings = Vec::new();
    for document in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        for (index, line) in document.text.lines().enumerate() {
            for (text, level) in named(line).into_iter().chain(written(line)) {
                let pieces = text.split('…').map(str::trim).filter(|piece| piece.len() >= SHORTEST);
                for piece in pieces {
                    let levels: Vec<&str> =
                        sources.iter().flat_map(|source| levels_of(source, piece)).collect();
                    let text = if levels.is_empty() {
                        format!("psflip logs no `{piece}`")
                    } else if levels.contains(&level) {
                        continue;
                    } else {
                        format!("`{piece}` is logged at level {}, not {level}", levels[0])
                    };
                    findings.push(Finding { path: document.path.clone(), line: index + 1, text });
                }
            }
        }
    }
    findings
}

/// Texts in backticks followed by a level.
fn named(line: &str) -> Vec<(&str, &'static str)> {
    let parts: Vec<&str> = line.split('`').collect();
    let pairs = parts.windows(2).skip(1).step_by(2);
    pairs
        .filter_map(|pair| {
            let rest = pair[1];
            let rest = rest.strip_prefix(" (level ").or_else(|| rest.strip_prefix(", at level "))?;
            let level = LEVELS.iter().find(|level| rest.starts_with(**level))?;
            Some((pair[0], *level))
        })
        .collect()
}

/// A log line, without its fields.
fn written(line: &str) -> Option<(&str, &'static str)> {
    let (before, rest) = line.split_once(" psflip{generation=")?;
    let (_, text) = rest.split_once("}: ")?;
    let level = before.split_whitespace().last()?.to_ascii_lowercase();
    let level = LEVELS.iter().find(|known| **known == level)?;
    let end = text.match_indices(' ').map(|(at, _)| at).find(|at| {
        let word = text[at + 1..].split([' ', '=']).next().unwrap_or_default();
        text[at + 1 + word.len()..].starts_with('=')
    });
    Some((&text[..end.unwrap_or(text.len())], level))
}

/// The levels of the macros whose call contains this text.
fn levels_of<'s>(source: &'s str, text: &str) -> Vec<&'s str> {
    const MACRO: &str = "tracing::";
    let texts = source.match_indices(text);
    texts
        .filter_map(|(at, _)| {
            let call = source[..at].rfind(MACRO)? + MACRO.len();
            let (level, arguments) = source[call..at].split_once("!(")?;
            // A `;` in between means that the text belongs to a later statement.
            (LEVELS.contains(&level) && !arguments.contains(';')).then_some(level)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::File;

    fn findings(document: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let source = "fn a() { tracing::info!(%end, \"the child has exited\"); }\nfn b() { tracing::error!(\"it is \\\n    down\"); }\nlet c = \"no line\";";
        let tree = Tree::new(vec![file("psflip/src/a.rs", source), file("docs/a.md", document)]);
        untrue_level(&tree).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn a_line_with_its_own_level_is_fine() {
        for document in [
            "| `the child has exited` (level info) |",
            "`it is down`, at level error; `no line`",
            "    ERROR psflip{generation=1 pid=2}: it is down child=3 end=exit code 0",
            "2026-11-23T13:11:57.2Z  INFO psflip{generation=1 pid=4}: the child has exited",
        ] {
            assert_eq!(findings(document), [""; 0], "{document}");
        }
    }

    #[test]
    fn another_level_and_another_line_are_found() {
        let is = "`the child has exited` is logged at level info, not debug";
        assert_eq!(findings("`the child has exited` (level debug)"), [is]);
        assert_eq!(findings(" DEBUG psflip{generation=1 pid=2}: the child has exited end=x"), [is]);
        assert_eq!(findings("`no line` (level warn)"), ["psflip logs no `no line`"]);
    }
}
