//! From what the clients have seen to the report.

use std::collections::BTreeMap;

use super::{FORMAT, Latency, LoadReport, LostRequest, Report, Upgrade, explain, timeline};
use crate::args::Args;
use crate::clock::Clock;
use crate::load::{Loss, Sample};
use crate::plan::Plan;

/// A request that begins this long after the last step of an upgrade may still be harmed by it.
const AFTERMATH_MS: f64 = 50.0;

impl Report {
    /// Without what came after the load.
    pub(crate) fn new(
        plan: &Plan,
        clock: Clock,
        loaded_ms: f64,
        mut upgrades: Vec<Upgrade>,
        seen: &crate::load::Seen,
    ) -> Self {
        let mut samples = seen.samples.clone();
        samples.sort_by_key(|sample| sample.at_us);
        let first_ms = samples.first().map_or(loaded_ms, ms);
        let longest_ms =
            samples.iter().map(|sample| sample.took_us).max().map_or(0.0, |took| f64::from(took) / 1e3);
        for upgrade in &mut upgrades {
            let own = during(&samples, upgrade, longest_ms);
            upgrade.requests = own.len() as u64;
            upgrade.lost = own.iter().filter(|sample| sample.lost).count() as u64;
            upgrade.latency = Latency::of(good(&own));
        }
        let is_steady =
            |sample: &&Sample| !upgrades.iter().any(|upgrade| overlaps(upgrade, began(sample), ms(sample)));
        let steady: Vec<Sample> = samples.iter().filter(is_steady).copied().collect();
        let losses: Vec<LostRequest> =
            seen.losses.iter().map(|loss| lost_request(plan, &upgrades, loss)).collect();
        Self {
            psflip_rehearse: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            subject: plan.name.clone(),
            began_at: clock.began_unix_ms,
            duration_ms: clock.now_ms(),
            loads: loads(plan, &samples),
            requests: seen.requests,
            lost: seen.lost,
            keep_alive_lost: losses.iter().filter(|lost| lost.is_stale_connection()).count() as u64,
            rate: seen.requests as f64 / ((loaded_ms - first_ms) / 1e3).max(0.001),
            closed_politely: seen.closed_politely,
            steady: Latency::of(good(&steady)),
            own_delay: Latency::of(seen.own_delays.iter().map(|(_, delay)| *delay)),
            findings: explain::findings(&losses),
            losses,
            timeline: timeline::of(&samples),
            upgrades,
            end: None,
            left: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Adds what exceeds a limit to the failures.
    pub(crate) fn apply_limits(&mut self, args: &Args) {
        let stale = self.keep_alive_lost.min(args.max_keep_alive_lost);
        if self.lost - stale > args.max_lost {
            self.failures.push(format!("{} of {} requests were lost", self.lost, self.requests));
        }
        let Some(limit) = args.max_p99 else { return };
        if self.requests > crate::load::MOST_SAMPLES as u64 {
            let text = format!(
                "--max-p99 can't be judged: there were more than {} requests; use --rate",
                crate::load::MOST_SAMPLES
            );
            self.failures.push(text);
        }
        for upgrade in &self.upgrades {
            if let Some(p99) = upgrade.latency.p99_ms
                && p99 > limit.as_secs_f64() * 1e3
            {
                self.failures.push(format!(
                    "upgrade {}: 99 % of the requests took up to {p99:.1} ms (--max-p99)",
                    upgrade.number
                ));
            }
        }
    }
}

fn ms(sample: &Sample) -> f64 {
    sample.at_us as f64 / 1e3
}

fn good(samples: &[Sample]) -> impl Iterator<Item = u32> {
    samples.iter().filter(|sample| !sample.lost).map(|sample| sample.took_us)
}

fn began(sample: &Sample) -> f64 {
    ms(sample) - f64::from(sample.took_us) / 1e3
}

/// Whether a request that was under way from `from` to `to` met this upgrade.
fn overlaps(upgrade: &Upgrade, from: f64, to: f64) -> bool {
    let (first, last) = upgrade.span();
    to >= first && from <= last + AFTERMATH_MS
}

/// The requests that were under way during an upgrade. None took longer than `longest_ms`.
fn during(samples: &[Sample], upgrade: &Upgrade, longest_ms: f64) -> Vec<Sample> {
    let (first, last) = upgrade.span();
    let from = samples.partition_point(|sample| ms(sample) < first);
    let to = samples.partition_point(|sample| ms(sample) <= last + AFTERMATH_MS + longest_ms);
    samples[from..to].iter().filter(|sample| overlaps(upgrade, began(sample), ms(sample))).copied().collect()
}

fn loads(plan: &Plan, samples: &[Sample]) -> Vec<LoadReport> {
    let mut times: BTreeMap<usize, Vec<u32>> = BTreeMap::new();
    let mut reports: Vec<LoadReport> = Vec::new();
    let mut index = Vec::new();
    for (load, kind) in &plan.clients {
        let known = reports.iter().position(|report| report.url == load.url && report.kind == *kind);
        let number = known.unwrap_or_else(|| {
            let latency = Latency::default();
            reports.push(LoadReport {
                url: load.url.clone(),
                kind: *kind,
                clients: 0,
                requests: 0,
                lost: 0,
                latency,
            });
            reports.len() - 1
        });
        reports[number].clients += 1;
        index.push(number);
    }
    for sample in samples {
        let number = index[usize::from(sample.client)];
        reports[number].requests += 1;
        if sample.lost {
            reports[number].lost += 1;
        } else {
            times.entry(number).or_default().push(sample.took_us);
        }
    }
    for (number, times) in times {
        reports[number].latency = Latency::of(times);
    }
    reports
}

fn lost_request(plan: &Plan, upgrades: &[Upgrade], loss: &Loss) -> LostRequest {
    let at_ms = loss.at.as_secs_f64() * 1e3;
    let began_ms = at_ms - loss.took.as_secs_f64() * 1e3;
    // The last one that had begun: an earlier one may still have gone on.
    let upgrade = upgrades.iter().rfind(|upgrade| overlaps(upgrade, began_ms, at_ms));
    let after = upgrade.and_then(|upgrade| upgrade.steps.iter().rfind(|step| step.at_ms <= at_ms));
    let (load, kind) = &plan.clients[usize::from(loss.client)];
    LostRequest {
        at_ms,
        took_ms: loss.took.as_secs_f64() * 1e3,
        url: load.url.clone(),
        kind: *kind,
        connection: loss.connection,
        stage: loss.stage,
        cause: loss.cause.clone(),
        status: loss.status,
        upgrade: upgrade.map(|upgrade| upgrade.number),
        after: after.map(|step| step.step.clone()),
    }
}
