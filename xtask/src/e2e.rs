//! `cargo xtask e2e`: the suites that start real processes, as often as wanted, on a machine as busy as wanted.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use crate::args::Args;
use crate::guard::Guard;
use crate::runner::{self, Scope};
use crate::{Outcome, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask e2e [--systemd] [--repeat N] [--jobs J] [--load] [FILTER]

Builds psflip and the fixtures, then runs the end-to-end tests (the `tests` folders) whose names contain FILTER.
A process that a test leaves behind is ended and fails the run.

  --systemd   only those that boot a real systemd (root, Debian's package systemd; a newer one by `cargo xtask systemd`); they fail where that
              can't be done
  --repeat N  run the suite N times, stop at the first failure
  --jobs J    so many tests at once (default: one per core)
  --load      keep every core busy meanwhile";

/// Builds, then runs the suite until one run fails or all have passed.
pub(crate) fn run(mut args: Args) -> Outcome {
    let repeat: u32 = args.value("repeat")?.unwrap_or(1);
    let jobs = args.value("jobs")?;
    let busy = args.flag("load");
    let scope = if args.flag("systemd") { Scope::Systemd } else { Scope::EndToEnd };
    let filter = args.word();
    args.done()?;

    let nextest = runner::has_nextest();
    // Not xtask: its file is the running program.
    step::run(repo::cargo().args(["build", "--workspace", "--exclude", "xtask", "--bins"]))?;
    let profile = if repeat > 1 { "repeat" } else { "default" };
    let tests = runner::tests(nextest, scope, profile, jobs, filter.as_deref());

    // The guard before the load: its threads take over the signal mask.
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

/// One thread per core that computes and never waits, until it is dropped.
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
