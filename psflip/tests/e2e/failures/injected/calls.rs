//! Which system calls can fail, and how. A call that psflip makes during an upgrade and that is not listed
//! here fails the tests.

/// The subject of a call. Each has a test of its own, so that they run in parallel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    /// The address space.
    Memory,
    /// Files and directories.
    Files,
    /// Reading and writing of open files.
    Data,
    /// Descriptors, and waiting for them.
    Waiting,
    /// Processes, signals, and messages between processes.
    Processes,
}

/// The errors that a correct caller can get from each call, the most likely one first and unlikely ones
/// included.
#[rustfmt::skip] // a table
const CALLS: &[(About, &str, &[&str])] = &[
    (About::Memory, "mmap", &["ENOMEM", "EAGAIN", "ENFILE"]),
    (About::Memory, "mprotect", &["ENOMEM", "EACCES"]),
    (About::Memory, "munmap", &["ENOMEM"]),
    (About::Memory, "mremap", &["ENOMEM"]),
    (About::Memory, "madvise", &["ENOMEM", "EAGAIN"]),

    (About::Files, "access", &["EACCES", "EIO", "ENOMEM", "EROFS"]),
    (About::Files, "faccessat2", &["ENOSYS", "EACCES", "EIO"]),
    (About::Files, "newfstatat", &["ENOMEM", "EACCES", "EIO"]),
    (About::Files, "statx", &["ENOMEM", "EIO", "EACCES", "ENOSYS"]),
    (About::Files, "openat", &["EMFILE", "ENFILE", "ENOMEM", "EACCES", "EIO", "EINTR", "ENOSPC", "EDQUOT", "EROFS"]),
    (About::Files, "flock", &["ENOLCK", "EINTR", "EAGAIN"]),
    (About::Files, "chmod", &["EPERM", "EIO", "EROFS"]),
    (About::Files, "fchmod", &["EPERM", "EIO", "EROFS"]),
    (About::Files, "rename", &["ENOSPC", "EIO", "EACCES", "EROFS", "EXDEV", "EDQUOT"]),
    (About::Files, "renameat2", &["ENOSPC", "EIO", "EACCES", "EROFS", "ENOSYS", "EINVAL"]),
    (About::Files, "unlink", &["EIO", "EACCES", "EROFS", "EBUSY"]),
    (About::Files, "fsync", &["EIO", "ENOSPC"]),
    (About::Files, "getdents64", &["EIO", "ENOENT"]),
    (About::Files, "readlink", &["EACCES", "EIO", "ENOMEM"]),

    (About::Data, "read", &["EIO", "EINTR", "ENOMEM"]),
    (About::Data, "pread64", &["EIO", "EINTR"]),
    (About::Data, "write", &["ENOSPC", "EIO", "EINTR", "EPIPE", "EAGAIN", "EFBIG", "EDQUOT"]),

    (About::Waiting, "fcntl", &["ENOMEM"]),
    (About::Waiting, "ioctl", &["ENOMEM", "EIO", "ENOTTY"]),
    (About::Waiting, "dup2", &["EBUSY", "EINTR", "EMFILE"]),
    (About::Waiting, "pipe2", &["EMFILE", "ENFILE"]),
    (About::Waiting, "epoll_create1", &["EMFILE", "ENFILE", "ENOMEM"]),
    (About::Waiting, "epoll_ctl", &["ENOMEM", "ENOSPC"]),
    (About::Waiting, "epoll_wait", &["EINTR"]),
    (About::Waiting, "epoll_pwait", &["EINTR"]),
    (About::Waiting, "poll", &["EINTR", "ENOMEM"]),
    (About::Waiting, "ppoll", &["EINTR", "ENOMEM"]),
    (About::Waiting, "signalfd4", &["EMFILE", "ENFILE", "ENOMEM", "ENODEV"]),
    (About::Waiting, "timerfd_create", &["EMFILE", "ENFILE", "ENOMEM", "ENODEV"]),
    (About::Waiting, "socket", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EACCES"]),
    (About::Waiting, "bind", &["EACCES", "EADDRINUSE", "ENOMEM", "EROFS", "ENOSPC"]),
    (About::Waiting, "listen", &["EADDRINUSE", "ENOBUFS"]),
    (About::Waiting, "accept4", &["EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "ECONNABORTED"]),
    (About::Waiting, "connect", &["EAGAIN", "ECONNREFUSED", "EACCES", "EINTR", "ENOMEM", "ENOENT"]),
    (About::Waiting, "getsockopt", &["ENOBUFS", "ENOMEM"]),
    (About::Waiting, "close_range", &["ENOMEM", "EMFILE", "ENOSYS"]),

    (About::Processes, "clone", &["EAGAIN", "ENOMEM", "ENOSPC", "EPERM"]),
    (About::Processes, "clone3", &["EAGAIN", "ENOMEM", "ENOSYS"]),
    (About::Processes, "fork", &["EAGAIN", "ENOMEM"]),
    (About::Processes, "vfork", &["EAGAIN", "ENOMEM"]),
    (About::Processes, "execve", &["ENOMEM", "EACCES", "EAGAIN", "EIO", "E2BIG", "ETXTBSY", "EMFILE", "ENOENT"]),
    (About::Processes, "prctl", &["EINVAL", "EPERM"]),
    (About::Processes, "setpgid", &["EPERM"]),
    (About::Processes, "kill", &["EPERM"]),
    (About::Processes, "waitid", &["EINTR"]),
    (About::Processes, "pidfd_open", &["EMFILE", "ENFILE", "ENOMEM", "ENODEV", "ENOSYS"]),
    (About::Processes, "kill", &["EPERM"]),
    (About::Processes, "pidfd_send_signal", &["EPERM", "EAGAIN", "ENOMEM"]),
    (About::Processes, "socketpair", &["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"]),
    (About::Processes, "sendmsg", &["ENOBUFS", "ENOMEM", "EAGAIN", "EINTR", "ETOOMANYREFS"]),
    (About::Processes, "recvmsg", &["ENOMEM", "ENOBUFS", "EINTR"]),
];

/// Calls that don't fail for a correct caller, and two whose failure can't be injected. `close` does its work
/// even when it fails, and an injected fault would leave open what the kernel would have closed. `brk`
/// reports no error, but the old break.
const INFALLIBLE: &[&str] = &[
    "arch_prctl",
    "brk",
    "close",
    "exit",
    "exit_group",
    "getegid",
    "geteuid",
    "getgid",
    "getpgid",
    "getpgrp",
    "getpid",
    "getrandom",
    "getppid",
    "getsid",
    "gettid",
    "getuid",
    "prlimit64",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigtimedwait",
    "sched_yield",
    "set_robust_list",
    "set_tid_address",
    "shutdown",
    "timerfd_settime",
    "uname",
];

/// The subject of a call and its possible errors, or `None` if it can't fail.
///
/// # Panics
/// For a call that is in no list yet.
pub(super) fn failures(call: &str) -> Option<(About, &'static [&'static str])> {
    if INFALLIBLE.contains(&call) {
        return None;
    }
    let known = CALLS.iter().find(|(_, name, _)| *name == call);
    let (about, _, errors) =
        known.unwrap_or_else(|| panic!("psflip calls `{call}`: how can it fail? Add it to the table."));
    Some((*about, errors))
}
