//! `cargo xtask lint`: the house rules that neither the compiler nor clippy knows.

mod failures;
mod levels;
mod paths;
mod rules;
mod source;
mod words;

use crate::args::Args;
use crate::repo::{self, File};
use crate::{Error, Outcome};

use source::Source;

pub(crate) const USAGE: &str = "\
cargo xtask lint

Checks every file of the repository against the house rules, and prints each line that breaks one:
`file:line: rule: what is wrong, and what to do instead`.";

/// One line that breaks a rule; line 0 stands for the file as a whole.
#[derive(Debug)]
struct Finding {
    path: String,
    line: usize,
    text: String,
}

/// A rule: its name, and the function that finds the lines that break it.
struct Rule {
    name: &'static str,
    find: fn(&Tree) -> Vec<Finding>,
}

const RULES: &[Rule] = &[
    Rule { name: "sleep", find: rules::sleeps },
    Rule { name: "kill-by-name", find: rules::kill_by_name },
    Rule { name: "ignored-test", find: rules::ignored_test },
    Rule { name: "fixed-path", find: rules::fixed_path },
    Rule { name: "fixed-port", find: rules::fixed_port },
    Rule { name: "long-file", find: rules::long_file },
    Rule { name: "no-header", find: rules::no_header },
    Rule { name: "unsafe", find: rules::unsafe_code },
    Rule { name: "impure-decision", find: rules::impure_decision },
    Rule { name: "stale-path", find: paths::stale_path },
    Rule { name: "untrue-failure", find: failures::untrue_failure },
    Rule { name: "untrue-level", find: levels::untrue_level },
    Rule { name: "old-word", find: words::old_word },
    Rule { name: "wide-comment", find: words::wide_comment },
    Rule { name: "wide-prose", find: words::wide_prose },
    Rule { name: "own-version", find: rules::own_version },
    Rule { name: "unused-fixture", find: rules::unused_fixture },
];

/// All files of the repository.
struct Tree {
    files: Vec<File>,
    sources: Vec<Source>,
}

impl Tree {
    fn new(files: Vec<File>) -> Self {
        let sources = files.iter().filter(|file| file.path.ends_with(".rs")).map(Source::new).collect();
        Self { files, sources }
    }

    /// The Rust files whose path passes `choose`.
    fn sources(&self, choose: impl Fn(&str) -> bool) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(move |source| choose(&source.path))
    }

    /// Whether the path is a file or a folder of the repository.
    fn exists(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        self.files.iter().any(|file| {
            file.path.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    }
}

pub(crate) fn run(args: Args) -> Outcome {
    args.done()?;
    check()
}

/// Checks every rule and prints the findings.
pub(crate) fn check() -> Outcome {
    let tree = Tree::new(repo::files()?);
    let mut count = 0;
    for rule in RULES {
        for Finding { path, line, text } in (rule.find)(&tree) {
            count += 1;
            let place = if line == 0 { path } else { format!("{path}:{line}") };
            println!("{place}: {}: {text}", rule.name);
        }
    }
    if count == 0 {
        println!("{} rules hold in {} files", RULES.len(), tree.files.len());
        return Ok(());
    }
    Err(Error::from(format!("{count} findings")))
}
