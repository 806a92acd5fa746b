//! A command line of start_server, of Perl's Server::Starter (0.35).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::options::{self, Given, Takes};
use super::{Output, Translated, Wrong, literal, seconds};
use crate::config::Generation;
use crate::signal::Signal;

/// Its options, as `start_server --help` lists them.
const OPTIONS: &[(&str, Takes)] = &[
    ("port", Takes::Text),
    ("path", Takes::Text),
    ("interval", Takes::Number),
    ("log-file", Takes::Text),
    ("pid-file", Takes::Text),
    ("dir", Takes::Text),
    ("signal-on-hup", Takes::Text),
    ("signal-on-term", Takes::Text),
    ("backlog", Takes::Number),
    ("envdir", Takes::Text),
    ("enable-auto-restart", Takes::Nothing),
    ("daemonize", Takes::Nothing),
    ("auto-restart-interval", Takes::Number),
    ("kill-old-delay", Takes::Number),
    ("status-file", Takes::Text),
    ("restart", Takes::Nothing),
    ("stop", Takes::Nothing),
    ("help", Takes::Nothing),
    ("version", Takes::Nothing),
];

/// Translates the arguments of a start_server.
///
/// # Errors
/// [`Wrong`]: start_server would refuse them, or they start no server.
pub fn start_server(arguments: &[String], generation: &Generation<'_>) -> Result<Translated, Wrong> {
    let (given, program) = options::read(arguments, OPTIONS)?;
    refuse_commands(&given)?;
    if program.is_empty() {
        return Err(Wrong::new(
            "",
            "there is no program to start",
            "give the whole command line of start_server: `psflip migrate start_server --port 8080 -- ./server`",
        ));
    }
    let last = |name| given.iter().rev().find(|option| option.name == name);
    let mut out = Output::new("a command line of start_server");
    out.comment("What else differs: docs/coming-from.md, start_server.");

    out.command(&program);
    if let Some(dir) = last("dir") {
        out.text("", "workdir", &dir.value);
    }
    match last("pid-file") {
        Some(file) => {
            out.explain(
                "The active psflip's pid, which each upgrade changes; the PID that a supervisor sees stays.",
            );
            out.text("", "pidfile", &file.value);
        }
        None => out.without_pidfile(),
    }
    if let Some(dir) = last("envdir") {
        out.explain(
            "As for envdir(8): an empty file removes the variable. `?`: the directory may be missing.",
        );
        out.text("", "env_dir", &format!("?{}", dir.value));
    }
    operating(&mut out, &given)?;
    stopping(&mut out, &given)?;

    match last("interval") {
        Some(Given { value, place, .. }) => {
            let interval = duration(value, place)?;
            out.note(place, "better than the time that a child must run is a check that it serves");
            out.text("[healthcheck.alive]", "timeout", &interval);
        }
        None => {
            out.explain("start_server's `--interval`. Better than that is a check that the child serves.");
            out.text("[healthcheck.alive]", "timeout", "1s");
        }
    }
    let backlog = last("backlog");
    let mut keys: Vec<String> = Vec::new();
    for option in given.iter().filter(|option| option.name == "port") {
        let key = port(&mut out, option, backlog)?;
        refuse_second(&mut keys, key, &option.place)?;
    }
    for option in given.iter().filter(|option| option.name == "path") {
        path(&mut out, option, backlog);
        refuse_second(&mut keys, option.value.clone(), &option.place)?;
    }
    if !given.iter().any(|option| ["port", "path"].contains(&option.name)) {
        out.explain("start_server sets both also without sockets.");
        out.text("[env]", "SERVER_STARTER_PORT", "");
        out.template("[env]", "SERVER_STARTER_GENERATION", "{{ generation() }}");
    }
    Ok(out.finish(generation))
}

/// Options that start no server.
fn refuse_commands(given: &[Given]) -> Result<(), Wrong> {
    for Given { name, place, .. } in given {
        let (message, help) = match *name {
            "restart" => (
                "it is a command for a running start_server, not a setting",
                "use `psflip upgrade --wait drained -c FILE` in its place",
            ),
            "stop" => (
                "it is a command for a running start_server, not a setting",
                "use `psflip stop -c FILE` in its place",
            ),
            "help" | "version" => {
                ("it starts no server", "give the options with which your server is started")
            }
            _ => continue,
        };
        return Err(Wrong::new(place.clone(), message, help));
    }
    Ok(())
}

/// What concerns the operation of a running service.
fn operating(out: &mut Output, given: &[Given]) -> Result<(), Wrong> {
    let last = |name| given.iter().rev().find(|option| option.name == name);
    if let Some(Given { value, place, .. }) = last("log-file") {
        let command = value.trim_start().strip_prefix('|').map(str::trim);
        let target = match command {
            Some(command) => format!("pipe:{command}"),
            None => format!("append:{value}"),
        };
        if command.is_some() && last("dir").is_some() {
            out.note(place, "the command runs in `workdir`, as the server does");
        }
        out.text("[output]", "stdout", &target);
        out.text("[output]", "stderr", &target);
        if command.is_none() {
            out.explain("psflip's own log, as start_server's is there.");
            out.text("[log]", "file", value);
        }
    }
    if let Some(Given { value, place, .. }) = last("status-file") {
        let text =
            format!("`psflip status --json -c FILE` has what readers of `{value}` need; no file is written");
        out.left(place, text);
    }
    if let Some(Given { place, .. }) = last("daemonize") {
        out.note_at_top(
            place,
            "psflip stays in the foreground, as service managers want it: systemd's `Type=notify` (docs/systemd.md), \
             or `setsid -f psflip -c FILE` from a script",
        );
    }
    let auto = last("enable-auto-restart");
    let interval = last("auto-restart-interval");
    match (auto, interval) {
        (Some(Given { place, .. }), _) => {
            out.note(
                place,
                "psflip waits until old generations have drained; start_server, after twice the interval, does not",
            );
            let after = match interval {
                Some(Given { value, place, .. }) => duration(value, place)?,
                None => "6m".to_owned(),
            };
            out.text("[recycle]", "after", &after);
            out.text("[recycle]", "jitter", "0%");
        }
        (None, Some(Given { place, .. })) => {
            out.note_at_top(place, "it has no effect without `--enable-auto-restart`, so it is left out");
        }
        (None, None) => {}
    }
    Ok(())
}

/// How the old and the last worker stop.
fn stopping(out: &mut Output, given: &[Given]) -> Result<(), Wrong> {
    let last = |name| given.iter().rev().find(|option| option.name == name);
    let delay = last("kill-old-delay").map(|option| duration(&option.value, &option.place)).transpose()?;
    // Its default with --enable-auto-restart.
    let delay = delay.or_else(|| last("enable-auto-restart").map(|_| "5s".to_owned()));
    if let Some(delay) = delay {
        out.text("[shutdown]", "delay", &delay);
    }
    let on_hup = last("signal-on-hup").map(|option| signal(out, option)).transpose()?;
    if let Some(name) = &on_hup {
        out.text("[shutdown]", "signal", name);
    }
    out.explain(
        "start_server lets any number of old workers finish; if more than this drain, psflip kills the oldest.",
    );
    out.bare("[upgrade]", "draining", 7);
    out.explain("start_server waits for them without a limit; psflip kills those that still run then.");
    out.text("[shutdown]", "timeout", "1h");
    let on_term = last("signal-on-term").map(|option| signal(out, option)).transpose()?;
    let on_term = on_term.unwrap_or_else(|| "SIGTERM".to_owned());
    if on_term != "SIGTERM" {
        out.text("[signals]", "SIGTERM", &on_term);
    }
    out.explain("start_server sends SIGTERM to its workers for SIGINT, too.");
    out.text("[signals]", "SIGINT", "SIGTERM");
    Ok(())
}

/// A signal by its name, without which `kill` of Perl would fail.
fn signal(out: &mut Output, option: &Given) -> Result<String, Wrong> {
    let Given { name, value, place } = option;
    if let Ok(number) = value.parse::<i32>()
        && let Some(signal) = Signal::from_number(number)
    {
        out.note(place, format!("signal {number} is {signal} on this host; on others it may be another one"));
        return Ok(signal.to_string());
    }
    value.parse::<Signal>().map(|signal| signal.to_string()).map_err(|_| {
        let message = format!("`{}` is no signal", crate::text::head(value, 40));
        Wrong::new(place.clone(), message, format!("write a name: `--{name}=QUIT`"))
    })
}

fn duration(value: &str, place: &str) -> Result<String, Wrong> {
    seconds(value).ok_or_else(|| {
        Wrong::new(place, format!("`{value}` s is no time that psflip can wait"), "write 0 to 31536000")
    })
}

/// Two sockets with one key: of these, `server_ports` of Server::Starter returns the last.
fn refuse_second(keys: &mut Vec<String>, key: String, place: &str) -> Result<(), Wrong> {
    if keys.contains(&key) {
        let message =
            format!("two sockets have the key `{0}` in SERVER_STARTER_PORT", crate::text::head(&key, 60));
        let help = "a server finds the last one only: leave one out, or name it with its host, as in \
                    `--port 0.0.0.0:u53`";
        return Err(Wrong::new(place, message, help));
    }
    keys.push(key);
    Ok(())
}

/// `[HOST:][u]PORT[=FD]`. Returns the key that start_server gives it in `SERVER_STARTER_PORT`.
fn port(out: &mut Output, option: &Given, backlog: Option<&Given>) -> Result<String, Wrong> {
    let Given { value, place, .. } = option;
    let wrong = |message: String, help: &str| Wrong::new(place.clone(), message, help);
    let no_port = || {
        wrong(
            format!("`{}` is no port", crate::text::head(value, 60)),
            "write `8080`, `127.0.0.1:8080`, `[::1]:8080`, `u53` for UDP, and after that `=FD` for a descriptor number",
        )
    };
    let (address, fd) = match value.trim().rsplit_once('=') {
        Some((address, fd)) => (address.trim_end(), Some(fd)),
        None => (value.trim(), None),
    };
    let fd = fd.map(|fd| fd.parse::<u16>().map_err(|_| no_port())).transpose()?;
    let (host, number) = match address.rsplit_once(':') {
        Some((host, number)) => (Some(host.trim_end()), number.trim_start()),
        None => (None, address),
    };
    let (is_udp, number) = match number.strip_prefix('u') {
        Some(number) => (true, number),
        None => (false, number),
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(no_port());
    }
    let port: u16 = number.parse().map_err(|_| no_port())?;
    let (ip, key) = match host {
        None => (Ipv4Addr::UNSPECIFIED.into(), number.to_owned()),
        Some(host) => {
            let host = host.strip_prefix('[').unwrap_or(host);
            let host = host.strip_suffix(']').unwrap_or(host).trim();
            let key =
                if host.contains(':') { format!("[{host}]:{number}") } else { format!("{host}:{number}") };
            let ip = match host {
                "localhost" => {
                    out.note(place, "psflip resolves no names; `localhost` is taken as 127.0.0.1");
                    Ipv4Addr::LOCALHOST.into()
                }
                _ => host.parse::<IpAddr>().map_err(|_| {
                    wrong(
                        format!(
                            "`{}` is no IP address, and psflip resolves no names",
                            crate::text::head(host, 60)
                        ),
                        "write the address that the name has: `--port 192.0.2.1:8080`",
                    )
                })?,
            };
            (ip, key)
        }
    };
    let address = SocketAddr::new(ip, port);
    out.item("[[listen]]");
    let scheme = if is_udp { "udp" } else { "tcp" };
    out.text("[[listen]]", "address", &format!("{scheme}://{address}"));
    out.text("[[listen]]", "as", "server_starter");
    // Port 0 has the key 0, too.
    if key != address.to_string() || port == 0 {
        out.text("[[listen]]", "key", &key);
    }
    if let Some(fd) = fd {
        out.bare("[[listen]]", "fd", fd);
    }
    if address.is_ipv6() {
        out.bare("[[listen]]", "v6only", true);
    }
    if let Some(backlog) = backlog.filter(|_| !is_udp) {
        out.bare("[[listen]]", "backlog", &backlog.value);
    }
    Ok(key)
}

fn path(out: &mut Output, option: &Given, backlog: Option<&Given>) {
    let Given { value, .. } = option;
    out.item("[[listen]]");
    // In psflip, a leading `@` means the abstract namespace.
    let file = if value.starts_with('@') { format!("./{value}") } else { value.clone() };
    out.template("[[listen]]", "address", &format!("unix://{}", literal(&file)));
    out.text("[[listen]]", "as", "server_starter");
    if file != *value {
        out.text("[[listen]]", "key", value);
    }
    out.explain("start_server's sockets are open to every user; `0660` with a `group` is safer.");
    out.text("[[listen]]", "mode", "0777");
    if let Some(backlog) = backlog {
        out.bare("[[listen]]", "backlog", &backlog.value);
    }
}
