//! The test runner: cargo-nextest if it is installed, otherwise plain `cargo test`.

use std::process::{Command, Stdio};

use crate::repo;

/// Which tests to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of them.
    All,
    /// Those inside the crates: no other process, no socket, no waiting.
    Unit,
    /// Those in the `tests` folders, which start real processes.
    EndToEnd,
    /// Those of `EndToEnd` that pass with a psflip that waits at random places; with cargo-nextest only.
    Shaken,
    /// Those of `EndToEnd` that boot a systemd. They fail if none can be booted.
    Systemd,
}

/// Excludes tests that measure the cost of a start or an upgrade, trace every call, or fill a queue faster
/// than a slow psflip reads it.
const NOT_SHAKEN: &str =
    "not (test(/^cost::/) | test(/^failures::injected::/) | test(a_predecessor_that_talks_without_end))";

/// Whether `cargo nextest` can be used.
pub(crate) fn has_nextest() -> bool {
    let mut command = repo::cargo();
    command.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// The command that runs these tests.
///
/// `profile` is one of .config/nextest.toml; `jobs` is how many run at once, by default one per core;
/// `filter` is a part of the tests' names.
pub(crate) fn tests(
    nextest: bool,
    scope: Scope,
    profile: &str,
    jobs: Option<u32>,
    filter: Option<&str>,
) -> Command {
    let mut command = repo::cargo();
    if nextest {
        command.args(["nextest", "run", "--profile", profile]);
    } else {
        // Otherwise the first failure would hide those of the other crates.
        command.args(["test", "--no-fail-fast"]);
    }
    command.arg("--workspace");
    match scope {
        // Without documentation tests, which only `cargo test --doc` runs: the same tests with both runners.
        // `--tests` respects `harness = false` in a manifest: psflip's binary has no main function of Rust's.
        Scope::All => command.args(["--tests"]),
        Scope::Unit => command.args(["--lib", "--bin", "xtask"]),
        Scope::EndToEnd => command.args(["--test", "*"]),
        Scope::Shaken => command.args(["--test", "*", "-E", NOT_SHAKEN]),
        Scope::Systemd => {
            command.args(["--test", "systemd*"]).env("TESTKIT_REQUIRE", "systemd,newer-systemd")
        }
    };
    match (nextest, jobs) {
        (_, None) => {}
        (true, Some(jobs)) => {
            command.arg(format!("--test-threads={jobs}"));
        }
        (false, Some(jobs)) => {
            command.env("RUST_TEST_THREADS", jobs.to_string());
        }
    }
    if let Some(filter) = filter {
        command.args(["--", filter]);
    }
    command
}
