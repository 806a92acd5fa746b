//! `cargo xtask outside`: tests an app in a workspace of its own, which has testkit as a dependency and finds
//! psflip and its helpers in PATH, as another team's would.

use std::env;

use crate::args::Args;
use crate::{Outcome, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask outside

Builds psflip, the fixtures and testkit's programs, then tests examples/testkit/axum-app with them in PATH. It is not in this
workspace, and its target directory is target/outside.";

/// The app's manifest.
const MANIFEST: &str = "examples/testkit/axum-app/Cargo.toml";

pub(crate) fn run(args: Args) -> Outcome {
    args.done()?;
    // Without xtask: its file is the running program.
    step::run(repo::cargo().args(["build", "--workspace", "--exclude", "xtask", "--bins"]))?;
    test()
}

/// Tests the app, with the programs that are built already.
pub(crate) fn test() -> Outcome {
    let target = repo::target_dir()?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([target.join("debug")].into_iter().chain(env::split_paths(&path)))?;
    let mut tests = repo::cargo();
    tests.args(["test", "--locked", "--manifest-path", MANIFEST]).env("PATH", path);
    // The build's own variables would name this workspace's target directory, or the program under test.
    for variable in ["PSFLIP_UNDER_TEST", "TESTKIT_LAUNCH", "TESTKIT_FIXTURES"] {
        tests.env_remove(variable);
    }
    step::run(tests.env("CARGO_TARGET_DIR", target.join("outside")).env("CARGO_INCREMENTAL", "0"))
}
