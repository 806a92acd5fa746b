//! `alive`: the child is healthy when it still runs after a while. Its end would have ended the wait (contract H3), so the
//! one probe of this kind, at the end of that while, has nothing to ask.

use std::time::Duration;

use super::{Begun, ChildInfo, Probe};
use crate::config::Pace;

pub(super) struct Alive;

/// One probe, `timeout` after the child's exec. Interval and limit don't come to bear.
pub(super) fn pace(timeout: Duration) -> Pace {
    Pace { after: timeout, interval: Duration::MAX, timeout: Duration::MAX, successes: 1 }
}

impl Probe for Alive {
    fn begin(&self, _: &ChildInfo) -> Result<Begun, String> {
        Ok(Begun::Healthy)
    }
}
