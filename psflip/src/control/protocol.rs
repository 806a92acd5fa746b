//! What client and psflip tell each other: a request, one line of JSON; then one or more lines of JSON, until psflip closes the
//! connection. Both sides skip keys that they don't know, and clients skip events that they don't know.

use serde::{Deserialize, Serialize};

use crate::end::End;
use crate::history::{Drain, Record, Step};
use crate::text;

/// The version of this protocol. It changes when a client of the old one could misunderstand the new one.
pub const PROTOCOL: u32 = 1;

/// The longest request, in bytes, with its line break.
pub const LONGEST_REQUEST: usize = 4096;

/// What a client writes, once a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`PROTOCOL`].
    pub psflip: u32,
    /// What it wants.
    #[serde(flatten)]
    pub wish: Wish,
}

/// What a client wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub enum Wish {
    /// How things are. Answered by one [`Event::Status`].
    Status,
    /// How things are, now and after every change. Answered by [`Event::Status`]s, at last perhaps [`Event::Moved`].
    Watch,
    /// An upgrade (contract U1 to U8). Answered by [`Event::Accepted`] and what follows.
    Upgrade,
    /// To hear of an upgrade that somebody else asked for, or that was asked for earlier.
    Follow {
        /// Its number.
        upgrade: u64,
    },
    /// The end of psflip and its child (contract S5). Answered by [`Event::Stopping`] and what follows.
    Stop,
}

impl Wish {
    /// Reads a request: a line without its line break.
    ///
    /// # Errors
    /// What is wrong with it, in words for whoever wrote it.
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
        let request: Request =
            serde_json::from_value(value).map_err(|error| format!("`{}` is no request: {error}", shown()))?;
        Ok(request.wish)
    }
}

/// A line that psflip writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// How things are.
    Status {
        /// All of it.
        status: Box<Status>,
    },
    /// The request will be followed by this upgrade.
    Accepted {
        /// Its number.
        upgrade: u64,
        /// Why it can't start now (contract U7).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        because: Option<String>,
    },
    /// The upgrade goes on.
    Step {
        /// Its number.
        upgrade: u64,
        /// What happens now.
        step: Step,
        /// Milliseconds since it began.
        at_ms: u64,
        /// The pid of the new psflip, once it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// The pid of the new child, once it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<u32>,
        /// For [`Step::Probe`]: what the probe said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        probe: Option<String>,
    },
    /// The new configuration probably does not mean what it says. Sent where it is another one than the old generation's.
    Warning {
        /// The upgrade's number.
        upgrade: u64,
        /// What, and what to do, in one line.
        text: String,
    },
    /// The new generation is the service.
    Promoted {
        /// The upgrade's number.
        upgrade: u64,
        /// The new generation.
        generation: u64,
        /// Its psflip.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// Its child.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<u32>,
        /// Milliseconds since the upgrade began.
        took_ms: u64,
    },
    /// The old generation is over. The last line of an upgrade.
    Drained {
        /// The upgrade's number.
        upgrade: u64,
        /// Something of it had to be killed.
        killed: bool,
    },
    /// The upgrade failed, and the old child keeps running (contract U8). The last line of an upgrade.
    Failed {
        /// Its number.
        upgrade: u64,
        /// The generation that failed.
        generation: u64,
        /// Why.
        reason: String,
        /// The end of what was written meanwhile to the file that is standard error. Unknown where that is no regular file.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<String>,
        /// The failed psflip.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pid: Option<u32>,
        /// The child that keeps running.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<u32>,
    },
    /// This generation is not the service any more: connect again and go on there.
    Moved {
        /// What to follow there; without it, ask again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        upgrade: Option<u64>,
    },
    /// The request will not be followed.
    Refused {
        /// Why.
        reason: String,
    },
    /// The request could not be understood.
    Error {
        /// Why.
        reason: String,
    },
    /// The child was asked to end.
    Stopping {
        /// Its pid.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<u32>,
        /// How long it has, in milliseconds.
        timeout_ms: u64,
        /// By which signal: an end by this one is as good as any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    },
    /// The child did not end in time, so it is served on (contract S5).
    Ignored {
        /// Its pid.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        child: Option<u32>,
        /// How long it had, in milliseconds.
        timeout_ms: u64,
    },
    /// The child has exited as asked; the generation before still drains, and psflip ends after it (contract F11).
    Waiting {
        /// That one.
        predecessor: Predecessor,
    },
    /// psflip ends now.
    Stopped {
        /// How, in words.
        end: String,
        /// Its exit code, where it ends by one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<u8>,
        /// The signal that it ends by, as its child did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<String>,
    },
    /// Something of a later version.
    #[serde(other)]
    Other,
}

impl Event {
    /// As psflip writes it, with the line break.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).unwrap_or_default(); // it can't fail: all its keys are strings
        line.push(b'\n');
        line
    }

    /// psflip ends like this.
    #[must_use]
    pub fn stopped(end: End) -> Self {
        let (code, signal) = match end {
            End::Exited(code) => (Some(code), None),
            End::Killed(signal) => (None, Some(signal.to_string())),
        };
        Self::Stopped { end: end.to_string(), code, signal }
    }
}

/// How things are with the active generation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`PROTOCOL`].
    pub psflip: u32,
    /// The version of psflip.
    pub version: String,
    /// Its pid.
    pub pid: u32,
    /// The pid of the anchor, the stable parent of all generations, if there is one.
    pub anchor: Option<u32>,
    /// What it is doing.
    pub state: State,
    /// The generation.
    pub generation: u64,
    /// `a` or `b`.
    pub slot: String,
    /// The child's pid, while it runs.
    pub child: Option<u32>,
    /// The child's command.
    pub command: Vec<String>,
    /// When this psflip was started, in milliseconds since 1970 (UTC).
    pub started_at: u64,
    /// When it became the service, likewise.
    pub active_since: Option<u64>,
    /// The kind of health check.
    pub health: String,
    /// The configuration file.
    pub config: Option<Source>,
    /// psflip's own executable.
    pub program: Option<Source>,
    /// The pidfile.
    pub pidfile: Option<String>,
    /// The socket that answers.
    pub control: Option<String>,
    /// `[[listen]]`.
    pub listeners: Vec<Listener>,
    /// `[switch]`.
    pub switch: Option<Switch>,
    /// An upgrade was requested and starts as soon as it can.
    pub remembered: bool,
    /// The generation before, while it drains.
    pub predecessor: Option<Predecessor>,
    /// The upgrade that is under way.
    pub upgrade: Option<Record>,
    /// How long that may still take, in milliseconds.
    pub upgrade_left_ms: Option<u64>,
    /// The upgrades before, the newest last.
    pub history: Vec<Record>,
}

/// What the active generation is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The first child is not healthy yet.
    Starting,
    /// It serves.
    Serving,
    /// It serves, and an upgrade is under way.
    Upgrading,
    /// It was asked to stop.
    Stopping,
    /// Something of a later version.
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
    /// There is another one at that path by now, or none.
    pub changed: bool,
}

/// A socket that psflip keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// `listen.address`.
    pub address: String,
    /// `listen.name`.
    pub name: String,
}

/// The link that is turned at promotion.
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
pub struct Predecessor {
    /// The pid of its psflip.
    pub pid: u32,
    /// How far it is.
    #[serde(default)]
    pub step: Option<Drain>,
    /// How long this step may still take, in milliseconds.
    #[serde(default)]
    pub left_ms: Option<u64>,
}
