//! Steps of a task: runs each by name, measures it, and lists all at the end.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{Error, Outcome};

/// The steps so far, in order.
#[derive(Default)]
pub(crate) struct Steps {
    done: Vec<(String, Duration, Result<(), String>)>,
    skipped: Vec<(String, String)>,
}

impl Steps {
    /// Runs a step, and prints its name before and its duration after it. If it fails, the task goes on, so
    /// that one run shows all failures.
    pub(crate) fn step(&mut self, name: &str, action: impl FnOnce() -> Outcome) {
        println!("\n==> {name}");
        let start = Instant::now();
        let outcome = action().map_err(|error| error.to_string());
        let took = start.elapsed();
        match &outcome {
            Ok(()) => println!("    {name}: ok, {}", seconds(took)),
            Err(error) => println!("    {name}: FAILED after {}: {error}", seconds(took)),
        }
        // Other programs print next; our line must come first.
        let _ = std::io::stdout().flush();
        self.done.push((name.to_owned(), took, outcome));
    }

    /// Records a step that can't be run on this host, and why.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        println!("\n==> {name}\n    skipped: {why}");
        self.skipped.push((name.to_owned(), why.to_owned()));
    }

    /// Prints every step with its duration, and those that were skipped.
    pub(crate) fn print(&self) {
        println!();
        for (name, took, outcome) in &self.done {
            let mark = if outcome.is_ok() { "ok    " } else { "FAILED" };
            println!("  {mark}  {:>8}  {name}", seconds(*took));
        }
        for (name, why) in &self.skipped {
            println!("  skipped {:>8}  {name}: {why}", "");
        }
    }

    /// An error that names every failed step, if any failed.
    pub(crate) fn result(&self) -> Outcome {
        let failed: Vec<&str> = self
            .done
            .iter()
            .filter(|(_, _, outcome)| outcome.is_err())
            .map(|(name, _, _)| name.as_str())
            .collect();
        if failed.is_empty() {
            return Ok(());
        }
        Err(format!("{} of {} steps failed: {}", failed.len(), self.done.len(), failed.join(", ")).into())
    }
}

/// A duration for human readers: `0.4 s`, `2 min 05 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 60 {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    format!("{} min {:02} s", whole / 60, whole % 60)
}

/// Runs a command until it exits; an error if it fails.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let status = command.status().map_err(|error| cannot_start(command, &error))?;
    if status.success() { Ok(()) } else { Err(format!("`{}` exited with {status}", shown(command)).into()) }
}

/// The output of a command; an error if the command fails.
pub(crate) fn output(command: &mut Command) -> Result<String, Error> {
    let output = command.output().map_err(|error| cannot_start(command, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    // lintian reports on standard output.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Err(format!("`{}`: {}\n{}", shown(command), output.status, said.trim()).into())
}

/// The error for a command that can't be started.
pub(crate) fn cannot_start(command: &Command, error: &std::io::Error) -> Error {
    format!("can't start `{}`: {error}", shown(command)).into()
}

/// A command as it would be typed, without its environment; cargo without its path.
pub(crate) fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program()).to_string_lossy().into_owned();
    command.get_args().fold(name, |line, argument| line + " " + &argument.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_fails_the_task_and_is_named() {
        let mut steps = Steps::default();
        steps.step("good", || Ok(()));
        assert!(steps.result().is_ok());
        steps.step("bad", || run(&mut Command::new("false")));
        steps.step("good too", || Ok(()));
        assert_eq!(steps.result().unwrap_err().to_string(), "1 of 3 steps failed: bad");
    }

    #[test]
    fn durations_are_short() {
        assert_eq!(seconds(Duration::from_millis(449)), "0.4 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }
}
