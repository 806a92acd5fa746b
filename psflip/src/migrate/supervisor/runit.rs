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
        let mut line = line.to_owned();
        while continues(&line) {
            line.pop();
            let Some((_, more)) = lines.next() else { break };
            line += more;
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
            Some(rest) => match rest.split_once("||") {
                Some((_, failed)) if !only_exits(failed.trim()) => {
                    return Err((place, "it does more than `exit` if `cd` fails"));
                }
                Some((directory, _)) => format!("cd {directory}"),
                None => line.to_owned(),
            },
            None => line.strip_suffix(" 2>&1").unwrap_or(line).to_owned(),
        };
        let simple = shell::split(&line).map_err(|reason| (place.clone(), reason))?;
        let words: Vec<&str> = simple.words.iter().map(String::as_str).collect();
        match words[..] {
            ["cd", directory]
                if simple.variables.is_empty()
                    && script.directory.is_none()
                    && !directory.starts_with('-') =>
            {
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
            ["exec", first, ..] if first.starts_with('-') => return Err((place, "its `exec` has options")),
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

/// Whether a shell joins the next line to this one: its last character is a backslash that is neither
/// escaped nor quoted nor in a comment.
fn continues(line: &str) -> bool {
    let (mut quote, mut at_start) = (None, true);
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\\' && quote != Some('\'') {
            at_start = false;
            if chars.next().is_none() {
                return true;
            }
            continue;
        }
        match (quote, c) {
            (None, '#') if at_start => return false,
            (None, '\'' | '"') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        at_start = quote.is_none() && c.is_whitespace();
    }
    false
}

/// Whether a command only ends the script: `exit`, `exit 1`, or `{ echo TEXT; exit 1; }`.
fn only_exits(command: &str) -> bool {
    let is_exit = |command: &str| {
        let status = command.trim().strip_prefix("exit");
        status.is_some_and(|status| {
            status.is_empty()
                || status.starts_with(' ') && status.trim().bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    let Some(group) = command.strip_prefix("{ ").and_then(|group| group.trim_end().strip_suffix('}')) else {
        return is_exit(command);
    };
    let Some((before, last)) =
        group.trim().strip_suffix(';').map(|all| all.rsplit_once(';').unwrap_or(("", all)))
    else {
        return false;
    };
    // A message, and nothing that could do more or leave the group.
    let is_message = |command: &str| {
        let command = command.replace(">&2", "");
        let first = command.split_whitespace().next().unwrap_or_default();
        ["echo", "printf", "logger"].contains(&first)
            && !command.contains(['&', '|', '<', '>', '`', '(', ')', '{', '}'])
    };
    is_exit(last) && (before.is_empty() || before.split(';').all(is_message))
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
