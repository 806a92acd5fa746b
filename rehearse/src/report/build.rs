//! From what the clients have seen to the report.

use super::{FORMAT, Latency, LoadReport, LostRequest, Report, Upgrade, explain};
use crate::args::Args;
use crate::clock::Clock;
use crate::load::{AFTERMATH, Group, Loss};
use crate::plan::Plan;

impl Report {
    /// Without what came after the load.
    pub(crate) fn new(
        plan: &Plan,
        clock: Clock,
        loaded_ms: f64,
        mut upgrades: Vec<Upgrade>,
        seen: &crate::load::Seen,
    ) -> Self {
        let tally = &seen.tally;
        for (upgrade, span) in upgrades.iter_mut().zip(&tally.upgrades) {
            upgrade.requests = span.group.requests;
            upgrade.lost = span.group.lost;
            upgrade.latency = Latency::from(&span.group.times);
        }
        let first_ms = tally.first.map_or(loaded_ms, |at| at as f64 / 1e3);
        let losses: Vec<LostRequest> =
            seen.losses.iter().map(|loss| lost_request(plan, &upgrades, loss)).collect();
        Self {
            psflip_rehearse: FORMAT,
            version: env!("CARGO_PKG_VERSION"),
            subject: plan.name.clone(),
            began_at: clock.began_unix_ms,
            duration_ms: clock.now_ms(),
            loads: loads(plan, &tally.loads),
            requests: tally.all.requests,
            lost: tally.all.lost,
            keep_alive_lost: losses.iter().filter(|lost| lost.is_stale_connection()).count() as u64,
            rate: tally.all.requests as f64 / ((loaded_ms - first_ms) / 1e3).max(0.001),
            closed_politely: seen.closed_politely,
            steady: Latency::from(&tally.steady.times),
            own_delay: Latency::from(&seen.own_delays),
            findings: explain::findings(&losses),
            losses,
            timeline: tally.timeline.buckets(),
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

/// Whether a request that was under way from `from` to `to` met this upgrade.
fn overlaps(upgrade: &Upgrade, from: f64, to: f64) -> bool {
    let (first, last) = upgrade.span();
    to >= first && from <= last + AFTERMATH as f64 / 1e3
}

fn loads(plan: &Plan, groups: &[Group]) -> Vec<LoadReport> {
    let mut reports: Vec<LoadReport> = Vec::new();
    for ((load, kind), number) in plan.clients.iter().zip(plan.loads()) {
        if number == reports.len() {
            let group = groups.get(number).cloned().unwrap_or_default();
            reports.push(LoadReport {
                url: load.url.clone(),
                kind: *kind,
                clients: 0,
                requests: group.requests,
                lost: group.lost,
                latency: Latency::from(&group.times),
            });
        }
        reports[number].clients += 1;
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
