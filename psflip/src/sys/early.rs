//! What happens before `main`: psflip's view of how it was started is saved, and every signal is blocked.
//!
//! Contract S7 wants that no signal kills psflip by default action once its first instruction ran, and C2 that the child
//! gets the mask and dispositions that psflip was started with. Rust's runtime sets SIGPIPE to ignored and opens closed
//! standard descriptors before `main`, so both must be looked at earlier: from `.init_array`, which the C library runs
//! before it calls `main`.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::signal::SignalSet;

/// The mask psflip was started with.
static MASK: AtomicU64 = AtomicU64::new(0);
/// The signals that were ignored when psflip was started.
static IGNORED: AtomicU64 = AtomicU64::new(0);

/// The signal set-up that psflip was started with, and that its child gets (contract C2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalSetup {
    /// What was blocked.
    pub mask: SignalSet,
    /// What was ignored. Nothing can be caught at an exec, so all else was at its default.
    pub ignored: SignalSet,
}

/// What was found before `main`.
#[must_use]
pub fn inherited_signals() -> SignalSetup {
    SignalSetup {
        mask: SignalSet::from_bits(MASK.load(Ordering::Relaxed)),
        ignored: SignalSet::from_bits(IGNORED.load(Ordering::Relaxed)),
    }
}

/// Runs before `main`. It must neither allocate nor use anything of Rust's runtime, which isn't set up yet.
#[cfg(not(test))] // a test binary must keep its signals
extern "C" fn before_main() {
    if let Ok(mask) = super::signal::block_all() {
        MASK.store(mask.bits(), Ordering::Relaxed);
    }
    IGNORED.store(super::signal::ignored_now().bits(), Ordering::Relaxed);
    occupy_closed_standard_descriptors();
}

/// Puts `/dev/null` on descriptors 0 to 2 that are closed, so that nothing of psflip's own lands there and gets written to
/// as if it were a terminal. Close-on-exec: the child finds them closed, as psflip did (contract C1, C3).
#[cfg(not(test))]
fn occupy_closed_standard_descriptors() {
    for fd in 0..3 {
        // SAFETY: F_GETFD on any number is harmless; it fails with EBADF on a closed one.
        let closed = unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1;
        if closed {
            // open(2) gives the lowest free number, and the ones below are occupied by now.
            // SAFETY: the path is a NUL-terminated literal.
            unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        }
    }
}

#[cfg(not(test))]
#[used]
// SAFETY: the section holds pointers to functions that the C library calls before main; the function fits this use.
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = before_main;

/// Makes sure that this process can wait for its children: an inherited `SIG_IGN` for SIGCHLD would reap them unseen
/// (see waitpid(2), NOTES). The child gets the inherited disposition back.
///
/// # Errors
/// What sigaction(2) says; it can't fail for this signal.
pub fn stop_ignoring_sigchld() -> io::Result<()> {
    super::signal::set_default(crate::signal::Signal::CHLD)
}
