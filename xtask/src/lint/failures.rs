//! The rule about `docs/failures.md`: the tests and the log lines in it must exist.

use super::{Finding, Tree};

const DOCUMENT: &str = "docs/failures.md";
/// The columns of its tables.
const COLUMNS: usize = 5;
/// The minimum length of a piece of a log line: shorter ones are found anywhere.
const SHORTEST: usize = 6;

/// Checks rows `| clause | when | what happens | what is seen | tests |`. Every backticked name in the last
/// column must be that of a test. Every backticked text in the column before must be in psflip's source, apart
/// from its `…`.
pub(super) fn untrue_failure(tree: &Tree) -> Vec<Finding> {
    let Some(document) = tree.files.iter().find(|file| file.path == DOCUMENT) else { return Vec::new() };
    let tests = tests(tree);
    let texts: Vec<String> = tree
        .files
        .iter()
        .filter(|file| file.path.starts_with("psflip/src/") && file.path.ends_with(".rs"))
        .map(|file| joined(&file.text))
        .collect();
    let mut findings = Vec::new();
    for (index, line) in document.text.lines().enumerate() {
        let mut find = |text: String| {
            findings.push(Finding { path: DOCUMENT.to_owned(), line: index + 1, text });
        };
        let Some(row) = line.strip_prefix('|').and_then(|line| line.strip_suffix('|')) else { continue };
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let is_head = cells.iter().all(|cell| cell.starts_with("--")) || cells.last() == Some(&"shown by");
        if is_head {
            continue;
        }
        if cells.len() != COLUMNS {
            find(format!("a row has {COLUMNS} cells, this one {}", cells.len()));
            continue;
        }
        if backticked(cells[4]).next().is_none() {
            find("no test shows this".to_owned());
        }
        for name in backticked(cells[4]).filter(|name| !tests.contains(name)) {
            find(format!("there is no test `{name}`"));
        }
        for text in backticked(cells[3]) {
            for piece in text.split('…').filter(|piece| piece.trim().len() >= SHORTEST) {
                if !texts.iter().any(|source| source.contains(piece)) {
                    find(format!("psflip's source has no `{piece}`"));
                }
            }
        }
    }
    findings
}

fn backticked(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The names of all functions with `#[test]`.
fn tests(tree: &Tree) -> Vec<&str> {
    let mut names = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.ends_with(".rs")) {
        let mut is_test = false;
        for line in file.text.lines().map(str::trim) {
            is_test |= line == "#[test]";
            if let Some(rest) = line.strip_prefix("fn ")
                && std::mem::take(&mut is_test)
            {
                names.extend(rest.split('(').next());
            }
        }
    }
    names
}

/// A source in which strings that span several lines are joined, as the compiler does. Backticks become
/// apostrophes, since documents can't quote them.
pub(super) fn joined(source: &str) -> String {
    let mut lines = source.lines();
    let mut text = String::with_capacity(source.len());
    while let Some(line) = lines.next() {
        let mut line = line;
        while let Some(begun) = line.strip_suffix('\\') {
            text.push_str(begun.trim_start());
            line = lines.next().unwrap_or_default().trim_start();
        }
        text.push_str(line);
        text.push('\n');
    }
    text.replace('`', "'")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::File;

    fn findings(row: &str) -> Vec<String> {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        let source = "#[test]\n#[ignore]\nfn it_holds() {\n}\nfn no_test() {}\nlet a = \"can't open `{path}`, \\\n    and so on\";";
        let head = "| clause | when | what happens | what is seen | shown by |\n|---|---|---|---|---|\n";
        let tree =
            Tree::new(vec![file("psflip/src/a.rs", source), file(DOCUMENT, &format!("{head}{row}\n"))]);
        untrue_failure(&tree).into_iter().map(|finding| finding.text).collect()
    }

    #[test]
    fn a_row_with_a_test_and_a_log_line_that_exist_is_fine() {
        let rows = [
            "| F1 | a | b | `can't open '…', and so on`; 78 | `it_holds` |",
            "| F1 | a | b | nothing | `it_holds`, `it_holds` |",
        ];
        for row in rows {
            assert_eq!(findings(row), [""; 0], "{row}");
        }
    }

    #[test]
    fn missing_tests_and_log_lines_are_found() {
        assert_eq!(findings("| F1 | a | b | c | `no_test` |"), ["there is no test `no_test`"]);
        assert_eq!(
            findings("| F1 | a | b | `can't close` | `it_holds` |"),
            ["psflip's source has no `can't close`"]
        );
        assert_eq!(findings("| F1 | a | b | c | |"), ["no test shows this"]);
        assert_eq!(findings("| F1 | a | `it_holds` |"), ["a row has 5 cells, this one 3"]);
    }
}
