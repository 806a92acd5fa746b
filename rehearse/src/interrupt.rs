//! Ctrl-C: the first one ends the rehearsal after the upgrade that runs, with a report; the second one at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::exit;

/// Whether SIGINT has arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes SIGINT. A handler, unlike a blocked signal, does not outlive execve(2): the service gets what its
    /// users would send.
    ///
    /// # Errors
    /// As sigaction(2).
    pub(crate) fn take() -> io::Result<Self> {
        let seen = Arc::<AtomicBool>::default();
        // In this order: the first SIGINT only sets the flag.
        flag::register_conditional_shutdown(SIGINT, exit::INTERRUPTED.into(), Arc::clone(&seen))?;
        flag::register(SIGINT, Arc::clone(&seen))?;
        Ok(Self(seen))
    }

    pub(crate) fn is_seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
