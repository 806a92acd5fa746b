//! The state of services in the text format of OpenMetrics 1.0
//! (<https://prometheus.io/docs/specs/om/open_metrics_spec/>), which Prometheus and the textfile collector of
//! node_exporter read.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::status::old_generations;
use crate::control::protocol::{Proxy, Status};
use crate::history::{Counts, Outcome, Record};

/// A service, and its status if its psflip answered.
pub(in crate::cli) struct Measured<'a> {
    /// The path of its control socket, which stays the same while it is down.
    pub(in crate::cli) service: String,
    /// Its control group, which tells containers apart that use the same paths.
    pub(in crate::cli) cgroup: Option<&'a str>,
    pub(in crate::cli) status: Option<&'a Status>,
}

#[derive(Clone, Copy)]
enum Kind {
    Gauge,
    Counter,
}

/// A sample's labels besides `service`, and its value.
type Sample = (Vec<(&'static str, String)>, f64);

/// More than this no configuration can have; a process that only claims to be psflip may.
const MOST_PROXIES: usize = 64;

/// What a proxy counts: the end of a name, what it is, its help text, and its value.
type Count = (&'static str, Kind, &'static str, fn(&Proxy) -> u64);

/// All metrics of these services. Of several with the same labels only the first counts: the format allows no
/// sample twice.
pub(in crate::cli) fn metrics(services: &[Measured<'_>]) -> String {
    let mut out = String::new();
    let mut seen = HashSet::new();
    let services: Vec<&Measured<'_>> =
        services.iter().filter(|one| seen.insert((&one.service, one.cgroup))).collect();
    let services = services.as_slice();
    let up = services.iter().copied().map(|one| (one, vec![(Vec::new(), flag(one.status.is_some()))]));
    family(&mut out, "psflip_up", Kind::Gauge, "Whether psflip answered.", up);
    let mut add = |name: &str, kind: Kind, help: &str, samples: fn(&Status) -> Vec<Sample>| {
        let all = services.iter().copied().filter_map(|one| Some((one, samples(one.status?))));
        family(&mut out, name, kind, help, all);
    };
    add("psflip_service_info", Kind::Gauge, "Its configuration, and psflip's version.", |status| {
        let config = status.config.as_ref().map(|config| config.path.clone()).unwrap_or_default();
        vec![(vec![("config", config), ("version", status.version.clone())], 1.0)]
    });
    add("psflip_child_up", Kind::Gauge, "Whether the active generation's child runs.", |status| {
        one(flag(status.child.is_some()))
    });
    add("psflip_generation", Kind::Gauge, "The active generation.", |status| one(status.generation as f64));
    add(
        "psflip_active_since_timestamp_seconds",
        Kind::Gauge,
        "When the active generation became active.",
        |status| status.active_since.map(|at| one(seconds(at))).unwrap_or_default(),
    );
    add(
        "psflip_upgrades",
        Kind::Counter,
        "Upgrades that have ended since the service was started, by their results.",
        |status| status.upgrades.map(counted).unwrap_or_default(),
    );
    add("psflip_upgrade_in_progress", Kind::Gauge, "Whether an upgrade is in progress.", |status| {
        one(flag(status.upgrade.is_some()))
    });
    add("psflip_upgrade_queued", Kind::Gauge, "Whether an upgrade is queued.", |status| {
        one(flag(status.upgrade_queued))
    });
    add(
        "psflip_bake_left_seconds",
        Kind::Gauge,
        "How long the new generation still has the traffic on trial; no sample: there is no bake.",
        |status| status.bake_left_ms.map(|left| one(seconds(left))).unwrap_or_default(),
    );
    add("psflip_draining", Kind::Gauge, "How many old generations still drain.", |status| {
        one(old_generations(status).count() as f64)
    });
    add(
        "psflip_last_upgrade_result",
        Kind::Gauge,
        "How the last upgrade ended: 1 for its result.",
        |status| last(status).map(results).unwrap_or_default(),
    );
    add(
        "psflip_last_upgrade_timestamp_seconds",
        Kind::Gauge,
        "When the last upgrade was promoted, or failed.",
        |status| {
            let ended = |last: &Record| last.began_at.saturating_add(last.took_ms.unwrap_or_default());
            last(status).map(|last| one(seconds(ended(last)))).unwrap_or_default()
        },
    );
    add(
        "psflip_last_upgrade_duration_seconds",
        Kind::Gauge,
        "How long the last upgrade took, until it was promoted or failed.",
        |status| {
            last(status).and_then(|last| last.took_ms).map(|took| one(seconds(took))).unwrap_or_default()
        },
    );
    add(
        "psflip_last_upgrade_killed",
        Kind::Gauge,
        "Whether processes of the old generation had to be killed after the last upgrade.",
        |status| last(status).map(|last| one(flag(last.killed()))).unwrap_or_default(),
    );
    add("psflip_held", Kind::Gauge, "Whether connections are held.", |status| {
        one(flag(status.hold.is_some()))
    });
    add(
        "psflip_relay_unexpected_exits",
        Kind::Counter,
        "Relays of the active generation that exited unexpectedly.",
        |status| status.relay.map(|relay| one(relay.unexpected_exits as f64)).unwrap_or_default(),
    );
    add(
        "psflip_recycle_left_seconds",
        Kind::Gauge,
        "How long until `recycle.after` requests an upgrade, or until it tries again after a failure.",
        |status| {
            status
                .recycle
                .and_then(|recycle| recycle.next_ms)
                .map(|left| one(seconds(left)))
                .unwrap_or_default()
        },
    );
    add(
        "psflip_recycle_memory_bytes",
        Kind::Gauge,
        "What the child and its descendants used when psflip last looked (`recycle.memory`).",
        |status| {
            status.recycle.and_then(|recycle| recycle.memory).map(|used| one(used as f64)).unwrap_or_default()
        },
    );
    add(
        "psflip_recycle_memory_limit_bytes",
        Kind::Gauge,
        "How much of it they may use before psflip requests an upgrade.",
        |status| {
            status
                .recycle
                .and_then(|recycle| recycle.memory_limit)
                .map(|most| one(most as f64))
                .unwrap_or_default()
        },
    );
    add(
        "psflip_recycle_failures",
        Kind::Gauge,
        "How many upgrades that `[recycle]` requested have failed in a row.",
        |status| status.recycle.map(|recycle| one(f64::from(recycle.failures))).unwrap_or_default(),
    );
    let counts: [Count; 5] = [
        ("connections", Kind::Counter, "Connections of the active generation's proxy.", |proxy| {
            proxy.connections
        }),
        ("open_connections", Kind::Gauge, "Connections that are open.", |proxy| proxy.open),
        ("requests", Kind::Counter, "Requests of the active generation's proxy.", |proxy| proxy.requests),
        ("requests_under_way", Kind::Gauge, "Requests that are under way.", |proxy| proxy.under_way),
        ("errors", Kind::Counter, "Requests or connections that failed because of the child.", |proxy| {
            proxy.errors
        }),
    ];
    for (name, kind, help, value) in counts {
        let all = services.iter().copied().filter_map(|service| {
            let mut seen = HashSet::new();
            let proxies = service.status?.proxies.iter().take(MOST_PROXIES);
            let proxies = proxies.filter(|proxy| seen.insert(&proxy.listen));
            let samples =
                proxies.map(|proxy| (vec![("listen", proxy.listen.clone())], value(proxy) as f64)).collect();
            Some((service, samples))
        });
        family(&mut out, &format!("psflip_proxy_{name}"), kind, help, all);
    }
    out + "# EOF\n"
}

/// Writes a family: what it is, then its samples, all together as the format requires.
fn family<'a, 'b: 'a>(
    out: &mut String,
    name: &str,
    kind: Kind,
    help: &str,
    samples: impl Iterator<Item = (&'a Measured<'b>, Vec<Sample>)>,
) {
    let (word, suffix) = match kind {
        Kind::Gauge => ("gauge", ""),
        Kind::Counter => ("counter", "_total"),
    };
    // Writing to a string can't fail.
    let _ = write!(out, "# TYPE {name} {word}\n# HELP {name} {help}\n");
    for (measured, list) in samples {
        for (labels, value) in list {
            let _ = write!(out, "{name}{suffix}{{service=\"{}\"", escaped(&measured.service));
            if let Some(cgroup) = measured.cgroup {
                let _ = write!(out, ",cgroup=\"{}\"", escaped(cgroup));
            }
            for (label, text) in labels {
                let _ = write!(out, ",{label}=\"{}\"", escaped(&text));
            }
            let _ = writeln!(out, "}} {value}");
        }
    }
}

/// A label's value: backslash, quote and line feed are escaped.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn one(value: f64) -> Vec<Sample> {
    vec![(Vec::new(), value)]
}

fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

/// All results, so that a series exists before its first upgrade, and increases by it.
fn counted(counts: Counts) -> Vec<Sample> {
    let Counts { promoted, failed, rolled_back } = counts;
    [("promoted", promoted), ("failed", failed), ("rolled_back", rolled_back)]
        .map(|(word, count)| (vec![("result", word.to_owned())], count as f64))
        .into()
}

/// The last upgrade that has ended.
fn last(status: &Status) -> Option<&Record> {
    status.history.iter().rev().find(|record| record.upgrade > 0 && record.result.is_some())
}

fn results(last: &Record) -> Vec<Sample> {
    [("promoted", Outcome::Promoted), ("failed", Outcome::Failed), ("rolled_back", Outcome::RolledBack)]
        .map(|(word, outcome)| (vec![("result", word.to_owned())], flag(last.result == Some(outcome))))
        .into()
}
