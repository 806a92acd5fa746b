//! `cargo xtask ci`: exactly what CI runs. Cheap checks come first, expensive ones later. The tests come
//! last, so that the output ends with the test runner's summary.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::Command;

use testkit::systemd::Release;

use crate::args::Args;
use crate::guard::Guard;
use crate::runner::{self, Scope};
use crate::step::{self, Steps};
use crate::{
    Error, Outcome, ansible, book, contract, crates, dist, docs, kubernetes, lint, outside, packages, repo,
    systemd,
};

pub(crate) const USAGE: &str = "\
cargo xtask ci [--fast]

As root it first installs the Debian packages that the tests use, and traefik and a newer gunicorn from PyPI into target/programs; as another
user it prints which packages are missing. Then formatting, house rules, contract, clippy, build, documentation, the Kubernetes manifest, ansible-lint, the Debian
package, a minute of chaos, then all tests.
When a check fails the others still run, but not the tests.

  --fast  a verdict in about a minute: formatting, house rules, clippy without the tests' code, the unit tests without the model checker, and one
          end-to-end test a room, built without optimization in a target directory of their own; installs nothing";

/// Runs the checks, prints how long each took, and runs the tests.
pub(crate) fn run(mut args: Args) -> Outcome {
    let fast = args.flag("fast");
    args.done()?;
    let mut steps = Steps::default();
    // Without them the tests that need them are skipped, and report that.
    let mut missing = vec!["newer-systemd", "traefik", "gunicorn-27"];
    if !fast {
        steps.step("packages", packages::install);
        if nix::unistd::geteuid().is_root() {
            for (name, fetched) in [
                ("newer-systemd", systemd::fetch()),
                ("traefik", packages::install_traefik()),
                ("gunicorn-27", packages::install_newer(&packages::GUNICORN)),
            ] {
                match fetched {
                    Ok(()) => missing.retain(|one| *one != name),
                    Err(error) => println!("    {error}"),
                }
            }
        }
    }
    steps.step("fmt", || step::run(&mut cargo("fmt --all --check")));
    steps.step("lint", lint::check);
    if !fast {
        steps.step("contract", || contract::check(false));
        if repo::is_installed("cargo-deny") {
            // Without `advisories`: they come from the network, and would fail builds that did not change.
            steps.step("deny", || step::run(&mut cargo("deny check licenses bans sources")));
        } else {
            steps.skip("deny", "cargo-deny is not installed");
        }
    }
    // The tests are most of the code, and belong to the package that every change touches.
    let targets = if fast { "--lib --bins" } else { "--all-targets" };
    steps.step("clippy", || {
        step::run(&mut cargo(&format!("clippy --workspace {targets} --quiet -- -D warnings")))
    });
    if !fast {
        steps.step("build", || step::run(&mut cargo("build --workspace --all-targets --quiet")));
        steps.step("docs", || docs::make(true));
        steps.step("doc", || {
            step::run(
                cargo("doc --workspace --no-deps --document-private-items --quiet")
                    .env("RUSTDOCFLAGS", "-Dwarnings"),
            )
        });
        steps.step("book", || book::make(&repo::target_dir()?.join("book")).map(drop));
        steps.step("kubernetes", kubernetes::check);
        steps.step("doctests", || step::run(&mut cargo("test --workspace --doc --quiet")));
        steps.step("crates", crates::check);
        steps.step("ansible-lint", ansible::lint);
        steps.step("outside", outside::test);
        match dist::missing() {
            None => steps.step("dist", || dist::make(&dist::Plan { check: true, ..dist::Plan::default() })),
            Some(program) => steps.skip("dist", &format!("{program} is not installed")),
        }
        // The tests report it as well, but the output of a passing test is not shown.
        for (tests, release) in
            [("tests under systemd", Release::Installed), ("tests under a newer systemd", Release::Newer)]
        {
            if let Some(why) = testkit::systemd::why_not(release) {
                steps.skip(tests, &why);
            }
        }
        // Fixed seeds: a finding of a new seed is seldom caused by the change under test. `cargo xtask chaos`
        // uses new ones.
        steps.step("chaos, one seed", || chaos("1"));
        steps.step("chaos, another seed", || chaos("7000"));
    }
    let has_nextest = runner::has_nextest();
    if fast && has_nextest {
        steps.step("build", || {
            step::run(cargo("build --workspace --bins --quiet").args(["--profile", runner::FAST]))
        });
    }
    steps.print();
    steps.result().map_err(|error| format!("{error}; the tests were not run"))?;

    let scope = match (fast, has_nextest) {
        (false, _) => Scope::All,
        (true, true) => Scope::Fast,
        (true, false) => Scope::Unit,
    };
    println!("\n==> tests");
    // The guard fails the run when a test leaves a process behind. It says nothing when the runner failed: that has said why.
    let mut tests = runner::tests(has_nextest, scope, "ci", runner::ci_jobs(), None);
    if !fast && let Some(required) = packages::required(&missing) {
        tests.env(testkit::REQUIRE, required);
    }
    let skipped = Skipped::new()?;
    tests.env(testkit::SKIPPED, &skipped.file);
    let outcome = Guard::new()?.run(&tests);
    skipped.print();
    outcome
}

/// The tests that were skipped because this host lacks a requirement. The runner counts them as passed.
struct Skipped {
    file: PathBuf,
}

impl Skipped {
    fn new() -> Result<Self, Error> {
        let file = repo::target_dir()?.join("skipped-tests");
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(Self { file }),
        }
    }

    /// Prints how many tests were skipped, by what was missing; nothing if none was.
    fn print(&self) {
        let lines = fs::read_to_string(&self.file).unwrap_or_default(); // no file: no test was skipped
        if let Some(summary) = summary(&lines) {
            println!("{summary}");
        }
    }
}

fn summary(lines: &str) -> Option<String> {
    let mut tests: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (test, why) in lines.lines().filter_map(|line| line.split_once('\t')) {
        tests.entry(why).or_default().insert(test);
    }
    let count: usize = tests.values().map(BTreeSet::len).sum();
    let reasons: Vec<String> = tests.iter().map(|(why, tests)| format!("{why} ({})", tests.len())).collect();
    (count > 0).then(|| format!("{count} of these tests were skipped: {}", reasons.join(", ")))
}

/// Half a minute of `cargo xtask chaos`, with the programs that are built already.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skipped_tests_are_counted_by_missing_requirement() {
        let lines =
            "a\tnginx is not installed\nb\tnginx is not installed\nb\tnginx is not installed\nc\tnot root\n";
        let wanted = "3 of these tests were skipped: nginx is not installed (2), not root (1)";
        assert_eq!(summary(lines).as_deref(), Some(wanted));
        assert_eq!(summary(""), None);
    }
}
