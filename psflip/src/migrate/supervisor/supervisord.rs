//! A `[program:x]` or `[fcgi-program:x]` of supervisord (4.2).

use std::str::Chars;

use super::{Output, Translated, Wrong, literal, seconds, shell};
use crate::config::Generation;
use crate::signal::Signal;

/// Settings that stay in supervisord's section, which then runs psflip.
const STAY: &[&str] = &[
    "process_name",
    "numprocs_start",
    "priority",
    "autostart",
    "autorestart",
    "startretries",
    "exitcodes",
    "stopasgroup",
    "killasgroup",
    "user",
    "umask",
    "redirect_stderr",
    "serverurl",
    "stdout_logfile",
    "stdout_logfile_maxbytes",
    "stdout_logfile_backups",
    "stdout_capture_maxbytes",
    "stdout_events_enabled",
    "stdout_syslog",
    "stderr_logfile",
    "stderr_logfile_maxbytes",
    "stderr_logfile_backups",
    "stderr_capture_maxbytes",
    "stderr_events_enabled",
    "stderr_syslog",
];

/// A section, and its settings with their places.
struct Section {
    place: String,
    kind: String,
    name: String,
    settings: Vec<(String, String, String)>,
}

/// Translates the section of this program, which may be left out if there is only one. `name` is the file's,
/// `here` its directory.
///
/// # Errors
/// [`Wrong`]: the file has no such section, or supervisord would refuse it.
pub fn supervisord(
    name: &str,
    here: Option<&str>,
    text: &str,
    wanted: Option<&str>,
    generation: &Generation<'_>,
) -> Result<Translated, Wrong> {
    let sections = read(text)?;
    let section = choose(&sections, wanted)?;
    let mut out =
        Output::new(&format!("`[{}:{}]` of `{}`", section.kind, section.name, crate::text::head(name, 100)));
    if section.kind == "fcgi-program" {
        out.comment(format!("In supervisord it becomes a `[program:{}]` with:", section.name));
    } else {
        out.comment("In supervisord its `command` becomes:");
    }
    out.comment("    command = psflip run -c /etc/app/psflip.toml");
    out.without_pidfile();
    let insert = |place: &str, text: &str| insert(place, text, section, here);
    let expand = |place: &str, text: &str| Ok(template(&insert(place, text)?));
    let get = |key: &str| section.settings.iter().find(|(name, ..)| name == key);

    let Some((_, command, place)) = get("command") else {
        return Err(Wrong::new(section.place.clone(), "it has no `command`", "add it"));
    };
    let (words, bare) = split(place, &insert(place, command)?)?;
    if let Some(name) = bare {
        out.note(place, not_split(&name));
    }
    let words: Vec<String> = words.iter().map(|word| template(word)).collect();
    out.command_of_templates(&words);
    if let Some((_, directory, place)) = get("directory") {
        let directory = expand(place, directory)?;
        out.template("", "workdir", &directory);
    }
    if let Some((_, environment, place)) = get("environment") {
        for Variable { name, value, is_quoted } in variables(place, &insert(place, environment)?)? {
            if let Some(inserted) = inserted(&value).filter(|_| !is_quoted) {
                out.note(place, not_split(inserted));
            }
            out.variable(&name, &template(&value));
        }
    }
    stopping(&mut out, section)?;
    match get("startsecs") {
        Some((_, value, place)) => {
            let time = duration(place, value)?;
            out.note(
                place,
                "`startsecs`: better than the time that a child must run is a check that it serves",
            );
            out.text("[healthcheck.alive]", "timeout", &time);
        }
        None => {
            out.explain("supervisord's `startsecs`. Better than that is a check that the child serves.");
            out.text("[healthcheck.alive]", "timeout", "1s");
        }
    }
    if section.kind == "fcgi-program" {
        socket(&mut out, section, &expand)?;
    } else {
        out.own_listener(&section.place);
    }
    others(&mut out, section);
    Ok(out.finish(generation))
}

/// Settings without a key of psflip.
fn others(out: &mut Output, section: &Section) {
    const TRANSLATED: &[&str] =
        &["command", "directory", "environment", "startsecs", "stopsignal", "stopwaitsecs"];
    const SOCKET: &[&str] = &["socket", "socket_owner", "socket_mode", "socket_backlog"];
    for (name, value, place) in &section.settings {
        let name = name.as_str();
        let is_fcgi = section.kind == "fcgi-program";
        if TRANSLATED.contains(&name) || is_fcgi && SOCKET.contains(&name) {
            continue;
        }
        match name {
            "numprocs" if value.trim() == "1" => {}
            "numprocs" => {
                let text = format!(
                    "one psflip runs one child: let the program fork its workers, or run {value} services with a \
                     configuration each"
                );
                out.left(place, text);
            }
            "user" if is_fcgi && !["root", "0"].contains(&value.trim()) => {
                binds_as(out, section, place, value);
            }
            _ if STAY.contains(&name) => {
                out.note_at_top(place, format!("`{name}` stays in supervisord's section"));
            }
            _ => {
                out.left(place, format!("`{}` is no setting that psflip knows", crate::text::head(name, 60)));
            }
        }
    }
}

/// supervisord binds a FastCGI program's socket by itself, so not as the program's `user`.
fn binds_as(out: &mut Output, section: &Section, place: &str, user: &str) {
    let user = crate::text::head(user, 60);
    if section.settings.iter().any(|(name, ..)| name == "socket_owner") {
        let text = format!(
            "supervisord binds the socket and gives it to `socket_owner` as root, which psflip, started as \
             `{user}`, may not: remove `user` there, and begin `cmd` with setpriv(1) instead"
        );
        out.left(place, text);
    } else {
        let text = format!(
            "`user` stays in supervisord's section. supervisord binds the socket as root, psflip as `{user}`, which \
             needs the permission: for a port below 1024, or in the socket's directory"
        );
        out.note_at_top(place, text);
    }
}

/// What differs for a value that supervisord inserts outside of quotes.
fn not_split(name: &str) -> String {
    format!(
        "supervisord inserts `%(ENV_{})s` first and splits the text then, psflip does not split it: write out a value \
         that is empty or has white space, quotes, commas or backslashes",
        crate::text::head(name, 60)
    )
}

/// How the program stops.
fn stopping(out: &mut Output, section: &Section) -> Result<(), Wrong> {
    let get = |key: &str| section.settings.iter().find(|(name, ..)| name == key);
    if let Some((_, value, place)) = get("stopsignal") {
        let number = value.parse().ok().and_then(Signal::from_number);
        let signal = number.or_else(|| value.parse().ok()).ok_or_else(|| {
            Wrong::new(
                place.clone(),
                format!("`{}` is no signal", crate::text::head(value, 40)),
                "write a name: `QUIT`",
            )
        })?;
        let signal = signal.to_string();
        out.text("[shutdown]", "signal", &signal);
        if signal != "SIGTERM" {
            out.note(place, "remove `stopsignal` from supervisord's section: psflip's is SIGTERM");
            out.text("[signals]", "SIGTERM", &signal);
        }
    }
    if let Some((_, value, place)) = get("stopwaitsecs") {
        let time = duration(place, value)?;
        out.note(place, "set supervisord's own `stopwaitsecs` some seconds higher");
        out.text("[shutdown]", "timeout", &time);
    }
    Ok(())
}

fn duration(place: &str, value: &str) -> Result<String, Wrong> {
    seconds(value).ok_or_else(|| {
        let message = format!("`{}` is no number of seconds", crate::text::head(value, 40));
        Wrong::new(place, message, "write a whole number")
    })
}

/// The socket of a FastCGI program, which it gets as descriptor 0.
fn socket(
    out: &mut Output,
    section: &Section,
    expand: &dyn Fn(&str, &str) -> Result<String, Wrong>,
) -> Result<(), Wrong> {
    const LISTEN: &str = "[[listen]]";
    let get = |key: &str| section.settings.iter().find(|(name, ..)| name == key);
    let Some((_, address, place)) = get("socket") else {
        return Err(Wrong::new(
            section.place.clone(),
            "it has no `socket`",
            "add it: `socket = unix:///run/app.sock`",
        ));
    };
    let address = expand(place, address)?;
    out.item(LISTEN);
    let address = match address.strip_prefix("tcp://localhost:") {
        Some(port) => {
            out.note(place, "psflip resolves no names; `localhost` is taken as 127.0.0.1");
            format!("tcp://127.0.0.1:{port}")
        }
        None => address,
    };
    out.template(LISTEN, "address", &address);
    out.text(LISTEN, "as", "stdin");
    if address.starts_with("unix:") {
        let mode = get("socket_mode").map_or("0700", |(_, mode, _)| mode);
        out.text(LISTEN, "mode", &format!("{mode:0>4}"));
        if let Some((_, owner, _)) = get("socket_owner") {
            let (user, group) =
                owner.split_once(':').map_or((owner.as_str(), None), |(user, group)| (user, Some(group)));
            out.text(LISTEN, "owner", user);
            if let Some(group) = group {
                out.text(LISTEN, "group", group);
            }
        }
    }
    if let Some((_, backlog, place)) = get("socket_backlog") {
        let backlog: u32 = backlog.parse().map_err(|_| {
            Wrong::new(place.clone(), "`socket_backlog` is no number", "write a whole number")
        })?;
        out.bare(LISTEN, "backlog", backlog);
    }
    Ok(())
}

/// The section that is meant.
fn choose<'s>(sections: &'s [Section], wanted: Option<&str>) -> Result<&'s Section, Wrong> {
    let is_program = |section: &&Section| ["program", "fcgi-program"].contains(&section.kind.as_str());
    let programs: Vec<&Section> = sections.iter().filter(is_program).collect();
    let names =
        || programs.iter().map(|section| format!("`{}`", section.name)).collect::<Vec<_>>().join(", ");
    match (wanted, programs.as_slice()) {
        (_, []) => Err(Wrong::new(
            "",
            "it has no `[program:x]`",
            "give a file with one; `[include]` is not followed",
        )),
        (None, [only]) => Ok(only),
        (None, _) => Err(Wrong::new(
            "",
            "it has several programs, and a psflip runs one of them",
            format!("give one of {} after the file", names()),
        )),
        (Some(wanted), _) => {
            let wanted = wanted.split_once(':').map_or(wanted, |(_, name)| name);
            programs.iter().find(|section| section.name == wanted).copied().ok_or_else(|| {
                let message = format!("there is no program `{}` in it", crate::text::head(wanted, 60));
                Wrong::new("", message, format!("it has {}", names()))
            })
        }
    }
}

/// The sections of the file, as Python's RawConfigParser reads them for supervisord.
fn read(text: &str) -> Result<Vec<Section>, Wrong> {
    let mut sections: Vec<Section> = Vec::new();
    let mut last_indent = 0;
    for (index, line) in text.lines().enumerate() {
        let place = format!("line {}", index + 1);
        let indent = line.len() - line.trim_start().len();
        let line = without_comment(line);
        if line.is_empty() {
            continue;
        }
        if let Some(header) =
            line.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(header, _)| header)
        {
            let (kind, name) = header.split_once(':').unwrap_or((header, ""));
            let (kind, name) = (kind.trim().to_owned(), name.trim().to_owned());
            sections.push(Section { place, kind, name, settings: Vec::new() });
            continue;
        }
        let Some(section) = sections.last_mut() else {
            return Err(Wrong::new(
                place,
                "it stands above the first `[section]`",
                "give a configuration of supervisord",
            ));
        };
        // More than the line of the setting itself: its value goes on.
        if indent > last_indent
            && let Some((_, value, _)) = section.settings.last_mut()
        {
            *value += &format!("\n{line}");
            continue;
        }
        let Some(end) = line.find(['=', ':']) else {
            return Err(Wrong::new(place, "it is no setting", "a setting is `name = value`"));
        };
        let (name, value) = (line[..end].trim().to_lowercase(), line[end + 1..].trim().to_owned());
        last_indent = indent;
        section.settings.retain(|(other, ..)| *other != name);
        section.settings.push((name, value, place));
    }
    Ok(sections)
}

/// A line without its comment: a `;` or `#` at its start or after white space.
fn without_comment(line: &str) -> &str {
    let end = line
        .char_indices()
        .find(|(at, c)| [';', '#'].contains(c) && (*at == 0 || line[..*at].ends_with(char::is_whitespace)));
    end.map_or(line, |(at, _)| &line[..at]).trim()
}

/// Words as Python's shlex splits them: as a shell, but nothing is replaced. Returns as well the first
/// variable of the environment that is to be inserted outside of quotes.
fn split(place: &str, command: &str) -> Result<(Vec<String>, Option<String>), Wrong> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut bare = None;
    let mut chars = command.chars();
    let open = || Wrong::new(place, "a quote is not closed", "supervisord refuses it as well");
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => words.extend(word.take()),
            '\'' | '"' => {
                let text = word.get_or_insert_default();
                loop {
                    match chars.next().ok_or_else(open)? {
                        end if end == c => break,
                        '\\' if c == '"' => match chars.next().ok_or_else(open)? {
                            escaped @ ('"' | '\\') => text.push(escaped),
                            other => text.extend(['\\', other]),
                        },
                        other => text.push(other),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('%') => percent(word.get_or_insert_default(), &mut chars, &mut bare),
                Some(escaped) => word.get_or_insert_default().push(escaped),
                None => {
                    return Err(Wrong::new(
                        place,
                        "a backslash ends the command",
                        "supervisord refuses it as well: remove it",
                    ));
                }
            },
            '%' => percent(word.get_or_insert_default(), &mut chars, &mut bare),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match words.is_empty() {
        true => Err(Wrong::new(place, "`command` is empty", "add a command")),
        false => Ok((words, bare)),
    }
}

/// Adds a `%` outside of quotes to a word, with the second one of `%%`, which begins nothing. If it begins
/// `%(ENV_X)s`, the first such name is kept.
fn percent(word: &mut String, chars: &mut Chars<'_>, bare: &mut Option<String>) {
    word.push('%');
    let rest = chars.as_str();
    if rest.starts_with('%') {
        word.extend(chars.next());
    } else if bare.is_none() {
        *bare = variable_at(rest).map(|(name, _)| name.to_owned());
    }
}

/// A variable of `environment`.
struct Variable {
    name: String,
    value: String,
    is_quoted: bool,
}

/// `KEY="value",KEY2=value`.
fn variables(place: &str, text: &str) -> Result<Vec<Variable>, Wrong> {
    let mut pieces = vec![String::new()];
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (None, ',') => pieces.push(String::new()),
            (None, '"' | '\'') => {
                quote = Some(c);
                pieces.last_mut().into_iter().for_each(|piece| piece.push(c));
            }
            (Some(open), _) => {
                quote = (open != c).then_some(open);
                pieces.last_mut().into_iter().for_each(|piece| piece.push(c));
            }
            (None, c) => pieces.last_mut().into_iter().for_each(|piece| piece.push(c)),
        }
    }
    let mut variables = Vec::new();
    for piece in pieces.iter().map(|piece| piece.trim()).filter(|piece| !piece.is_empty()) {
        let (name, value) = match piece.split_once('=') {
            Some((name, value)) if shell::is_name(name.trim()) => (name.trim(), value.trim()),
            _ => {
                let message = format!("`{}` is no `NAME=value`", crate::text::head(piece, 40));
                return Err(Wrong::new(place, message, "write `environment = A=\"1\",B=\"2\"`"));
            }
        };
        let is_quoted = value.starts_with(['"', '\'']);
        if !is_quoted && value.contains(char::is_whitespace) {
            let message = format!("the value of `{name}` has white space but no quotes");
            return Err(Wrong::new(place, message, "supervisord would cut it: write `A=\"1 2\"`"));
        }
        // Without escapes, as supervisord reads it.
        let (name, value) = (name.to_owned(), value.trim_matches(['"', '\'']).to_owned());
        variables.push(Variable { name, value, is_quoted });
    }
    Ok(variables)
}

/// Replaces `%(program_name)s` and so on, as supervisord does before it splits a value. What is left of
/// percent signs is `%%`, and `%(ENV_X)s` of the variables, whose values are not known.
fn insert(place: &str, text: &str, section: &Section, here: Option<&str>) -> Result<String, Wrong> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out += &rest[..at];
        rest = &rest[at..];
        if let Some(after) = rest.strip_prefix("%%") {
            out += "%%";
            rest = after;
            continue;
        }
        let found = rest.strip_prefix("%(").and_then(|inner| inner.split_once(')'));
        let Some((name, after)) = found else {
            return Err(Wrong::new(
                place,
                "there is a single `%`",
                "supervisord refuses it as well: write `%%`",
            ));
        };
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        rest = after[digits..].strip_prefix(['s', 'd']).unwrap_or(&after[digits..]);
        match name {
            "program_name" | "group_name" => out += &section.name.replace('%', "%%"),
            "process_num" => {
                out += &format!("{:0>width$}", 0, width = after[..digits].parse().unwrap_or(1).clamp(1, 9));
            }
            "here" => match here {
                Some(here) => out += &here.replace('%', "%%"),
                None => {
                    return Err(Wrong::new(
                        place,
                        "`%(here)s` is the directory of the file",
                        "give the file by its path",
                    ));
                }
            },
            _ if name.starts_with("ENV_") && shell::is_name(&name[4..]) => out += &format!("%({name})s"),
            _ => {
                let message = format!("`%({})s` has no counterpart", crate::text::head(name, 40));
                return Err(Wrong::new(place, message, "write its value"));
            }
        }
    }
    Ok(out + rest)
}

/// The name of the variable, and what follows, if this is the rest of `%(ENV_X)s` after its `%`.
fn variable_at(text: &str) -> Option<(&str, &str)> {
    text.strip_prefix("(ENV_")?.split_once(")s")
}

/// The first variable that is inserted into what [`insert`] returned.
fn inserted(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        match after.strip_prefix('%') {
            Some(after) => rest = after,
            None => return variable_at(after).map(|(name, _)| name),
        }
    }
    None
}

/// The template for what [`insert`] returned.
fn template(text: &str) -> String {
    let (mut out, mut plain) = (String::new(), String::new());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        plain += before;
        let Some((name, after)) = variable_at(after) else {
            plain.push('%');
            rest = after.strip_prefix('%').unwrap_or(after);
            continue;
        };
        out += &literal(&std::mem::take(&mut plain));
        // Before a template, this brace would begin one by itself.
        if out.ends_with('{') {
            out.pop();
            out += "{{ '{' }}";
        }
        out += &format!("{{{{ env('{name}') }}}}");
        rest = after;
    }
    plain += rest;
    out + &literal(&plain)
}
