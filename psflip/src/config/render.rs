//! Writes a [`Plan`] as TOML that would be read as the same plan, with every default filled in: `psflip
//! check`.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::Path;

use super::listener::Listener;
use super::output::{FileOptions, Output};
use super::plan::{Control, EnvChange, EnvSource, Health, Hooks, Pace, Plan, Recycle, Symlink};
use super::proxy::{Proxy, ProxyKind};
use super::scalar::{spell, spell_size};
use super::words::Word as _;
use crate::text::is_hidden;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.raw_cmd.is_some() {
            writeln!(f, "# not UTF-8, which no file can hold: each \\xNN below is one byte")?;
        }
        writeln!(f, "cmd = {}", array(&self.cmd))?;
        if let Some(workdir) = &self.workdir {
            writeln!(f, "workdir = {}", path(workdir))?;
        }
        if let Some(pidfile) = &self.pidfile {
            writeln!(f, "pidfile = {}", path(pidfile))?;
        }
        writeln!(f, "quiet = {}", self.quiet)?;
        env_sources(f, &self.env_sources)?;
        if !self.env.is_empty() {
            writeln!(f, "\n[env]")?;
        }
        for change in &self.env {
            match change {
                EnvChange::Set(name, value) => writeln!(f, "{} = {}", key(name), string(value))?,
                EnvChange::Remove(name) => writeln!(f, "{} = false", key(name))?,
            }
        }
        if !self.signals.is_empty() {
            writeln!(f, "\n[signals]")?;
        }
        for (received, sent) in &self.signals {
            match sent {
                Some(sent) => writeln!(f, "{} = \"{sent}\"", key(&received.to_string()))?,
                None => writeln!(f, "{} = false", key(&received.to_string()))?,
            }
        }
        writeln!(f, "\n[upgrade]")?;
        writeln!(f, "signal = \"{}\"", self.upgrade.signal)?;
        writeln!(f, "timeout = \"{}\"", spell(self.upgrade.timeout))?;
        if let Some(bake) = self.upgrade.bake {
            writeln!(f, "bake = \"{}\"", spell(bake))?;
        }
        if self.upgrade.draining > 1 {
            writeln!(f, "draining = {}", self.upgrade.draining)?;
        }
        if !self.upgrade.overlap {
            writeln!(f, "overlap = false")?;
        }
        if !self.upgrade.precheck.is_empty() {
            writeln!(f, "precheck = {}", array(&self.upgrade.precheck))?;
        }
        recycle(f, &self.recycle)?;
        writeln!(f, "\n[shutdown]")?;
        writeln!(f, "delay = \"{}\"", spell(self.shutdown.delay))?;
        writeln!(f, "signal = \"{}\"", self.shutdown.signal)?;
        writeln!(f, "timeout = \"{}\"", spell(self.shutdown.timeout))?;
        writeln!(f, "orphans = \"{}\"", self.shutdown.orphans.word())?;
        health(f, &self.health)?;
        for one in &self.listeners {
            listener(f, one)?;
        }
        for one in &self.proxies {
            proxy(f, one)?;
        }
        if let Some(Symlink { path: link, to }) = &self.switch {
            writeln!(f, "\n[switch]")?;
            writeln!(f, "symlink = {{ path = {}, to = {} }}", path(link), path(to))?;
        }
        let Hooks { promote, promoted, failed, rolled_back, timeout } = &self.hooks;
        let hooks =
            [("promote", promote), ("promoted", promoted), ("failed", failed), ("rolled_back", rolled_back)];
        if hooks.iter().any(|(_, argv)| !argv.is_empty()) {
            writeln!(f, "\n[hooks]")?;
            for (name, argv) in hooks {
                writeln!(f, "{name} = {}", array(argv))?;
            }
            writeln!(f, "timeout = \"{}\"", spell(*timeout))?;
        }
        output(f, &self.output)?;
        match &self.control {
            Control::At(socket) => writeln!(f, "\n[control]\nsocket = {}", path(socket))?,
            Control::Off => writeln!(f, "\n[control]\nsocket = false")?,
            Control::Runtime(socket) => {
                writeln!(f, "\n[control]\n# socket = {} # the default, in $RUNTIME_DIRECTORY", path(socket))?;
            }
            Control::Default => {
                if let Some(socket) = self.control.path(self.pidfile.as_deref()) {
                    writeln!(f, "\n[control]\n# socket = {} # the default", path(&socket))?;
                }
            }
        }
        writeln!(f, "\n[log]")?;
        writeln!(f, "format = \"{}\"", self.log.format.word())?;
        writeln!(f, "level = \"{}\"", self.log.level.word())?;
        if let Some(file) = &self.log.file {
            writeln!(f, "file = {}", path(file))?;
        }
        Ok(())
    }
}

fn recycle(f: &mut fmt::Formatter<'_>, recycle: &Recycle) -> fmt::Result {
    let Recycle { after, memory, jitter, interval } = recycle;
    if after.is_none() && memory.is_none() {
        return Ok(());
    }
    writeln!(f, "\n[recycle]")?;
    if let Some(after) = after {
        writeln!(f, "after = \"{}\"", spell(*after))?;
    }
    if let Some(memory) = memory {
        writeln!(f, "memory = \"{}\"", spell_size(*memory))?;
    }
    writeln!(f, "jitter = \"{jitter}%\"")?;
    match memory {
        Some(_) => writeln!(f, "interval = \"{}\"", spell(*interval)),
        None => Ok(()),
    }
}

/// `[output]`, unless all of it is inherited.
fn output(f: &mut fmt::Formatter<'_>, output: &Output) -> fmt::Result {
    if *output == Output::default() {
        return Ok(());
    }
    writeln!(f, "\n[output]")?;
    for (name, target) in output.targets() {
        writeln!(f, "{name} = {}", string(&target.to_string()))?;
    }
    let FileOptions { mode, owner, group } = &output.files;
    if let Some(mode) = mode {
        writeln!(f, "mode = \"{mode:04o}\"")?;
    }
    for (name, account) in [("owner", owner), ("group", group)] {
        if let Some(account) = account {
            writeln!(f, "{name} = {}", string(account))?;
        }
    }
    Ok(())
}

/// The files that set variables, and the names that each sets, but no value: it may be a secret.
fn env_sources(f: &mut fmt::Formatter<'_>, sources: &[EnvSource]) -> fmt::Result {
    for name in ["env_file", "env_dir"] {
        let listed: Vec<&EnvSource> = sources.iter().filter(|source| source.key() == name).collect();
        if listed.is_empty() {
            continue;
        }
        let paths: Vec<String> = listed
            .iter()
            .map(|source| format!("{}{}", if source.optional { "?" } else { "" }, source.path.display()))
            .collect();
        writeln!(f, "{name} = {}", array(&paths))?;
        for (source, path) in listed.iter().zip(&paths) {
            let names: Vec<String> = source
                .changes
                .iter()
                .map(|change| match change {
                    EnvChange::Set(name, _) => name.clone(),
                    EnvChange::Remove(name) => format!("{name} (removed)"),
                })
                .collect();
            let names = if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
            writeln!(f, "# {path} sets: {}", crate::text::escaped(&names))?;
        }
    }
    Ok(())
}

fn health(f: &mut fmt::Formatter<'_>, health: &Health) -> fmt::Result {
    match health {
        Health::Alive { timeout } => {
            writeln!(f, "\n[healthcheck.alive]")?;
            writeln!(f, "timeout = \"{}\"", spell(*timeout))
        }
        Health::Command { cmd, pace: when } => {
            writeln!(f, "\n[healthcheck.command]")?;
            writeln!(f, "cmd = {}", array(cmd))?;
            pace(f, when)
        }
        Health::Tcp { text, pace: when, .. } => {
            writeln!(f, "\n[healthcheck.tcp]")?;
            writeln!(f, "address = {}", string(text))?;
            pace(f, when)
        }
        Health::Unix { path: socket, pace: when } => {
            writeln!(f, "\n[healthcheck.unix]")?;
            writeln!(f, "path = {}", string(&socket_path(&socket.to_string_lossy())))?;
            pace(f, when)
        }
        Health::Http { request, status, pace: when } => {
            writeln!(f, "\n[healthcheck.http]")?;
            writeln!(f, "url = {}", string(&request.url))?;
            writeln!(f, "method = \"{}\"", request.method.as_str())?;
            writeln!(f, "host = {}", string(&request.host))?;
            writeln!(f, "status = \"{}\"", codes(status))?;
            pace(f, when)?;
            if !request.headers.is_empty() {
                writeln!(f, "\n[healthcheck.http.headers]")?;
            }
            let mut headers = request.headers.iter();
            headers.try_for_each(|(name, value)| writeln!(f, "{} = {}", key(name), string(value)))
        }
        Health::Fcgi { request, status, pace: when } => {
            writeln!(f, "\n[healthcheck.fcgi]")?;
            writeln!(f, "address = {}", string(&request.address))?;
            writeln!(f, "script = {}", string(&request.script))?;
            writeln!(f, "query = {}", string(&request.query))?;
            writeln!(f, "status = \"{}\"", codes(status))?;
            pace(f, when)?;
            if !request.params.is_empty() {
                writeln!(f, "\n[healthcheck.fcgi.params]")?;
            }
            request
                .params
                .iter()
                .try_for_each(|(name, value)| writeln!(f, "{} = {}", key(name), string(value)))
        }
        Health::Docker { container, socket, pace: when } => {
            writeln!(f, "\n[healthcheck.docker]")?;
            writeln!(f, "container = {}", string(container))?;
            writeln!(f, "socket = {}", string(&socket_path(&socket.to_string_lossy())))?;
            pace(f, when)
        }
        Health::Notify { extend, settle } => {
            writeln!(f, "\n[healthcheck.notify]")?;
            writeln!(f, "extend = \"{}\"", spell(*extend))?;
            writeln!(f, "settle = \"{}\"", spell(*settle))
        }
    }
}

/// Status codes and ranges in the syntax of `status`.
fn codes(status: &[RangeInclusive<u16>]) -> String {
    let codes: Vec<String> = status
        .iter()
        .map(|range| match (range.start(), range.end()) {
            (from, to) if from == to => from.to_string(),
            (from, to) => format!("{from}-{to}"),
        })
        .collect();
    codes.join(",")
}

fn listener(f: &mut fmt::Formatter<'_>, listener: &Listener) -> fmt::Result {
    let Listener { address, name, protocols, fd, key, options } = listener;
    writeln!(f, "\n[[listen]]")?;
    writeln!(f, "address = {}", string(&address.to_string()))?;
    writeln!(f, "name = {}", string(name))?;
    let protocols: Vec<String> = protocols.iter().map(|protocol| protocol.as_str().to_owned()).collect();
    writeln!(f, "as = {}", array(&protocols))?;
    if let Some(fd) = fd {
        writeln!(f, "fd = {fd}")?;
    }
    if let Some(key) = key {
        writeln!(f, "key = {}", string(key))?;
    }
    socket_options(f, listener)?;
    for (key, value) in [("nodelay", options.nodelay), ("nonblock", options.nonblock)] {
        if let Some(value) = value {
            writeln!(f, "{key} = {value}")?;
        }
    }
    Ok(())
}

/// The options that `[[listen]]` and `[[proxy]]` have.
fn socket_options(f: &mut fmt::Formatter<'_>, listener: &Listener) -> fmt::Result {
    let Listener { address, options, .. } = listener;
    if let Some(mode) = options.mode {
        writeln!(f, "mode = \"{mode:04o}\"")?;
    }
    for (key, account) in [("owner", &options.owner), ("group", &options.group)] {
        if let Some(account) = account {
            writeln!(f, "{key} = {}", string(account))?;
        }
    }
    if address.is_connected_to() {
        writeln!(f, "backlog = {}", options.backlog)?;
    }
    if address.is_internet() {
        writeln!(f, "reuseport = {}", options.reuseport)?;
    }
    if let Some(v6only) = options.v6only {
        writeln!(f, "v6only = {v6only}")?;
    }
    Ok(())
}

fn proxy(f: &mut fmt::Formatter<'_>, proxy: &Proxy) -> fmt::Result {
    writeln!(f, "\n[[proxy]]")?;
    writeln!(f, "listen = {}", string(&proxy.socket.address.to_string()))?;
    writeln!(f, "forward = {}", string(&proxy.forward.to_string()))?;
    writeln!(f, "protocol = \"{}\"", proxy.protocol.as_str())?;
    writeln!(f, "drain = \"{}\"", spell(proxy.drain))?;
    if let Some(header) = proxy.send_proxy_protocol {
        writeln!(f, "send_proxy_protocol = \"{}\"", header.word())?;
    }
    writeln!(f, "accept_proxy_protocol = {}", proxy.accept_proxy_protocol)?;
    if proxy.protocol == ProxyKind::Http {
        writeln!(f, "forwarded = \"{}\"", proxy.forwarded.word())?;
        writeln!(f, "pool = {}", proxy.pool)?;
    }
    socket_options(f, &proxy.socket)
}

fn pace(f: &mut fmt::Formatter<'_>, pace: &Pace) -> fmt::Result {
    writeln!(f, "after = \"{}\"", spell(pace.after))?;
    writeln!(f, "interval = \"{}\"", spell(pace.interval))?;
    writeln!(f, "timeout = \"{}\"", spell(pace.timeout))?;
    writeln!(f, "successes = {}", pace.successes)?;
    writeln!(f, "failures = {}", pace.failures)?;
    writeln!(f, "settle = \"{}\"", spell(pace.settle))
}

fn array(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| string(item)).collect();
    format!("[{}]", items.join(", "))
}

fn path(path: &Path) -> String {
    string(&crate::text::lossy(path))
}

/// A key, quoted if necessary.
pub(super) fn key(name: &str) -> String {
    let bare =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bare { name.to_owned() } else { basic(name) }
}

/// A socket's path, with a scheme if it could be mistaken for another one.
fn socket_path(path: &str) -> String {
    let odd = path.contains("://") || path.starts_with("unix:") || path.starts_with("tcp:");
    if odd { format!("unix://{path}") } else { path.to_owned() }
}

/// A TOML string that is read as `text`. Text that looks like a template becomes a template that renders to
/// it.
fn string(text: &str) -> String {
    let signs = |at: &usize| matches!(text.as_bytes().get(*at..at + 2), Some(b"{{" | b"{%" | b"{#"));
    let Some(first) = (0..text.len()).find(signs) else { return basic(text) };
    let end = (first..text.len()).rev().find(signs).map_or(text.len(), |last| last + 2);
    let literal = text[first..end].replace('\\', "\\\\").replace('\'', "\\'");
    basic(&format!("{}{{{{ '{literal}' }}}}{}", &text[..first], &text[end..]))
}

/// A TOML basic string.
pub(super) fn basic(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_hidden(c) && u32::from(c) > 0xffff => out.push_str(&format!("\\U{:08X}", u32::from(c))),
            c if is_hidden(c) => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
