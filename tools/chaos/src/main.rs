//! `cargo xtask chaos` runs this program: a service under load goes through random upgrades, crashes and kills. After every
//! step, it is checked from outside that psflip has kept its contract.
//!
//! plan.rs, parent.rs, manner.rs and next_config.rs choose the actions, from the seed alone. actions.rs performs them, quiescence.rs
//! waits until nothing moves, and checks.rs checks the invariants. load.rs has the clients of the service,
//! operators.rs the clients of the control socket, and clients.rs the operators' commands.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the person who started it")]

mod actions;
mod checks;
mod clients;
mod invariants;
mod load;
mod log;
mod manner;
mod next_config;
mod operators;
mod parent;
mod pause;
mod plan;
mod port;
mod quiescence;
mod report;
mod round;
mod world;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use lexopt::{Arg, ValueExt as _};
use testkit::Stream;

use pause::Interrupt;
use plan::Round;
use report::{Account, Halt, Progress, Tally, seconds};
use world::{Programs, World};

/// The reason why a run failed: one message for the user.
type Error = Box<dyn std::error::Error>;

const USAGE: &str = "\
chaos [--minutes M] [--seed S] [--rounds N] [--list]

`cargo xtask chaos --help` explains the options, and builds the programs that this one runs: those beside it.";

/// The command-line options.
struct Options {
    time: Option<Duration>,
    seed: Option<u64>,
    rounds: Option<u64>,
    list: bool,
}

fn main() -> ExitCode {
    let result = options().and_then(|options| {
        let Some(options) = options else { return Ok(()) };
        if options.list {
            print_plan(options.seed.unwrap_or(1), options.rounds.unwrap_or(1));
            return Ok(());
        }
        rage(&options)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Parses the command line; `None` after `--help`.
fn options() -> Result<Option<Options>, Error> {
    let (mut minutes, mut seed, mut rounds, mut list) = (None::<f64>, None, None, false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("minutes") => minutes = Some(parser.value()?.parse()?),
            Arg::Long("seed") => seed = Some(parser.value()?.parse()?),
            Arg::Long("rounds") => rounds = Some(parser.value()?.parse()?),
            Arg::Long("list") => list = true,
            Arg::Short('h') | Arg::Long("help") => {
                println!("{USAGE}");
                return Ok(None);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    if let Some(minutes) = minutes.filter(|minutes| !(0.0..=100_000.0).contains(minutes)) {
        return Err(format!("`--minutes {minutes}` is out of range: 0 to 100000").into());
    }
    let minutes = minutes.or(rounds.is_none().then_some(1.0));
    let time = minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    Ok(Some(Options { time, seed, rounds, list }))
}

fn print_plan(seed: u64, rounds: u64) {
    let mut text = String::new();
    for seed in (0..rounds).map(|number| seed.wrapping_add(number)) {
        let round = Round::of(seed);
        text += &format!(
            "seed {seed}: {:?}, {:?}, below {:?}, stopped by {:?}\n",
            round.flavour, round.manner, round.above, round.finale
        );
        for (number, step) in round.steps.iter().enumerate() {
            text += &format!("  {:2}  {step}\n", number + 1);
        }
    }
    let _ = std::io::stdout().write_all(text.as_bytes()); // the reader may have closed the pipe
}

/// Runs rounds until the time is over or an invariant is violated.
fn rage(wanted: &Options) -> Result<(), Error> {
    // Short enough to be typed.
    let first = wanted.seed.unwrap_or_else(|| fastrand::u64(1_000..1_000_000_000));
    let interrupt = Interrupt::catch()?;
    let psflip = testkit::psflip_bin();
    let fixtures = testkit::fixture("http-server").parent().ok_or("the fixtures are nowhere")?.to_owned();
    let programs = Programs { psflip, fixtures };
    println!("seed {first}");
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
        let seed = first.wrapping_add(number);
        total.rounds += 1;
        match one_round(seed, &programs, &interrupt, &mut total, &mut progress, &is_over) {
            Ok(()) => {}
            Err(Trouble::Interrupted) => {
                interrupted = true;
                break;
            }
            Err(Trouble::Violation { account, what }) => {
                progress.end();
                println!("\n{account}\n");
                // Again, as the last line: of a long output of CI, often only the end is kept.
                outcome = Err(format!(
                    "psflip broke its contract, or the harness is wrong; see above: seed {seed}, {what}"
                )
                .into());
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
    println!("chaos: seed {first}, {}{how}, {violations} violations", seconds(begun.elapsed()));
    println!("{total}");
    outcome
}

/// Why a round has failed.
enum Trouble {
    Violation {
        /// Everything that is known.
        account: String,
        /// The step, and what was observed.
        what: String,
    },
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
        Some(Halt::Violation(what)) => Some((account(what, seed, &step, &world), format!("{step}: {what}"))),
        Some(Halt::Interrupted) | None => None,
    };
    if halt.is_some() {
        world.sandbox.expect_leftovers();
    }
    // Dropping the sandbox checks for panics and leftover processes.
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(world)));
    match (halt, account, dropped) {
        (Some(Halt::Interrupted), ..) => Err(Trouble::Interrupted),
        (_, Some((account, what)), _) => Err(Trouble::Violation { account, what }),
        (_, None, Err(panic)) => {
            let what = format!("at the end: {}", panic_text(&*panic));
            Err(Trouble::Violation { account: format!("VIOLATION, seed {seed}, {what}"), what })
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
