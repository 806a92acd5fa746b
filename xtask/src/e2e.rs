//! `cargo xtask e2e`: runs the suites that start real processes, repeatedly or on a busy host if wanted.

use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::args::Args;
use crate::guard::Guard;
use crate::runner::{self, Scope};
use crate::{Error, Outcome, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask e2e [--systemd] [--repeat N] [--jobs J] [--load] [--shaken] [FILTER]

Builds psflip and the fixtures, then runs the end-to-end tests (the `tests` folders) whose names contain FILTER.
A process that a test leaves behind is killed and fails the run.

  --systemd   only those that boot a real systemd (root, Debian's package systemd; a newer one by `cargo xtask systemd`);
              they fail on a host that can't boot one
  --repeat N  run the suite N times, stop at the first failure
  --jobs J    run J tests at once (default: one per core)
  --load      keep every core busy meanwhile
  --shaken    use a psflip that waits for up to 30 ms at random places, as it might on a busy host: finds races. Leaves
              out the tests that count its system calls or need a fast psflip";

/// Builds, then runs the suite until a run fails or all have passed.
pub(crate) fn run(mut args: Args) -> Outcome {
    let repeat: u32 = args.value("repeat")?.unwrap_or(1);
    let jobs = args.value("jobs")?;
    let busy = args.flag("load");
    let scope = match (args.flag("systemd"), args.flag("shaken")) {
        (false, false) => Scope::EndToEnd,
        (true, false) => Scope::Systemd,
        (false, true) => Scope::Shaken,
        (true, true) => return Err("--systemd and --shaken can't be combined".into()),
    };
    let filter = args.word();
    args.done()?;

    let nextest = runner::has_nextest();
    // Without xtask: its file is the running program.
    step::run(repo::cargo().args(["build", "--workspace", "--exclude", "xtask", "--bins"]))?;
    let profile = if repeat > 1 { "repeat" } else { "default" };
    let mut tests = runner::tests(nextest, scope, profile, jobs, filter.as_deref());
    if scope == Scope::Shaken {
        if !nextest {
            return Err(
                "--shaken leaves out some tests, which only cargo-nextest can do; install it first".into()
            );
        }
        tests.env("PSFLIP_UNDER_TEST", shaken_psflip()?);
    }

    // Create the guard first: the load's threads inherit its signal mask.
    let guard = Guard::new()?;
    let load = busy.then(Load::start);
    let start = Instant::now();
    for round in 1..=repeat {
        let round_start = Instant::now();
        println!(
            "\n==> run {round} of {repeat}{}: {}",
            if busy { ", every core busy" } else { "" },
            step::shown(&tests)
        );
        guard.run(&tests).map_err(|error| {
            format!("run {round} of {repeat} failed after {}: {error}", step::seconds(start.elapsed()))
        })?;
        println!("    run {round} of {repeat}: passed, {}", step::seconds(round_start.elapsed()));
    }
    drop(load);
    println!("\n{repeat} of {repeat} runs passed in {}", step::seconds(start.elapsed()));
    Ok(())
}

/// Provides `psflip-shaken` under the name by which tests recognize psflip's processes.
fn shaken_psflip() -> Result<PathBuf, Error> {
    let debug = repo::target_dir()?.join("debug");
    let psflip = debug.join("shaken/psflip");
    let copied = fs::create_dir_all(debug.join("shaken"))
        .and_then(|()| fs::copy(debug.join("psflip-shaken"), &psflip));
    copied.map_err(|error| format!("can't copy `psflip-shaken` to `{}`: {error}", psflip.display()))?;
    Ok(psflip)
}

/// One busy thread per core, until it is dropped.
struct Load {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    fn start() -> Self {
        let cores = thread::available_parallelism().map_or(2, usize::from);
        let over = Arc::new(AtomicBool::new(false));
        let spin = |_| {
            let over = Arc::clone(&over);
            thread::spawn(move || {
                let mut number = 1_u64;
                while !over.load(Ordering::Relaxed) {
                    number = black_box(number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
                }
            })
        };
        let threads = (0..cores).map(spin).collect();
        Self { over, threads }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
