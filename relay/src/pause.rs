//! Waiting for what the kernel reports no event about: that another process listens again, that the host has
//! a free descriptor or memory again; and the pace at which counts are written. Everything else waits for
//! events.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::Sleep;

/// Returns after this time.
pub(crate) async fn pause(time: Duration) {
    tokio::time::sleep(time).await;
}

/// A time limit that begins now.
pub(crate) fn timer(time: Duration) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(time))
}

/// Waits for a time limit; without one, for ever.
pub(crate) async fn elapsed(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}
