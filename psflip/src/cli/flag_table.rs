//! The flags of a configuration without a file, and the key that each sets.

use crate::config::keys::EXTEND;

/// The kind of a flag's value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A string, duration, signal or path.
    Text,
    /// A path that need not be UTF-8.
    Path,
    /// Digits.
    Number,
    /// No value on the command line; this one is set. For `notify` it is the default, since a table needs a
    /// key.
    Alone(&'static str),
    /// A command line for a shell.
    Shell,
    /// `NAME=VALUE`; repeatable.
    Variable,
    /// `NAME=VALUE` for a table of strings; repeatable.
    Entry,
    /// A path with variables; repeatable.
    Variables,
    /// A name; repeatable.
    Removed,
    /// `SIGNAL=SIGNAL` or `SIGNAL=false`; repeatable.
    Signals,
    /// `LINK=TARGET`.
    Symlink,
    /// A listener; repeatable.
    Listener,
    /// A proxy; repeatable.
    Proxy,
}

/// A flag that sets a key.
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) value: &'static str,
    /// The key, dotted; `healthcheck.*` means the table of the chosen kind of check.
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

const fn flag(
    name: &'static str,
    value: &'static str,
    key: &'static str,
    kind: Kind,
    help: &'static str,
) -> Flag {
    Flag { name, value, key, kind, help }
}

/// In the order of the help.
pub(super) const FLAGS: &[Flag] = &[
    flag(
        "listen",
        "ADDR[,KEY=VALUE...]",
        "listen",
        Kind::Listener,
        "Open this socket once, for every generation to inherit: tcp://0.0.0.0:8080, unix:///run/app.sock, unixgram:///run/log.sock; keys are those of [[listen]], such as as=stdin or mode=0660",
    ),
    flag(
        "proxy",
        "URL[,KEY=VALUE...]",
        "proxy",
        Kind::Proxy,
        "Accept connections here and forward them to the child, which gets a free port as PORT: http://0.0.0.0:8080, http://:8080 (all addresses), tcp://127.0.0.1:5432, fastcgi://127.0.0.1:9000, http+unix:///run/app.sock; keys are those of [[proxy]], such as drain=10s or forward=ADDR",
    ),
    flag("pidfile", "FILE", "pidfile", Kind::Path, "Write the pid of the active generation to this file"),
    flag(
        "control-socket",
        "FILE",
        "control.socket",
        Kind::Text,
        "Path of the control socket, for `psflip upgrade`, `status` and `stop` [default: the pidfile's path with .sock appended]",
    ),
    flag("no-control-socket", "", "control.socket", Kind::Alone("false"), "Create no control socket"),
    flag("workdir", "DIR", "workdir", Kind::Path, "The child's working directory"),
    flag("env", "NAME=VALUE", "env", Kind::Variable, "Set an environment variable of the child"),
    flag(
        "env-file",
        "[?]FILE",
        "env_file",
        Kind::Variables,
        "Set environment variables of the child from the lines NAME=VALUE of this file; with a `?` it may be missing",
    ),
    flag(
        "env-dir",
        "[?]DIR",
        "env_dir",
        Kind::Variables,
        "Set environment variables of the child from this directory, a file for each, as envdir does",
    ),
    flag("env-remove", "NAME", "env", Kind::Removed, "Remove an environment variable of the child"),
    flag(
        "healthcheck-http",
        "URL",
        "healthcheck.http.url",
        Kind::Text,
        "Healthy when a GET request is answered with a status of --healthcheck-status: http://127.0.0.1:8080/up or unix:///run/app.sock:/up; with --proxy the path alone: /up",
    ),
    flag(
        "healthcheck-method",
        "METHOD",
        "healthcheck.http.method",
        Kind::Text,
        "The method of --healthcheck-http: GET, HEAD or OPTIONS [default: GET]",
    ),
    flag(
        "healthcheck-host",
        "HOST",
        "healthcheck.http.host",
        Kind::Text,
        "The Host header of --healthcheck-http [default: host and port of the URL]",
    ),
    flag(
        "healthcheck-header",
        "NAME=VALUE",
        "healthcheck.http.headers",
        Kind::Entry,
        "Add a header to the request of --healthcheck-http",
    ),
    flag(
        "healthcheck-tcp",
        "ADDR",
        "healthcheck.tcp.address",
        Kind::Text,
        "Healthy when a TCP connection is accepted; with --proxy the default check, of the address that it forwards to",
    ),
    flag(
        "healthcheck-unix",
        "FILE",
        "healthcheck.unix.path",
        Kind::Text,
        "Healthy when a connection to this socket is accepted",
    ),
    flag(
        "healthcheck-fcgi",
        "ADDR",
        "healthcheck.fcgi.address",
        Kind::Text,
        "Healthy when a FastCGI request for --healthcheck-script is answered",
    ),
    flag(
        "healthcheck-script",
        "FILE",
        "healthcheck.fcgi.script",
        Kind::Text,
        "The script that --healthcheck-fcgi requests",
    ),
    flag(
        "healthcheck-command",
        "LINE",
        "healthcheck.command.cmd",
        Kind::Shell,
        "Healthy when this line, run by `sh -c`, exits with 0",
    ),
    flag(
        "healthcheck-docker",
        "CONTAINER",
        "healthcheck.docker.container",
        Kind::Text,
        "Healthy when the container engine reports that this container is healthy",
    ),
    flag(
        "healthcheck-notify",
        "",
        "healthcheck.notify.extend",
        Kind::Alone(EXTEND),
        "Healthy when the child reports READY=1 (sd_notify(3))",
    ),
    flag(
        "healthcheck-alive",
        "TIME",
        "healthcheck.alive.timeout",
        Kind::Text,
        "Healthy when the child still runs after this time; without --proxy the default check, with 5s",
    ),
    flag(
        "healthcheck-status",
        "CODES",
        "healthcheck.*.status",
        Kind::Text,
        "Status codes that mean healthy, for http and fcgi: 204 or 200-299 [default: 200-399]",
    ),
    flag(
        "healthcheck-after",
        "TIME",
        "healthcheck.*.after",
        Kind::Text,
        "Time from the start of the child to the first probe",
    ),
    flag(
        "healthcheck-interval",
        "TIME",
        "healthcheck.*.interval",
        Kind::Text,
        "Time from the end of a probe to the next",
    ),
    flag("healthcheck-timeout", "TIME", "healthcheck.*.timeout", Kind::Text, "Time limit for one probe"),
    flag(
        "healthcheck-successes",
        "N",
        "healthcheck.*.successes",
        Kind::Number,
        "Successful probes in a row that make a child healthy [default: 1]",
    ),
    flag(
        "healthcheck-failures",
        "N",
        "healthcheck.*.failures",
        Kind::Number,
        "Failed probes in a row after which a bake is rolled back [default: 3]",
    ),
    flag(
        "healthcheck-settle",
        "TIME",
        "healthcheck.*.settle",
        Kind::Text,
        "How long a healthy child must stay healthy before it is promoted [default: 0s]",
    ),
    flag(
        "signal",
        "SIGNAL=SIGNAL",
        "signals",
        Kind::Signals,
        "Send the child another signal in place of this one: SIGTERM=SIGQUIT; SIGWINCH=false sends none",
    ),
    flag(
        "upgrade-signal",
        "SIGNAL",
        "upgrade.signal",
        Kind::Text,
        "The signal that requests an upgrade [default: SIGHUP]",
    ),
    flag(
        "upgrade-timeout",
        "TIME",
        "upgrade.timeout",
        Kind::Text,
        "Time limit from the start of the new child until it is healthy [default: 1m]",
    ),
    flag(
        "upgrade-bake",
        "TIME",
        "upgrade.bake",
        Kind::Text,
        "How long a new child has the traffic on trial before it is promoted",
    ),
    flag(
        "upgrade-precheck",
        "LINE",
        "upgrade.precheck",
        Kind::Shell,
        "Run this line with `sh -c` before the new child starts; if it fails, the upgrade fails",
    ),
    flag(
        "upgrade-draining",
        "N",
        "upgrade.draining",
        Kind::Number,
        "How many old generations may drain at the same time, 1 to 7 [default: 1]",
    ),
    flag(
        "no-overlap",
        "",
        "upgrade.overlap",
        Kind::Alone("false"),
        "At an upgrade, stop the old child before the new one starts: for an application that can't run twice",
    ),
    flag(
        "recycle-after",
        "TIME",
        "recycle.after",
        Kind::Text,
        "Upgrade without a request when the generation has served for this time",
    ),
    flag(
        "recycle-memory",
        "SIZE",
        "recycle.memory",
        Kind::Text,
        "Upgrade without a request when the child and its descendants use more memory than this: 512M",
    ),
    flag(
        "recycle-jitter",
        "PERCENT",
        "recycle.jitter",
        Kind::Text,
        "The random part that is added to --recycle-after and subtracted from --recycle-memory [default: 10%]",
    ),
    flag(
        "recycle-interval",
        "TIME",
        "recycle.interval",
        Kind::Text,
        "Time from one look at the memory to the next [default: 1m]",
    ),
    flag(
        "shutdown-delay",
        "TIME",
        "shutdown.delay",
        Kind::Text,
        "Time from the promotion to the stop signal for the old child [default: 0s]",
    ),
    flag(
        "shutdown-signal",
        "SIGNAL",
        "shutdown.signal",
        Kind::Text,
        "The signal that stops the child gracefully [default: SIGTERM]",
    ),
    flag(
        "shutdown-timeout",
        "TIME",
        "shutdown.timeout",
        Kind::Text,
        "Time from the stop signal to SIGKILL [default: 10s]",
    ),
    flag(
        "shutdown-orphans",
        "WORD",
        "shutdown.orphans",
        Kind::Text,
        "What happens to leftover processes of the child: kill or leave [default: kill]",
    ),
    flag(
        "switch",
        "LINK=TARGET",
        "switch.symlink",
        Kind::Symlink,
        "At promotion, repoint the symlink LINK to TARGET",
    ),
    flag(
        "hook-promote",
        "LINE",
        "hooks.promote",
        Kind::Shell,
        "Run this line with `sh -c` before the promotion; if it fails, the upgrade fails",
    ),
    flag(
        "hook-promoted",
        "LINE",
        "hooks.promoted",
        Kind::Shell,
        "Run this line with `sh -c` after the promotion",
    ),
    flag(
        "hook-failed",
        "LINE",
        "hooks.failed",
        Kind::Shell,
        "Run this line with `sh -c` after a failed upgrade",
    ),
    flag(
        "hook-rolled-back",
        "LINE",
        "hooks.rolled_back",
        Kind::Shell,
        "Run this line with `sh -c` after an upgrade that was rolled back from its bake",
    ),
    flag("hook-timeout", "TIME", "hooks.timeout", Kind::Text, "Time limit for each hook [default: 30s]"),
    flag(
        "stdout",
        "TARGET",
        "output.stdout",
        Kind::Text,
        "Where the child's standard output goes: inherit, null, append:FILE or pipe:COMMAND [default: inherit]",
    ),
    flag(
        "stderr",
        "TARGET",
        "output.stderr",
        Kind::Text,
        "Where the child's standard error goes, as --stdout [default: inherit]",
    ),
    flag(
        "output-mode",
        "MODE",
        "output.mode",
        Kind::Text,
        "Permissions of a file that --stdout or --stderr creates: 0640",
    ),
    flag(
        "output-owner",
        "USER",
        "output.owner",
        Kind::Text,
        "Owner of a file that --stdout or --stderr creates",
    ),
    flag(
        "output-group",
        "GROUP",
        "output.group",
        Kind::Text,
        "Group of a file that --stdout or --stderr creates",
    ),
    flag(
        "log-format",
        "WORD",
        "log.format",
        Kind::Text,
        "Format of psflip's log: auto, text, json or journald [default: auto]",
    ),
    flag(
        "log-level",
        "WORD",
        "log.level",
        Kind::Text,
        "Log messages of this level and above: error, warn, info, debug or trace [default: info]",
    ),
    flag(
        "log-file",
        "FILE",
        "log.file",
        Kind::Text,
        "Append psflip's log to this file, which may be renamed at any time [default: standard error]",
    ),
    flag("quiet", "", "quiet", Kind::Alone("true"), "Log errors only"),
];
