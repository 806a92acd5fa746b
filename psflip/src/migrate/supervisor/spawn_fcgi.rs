//! A command line of spawn-fcgi (1.6.4).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Output, Translated, Wrong};
use crate::config::Generation;

/// The options with a value, and those without, of its getopt(3) string.
const WITH_VALUE: &str = "adfgpubcsCFPUGM";
const ALONE: &str = "nSvh?";

/// Translates the arguments of a spawn-fcgi.
///
/// # Errors
/// [`Wrong`]: spawn-fcgi would refuse them, or they start no program.
pub fn spawn_fcgi(arguments: &[String], generation: &Generation<'_>) -> Result<Translated, Wrong> {
    let (given, program) = read(arguments)?;
    let find = |letter: char| given.iter().rev().find(|(other, _)| *other == letter).map(|(_, value)| value);
    let has = |letter| find(letter).is_some();
    if has('v') || has('h') || has('?') {
        return Err(Wrong::new(
            "",
            "these options start no program",
            "give those with which yours is started",
        ));
    }
    let mut out = Output::new("a command line of spawn-fcgi");
    out.comment("psflip stays in the foreground, as `spawn-fcgi -n` does; a service manager starts it.");
    match (program.is_empty(), find('f')) {
        (false, _) => out.command(&program),
        // Its own way to run this.
        (true, Some(line)) => out.command(&["/bin/sh".to_owned(), "-c".to_owned(), format!("exec {line}")]),
        (true, None) => {
            return Err(Wrong::new(
                "",
                "there is no program to start",
                "give the whole command line of spawn-fcgi: `psflip migrate spawn-fcgi -s app.sock -- ./app.fcgi`",
            ));
        }
    }
    if let Some(dir) = find('d') {
        out.text("", "workdir", dir);
    }
    match find('P') {
        Some(file) => {
            if has('n') {
                out.note("`-P`", "spawn-fcgi writes no file with `-n`; psflip does");
            }
            out.explain("The active psflip's pid, not the program's.");
            out.text("", "pidfile", file);
        }
        None => out.without_pidfile(),
    }
    if let Some(children) = find('C') {
        out.text("[env]", "PHP_FCGI_CHILDREN", children);
    }
    if let Some(forks) = find('F').filter(|forks| *forks != "1") {
        let text = format!(
            "psflip starts one program, not {forks}; let the program fork its workers (php-cgi: \
             PHP_FCGI_CHILDREN), or put multiwatch(1) in front of it in `cmd`"
        );
        out.left("`-F`", text);
    }
    privileges(&mut out, &given);
    out.explain(
        "Better than the time that a child must run is `[healthcheck.command]`: docs/traffic.md, PHP.",
    );
    out.text("[healthcheck.alive]", "timeout", "1s");
    socket(&mut out, &given)?;
    Ok(out.finish(generation))
}

/// What root gives up for the program.
fn privileges(out: &mut Output, given: &[(char, String)]) {
    let find = |letter: char| given.iter().rev().find(|(other, _)| *other == letter).map(|(_, value)| value);
    for (letter, what) in [('u', "user"), ('g', "group")] {
        if let Some(name) = find(letter) {
            let unit = if letter == 'u' { "User" } else { "Group" };
            let text = format!(
                "run psflip itself as {what} `{name}` (`{unit}={name}` in its unit), or begin `cmd` with setpriv(1)"
            );
            out.left(&format!("`-{letter}`"), text);
        }
    }
    if let Some(directory) = find('c') {
        let text = format!(
            "run psflip in `{directory}` (`RootDirectory={directory}` in its unit): it has no chroot(2)"
        );
        out.left("`-c`", text);
    }
    if find('S').is_some() {
        out.left(
            "`-S`",
            "a socket outside of the new root needs a socket unit of systemd: `systemd:NAME` in `address`",
        );
    }
}

/// The socket, which the program gets as descriptor 0.
fn socket(out: &mut Output, given: &[(char, String)]) -> Result<(), Wrong> {
    const LISTEN: &str = "[[listen]]";
    let find = |letter: char| given.iter().rev().find(|(other, _)| *other == letter).map(|(_, value)| value);
    let address = match (find('s'), find('p')) {
        (Some(_), Some(_)) => {
            return Err(Wrong::new("`-p`", "`-s` and `-p` exclude each other", "leave one of them out"));
        }
        (None, None) => {
            return Err(Wrong::new("", "there is no socket", "spawn-fcgi needs `-s PATH` or `-p PORT`"));
        }
        (Some(path), None) if path.starts_with('@') => format!("unix://./{path}"),
        (Some(path), None) => format!("unix://{path}"),
        (None, Some(port)) => {
            let port: u16 = port.parse().map_err(|_| {
                Wrong::new("`-p`", format!("`{port}` is no port"), "write a number up to 65535")
            })?;
            let ip = match find('a') {
                None => Ipv4Addr::UNSPECIFIED.into(),
                Some(text) => text.parse::<IpAddr>().map_err(|_| {
                    Wrong::new(
                        "`-a`",
                        format!("`{text}` is no IP address"),
                        "write it as numbers: `-a 127.0.0.1`",
                    )
                })?,
            };
            format!("tcp://{}", SocketAddr::new(ip, port))
        }
    };
    let is_unix = address.starts_with("unix:");
    out.item(LISTEN);
    out.text(LISTEN, "address", &address);
    out.text(LISTEN, "as", "stdin");
    if is_unix {
        match find('M') {
            Some(mode) => out.text(LISTEN, "mode", &format!("{mode:0>4}")),
            None => {
                out.note("`-M`", "spawn-fcgi's default, but without what the umask takes away");
                out.text(LISTEN, "mode", "0660");
            }
        }
        for (letter, fallback, key) in [('U', 'u', "owner"), ('G', 'g', "group")] {
            if let Some(account) = find(letter).or_else(|| find(fallback)) {
                out.text(LISTEN, key, account);
            }
        }
        if find('G').is_none() && find('g').is_none() && (find('U').is_some() || find('u').is_some()) {
            out.left(
                "`-U`",
                "spawn-fcgi gives the socket the user's own group, too: set `group` of `[[listen]]`",
            );
        }
    }
    if let Some(backlog) = find('b') {
        let backlog: u32 = backlog.parse().map_err(|_| {
            Wrong::new("`-b`", format!("`{backlog}` is no number"), "write a number: `-b 1024`")
        })?;
        out.bare(LISTEN, "backlog", backlog);
    }
    Ok(())
}

/// An option by its letter, and its value.
type Setting = (char, String);

/// Reads options as getopt(3) does; returns the program and its arguments as well.
fn read(arguments: &[String]) -> Result<(Vec<Setting>, Vec<String>), Wrong> {
    let mut given = Vec::new();
    let mut program = Vec::new();
    let mut left = arguments.iter().enumerate();
    while let Some((index, argument)) = left.next() {
        if argument == "--" {
            program.extend(left.map(|(_, argument)| argument.clone()));
            break;
        }
        let Some(letters) = argument.strip_prefix('-').filter(|letters| !letters.is_empty()) else {
            program.push(argument.clone());
            continue;
        };
        let place = format!("argument {} (`{}`)", index + 1, crate::text::head(argument, 60));
        let mut letters = letters.chars();
        while let Some(letter) = letters.next() {
            if ALONE.contains(letter) {
                given.push((letter, String::new()));
            } else if WITH_VALUE.contains(letter) {
                let attached = letters.as_str();
                let value = match attached {
                    "" => left.next().map(|(_, value)| value.clone()),
                    _ => Some(attached.to_owned()),
                };
                let Some(value) = value else {
                    return Err(Wrong::new(
                        place,
                        format!("`-{letter}` needs a value"),
                        "add it, or leave the option out",
                    ));
                };
                given.push((letter, value));
                break;
            } else {
                return Err(Wrong::new(
                    place,
                    format!("spawn-fcgi has no option `-{letter}`"),
                    "options of the program go after `--`, psflip's own before `spawn-fcgi`",
                ));
            }
        }
    }
    Ok((given, program))
}
