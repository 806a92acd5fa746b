//! `cargo xtask bench`: measures what psflip costs, and compares it with similar programs in the same run.
//!
//! The host is noisy. So everything that is compared is measured in turns (A B C A B C ...), and medians and
//! ratios count.

mod flip;
mod idle;
mod overhead;
mod proxy;
mod stats;
mod supervised;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;

use crate::args::Args;
use crate::{Error, Outcome, binaries, guard, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask bench [--proxy] [--runs N] [--quick] [--against PROGRAM] [--json FILE]

Builds psflip in release mode, linked dynamically and statically. Measures both with an anchor, which is the default, and
the static one also without an anchor:
  overhead  `true` alone, under psflip, and under tini, dumb-init and catatonit if they are installed
  flip      from SIGHUP until the pidfile names the new generation, compared with two runs of /bin/true
  idle      memory, threads, descriptors and wake-ups, before an upgrade and after 20

With --proxy, measures `psflip run --proxy` instead, in turns with haproxy and nginx, and without a proxy: requests, new
connections, processor time, latency, 1 GiB, and what an idle connection costs.

  --runs N           rounds of the overhead (default 300), and two thirds as many upgrades; of the proxies, default 3
  --quick            30 rounds, 20 upgrades, 3 s idle instead of 20 s
  --against PROGRAM  also measure this psflip, built before a change, in the same run
  --json FILE        also write the figures to FILE";

/// A psflip to be measured.
pub(crate) struct Build {
    name: &'static str,
    program: PathBuf,
    /// Its arguments before `-c FILE`.
    arguments: &'static [&'static str],
}

/// The number of measurements.
struct Plan {
    rounds: u32,
    flips: u32,
    idle: std::time::Duration,
}

/// Builds psflip in both ways, measures everything, prints the tables and writes the figures.
pub(crate) fn run(mut args: Args) -> Outcome {
    let (quick, of_proxies) = (args.flag("quick"), args.flag("proxy"));
    let rounds = args.value("runs")?;
    let rounds: u32 = rounds.unwrap_or(match (of_proxies, quick) {
        (true, true) => 1,
        (true, false) => 3,
        (false, true) => 30,
        (false, false) => 300,
    });
    let file: Option<PathBuf> = args.value("json")?;
    let against: Option<PathBuf> = args.value("against")?;
    args.done()?;
    if rounds == 0 {
        return Err("`--runs 0` measures nothing; at least 1".into());
    }
    let Some(directory) = guard::scratch() else {
        // The guard stops the psflips that this task starts, however the task exits.
        return guard::run_again_guarded();
    };
    if of_proxies {
        let figures = proxy::measure(rounds, if quick { 2 } else { 8 }, against, &directory)?;
        return write_figures(file.as_deref(), &figures);
    }
    let seconds = if quick { 3 } else { 20 };
    let plan = Plan { rounds, flips: (rounds * 2 / 3).max(1), idle: std::time::Duration::from_secs(seconds) };
    let (dynamic, program) = (build_dynamic()?, build_static()?);
    let without = Build {
        name: "psflip (static, --no-anchor)",
        program: program.program.clone(),
        arguments: &["--no-anchor"],
    };
    let mut builds = vec![dynamic, program, without];
    builds.extend(against.map(|program| Build { name: "psflip (before)", program, arguments: &[] }));
    let start = Instant::now();

    println!("\n==> overhead of a wrapper around `true`, {} rounds", plan.rounds);
    let overhead = overhead::measure(&builds, plan.rounds, &directory)?;
    println!("\n==> a flip, {} times", plan.flips);
    let flip = flip::measure(&builds, plan.flips, &directory)?;
    println!("\n==> idle, twice {seconds} s");
    let idle = idle::measure(&builds, plan.idle, &directory)?;

    println!("\nmeasured in {}", step::seconds(start.elapsed()));
    let figures = json!({ "rounds": plan.rounds, "overhead_ms": overhead, "flips": plan.flips, "flip_ms": flip, "idle": idle });
    write_figures(file.as_deref(), &figures)
}

fn write_figures(file: Option<&Path>, figures: &serde_json::Value) -> Outcome {
    let Some(file) = file else { return Ok(()) };
    fs::write(file, format!("{figures:#}\n"))
        .map_err(|error| format!("can't write `{}`: {error}", file.display()))?;
    println!("figures: {}", file.display());
    Ok(())
}

fn build_dynamic() -> Result<Build, Error> {
    println!("==> build psflip (release, dynamic)");
    step::run(repo::cargo().args(["build", "--release", "--package", "psflip", "--bin", "psflip"]))?;
    Ok(Build { name: "psflip", program: repo::target_dir()?.join("release/psflip"), arguments: &[] })
}

fn build_static() -> Result<Build, Error> {
    Ok(Build { name: "psflip (static)", program: binaries::build_static()?, arguments: &[] })
}

/// Writes a configuration that starts `cmd` and counts it as healthy at once; returns its path.
fn write_config(
    directory: &Path,
    name: &str,
    cmd: &[&str],
    pidfile: Option<&Path>,
) -> Result<PathBuf, Error> {
    let pidfile = pidfile.map(|path| format!("pidfile = {}\n", json!(path))).unwrap_or_default();
    let text = format!("cmd = {}\n{pidfile}[healthcheck.alive]\ntimeout = \"0s\"\n", json!(cmd));
    let path = directory.join(name);
    fs::write(&path, text).map_err(|error| format!("can't write `{}`: {error}", path.display()))?;
    Ok(path)
}
