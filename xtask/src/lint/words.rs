//! The rules about words: plain English in the field's terms, and lines that fit.

use super::{Finding, Tree};

/// The folder of these rules, which names what is forbidden.
const OWN: &str = "xtask/src/lint/";

/// Words and phrases that readers had to translate, and what to write in their place.
const WORDS: &[(&str, &str)] = &[
    ("somebody", "name who: a process, a user, an operator"),
    ("whoever", "name who: the process that ..., the user who ..."),
    ("is told", "reports, logs, notifies"),
    ("are told", "reports, logs, notifies"),
    ("was told", "reported, logged, notified"),
    ("has heard", "has received"),
    ("asked for by", "requested by"),
    ("kept connection", "keep-alive connection, idle connection"),
    ("kept connections", "keep-alive connections, idle connections"),
    ("elder", "old generation, predecessor"),
    ("errand", "supervised command"),
    ("bereaved", "may have orphans"),
    ("doubtful", "probably wrong"),
    ("turns the link", "repoints the symlink"),
    ("turn the link", "repoint the symlink"),
];

/// The widest line of a comment, in characters.
const COMMENT: usize = 110;
/// The widest line of prose on a page, in characters; a line that is one sentence may be longer.
const PROSE: usize = 120;

/// Where the words are read by everybody: pages, and the sources of psflip itself.
fn is_read(path: &str) -> bool {
    path.ends_with(".md") || path.starts_with("psflip/src/") && path.ends_with(".rs")
}

/// A word of the private dialect, in prose, comments or messages.
pub(super) fn old_word(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| is_read(&file.path) && !file.path.starts_with(OWN)) {
        for (number, line) in (1..).zip(file.text.lines()) {
            for (old, new) in WORDS {
                if has_phrase(line, old) {
                    let text = format!("`{old}`: {new}");
                    findings.push(Finding { path: file.path.clone(), line: number, text });
                }
            }
        }
    }
    findings
}

/// Whether a line has this phrase, as whole words, in lower or upper case. Names of code (`told_to_stop`) are none.
fn has_phrase(line: &str, phrase: &str) -> bool {
    let line = line.to_lowercase();
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(phrase).any(|(at, _)| {
        !is_part(line[..at].chars().next_back()) && !is_part(line[at + phrase.len()..].chars().next())
    })
}

/// A comment that is wider than a reader's window.
pub(super) fn wide_comment(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in
        tree.files.iter().filter(|file| file.path.starts_with("psflip/src/") && file.path.ends_with(".rs"))
    {
        for (number, line) in (1..).zip(file.text.lines()) {
            // An address or a table can't be wrapped.
            let is_comment =
                line.trim_start().starts_with("//") && !line.contains("://") && !line.contains('|');
            let width = line.chars().count();
            if is_comment && width > COMMENT {
                let text = format!("{width} characters; {COMMENT} at most");
                findings.push(Finding { path: file.path.clone(), line: number, text });
            }
        }
    }
    findings
}

/// Prose on a page that is neither wrapped nor one sentence a line.
pub(super) fn wide_prose(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".md")) {
        let mut is_code = false;
        for (number, line) in (1..).zip(file.text.lines()) {
            is_code ^= line.trim_start().starts_with("```");
            let is_prose = !is_code && !line.starts_with("    ") && !line.trim_start().starts_with('|');
            let sentences = line.matches(". ").count() + line.matches("; ").count();
            let width = line.chars().count();
            if is_prose && width > PROSE && sentences > 0 {
                let text = format!("{width} characters in more than one sentence; wrap it at {PROSE}");
                findings.push(Finding { path: file.path.clone(), line: number, text });
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::File;

    fn found(find: fn(&Tree) -> Vec<Finding>, path: &str, text: &str) -> usize {
        find(&Tree::new(vec![File { path: path.to_owned(), text: text.to_owned() }])).len()
    }

    #[test]
    fn whole_words_are_found_in_pages_and_sources_and_names_are_not() {
        assert_eq!(found(old_word, "docs/a.md", "Somebody is told.\nwhoever_it_is\n"), 2);
        assert_eq!(found(old_word, "psflip/src/a.rs", "/// The elder.\nlet elder_one = 1;\n"), 1);
        assert_eq!(found(old_word, "psflip/tests/a.rs", "/// Somebody.\n"), 0);
    }

    #[test]
    fn wide_lines_are_found_where_they_can_be_wrapped() {
        let words = "word ".repeat(30);
        assert_eq!(found(wide_comment, "psflip/src/a.rs", &format!("    /// {words}\n")), 1);
        assert_eq!(
            found(wide_comment, "psflip/src/a.rs", &format!("/// https://x {words}\nlet a = 1; // {words}")),
            0
        );
        assert_eq!(found(wide_prose, "docs/a.md", &format!("One. Two {words}\n")), 1);
        assert_eq!(
            found(wide_prose, "docs/a.md", &format!("{words}\n| a. b {words} |\n```\na. b {words}\n```\n")),
            0
        );
    }
}
