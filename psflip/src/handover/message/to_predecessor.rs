//! The messages of the successor.

use std::time::Duration;

use super::{Fields, Malformed, Text, WireMessage, from_word, upgrade, word};
use crate::history::UpgradeStep;

/// From the successor to the predecessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToPredecessor {
    /// The successor exists (its pidfd is attached), and will now execute psflip.
    Spawned {
        /// The successor's pid.
        pid: u32,
    },
    /// The successor has read the configuration and starts its child.
    Starting {
        /// The successor's version, for messages to people.
        version: String,
        /// The time from now within which the successor sends `Ready` or `Failed`; later it counts as hung.
        deadline: Duration,
        /// The time after an `Abort` within which the successor exits; later it counts as hung.
        grace: Duration,
    },
    /// All checks that need no child have succeeded. The successor waits for
    /// [`ToSuccessor::Start`](super::ToSuccessor::Start).
    Prepared {
        /// The time from that message on within which the successor sends `Ready` or `Failed`.
        deadline: Duration,
    },
    /// The child may take longer than announced (`EXTEND_TIMEOUT_USEC=` of sd_notify(3)). A predecessor that
    /// does not know this message takes the successor for hung at the earlier deadline.
    Extended {
        /// The new deadline from now, as in `Starting`.
        deadline: Duration,
    },
    /// The successor's configuration is new to this service, and likely causes an outage. A predecessor that
    /// does not know this message skips it.
    Warning {
        /// Why, and what to do, in one line.
        text: String,
    },
    /// The successor's progress, for waiting clients.
    Progress {
        /// The current step.
        step: UpgradeStep,
        /// The pid of the child, once there is one.
        child: Option<u32>,
        /// The result of a failed probe.
        probe: Option<String>,
        /// How long the step takes, if that is known. Missing from versions that don't know this key.
        left: Option<Duration>,
    },
    /// The child is healthy and traffic is switched to it: requests the traffic, on trial (contract B1).
    Baking {
        /// How long the bake takes.
        bake: Duration,
        /// The time after the end of the bake within which the successor sends `Ready`, `Returned` or
        /// `Failed`.
        deadline: Duration,
        /// As in `Starting`, from now on.
        grace: Duration,
    },
    /// The successor has given the traffic back, and gives up (contract B3).
    Returned {
        /// Why, for people.
        reason: String,
    },
    /// The child is healthy and the pidfile names the successor: requests the acknowledgement.
    Ready,
    /// The successor gives up, and exits after this message.
    Failed {
        /// Its exit code.
        code: u8,
        /// The exit code of its child, if the child exited and the reason names the code. Missing from
        /// versions that don't know this key.
        child_code: Option<u8>,
        /// Why, for people.
        reason: String,
    },
    /// The successor got an upgrade request that it can't serve.
    Upgrade {
        /// Who requested it, as text, if known.
        by: Option<String>,
    },
    /// Connections are no longer held (`psflip resume`): requests that wait at the predecessor's relay go on.
    Resume,
    /// The successor got a stop request while the pidfile named it, so the request was meant for the service:
    /// the predecessor has to stop with its child.
    Stop,
    /// The files of `[output]` are to be opened again, as
    /// [`ToSuccessor::Reopen`](super::ToSuccessor::Reopen).
    Reopen,
    /// The predecessor, which drains, has to end at once: an operator does not wait for it (`psflip upgrade
    /// --end-draining`). A predecessor that does not know this message is killed after a while.
    End,
}

impl WireMessage for ToPredecessor {
    fn encode(&self) -> String {
        match self {
            Self::Spawned { pid } => {
                let mut text = Text::new("spawned");
                text.add("pid", &pid);
                text.finish()
            }
            Self::Starting { version, deadline, grace } => {
                let mut text = Text::new("starting");
                text.add("version", &version);
                text.add("deadline-ms", &deadline.as_millis());
                text.add("grace-ms", &grace.as_millis());
                text.finish()
            }
            Self::Prepared { deadline } => {
                let mut text = Text::new("prepared");
                text.add("deadline-ms", &deadline.as_millis());
                text.finish()
            }
            Self::Extended { deadline } => {
                let mut text = Text::new("extended");
                text.add("deadline-ms", &deadline.as_millis());
                text.finish()
            }
            Self::Warning { text: warning } => {
                let mut text = Text::new("warning");
                text.add("text", warning);
                text.finish()
            }
            Self::Progress { step, child, probe, left } => {
                let mut text = Text::new("progress");
                text.add("step", &word(step));
                if let Some(child) = child {
                    text.add("child", child);
                }
                if let Some(probe) = probe {
                    text.add("probe", probe);
                }
                if let Some(left) = left {
                    text.add("left-ms", &left.as_millis());
                }
                text.finish()
            }
            Self::Baking { bake, deadline, grace } => {
                let mut text = Text::new("baking");
                text.add("bake-ms", &bake.as_millis());
                text.add("deadline-ms", &deadline.as_millis());
                text.add("grace-ms", &grace.as_millis());
                text.finish()
            }
            Self::Returned { reason } => {
                let mut text = Text::new("returned");
                text.add("reason", reason);
                text.finish()
            }
            Self::Ready => Text::new("ready").finish(),
            Self::Failed { code, child_code, reason } => {
                let mut text = Text::new("failed");
                text.add("code", &code);
                if let Some(child_code) = child_code {
                    text.add("child-code", child_code);
                }
                text.add("reason", &reason);
                text.finish()
            }
            Self::Upgrade { by } => upgrade(by.as_ref()),
            Self::Resume => Text::new("resume").finish(),
            Self::Stop => Text::new("stop").finish(),
            Self::Reopen => Text::new("reopen").finish(),
            Self::End => Text::new("end").finish(),
        }
    }

    fn decode(packet: &[u8]) -> Result<Option<Self>, Malformed> {
        let (verb, fields) = Fields::split(packet)?;
        Ok(Some(match verb {
            "spawned" => Self::Spawned { pid: fields.number("pid")? },
            "starting" => Self::Starting {
                version: fields.text("version")?,
                deadline: Duration::from_millis(fields.number("deadline-ms")?),
                grace: Duration::from_millis(fields.number("grace-ms")?),
            },
            "prepared" => Self::Prepared { deadline: Duration::from_millis(fields.number("deadline-ms")?) },
            "extended" => Self::Extended { deadline: Duration::from_millis(fields.number("deadline-ms")?) },
            "warning" => Self::Warning { text: fields.text("text")? },
            "progress" => Self::Progress {
                step: from_word(&fields.text("step")?)?,
                child: fields.optional_number("child")?,
                probe: fields.optional("probe"),
                left: fields.optional_number("left-ms")?.map(Duration::from_millis),
            },
            "baking" => Self::Baking {
                bake: Duration::from_millis(fields.number("bake-ms")?),
                deadline: Duration::from_millis(fields.number("deadline-ms")?),
                grace: Duration::from_millis(fields.number("grace-ms")?),
            },
            "returned" => Self::Returned { reason: fields.text("reason")? },
            "ready" => Self::Ready,
            "failed" => Self::Failed {
                code: fields.number("code")?,
                child_code: fields.optional_number("child-code")?,
                reason: fields.text("reason")?,
            },
            "upgrade" => Self::Upgrade { by: fields.optional("by") },
            "resume" => Self::Resume,
            "stop" => Self::Stop,
            "reopen" => Self::Reopen,
            "end" => Self::End,
            _ => return Ok(None),
        }))
    }
}
