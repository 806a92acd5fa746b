//! `cargo xtask docs`: brings what is made of the command line and of the table of keys up to date.

use std::process::Command;

use crate::args::Args;
use crate::{Outcome, demo, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask docs [--check]

Makes man pages, shell completions and the JSON Schema of configurations in `dist/`, of psflip's command line (psflip/src/cli) and its table of
keys (psflip/src/config/keys.rs). Commit what it changes.

  --check  only compares, and fails when something is not up to date";

pub(crate) fn run(mut args: Args) -> Outcome {
    let check = args.flag("check");
    args.done()?;
    make(check)
}

/// Writes or compares them.
pub(crate) fn make(check: bool) -> Outcome {
    // Of the whole workspace, so that it is made of what all other tasks build: `--package` would choose other features of what it depends on.
    step::run(repo::cargo().args(["build", "--quiet", "--workspace", "--bin", "docgen"]))?;
    let mut docgen = Command::new(repo::target_dir()?.join("debug/docgen"));
    docgen.arg(repo::root().join("dist"));
    step::run(if check { docgen.arg("--check") } else { &mut docgen })?;
    demo::check_recorded()
}
