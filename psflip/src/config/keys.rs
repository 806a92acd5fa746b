//! The table of every table and key of a configuration: what the reader, the JSON Schema and psflip.toml(5)
//! know of them. The reader takes each name, limit, word and default from here. The texts are only for the
//! schema and the manual; they stand apart from the keys, so that they are not in the binary.
//! `docs/configuration.md` explains more.

use super::listener::Protocol;
use super::plan::{HttpMethod, LogFormat, Orphans};
use super::proxy::{Forwarded, Header, ProxyKind};
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
    /// A string that is not empty: a path, an address, a URL ([`Text::form`]).
    Special,
    /// As [`Kind::Special`], or `false`.
    OrFalse,
    /// A duration such as `"1m30s"`.
    Duration(Zero),
    /// A number of bytes such as `"512M"`.
    Size,
    /// A percentage such as `"10%"`, up to this one.
    Percent(u32),
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
    /// A path, or an array of paths; a `?` before a path: it may be missing.
    Paths,
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
    /// [`Text::default`] describes it.
    Described,
}

/// What the manual says about a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Text {
    /// Its meaning: sentences in Markdown.
    pub about: &'static str,
    /// What applies without it, if that is [`Absent::Described`].
    pub default: &'static str,
    /// What its string is: a path, an address.
    pub form: &'static str,
    /// An example of that.
    pub example: &'static str,
}

impl Absent {
    /// The default value; a string without its quotes.
    pub(super) fn value(&self) -> Option<&'static str> {
        match *self {
            Self::Is(value) => {
                Some(value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value))
            }
            Self::Required | Self::Nothing | Self::Described => None,
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

    /// What the manual says about one of its keys.
    #[must_use]
    pub fn text(&self, key: &Key) -> Text {
        let found = texts(self.title).1.iter().find(|(name, _)| *name == key.name);
        found.map(|(_, text)| *text).unwrap_or_default()
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
    Argv, Boolean, Duration, Map, Mode, Number, One, OrFalse, Paths, Percent, Signal, Signals, Size, Special,
    Status, Word, Words,
};
use self::Zero::{Allowed, Refused};

// A row: name, kind, what applies without the key, its meaning; then, where they are needed, the words for
// its default, the form of its value, and an example.
macro_rules! tables {
    ($($id:ident $title:literal $about:literal {
        $($name:literal: $kind:expr, $absent:expr, $meaning:literal $(, $default:literal $(, $form:literal $example:literal)?)?;)*
    })*) => {
        $(#[doc = $about]
        pub static $id: Table = Table {
            title: $title,
            keys: &[$(Key { name: $name, kind: $kind, absent: $absent }),*],
        };)*

        /// The purpose of a table, and the texts of its keys.
        fn texts(title: &str) -> (&'static str, &'static [(&'static str, Text)]) {
            match title {
                $($title => ($about, &[$(($name, Text {
                    about: $meaning,
                    default: concat!($($default)?),
                    form: concat!($($($form)?)?),
                    example: concat!($($($example)?)?),
                })),*]),)*
                _ => ("", &[]),
            }
        }
    };
}

/// Why some durations can't be zero.
const NEVER_HEALTHY: Zero = Refused("no new child could ever become healthy in time");
const NO_PAUSE: Zero = Refused("probes without a pause would load the host");
const NO_PROBE: Zero = Refused("no probe could ever succeed in time");
const NO_BAKE: Zero = Refused("leave `bake` out, so that a healthy child is promoted at once");
const ALWAYS: Zero = Refused("each new child would be replaced at once");
const NO_REST: Zero = Refused("looking without a pause would load the host");
const NO_HOOK: Zero = Refused("no hook could ever exit in time");

/// The default of `healthcheck.notify.extend`, which the flag `--healthcheck-notify` sets.
pub(crate) const EXTEND: &str = "\"10m\"";

tables! {
    TOP "" "Keys outside of any table must stand above the first table." {
        "cmd": Argv(false), Required, "The child's argv, one string per argument, without a shell. The first is looked up as by execvp(3), relative to `workdir`.";
        "workdir": Special, Described, "The child's working directory.", "where psflip was started", "path" "/srv/app/current";
        "pidfile": Special, Nothing, "The file to which psflip writes the pid of the active generation. At most 1024 bytes. An existing file must be empty or hold one number; psflip refuses any other file and leaves it alone.", "", "path" "/run/app/psflip.pid";
        "quiet": Boolean, Is("false"), "psflip logs errors only.";
        "locals": Map(false), Nothing, "Strings for reuse in templates by `local('name')`. They are rendered before all other values, in the order of the file.";
        "env": Map(true), Nothing, "Changes to the child's environment: a string sets a variable, `false` removes it.";
        "env_file": Paths, Nothing, "Files with lines `NAME=VALUE` (systemd's `EnvironmentFile=`), which set variables of the child. Each generation reads them again. With a `?` before its path a file may be missing.";
        "env_dir": Paths, Nothing, "Directories with a file for each variable of the child, as for envdir(8): its name, and its first line as the value; an empty file removes the variable. With a `?` before its path a directory may be missing.";
        "signals": Signals, Nothing, "Translation of signals: when psflip receives the signal that a key names, it sends the child the signal in the value instead, or none if the value is `false`.";
        "upgrade": Kind::Table(&UPGRADE), Nothing, "How the service is upgraded.";
        "shutdown": Kind::Table(&SHUTDOWN), Nothing, "How a child is stopped.";
        "healthcheck": One(HEALTHCHECKS), Described, "The health check that a new child must pass before it is promoted: at most one kind.", "`alive`";
        "listen": Kind::Many(&LISTEN, 64), Nothing, "Sockets that psflip opens once and that the child of every generation inherits.";
        "proxy": Kind::Many(&PROXY, 64), Nothing, "Addresses at which psflip accepts connections and forwards them to the active child, for a program that opens its port itself.";
        "switch": Kind::Table(&SWITCH), Nothing, "What psflip switches to the new child at promotion.";
        "hooks": Kind::Table(&HOOKS), Nothing, "Commands that psflip runs at a promotion or after a failed upgrade.";
        "recycle": Kind::Table(&RECYCLE), Nothing, "When psflip requests an upgrade by itself, because the child has run for long or uses much memory.";
        "output": Kind::Table(&OUTPUT), Nothing, "Where the child's standard output and standard error go.";
        "control": Kind::Table(&CONTROL), Nothing, "The control socket for `psflip upgrade`, `status` and `stop`.";
        "log": Kind::Table(&LOG), Nothing, "psflip's own log.";
    }
    UPGRADE "[upgrade]" "How the service is upgraded." {
        "signal": Signal, Is("\"SIGHUP\""), "The signal that requests an upgrade. It can't be one that stops, suspends or continues a process, that no process can catch, or that the kernel sends.";
        "timeout": Duration(NEVER_HEALTHY), Is("\"1m\""), "How long a new child may take from its start until it is healthy, `settle` included. If it takes longer, the upgrade fails and the old child keeps running.";
        "bake": Duration(NO_BAKE), Nothing, "How long a new generation has the traffic on trial before it is promoted, while the old child stands by. If the new child exits or its health check fails in this time, or on `psflip rollback`, the old child has the traffic again at once.";
        "draining": Number(1, 7), Is("1"), "How many old generations may drain at the same time. With 1, an upgrade waits until the old generation is gone. With more, it starts at once, and if so many drain already, the oldest is killed. For long-lived connections, with a long `shutdown.timeout`.";
        "overlap": Boolean, Is("true"), "Whether old and new child may run at the same time. `false`, for an application that can't run twice: the old child stops before the new one starts, and is started again if the new one fails. Clients of `[[proxy]]` and `[[listen]]` wait meanwhile.";
        "precheck": Argv(true), Is("[]"), "Runs at an upgrade before the new child starts, and with `overlap = false` before the old one stops. If it doesn't exit with 0 within `hooks.timeout`, the upgrade fails.";
    }
    SHUTDOWN "[shutdown]" "How a child is stopped." {
        "delay": Duration(Allowed), Is("\"0s\""), "Time from the promotion to the stop signal for the old child.";
        "signal": Signal, Is("\"SIGTERM\""), "The signal that stops the child gracefully. SIGKILL is allowed; signals that suspend or continue a process, and SIGCHLD, are not.";
        "timeout": Duration(Allowed), Is("\"10s\""), "Time from the stop signal to SIGKILL. `0s`: SIGKILL at once.";
        "orphans": Word(Orphans::WORDS), Is("\"kill\""), "What happens to leftover processes (descendants of the child that still run after it exited): psflip stops them, or leaves them running.";
    }
    ALIVE "[healthcheck.alive]" "Healthy when the child still runs after some time." {
        "timeout": Duration(Allowed), Is("\"5s\""), "How long the child must run; `0s`: healthy as soon as it was executed.";
    }
    COMMAND "[healthcheck.command]" "Healthy when a command exits with 0." {
        "cmd": Argv(false), Required, "The command's argv. It runs in the child's environment and working directory, with `PSFLIP_CHILD_PID` set.";
        "after": Duration(Allowed), Is("\"0s\""), "Time from the start of the child to the first probe.";
        "interval": Duration(NO_PAUSE), Is("\"1s\""), "Time from the end of a probe to the next. Until the child is healthy, `tcp`, `unix`, `http` and `fcgi` begin with shorter pauses.";
        "timeout": Duration(NO_PROBE), Is("\"5s\""), "Time limit for one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
        "failures": Number(1, 1000), Is("3"), "Failed probes in a row after which a generation that has the traffic on trial (`upgrade.bake`) is rolled back.";
        "settle": Duration(Allowed), Is("\"0s\""), "How long a healthy child must stay healthy before it is promoted. A failed probe starts this time over.";
    }
    DOCKER "[healthcheck.docker]" "Healthy when the container engine reports that a container is healthy." {
        "container": Special, Required, "The container's name or id.", "", "name or id" "web-{{ blue_green() }}";
        "socket": Special, Is("\"/var/run/docker.sock\""), "The Unix socket of the engine.", "", "socket path" "/var/run/docker.sock";
        "after": Duration(Allowed), Is("\"0s\""), "Time from the start of the child to the first probe.";
        "interval": Duration(NO_PAUSE), Is("\"1s\""), "Time from the end of a probe to the next. Until the child is healthy, `tcp`, `unix`, `http` and `fcgi` begin with shorter pauses.";
        "timeout": Duration(NO_PROBE), Is("\"5s\""), "Time limit for one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
        "failures": Number(1, 1000), Is("3"), "Failed probes in a row after which a generation that has the traffic on trial (`upgrade.bake`) is rolled back.";
        "settle": Duration(Allowed), Is("\"0s\""), "How long a healthy child must stay healthy before it is promoted. A failed probe starts this time over.";
    }
    TCP "[healthcheck.tcp]" "Healthy when a TCP connection is accepted." {
        "address": Special, Required, "The address to connect to: `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080` or `:8080`.", "", "address" "127.0.0.1:8080";
        "after": Duration(Allowed), Is("\"0s\""), "Time from the start of the child to the first probe.";
        "interval": Duration(NO_PAUSE), Is("\"100ms\""), "Time from the end of a probe to the next. Until the child is healthy, `tcp`, `unix`, `http` and `fcgi` begin with shorter pauses.";
        "timeout": Duration(NO_PROBE), Is("\"5s\""), "Time limit for one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
        "failures": Number(1, 1000), Is("3"), "Failed probes in a row after which a generation that has the traffic on trial (`upgrade.bake`) is rolled back.";
        "settle": Duration(Allowed), Is("\"0s\""), "How long a healthy child must stay healthy before it is promoted. A failed probe starts this time over.";
    }
    UNIX "[healthcheck.unix]" "Healthy when a connection to a Unix socket is accepted." {
        "path": Special, Required, "The path of the socket; `@name` is a name in the abstract namespace (unix(7)).", "", "socket path" "/run/app/app.sock";
        "after": Duration(Allowed), Is("\"0s\""), "Time from the start of the child to the first probe.";
        "interval": Duration(NO_PAUSE), Is("\"100ms\""), "Time from the end of a probe to the next. Until the child is healthy, `tcp`, `unix`, `http` and `fcgi` begin with shorter pauses.";
        "timeout": Duration(NO_PROBE), Is("\"5s\""), "Time limit for one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
        "failures": Number(1, 1000), Is("3"), "Failed probes in a row after which a generation that has the traffic on trial (`upgrade.bake`) is rolled back.";
        "settle": Duration(Allowed), Is("\"0s\""), "How long a healthy child must stay healthy before it is promoted. A failed probe starts this time over.";
    }
    HTTP "[healthcheck.http]" "Healthy when an HTTP request is answered with an accepted status code." {
        "url": Special, Required, "`http://host:port/path?query` or `unix:///run/app.sock:/path`. No HTTPS: for TLS use `command` with curl.", "", "URL" "http://127.0.0.1:8080/up";
        "method": Word(HttpMethod::WORDS), Is("\"GET\""), "The method of the request, which has no body.";
        "host": Special, Described, "The `Host` header.", "host and port of the URL; `localhost` for a Unix socket", "host or host:port" "app.example";
        "headers": Map(false), Nothing, "Additional headers of the request.";
        "status": Status, Is("\"200-399\""), "The accepted status codes, from 100 to 599: `204`, `\"200,204,300-399\"`.";
        "after": Duration(Allowed), Is("\"0s\""), "Time from the start of the child to the first probe.";
        "interval": Duration(NO_PAUSE), Is("\"100ms\""), "Time from the end of a probe to the next. Until the child is healthy, `tcp`, `unix`, `http` and `fcgi` begin with shorter pauses.";
        "timeout": Duration(NO_PROBE), Is("\"5s\""), "Time limit for one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
        "failures": Number(1, 1000), Is("3"), "Failed probes in a row after which a generation that has the traffic on trial (`upgrade.bake`) is rolled back.";
        "settle": Duration(Allowed), Is("\"0s\""), "How long a healthy child must stay healthy before it is promoted. A failed probe starts this time over.";
    }
    FCGI "[healthcheck.fcgi]" "Healthy when a FastCGI request is answered with an accepted status code." {
        "address": Special, Required, "The address to connect to: the path of a Unix socket, or `127.0.0.1:9000`.", "", "address or socket path" "unix:///run/app/app.sock";
        "script": Special, Required, "`SCRIPT_FILENAME` and `SCRIPT_NAME`: a file, or php-fpm's `ping.path`.", "", "string" "/srv/app/ping.php";
        "query": Kind::Text, Is("\"\""), "`QUERY_STRING`, without the `?`.";
        "params": Map(false), Nothing, "FastCGI parameters, added to those of a usual GET request or replacing them.";
        "status": Status, Is("\"200-399\""), "The accepted status codes, from 100 to 599: `204`, `\"200,204,300-399\"`.";
        "after": Duration(Allowed), Is("\"0s\""), "Time from the start of the child to the first probe.";
        "interval": Duration(NO_PAUSE), Is("\"100ms\""), "Time from the end of a probe to the next. Until the child is healthy, `tcp`, `unix`, `http` and `fcgi` begin with shorter pauses.";
        "timeout": Duration(NO_PROBE), Is("\"5s\""), "Time limit for one probe.";
        "successes": Number(1, 1000), Is("1"), "Successful probes in a row that make a child healthy.";
        "failures": Number(1, 1000), Is("3"), "Failed probes in a row after which a generation that has the traffic on trial (`upgrade.bake`) is rolled back.";
        "settle": Duration(Allowed), Is("\"0s\""), "How long a healthy child must stay healthy before it is promoted. A failed probe starts this time over.";
    }
    NOTIFY "[healthcheck.notify]" "Healthy when the child reports `READY=1` (sd_notify(3))." {
        "extend": Duration(Allowed), Is(EXTEND), "The most time beyond `upgrade.timeout` that the child may request by `EXTEND_TIMEOUT_USEC=`.";
        "settle": Duration(Allowed), Is("\"0s\""), "How long the child must go on after `READY=1` before it is promoted. Its exit, `STOPPING=1` or `ERRNO=` in this time fails the generation.";
    }
    LISTEN "[[listen]]" "A socket that psflip opens once and that the child of every generation inherits." {
        "address": Special, Required, "`tcp://IP:PORT`, `udp://IP:PORT`, `unix://PATH`, `unixgram://PATH`, `unixpacket://PATH`, or `systemd:NAME`. `IP:PORT` (TCP) needs no prefix, nor does a path (`unix://`) that begins with `/`, `.` or `@`.", "", "address to listen on" "tcp://0.0.0.0:8080";
        "name": Special, Described, "The name of the socket in `LISTEN_FDNAMES`. Printable ASCII without `:`, at most 255 characters.", "`\"unknown\"`; of `systemd:NAME` that name", "string" "web";
        "as": Words(Protocol::WORDS), Is("\"listen_fds\""), "How psflip passes the socket to the child.";
        "fd": Number(0, 999), Described, "The socket's descriptor number in the child; not 1 or 2. Not with `listen_fds`, whose numbers are fixed.", "the next free number from 3 on";
        "key": Special, Described, "The socket's key in `SERVER_STARTER_PORT`, without `=` and `;`. Only with `server_starter`.", "the address: `0.0.0.0:8080`, `/run/app.sock`", "string" "8080";
        "mode": Mode, Described, "The permissions of a Unix socket's file: `\"0000\"` to `\"0777\"`.", "what the umask leaves of `0777`";
        "owner": Special, Described, "The owner of a Unix socket's file: a name or a number.", "psflip's user", "string" "www-data";
        "group": Special, Described, "The group of a Unix socket's file: a name or a number.", "psflip's group", "string" "www-data";
        "backlog": Number(1, 65535), Is("4096"), "How many connections may wait to be accepted (listen(2)). The kernel limits it to `net.core.somaxconn`.";
        "reuseport": Boolean, Is("false"), "`SO_REUSEPORT`: other processes may listen on the same port. TCP and UDP.";
        "v6only": Boolean, Described, "`IPV6_V6ONLY`. TCP and UDP on IPv6 addresses.", "as the kernel does (`net.ipv6.bindv6only`)";
        "nodelay": Boolean, Described, "`TCP_NODELAY`, which accepted connections inherit.", "as the child leaves it";
        "nonblock": Boolean, Described, "`O_NONBLOCK` of the socket itself. Nearly all servers set what they need; nginx expects a non-blocking socket.", "as the child leaves it; at first blocking";
    }
    PROXY "[[proxy]]" "An address at which psflip accepts connections and forwards them to the active child." {
        "listen": Special, Required, "Where clients connect: `tcp://IP:PORT`, `unix://PATH` or `systemd:NAME`, as `address` of `[[listen]]`.", "", "address to listen on" "tcp://0.0.0.0:8080";
        "forward": Special, Required, "Where the child of this generation listens: `IP:PORT` or `unix://PATH`. Each generation needs its own, except with `upgrade.overlap = false`.", "", "address to forward to" "unix:///run/app/{{ blue_green() }}.sock";
        "protocol": Word(ProxyKind::WORDS), Is("\"tcp\""), "What clients speak. `tcp`: bytes of any protocol; a connection stays with one child. `http` and `fastcgi`: each request goes to the active child, so keep-alive connections outlive an upgrade.";
        "drain": Duration(Allowed), Is("\"30s\""), "How long the old child may take, at most, for the requests and connections that it still has at a promotion or a stop. `shutdown.delay` and `shutdown.signal` follow as soon as there are none.";
        "send_proxy_protocol": Word(Header::WORDS), Nothing, "Begin each connection to the child with a PROXY protocol header of this version, which names the client. Only with `protocol = \"tcp\"`.";
        "accept_proxy_protocol": Boolean, Is("false"), "Connections of clients begin with a PROXY protocol header, which a load balancer in front sends.";
        "forwarded": Word(Forwarded::WORDS), Is("\"append\""), "What happens to `X-Forwarded-For`, `X-Forwarded-Proto` and `X-Forwarded-Host` of a request: the client is appended to them, they are replaced, or they are left alone. Only with `protocol = \"http\"`.";
        "pool": Number(0, 1024), Is("0"), "How many idle connections to the child are kept, at most and for 1 s, for later requests that may be repeated. `0`: each request has a connection of its own. Only with `protocol = \"http\"`.";
        "mode": Mode, Described, "The permissions of a Unix socket's file: `\"0000\"` to `\"0777\"`.", "what the umask leaves of `0777`";
        "owner": Special, Described, "The owner of a Unix socket's file: a name or a number.", "psflip's user", "string" "www-data";
        "group": Special, Described, "The group of a Unix socket's file: a name or a number.", "psflip's group", "string" "www-data";
        "backlog": Number(1, 65535), Is("4096"), "How many connections may wait to be accepted (listen(2)). The kernel limits it to `net.core.somaxconn`.";
        "reuseport": Boolean, Is("false"), "`SO_REUSEPORT`: other processes may listen on the same port. Only for TCP.";
        "v6only": Boolean, Described, "`IPV6_V6ONLY`. Only for TCP on IPv6 addresses.", "as the kernel does (`net.ipv6.bindv6only`)";
    }
    SWITCH "[switch]" "What psflip switches to the new child at promotion." {
        "symlink": Kind::Table(&SYMLINK), Nothing, "A symlink to repoint.";
    }
    SYMLINK "[switch.symlink]" "A symlink that psflip repoints to the new child, atomically." {
        "path": Special, Required, "The path of the symlink.", "", "path" "/run/app/app.sock";
        "to": Special, Required, "The target of the symlink.", "", "path" "/run/app/{{ blue_green() }}.sock";
    }
    HOOKS "[hooks]" "Commands that psflip runs at a promotion or after a failed upgrade, each an argv without a shell." {
        "promote": Argv(true), Is("[]"), "Runs when the child is healthy, before psflip repoints the symlink and writes the pidfile; also at the first start. If it doesn't exit with 0, the upgrade (or the start, with 125) fails.";
        "promoted": Argv(true), Is("[]"), "Runs after the promotion, when the generation is active.";
        "failed": Argv(true), Is("[]"), "Runs after a failed upgrade, in the generation that keeps serving.";
        "rolled_back": Argv(true), Is("[]"), "Runs in place of `failed` if the new generation had the traffic already (`upgrade.bake`).";
        "timeout": Duration(NO_HOOK), Is("\"30s\""), "Time limit for each hook; after that it counts as failed.";
    }
    RECYCLE "[recycle]" "When psflip requests an upgrade by itself." {
        "after": Duration(ALWAYS), Nothing, "How long a generation serves before psflip requests an upgrade.";
        "memory": Size, Nothing, "How much memory the child and its descendants may use together (PSS and swap) before psflip requests an upgrade.";
        "jitter": Percent(50), Is("\"10%\""), "Each generation adds a random part of up to this percentage to `after`, and subtracts it from `memory`, so that many services don't upgrade at the same time.";
        "interval": Duration(NO_REST), Is("\"1m\""), "Time from one look at the memory to the next.";
    }
    CONTROL "[control]" "The control socket for `psflip upgrade`, `status` and `stop`." {
        "socket": OrFalse, Described, "The path of the control socket, at most 107 bytes; `false`: no control socket.", "the pidfile's path with `.sock` appended; without a pidfile `psflip.sock` in `$RUNTIME_DIRECTORY`", "path" "/run/app/psflip.sock";
    }
    OUTPUT "[output]" "Where the child's standard output and standard error go." {
        "stdout": Special, Is("\"inherit\""), "Where standard output goes. `inherit`: where psflip's own goes. `null`: nowhere. `append:FILE`: to the end of a file. `pipe:COMMAND`: to the standard input of a logger, which runs for all generations. Words that mean something to a shell are left to `sh -c`.", "", "`inherit`, `null`, `append:FILE` or `pipe:COMMAND`" "append:/var/log/app.log";
        "stderr": Special, Is("\"inherit\""), "Where standard error goes, as `stdout`. If both have the same file or logger, their order is kept.", "", "`inherit`, `null`, `append:FILE` or `pipe:COMMAND`" "pipe:svlogd -tt /var/log/app";
        "mode": Mode, Described, "The permissions of a file that psflip creates: `\"0000\"` to `\"0777\"`.", "what the umask leaves of `0666`";
        "owner": Special, Described, "The owner of a file that psflip creates: a name or a number.", "psflip's user", "string" "app";
        "group": Special, Described, "The group of a file that psflip creates: a name or a number.", "psflip's group", "string" "adm";
    }
    LOG "[log]" "psflip's own log." {
        "format": Word(LogFormat::WORDS), Is("\"auto\""), "The format of log lines. `auto`: `journald` if standard error is connected to the journal (`JOURNAL_STREAM` of systemd.exec(5)), else `text`.";
        "level": Word(tracing::Level::WORDS), Is("\"info\""), "The lowest level that is logged.";
        "file": Special, Described, "The file to whose end psflip logs. It is opened for each line, so it may be renamed at any time.", "standard error", "path" "/var/log/psflip.log";
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
