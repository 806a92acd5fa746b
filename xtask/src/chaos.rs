//! `cargo xtask chaos`: builds psflip, its fixtures and `tools/chaos`, and runs the latter under a guard.

use std::process::Command;

use crate::args::Args;
use crate::guard::Guard;
use crate::{Outcome, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask chaos [--minutes M] [--seed S] [--rounds N] [--list] [--no-build]

Runs a service under psflip, with clients that send requests without pause, and disturbs it at random moments: upgrades
that succeed and upgrades that fail in every way, invalid and half-written configurations, hooks that fail or hang,
replaced programs, signals, stopped and killed processes, too few descriptors, operators' commands that are killed. Half of
the rounds run below an anchor or `psflip watch`, which are killed and stopped as well. In some rounds new generations bake,
and are rolled back by a failing health check or `psflip rollback`, or kept by `psflip keep`; in others the children must not
overlap, or several old generations drain. Meanwhile other clients send valid and invalid requests to the control socket.

After every step it waits until nothing moves, and checks from outside what docs/contract.md promises: the pidfile names
one living psflip, a failed upgrade has not changed the old child (or has started it again), an upgrade has lost no request,
no two children ran at once where they must not, there is no leak, no zombie and no leftover process, exit codes are
right, every request has an answer, the history is consistent. Then an upgrade to a good version must succeed. The first violation stops the run, with a full report.

  --minutes M  how long, such as 0.5 or 30 (default 1)
  --seed S     a number; round N of a run has the seed S+N-1. The same seed gives the same steps, but their results depend
               on timing, too: repeat a few times (default: a random seed, which is printed)
  --rounds N   stop after so many rounds, whatever the time (a round: a start, 10 steps, a stop)
  --list       print the steps of the rounds (1, or the number in --rounds) and do nothing
  --no-build   use the programs beside xtask as they are

Ctrl-C stops the run, with a summary.";

/// Builds the programs and runs `chaos`.
pub(crate) fn run(mut args: Args) -> Outcome {
    let minutes: Option<f64> = args.value("minutes")?;
    let seed: Option<u64> = args.value("seed")?;
    let rounds: Option<u64> = args.value("rounds")?;
    let list = args.flag("list");
    let is_built = args.flag("no-build");
    args.done()?;
    let mut chaos = Command::new(repo::target_dir()?.join("debug/chaos"));
    let given = [
        ("--minutes", minutes.map(|minutes| minutes.to_string())),
        ("--seed", seed.map(|seed| seed.to_string())),
        ("--rounds", rounds.map(|rounds| rounds.to_string())),
    ];
    for (option, value) in given {
        chaos.args(value.map(|value| [option.to_owned(), value]).into_iter().flatten());
    }
    if list {
        build(&["--bin", "chaos"])?;
        return step::run(chaos.arg("--list"));
    }
    if !is_built {
        // What chaos starts, too. Without xtask: its file is the running program.
        build(&["--exclude", "xtask", "--bins"])?;
    }
    Guard::new()?.run(&chaos)
}

fn build(what: &[&str]) -> Outcome {
    step::run(repo::cargo().args(["build", "--quiet", "--workspace"]).args(what))
}
