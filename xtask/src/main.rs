//! The project's tasks: `cargo xtask` lists them, `cargo xtask TASK --help` explains one.
//!
//! This file parses and dispatches; each task has a file or folder of its own.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the person who started it")]

mod ansible;
mod args;
mod bench;
mod binaries;
mod book;
mod chaos;
mod ci;
mod contract;
mod crates;
mod demo;
mod dist;
mod docs;
mod e2e;
mod field;
mod fuzz;
mod guard;
mod kubernetes;
mod lint;
mod nightly;
mod outside;
mod packages;
mod python;
mod release;
mod repo;
mod runner;
mod step;
mod systemd;

use std::process::ExitCode;

/// The reason why a task failed: one message for the user.
type Error = Box<dyn std::error::Error>;
/// The result of a task. An error is printed and becomes exit code 1.
type Outcome = Result<(), Error>;

/// An entry in the list of `cargo xtask`.
struct Task {
    name: &'static str,
    summary: &'static str,
    usage: &'static str,
    run: fn(args::Args) -> Outcome,
}

const TASKS: &[Task] = &[
    Task {
        name: "demo",
        summary: "upgrade a small service under load, and watch it",
        usage: demo::USAGE,
        run: demo::run,
    },
    Task {
        name: "ci",
        summary: "run every check and every test, as CI does",
        usage: ci::USAGE,
        run: ci::run,
    },
    Task {
        name: "nightly",
        summary: "run what takes too long for CI, for some hours: fuzzing, chaos, long tests",
        usage: nightly::USAGE,
        run: nightly::run,
    },
    Task {
        name: "e2e",
        summary: "run the end-to-end suites, once or repeatedly, on an idle or a busy host",
        usage: e2e::USAGE,
        run: e2e::run,
    },
    Task {
        name: "outside",
        summary: "test an app in a workspace of its own by testkit, as another team would",
        usage: outside::USAGE,
        run: outside::run,
    },
    Task {
        name: "systemd",
        summary: "fetch a newer systemd than the installed one, for the tests that boot it",
        usage: systemd::USAGE,
        run: systemd::run,
    },
    Task {
        name: "fuzz",
        summary: "fuzz every parser with mutated input",
        usage: fuzz::USAGE,
        run: fuzz::run,
    },
    Task {
        name: "chaos",
        summary: "random upgrades, kills and faults under load, checked from outside",
        usage: chaos::USAGE,
        run: chaos::run,
    },
    Task {
        name: "lint",
        summary: "check the house rules that clippy doesn't have",
        usage: lint::USAGE,
        run: lint::run,
    },
    Task {
        name: "contract",
        summary: "list every clause of docs/contract.md with the tests that prove it",
        usage: contract::USAGE,
        run: contract::run,
    },
    Task {
        name: "docs",
        summary: "generate man pages, shell completions and the JSON Schema from the code",
        usage: docs::USAGE,
        run: docs::run,
    },
    Task {
        name: "book",
        summary: "build the pages as a static site, and check every link",
        usage: book::USAGE,
        run: book::run,
    },
    Task {
        name: "dist",
        summary: "make the files of a release: static programs, a tarball, packages, checksums",
        usage: dist::USAGE,
        run: dist::run,
    },
    Task {
        name: "release",
        summary: "prepare a release: versions, changelog, checks, files, notes; nothing is uploaded",
        usage: release::USAGE,
        run: release::run,
    },
    Task {
        name: "crates",
        summary: "check the crates that would be published; nothing is uploaded",
        usage: crates::USAGE,
        run: crates::run,
    },
    Task {
        name: "ansible",
        summary: "check the Ansible collection by ansible-lint and Ansible's sanity tests",
        usage: ansible::USAGE,
        run: ansible::run,
    },
    Task {
        name: "field",
        summary: "measure what clients lose at upgrades by psflip, and by servers' own tools",
        usage: field::USAGE,
        run: field::run,
    },
    Task {
        name: "bench",
        summary: "measure what psflip costs: start, upgrade, memory, wake-ups",
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
    println!("cargo xtask TASK [OPTION...]; `cargo xtask TASK --help` prints its options\n");
    for task in TASKS {
        println!("  {:<10}{}", task.name, task.summary);
    }
}

fn usage_error(message: &str) -> ExitCode {
    eprintln!("xtask: {message}; `cargo xtask` lists the tasks, `cargo xtask TASK --help` their options");
    ExitCode::from(2)
}
