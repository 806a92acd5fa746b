//! Ctrl-C, SIGTERM, SIGHUP: the first one ends the rehearsal after the upgrade that runs, with a report; the second
//! one at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit;

/// Whether such a signal has arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes them. A handler, unlike a blocked signal, does not outlive execve(2): the service gets what its
    /// users would send.
    ///
    /// # Errors
    /// As sigaction(2).
    pub(crate) fn take() -> io::Result<Self> {
        let seen = Arc::<AtomicBool>::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // In this order: the first signal only sets the flag.
            flag::register_conditional_shutdown(signal, exit::INTERRUPTED.into(), Arc::clone(&seen))?;
            flag::register(signal, Arc::clone(&seen))?;
        }
        Ok(Self(seen))
    }

    pub(crate) fn is_seen(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
