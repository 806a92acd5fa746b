//! What connections do when the child has exited.

use std::time::Duration;

use tokio::sync::watch;

use crate::proxied::Control;

/// How long after the child's exit its connections may still report their end. A process that the child
/// started can hold them open for ever, and packets of a busy host may be late.
pub(crate) const GRACE: Duration = Duration::from_millis(500);

/// Returns when the child has exited.
pub(crate) async fn exited(control: &watch::Receiver<Control>) {
    wait_for(control, |control| control.exited).await;
}

/// Returns when the child has exited and what it sent must have come.
pub(crate) async fn overdue(control: &watch::Receiver<Control>) {
    wait_for(control, |control| control.overdue).await;
}

async fn wait_for(control: &watch::Receiver<Control>, is: impl FnMut(&Control) -> bool) {
    if control.clone().wait_for(is).await.is_err() {
        std::future::pending::<()>().await; // the relay exits
    }
}
