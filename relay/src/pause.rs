//! Waiting for what the kernel reports no event about: that another process listens again, that the host has a
//! free descriptor or memory again; and the pace at which counts are written. Everything else waits for events.

use std::time::Duration;

/// Ends after this time.
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}
