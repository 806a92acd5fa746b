//! What happens before `main`: the state in which psflip was started is saved, and every signal is blocked.
//!
//! Contract S7: no signal may kill psflip by default action once its first instruction has run. C2: the child
//! gets the mask and dispositions that psflip was started with. Rust's runtime ignores SIGPIPE and opens
//! closed standard descriptors before `main`, so both must be examined earlier. `.init_array` is early
//! enough: the C library runs it before `main`.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::signal::SignalSet;

/// The signal mask that psflip was started with.
static MASK: AtomicU64 = AtomicU64::new(0);
/// The signals that were ignored when psflip was started.
static IGNORED: AtomicU64 = AtomicU64::new(0);

/// The signal state that psflip was started with, and that its child gets (contract C2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalSetup {
    /// The blocked signals.
    pub mask: SignalSet,
    /// The ignored signals. An exec resets handlers, so all other signals had their default action.
    pub ignored: SignalSet,
}

/// The signal state that was found before `main`.
#[must_use]
pub fn inherited_signals() -> SignalSetup {
    SignalSetup {
        mask: SignalSet::from_bits(MASK.load(Ordering::Relaxed)),
        ignored: SignalSet::from_bits(IGNORED.load(Ordering::Relaxed)),
    }
}

/// Runs before `main`. It must neither allocate nor use Rust's runtime, which isn't set up yet.
#[cfg(not(test))] // a test binary must keep its signals
extern "C" fn before_main() {
    if let Ok(mask) = super::signal::block_all() {
        MASK.store(mask.bits(), Ordering::Relaxed);
    }
    IGNORED.store(super::signal::ignored_now().bits(), Ordering::Relaxed);
    occupy_closed_standard_descriptors();
}

/// Opens `/dev/null` on closed descriptors 0 to 2. Otherwise a file of psflip's could get such
/// a number, and be written to as a standard stream. Close-on-exec: the child finds them
/// closed, as psflip did (contract C1, C3).
#[cfg(not(test))]
fn occupy_closed_standard_descriptors() {
    for fd in 0..3 {
        // SAFETY: F_GETFD on any number is harmless; it fails with EBADF on a closed one.
        let closed = unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1;
        if closed {
            // open(2) returns the lowest free number, and the numbers below are occupied by now.
            // SAFETY: the path is a NUL-terminated literal.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        }
    }
}

#[cfg(not(test))]
#[used]
// SAFETY: the section holds pointers to functions that the C library calls before main;
// the function fits this use.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// Makes sure that this process can wait for its children: an inherited `SIG_IGN` for SIGCHLD would reap them
/// unseen (waitpid(2), NOTES). The child gets the inherited disposition back.
///
/// # Errors
/// Those of sigaction(2), which can't fail for this signal.
pub fn stop_ignoring_sigchld() -> io::Result<()> {
    super::signal::set_default(crate::signal::Signal::CHLD)
}
