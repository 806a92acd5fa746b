//! Time that passes. A short delay of random length is a part of the chaos, and the pause between two looks at what nobody announces
//! is short; nothing here is waited for in the hope that it has happened by then.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::poll::ppoll;
use nix::sys::time::TimeSpec;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::Error;

/// Lets this time pass, or less when a signal comes.
pub(super) fn pause(time: Duration) {
    let _ = ppoll(&mut [], Some(TimeSpec::from_duration(time)), None); // EINTR: a signal came
}

/// Whether somebody wants this run to end.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on the signals that would end this process are only noted. What it starts has them as before: execve(2) resets handlers.
    pub(super) fn catch() -> Result<Self, Error> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP, SIGQUIT] {
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
    }

    pub(super) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
