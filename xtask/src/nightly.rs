//! `cargo xtask nightly`: what takes too long for every change, within a budget of time.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::step::{self, Steps};
use crate::{Outcome, dist, repo, runner};

pub(crate) const USAGE: &str = "\
cargo xtask nightly [--hours H] [--minutes M]

What takes too long for `cargo xtask ci`, one after the other: fuzzing of every target (a quarter of the time), chaos with
new seeds (a third of it), then the release with its checks, the release built twice for a comparison, the
release for aarch64 with an upgrade on an emulated host, the crates as they would be published, the sanity tests of the
Ansible collection, its roll-outs over five hosts, the load tests with 1,000 upgrades each, the end-to-end tests with a psflip
that waits at random places, and repeatedly the tests that trace or inject system calls.

A step that has begun is finished; those for which no time is left are skipped and listed. Fails if a step failed.

  --hours H    the time in hours, such as 0.5 or 8
  --minutes M  the time in minutes, added to the hours (default 120 minutes in all)";

/// The number of targets of `tools/fuzz`.
const FUZZ_TARGETS: u32 = 12;
/// How long one run of chaos takes at most; each has a seed of its own.
const CHAOS_RUN: Duration = Duration::from_secs(600);

/// Runs the steps, and prints a summary.
pub(crate) fn run(mut args: Args) -> Outcome {
    let hours: Option<f64> = args.value("hours")?;
    let minutes: Option<f64> = args.value("minutes")?;
    args.done()?;
    let minutes = match (hours, minutes) {
        (None, None) => 120.0,
        (hours, minutes) => hours.unwrap_or(0.0) * 60.0 + minutes.unwrap_or(0.0),
    };
    if !(1.0..=10_000.0).contains(&minutes) {
        return Err(format!("{minutes} minutes are out of range: 1 to 10000").into());
    }
    let mut night = Night {
        steps: Steps::default(),
        start: Instant::now(),
        budget: Duration::from_secs_f64(minutes * 60.0),
    };

    let each = (night.budget / 4 / FUZZ_TARGETS).as_secs().max(1);
    night.task("fuzz", &["fuzz", "--seconds", &each.to_string()], &[]);
    let chaos = night.budget / 3;
    let runs = chaos.as_secs().div_ceil(CHAOS_RUN.as_secs()).max(2);
    let each = (chaos.as_secs_f64() / 60.0 / runs as f64).to_string();
    for number in 1..=runs {
        night.task(&format!("chaos, seed {number} of {runs}"), &["chaos", "--minutes", &each], &[]);
    }
    match dist::missing() {
        None => {
            night.task("dist", &["dist", "--check"], &[]);
            night.task("dist, built twice", &["dist", "--twice"], &[]);
            night.task("dist for aarch64", &["dist", "--target", dist::AARCH64, "--check"], &[]);
        }
        Some(program) => night.steps.skip("dist", &format!("{program} is not installed")),
    }
    night.task("crates as published", &["crates", "--verify"], &[]);
    night.task("Ansible collection", &["ansible"], &[]);
    // The profile `ci` of .config/nextest.toml leaves it out.
    night.task("roll-out over a fleet", &["e2e", "rolled_out"], &[]);
    night.task("load, 1,000 upgrades each", &["e2e", "_200_upgrades"], &[("TRAFFIC_FLIPS", "1000")]);
    if runner::has_nextest() {
        night.task("end to end, shaken", &["e2e", "--shaken"], &[]);
    } else {
        night.steps.skip("end to end, shaken", "cargo-nextest is not installed");
    }
    for suite in ["cost::", "failures::injected::", "tree::kernel::"] {
        night.task(&format!("system calls, {suite}"), &["e2e", "--repeat", "5", suite], &[]);
    }

    night.steps.print();
    println!("\nnightly: {} of {}", step::seconds(night.start.elapsed()), step::seconds(night.budget));
    night.steps.result()
}

/// A run, and the time that it has.
struct Night {
    steps: Steps,
    start: Instant,
    budget: Duration,
}

impl Night {
    /// Runs a task of xtask as a process of its own, if there is time left.
    fn task(&mut self, name: &str, arguments: &[&str], environment: &[(&str, &str)]) {
        let spent = self.start.elapsed();
        if spent >= self.budget {
            self.steps.skip(name, "no time is left");
            return;
        }
        println!("\n{} of {}", step::seconds(spent), step::seconds(self.budget));
        // This path still works if a build has replaced the file meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments).envs(environment.iter().copied()).current_dir(repo::root());
        self.steps.step(name, || step::run(&mut command));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fuzz_target_has_its_share_of_the_time() {
        let corpus = std::fs::read_dir(repo::root().join("tools/fuzz/corpus")).unwrap();
        let targets = corpus.filter(|entry| entry.as_ref().unwrap().file_name() != "self-test").count();
        assert_eq!(targets, FUZZ_TARGETS as usize);
    }
}
