//! Signals: sets, masks, dispositions, and sending with all data that a receiver may look at.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::cerr;
use super::seam::{self, Call};
use crate::signal::Signal;

/// A set of the signals 1 to 64, as a number whose bit N-1 stands for signal N (like
/// `SigBlk` in proc_pid_status(5)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SignalSet(u64);

impl SignalSet {
    /// The set with these bits.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether it contains the signal.
    #[must_use]
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & (1 << (signal.number() - 1)) != 0
    }

    /// Every signal except this one.
    #[must_use]
    pub fn all_but(signal: Signal) -> Self {
        Self(!(1 << (signal.number() - 1)))
    }

    /// Adds a signal.
    pub fn insert(&mut self, signal: Signal) {
        self.0 |= 1 << (signal.number() - 1);
    }
}

/// Sets this thread's signal mask and returns the previous one. It makes the system call itself:
/// glibc's sigprocmask(3) leaves out two signals for internal use (32 and 33), which may be in
/// the mask that a child was started with.
///
/// # Errors
/// None: rt_sigprocmask(2) fails only for an invalid set.
pub fn set_mask(set: SignalSet) -> io::Result<SignalSet> {
    seam::before(Call::SignalMask)?;
    let mut old: u64 = 0;
    // SAFETY: both pointers are to the 8 bytes that the last argument announces, and live through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const set.0,
            &raw mut old,
            size_of::<u64>(),
        )
    };
    cerr(result as i32).map(|_| SignalSet(old))
}

/// Blocks every signal that can be blocked. Returns the previous mask.
///
/// # Errors
/// As [`set_mask`].
pub fn block_all() -> io::Result<SignalSet> {
    set_mask(SignalSet(u64::MAX))
}

/// The signals that are ignored now.
#[cfg_attr(test, expect(dead_code, reason = "test binaries keep their signals"))]
pub(super) fn ignored_now() -> SignalSet {
    let mut ignored = SignalSet::default();
    for signal in Signal::all() {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: asks only; the pointer is to a sigaction that lives through the call.
        // Zeroed is a valid value of it.
        let result = unsafe { libc::sigaction(signal.number(), std::ptr::null(), action.as_mut_ptr()) };
        // SAFETY: zeroed is a valid sigaction, whether the call wrote it or not.
        let action = unsafe { action.assume_init() };
        if result == 0 && action.sa_sigaction == libc::SIG_IGN {
            ignored.insert(signal);
        }
    }
    ignored
}

fn set_disposition(signal: Signal, disposition: libc::sighandler_t) -> io::Result<()> {
    seam::before(Call::SignalAction)?;
    // SAFETY: SIG_DFL and SIG_IGN are the only values that are passed; no handler code runs.
    if unsafe { libc::signal(signal.number(), disposition) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Gives the signal its default action.
///
/// # Errors
/// EINVAL for SIGKILL, SIGSTOP and the two internal signals of glibc.
pub fn set_default(signal: Signal) -> io::Result<()> {
    set_disposition(signal, libc::SIG_DFL)
}

/// Ignores the signal.
///
/// # Errors
/// As [`set_default`].
pub fn ignore(signal: Signal) -> io::Result<()> {
    set_disposition(signal, libc::SIG_IGN)
}

/// A signal as signalfd(2) delivers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Received {
    /// The signal.
    pub signal: Signal,
    /// Its origin, see `si_code` in sigaction(2).
    pub code: i32,
    /// The pid of the sender, if a process sent it.
    pub pid: u32,
    /// The sender's real user ID.
    pub uid: u32,
    /// The payload of sigqueue(3), as the integer that signalfd(2) delivers.
    pub value: u64,
}

impl Received {
    /// A signal that psflip itself sends.
    #[must_use]
    pub fn of_our_own(signal: Signal) -> Self {
        let uid = nix::unistd::getuid().as_raw();
        Self { signal, code: libc::SI_QUEUE, pid: std::process::id(), uid, value: 0 }
    }

    /// Whether the kernel sent it (for a terminal, a dying session leader) and not a process.
    #[must_use]
    pub fn is_from_kernel(self) -> bool {
        self.code > 0
    }
}

/// A descriptor from which blocked signals are read (signalfd(2)).
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// Opens it for these signals, which the caller has blocked.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM; ENODEV: the kernel's anonymous inodes aren't there.
    pub fn open(signals: SignalSet) -> io::Result<Self> {
        seam::before(Call::Signalfd)?;
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the pointer is to the 8 bytes that the next argument announces, and lives through the call.
        let result =
            unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const signals.0, size_of::<u64>(), flags) };
        let fd = cerr(result as i32)?;
        // SAFETY: the kernel has just given us this descriptor.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal. `None`: there is none at the moment.
    ///
    /// # Errors
    /// None for a valid descriptor.
    pub fn next(&self) -> io::Result<Option<Received>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::zeroed();
        let size = size_of::<libc::signalfd_siginfo>();
        let result = seam::before(Call::ReadSignal).map_err(io::Error::from).and_then(|()| {
            // SAFETY: the pointer is to a value of the size that is announced.
            let length = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
            cerr(length as i32)
        });
        if let Err(error) = result {
            return match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            };
        }
        // SAFETY: zeroed is a valid value, and the kernel writes whole ones only.
        let info = unsafe { info.assume_init() };
        let Some(signal) = Signal::from_number(info.ssi_signo.cast_signed()) else { return Ok(None) };
        let (code, pid, uid, value) = (info.ssi_code, info.ssi_pid, info.ssi_uid, info.ssi_ptr);
        Ok(Some(Received { signal, code, pid, uid, value }))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The `siginfo_t` of a signal that a process queued, as the kernel reads it in rt_sigqueueinfo(2): three
/// integers, padding to 8, then `si_pid`, `si_uid` and `si_value`; 128 bytes in all.
#[repr(C)]
pub(super) struct QueuedInfo {
    signo: i32,
    errno: i32,
    code: i32,
    #[cfg(target_pointer_width = "64")]
    padding: i32,
    pid: i32,
    uid: u32,
    value: u64,
    rest: [u64; 12],
}

impl QueuedInfo {
    /// The signal with its original sender and payload. The kernel lets only negative codes pass from one
    /// process to another, so a plain kill(2) (code 0) is forwarded as sigqueue(3).
    pub(super) fn forwarding(received: &Received) -> Self {
        Self {
            signo: received.signal.number(),
            errno: 0,
            code: if received.code < 0 && received.code != libc::SI_TKILL {
                received.code
            } else {
                libc::SI_QUEUE
            },
            #[cfg(target_pointer_width = "64")]
            padding: 0,
            pid: received.pid.cast_signed(),
            uid: received.uid,
            value: received.value,
            rest: [0; 12],
        }
    }
}

/// Stops this process by SIGSTOP. Returns when it was continued.
pub fn stop_self() {
    // SAFETY: raise(3) has no preconditions; SIGSTOP can't run any handler.
    unsafe { libc::raise(libc::SIGSTOP) };
}

/// Stops this process by SIGTSTP and returns when it was continued. All its signals are blocked,
/// so its parent can distinguish this from a stop that another process caused. `ignored`:
/// SIGTSTP is to be ignored again afterwards.
///
/// # Errors
/// EINVAL: never for this signal.
pub fn stop_self_by_tstp(ignored: bool) -> io::Result<()> {
    set_default(Signal::TSTP)?;
    // SAFETY: raise(3) has no preconditions. The signal is blocked until the next statement,
    // then its default action runs.
    unsafe { libc::raise(libc::SIGTSTP) };
    set_mask(SignalSet::all_but(Signal::TSTP))?;
    block_all()?;
    if ignored { ignore(Signal::TSTP) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_mask_is_set_and_restored() {
        let mut set = SignalSet::default();
        for signal in [Signal::HUP, Signal::from_number(32).unwrap(), "SIGRTMAX".parse().unwrap()] {
            set.insert(signal);
        }
        let before = set_mask(set).unwrap();
        assert_eq!(set_mask(before).unwrap(), set);
        assert!(set.contains(Signal::HUP) && !set.contains(Signal::TERM));
    }

    #[test]
    fn a_blocked_signal_is_read_with_its_sender() {
        let mut set = SignalSet::default();
        set.insert("SIGUSR1".parse().unwrap());
        let before = set_mask(set).unwrap();
        let signals = SignalFd::open(set).unwrap();
        assert_eq!(signals.next().unwrap(), None);
        // SAFETY: raise(3) has no preconditions; the signal is blocked in this thread,
        // which raise sends it to.
        unsafe { libc::raise(libc::SIGUSR1) };
        let received = signals.next().unwrap().unwrap();
        assert_eq!((received.signal.to_string().as_str(), received.pid), ("SIGUSR1", std::process::id()));
        assert!(!received.is_from_kernel());
        set_mask(before).unwrap();
    }

    #[test]
    fn the_kernel_expects_128_bytes() {
        assert_eq!(size_of::<QueuedInfo>(), size_of::<libc::siginfo_t>());
    }
}
