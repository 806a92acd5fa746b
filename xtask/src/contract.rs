//! `cargo xtask contract`: the clauses of docs/contract.md, each with the tests that cite it.
//!
//! A citation is `// Contract: C5, S1` as the first line in a test's body, or `/// Contract: C5, S1` above
//! the test.

use std::collections::BTreeMap;

use crate::args::Args;
use crate::repo::{self, File};
use crate::{Error, Outcome};

pub(crate) const USAGE: &str = "\
cargo xtask contract [--all] [--markdown]

Lists every clause of docs/contract.md with the tests that cite it. Fails if a clause of C, S, U, T, E, B, D, A, W, P, O, H, L or X has
no test, if a citation names a clause that doesn't exist, or if a citation belongs to no test.

  --all       F and V must have tests, too
  --markdown  print a table in Markdown";

const CONTRACT: &str = "docs/contract.md";
const MARK: &str = "Contract:";
/// Chapters in which every clause must have a test. The other chapters are only listed; `--all` requires them
/// as well.
const REQUIRED: &[char] = &['C', 'S', 'U', 'T', 'E', 'B', 'D', 'R', 'A', 'W', 'P', 'O', 'H', 'L', 'X'];
/// Parts of required clauses that are planned for later, so that their tests don't prove them yet.
const LATER: &[(&str, &str)] = &[];

/// A clause: its name and the beginning of its text.
#[derive(Debug, PartialEq)]
struct Clause {
    name: String,
    text: String,
}

/// A test that cites a clause.
#[derive(Debug, PartialEq)]
struct Citation {
    clause: String,
    test: String,
    place: String,
}

pub(crate) fn run(mut args: Args) -> Outcome {
    let (all, markdown) = (args.flag("all"), args.flag("markdown"));
    args.done()?;
    let report = Report::new(&repo::files()?)?;
    if markdown {
        report.print_markdown();
    } else {
        report.print(true);
    }
    report.result(all)
}

/// The same for `cargo xtask ci`, but prints only the summary.
pub(crate) fn check(all: bool) -> Outcome {
    let report = Report::new(&repo::files()?)?;
    report.print(false);
    report.result(all)
}

struct Report {
    clauses: Vec<Clause>,
    tests: BTreeMap<String, Vec<Citation>>,
    mistakes: Vec<String>,
}

impl Report {
    fn new(files: &[File]) -> Result<Self, Error> {
        let contract = files
            .iter()
            .find(|file| file.path == CONTRACT)
            .ok_or_else(|| format!("`{CONTRACT}` is missing"))?;
        let clauses = clauses(&contract.text);
        let mut mistakes = Vec::new();
        let mut tests = BTreeMap::<String, Vec<Citation>>::new();
        for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
            let (found, wrong) = citations(file);
            mistakes.extend(wrong);
            for citation in found {
                if clauses.iter().any(|clause| clause.name == citation.clause) {
                    tests.entry(citation.clause.clone()).or_default().push(citation);
                } else {
                    mistakes.push(format!(
                        "{}: `{}` cites `{}`, which is no clause of {CONTRACT}",
                        citation.place, citation.test, citation.clause
                    ));
                }
            }
        }
        Ok(Self { clauses, tests, mistakes })
    }

    fn tests_of(&self, clause: &Clause) -> &[Citation] {
        self.tests.get(&clause.name).map_or(&[], Vec::as_slice)
    }

    fn without_test(&self) -> impl Iterator<Item = &Clause> {
        self.clauses.iter().filter(|clause| self.tests_of(clause).is_empty())
    }

    fn print(&self, everything: bool) {
        for clause in self.clauses.iter().filter(|_| everything) {
            println!("{:<4}{}", clause.name, clause.text);
            for (_, note) in LATER.iter().filter(|(name, _)| *name == clause.name) {
                println!("        ({note})");
            }
            for citation in self.tests_of(clause) {
                println!("        {}  {}", citation.test, citation.place);
            }
            if self.tests_of(clause).is_empty() {
                println!("        -- no test --");
            }
        }
        let citations: usize = self.tests.values().map(Vec::len).sum();
        println!(
            "\n{} clauses, {} with a test, {citations} citations",
            self.clauses.len(),
            self.clauses.len() - self.without_test().count()
        );
        let missing: Vec<&str> = self.without_test().map(|clause| clause.name.as_str()).collect();
        if !missing.is_empty() {
            println!("without a test: {}", missing.join(", "));
        }
    }

    fn print_markdown(&self) {
        println!("| clause | | tests |\n| --- | --- | --- |");
        for clause in &self.clauses {
            let tests: Vec<String> =
                self.tests_of(clause).iter().map(|citation| format!("`{}`", citation.test)).collect();
            let tests = if tests.is_empty() { "none".to_owned() } else { tests.join(", ") };
            let note: String = LATER
                .iter()
                .filter(|(name, _)| *name == clause.name)
                .map(|(_, note)| format!(" ({note})"))
                .collect();
            println!("| {} | {} | {tests}{note} |", clause.name, clause.text.replace('|', "\\|"));
        }
    }

    fn result(&self, all: bool) -> Outcome {
        let required = |clause: &&Clause| all || clause.name.starts_with(REQUIRED);
        let mut errors = self.mistakes.clone();
        let missing: Vec<&str> =
            self.without_test().filter(required).map(|clause| clause.name.as_str()).collect();
        if !missing.is_empty() {
            errors.push(format!("no test cites {}", missing.join(", ")));
        }
        if errors.is_empty() { Ok(()) } else { Err(errors.join("\n").into()) }
    }
}

/// The clauses of the contract: lines such as `- C1 The child gets ...`.
fn clauses(contract: &str) -> Vec<Clause> {
    let clause = |line: &str| {
        let (name, text) = line.strip_prefix("- ")?.split_once(' ')?;
        is_name(name).then(|| Clause { name: name.to_owned(), text: text.to_owned() })
    };
    contract.lines().filter_map(clause).collect()
}

/// Whether the text is one capital letter and a number.
fn is_name(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|first| first.is_ascii_uppercase())
        && text.len() > 1
        && chars.all(|other| other.is_ascii_digit())
}

/// The citations in a file, and the misplaced ones that belong to no test.
fn citations(file: &File) -> (Vec<Citation>, Vec<String>) {
    let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
    let (mut found, mut wrong) = (Vec::new(), Vec::new());
    for (index, line) in lines.iter().enumerate() {
        let (list, inside) = if let Some(list) =
            line.strip_prefix("///").and_then(|rest| rest.trim_start().strip_prefix(MARK))
        {
            (list, false)
        } else if let Some(list) =
            line.strip_prefix("//").and_then(|rest| rest.trim_start().strip_prefix(MARK))
        {
            (list, true)
        } else {
            continue;
        };
        let place = format!("{}:{}", file.path, index + 1);
        let test = if inside { test_around(&lines, index) } else { test_below(&lines, index) };
        let Some(test) = test else {
            wrong.push(format!(
                "{place}: a citation stands as the first line in a test's body, or as `///` above the test"
            ));
            continue;
        };
        for clause in list.trim_end_matches('.').split(',').map(str::trim) {
            found.push(Citation { clause: clause.to_owned(), test: test.clone(), place: place.clone() });
        }
    }
    (found, wrong)
}

/// The test whose body begins right above line `index`.
fn test_around(lines: &[&str], index: usize) -> Option<String> {
    // A signature may span several lines (proptest!), but the line above the citation ends with its brace.
    if !lines[..index].last()?.ends_with('{') {
        return None;
    }
    let at =
        (0..index).rev().take_while(|at| !lines[*at].is_empty()).find(|at| fn_name(lines[*at]).is_some())?;
    let attributes = lines[..at]
        .iter()
        .rev()
        .take_while(|line| line.starts_with("#[") || line.starts_with("//") || line.ends_with(']'));
    let is_test = attributes.into_iter().any(|line| is_test_attribute(line));
    if is_test { fn_name(lines[at]) } else { None }
}

/// The test below the comment at line `index`, with only comments and attributes in between.
fn test_below(lines: &[&str], index: usize) -> Option<String> {
    let mut is_test = lines[..index]
        .iter()
        .rev()
        .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
        .any(|line| is_test_attribute(line));
    for line in &lines[index + 1..] {
        if let Some(name) = fn_name(line) {
            return is_test.then_some(name);
        }
        if !(line.starts_with("#[") || line.starts_with("//")) {
            return None;
        }
        is_test |= is_test_attribute(line);
    }
    None
}

/// `#[test]`, or the attribute of another test macro: `#[tokio::test]`, `#[rstest]`.
fn is_test_attribute(line: &str) -> bool {
    line.strip_prefix("#[")
        .and_then(|rest| rest.split([']', '(']).next())
        .is_some_and(|name| name.ends_with("test"))
}

fn fn_name(line: &str) -> Option<String> {
    let (before, after) = line.split_once("fn ")?;
    let is_signature =
        before.split_whitespace().all(|word| matches!(word, "async" | "const") || word.starts_with("pub"));
    let name: String = after.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect();
    (is_signature && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTRACT_TEXT: &str = "# The contract\n\n## C. The child\n- C1 The child gets\n  all of it\n- C2 Masks\n- not a clause\n## F.\n- F10 Any call\n";

    fn report(tests: &str) -> Report {
        let file = |path: &str, text: &str| File { path: path.to_owned(), text: text.to_owned() };
        Report::new(&[file("docs/contract.md", CONTRACT_TEXT), file("psflip/tests/e2e/child.rs", tests)])
            .unwrap()
    }

    /// A test function that has `citation` as its body.
    fn test(name: &str, citation: &str) -> String {
        format!("#[test]\nfn {name}() {{\n    {citation}\n    assert!(true);\n}}\n")
    }

    #[test]
    fn clauses_are_the_list_items_that_begin_with_a_name() {
        let names: Vec<String> = clauses(CONTRACT_TEXT).into_iter().map(|clause| clause.name).collect();
        assert_eq!(names, ["C1", "C2", "F10"]);
    }

    #[test]
    fn a_cited_clause_has_its_test_by_name_and_place() {
        let report = report(&test("child_gets_all", &["// Con", "tract: C1, C2"].concat()));
        assert_eq!(report.tests["C2"][0].test, "child_gets_all");
        assert_eq!(report.tests["C2"][0].place, "psflip/tests/e2e/child.rs:3");
        report.result(false).unwrap();
    }

    #[test]
    fn a_clause_without_a_test_fails_but_those_of_f_only_on_request() {
        let text = test("child_gets_all", &["// Con", "tract: C1"].concat());
        assert_eq!(report(&text).result(false).unwrap_err().to_string(), "no test cites C2");
        assert_eq!(report(&text).result(true).unwrap_err().to_string(), "no test cites C2, F10");
    }

    #[test]
    fn an_unknown_clause_fails() {
        let report = report(&test("child_gets_all", &["// Con", "tract: C1, C2, C99"].concat()));
        assert!(report.result(false).unwrap_err().to_string().contains("cites `C99`, which is no clause"));
    }

    #[test]
    fn a_citation_outside_of_a_test_fails() {
        let mark = ["// Con", "tract: C1, C2"].concat();
        let helper = format!("fn helper() {{\n    {mark}\n}}\n");
        let late = format!("#[test]\nfn late() {{\n    let a = 1;\n    {mark}\n}}\n");
        for text in [helper, late, format!("{mark}\n")] {
            assert!(
                report(&text).result(false).unwrap_err().to_string().contains("first line in a test's body"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_doc_line_above_the_test_counts() {
        let mark = ["/// Con", "tract: C1"].concat();
        for text in
            [format!("{mark}\n#[test]\nfn one() {{\n}}\n"), format!("#[test]\n{mark}\nfn one() {{\n}}\n")]
        {
            assert_eq!(report(&text).tests["C1"][0].test, "one", "{text}");
        }
    }

    #[test]
    fn a_property_with_a_long_signature_is_a_test() {
        let mark = ["// Con", "tract: C1"].concat();
        let text = format!(
            "proptest! {{\n    #[test]\n    fn any(\n{}    ) {{\n        {mark}\n    }}\n}}\n",
            "        text in a,\n".repeat(12)
        );
        assert_eq!(report(&text).tests["C1"][0].test, "any");
    }
}
