//! The project's tasks: `cargo xtask` lists them, `cargo xtask TASK --help` tells what one can do.
//!
//! This file parses and dispatches; each task is a file or folder of its own.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the person who started it")]

mod args;
mod bench;
mod book;
mod chaos;
mod ci;
mod contract;
mod demo;
mod dist;
mod docs;
mod e2e;
mod fuzz;
mod guard;
mod lint;
mod packages;
mod release;
mod repo;
mod runner;
mod step;
mod systemd;

use std::process::ExitCode;

/// Why a task ended without success: one message for the person who started it.
type Error = Box<dyn std::error::Error>;
/// What a task ends with. An error is printed and becomes exit code 1.
type Outcome = Result<(), Error>;

/// One entry of the list that `cargo xtask` prints.
struct Task {
    name: &'static str,
    summary: &'static str,
    usage: &'static str,
    run: fn(args::Args) -> Outcome,
}

const TASKS: &[Task] = &[
    Task {
        name: "demo",
        summary: "a service that is replaced while it serves, for you to see",
        usage: demo::USAGE,
        run: demo::run,
    },
    Task {
        name: "ci",
        summary: "every check and every test, as CI runs them",
        usage: ci::USAGE,
        run: ci::run,
    },
    Task {
        name: "e2e",
        summary: "the end-to-end suites, once or again and again, on a busy machine if you like",
        usage: e2e::USAGE,
        run: e2e::run,
    },
    Task {
        name: "systemd",
        summary: "fetches a newer systemd than the installed one, for the tests under it",
        usage: systemd::USAGE,
        run: systemd::run,
    },
    Task {
        name: "fuzz",
        summary: "odd input for everything that reads input, as long as you like",
        usage: fuzz::USAGE,
        run: fuzz::run,
    },
    Task {
        name: "chaos",
        summary: "everything that can happen to a service, at random, under load, checked from outside",
        usage: chaos::USAGE,
        run: chaos::run,
    },
    Task {
        name: "lint",
        summary: "the house rules that clippy doesn't know",
        usage: lint::USAGE,
        run: lint::run,
    },
    Task {
        name: "contract",
        summary: "every clause of docs/contract.md with the tests that prove it",
        usage: contract::USAGE,
        run: contract::run,
    },
    Task {
        name: "docs",
        summary: "man pages, shell completions and the JSON Schema, made of the code",
        usage: docs::USAGE,
        run: docs::run,
    },
    Task {
        name: "book",
        summary: "the pages as a static site, with every link checked",
        usage: book::USAGE,
        run: book::run,
    },
    Task {
        name: "dist",
        summary: "what is released: a static binary, a Debian package, checksums",
        usage: dist::USAGE,
        run: dist::run,
    },
    Task {
        name: "bench",
        summary: "what psflip costs: start, flip, memory, wake-ups",
        usage: bench::USAGE,
        run: bench::run,
    },
];

fn main() -> ExitCode {
    let mut parser = lexopt::Parser::from_env();
    let name = match parser.next() {
        Ok(Some(lexopt::Arg::Value(name))) => name.to_string_lossy().into_owned(),
        Ok(None | Some(lexopt::Arg::Short('h') | lexopt::Arg::Long("help"))) => {
            list();
            return ExitCode::SUCCESS;
        }
        Ok(Some(other)) => return usage_error(&other.unexpected().to_string()),
        Err(error) => return usage_error(&error.to_string()),
    };
    if name == guard::TRAMPOLINE {
        return guard::trampoline(parser);
    }
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        return usage_error(&format!("unknown task `{name}`"));
    };
    match args::Args::new(parser, task.usage).and_then(task.run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<args::HelpShown>() => ExitCode::SUCCESS,
        Err(error) if error.is::<args::Misuse>() => usage_error(&error.to_string()),
        Err(error) if error.is::<guard::Failed>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask {name}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    println!("cargo xtask TASK [OPTION...]; `cargo xtask TASK --help` tells its options\n");
    for task in TASKS {
        println!("  {:<10}{}", task.name, task.summary);
    }
}

fn usage_error(message: &str) -> ExitCode {
    eprintln!("xtask: {message}; `cargo xtask` lists the tasks, `cargo xtask TASK --help` their options");
    ExitCode::from(2)
}
