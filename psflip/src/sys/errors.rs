//! What the errno of a failed system call says about the next try.

use std::io;

/// Whether the same call may succeed in a moment, although nothing is freed or changed until then:
///
/// - ENOMEM, ENOBUFS: the kernel had no memory for the call (recv(2), send(2), epoll_ctl(2)). What it should
///   have read is still there.
/// - EINTR: the call was interrupted (signal(7)). psflip blocks all signals, so only a debugger, or a stop
///   and a continuation, cause that.
///
/// Not transient are errors that persist until another process acts: EMFILE, ENFILE, ENOSPC, and EAGAIN. For
/// a socket, EAGAIN says that there is no data or no room, which poll(2) reports; for fork(2), that a limit
/// is reached.
#[must_use]
pub fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOMEM | libc::ENOBUFS | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lack_of_memory_and_interruptions_pass_and_limits_do_not() {
        // Contract: F10
        let is = |errno| is_transient(&io::Error::from_raw_os_error(errno));
        assert!([libc::ENOMEM, libc::ENOBUFS, libc::EINTR].into_iter().all(is));
        assert!(![libc::EAGAIN, libc::EMFILE, libc::ENFILE, libc::ENOSPC, libc::EPIPE].into_iter().any(is));
        assert!(!is_transient(&io::Error::other("not an errno")));
    }
}
