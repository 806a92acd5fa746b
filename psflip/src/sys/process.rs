//! Processes: fork, exec, exit, and the attributes of prctl(2).

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::cerr;
use super::pidfd::PidFd;
use super::seam::{self, Call};
use super::signal::{SignalSet, set_default, set_mask};
use super::wait;
use crate::signal::Signal;

/// The side of a fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The calling process, with the new process's pid.
    Parent(u32),
    /// The new process.
    Child,
}

/// fork(2). The processes share only open files. The new one is not restricted in what it may call: psflip
/// has one thread, so no other thread can hold a lock that the new process would need.
///
/// # Errors
/// EAGAIN: RLIMIT_NPROC, the pids cgroup, or threads-max is reached. ENOMEM.
pub fn fork() -> io::Result<Fork> {
    seam::before(Call::Fork)?;
    // SAFETY: the process is single-threaded (see above), so the child is not restricted to
    // async-signal-safe functions.
    match cerr(unsafe { libc::fork() })? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(pid.cast_unsigned())),
    }
}

/// Starts a process that only runs `become_program`, which executes a program or returns why it could not.
///
/// Like vfork(2), the new process uses the memory of this one, which is suspended until the exec.
/// That saves copying memory that is dropped at once (a third of the time of a fork and exec), and
/// lets the new process return its error. The pidfd comes from the same call (CLONE_PIDFD, Linux
/// 5.2), so there is no process without one.
///
/// # Errors
/// The inner one is what `become_program` returned; the new process is reaped then. The outer one is
/// clone(2)'s: EAGAIN, EMFILE, ENFILE, ENOMEM.
pub fn spawn<E>(become_program: impl FnOnce() -> E) -> io::Result<Result<(u32, PidFd), E>> {
    struct Shared<F, E> {
        become_program: Option<F>,
        failure: Option<E>,
    }
    extern "C" fn start<F: FnOnce() -> E, E>(shared: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `spawn` passes a pointer to a Shared of this very type, which nobody
        // else uses while this runs.
        let shared = unsafe { &mut *shared.cast::<Shared<F, E>>() };
        shared.failure = shared.become_program.take().map(|become_program| become_program());
        exit_now(crate::exit::NOT_FOUND)
    }
    fn start_of<F: FnOnce() -> E, E>(_: &Shared<F, E>) -> extern "C" fn(*mut libc::c_void) -> libc::c_int {
        start::<F, E>
    }
    seam::before(Call::Clone)?;
    let stack = Stack::new()?;
    let mut shared = Shared { become_program: Some(become_program), failure: None };
    let start = start_of(&shared);
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let mut pidfd: libc::c_int = -1;
    // SAFETY: CLONE_VFORK: this thread, the only one, stands still until the new process has executed a
    // program or exited, so what both can reach (the memory, thread-local storage included) is used by one of
    // them at a time. The new one has a stack of its own, aligned and large enough, and leaves `start` by
    // exec or exit only. Dispositions, mask, descriptors and the working directory are its own copies.
    // CLONE_PIDFD: the kernel writes one integer through the last argument.
    let result = unsafe { libc::clone(start, stack.top(), flags, (&raw mut shared).cast(), &raw mut pidfd) };
    let pid = cerr(result)?.cast_unsigned();
    // SAFETY: the kernel has just given us this descriptor, which is close-on-exec; nobody else owns it.
    let pidfd = PidFd::from_owned(unsafe { OwnedFd::from_raw_fd(pidfd) });
    match shared.failure {
        None => Ok(Ok((pid, pidfd))),
        Some(failure) => {
            wait::waitid(libc::P_PID, pid, libc::WEXITED)?;
            Ok(Err(failure))
        }
    }
}

/// Memory for the stack of a process that shares this one's. It does not come from the heap: so large a
/// request would tidy up the whole heap first, and a keeper would copy every page that this writes to.
struct Stack(*mut libc::c_void);

impl Stack {
    /// Its size in bytes. Untouched pages cost nothing.
    const SIZE: usize = 256 * 1024;

    fn new() -> io::Result<Self> {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), Self::SIZE, access, kind, -1, 0) };
        if start == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(start)) }
    }

    /// Its end, from which a stack grows down.
    fn top(&self) -> *mut libc::c_void {
        self.0.wrapping_byte_add(Self::SIZE)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: it is this mapping, which only the process that has executed a program or exited has used.
        unsafe { libc::munmap(self.0, Self::SIZE) };
    }
}

/// Exits at once, without the exit handlers of the process that this one was forked from.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Kills this process by the signal that killed the child, without a core dump of its own (contract C5).
/// Returns only if the process survives (PID 1 of a namespace is immune; a stop signal does not kill).
pub fn die_by(signal: Signal) {
    // core(5): a limit of zero does not suppress a piped core handler; an undumpable process does.
    set_undumpable();
    let _ = set_default(signal);
    let others = SignalSet::all_but(signal);
    // SAFETY: raise(3) has no preconditions. The signal is blocked until the next statement,
    // then its default action runs.
    unsafe { libc::raise(signal.number()) };
    let _ = set_mask(others);
}

/// A NULL-terminated array of strings, as execve(2) needs it.
#[derive(Debug)]
pub struct StringArray {
    strings: Vec<CString>,
}

impl StringArray {
    /// An array of these strings.
    #[must_use]
    pub fn new(strings: Vec<CString>) -> Self {
        Self { strings }
    }

    /// The strings.
    #[must_use]
    pub fn strings(&self) -> &[CString] {
        &self.strings
    }

    fn pointers(&self) -> Vec<*const libc::c_char> {
        self.strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    }
}

/// execve(2). Returns only if it failed, with the error.
#[must_use]
pub fn exec(path: &CStr, argv: &StringArray, envp: &StringArray) -> io::Error {
    if let Err(errno) = seam::before(Call::Execve) {
        return errno.into();
    }
    let (argv, envp) = (argv.pointers(), envp.pointers());
    // SAFETY: the path is a C string; both arrays end with NULL and point to C strings that outlive the call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Makes the kernel kill this process when the thread that forked it exits (PR_SET_PDEATHSIG of prctl(2)).
/// Checks that it has not exited already; on an error the caller exits.
///
/// # Errors
/// ESRCH: the parent is not the expected one, so the signal would never come.
pub fn die_with_parent(expected_parent: u32) -> io::Result<()> {
    seam::before(Call::ParentDeathSignal)?;
    // SAFETY: PR_SET_PDEATHSIG takes a signal number, as an unsigned long.
    cerr(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) })?;
    // SAFETY: getppid(2) can't fail.
    if unsafe { libc::getppid() }.cast_unsigned() == expected_parent {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}

/// Makes the kernel send SIGCONT to this process when the thread that forked it exits, so that this process
/// notices even if it was stopped (contract F12).
///
/// # Errors
/// None for a valid signal.
pub fn continue_on_parent_exit() -> io::Result<()> {
    seam::before(Call::ParentDeathSignal)?;
    // SAFETY: PR_SET_PDEATHSIG takes a signal number, as an unsigned long.
    cerr(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGCONT as libc::c_ulong) }).map(drop)
}

/// Makes this process the leader of a new process group in its session (setpgid(2)).
///
/// # Errors
/// EPERM: it leads a session, and so a group already.
pub fn lead_group() -> io::Result<()> {
    seam::before(Call::ProcessGroup)?;
    // SAFETY: setpgid(2) has no preconditions.
    cerr(unsafe { libc::setpgid(0, 0) }).map(drop)
}

/// Sends a signal to a whole process group (kill(2)).
///
/// # Errors
/// ESRCH: the group is empty. EPERM: this process may signal none of it.
pub fn signal_group(group: u32, signal: Signal) -> io::Result<()> {
    seam::before(Call::SignalGroup)?;
    kill_group(group, signal.number())
}

/// Whether a process group has no member, not even a zombie.
#[must_use]
pub fn is_empty_group(group: u32) -> bool {
    kill_group(group, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

fn kill_group(group: u32, number: libc::c_int) -> io::Result<()> {
    // kill(2) takes -1 for every process, and 0 for the caller's own group.
    if group < 2 || group > i32::MAX.cast_unsigned() {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill(2) has no preconditions.
    cerr(unsafe { libc::kill(-group.cast_signed(), number) }).map(drop)
}

/// Sets whether this process becomes the parent of its orphaned descendants (PR_SET_CHILD_SUBREAPER of
/// prctl(2)).
///
/// # Errors
/// None on Linux 3.4 or later.
pub fn set_subreaper(on: bool) -> io::Result<()> {
    seam::before(Call::Subreaper)?;
    // SAFETY: PR_SET_CHILD_SUBREAPER takes an integer.
    cerr(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, libc::c_ulong::from(on)) }).map(drop)
}

/// Prevents a core dump of this process (PR_SET_DUMPABLE of prctl(2)).
pub fn set_undumpable() {
    // SAFETY: PR_SET_DUMPABLE takes an integer.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0 as libc::c_ulong) };
}

/// Sets the name that ps(1) and top(1) show for this thread, at most 15 bytes (PR_SET_NAME of prctl(2)).
pub fn set_name(name: &CStr) {
    // SAFETY: the pointer is to a C string; the kernel copies up to 16 bytes of it and stops at its NUL.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// The environment of this process as it was passed by execve(2): with its order, duplicates and malformed
/// entries, which `std::env` would lose (contract C1).
#[must_use]
pub fn raw_environment() -> Vec<CString> {
    unsafe extern "C" {
        static environ: *const *const libc::c_char;
    }
    let mut strings = Vec::new();
    // SAFETY: environ is set before main and psflip never changes it.
    let mut next = unsafe { environ };
    while !next.is_null() {
        // SAFETY: the array ends with NULL, which has not been passed yet.
        let entry = unsafe { *next };
        if entry.is_null() {
            break;
        }
        // SAFETY: every entry before the NULL is a C string.
        strings.push(unsafe { CStr::from_ptr(entry) }.to_owned());
        // SAFETY: not past the NULL.
        next = unsafe { next.add(1) };
    }
    strings
}

/// The path that execve(2) was called with when psflip was started (AT_EXECFN of getauxval(3)).
#[must_use]
pub fn executable_as_started() -> Option<CString> {
    // SAFETY: getauxval(3) has no preconditions.
    let address = unsafe { libc::getauxval(libc::AT_EXECFN) };
    if address == 0 {
        return None;
    }
    // SAFETY: the kernel put a C string there, which stays for the life of the process.
    Some(unsafe { CStr::from_ptr(address as *const libc::c_char) }.to_owned())
}

/// Duplicates `from` to the number `to` (dup2(2)). The new descriptor stays open in an exec.
///
/// # Errors
/// EBADF, EMFILE.
pub fn duplicate_onto(from: BorrowedFd<'_>, to: i32) -> io::Result<()> {
    seam::before(Call::Dup)?;
    // SAFETY: used in a process that is about to exec, where no Rust value owns `to`.
    cerr(unsafe { libc::dup2(from.as_raw_fd(), to) }).map(drop)
}

/// Closes what a forked process doesn't need: every descriptor except `keep`.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) {
    super::fd::close_all_but(&mut keep.iter().map(AsRawFd::as_raw_fd).collect::<Vec<_>>());
}

/// As [`close_all_but`], but the standard streams stay open as well.
pub fn close_above_standard(keep: &[BorrowedFd<'_>]) {
    let numbers = (0..3).chain(keep.iter().map(AsRawFd::as_raw_fd));
    super::fd::close_all_but(&mut numbers.collect::<Vec<_>>());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit_status::ExitStatus;
    use std::os::fd::AsFd;

    #[test]
    fn the_environment_is_read_completely() {
        let ours: Vec<_> = raw_environment();
        for (name, value) in std::env::vars() {
            let entry = CString::new(format!("{name}={value}")).unwrap();
            assert!(ours.contains(&entry), "{entry:?} is missing");
        }
    }

    #[test]
    fn a_failed_exec_reports_the_error() {
        let nothing = StringArray::new(vec![]);
        let error = exec(c"/nonexistent/program", &nothing, &nothing);
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_spawned_process_runs_its_program_or_reports_the_error() {
        let nothing = StringArray::new(vec![]);
        let argv = StringArray::new(vec![c"sh".into(), c"-c".into(), c"exit 7".into()]);
        let (pid, pidfd) = spawn(|| exec(c"/bin/sh", &argv, &nothing)).unwrap().unwrap();
        assert!(crate::sys::fd::is_close_on_exec(pidfd.as_fd()).unwrap());
        assert!(wait::is_child(pid) && !wait::is_child(std::process::id()));
        let change = wait::waitid(libc::P_PID, pid, libc::WEXITED).unwrap().unwrap();
        assert!(!wait::is_child(pid), "it is reaped");
        assert_eq!(change, wait::Change { pid, kind: wait::ChangeKind::Exited(ExitStatus::Exited(7)) });
        let error = spawn(|| exec(c"/nonexistent", &argv, &nothing)).unwrap().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn an_unrelated_process_is_not_our_parent() {
        let error = die_with_parent(i32::MAX.cast_unsigned()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
    }
}
