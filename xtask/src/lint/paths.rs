//! The rule about paths: those in documents and module headers must exist.

use super::{Finding, Tree};
use crate::repo::File;

/// The folders at the root; a backticked path that begins with one of them names a file of this repository.
const TOP: &[&str] = &[
    "psflip", "relay", "testkit", "fixtures", "tools", "xtask", "docs", "examples", "dist", ".ci", ".config",
    ".cargo",
];

/// Checks backticked paths in documents and `//!` headers, and relative links in documents.
pub(super) fn stale_path(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in &tree.files {
        let is_document = file.path.ends_with(".md") && !file.path.starts_with('.');
        if !is_document && !file.path.ends_with(".rs") {
            continue;
        }
        for (index, line) in file.text.lines().enumerate() {
            let mut named = Vec::new();
            if is_document || line.trim_start().starts_with("//!") {
                named.extend(line.split('`').skip(1).step_by(2).filter_map(repository_path));
            }
            if is_document {
                named.extend(
                    line.split("](")
                        .skip(1)
                        .filter_map(|rest| rest.split(')').next())
                        .filter_map(|link| linked_path(file, link)),
                );
            }
            for path in named.into_iter().filter(|path| !tree.exists(path)) {
                findings.push(Finding {
                    path: file.path.clone(),
                    line: index + 1,
                    text: format!("`{path}` does not exist"),
                });
            }
        }
    }
    findings
}

/// The path in a backticked text, if it belongs to this repository, without a line number such as `:12`.
fn repository_path(text: &str) -> Option<String> {
    let path = text.split([':', '#']).next()?;
    let (first, rest) = path.split_once('/')?;
    let is_plain = !path.contains(|char: char| char.is_whitespace() || "*<>{}$,…".contains(char));
    // `psflip/1` is the name of a protocol: each part of a path must contain a letter.
    let has_letters =
        rest.split('/').all(|part| part.is_empty() || part.contains(|char: char| char.is_alphabetic()));
    (TOP.contains(&first) && is_plain && has_letters).then(|| path.to_owned())
}

/// The target of a link in a document, from the repository's root; `None` if it is outside of the repository
/// or within the page.
fn linked_path(file: &File, link: &str) -> Option<String> {
    let target = link.split('#').next().filter(|target| !target.is_empty())?;
    if target.contains(':') || target.starts_with('/') || target.contains(char::is_whitespace) {
        return None;
    }
    let mut parts: Vec<&str> = file.path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "." | "" => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let tree = Tree::new(vec![
            file(path, text),
            file("psflip/src/flip/decide.rs", "//! x"),
            file("docs/handover.md", ""),
        ]);
        stale_path(&tree).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn stale_paths_in_documents_and_headers_are_found() {
        assert_eq!(
            findings("docs/a.md", "see `psflip/src/gone.rs:12` and `psflip/src/flip/`"),
            ["`psflip/src/gone.rs` does not exist"]
        );
        assert_eq!(
            findings("psflip/src/lib.rs", "//! see `docs/gone.md`\n// `docs/gone.md`"),
            ["`docs/gone.md` does not exist"]
        );
    }

    #[test]
    fn stale_links_are_found_from_the_directory_of_the_document() {
        assert_eq!(
            findings("docs/a.md", "[a](handover.md#b) [b](../psflip/src/gone.rs)"),
            ["`psflip/src/gone.rs` does not exist"]
        );
        assert_eq!(
            findings("README.md", "[a](docs/handover.md) [b](handover.md)"),
            ["`handover.md` does not exist"]
        );
    }

    #[test]
    fn text_that_is_no_repository_path_is_ignored() {
        let text = "`/proc/self/fd`, `psflip -c FILE`, `fixtures/src/bin/*.rs`, `psflip/1`, `target/debug`, `a/b`, [x](https://example.org/), [y](#z)";
        assert_eq!(findings("docs/a.md", text), [""; 0]);
    }
}
