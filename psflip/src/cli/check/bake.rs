//! Warnings about `upgrade.bake`: a health check that finds little, or too late.

use crate::config::{Health, Plan, Warning, spell};

/// All warnings.
pub(super) fn of(plan: &Plan) -> Option<Warning> {
    let bake = plan.upgrade.bake?;
    let warn = |message: String, help: &str| {
        Some(Warning { key: "upgrade.bake".to_owned(), message, help: help.to_owned() })
    };
    let found = match &plan.health {
        Health::Alive { .. } => "that exits",
        Health::Notify { .. } => "that exits, or reports `STOPPING=1` or `ERRNO=`",
        Health::Tcp { .. } | Health::Unix { .. } => "that exits, or accepts no connection",
        Health::Command { pace, .. }
        | Health::Docker { pace, .. }
        | Health::Http { pace, .. }
        | Health::Fcgi { pace, .. } => {
            if pace.interval * pace.failures <= bake {
                return None;
            }
            return warn(
                format!(
                    "the bake ({}) is over before {} probes could fail, one every {}",
                    spell(bake),
                    pace.failures,
                    spell(pace.interval)
                ),
                "make `bake` longer, or the health check's `interval` or `failures` smaller",
            );
        }
    };
    warn(
        format!(
            "this health check rolls back only a new child {found}: one that answers with errors is kept"
        ),
        "let the health check ask the application (`[healthcheck.http]`, `fcgi` or `command`), or watch it yourself and run `psflip rollback`",
    )
}
