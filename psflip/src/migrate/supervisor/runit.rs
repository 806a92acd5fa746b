//! A `run` script of runit (or daemontools, s6) that executes its server.

use super::{Output, Translated, Wrong, literal, shell};
use crate::config::Generation;

/// Translates the script. `path` is its absolute path, if it is a file.
///
/// # Errors
/// [`Wrong`]: it is no script that ends in `exec`.
pub fn runit(path: Option<&str>, text: &str, generation: &Generation<'_>) -> Result<Translated, Wrong> {
    let first = text.lines().next().unwrap_or_default();
    let Some(interpreter) = first.strip_prefix("#!") else {
        return Err(Wrong::new(
            "line 1",
            "it has no `#!`, so it is no script",
            "give the `run` script of the service",
        ));
    };
    let mut out = Output::new(&match path {
        Some(path) => format!("`{}`", crate::text::head(path, 200)),
        None => "a `run` script".to_owned(),
    });
    out.without_pidfile();
    let program = interpreter.split_whitespace().map(|word| word.rsplit('/').next().unwrap_or(word));
    let is_shell = program.into_iter().any(|word| ["sh", "bash", "dash", "ash", "busybox"].contains(&word));
    match if is_shell { read(text) } else { Err(("line 1".to_owned(), "it is no script of a shell")) } {
        Ok(script) => script.write(&mut out),
        Err((place, reason)) => keep(&mut out, path, &place, reason)?,
    }
    out.comment("The new `run` script, for runit:");
    for line in ["#!/bin/sh", "exec 2>&1", "exec psflip run -c /etc/app/psflip.toml"] {
        out.comment(format!("    {line}"));
    }
    out.own_listener("the whole script");
    out.explain("Better than the time that a child must run is a check that it serves.");
    out.text("[healthcheck.alive]", "timeout", "5s");
    Ok(out.finish(generation))
}

/// What a simple script does.
#[derive(Default)]
struct Script {
    directory: Option<String>,
    variables: Vec<(String, String)>,
    /// The line of the `exec`, and its words.
    program: (String, Vec<String>),
}

impl Script {
    fn write(self, out: &mut Output) {
        let (_, program) = self.program;
        out.command(&program);
        if let Some(directory) = self.directory {
            out.text("", "workdir", &directory);
        }
        for (name, value) in self.variables {
            out.variable(&name, &literal(&value));
        }
    }
}

/// Reads a script of `cd`, `export`, `exec 2>&1` and one `exec`. The error: a line, and why it is no such
/// script.
fn read(text: &str) -> Result<Script, (String, &'static str)> {
    let mut script = Script::default();
    let mut lines = text.lines().enumerate().skip(1);
    while let Some((index, line)) = lines.next() {
        let place = format!("line {}", index + 1);
        let mut line = line.trim().to_owned();
        while line.ends_with('\\') {
            line.pop();
            let Some((_, more)) = lines.next() else { break };
            line += more.trim();
        }
        let line = line.trim();
        if line.is_empty()
            || line.starts_with('#')
            || ["exec 2>&1", "set -e", "set -u", "set -eu"].contains(&line)
        {
            continue;
        }
        if !script.program.1.is_empty() {
            return Err((place, "there are commands after the `exec`"));
        }
        let line = match line.strip_prefix("cd ") {
            Some(rest) => {
                let directory = rest.split_once("||").map_or(rest, |(directory, _)| directory);
                format!("cd {directory}")
            }
            None => line.strip_suffix("2>&1").unwrap_or(line).to_owned(),
        };
        let simple = shell::split(&line).map_err(|reason| (place.clone(), reason))?;
        let words: Vec<&str> = simple.words.iter().map(String::as_str).collect();
        match words[..] {
            ["cd", directory] if simple.variables.is_empty() && script.directory.is_none() => {
                script.directory = Some(directory.to_owned());
            }
            ["export", ..] => {
                for assignment in &words[1..] {
                    let Some((name, value)) = assignment.split_once('=') else {
                        return Err((place, "it exports a variable that is set elsewhere"));
                    };
                    script.variables.push((name.to_owned(), value.to_owned()));
                }
            }
            ["exec", ..] if words.len() > 1 => {
                script.variables.extend(simple.variables);
                script.program = (place, words[1..].iter().map(|word| (*word).to_owned()).collect());
            }
            _ => return Err((place, "it does more than `cd`, `export` and `exec`")),
        }
    }
    match script.program.1.is_empty() {
        true => Err(("the whole script".to_owned(), "it has no `exec`")),
        false => Ok(script),
    }
}

/// The script itself as the command, as it is.
fn keep(out: &mut Output, path: Option<&str>, place: &str, reason: &str) -> Result<(), Wrong> {
    let Some(path) = path else {
        return Err(Wrong::new(
            place,
            format!("it can't be translated: {reason}"),
            "give the script as a file, not by standard input",
        ));
    };
    let text = format!(
        "the script stays the command, because {reason}; move it away from `run`, and end it with `exec`"
    );
    out.left(place, text);
    out.command(&[path.to_owned()]);
    if let Some((directory, _)) = path.rsplit_once('/').filter(|(directory, _)| !directory.is_empty()) {
        out.text("", "workdir", directory);
    }
    Ok(())
}
