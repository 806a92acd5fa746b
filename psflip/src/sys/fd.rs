//! File descriptors: their numbers, and who inherits them.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::cerr;
use super::seam::{self, Call};

/// Sets or clears close-on-exec.
///
/// # Errors
/// EBADF.
pub fn set_close_on_exec(fd: BorrowedFd<'_>, close: bool) -> io::Result<()> {
    let flags = if close { libc::FD_CLOEXEC } else { 0 };
    seam::before(Call::DescriptorFlags)?;
    // SAFETY: F_SETFD takes an integer.
    cerr(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) }).map(drop)
}

/// Whether an exec closes the descriptor.
#[cfg(test)]
pub fn is_close_on_exec(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: F_GETFD takes no argument.
    cerr(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) }).map(|flags| flags & libc::FD_CLOEXEC != 0)
}

/// Removes a descriptor number from an epoll set.
///
/// Both of these are harmless: the descriptor was closed already, which removed it, or the number belongs to
/// another file by now, which isn't in the set.
pub fn forget_in_epoll(epoll: BorrowedFd<'_>, number: RawFd) {
    // SAFETY: EPOLL_CTL_DEL ignores the event pointer (since Linux 2.6.9) and fails on a
    // number that isn't in the set.
    unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, number, std::ptr::null_mut()) };
}

/// Duplicates the descriptor with this number, close-on-exec (F_DUPFD_CLOEXEC of fcntl(2)).
///
/// # Errors
/// EBADF: nothing is open there. EMFILE.
pub fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    duplicate_above(number, 3)
}

/// As [`duplicate`], with a new number of at least `least`.
///
/// # Errors
/// As [`duplicate`]; EINVAL: `least` is beyond RLIMIT_NOFILE.
pub fn duplicate_above(number: RawFd, least: RawFd) -> io::Result<OwnedFd> {
    seam::before(Call::Dup)?;
    // SAFETY: F_DUPFD_CLOEXEC takes an integer, and is harmless on any number.
    let copy = cerr(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, least) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Whether a descriptor with this number is open and survives an exec. Such a descriptor was inherited,
/// because psflip opens all of its own with close-on-exec.
#[must_use]
pub fn is_inherited(number: RawFd) -> bool {
    // SAFETY: F_GETFD takes no argument, and fails with EBADF on a closed number.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}

/// Sets close-on-exec on the descriptor with this number, if one is open.
pub fn close_on_exec_if_open(number: RawFd) {
    // SAFETY: F_SETFD takes an integer; it fails with EBADF on a closed number.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
}

/// Takes ownership of a descriptor that was kept open across an exec, under a number
/// that the caller knows.
///
/// # Errors
/// EBADF: nothing is open there.
pub fn adopt(number: RawFd) -> io::Result<OwnedFd> {
    seam::before(Call::DescriptorFlags)?;
    // SAFETY: F_GETFD on any number is harmless.
    cerr(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    // SAFETY: it is open, and the caller's protocol says that it is ours: no Rust value
    // owns what an exec left behind.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor except these. Only for a forked process that uses no Rust
/// value that owns one of the others.
pub(super) fn close_all_but(keep: &mut [RawFd]) {
    keep.sort_unstable();
    let mut first: u32 = 0;
    for fd in keep.iter().map(|fd| fd.cast_unsigned()) {
        if fd > first {
            close_range(first, fd - 1);
        }
        first = fd + 1;
    }
    close_range(first, u32::MAX);
}

/// close_range(2), or close(2) one by one before Linux 5.9.
fn close_range(first: u32, last: u32) {
    // SAFETY: three integers. The process that calls this owns nothing in the range any
    // more (see `close_all_but`).
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } == 0 {
        return;
    }
    close_one_by_one(first, last);
}

/// How many numbers are tried if there is no list of the open ones: more than a process may have by default.
const MOST_NUMBERS: u32 = 65_536;

fn close_one_by_one(first: u32, last: u32) {
    let open: Option<Vec<u32>> = std::fs::read_dir("/proc/self/fd").ok().map(|entries| {
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    });
    let numbers = open.unwrap_or_else(|| (first..last.min(MOST_NUMBERS)).chain([last]).collect());
    for number in numbers.into_iter().filter(|number| (first..=last).contains(number)) {
        // SAFETY: an integer; see `close_range`. EBADF for what is not open.
        unsafe { libc::close(number.cast_signed()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn close_on_exec_is_set_and_cleared() {
        let file = std::fs::File::open("/dev/null").unwrap();
        for close in [false, true] {
            set_close_on_exec(file.as_fd(), close).unwrap();
            assert_eq!(is_close_on_exec(file.as_fd()).unwrap(), close);
        }
    }

    #[test]
    fn own_descriptors_do_not_count_as_inherited() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_inherited(file.as_raw_fd()));
        set_close_on_exec(file.as_fd(), false).unwrap();
        assert!(is_inherited(file.as_raw_fd()));
        assert!(!is_inherited(1_000_000));
    }

    #[test]
    fn closed_descriptors_are_not_adopted() {
        assert_eq!(adopt(1_000_000).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
