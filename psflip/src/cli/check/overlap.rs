//! Warnings about `upgrade.overlap = false`: clients that are refused meanwhile, and processes that
//! stay beside the new child.

use crate::config::{Orphans, Plan, Warning};

/// All warnings.
pub(super) fn of(plan: &Plan) -> Vec<Warning> {
    let mut found = Vec::new();
    if plan.upgrade.overlap {
        return found;
    }
    let mut warn = |key: &str, message: String, help: &str| {
        found.push(Warning { key: key.to_owned(), message, help: help.to_owned() });
    };
    if plan.proxies.is_empty() && plan.listeners.is_empty() {
        warn(
            "upgrade.overlap",
            "at every upgrade clients are refused from the stop of the old child until the new one listens"
                .to_owned(),
            "with `[[proxy]]` or `[[listen]]` they wait meanwhile",
        );
    }
    if plan.shutdown.orphans == Orphans::Leave {
        warn(
            "shutdown.orphans",
            "leftover processes of the old child keep running beside the new one, though `overlap = false` says that they can't".to_owned(),
            "leave out `orphans = \"leave\"`",
        );
    }
    found
}
