//! `cargo xtask docs`: brings what is made of the command line and of the table of keys up to date.

use crate::args::Args;
use crate::{Outcome, repo, step};

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
    let mut cargo = repo::cargo();
    cargo.args(["run", "--quiet", "--package", "docgen", "--"]).arg(repo::root().join("dist"));
    step::run(if check { cargo.arg("--check") } else { &mut cargo })
}
