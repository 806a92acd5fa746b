//! `alive`: the child is healthy when it still runs after a while. Its end would have ended the wait (contract H3), so all that a probe
//! of this kind, at the end of that while, has to ask is whether it is stopped.

use std::time::Duration;

use super::{Begun, ChildInfo, Probe};
use crate::config::Pace;
use crate::sys::tree;

pub(super) struct Alive;

/// How soon a child that was stopped is looked at again.
const AGAIN: Duration = Duration::from_millis(100);

/// One probe, `timeout` after the child's exec, and more only if it is stopped. The limit does not come to bear.
pub(super) fn pace(timeout: Duration) -> Pace {
    Pace { after: timeout, interval: timeout.max(AGAIN), timeout: Duration::MAX, successes: 1 }
}

impl Probe for Alive {
    fn begin(&self, child: &ChildInfo) -> Result<Begun, String> {
        if tree::is_stopped(child.pid) {
            return Err(format!("the child (pid {}) is stopped; SIGCONT would continue it", child.pid));
        }
        Ok(Begun::Healthy)
    }
}
