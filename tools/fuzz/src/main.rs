//! Fuzzing on stable Rust: each parser of psflip gets mutated input, in a process with limited memory and
//! time.
//!
//! `cargo xtask fuzz` builds and runs it; `README.md` beside this crate describes the promises and how
//! findings are kept. Each target runs in a worker process. The worker writes each input to a file before it
//! uses it, so the input is known even after a panic, SIGALRM, exhausted memory or a stack overflow.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the person who started it")]

mod corpus;
mod mutate;
mod rng;
mod targets;
mod worker;

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use lexopt::{Arg, ValueExt};

use targets::TARGETS;

type Error = Box<dyn std::error::Error>;

const USAGE: &str = "\
psflip-fuzz [TARGET...] [--seconds N | --inputs N] [--seed S] [--keep DIR]
psflip-fuzz TARGET --input FILE

Without a target: all, one after the other, each as long as said (10 s otherwise).
An input that breaks a promise is written to DIR (the system's folder for temporary files otherwise), and the exit code is 1.

  --seconds N   so long for each target
  --inputs N    so many inputs for each target
  --seed S      the same seed gives the same inputs; one of the clock otherwise
  --keep DIR    where the input of a finding is written
  --input FILE  only this input, for example one that was found";

/// The command-line options.
#[derive(Default)]
struct Options {
    targets: Vec<String>,
    seconds: Option<u64>,
    inputs: Option<u64>,
    seed: Option<u64>,
    keep: Option<PathBuf>,
    input: Option<PathBuf>,
    /// Run as the worker, with this folder for its files.
    worker: Option<PathBuf>,
}

fn main() -> ExitCode {
    let result = options().and_then(|options| match &options.worker {
        Some(folder) => worker::work(&options.targets, folder, &limit(&options), options.input.as_deref()),
        None => drive(&options),
    });
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("psflip-fuzz: {error}");
            ExitCode::from(2)
        }
    }
}

fn options() -> Result<Options, Error> {
    let mut options = Options::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Long("seconds") => options.seconds = Some(parser.value()?.parse()?),
            Arg::Long("inputs") => options.inputs = Some(parser.value()?.parse()?),
            Arg::Long("seed") => options.seed = Some(parser.value()?.parse()?),
            Arg::Long("keep") => options.keep = Some(parser.value()?.into()),
            Arg::Long("input") => options.input = Some(parser.value()?.into()),
            Arg::Long("worker") => options.worker = Some(parser.value()?.into()),
            Arg::Short('h') | Arg::Long("help") => {
                println!("{USAGE}\n\nTargets:");
                for target in TARGETS {
                    println!("  {:<10}{}", target.name, target.summary);
                }
                std::process::exit(0);
            }
            Arg::Value(name) => options.targets.push(name.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    for name in &options.targets {
        targets::find(name)?;
    }
    if options.targets.is_empty() {
        options.targets = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    }
    if options.input.is_some() && options.targets.len() != 1 {
        return Err("`--input` wants the name of one target".into());
    }
    Ok(options)
}

/// How long a worker runs.
fn limit(options: &Options) -> worker::Limit {
    worker::Limit {
        seconds: options.seconds.unwrap_or(if options.inputs.is_some() { u64::MAX } else { 10 }),
        inputs: options.inputs.unwrap_or(u64::MAX),
        seed: options.seed.unwrap_or_default(),
    }
}

/// Runs a worker for each target, and keeps its findings.
fn drive(options: &Options) -> Result<ExitCode, Error> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64;
    let seed = options.seed.unwrap_or(clock);
    let mut code = ExitCode::SUCCESS;
    for name in &options.targets {
        let folder = tempfile::Builder::new().prefix("psflip-fuzz-").tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(name).arg("--worker").arg(folder.path()).args(["--seed", &seed.to_string()]);
        command.stdin(Stdio::null());
        // A backtrace reads the debug information, which exceeds the worker's memory limit. A failed allocation in
        // the panic handler then waits for the lock that the handler holds.
        command.env("RUST_BACKTRACE", "0");
        for (option, value) in [("--seconds", options.seconds), ("--inputs", options.inputs)] {
            if let Some(value) = value {
                command.args([option, &value.to_string()]);
            }
        }
        if let Some(file) = &options.input {
            command.arg("--input").arg(file.canonicalize()?);
        }
        let status = command.status()?;
        if !status.success() {
            code = ExitCode::FAILURE;
            keep(options, name, folder.path(), status, seed)?;
        }
    }
    Ok(code)
}

/// Reports how a worker failed, and keeps its last input.
fn keep(options: &Options, name: &str, folder: &Path, status: ExitStatus, seed: u64) -> Result<(), Error> {
    let what = match (status.code(), status.signal()) {
        (Some(worker::BROKEN), _) => "a promise is broken".to_owned(),
        (Some(101), _) => "it panicked".to_owned(),
        (_, Some(nix::libc::SIGALRM)) => format!("it did not finish within {} s", worker::LONGEST),
        (_, Some(nix::libc::SIGABRT)) => "it exceeded its memory limit, or overflowed its stack".to_owned(),
        _ => format!("the worker exited with {status}"),
    };
    let Some(bytes) = worker::last_input(folder)? else {
        return Err(format!("{name}: {what}, before the first input").into());
    };
    let dir = options.keep.clone().unwrap_or_else(std::env::temp_dir);
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{name}-{:016x}", rng::hash(&bytes)));
    std::fs::write(&path, &bytes)?;
    let shown: String = bytes.escape_ascii().to_string().chars().take(500).collect();
    eprintln!(
        "{name}: {what} (seed {seed})\n  the input, {} bytes: {shown}\n  again: cargo xtask fuzz {name} --input {}",
        bytes.len(),
        path.display()
    );
    Ok(())
}
