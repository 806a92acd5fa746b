//! Processes by descriptor: a pid may be reused, a pidfd never (pidfd_open(2), Linux 5.3).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::cerr;
use super::seam::{self, Call};
use super::signal::{QueuedInfo, Received};
use super::wait;
use crate::exit_status::ExitStatus;
use crate::signal::Signal;

/// A descriptor of one process. It becomes readable when the process exits.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process with this pid. The caller makes sure that the pid is not reused: it is the caller
    /// itself or its unreaped child, or the caller checks the identity afterwards.
    ///
    /// # Errors
    /// ESRCH: no such process. EMFILE, ENFILE, ENOMEM. ENOSYS before Linux 5.3.
    pub fn open(pid: u32) -> io::Result<Self> {
        seam::before(Call::PidfdOpen)?;
        // SAFETY: the call takes two integers.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given us this descriptor; nobody else owns it. It is close-on-exec.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(result as i32) }))
    }

    /// Takes a pidfd that was received over a socket.
    #[must_use]
    pub fn from_owned(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Whether this is the descriptor of a process: a newer version, or a program other than
    /// psflip, may have sent any file.
    #[must_use]
    pub fn is_process(&self) -> bool {
        !self.check().is_err_and(|error| matches!(error.raw_os_error(), Some(libc::EBADF | libc::EINVAL)))
    }

    /// Sends the signal 0, which only checks (pidfd_send_signal(2)).
    ///
    /// # Errors
    /// As [`PidFd::send`]; EINVAL: not the descriptor of a process. ENOSYS before Linux 5.1.
    pub fn check(&self) -> io::Result<()> {
        seam::before(Call::PidfdSendSignal)?;
        // SAFETY: the descriptor is open; a null pointer is allowed.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                0,
                std::ptr::null::<libc::c_void>(),
                0,
            )
        };
        cerr(result as i32).map(drop)
    }

    /// Sends a signal as kill(2) does.
    ///
    /// # Errors
    /// ESRCH: the process has exited. EPERM: it changed its credentials, and this process may not signal it.
    pub fn send(&self, signal: Signal) -> io::Result<()> {
        self.send_raw(signal, std::ptr::null())
    }

    /// Forwards a signal with its payload and its original sender (contract S1).
    ///
    /// # Errors
    /// As [`PidFd::send`], and EAGAIN: the receiver's queue is full.
    pub fn forward(&self, received: &Received) -> io::Result<()> {
        let info = QueuedInfo::forwarding(received);
        self.send_raw(received.signal, &raw const info)
    }

    fn send_raw(&self, signal: Signal, info: *const QueuedInfo) -> io::Result<()> {
        seam::before(Call::PidfdSendSignal)?;
        // SAFETY: the descriptor is open; `info` is null or points to a whole siginfo_t (128
        // bytes) that outlives the call.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal.number(), info, 0)
        };
        cerr(result as i32).map(drop)
    }

    /// Whether the process has exited. It may be a zombie.
    #[must_use]
    pub fn has_exited(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd, which lives through the call; it returns at once.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    /// Waits until the process has exited, at most until this time.
    pub fn wait(&self, until: Instant) {
        let left = PollTimeout::try_from(until.saturating_duration_since(Instant::now()));
        let mut fds = [PollFd::new(self.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, left.unwrap_or(PollTimeout::ZERO)); // EINTR can't happen: all signals are blocked
    }

    /// The exit status of a process that was reaped, by whatever parent. `None`: it was not reaped yet, or
    /// the kernel does not report this (before Linux 6.15).
    #[must_use]
    pub fn reaped_status(&self) -> Option<ExitStatus> {
        let mut info = PidFdInfo { mask: PIDFD_INFO_EXIT, ..PidFdInfo::default() };
        // SAFETY: the descriptor is open. The kernel writes at most the size that the request encodes, which
        // is that of `info`.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
        let known = result == 0 && info.mask & PIDFD_INFO_EXIT != 0;
        known.then(|| ExitStatus::from_wait_status(info.exit_code))
    }

    /// Another descriptor of the same process.
    ///
    /// # Errors
    /// EMFILE.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Reaps the process if it is a child of this process and has exited. `None`: it still runs.
    ///
    /// # Errors
    /// ECHILD: it isn't a child of this process, or is reaped already.
    pub fn try_reap(&self) -> io::Result<Option<ExitStatus>> {
        wait::waitid(libc::P_PIDFD, self.0.as_raw_fd() as libc::id_t, libc::WEXITED | libc::WNOHANG)
            .map(|change| change.and_then(wait::Change::exit_status))
    }
}

/// `struct pidfd_info` of Linux' include/uapi/linux/pidfd.h, in its first version.
#[repr(C)]
#[derive(Debug, Default)]
struct PidFdInfo {
    mask: u64,
    cgroup: u64,
    /// Ids, which psflip does not use.
    ids: [u32; 11],
    exit_code: i32,
}

/// `_IOWR(0xFF, 11, struct pidfd_info)`
const PIDFD_GET_INFO: libc::Ioctl = 0xC040_FF0B_u32 as libc::Ioctl;
const _: () = assert!(size_of::<PidFdInfo>() == 0x40);
/// The exit code is requested, or known (Linux 6.15).
const PIDFD_INFO_EXIT: u64 = 1 << 3;

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_that_does_not_exist_is_refused() {
        let error = PidFd::open(i32::MAX.cast_unsigned()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn the_status_of_a_reaped_process_is_known_where_the_kernel_reports_it() {
        let mut shell = std::process::Command::new("sh");
        let mut child =
            shell.args(["-c", "read x; exit 7"]).stdin(std::process::Stdio::piped()).spawn().unwrap();
        let process = PidFd::open(child.id()).unwrap().try_clone().unwrap();
        assert_eq!(process.reaped_status(), None, "it runs");
        drop(child.stdin.take());
        child.wait().unwrap();
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut version = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        if (version.next(), version.next()) >= (Some(6), Some(15)) {
            assert_eq!(process.reaped_status(), Some(ExitStatus::Exited(7)));
        } else {
            assert_eq!(process.reaped_status(), None);
        }
    }

    #[test]
    fn a_running_process_has_not_exited() {
        let own = PidFd::open(std::process::id()).unwrap();
        assert!(own.is_process() && !own.has_exited());
        assert!(!PidFd::from_owned(std::fs::File::open("/dev/null").unwrap().into()).is_process());
        assert_eq!(own.try_reap().unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }
}
