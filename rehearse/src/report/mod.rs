//! The report: what was rehearsed, what was seen, and what follows from it. One model for all its forms.

mod build;
pub(crate) mod explain;
pub(crate) mod html;
pub(crate) mod junit;
pub(crate) mod latency;
pub(crate) mod terminal;

use serde::Serialize;

use crate::load::{Bucket, Connection, Kind, Stage};
use crate::service::processes::{Process, Usage};
use crate::service::versions::Version;
pub(crate) use explain::Finding;
pub(crate) use latency::Latency;

/// The version of the JSON report. It changes only if a reader of the version before would be wrong.
pub(crate) const FORMAT: u32 = 1;

/// A whole rehearsal. Times that end in `_ms` are milliseconds since it began.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Report {
    pub(crate) psflip_rehearse: u32,
    pub(crate) version: &'static str,
    /// What was rehearsed: the configuration file, the flags, or the command of `--during`.
    pub(crate) subject: String,
    /// Milliseconds since 1970 (UTC).
    pub(crate) began_at: f64,
    pub(crate) duration_ms: f64,
    pub(crate) loads: Vec<LoadReport>,
    pub(crate) requests: u64,
    pub(crate) lost: u64,
    /// Those of `lost` that were sent on reused keep-alive connections and got no byte of an answer.
    pub(crate) keep_alive_lost: u64,
    /// Requests a second, all clients together.
    pub(crate) rate: f64,
    /// WebSockets that the server closed with a close frame, as it should; their clients connect again.
    pub(crate) closed_politely: u64,
    pub(crate) upgrades: Vec<Upgrade>,
    /// Outside of upgrades.
    pub(crate) steady: Latency,
    /// How late the load itself was: latencies are this much too long at most.
    pub(crate) own_delay: Latency,
    /// The first 10,000.
    pub(crate) losses: Vec<LostRequest>,
    pub(crate) findings: Vec<Finding>,
    pub(crate) timeline: Vec<Bucket>,
    /// How the service exited when it was stopped.
    pub(crate) end: Option<String>,
    /// Processes that were left when it had exited.
    pub(crate) left: Vec<Process>,
    /// Why the rehearsal failed; empty if it passed.
    pub(crate) failures: Vec<String>,
}

/// A `--load`.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct LoadReport {
    pub(crate) url: String,
    pub(crate) kind: Kind,
    pub(crate) clients: usize,
    pub(crate) requests: u64,
    pub(crate) lost: u64,
    pub(crate) latency: Latency,
}

/// An upgrade.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Upgrade {
    pub(crate) number: usize,
    #[serde(flatten)]
    pub(crate) version: Version,
    pub(crate) steps: Vec<Step>,
    #[serde(flatten)]
    pub(crate) result: Result,
    pub(crate) generation: Option<u64>,
    /// Whether processes of the old child had to be killed.
    pub(crate) killed: bool,
    pub(crate) requests: u64,
    pub(crate) lost: u64,
    /// Of the requests that completed between the first step and the last one.
    pub(crate) latency: Latency,
    /// psflip's own processes, and the child's, after it.
    pub(crate) psflip: Usage,
    pub(crate) child: Usage,
    /// The most memory (PSS) that all processes of the service used together while it ran.
    pub(crate) peak_memory_kb: u64,
}

/// When an upgrade reached a step: those of docs/control.md; besides `requested`, `promoted`, `stop-signal`,
/// `gone` (the old generation) or `failed`. For other tools than psflip, `promoted` is when the command exited, and
/// `observed` when the pause after it was over.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Step {
    pub(crate) step: String,
    pub(crate) at_ms: f64,
}

impl Step {
    /// Whether the upgrade is over then.
    pub(crate) fn ends_upgrade(&self) -> bool {
        matches!(self.step.as_str(), "gone" | "failed")
    }
}

/// What became of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "result")]
pub(crate) enum Result {
    Promoted,
    Failed { reason: String, rolled_back: bool },
}

/// A lost request.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct LostRequest {
    pub(crate) at_ms: f64,
    pub(crate) took_ms: f64,
    pub(crate) url: String,
    pub(crate) kind: Kind,
    pub(crate) connection: Connection,
    pub(crate) stage: Stage,
    pub(crate) cause: String,
    pub(crate) status: Option<u16>,
    /// The number of the upgrade that ran then.
    pub(crate) upgrade: Option<usize>,
    /// Its last step before this.
    pub(crate) after: Option<String>,
}

impl LostRequest {
    /// Whether the client may repeat it without a risk, if it is idempotent: nothing of an answer arrived on a
    /// connection that had served others (RFC 9112, section 9.3.1).
    pub(crate) fn is_stale_connection(&self) -> bool {
        self.connection == Connection::Reused
            && matches!(self.stage, Stage::Send | Stage::FirstByte)
            && !self.cause.starts_with("no progress")
    }
}

impl Upgrade {
    /// When it reached a step.
    pub(crate) fn at(&self, step: &str) -> Option<f64> {
        self.steps.iter().find(|one| one.step == step).map(|one| one.at_ms)
    }

    /// From its first to its last step.
    pub(crate) fn span(&self) -> (f64, f64) {
        let first = self.steps.first().map_or(0.0, |step| step.at_ms);
        (first, self.steps.last().map_or(first, |step| step.at_ms))
    }

    /// From the request until the new version has the traffic.
    pub(crate) fn took_ms(&self) -> Option<f64> {
        Some(self.at("promoted")? - self.at("requested")?)
    }

    pub(crate) fn is_good(&self) -> bool {
        !matches!(self.version, Version::Bad(_))
    }
}
