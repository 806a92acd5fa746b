//! A line of a Procfile, as foreman and its relatives run it.

use super::{Output, Translated, Wrong, literal, shell};
use crate::config::Generation;

/// The port of the first type, and the step to the next, by default of foreman.
const FIRST_PORT: usize = 5000;
const STEP: usize = 100;

/// Translates the line of this type, which may be left out if there is only one. `name` is the file's.
///
/// # Errors
/// [`Wrong`]: the file has no such line.
pub fn procfile(
    name: &str,
    text: &str,
    wanted: Option<&str>,
    generation: &Generation<'_>,
) -> Result<Translated, Wrong> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let place = format!("line {}", index + 1);
        let is_type = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        match line.split_once(':') {
            Some((kind, command)) if is_type(kind) && !command.trim().is_empty() => {
                lines.push((place, kind, command.trim()));
            }
            _ => {
                return Err(Wrong::new(
                    place,
                    "it is no line of a Procfile",
                    "a line is `TYPE: COMMAND`, such as `web: ./server`",
                ));
            }
        }
    }
    let names = || lines.iter().map(|(_, kind, _)| format!("`{kind}`")).collect::<Vec<_>>().join(", ");
    let index = match (wanted, lines.as_slice()) {
        (_, []) => return Err(Wrong::new("", "there is no line in it", "a line is `TYPE: COMMAND`")),
        (None, [_]) => 0,
        (None, _) => {
            let help = format!("give one of {} after the file", names());
            return Err(Wrong::new("", "it has several types, and a psflip runs one of them", help));
        }
        (Some(wanted), _) => lines.iter().position(|(_, kind, _)| *kind == wanted).ok_or_else(|| {
            Wrong::new(
                "",
                format!("there is no type `{}` in it", crate::text::head(wanted, 60)),
                format!("it has {}", names()),
            )
        })?,
    };
    let (place, kind, command) = &lines[index];
    let mut out = Output::new(&format!("the type `{kind}` of `{}`", crate::text::head(name, 100)));
    out.without_pidfile();
    let sets_port = run(&mut out, place, command)?;
    out.note(
        "`.env`",
        "psflip reads it in systemd's syntax, foreman in its own: backslashes and `\\n` in double quotes differ, a \
         backslash without quotes too, and `export A=1` is an error. PORT in it is foreman's base port: psflip does not \
         count from it. `?`: the file may be missing",
    );
    out.text("", "env_file", "?.env");
    let port = FIRST_PORT + STEP * index;
    if !sets_port && (*kind == "web" || shell::inserts(command, "PORT")) {
        let protocol = if *kind == "web" { "http" } else { "tcp" };
        out.template("[locals]", "port", "{{ free_port('20000-29999') }}");
        out.explain("Each generation listens on a port of its own.");
        out.variable("PORT", "{{ local('port') }}");
        out.explain(
            "Better than an accepted connection is an answer: `[healthcheck.http]` with `url = \"/up\"`.",
        );
        out.template("[healthcheck.tcp]", "address", "127.0.0.1:{{ local('port') }}");
        out.note(
            place,
            format!(
                "clients connect to psflip, here on foreman's port for this type, {port}; the program must listen \
                 on $PORT"
            ),
        );
        out.item("[[proxy]]");
        out.text("[[proxy]]", "listen", &format!("tcp://0.0.0.0:{port}"));
        out.template("[[proxy]]", "forward", "127.0.0.1:{{ local('port') }}");
        out.text("[[proxy]]", "protocol", protocol);
    } else {
        out.explain("Better than the time that a child must run is a check that it works.");
        out.text("[healthcheck.alive]", "timeout", "5s");
        if !sets_port {
            out.note_at_top(place, "foreman sets PORT for it, psflip does not");
        }
        out.own_listener(place);
    }
    Ok(out.finish(generation))
}

/// Sets `cmd`, and the variables before it, from a line that a shell would run. Returns whether it sets PORT.
fn run(out: &mut Output, place: &str, command: &str) -> Result<bool, Wrong> {
    let simple = shell::split(command).and_then(|simple| match &simple.words[..] {
        [exec, first, ..] if exec == "exec" && first.starts_with('-') => Err("its `exec` has options"),
        _ => Ok(simple),
    });
    match simple {
        Ok(simple) => {
            // Without a shell there is no `exec` to call.
            let words = simple.words.strip_prefix(&["exec".to_owned()]).unwrap_or(&simple.words);
            if words.is_empty() {
                return Err(Wrong::new(place, "there is no command", "a line is `TYPE: COMMAND`"));
            }
            out.command(words);
            for (name, value) in &simple.variables {
                out.variable(name, &literal(value));
            }
            Ok(simple.variables.iter().any(|(name, _)| name == "PORT"))
        }
        Err(reason) => {
            let mut command = command;
            let mut sets_port = false;
            // Assignments before the command, as long as they insert nothing.
            while let Some((first, rest)) = command.split_once([' ', '\t'])
                && let Ok(simple) = shell::split(first)
                && let ([(name, value)], []) = (simple.variables.as_slice(), simple.words.as_slice())
            {
                out.variable(name, &literal(value));
                sets_port |= name == "PORT";
                command = rest.trim_start();
            }
            let is_one = !command.contains([';', '|', '&', '\n', '(']);
            let first = command.split_whitespace().next().unwrap_or_default();
            let assigns = first.split_once('=').is_some_and(|(name, _)| shell::is_name(name));
            let line = match is_one && !assigns && first != "exec" {
                true => format!("exec {command}"),
                false => command.to_owned(),
            };
            let advice = match line.starts_with("exec ") && is_one {
                true => "",
                false => ". Signals reach the shell, so let `exec` start the server in it",
            };
            out.note(place, format!("it needs a shell: {reason}{advice}"));
            out.command_of_templates(&["sh".to_owned(), "-c".to_owned(), literal(&line)]);
            Ok(sets_port || first.starts_with("PORT="))
        }
    }
}
