//! `cargo xtask ci`: exactly what CI runs. The checks come first, cheap ones before dear ones; the tests come last, so that the last thing to read is
//! the test runner's own summary.

use std::process::Command;

use testkit::systemd::Release;

use crate::args::Args;
use crate::guard::Guard;
use crate::runner::{self, Scope};
use crate::step::{self, Steps};
use crate::{Outcome, contract, dist, docs, lint, packages, repo, systemd};

pub(crate) const USAGE: &str = "\
cargo xtask ci [--fast]

As root it first installs the Debian packages that the tests use; as another user it prints which are missing. Then
formatting, house rules, contract, clippy, build, documentation, the Debian package, a minute of chaos, then all tests.
When a check fails the others still run, but not the tests.

  --fast  only formatting, house rules, clippy and the unit tests; installs nothing";

/// Runs the checks, prints how long each took, and runs the tests.
pub(crate) fn run(mut args: Args) -> Outcome {
    let fast = args.flag("fast");
    args.done()?;
    let mut steps = Steps::default();
    let mut has_newer_systemd = false;
    if !fast {
        steps.step("packages", packages::install);
        if nix::unistd::geteuid().is_root() {
            // Without it the tests under it are skipped, and say so.
            has_newer_systemd = systemd::fetch().inspect_err(|error| println!("    {error}")).is_ok();
        }
    }
    steps.step("fmt", || step::run(&mut cargo("fmt --all --check")));
    steps.step("lint", lint::check);
    if !fast {
        steps.step("contract", || contract::check(false));
        if repo::is_installed("cargo-deny") {
            // Not `advisories`: they are fetched from outside, and would fail builds that did not change.
            steps.step("deny", || step::run(&mut cargo("deny check licenses bans sources")));
        } else {
            steps.skip("deny", "cargo-deny is not installed");
        }
    }
    steps.step("clippy", || step::run(&mut cargo("clippy --workspace --all-targets --quiet -- -D warnings")));
    if !fast {
        steps.step("build", || step::run(&mut cargo("build --workspace --all-targets --quiet")));
        steps.step("docs", || docs::make(true));
        steps.step("doc", || {
            step::run(
                cargo("doc --workspace --no-deps --document-private-items --quiet")
                    .env("RUSTDOCFLAGS", "-Dwarnings"),
            )
        });
        steps.step("doctests", || step::run(&mut cargo("test --workspace --doc --quiet")));
        match dist::missing() {
            None => steps.step("dist", || dist::make(None, true)),
            Some(program) => steps.skip("dist", &format!("{program} is not installed")),
        }
        // The tests themselves say it, too, but nobody sees the output of a test that passes.
        for (tests, release) in
            [("tests under systemd", Release::Installed), ("tests under a newer systemd", Release::Newer)]
        {
            if let Some(why) = testkit::systemd::why_not(release) {
                steps.skip(tests, &why);
            }
        }
        // Fixed seeds: what a new one finds is seldom the fault of the change that is checked. `cargo xtask chaos` takes new ones.
        steps.step("chaos, one seed", || chaos("1"));
        steps.step("chaos, another seed", || chaos("7000"));
    }
    steps.print();
    steps.result().map_err(|error| format!("{error}; the tests were not run"))?;

    let scope = if fast { Scope::Unit } else { Scope::All };
    println!("\n==> tests");
    // The guard fails the run when a test leaves a process behind. It says nothing when the runner failed: that has said why.
    let mut tests = runner::tests(runner::has_nextest(), scope, "ci", None, None);
    if let Some(required) = packages::required(has_newer_systemd) {
        tests.env("TESTKIT_REQUIRE", required);
    }
    Guard::new()?.run(&tests)
}

/// Half a minute of `cargo xtask chaos`, with what was built before.
fn chaos(seed: &str) -> Outcome {
    step::run(Command::new("/proc/self/exe").args([
        "chaos",
        "--minutes",
        "0.5",
        "--no-build",
        "--seed",
        seed,
    ]))
}

fn cargo(line: &str) -> Command {
    let mut command = repo::cargo();
    command.args(line.split_whitespace());
    command
}
