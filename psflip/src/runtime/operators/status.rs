//! The status report.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::anchor::AnchorLink;
use crate::config::{Health, spell};
use crate::control::protocol::{self, ServiceState, Status};
use crate::flip::{self, Timer, UpgradeBlocked};
use crate::process::invocation::{FileStamp, absolute};
use crate::process::launch::Place;
use crate::runtime::old_generations::Progress;
use crate::runtime::timers::Key;
use crate::runtime::{Predecessor, Runtime};
use crate::text;

impl Runtime {
    /// The child's pid, unless the child has exited and psflip only waits for the predecessor.
    pub(super) fn shown_child(&self) -> Option<u32> {
        self.child.pid().filter(|_| !self.machine.state.awaits_predecessor())
    }

    /// The draining predecessor, as far as it has reported its step.
    pub(super) fn draining(&self) -> Option<protocol::OldGeneration> {
        let Predecessor { generation, pid, progress, .. } = self.handover.predecessor.as_ref()?;
        Some(old_generation(*generation, *pid, *progress))
    }

    /// The old generations before the predecessor, which drain, the oldest first.
    pub(super) fn older(&self) -> Vec<protocol::OldGeneration> {
        let older = self.handover.older.iter();
        older.map(|(generation, pid, progress)| old_generation(generation, pid, progress)).collect()
    }

    /// Why an upgrade can't start at once, for a client. `ends`: the old generations are being killed.
    pub(super) fn why_blocked(&self, why: UpgradeBlocked, ends: bool) -> String {
        let all: Vec<_> = self.older().into_iter().chain(self.draining()).collect();
        let Some(oldest) = all.first().filter(|_| why == UpgradeBlocked::OldGenerationsDrain) else {
            return in_words(why).to_owned();
        };
        let generation = oldest.generation.unwrap_or_default();
        match all.len() {
            1 if ends => format!("generation {generation} still drains and is killed at once"),
            1 if self.plan.upgrade.draining == 1 => {
                let left = oldest.left_ms.map(|left| Duration::from_secs(left.div_ceil(1000)));
                let left =
                    left.map(|left| format!(" (this step for at most {})", spell(left))).unwrap_or_default();
                format!(
                    "generation {generation} still drains{left}; `psflip upgrade --end-draining` kills it at once"
                )
            }
            many if ends => format!("{many} old generations still drain and are killed at once"),
            // A configuration with a smaller number has come.
            many if self.plan.upgrade.draining == 1 => format!(
                "{many} old generations still drain; `psflip upgrade --end-draining` kills them at once"
            ),
            many => format!(
                "{many} old generations drain, as many as may (`upgrade.draining`); the oldest, generation {generation}, is killed at once"
            ),
        }
    }

    /// The proxies, with what the relay has counted.
    fn proxies(&self) -> Vec<protocol::Proxy> {
        let counts = self.proxy.counts();
        let addresses = self.traffic.listeners.addresses().into_iter().skip(self.plan.listeners.len());
        let proxies = self.plan.proxies.iter().zip(addresses).map(|(proxy, listen)| {
            let written = proxy.socket.address.to_string();
            let counted = counts.iter().find(|counts| counts.listen == written).cloned().unwrap_or_default();
            protocol::Proxy {
                listen,
                forward: proxy.forward.to_string(),
                protocol: proxy.protocol.as_str().to_owned(),
                state: self.proxy.state(),
                connections: counted.connections,
                open: counted.open,
                requests: counted.requests,
                reused: counted.reused,
                under_way: counted.under_way,
                errors: counted.errors,
            }
        });
        proxies.collect()
    }

    /// What the child was started from.
    fn files(&self) -> Vec<protocol::Source> {
        let of_command = self.child.place.as_ref().map(Place::sources);
        let of_env = self.identity.env_files.iter().map(FileStamp::source);
        of_command.unwrap_or_default().into_iter().chain(of_env).collect()
    }

    /// The status report. It asks no file system: one that hangs would stop psflip's loop.
    pub(super) fn status_report(&self) -> Status {
        let Self { plan, identity, operators, machine, .. } = self;
        let log = &operators.log;
        let text = |path: &Path| text::lossy(path);
        let absolute = |path: &Path| text(&absolute(path));
        let control = plan.control.path(plan.pidfile.as_deref());
        let is_first_start = log.active_since.is_none();
        let (upgrade, timer) = match (&log.upgrade, &log.own) {
            (Some(under_way), _) => (Some(&under_way.record), Timer::Successor),
            (None, own) => (own.as_ref().filter(|_| is_first_start), Timer::Healthy),
        };
        Status {
            psflip: protocol::PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            anchor: self.managers.anchor.link().map(AnchorLink::anchor),
            state: state(&machine.state),
            generation: identity.generation,
            slot: identity.slot.as_str().to_owned(),
            child: self.shown_child(),
            command: plan.cmd.clone(),
            started_at: log.started_at,
            active_since: log.active_since,
            health: kind(&plan.health).to_owned(),
            config: identity.config.as_ref().map(FileStamp::source),
            program: identity.origin.source(),
            files: Some(self.files()),
            pidfile: plan.pidfile.as_deref().map(absolute),
            control: control.as_deref().map(absolute),
            listeners: plan
                .listeners
                .iter()
                .zip(self.traffic.listeners.addresses())
                .map(|(listener, address)| protocol::Listener { address, name: listener.name.clone() })
                .collect(),
            proxies: self.proxies(),
            relay: (!plan.proxies.is_empty())
                .then(|| protocol::Relay { pid: self.proxy.pid(), unexpected_exits: self.proxy.lost() }),
            hold: self.proxy.hold(),
            recycle: self.recycling(),
            switch: plan
                .switch
                .as_ref()
                .map(|link| protocol::Switch { path: text(&link.path), to: text(&link.to) }),
            upgrade_queued: machine.state.upgrade_queued,
            predecessor: self.draining(),
            older: self.older(),
            upgrade_left_ms: upgrade
                .and_then(|_| self.wait.timers.left(Key::Flip(timer)))
                .map(|left| left.as_millis() as u64),
            bake_left_ms: machine
                .state
                .successor_bakes()
                .then(|| self.handover.bake_left().as_millis() as u64),
            settle_left_ms: match &log.upgrade {
                Some(under_way) => {
                    under_way.settled.map(|until| until.saturating_duration_since(Instant::now()))
                }
                None => self.wait.timers.left(Key::Settle),
            }
            .map(|left| left.as_millis() as u64),
            upgrade: upgrade.cloned(),
            upgrades: Some(log.counts),
            history: log.history.iter().cloned().collect(),
        }
    }
}

fn old_generation(generation: u64, pid: u32, progress: Option<Progress>) -> protocol::OldGeneration {
    let left = |(_, until): Progress| until.saturating_duration_since(Instant::now());
    protocol::OldGeneration {
        generation: Some(generation),
        pid,
        step: progress.map(|(step, _)| step),
        left_ms: progress.map(left).map(|left| left.as_millis() as u64),
    }
}

fn state(state: &flip::State) -> ServiceState {
    if state.is_stopping() {
        ServiceState::Stopping
    } else if state.successor().is_some() || state.is_interrupted() {
        ServiceState::Upgrading
    } else if state.is_service() {
        ServiceState::Serving
    } else {
        ServiceState::Starting
    }
}

/// Why an upgrade can't start at once.
pub(super) fn in_words(why: UpgradeBlocked) -> &'static str {
    match why {
        UpgradeBlocked::NotHealthy => "the child is not healthy yet",
        UpgradeBlocked::Stopping => "a stop was requested",
        UpgradeBlocked::OldGenerationsDrain => "old generations still drain",
        UpgradeBlocked::UnderWay => "an upgrade is under way",
        UpgradeBlocked::Bakes => "the new generation bakes",
        UpgradeBlocked::ShuttingDown => "this generation is stopping",
    }
}

/// The name of a health check.
pub(in crate::runtime) fn kind(health: &Health) -> &'static str {
    match health {
        Health::Alive { .. } => "alive",
        Health::Command { .. } => "command",
        Health::Docker { .. } => "docker",
        Health::Tcp { .. } => "tcp",
        Health::Unix { .. } => "unix",
        Health::Http { .. } => "http",
        Health::Fcgi { .. } => "fcgi",
        Health::Notify { .. } => "notify",
    }
}
