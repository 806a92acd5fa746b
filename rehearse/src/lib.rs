//! `psflip rehearse`: will an app survive its upgrades?
//!
//! One command starts the service in a sandbox, under load, upgrades it again and again, and explains every
//! request that was lost. Reading order: [`args`] (what can be asked for), [`rehearsal`] (what happens),
//! [`load`] (the clients), [`service`] (psflip, or any other tool), [`report`] (what follows), [`sandbox`].

mod args;
mod clock;
mod exit;
mod interrupt;
mod load;
mod outside;
mod plan;
mod rehearsal;
mod report;
mod sandbox;
mod service;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

/// The command line, from which `cargo xtask docs` generates the man page and completions.
#[must_use]
pub fn command() -> clap::Command {
    args::Args::command()
}

/// The JSON Schema of `report.json`.
#[cfg(feature = "schema")]
#[must_use]
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(report::Report).to_value();
    schema["title"] = "The report of psflip rehearse".into();
    schema
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    let stage = sandbox::Stage::of_process();
    let arguments = std::env::args_os().filter(|arg| !sandbox::Stage::is_one(arg));
    let args = match args::Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print(); // standard error may be closed
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    ExitCode::from(match stage {
        None => outside::run(&args),
        Some(stage) if stage.is_inside => outside::run_inside(&stage, &args),
        Some(stage) => outside::enter(&stage),
    })
}
