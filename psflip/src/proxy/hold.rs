//! `psflip hold`: for a while no connection is accepted, and requests wait.

use std::time::Duration;

use relay::message::Order;
use serde::{Deserialize, Serialize};

/// Connections are held (contract T11).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The time since when, in milliseconds since 1970 (UTC).
    pub since: u64,
    /// The longest that a request may wait, in milliseconds.
    pub max_ms: u64,
}

impl Hold {
    /// The longest that a request may wait.
    #[must_use]
    pub fn longest_wait(self) -> Duration {
        Duration::from_millis(self.max_ms)
    }

    /// The order to the relay.
    #[must_use]
    pub fn order(self) -> Order {
        Order::Hold { max_ms: self.max_ms }
    }
}
