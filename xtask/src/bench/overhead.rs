//! Measures how long `true` takes under a wrapper: from before the spawn until the wrapper is reaped.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use super::stats::{self, Samples};
use super::{Build, write_config};
use crate::{Error, repo, step};

/// Other wrappers, with the arguments that make them run `true`. `-s` makes tini a subreaper: without it,
/// tini warns that it isn't PID 1.
const PEERS: &[(&str, &[&str])] =
    &[("tini", &["-s", "--", "true"]), ("dumb-init", &["true"]), ("catatonit", &["true"])];

/// Measures all of them in turns, prints the table, and returns the figures.
pub(super) fn measure(builds: &[Build], rounds: u32, directory: &Path) -> Result<Value, Error> {
    let config = write_config(directory, "true.toml", &["true"], None)?;
    let mut all = vec![(Samples::new("true"), Command::new("true"))];
    for build in builds {
        let mut command = Command::new(&build.program);
        command.args(build.arguments).arg("-c").arg(&config);
        all.push((Samples::new(build.name), command));
    }
    for (name, arguments) in PEERS {
        if repo::is_installed(name) {
            let mut command = Command::new(name);
            command.args(*arguments);
            all.push((Samples::new(*name), command));
        } else {
            println!("  skipped: {name} is not installed");
        }
    }
    for (_, command) in &mut all {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // The first run brings every program into the page cache.
        time(command)?;
    }
    for round in 1..=rounds {
        for (samples, command) in &mut all {
            let start = Instant::now();
            time(command)?;
            samples.add(start.elapsed());
        }
        if round % 100 == 0 {
            println!("  {round} of {rounds}");
        }
    }
    let samples: Vec<Samples> = all.into_iter().map(|(samples, _)| samples).collect();
    Ok(stats::table(&samples, "true"))
}

fn time(command: &mut Command) -> Result<(), Error> {
    step::run(command)
}
