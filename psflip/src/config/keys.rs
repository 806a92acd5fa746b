//! Every table and key of a configuration, once: what the reader allows, what the JSON Schema and psflip.toml(5) say. The texts are for
//! those two alone and don't come into the binary. `docs/configuration.md` explains more.

/// A table of a configuration.
#[derive(Debug)]
pub struct Table {
    /// As it is written: `[upgrade]`; empty for the file itself.
    pub title: &'static str,
    /// What it is for: a sentence.
    pub about: &'static str,
    /// Its keys, in the order of the manual.
    pub keys: &'static [Key],
    /// Their names alone.
    pub names: &'static [&'static str],
}

/// A key.
#[derive(Debug)]
pub struct Key {
    /// As it is written.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// What holds without it.
    pub default: Default,
    /// What it means: a sentence, Markdown.
    pub about: &'static str,
}

/// What the value of a key may be. Every string may be a template.
#[derive(Debug)]
pub enum Kind {
    /// Any string.
    Text,
    /// A string that is not empty: a path, an address, a URL; with an example.
    Special(&'static str),
    /// As [`Kind::Special`], or `false`.
    OrFalse(&'static str),
    /// `"1m30s"`; whether it may be zero.
    Duration(bool),
    /// The name of a signal.
    Signal,
    /// `true` or `false`.
    Boolean,
    /// A whole number from and to.
    Number(u32, u32),
    /// One of these words.
    Word(&'static [&'static str]),
    /// One or more of these words.
    Words(&'static [&'static str]),
    /// An array of strings; whether it may be empty.
    Argv(bool),
    /// Status codes: a string or an integer.
    Status,
    /// Octal permissions.
    Mode,
    /// Any names with strings; whether `false` is allowed as well.
    Map(bool),
    /// Names of signals with names of signals, or `false`.
    Signals,
    /// A table.
    Table(&'static Table),
    /// A table of tables, of which one may be there.
    One(&'static [(&'static str, &'static Table)]),
    /// Any number of tables, up to this one.
    Many(&'static Table, u32),
}

/// What holds when a key is not written.
#[derive(Debug)]
pub enum Default {
    /// It must be written.
    Required,
    /// Nothing.
    Nothing,
    /// This value, in TOML that is JSON as well.
    Is(&'static str),
    /// What these words say.
    Told(&'static str),
}

use self::Default::{Is, Nothing, Required, Told};
use self::Kind::{
    Argv, Boolean, Duration, Map, Mode, Number, One, OrFalse, Signal, Signals, Special, Status, Text, Word,
    Words,
};

macro_rules! tables {
    ($($id:ident $title:literal $about:literal { $($name:literal: $kind:expr, $default:expr, $says:literal;)* })*) => {
        $(#[doc = $about]
        pub const $id: Table = Table {
            title: $title,
            about: $about,
            keys: &[$(Key { name: $name, kind: $kind, default: $default, about: $says }),*],
            names: &[$($name),*],
        };)*
    };
}

tables! {
    TOP "" "The keys of the file itself stand above the first table." {
        "cmd": Argv(false), Required, "The child's argv, one string per argument, without a shell. The first is looked up as by execvp(3), relative to `workdir`.";
        "workdir": Special("/srv/app/current"), Told("where psflip was started"), "The child's working directory.";
        "pidfile": Special("/run/app/psflip.pid"), Nothing, "Where the active generation's pid is written.";
        "quiet": Boolean, Is("false"), "No log lines of psflip's own below `error`.";
        "locals": Map(false), Nothing, "Strings for reuse by `local('name')`, rendered first, in the order of the file.";
        "env": Map(true), Nothing, "Changes to the child's environment: a string sets a variable, `false` removes it.";
        "signals": Signals, Nothing, "What the child gets in place of a signal that psflip gets: another signal, or `false` for none.";
        "upgrade": Kind::Table(&UPGRADE), Nothing, "How the service is upgraded.";
        "shutdown": Kind::Table(&SHUTDOWN), Nothing, "How a child is stopped.";
        "healthcheck": One(HEALTHCHECKS), Told("`alive`, 5s"), "How psflip learns that a child is healthy: at most one kind.";
        "listen": Kind::Many(&LISTEN, 64), Nothing, "Sockets that psflip opens once, and that every generation's child inherits.";
        "switch": Kind::Table(&SWITCH), Nothing, "What is switched to the new child at promotion.";
        "hooks": Kind::Table(&HOOKS), Nothing, "Programs that are run on the way.";
        "control": Kind::Table(&CONTROL), Nothing, "Where operators reach psflip.";
        "log": Kind::Table(&LOG), Nothing, "psflip's own log, on standard error.";
    }
    UPGRADE "[upgrade]" "How the service is upgraded." {
        "signal": Signal, Is("\"SIGHUP\""), "Asks for an upgrade.";
        "timeout": Duration(false), Is("\"1m\""), "From spawn to healthy. A child that takes longer is given up, and the old one keeps running.";
    }
    SHUTDOWN "[shutdown]" "How a child is stopped." {
        "delay": Duration(true), Is("\"0s\""), "From promotion to the signal to the old child.";
        "signal": Signal, Is("\"SIGTERM\""), "Stops the child gracefully.";
        "timeout": Duration(true), Is("\"10s\""), "From the signal to SIGKILL. `0s`: SIGKILL at once.";
        "orphans": Word(&["kill", "leave"]), Is("\"kill\""), "What happens to the rest of the child's process tree.";
    }
    ALIVE "[healthcheck.alive]" "Healthy when the child still runs after a while." {
        "timeout": Duration(true), Is("\"5s\""), "How long; `0s`: as soon as it was executed.";
    }
    COMMAND "[healthcheck.command]" "Healthy when a command exits with 0." {
        "cmd": Argv(false), Required, "Its argv. It has the child's environment and directory, and `PSFLIP_CHILD_PID`.";
        "after": Duration(true), Is("\"0s\""), "From the child's start to the first probe.";
        "interval": Duration(false), Is("\"1s\""), "From the end of a probe to the next.";
        "timeout": Duration(false), Is("\"5s\""), "For one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
    }
    DOCKER "[healthcheck.docker]" "Healthy when the container engine reports that a container is." {
        "container": Special("web-{{ blue_green() }}"), Required, "Its name or id.";
        "socket": Special("/var/run/docker.sock"), Is("\"/var/run/docker.sock\""), "Where the engine listens.";
        "after": Duration(true), Is("\"0s\""), "From the child's start to the first probe.";
        "interval": Duration(false), Is("\"1s\""), "From the end of a probe to the next.";
        "timeout": Duration(false), Is("\"5s\""), "For one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
    }
    TCP "[healthcheck.tcp]" "Healthy when a TCP connection is accepted." {
        "address": Special("127.0.0.1:8080"), Required, "Where to connect: `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080` or `:8080`.";
        "after": Duration(true), Is("\"0s\""), "From the child's start to the first probe.";
        "interval": Duration(false), Is("\"100ms\""), "From the end of a probe to the next.";
        "timeout": Duration(false), Is("\"5s\""), "For one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
    }
    UNIX "[healthcheck.unix]" "Healthy when a connection to a Unix socket is accepted." {
        "path": Special("/run/app/app.sock"), Required, "The socket; `@name` is the abstract namespace (unix(7)).";
        "after": Duration(true), Is("\"0s\""), "From the child's start to the first probe.";
        "interval": Duration(false), Is("\"100ms\""), "From the end of a probe to the next.";
        "timeout": Duration(false), Is("\"5s\""), "For one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
    }
    HTTP "[healthcheck.http]" "Healthy when an HTTP request is answered with one of some codes." {
        "url": Special("http://127.0.0.1:8080/up"), Required, "`http://host:port/path?query` or `unix:///run/app.sock:/path`. No HTTPS: for TLS use `command` with curl.";
        "method": Word(&["GET", "HEAD", "OPTIONS"]), Is("\"GET\""), "The method of the request.";
        "host": Special("app.example"), Told("host and port of the URL; `localhost` for a Unix socket"), "The header `Host`.";
        "headers": Map(false), Nothing, "More headers of the request, by their names.";
        "status": Status, Is("\"200-399\""), "The codes: `204`, `\"200,204,300-399\"`.";
        "after": Duration(true), Is("\"0s\""), "From the child's start to the first probe.";
        "interval": Duration(false), Is("\"100ms\""), "From the end of a probe to the next.";
        "timeout": Duration(false), Is("\"5s\""), "For one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
    }
    FCGI "[healthcheck.fcgi]" "Healthy when a FastCGI request is answered with one of some codes." {
        "address": Special("unix:///run/app/app.sock"), Required, "Where to connect: a socket's path or `127.0.0.1:9000`.";
        "script": Special("/srv/app/ping.php"), Required, "`SCRIPT_FILENAME` and `SCRIPT_NAME`: a file, or php-fpm's `ping.path`.";
        "query": Text, Is("\"\""), "`QUERY_STRING`, without the `?`.";
        "params": Map(false), Nothing, "Parameters that are added to the usual ones of a GET, or replace them.";
        "status": Status, Is("\"200-399\""), "The codes: `204`, `\"200,204,300-399\"`.";
        "after": Duration(true), Is("\"0s\""), "From the child's start to the first probe.";
        "interval": Duration(false), Is("\"100ms\""), "From the end of a probe to the next.";
        "timeout": Duration(false), Is("\"5s\""), "For one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
    }
    NOTIFY "[healthcheck.notify]" "Healthy when the child reports `READY=1` (sd_notify(3))." {
        "extend": Duration(true), Is("\"10m\""), "How much longer than `upgrade.timeout` the child may ask psflip to wait.";
    }
    LISTEN "[[listen]]" "A socket that psflip opens once, and that every generation's child inherits." {
        "address": Special("tcp://0.0.0.0:8080"), Required, "`tcp://IP:PORT`, `udp://IP:PORT`, `unix://PATH`, `unixgram://PATH`, `unixpacket://PATH`, or `systemd:NAME`.";
        "name": Special("web"), Told("`unknown`; of `systemd:NAME` that name"), "What `LISTEN_FDNAMES` says.";
        "as": Words(&["listen_fds", "stdin", "server_starter", "einhorn"]), Is("\"listen_fds\""), "How the child is told.";
        "mode": Mode, Told("what the umask leaves of 0777"), "The permissions of a Unix socket's file.";
        "owner": Special("www-data"), Told("psflip's user"), "The file's owner: a name or a number.";
        "group": Special("www-data"), Told("psflip's group"), "The file's group: a name or a number.";
        "backlog": Number(1, 65535), Is("4096"), "How many connections may wait to be accepted.";
        "reuseport": Boolean, Is("false"), "`SO_REUSEPORT`: other processes may listen on the same port.";
        "v6only": Boolean, Told("as the kernel does"), "`IPV6_V6ONLY`.";
        "nodelay": Boolean, Told("as the child leaves it"), "`TCP_NODELAY`, which accepted connections inherit.";
        "nonblock": Boolean, Told("as the child leaves it"), "`O_NONBLOCK` of the socket itself.";
    }
    SWITCH "[switch]" "What is switched to the new child at promotion." {
        "symlink": Kind::Table(&SYMLINK), Nothing, "A symbolic link.";
    }
    SYMLINK "[switch.symlink]" "A symbolic link that is pointed to the new child, atomically." {
        "path": Special("/run/app/app.sock"), Required, "The link.";
        "to": Special("/run/app/{{ blue_green() }}.sock"), Required, "What it points to.";
    }
    HOOKS "[hooks]" "Programs that are run on the way, each an argv without a shell." {
        "promote": Argv(true), Is("[]"), "Runs when the child is healthy, before promotion. If it fails, the upgrade fails.";
        "promoted": Argv(true), Is("[]"), "Runs when the generation is the service.";
        "failed": Argv(true), Is("[]"), "Runs in the generation that serves on, after an upgrade that failed.";
        "timeout": Duration(false), Is("\"30s\""), "How long each may take.";
    }
    CONTROL "[control]" "Where operators reach psflip: `psflip upgrade`, `status` and `stop`." {
        "socket": OrFalse("/run/app/psflip.sock"), Told("the pidfile's path with `.sock` appended; without a pidfile `psflip.sock` in `$RUNTIME_DIRECTORY`"), "The socket; `false`: none.";
    }
    LOG "[log]" "psflip's own log, on standard error." {
        "format": Word(&["auto", "text", "json", "journald"]), Is("\"auto\""), "How a line looks. `auto`: `journald` where standard error is the journal, else `text`.";
        "level": Word(&["error", "warn", "info", "debug", "trace"]), Is("\"info\""), "The least important lines that are written.";
    }
}

/// The kinds of `[healthcheck]`.
pub const HEALTHCHECKS: &[(&str, &Table)] = &[
    ("alive", &ALIVE),
    ("command", &COMMAND),
    ("docker", &DOCKER),
    ("tcp", &TCP),
    ("unix", &UNIX),
    ("http", &HTTP),
    ("fcgi", &FCGI),
    ("notify", &NOTIFY),
];
