//! `cargo xtask docs`: updates the files that are generated from the command line and from the table of keys.

use std::process::Command;

use crate::args::Args;
use crate::{Outcome, demo, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask docs [--check]

Generates man pages, shell completions and the JSON Schema of configurations in `dist/`, and the tables of keys in
docs/configuration.md, from psflip's command line (psflip/src/cli) and its table of keys (psflip/src/config/keys.rs).
Commit the changed files.

  --check  only compare, and fail if a file is out of date";

pub(crate) fn run(mut args: Args) -> Outcome {
    let check = args.flag("check");
    args.done()?;
    make(check)
}

/// Writes or compares the files.
pub(crate) fn make(check: bool) -> Outcome {
    // Build the whole workspace, as all other tasks do: `--package` would select other features of the
    // dependencies.
    step::run(repo::cargo().args(["build", "--quiet", "--workspace", "--bin", "docgen"]))?;
    let mut docgen = Command::new(repo::target_dir()?.join("debug/docgen"));
    docgen.arg(repo::root().join("dist"));
    step::run(if check { docgen.arg("--check") } else { &mut docgen })?;
    demo::check_recorded()
}
