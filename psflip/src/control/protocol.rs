//! The protocol of the control socket: the client sends a request, one line of JSON. psflip
//! sends one or more lines of JSON and then closes the connection. Both sides skip unknown
//! keys, and clients skip unknown events.

use serde::{Deserialize, Serialize};

use crate::exit_status::ExitStatus;
use crate::history::{Counts, Drain, Record, UpgradeStep};
use crate::proxy::Hold;
use crate::text;

/// The version of this protocol. It changes when an old client could misunderstand the new protocol.
pub const PROTOCOL: u32 = 1;

/// The longest request, in bytes, with its line break.
pub const LONGEST_REQUEST: usize = 4096;

/// What a client sends, once for each connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestLine {
    /// [`PROTOCOL`].
    pub psflip: u32,
    /// The requested action.
    #[serde(flatten)]
    pub request: ControlRequest,
}

/// The action that a client requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum ControlRequest {
    /// The current status, answered by one [`Event::Status`].
    Status,
    /// The status now and after every change. Answered by [`Event::Status`] each time, and
    /// possibly by a final [`Event::Moved`].
    Watch,
    /// The configuration file as the active generation read it, answered by one [`Event::Config`].
    Config,
    /// An upgrade (contract U1 to U8). Answered by [`Event::Accepted`] and the events of the upgrade.
    Upgrade {
        /// End a bake first, if there is one (contract B6).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        keep: bool,
        /// End the old generation at once, if it still drains (contract D1).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        end_draining: bool,
    },
    /// The end of a bake: the new generation is promoted (contract B1). Answered by [`Event::Accepted`] and
    /// the events of the upgrade.
    Keep,
    /// The way back from a bake (contract B3). Answered by [`Event::Accepted`] and the events of the upgrade.
    Rollback,
    /// The events of an upgrade that was requested earlier, or by another client.
    Follow {
        /// The number of the upgrade.
        upgrade: u64,
        /// If the upgrade is queued: end an old generation that drains at once (contract D1).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        end_draining: bool,
    },
    /// The stop of psflip and its child (contract S5). Answered by [`Event::Stopping`]
    /// and the events of the stop.
    Stop,
    /// To accept no new connection, and to let requests wait (contract T11). Answered by [`Event::Held`].
    Hold {
        /// The longest that a request may wait, in milliseconds.
        max_ms: u64,
    },
    /// To end a hold. Answered by [`Event::Resumed`].
    Resume,
    /// To open the files of `[output]` again (contract N6). Answered by [`Event::Reopening`], and by
    /// [`Event::Reopened`] for each file.
    Reopen,
}

impl ControlRequest {
    /// Decodes a request: a line without its line break.
    ///
    /// # Errors
    /// What is wrong with it, as text for the client.
    pub fn read(line: &[u8]) -> Result<Self, String> {
        const EXAMPLE: &str = r#"a request is one line like {"psflip":1,"request":"status"}"#;
        let shown = || text::head(&String::from_utf8_lossy(line), 100);
        let value: serde_json::Value = serde_json::from_slice(line)
            .map_err(|error| format!("`{}` is no request: {error}; {EXAMPLE}", shown()))?;
        match value.get("psflip").and_then(serde_json::Value::as_u64) {
            Some(version) if version == u64::from(PROTOCOL) => {}
            Some(version) => {
                return Err(format!(
                    "the request has protocol version {version}, and psflip {} has {PROTOCOL}",
                    env!("CARGO_PKG_VERSION")
                ));
            }
            None => return Err(format!("`{}` has no number `psflip`; {EXAMPLE}", shown())),
        }
        let decoded: RequestLine =
            serde_json::from_value(value).map_err(|error| format!("`{}` is no request: {error}", shown()))?;
        Ok(decoded.request)
    }
}

/// A line that psflip sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The current status.
    Status {
        /// All of it.
        status: Box<Status>,
    },
    /// The configuration file as the active generation read it.
    Config {
        /// That generation.
        generation: u64,
        /// Its text; of a configuration that consists of flags, the file that it stands for.
        text: String,
    },
    /// The request was accepted; the events of this upgrade follow.
    Accepted {
        /// The number of the upgrade.
        upgrade: u64,
        /// Why it can't start now (contract U7).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        because: Option<String>,
    },
    /// The upgrade has reached a step.
    Step {
        /// The number of the upgrade.
        upgrade: u64,
        /// The step that begins.
        step: UpgradeStep,
        /// Milliseconds since the upgrade began.
        at_ms: u64,
        /// The pid of the new psflip, once it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// The pid of the new child, once it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<u32>,
        /// For [`UpgradeStep::Probe`]: the result of the probe.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        probe: Option<String>,
        /// How long the step takes, if that is known: for [`UpgradeStep::Settling`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        left_ms: Option<u64>,
    },
    /// The new configuration likely causes an outage. Sent if it differs from the old generation's.
    Warning {
        /// The number of the upgrade.
        upgrade: u64,
        /// What is wrong and what to do, in one line.
        text: String,
    },
    /// The new generation has the traffic on trial: its bake begins (contract B1).
    Baking {
        /// The number of the upgrade.
        upgrade: u64,
        /// The new generation.
        generation: u64,
        /// How long the bake takes, in milliseconds.
        bake_ms: u64,
    },
    /// The new generation is active.
    Promoted {
        /// The number of the upgrade.
        upgrade: u64,
        /// The new generation.
        generation: u64,
        /// The pid of its psflip.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// The pid of its child.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<u32>,
        /// Milliseconds since the upgrade began.
        took_ms: u64,
        /// How long clients waited because no child ran (`upgrade.overlap = false`), in milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waited_ms: Option<u64>,
    },
    /// The old generation has exited. The last line of an upgrade.
    Drained {
        /// The number of the upgrade.
        upgrade: u64,
        /// Whether some of its processes had to be killed.
        killed: bool,
    },
    /// The upgrade failed, and the old child keeps running (contract U8). The last line of an upgrade.
    Failed {
        /// The number of the upgrade.
        upgrade: u64,
        /// The generation that failed.
        generation: u64,
        /// The reason.
        reason: String,
        /// The new generation had the traffic, and the old one has it again (contract B3).
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        rolled_back: bool,
        /// The last lines written to standard error during the upgrade. Only if standard
        /// error is a regular file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<String>,
        /// The pid of the failed psflip.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// The pid of the child that keeps running, or that was started again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<u32>,
        /// The old child had stopped for the new one (`upgrade.overlap = false`) and was started again.
        /// Clients waited so many milliseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waited_ms: Option<u64>,
    },
    /// This generation is not active any more: connect again to reach the new one.
    Moved {
        /// The upgrade to follow there. Without it, send the request again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upgrade: Option<u64>,
    },
    /// The request is refused.
    Refused {
        /// The reason.
        reason: String,
    },
    /// The request is invalid.
    Error {
        /// The reason.
        reason: String,
    },
    /// The child was sent the stop signal.
    Stopping {
        /// The child's pid.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<u32>,
        /// How long the child may take to exit, in milliseconds.
        timeout_ms: u64,
        /// The stop signal. A child that is terminated by it counts as stopped without an error.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    },
    /// The child did not exit in time and keeps running (contract S5).
    Ignored {
        /// The child's pid.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<u32>,
        /// How long it had, in milliseconds.
        timeout_ms: u64,
    },
    /// The child has exited as requested. The old generation still drains, and psflip
    /// exits after it (contract F11).
    Waiting {
        /// The old generation.
        predecessor: OldGeneration,
    },
    /// Connections are held.
    Held {
        /// The hold.
        hold: Hold,
    },
    /// Connections are not held.
    Resumed {
        /// The hold that has ended. Without it, connections were not held.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hold: Option<Hold>,
    },
    /// The files of `[output]` are opened again. The connection is closed when all are.
    Reopening {
        /// The active generation.
        generation: u64,
    },
    /// A file of `[output]` was opened again.
    Reopened {
        /// Its path.
        file: String,
        /// The generation whose child writes to it.
        generation: u64,
        /// Why it could not be opened; the file that was open stays open.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// psflip exits now.
    Stopped {
        /// Its exit status, in words.
        end: String,
        /// Its exit code, if it exits with one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u8>,
        /// The signal that terminates it, as it did the child.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    },
    /// An event of a later version.
    #[serde(other)]
    Other,
}

impl Event {
    /// The JSON of the event, with a line break.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        // it can't fail: all its keys are strings
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }

    /// The event of psflip's exit with this status.
    #[must_use]
    pub fn stopped(end: ExitStatus) -> Self {
        let (code, signal) = match end {
            ExitStatus::Exited(code) => (Some(code), None),
            ExitStatus::Killed(signal) => (None, Some(signal.to_string())),
        };
        Self::Stopped { end: end.to_string(), code, signal }
    }
}

/// The status of the active generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`PROTOCOL`].
    pub psflip: u32,
    /// The version of psflip.
    pub version: String,
    /// The pid of psflip.
    pub pid: u32,
    /// The pid of the anchor, the stable parent of all generations, if there is one.
    pub anchor: Option<u32>,
    /// What psflip is doing.
    pub state: ServiceState,
    /// The generation.
    pub generation: u64,
    /// `a` or `b`.
    pub slot: String,
    /// The child's pid, while it runs.
    pub child: Option<u32>,
    /// The child's command.
    pub command: Vec<String>,
    /// The time when this psflip was started, in milliseconds since 1970 (UTC).
    pub started_at: u64,
    /// The time when it became active, in milliseconds since 1970 (UTC).
    pub active_since: Option<u64>,
    /// The kind of health check.
    pub health: String,
    /// The configuration file.
    pub config: Option<Source>,
    /// psflip's own executable.
    pub program: Option<Source>,
    /// What the child was started from. `None`: psflip is of a version that does not report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<Source>>,
    /// The pidfile.
    pub pidfile: Option<String>,
    /// The control socket.
    pub control: Option<String>,
    /// `[[listen]]`.
    pub listeners: Vec<Listener>,
    /// `[[proxy]]`.
    pub proxies: Vec<Proxy>,
    /// The process that carries the connections of the proxies.
    pub relay: Option<Relay>,
    /// Connections are held.
    pub hold: Option<Hold>,
    /// `[recycle]`, if it is used and this generation is active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recycle: Option<Recycle>,
    /// `[switch]`.
    pub switch: Option<Switch>,
    /// Whether an upgrade is queued.
    #[serde(rename = "remembered")]
    pub upgrade_queued: bool,
    /// The last old generation, while it drains.
    pub predecessor: Option<OldGeneration>,
    /// The old generations before that one which still drain, the oldest first (`upgrade.draining`).
    pub older: Vec<OldGeneration>,
    /// The upgrade in progress.
    pub upgrade: Option<Record>,
    /// How long that upgrade may still take, in milliseconds.
    pub upgrade_left_ms: Option<u64>,
    /// How long the new generation has the traffic on trial, in milliseconds from now.
    pub bake_left_ms: Option<u64>,
    /// How long the new child still has to stay healthy (`settle`), in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settle_left_ms: Option<u64>,
    /// How the upgrades since the first start ended; `None`: psflip is of a version that does not count them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upgrades: Option<Counts>,
    /// The recent upgrades, newest last.
    pub history: Vec<Record>,
}

/// What the active generation is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceState {
    /// The first child is not healthy yet.
    Starting,
    /// It serves.
    Serving,
    /// It serves, and an upgrade is in progress.
    Upgrading,
    /// It is stopping.
    Stopping,
    /// A state of a later version.
    #[default]
    #[serde(other)]
    Other,
}

/// A file that was read or executed when this generation was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// Its path.
    pub path: String,
    /// Whether the file at that path is another one by now, or gone; of [`Status::files`] also whether a
    /// symlink leads elsewhere. psflip never looks for a client: a file system that hangs would stop it. The
    /// client compares with `seen`. `None`: not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed: Option<bool>,
    /// What was there when the generation was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seen: Option<Seen>,
}

/// What was at a path. A `stamp` is what stat(2) told, as text; `None`: there was nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "snake_case")]
pub enum Seen {
    /// A file that was read, by its path.
    File {
        /// The file.
        stamp: Option<String>,
    },
    /// psflip's executable. The next one is at the first of these paths that exists.
    Executable {
        /// The one that runs.
        stamp: Option<String>,
        /// Where it is looked for.
        names: Vec<String>,
    },
    /// A directory: the source's path has no symlinks, and this is the path that led there.
    Directory {
        /// That path.
        name: String,
    },
    /// The child's program: its directory has no symlinks, and the first program at these paths was there.
    Program {
        /// The program.
        stamp: Option<String>,
        /// Where it is looked for.
        names: Vec<String>,
    },
    /// A file among the child's arguments.
    Argument {
        /// The file.
        stamp: Option<String>,
        /// Its directory, with all symlinks resolved.
        directory: String,
    },
    /// Something that only a later version knows.
    #[serde(other)]
    Other,
}

/// A listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// `listen.address`.
    pub address: String,
    /// `listen.name`.
    pub name: String,
}

/// A proxy, and what it has carried in this generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Proxy {
    /// `proxy.listen`.
    pub listen: String,
    /// `proxy.forward`.
    pub forward: String,
    /// `proxy.protocol`.
    pub protocol: String,
    /// What it is doing.
    pub state: ProxyState,
    /// Connections that were accepted, or passed on by the old generation.
    pub connections: u64,
    /// Connections that are open.
    pub open: u64,
    /// Requests; 0 where the protocol has none.
    pub requests: u64,
    /// Requests on a connection to the child that an earlier one left open (`pool`).
    pub reused: u64,
    /// Requests, and connections where the protocol has no requests, that are under way.
    pub under_way: u64,
    /// Requests or connections that failed because of the child.
    pub errors: u64,
}

/// What a proxy is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProxyState {
    /// It does not accept: this generation is not active yet, or its relay is being started again.
    Waiting,
    /// It accepts connections.
    Accepting,
    /// It accepts no connection, and requests wait.
    Held,
    /// The new generation has the traffic on trial, and this one accepts again if it does not keep it.
    StandingBy,
    /// It accepts no connection, and answers what is under way: psflip stops, or the child has exited.
    Leaving,
    /// A state of a later version.
    #[default]
    #[serde(other)]
    Other,
}

/// The process that carries the connections of the proxies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Relay {
    /// Its pid, while it runs.
    pub pid: Option<u32>,
    /// How many relays of this generation have exited unexpectedly. Each time psflip starts another one.
    pub unexpected_exits: u64,
}

/// When psflip requests an upgrade by itself. The random part is contained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Recycle {
    /// How long this generation serves, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_ms: Option<u64>,
    /// When that is over, or the pause after a failed attempt, in milliseconds from now. 0: the upgrade is
    /// due, and waits for what else is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
    /// What the child's process tree used at the last look, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// How much of it this generation may use, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit: Option<u64>,
    /// When psflip looks at the memory again, in milliseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look_ms: Option<u64>,
    /// How many attempts of this generation have failed.
    pub failures: u32,
}

/// The symlink that is repointed at promotion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Switch {
    /// `switch.symlink.path`.
    pub path: String,
    /// `switch.symlink.to`.
    pub to: String,
}

/// A generation that drains.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OldGeneration {
    /// Its number; `None`: the one before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The pid of its psflip.
    pub pid: u32,
    /// The current step of the drain.
    #[serde(default)]
    pub step: Option<Drain>,
    /// How long this step may still take, in milliseconds.
    #[serde(default)]
    pub left_ms: Option<u64>,
}
