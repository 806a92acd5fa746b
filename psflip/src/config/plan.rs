//! A valid configuration, as values that need no further checks.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::listener::{ListenAddress, Listener, Options};
use super::output::Output;
use super::proxy::Proxy;
use super::words::{Word as _, words};
use crate::signal::Signal;

/// The configuration of one generation: every template is rendered, every value is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// A value depends on the slot.
    pub uses_slot: bool,
    /// argv of the child; never empty, no element contains a NUL byte. execvp(3) looks up the first element,
    /// relative to `workdir`.
    pub cmd: Vec<String>,
    /// The same, if some arguments on the command line are not UTF-8 (`cmd` shows them as `\xE9`); else
    /// `None`.
    pub raw_cmd: Option<Vec<OsString>>,
    /// The child's working directory; `None`: psflip's own.
    pub workdir: Option<PathBuf>,
    /// The file to which psflip writes the pid of the active generation.
    pub pidfile: Option<PathBuf>,
    /// psflip logs errors only.
    pub quiet: bool,
    /// `env_file` and `env_dir`, in the order in which they apply.
    pub env_sources: Vec<EnvSource>,
    /// Changes to the child's environment, in the order of the file. They apply after those of `env_sources`.
    pub env: Vec<EnvChange>,
    /// `[signals]`, in the order of the file: the signal that the child gets in place of another one; `None`:
    /// no signal. The left side contains no upgrade signal, SIGCHLD, SIGCONT or uncatchable signal, and no
    /// duplicates. A stop request becomes a signal that can terminate a process.
    pub signals: Vec<(Signal, Option<Signal>)>,
    /// `[upgrade]`.
    pub upgrade: Upgrade,
    /// `[recycle]`.
    pub recycle: Recycle,
    /// `[shutdown]`.
    pub shutdown: Shutdown,
    /// `[healthcheck.*]`.
    pub health: Health,
    /// `[[listen]]`, in the order of the file.
    pub listeners: Vec<Listener>,
    /// `[[proxy]]`, in the order of the file.
    pub proxies: Vec<Proxy>,
    /// `[switch]`.
    pub switch: Option<Symlink>,
    /// `[hooks]`.
    pub hooks: Hooks,
    /// `[output]`.
    pub output: Output,
    /// `[control]`.
    pub control: Control,
    /// `[log]`.
    pub log: Log,
}

impl Plan {
    /// The sockets that psflip keeps open: those of `[[listen]]`, then those of `[[proxy]]`.
    pub fn sockets(&self) -> impl Iterator<Item = &Listener> {
        self.listeners.iter().chain(self.proxies.iter().map(|proxy| &proxy.socket))
    }

    /// All changes to the child's environment, in the order in which they apply.
    pub fn environment(&self) -> impl Iterator<Item = &EnvChange> {
        self.env_sources.iter().flat_map(|source| &source.changes).chain(&self.env)
    }

    /// argv of the child, as it is executed.
    pub fn argv(&self) -> impl Iterator<Item = &OsStr> {
        let raw = self.raw_cmd.iter().flatten().map(OsString::as_os_str);
        let text = self.cmd.iter().filter(|_| self.raw_cmd.is_none()).map(OsStr::new);
        raw.chain(text)
    }
}

/// One line of `[env]`. Name and value contain no NUL byte; the name is not empty and contains no `=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvChange {
    /// `NAME = "value"`.
    Set(String, String),
    /// `NAME = false`.
    Remove(String),
}

/// A file of `env_file`, or a directory of `env_dir`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvSource {
    /// As written; a relative path is relative to psflip's own directory.
    pub path: PathBuf,
    /// Whether it may be missing.
    pub optional: bool,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// What it held when the configuration was read; empty for a client.
    pub changes: Vec<EnvChange>,
}

impl EnvSource {
    /// The key that names it.
    #[must_use]
    pub fn key(&self) -> &'static str {
        if self.is_dir { "env_dir" } else { "env_file" }
    }
}

/// `[upgrade]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The signal that requests an upgrade. It can be caught, and is not SIGCHLD.
    pub signal: Signal,
    /// From the spawn of the child until it is healthy.
    pub timeout: Duration,
    /// How long a new generation has the traffic on trial before it is promoted. Never zero.
    pub bake: Option<Duration>,
    /// How many old generations may drain at the same time: 1 to 7.
    pub draining: u8,
    /// Whether old and new child may run at the same time.
    pub overlap: bool,
    /// Runs at an upgrade before the new child starts; if it fails, the upgrade fails. Empty: none.
    pub precheck: Vec<String>,
}

/// `[recycle]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recycle {
    /// How long a generation serves before psflip requests an upgrade. Never zero.
    pub after: Option<Duration>,
    /// How many bytes the child's process tree may use before psflip requests an upgrade. Never zero.
    pub memory: Option<u64>,
    /// The random part of both, in percent; at most 50.
    pub jitter: u32,
    /// From one look at the memory to the next. Never zero.
    pub interval: Duration,
}

/// `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// From the promotion to the stop signal.
    pub delay: Duration,
    /// The signal that stops the child.
    pub signal: Signal,
    /// From the stop signal to SIGKILL.
    pub timeout: Duration,
    /// What happens to leftover processes.
    pub orphans: Orphans,
}

/// `shutdown.orphans`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// They are stopped like the child (contract C8).
    Kill,
    /// They keep running.
    Leave,
}

words!(Orphans { "kill" => Self::Kill, "leave" => Self::Leave });

/// The health check; exactly one kind (contract H1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Healthy when the child still runs after this long.
    Alive {
        /// Measured from the child's exec; zero: healthy as soon as it was executed.
        timeout: Duration,
    },
    /// Healthy when the command exits 0.
    Command {
        /// Its argv; never empty, no NUL bytes.
        cmd: Vec<String>,
        /// When to probe.
        pace: Pace,
    },
    /// Healthy when a container engine reports the container as healthy.
    Docker {
        /// Name or id of the container: letters, digits, `_`, `.` and `-`.
        container: String,
        /// The engine's socket; the same form as the path of [`Health::Unix`].
        socket: PathBuf,
        /// When to probe.
        pace: Pace,
    },
    /// Healthy when a TCP connection is accepted.
    Tcp {
        /// The addresses to connect to, in this order; both families for `localhost`. Never empty.
        addresses: Vec<SocketAddr>,
        /// As the user wrote it, for messages.
        text: String,
        /// When to probe.
        pace: Pace,
    },
    /// Healthy when a connection to a Unix stream socket is accepted.
    Unix {
        /// The socket; a leading `@` means the abstract namespace (unix(7)). Fits into sun_path.
        path: PathBuf,
        /// When to probe.
        pace: Pace,
    },
    /// Healthy when a request is answered with one of `status`.
    Http {
        /// The request.
        request: HttpRequest,
        /// Status codes that count as healthy, as inclusive ranges. Never empty.
        status: Vec<std::ops::RangeInclusive<u16>>,
        /// When to probe.
        pace: Pace,
    },
    /// Healthy when a FastCGI request is answered with one of `status`.
    Fcgi {
        /// The request.
        request: FcgiRequest,
        /// The same form as the `status` of [`Health::Http`].
        status: Vec<std::ops::RangeInclusive<u16>>,
        /// When to probe.
        pace: Pace,
    },
    /// Healthy when the child sends `READY=1` to `NOTIFY_SOCKET` (sd_notify(3)).
    Notify {
        /// How long after `upgrade.timeout` the child may extend its deadline by `EXTEND_TIMEOUT_USEC=`;
        /// zero: not at all.
        extend: Duration,
        /// As [`Pace::settle`].
        settle: Duration,
    },
}

/// The target of an `fcgi` health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FcgiRequest {
    /// As the user wrote it, for messages.
    pub address: String,
    /// Where to connect.
    pub target: Endpoint,
    /// `SCRIPT_FILENAME` and `SCRIPT_NAME`; not empty.
    pub script: String,
    /// `QUERY_STRING`, without `?`; may be empty.
    pub query: String,
    /// Parameters that are added to the usual ones, or replace them. At most 64 KiB; names are not empty and
    /// contain no `=`.
    pub params: Vec<(String, String)>,
}

/// The target of an `http` health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// As the user wrote it, for messages.
    pub url: String,
    /// Where to connect.
    pub target: Endpoint,
    /// The method.
    pub method: HttpMethod,
    /// The `Host` header: a host with an optional port, without spaces and control characters.
    pub host: String,
    /// Additional header fields. Names are tokens; values contain no control characters but tabs (RFC 9110,
    /// 5.5 and 5.6.2). There are no duplicates, and no fields that control the framing of the request. Values
    /// may be secrets.
    pub headers: Vec<(String, String)>,
    /// Path and query; begins with `/`, contains neither spaces nor control characters.
    pub path: String,
}

/// The method of an `http` health check: safe, and without a body (RFC 9110, 9.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpMethod {
    /// The default.
    Get,
    /// As `GET`, but the answer has no body.
    Head,
    /// Asks for the methods that the server allows.
    Options,
}

words!(HttpMethod { "GET" => Self::Get, "HEAD" => Self::Head, "OPTIONS" => Self::Options });

impl HttpMethod {
    /// As written in a request and in a configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.word()
    }
}

/// Where a health check connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The addresses in the order of trying; never empty.
    Tcp(Vec<SocketAddr>),
    /// The same form as the path of [`Health::Unix`].
    Unix(PathBuf),
}

/// When probes happen (contract H1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the child's exec to the first probe.
    pub after: Duration,
    /// From the end of a probe to the start of the next. Never zero.
    pub interval: Duration,
    /// Time limit for one probe. Never zero.
    pub timeout: Duration,
    /// Successful probes in a row that make a child healthy. At least 1.
    pub successes: u32,
    /// Failed probes in a row after which a generation that bakes is rolled back. At least 1.
    pub failures: u32,
    /// How long the child must stay healthy before it is promoted (contract H6); zero: not at all.
    pub settle: Duration,
}

impl Health {
    /// How long the child must stay healthy before it is promoted (contract H6); zero: not at all.
    #[must_use]
    pub fn settle(&self) -> Duration {
        match self {
            Self::Alive { .. } => Duration::ZERO,
            Self::Notify { settle, .. } => *settle,
            Self::Command { pace, .. }
            | Self::Docker { pace, .. }
            | Self::Tcp { pace, .. }
            | Self::Unix { pace, .. }
            | Self::Http { pace, .. }
            | Self::Fcgi { pace, .. } => pace.settle,
        }
    }
}

/// `switch.symlink`: a symlink that psflip repoints at the promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symlink {
    /// The path of the symlink.
    pub path: PathBuf,
    /// Its new target, as written into the symlink.
    pub to: PathBuf,
}

/// `[hooks]`: commands that psflip runs at a promotion or after a failed upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Runs before the promotion; if it fails, the upgrade fails. Empty: none.
    pub promote: Vec<String>,
    /// Runs after the promotion. Empty: none.
    pub promoted: Vec<String>,
    /// Runs after a failed upgrade, in the generation that keeps serving. Empty: none.
    pub failed: Vec<String>,
    /// Runs in place of `failed` after a bake. Empty: none.
    pub rolled_back: Vec<String>,
    /// Time limit for each hook. Never zero.
    pub timeout: Duration,
}

/// `control.socket`: the path of the control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Next to the pidfile, if there is one. If the socket can't be created, psflip runs without it.
    Default,
    /// There is no pidfile, and the service manager has created a directory for this service:
    /// `$RUNTIME_DIRECTORY` of systemd.exec(5). Otherwise as [`Control::Default`].
    Runtime(PathBuf),
    /// A path that fits into sun_path (unix(7)).
    At(PathBuf),
    /// No control socket.
    Off,
}

/// How many clients of the control socket may wait to be accepted.
const CONTROL_BACKLOG: u32 = 64;

impl Control {
    /// The path of the control socket. By default it is derived from `pidfile`, that of the same
    /// configuration.
    #[must_use]
    pub fn path(&self, pidfile: Option<&Path>) -> Option<PathBuf> {
        match self {
            Self::At(path) | Self::Runtime(path) => Some(path.clone()),
            Self::Off => None,
            Self::Default => {
                // The suffix is appended, not replaced: many programs have a socket `app.sock` next to a
                // pidfile `app.pid`.
                let mut path = pidfile?.as_os_str().to_owned();
                path.push(".sock");
                // A leading `@` would name an abstract socket.
                let path = PathBuf::from(path);
                let is_abstract = path.as_os_str().as_encoded_bytes().starts_with(b"@");
                Some(if is_abstract { Path::new(".").join(path) } else { path })
            }
        }
    }

    /// The control socket as a listener that psflip keeps for all generations.
    #[must_use]
    pub fn listener(&self, pidfile: Option<&Path>) -> Option<Listener> {
        let address = ListenAddress::Unix(self.path(pidfile)?);
        let options = Options {
            mode: Some(0o600),
            backlog: CONTROL_BACKLOG,
            nonblock: Some(true),
            ..Options::default()
        };
        Some(Listener {
            address,
            name: "control".to_owned(),
            protocols: Vec::new(),
            fd: None,
            key: None,
            options,
        })
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The format of log lines.
    pub format: LogFormat,
    /// The lowest level that is logged.
    pub level: tracing::Level,
    /// The file to whose end psflip logs; `None`: standard error. A relative path is relative to psflip's own
    /// directory. Never with [`LogFormat::Journald`].
    pub file: Option<PathBuf>,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `Journald` if standard error is connected to the journal, else `Text`.
    Auto,
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
    /// To systemd's journal, with fields.
    Journald,
}

words!(LogFormat {
    "auto" => Self::Auto,
    "text" => Self::Text,
    "json" => Self::Json,
    "journald" => Self::Journald,
});

words!(tracing::Level {
    "error" => Self::ERROR,
    "warn" => Self::WARN,
    "info" => Self::INFO,
    "debug" => Self::DEBUG,
    "trace" => Self::TRACE,
});
