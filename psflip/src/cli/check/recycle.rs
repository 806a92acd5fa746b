//! Warnings about `[recycle]`: upgrades that would follow each other at once, and keys without effect.

use crate::config::{Document, Plan, Warning, spell};

/// All warnings.
pub(super) fn of(plan: &Plan, document: &Document) -> Vec<Warning> {
    let mut found = Vec::new();
    let mut warn = |key: &str, message: String, help: &str| {
        found.push(Warning { key: key.to_owned(), message, help: help.to_owned() });
    };
    let (recycle, shutdown) = (&plan.recycle, &plan.shutdown);
    let drain = plan.proxies.iter().map(|proxy| proxy.drain).max().unwrap_or_default();
    let bake = plan.upgrade.bake.unwrap_or_default();
    let longest = plan.upgrade.timeout + bake + drain + shutdown.delay + shutdown.timeout;
    if let Some(after) = recycle.after.filter(|after| *after < longest) {
        warn(
            "recycle.after",
            format!(
                "a generation is replaced after {}, and an upgrade may take {} until the old child is gone: the service could be upgrading all the time",
                spell(after),
                spell(longest)
            ),
            "make `after` longer, hours rather than minutes",
        );
    }
    if recycle.memory.is_none() && document.has_key("recycle.interval") {
        warn(
            "recycle.interval",
            "psflip looks at the memory only with `recycle.memory`".to_owned(),
            "set `memory`, or leave `interval` out",
        );
    }
    if recycle.memory.is_none() && recycle.after.is_none() && document.has_key("recycle.jitter") {
        warn(
            "recycle.jitter",
            "there is no time and no limit that it could change".to_owned(),
            "set `after` or `memory`, or leave it out",
        );
    }
    found
}
