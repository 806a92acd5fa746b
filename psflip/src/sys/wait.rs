//! State changes of this process's children (waitid(2)).

use std::io;
use std::mem::MaybeUninit;

use super::cerr;
use super::seam::{self, Call};
use crate::exit_status::ExitStatus;
use crate::signal::Signal;

/// A change of a child's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The child.
    pub pid: u32,
    /// The change.
    pub kind: ChangeKind,
}

/// See [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It has exited and is reaped now.
    Exited(ExitStatus),
    /// It was stopped by this signal.
    Stopped(Signal),
    /// It was continued.
    Continued,
}

impl Change {
    /// Its exit status, if it has exited.
    #[must_use]
    pub fn exit_status(self) -> Option<ExitStatus> {
        match self.kind {
            ChangeKind::Exited(end) => Some(end),
            ChangeKind::Stopped(_) | ChangeKind::Continued => None,
        }
    }
}

/// The next change of any child of this process, without waiting. Children that have exited are reaped
/// (contract C9); stops and continuations are reported. `None`: nothing new.
///
/// # Errors
/// ECHILD: there is no child.
pub fn next_change() -> io::Result<Option<Change>> {
    waitid(libc::P_ALL, 0, libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG)
}

/// Whether the process with this pid is a child of this process. It may have exited, but is not reaped yet.
#[must_use]
pub fn is_child(pid: u32) -> bool {
    let mut info = MaybeUninit::<libc::siginfo_t>::uninit();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    loop {
        // SAFETY: the pointer is to a siginfo_t that lives through the call. There is no `seam::before`: this
        // is called for every possible pid, and can fail with ECHILD only.
        let result = cerr(unsafe { libc::waitid(libc::P_PID, pid, info.as_mut_ptr(), options) });
        if !result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
            return result.is_ok();
        }
    }
}

/// Whether this process has any unreaped child.
#[must_use]
pub fn has_children() -> bool {
    waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOHANG | libc::WNOWAIT).is_ok()
}

/// Waits until a child has exited, without reaping it, or until there is no child.
pub fn for_exit() {
    let _ = waitid(libc::P_ALL, 0, libc::WEXITED | libc::WNOWAIT); // ECHILD: there is none
}

/// waitid(2), restarted after EINTR.
pub(super) fn waitid(
    kind: libc::idtype_t,
    id: libc::id_t,
    options: libc::c_int,
) -> io::Result<Option<Change>> {
    loop {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let result = seam::before(Call::Waitid).map_err(io::Error::from).and_then(|()| {
            // SAFETY: the pointer is to a siginfo_t that lives through the call.
            cerr(unsafe { libc::waitid(kind, id, info.as_mut_ptr(), options) })
        });
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            // SAFETY: zeroed is a valid siginfo_t, and the call wrote it or left it zeroed.
            Ok(_) => return Ok(change(&unsafe { info.assume_init() })),
        }
    }
}

/// Decodes the result of waitid(2); all zeros mean that nothing happened.
fn change(info: &libc::siginfo_t) -> Option<Change> {
    // SAFETY: these fields are set by waitid for every kind of change, and zero without one.
    let pid = unsafe { info.si_pid() };
    if pid == 0 {
        return None;
    }
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    let signal = Signal::from_number(status);
    let kind = match (info.si_code, signal) {
        (libc::CLD_EXITED, _) => ChangeKind::Exited(ExitStatus::Exited((status & 0xff) as u8)),
        (libc::CLD_KILLED | libc::CLD_DUMPED, Some(signal)) => ChangeKind::Exited(ExitStatus::Killed(signal)),
        (libc::CLD_STOPPED | libc::CLD_TRAPPED, Some(signal)) => ChangeKind::Stopped(signal),
        _ => ChangeKind::Continued,
    };
    Some(Change { pid: pid.cast_unsigned(), kind })
}
