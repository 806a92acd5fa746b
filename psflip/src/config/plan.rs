//! What a valid configuration says, as values that need no further checking.

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::listen::Listener;
use crate::signal::Signal;

/// One generation's configuration: every template is rendered, every value is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// argv of the child; never empty, no element contains a NUL byte. The first is looked up as execvp(3) does, relative to `workdir`.
    pub cmd: Vec<String>,
    /// The same where arguments on the command line are not UTF-8, which `cmd` shows as `\xE9`; else `None`.
    pub raw_cmd: Option<Vec<OsString>>,
    /// The child's working directory; `None`: psflip's own.
    pub workdir: Option<PathBuf>,
    /// Where the active generation's pid is written.
    pub pidfile: Option<PathBuf>,
    /// No log lines of psflip's own below `error`.
    pub quiet: bool,
    /// What is changed in the child's environment, in the order of the file.
    pub env: Vec<EnvChange>,
    /// `[signals]`, in the order of the file: what the child gets in place of a signal, `None`: nothing. The upgrade signal, SIGCHLD,
    /// SIGCONT and what can't be caught are not on the left, nothing is there twice, and what asks psflip to stop becomes a signal that
    /// can end a process.
    pub signals: Vec<(Signal, Option<Signal>)>,
    /// `[upgrade]`.
    pub upgrade: Upgrade,
    /// `[shutdown]`.
    pub shutdown: Shutdown,
    /// `[healthcheck.*]`.
    pub health: Health,
    /// `[[listen]]`, in the order of the file.
    pub listeners: Vec<Listener>,
    /// `[switch]`.
    pub switch: Option<Symlink>,
    /// `[hooks]`.
    pub hooks: Hooks,
    /// `[control]`.
    pub control: Control,
    /// `[log]`.
    pub log: Log,
}

impl Plan {
    /// argv of the child as it is executed.
    pub fn argv(&self) -> impl Iterator<Item = &OsStr> {
        let raw = self.raw_cmd.iter().flatten().map(OsString::as_os_str);
        let text = self.cmd.iter().filter(|_| self.raw_cmd.is_none()).map(OsStr::new);
        raw.chain(text)
    }
}

/// One line of `[env]`. Name and value contain no NUL byte, the name no `=` and it is not empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnvChange {
    /// `NAME = "value"`.
    Set(String, String),
    /// `NAME = false`.
    Remove(String),
}

/// `[upgrade]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// The signal that asks for an upgrade. Can be caught, is not SIGCHLD.
    pub signal: Signal,
    /// From spawn to healthy.
    pub timeout: Duration,
}

/// `[shutdown]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shutdown {
    /// After promotion, before the signal.
    pub delay: Duration,
    /// What asks the child to end.
    pub signal: Signal,
    /// From the signal to SIGKILL.
    pub timeout: Duration,
    /// What happens to the rest of the child's process tree.
    pub orphans: Orphans,
}

/// `shutdown.orphans`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Orphans {
    /// They are ended as the child is (contract C8).
    Kill,
    /// They are left alone.
    Leave,
}

/// How psflip learns that a child is healthy; exactly one kind (contract H1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Healthy when the child still runs after this long.
    Alive {
        /// From the child's exec; zero: as soon as it was executed.
        timeout: Duration,
    },
    /// Healthy when the command exits 0.
    Command {
        /// Its argv; never empty, no NUL bytes.
        cmd: Vec<String>,
        /// When to probe.
        pace: Pace,
    },
    /// Healthy when a container engine says that the container is.
    Docker {
        /// Name or id of the container: letters, digits, `_`, `.` and `-`.
        container: String,
        /// The engine's socket; as [`Health::Unix`]'s path.
        socket: PathBuf,
        /// When to ask.
        pace: Pace,
    },
    /// Healthy when a TCP connection is accepted.
    Tcp {
        /// Where to; for `localhost` both families, in this order of trying. Never empty.
        addresses: Vec<SocketAddr>,
        /// As the user wrote it, for messages.
        text: String,
        /// When to probe.
        pace: Pace,
    },
    /// Healthy when a connection to a Unix stream socket is accepted.
    Unix {
        /// The socket; a leading `@` is the abstract namespace (unix(7)). Fits into sun_path.
        path: PathBuf,
        /// When to probe.
        pace: Pace,
    },
    /// Healthy when a request is answered with one of `status`.
    Http {
        /// The request.
        request: HttpRequest,
        /// Status codes that count as healthy, inclusive ranges. Never empty.
        status: Vec<std::ops::RangeInclusive<u16>>,
        /// When to probe.
        pace: Pace,
    },
    /// Healthy when a FastCGI request is answered with one of `status`.
    Fcgi {
        /// The request.
        request: FcgiRequest,
        /// As [`Health::Http`]'s.
        status: Vec<std::ops::RangeInclusive<u16>>,
        /// When to probe.
        pace: Pace,
    },
    /// Healthy when the child sends `READY=1` to `NOTIFY_SOCKET` (sd_notify(3)).
    Notify {
        /// How long after `upgrade.timeout` the child may put off the end of psflip's patience by `EXTEND_TIMEOUT_USEC=`; zero: not
        /// at all.
        extend: Duration,
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
    /// What is added to the usual parameters, or replaces them. At most 64 KiB; no name is empty or has a `=` in it.
    pub params: Vec<(String, String)>,
}

/// The target of an `http` health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRequest {
    /// As the user wrote it, for messages.
    pub url: String,
    /// Where to connect.
    pub target: Endpoint,
    /// What is asked for.
    pub method: HttpMethod,
    /// The `Host` header: a host and maybe a port, without spaces and control characters.
    pub host: String,
    /// More header fields: names are tokens, values have no control characters but tabs (RFC 9110, 5.5 and 5.6.2). No name is there
    /// twice, or is one of those that say how the request is framed. Values may be secrets.
    pub headers: Vec<(String, String)>,
    /// Path and query, begins with `/`, contains neither spaces nor control characters.
    pub path: String,
}

/// The method of an `http` health check: safe, and without a body (RFC 9110, 9.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpMethod {
    /// The usual one.
    Get,
    /// As `GET`, without the body of the answer.
    Head,
    /// What the server allows.
    Options,
}

impl HttpMethod {
    /// As it stands in a request and in a configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
        }
    }
}

/// Where a health check connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// In this order of trying; never empty.
    Tcp(Vec<SocketAddr>),
    /// As [`Health::Unix`]'s path.
    Unix(PathBuf),
}

/// When probes happen (contract H1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From the child's exec to the first probe.
    pub after: Duration,
    /// From one probe's end to the next one's start. Never zero.
    pub interval: Duration,
    /// For one probe. Never zero.
    pub timeout: Duration,
    /// Successful probes in a row that make a child healthy. At least 1.
    pub successes: u32,
}

/// `switch.symlink`: a symbolic link that is turned at promotion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symlink {
    /// The link.
    pub path: PathBuf,
    /// What it points to from then on, as it is written into the link.
    pub to: PathBuf,
}

/// `[hooks]`: programs that are run on the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// Before promotion; its failure fails the upgrade. Empty: none.
    pub promote: Vec<String>,
    /// After promotion. Empty: none.
    pub promoted: Vec<String>,
    /// After an upgrade that failed, by the generation that serves on. Empty: none.
    pub failed: Vec<String>,
    /// For each of them. Never zero.
    pub timeout: Duration,
}

/// `control.socket`: where operators reach psflip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Next to the pidfile, if there is one; psflip does without where that can't be.
    Default,
    /// There is no pidfile, and the service manager has made a directory for this service: `$RUNTIME_DIRECTORY` of systemd.exec(5).
    /// Otherwise as [`Control::Default`].
    Runtime(PathBuf),
    /// A path that fits into sun_path (unix(7)).
    At(PathBuf),
    /// Nowhere.
    Off,
}

/// `[log]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// How a line looks.
    pub format: LogFormat,
    /// The least important lines that are written.
    pub level: tracing::Level,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `Journald` where standard error is the journal, else `Text`.
    Auto,
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
    /// To systemd's journal, with fields.
    Journald,
}

/// Which of two resources a generation uses: `a` in the first one, then alternating with every promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The first generation's.
    A,
    /// The second one's.
    B,
}

impl Slot {
    /// `a` or `b`, as in `PSFLIP_SLOT`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The slot of the generation after this one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}
