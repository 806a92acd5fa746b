//! Sleeping, which only chaos may do: random delays are part of the plan, and polling needs a short pause. No
//! pause replaces the wait for an event.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::ppoll;
use nix::sys::time::TimeSpec;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::Error;

/// Waits for this time, or until a signal arrives.
pub(crate) fn pause(time: Duration) {
    let _ = ppoll(&mut [], Some(TimeSpec::from_duration(time)), None); // EINTR: a signal arrived
}

/// Whether a signal has requested to stop this run.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on, terminating signals only set a flag. Started programs get the default actions: execve(2)
    /// resets handlers.
    pub(crate) fn catch() -> Result<Self, Error> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
