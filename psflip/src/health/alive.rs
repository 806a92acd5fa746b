//! `alive`: the child is healthy if it still runs after a while. Its exit would have ended the wait (contract
//! H3), so the one probe at the end of that while only checks that the child is not stopped.

use std::time::Duration;

use super::{Begun, ChildInfo, Probe, Why};
use crate::config::Pace;
use crate::sys::tree;

pub(super) struct Alive;

/// How soon to check a stopped child again.
const AGAIN: Duration = Duration::from_millis(100);

/// One probe, `timeout` after the child's exec; more only if the child is stopped. The
/// probe itself needs no time limit.
pub(super) fn pace(timeout: Duration) -> Pace {
    Pace {
        after: timeout,
        interval: timeout.max(AGAIN),
        timeout: Duration::MAX,
        successes: 1,
        failures: 1,
        settle: Duration::ZERO,
    }
}

impl Probe for Alive {
    fn begin(&self, child: &ChildInfo) -> Result<Begun, Why> {
        if tree::is_stopped(child.pid) {
            return Err(format!("the child (pid {}) is stopped; SIGCONT would continue it", child.pid).into());
        }
        Ok(Begun::Healthy)
    }
}
