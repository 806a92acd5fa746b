//! The table of every table and key of a configuration: what the reader, the JSON Schema and psflip.toml(5)
//! know of them. The reader takes each name, limit, word and default from here. The texts are only for the
//! schema and the manual; they stand apart from the keys, so that they are not in the binary.
//! `docs/configuration.md` explains more.

use super::listener::Protocol;
use super::plan::{HttpMethod, LogFormat, Orphans};
use super::words::Word as _;

/// A table of a configuration.
#[derive(Debug)]
pub struct Table {
    /// As written: `[upgrade]`; empty for the file itself.
    pub title: &'static str,
    /// Its keys, in the order of the manual.
    pub keys: &'static [Key],
}

/// A key.
#[derive(Debug)]
pub struct Key {
    /// As written.
    pub name: &'static str,
    /// The values it accepts.
    pub kind: Kind,
    /// What applies without it.
    pub absent: Absent,
}

/// The values that a key accepts. Every string may be a template.
#[derive(Debug)]
pub enum Kind {
    /// Any string.
    Text,
    /// A string that is not empty: a path, an address, a URL; with an example.
    Special(&'static str),
    /// As [`Kind::Special`], or `false`.
    OrFalse(&'static str),
    /// A duration such as `"1m30s"`.
    Duration(Zero),
    /// The name of a signal.
    Signal,
    /// `true` or `false`.
    Boolean,
    /// A whole number in this range, limits included.
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
    /// A table of strings with any keys; whether a value may be `false` as well.
    Map(bool),
    /// A table of signal names; the values are signal names or `false`.
    Signals,
    /// A table.
    Table(&'static Table),
    /// A table of tables, at most one of which may be present.
    One(&'static [(&'static str, &'static Table)]),
    /// An array of tables, with this limit.
    Many(&'static Table, u32),
}

/// Whether a duration may be zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zero {
    /// It may.
    Allowed,
    /// It may not, for this reason.
    Refused(&'static str),
}

/// What applies if a key is absent.
#[derive(Debug)]
pub enum Absent {
    /// The key is required.
    Required,
    /// Nothing.
    Nothing,
    /// This value, in TOML that is JSON as well.
    Is(&'static str),
    /// These words describe it.
    Described(&'static str),
}

impl Absent {
    /// The default value; a string without its quotes.
    pub(super) fn value(&self) -> Option<&'static str> {
        match *self {
            Self::Is(value) => {
                Some(value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value))
            }
            Self::Required | Self::Nothing | Self::Described(_) => None,
        }
    }
}

impl Table {
    /// The key with this name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The names of its keys.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.keys.iter().map(|key| key.name).collect()
    }

    /// Its purpose: a sentence.
    #[must_use]
    pub fn about(&self) -> &'static str {
        texts(self.title).0
    }

    /// The meaning of one of its keys: sentences in Markdown.
    #[must_use]
    pub fn meaning(&self, key: &Key) -> &'static str {
        texts(self.title).1.iter().find(|(name, _)| *name == key.name).map_or("", |(_, text)| text)
    }

    /// The tables with fixed keys below it, in the order of the manual.
    #[must_use]
    pub fn below(&self) -> Vec<&'static Self> {
        let mut found = Vec::new();
        for key in self.keys {
            let inner: Vec<&'static Self> = match key.kind {
                Kind::Table(inner) | Kind::Many(inner, _) => vec![inner],
                Kind::One(kinds) => kinds.iter().map(|(_, inner)| *inner).collect(),
                _ => continue,
            };
            for table in inner {
                found.push(table);
                found.extend(table.below());
            }
        }
        found
    }
}

use self::Absent::{Described, Is, Nothing, Required};
use self::Kind::{
    Argv, Boolean, Duration, Map, Mode, Number, One, OrFalse, Signal, Signals, Special, Status, Text, Word,
    Words,
};
use self::Zero::{Allowed, Refused};

macro_rules! tables {
    ($($id:ident $title:literal $about:literal { $($name:literal: $kind:expr, $absent:expr, $says:literal;)* })*) => {
        $(#[doc = $about]
        pub static $id: Table = Table {
            title: $title,
            keys: &[$(Key { name: $name, kind: $kind, absent: $absent }),*],
        };)*

        /// The purpose of a table, and the meanings of its keys.
        fn texts(title: &str) -> (&'static str, &'static [(&'static str, &'static str)]) {
            match title {
                $($title => ($about, &[$(($name, $says)),*]),)*
                _ => ("", &[]),
            }
        }
    };
}

/// Why some durations can't be zero.
const NEVER_HEALTHY: Zero = Refused("no new child could ever become healthy in time");
const NO_PAUSE: Zero = Refused("probes without a pause would load the host");
const NO_PROBE: Zero = Refused("no probe could ever succeed in time");
const NO_HOOK: Zero = Refused("no hook could ever exit in time");

tables! {
    TOP "" "Keys outside of any table must stand above the first table." {
        "cmd": Argv(false), Required, "The child's argv, one string per argument, without a shell. The first is looked up as by execvp(3), relative to `workdir`.";
        "workdir": Special("/srv/app/current"), Described("where psflip was started"), "The child's working directory.";
        "pidfile": Special("/run/app/psflip.pid"), Nothing, "The file to which psflip writes the pid of the active generation.";
        "quiet": Boolean, Is("false"), "psflip logs errors only.";
        "locals": Map(false), Nothing, "Strings for reuse in templates by `local('name')`. They are rendered before all other values, in the order of the file.";
        "env": Map(true), Nothing, "Changes to the child's environment: a string sets a variable, `false` removes it.";
        "signals": Signals, Nothing, "Translation of signals: when psflip receives the signal that a key names, it sends the child the signal in the value instead, or none if the value is `false`.";
        "upgrade": Kind::Table(&UPGRADE), Nothing, "How the service is upgraded.";
        "shutdown": Kind::Table(&SHUTDOWN), Nothing, "How a child is stopped.";
        "healthcheck": One(HEALTHCHECKS), Described("`alive`, 5s"), "The health check that a new child must pass before it is promoted: at most one kind.";
        "listen": Kind::Many(&LISTEN, 64), Nothing, "Sockets that psflip opens once and that the child of every generation inherits.";
        "switch": Kind::Table(&SWITCH), Nothing, "What psflip switches to the new child at promotion.";
        "hooks": Kind::Table(&HOOKS), Nothing, "Commands that psflip runs at a promotion or after a failed upgrade.";
        "control": Kind::Table(&CONTROL), Nothing, "The control socket for `psflip upgrade`, `status` and `stop`.";
        "log": Kind::Table(&LOG), Nothing, "psflip's own log, on standard error.";
    }
    UPGRADE "[upgrade]" "How the service is upgraded." {
        "signal": Signal, Is("\"SIGHUP\""), "The signal that requests an upgrade.";
        "timeout": Duration(NEVER_HEALTHY), Is("\"1m\""), "How long a new child may take from its start until it is healthy. If it takes longer, the upgrade fails and the old child keeps running.";
    }
    SHUTDOWN "[shutdown]" "How a child is stopped." {
        "delay": Duration(Allowed), Is("\"0s\""), "Time from the promotion to the stop signal for the old child.";
        "signal": Signal, Is("\"SIGTERM\""), "The signal that stops the child gracefully.";
        "timeout": Duration(Allowed), Is("\"10s\""), "Time from the stop signal to SIGKILL. `0s`: SIGKILL at once.";
        "orphans": Word(Orphans::WORDS), Is("\"kill\""), "What happens to leftover processes: descendants of the child that still run after it exited.";
    }
    ALIVE "[healthcheck.alive]" "Healthy when the child still runs after some time." {
        "timeout": Duration(Allowed), Is("\"5s\""), "How long the child must run; `0s`: healthy as soon as it was executed.";
    }
    COMMAND "[healthcheck.command]" "Healthy when a command exits with 0." {
        "cmd": Argv(false), Required, "The command's argv. It runs in the child's environment and working directory, with `PSFLIP_CHILD_PID` set.";
        "after": Duration(Allowed), Is("\"0s\""), "Time from the start of the child to the first probe.";
        "interval": Duration(NO_PAUSE), Is("\"1s\""), "Time from the end of a probe to the next.";
        "timeout": Duration(NO_PROBE), Is("\"5s\""), "Time limit for one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
    }
    DOCKER "[healthcheck.docker]" "Healthy when the container engine reports that a container is healthy." {
        "container": Special("web-{{ blue_green() }}"), Required, "The container's name or id.";
        "socket": Special("/var/run/docker.sock"), Is("\"/var/run/docker.sock\""), "The Unix socket of the engine.";
        "after": Duration(Allowed), Is("\"0s\""), "Time from the start of the child to the first probe.";
        "interval": Duration(NO_PAUSE), Is("\"1s\""), "Time from the end of a probe to the next.";
        "timeout": Duration(NO_PROBE), Is("\"5s\""), "Time limit for one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
    }
    TCP "[healthcheck.tcp]" "Healthy when a TCP connection is accepted." {
        "address": Special("127.0.0.1:8080"), Required, "The address to connect to: `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080` or `:8080`.";
        "after": Duration(Allowed), Is("\"0s\""), "Time from the start of the child to the first probe.";
        "interval": Duration(NO_PAUSE), Is("\"100ms\""), "Time from the end of a probe to the next.";
        "timeout": Duration(NO_PROBE), Is("\"5s\""), "Time limit for one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
    }
    UNIX "[healthcheck.unix]" "Healthy when a connection to a Unix socket is accepted." {
        "path": Special("/run/app/app.sock"), Required, "The path of the socket; `@name` is a name in the abstract namespace (unix(7)).";
        "after": Duration(Allowed), Is("\"0s\""), "Time from the start of the child to the first probe.";
        "interval": Duration(NO_PAUSE), Is("\"100ms\""), "Time from the end of a probe to the next.";
        "timeout": Duration(NO_PROBE), Is("\"5s\""), "Time limit for one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
    }
    HTTP "[healthcheck.http]" "Healthy when an HTTP request is answered with an accepted status code." {
        "url": Special("http://127.0.0.1:8080/up"), Required, "`http://host:port/path?query` or `unix:///run/app.sock:/path`. No HTTPS: for TLS use `command` with curl.";
        "method": Word(HttpMethod::WORDS), Is("\"GET\""), "The method of the request.";
        "host": Special("app.example"), Described("host and port of the URL; `localhost` for a Unix socket"), "The `Host` header.";
        "headers": Map(false), Nothing, "Additional headers of the request.";
        "status": Status, Is("\"200-399\""), "The accepted status codes: `204`, `\"200,204,300-399\"`.";
        "after": Duration(Allowed), Is("\"0s\""), "Time from the start of the child to the first probe.";
        "interval": Duration(NO_PAUSE), Is("\"100ms\""), "Time from the end of a probe to the next.";
        "timeout": Duration(NO_PROBE), Is("\"5s\""), "Time limit for one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
    }
    FCGI "[healthcheck.fcgi]" "Healthy when a FastCGI request is answered with an accepted status code." {
        "address": Special("unix:///run/app/app.sock"), Required, "The address to connect to: the path of a Unix socket, or `127.0.0.1:9000`.";
        "script": Special("/srv/app/ping.php"), Required, "`SCRIPT_FILENAME` and `SCRIPT_NAME`: a file, or php-fpm's `ping.path`.";
        "query": Text, Is("\"\""), "`QUERY_STRING`, without the `?`.";
        "params": Map(false), Nothing, "FastCGI parameters, added to those of a usual GET request or replacing them.";
        "status": Status, Is("\"200-399\""), "The accepted status codes: `204`, `\"200,204,300-399\"`.";
        "after": Duration(Allowed), Is("\"0s\""), "Time from the start of the child to the first probe.";
        "interval": Duration(NO_PAUSE), Is("\"100ms\""), "Time from the end of a probe to the next.";
        "timeout": Duration(NO_PROBE), Is("\"5s\""), "Time limit for one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
    }
    NOTIFY "[healthcheck.notify]" "Healthy when the child reports `READY=1` (sd_notify(3))." {
        "extend": Duration(Allowed), Is("\"10m\""), "The most time beyond `upgrade.timeout` that the child may request by `EXTEND_TIMEOUT_USEC=`.";
    }
    LISTEN "[[listen]]" "A socket that psflip opens once and that the child of every generation inherits." {
        "address": Special("tcp://0.0.0.0:8080"), Required, "`tcp://IP:PORT`, `udp://IP:PORT`, `unix://PATH`, `unixgram://PATH`, `unixpacket://PATH`, or `systemd:NAME`.";
        "name": Special("web"), Described("`unknown`; of `systemd:NAME` that name"), "The name of the socket in `LISTEN_FDNAMES`.";
        "as": Words(Protocol::WORDS), Is("\"listen_fds\""), "How psflip passes the socket to the child.";
        "mode": Mode, Described("what the umask leaves of 0777"), "The permissions of the Unix socket's file.";
        "owner": Special("www-data"), Described("psflip's user"), "The file's owner: a name or a number.";
        "group": Special("www-data"), Described("psflip's group"), "The file's group: a name or a number.";
        "backlog": Number(1, 65535), Is("4096"), "How many connections may wait to be accepted (listen(2)).";
        "reuseport": Boolean, Is("false"), "`SO_REUSEPORT`: other processes may listen on the same port.";
        "v6only": Boolean, Described("as the kernel does"), "`IPV6_V6ONLY`.";
        "nodelay": Boolean, Described("as the child leaves it"), "`TCP_NODELAY`, which accepted connections inherit.";
        "nonblock": Boolean, Described("as the child leaves it"), "`O_NONBLOCK` of the socket itself.";
    }
    SWITCH "[switch]" "What psflip switches to the new child at promotion." {
        "symlink": Kind::Table(&SYMLINK), Nothing, "A symlink to repoint.";
    }
    SYMLINK "[switch.symlink]" "A symlink that psflip repoints to the new child, atomically." {
        "path": Special("/run/app/app.sock"), Required, "The path of the symlink.";
        "to": Special("/run/app/{{ blue_green() }}.sock"), Required, "The target of the symlink.";
    }
    HOOKS "[hooks]" "Commands that psflip runs at a promotion or after a failed upgrade, each an argv without a shell." {
        "promote": Argv(true), Is("[]"), "Runs when the new child is healthy, before the promotion. If it fails, the upgrade fails.";
        "promoted": Argv(true), Is("[]"), "Runs after the promotion.";
        "failed": Argv(true), Is("[]"), "Runs after a failed upgrade, in the generation that keeps serving.";
        "timeout": Duration(NO_HOOK), Is("\"30s\""), "Time limit for each hook.";
    }
    CONTROL "[control]" "The control socket for `psflip upgrade`, `status` and `stop`." {
        "socket": OrFalse("/run/app/psflip.sock"), Described("the pidfile's path with `.sock` appended; without a pidfile `psflip.sock` in `$RUNTIME_DIRECTORY`"), "The path of the control socket; `false`: no control socket.";
    }
    LOG "[log]" "psflip's own log, on standard error." {
        "format": Word(LogFormat::WORDS), Is("\"auto\""), "The format of log lines. `auto`: `journald` if standard error is connected to the journal, else `text`.";
        "level": Word(tracing::Level::WORDS), Is("\"info\""), "The lowest level that is logged.";
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
