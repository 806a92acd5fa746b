//! `cargo xtask fuzz`: builds the fuzz driver (`tools/fuzz`) with optimization and all checks, and
//! runs it.

use crate::args::Args;
use crate::{Outcome, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask fuzz [TARGET] [--seconds N] [--seed S]
cargo xtask fuzz TARGET --input FILE

Runs every parser of psflip with mutated input: config, template, value, migrate, message, control, link, pidfile, http,
fcgi, docker, notify. Without TARGET it runs all of them, one after the other.

An input that breaks a promise of the contract is kept in `fuzz` in the target folder. After the fix, copy it to
tools/fuzz/corpus/TARGET: the tests run everything in that folder.

  --seconds N   time for each target (default 10)
  --seed S      the same seed gives the same inputs (default: from the clock; it is printed)
  --input FILE  run only this input";

/// Builds the driver and runs it.
pub(crate) fn run(mut args: Args) -> Outcome {
    let seconds: Option<u64> = args.value("seconds")?;
    let seed: Option<u64> = args.value("seed")?;
    let input: Option<String> = args.value("input")?;
    let target = args.word();
    args.done()?;
    let mut driver = repo::cargo();
    driver.args(["run", "--quiet", "--profile", "fuzz", "-p", "psflip-fuzz", "--"]).args(target);
    driver.arg("--keep").arg(repo::target_dir()?.join("fuzz/found"));
    for (option, value) in [("--seconds", seconds), ("--seed", seed)] {
        if let Some(value) = value {
            driver.args([option, &value.to_string()]);
        }
    }
    if let Some(input) = input {
        // Relative to the user's directory, not to the repository's root.
        driver.arg("--input").arg(std::path::absolute(input)?);
    }
    step::run(&mut driver)
}
