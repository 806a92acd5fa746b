//! Ctrl-C, SIGTERM, SIGHUP: the first one ends the rehearsal after the upgrade that runs, with a report; the second
//! one at once.

use std::io::{self, Read as _};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

use crate::exit;

/// The signals that end a rehearsal.
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Whether such a signal has arrived.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt {
    seen: Arc<AtomicBool>,
    last: Arc<OnceLock<Last>>,
}

/// What is done at the second signal before this process exits.
struct Last(Box<dyn Fn() + Send + Sync>);

impl std::fmt::Debug for Last {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Last")
    }
}

impl Interrupt {
    /// Takes them. A handler, unlike a blocked signal, does not outlive execve(2): the service gets what its
    /// users would send. At the second one this process exits, and with it the sandbox.
    ///
    /// # Errors
    /// As sigaction(2).
    pub(crate) fn take() -> io::Result<Self> {
        let interrupt = Self::default();
        for signal in SIGNALS {
            // In this order: the first signal only sets the flag.
            let seen = Arc::clone(&interrupt.seen);
            flag::register_conditional_shutdown(signal, exit::INTERRUPTED.into(), Arc::clone(&seen))?;
            flag::register(signal, seen)?;
        }
        Ok(interrupt)
    }

    /// Takes them for a rehearsal on this host, where nothing ends with this process: at the second one, a thread
    /// does first what [`Self::at_second`] says.
    ///
    /// # Errors
    /// As sigaction(2), or there is no thread.
    pub(crate) fn take_here() -> io::Result<Self> {
        let interrupt = Self::default();
        let (mut arrivals, handler) = UnixStream::pair()?;
        for signal in SIGNALS {
            flag::register(signal, Arc::clone(&interrupt.seen))?;
            low_level::pipe::register(signal, handler.try_clone()?)?; // a byte for each
        }
        let last = Arc::clone(&interrupt.last);
        let wait = move || {
            let (mut count, mut bytes) = (0, [0; 8]);
            while count < 2 {
                count += arrivals.read(&mut bytes).unwrap_or_default();
            }
            if let Some(Last(act)) = last.get() {
                act();
            }
            std::process::exit(exit::INTERRUPTED.into());
        };
        thread::Builder::new().name("interrupt".to_owned()).spawn(wait)?;
        Ok(interrupt)
    }

    /// What to do at the second signal before this process exits; only after [`Self::take_here`].
    pub(crate) fn at_second(&self, act: impl Fn() + Send + Sync + 'static) {
        let _ = self.last.set(Last(Box::new(act))); // once
    }

    pub(crate) fn is_seen(&self) -> bool {
        self.seen.load(Ordering::Relaxed)
    }
}
