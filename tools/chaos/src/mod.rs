//! `cargo xtask chaos`: a service under load goes through random upgrades, crashes and kills. After every
//! step, it is checked from outside that psflip has kept its contract.
//!
//! plan.rs, above.rs and next.rs choose the actions, from the seed alone. acts.rs performs them, rest.rs
//! waits until nothing moves, and checks.rs checks the invariants. load.rs has the clients of the service,
//! operators.rs the clients of the control socket, and clients.rs the operators' commands.

mod above;
mod acts;
mod checks;
mod clients;
mod load;
mod log;
mod next;
mod operators;
mod pause;
mod plan;
mod port;
mod rest;
mod round;
mod standing;
mod story;
mod world;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use testkit::Stream;

use self::pause::Interrupt;
use self::plan::Round;
use self::story::{Account, Halt, Progress, Tally};
use self::world::{Programs, World};
use crate::args::Args;
use crate::{Error, Outcome, guard, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask chaos [--minutes M] [--seed S] [--rounds N] [--list] [--no-build]

Runs a service under psflip, with clients that send requests without pause, and disturbs it at random moments: upgrades
that succeed and upgrades that fail in every way, invalid and half-written configurations, hooks that fail or hang,
replaced programs, signals, stopped and killed processes, too few descriptors, operators' commands that are killed. Half of
the rounds run below an anchor or `psflip watch`, which are killed and stopped as well. Meanwhile other clients send valid
and invalid requests to the control socket.

After every step it waits until nothing moves, and checks from outside what docs/contract.md promises: the pidfile names
one living psflip, a failed upgrade has not changed the old child, an upgrade has lost no request, there is no leak, no
zombie and no leftover process, exit codes are right, every request has an answer, the history is consistent. Then an
upgrade to a good version must succeed. The first violation stops the run, with a full report.

  --minutes M  how long, such as 0.5 or 30 (default 1)
  --seed S     a number; round N of a run has the seed S+N-1. The same seed gives the same steps, but their results depend
               on timing, too: repeat a few times (default: a random seed, which is printed)
  --rounds N   stop after so many rounds, whatever the time (a round: a start, 10 steps, a stop)
  --list       print the steps of the rounds (1, or the number in --rounds) and do nothing
  --no-build   use the programs beside xtask as they are

Ctrl-C stops the run, with a summary.";

/// The command-line options.
struct Wanted {
    time: Option<Duration>,
    seed: u64,
    rounds: Option<u64>,
}

pub(crate) fn run(mut args: Args) -> Outcome {
    let minutes: Option<f64> = args.value("minutes")?;
    let seed = args.value("seed")?;
    let rounds = args.value("rounds")?;
    let list = args.flag("list");
    let built = args.flag("no-build");
    args.done()?;
    if let Some(minutes) = minutes.filter(|minutes| !(0.0..=100_000.0).contains(minutes)) {
        return Err(format!("`--minutes {minutes}` is out of range: 0 to 100000").into());
    }
    if list {
        print_plan(seed.unwrap_or(1), rounds.unwrap_or(1));
        return Ok(());
    }
    if guard::scratch().is_none() {
        if !built {
            let packages = ["build", "--quiet", "--bins", "-p", "psflip", "-p", "fixtures", "-p", "testkit"];
            step::run(repo::cargo().args(packages))?;
        }
        return guard::run_again_guarded();
    }
    let minutes = minutes.or(rounds.is_none().then_some(1.0));
    let wanted = Wanted {
        time: minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0)),
        // Short enough to be typed.
        seed: seed.unwrap_or_else(|| fastrand::u64(1_000..1_000_000_000)),
        rounds,
    };
    rage(&wanted)
}

fn print_plan(seed: u64, rounds: u64) {
    let mut text = String::new();
    for seed in (0..rounds).map(|number| seed.wrapping_add(number)) {
        let round = Round::of(seed);
        text += &format!(
            "seed {seed}: {:?} below {:?}, ends by {:?}\n",
            round.flavour, round.above, round.finale
        );
        for (number, step) in round.steps.iter().enumerate() {
            text += &format!("  {:2}  {step}\n", number + 1);
        }
    }
    let _ = std::io::stdout().write_all(text.as_bytes()); // the reader may have closed the pipe
}

/// Runs rounds until the time is over or an invariant is violated.
fn rage(wanted: &Wanted) -> Outcome {
    let interrupt = Interrupt::catch()?;
    let psflip = testkit::psflip_bin();
    let fixtures = testkit::fixture("http-server").parent().ok_or("the fixtures are nowhere")?.to_owned();
    let programs = Programs { psflip, fixtures };
    println!("seed {}", wanted.seed);
    let begun = Instant::now();
    let is_over = || wanted.time.is_some_and(|time| begun.elapsed() >= time);
    let mut total = Tally::default();
    let mut progress = Progress::new();
    let mut outcome = Ok(());
    let mut interrupted = false;
    for number in 0..wanted.rounds.unwrap_or(u64::MAX) {
        if is_over() {
            break;
        }
        let seed = wanted.seed.wrapping_add(number);
        total.rounds += 1;
        match one_round(seed, &programs, &interrupt, &mut total, &mut progress, &is_over) {
            Ok(()) => {}
            Err(Trouble::Interrupted) => {
                interrupted = true;
                break;
            }
            Err(Trouble::Violation(account)) => {
                progress.end();
                println!("\n{account}\n");
                outcome = Err("psflip broke its contract, or the harness is wrong; see above".into());
                break;
            }
            Err(Trouble::Harness(error)) => {
                outcome = Err(error);
                break;
            }
        }
    }
    progress.end();
    let violations = u8::from(outcome.is_err());
    let how = if interrupted { " (interrupted)" } else { "" };
    println!("chaos: seed {}, {}{how}, {violations} violations", wanted.seed, step::seconds(begun.elapsed()));
    println!("{total}");
    outcome
}

/// Why a round has failed.
enum Trouble {
    Violation(String),
    Interrupted,
    Harness(Error),
}

fn one_round(
    seed: u64,
    programs: &Programs,
    interrupt: &Interrupt,
    total: &mut Tally,
    progress: &mut Progress,
    is_over: &dyn Fn() -> bool,
) -> Result<(), Trouble> {
    let round = Round::of(seed);
    let mut world = World::new(&round, seed, programs, interrupt).map_err(Trouble::Harness)?;
    let mut step = "at the start".to_owned();
    let lived = catch_unwind(AssertUnwindSafe(|| {
        round::live(&mut world, &round, |world, number, text| {
            step = format!("step {number}: {text}");
            progress.show(seed, &total.with(&world.tally));
            !is_over()
        })
    }));
    *total = total.with(&world.tally);
    let halt = match lived {
        Ok(Ok(())) => None,
        Ok(Err(halt)) => Some(halt),
        Err(panic) => Some(Halt::Violation(format!("the harness gave up: {}", panic_text(&*panic)))),
    };
    let account = match &halt {
        Some(Halt::Violation(what)) => Some(account(what, seed, &step, &world)),
        Some(Halt::Interrupted) | None => None,
    };
    if halt.is_some() {
        world.sandbox.expect_leftovers();
    }
    // Dropping the sandbox checks for panics and leftover processes.
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(world)));
    match (halt, account, dropped) {
        (Some(Halt::Interrupted), ..) => Err(Trouble::Interrupted),
        (_, Some(account), _) => Err(Trouble::Violation(account)),
        (_, None, Err(panic)) => {
            Err(Trouble::Violation(format!("VIOLATION, seed {seed}, at the end:\n{}", panic_text(&*panic))))
        }
        (_, None, Ok(())) => Ok(()),
    }
}

fn account(what: &str, seed: u64, step: &str, world: &World) -> String {
    let log: String = world.service.iter().flat_map(|service| service.psflip.output().lines()).fold(
        String::new(),
        |text, line| {
            let stream = if line.stream == Stream::Stderr { " " } else { ">" };
            text + &format!("  {:9.4} {stream} {}\n", line.at.as_secs_f64(), line.text)
        },
    );
    let sandbox = world.sandbox.report();
    Account { what, seed, step: step.to_owned(), timeline: &world.timeline, log: &log, sandbox: &sandbox }
        .to_string()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked").to_owned()
}
