//! The seam between psflip and the operating system: a test can make any system call
//! fail, and halt at any step.
//!
//! [`before`] is called before every system call that may fail, and [`step`] at every step of a generation's
//! life. The production binary never installs a test hook, so only one relaxed load remains, which the
//! optimizer takes to be constant. No environment variable and no option installs a hook. Only a separate
//! program that is built from this library does (`tools/doubles`).
//!
//! [`install`] applies to a process and all its forks, for good. Unit tests share a process under `cargo
//! test`, so their hook applies to one thread and is removed after the test (`testing::with`).

use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

/// Test hook: called before each system call, and at each step.
pub trait Os: Sync {
    /// Called before a system call. If it returns an error, the call fails with that
    /// error instead of being made.
    ///
    /// # Errors
    /// The error of the failed call.
    fn before(&self, call: Call) -> Result<(), Errno> {
        let _ = call;
        Ok(())
    }

    /// Called at a step, which waits until this returns.
    fn step(&self, moment: Moment, what: fmt::Arguments<'_>) {
        let _ = (moment, what);
    }
}

/// The kind of step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// A process of psflip starts: `intermediate`, `successor`, `generation`, `anchor`, `keeper` or `child`.
    Begins,
    /// The `intermediate` has forked the successor, and is about to exit.
    Ends,
    /// An effect is about to be performed.
    Before,
    /// An effect has been performed.
    After,
    /// A hand-over message, named by its verb, is about to be sent.
    Sending,
    /// The message was sent.
    Sent,
    /// A hand-over message was received.
    Received,
}

/// Defines [`Call`] and the list of all calls.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A system call. One system call has several names if its uses fail with different errors.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Call {
            $($(#[$doc])* $name,)*
        }

        impl Call {
            /// All calls.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

calls! {
    /// fork(2).
    Fork,
    /// clone(2), with CLONE_VFORK.
    Clone,
    /// memfd_create(2).
    MemoryFile,
    /// execve(2).
    Execve,
    /// waitid(2).
    Waitid,
    /// pidfd_open(2).
    PidfdOpen,
    /// pidfd_send_signal(2).
    PidfdSendSignal,
    /// kill(2) of a child.
    SignalChild,
    /// prctl(2), PR_SET_PDEATHSIG.
    ParentDeathSignal,
    /// prctl(2), PR_SET_CHILD_SUBREAPER.
    Subreaper,
    /// setpgid(2).
    ProcessGroup,
    /// kill(2) of a process group.
    SignalGroup,
    /// rt_sigprocmask(2).
    SignalMask,
    /// sigaction(2).
    SignalAction,
    /// signalfd(2).
    Signalfd,
    /// read(2) of a signalfd.
    ReadSignal,
    /// timerfd_create(2).
    TimerCreate,
    /// timerfd_settime(2).
    TimerSet,
    /// epoll_create1(2).
    EpollCreate,
    /// epoll_ctl(2).
    EpollControl,
    /// epoll_wait(2).
    EpollWait,
    /// poll(2).
    Poll,
    /// socketpair(2).
    Socketpair,
    /// sendmsg(2).
    Sendmsg,
    /// recvmsg(2).
    Recvmsg,
    /// shutdown(2).
    Shutdown,
    /// socket(2).
    Socket,
    /// bind(2).
    Bind,
    /// listen(2).
    Listen,
    /// accept4(2), of the control socket.
    Accept,
    /// connect(2), of a probe.
    Connect,
    /// pipe2(2), of a health check's command or a hook.
    Pipe,
    /// fcntl(2), of a descriptor's flags.
    DescriptorFlags,
    /// dup2(2).
    Dup,
    /// chdir(2).
    Chdir,
    /// open(2) below `/proc`.
    OpenProc,
    /// open(2) of the configuration.
    OpenConfig,
    /// read(2) of the configuration.
    ReadConfig,
    /// access(2) of the pidfile's directory.
    AccessDirectory,
    /// lstat(2) of the pidfile.
    StatPidfile,
    /// open(2) of an existing pidfile.
    OpenPidfile,
    /// open(2) of a new pidfile.
    CreatePidfile,
    /// flock(2).
    Lock,
    /// fchmod(2) and chmod(2).
    Chmod,
    /// fchownat(2).
    Chown,
    /// symlink(2).
    Symlink,
    /// write(2) of the pidfile.
    WritePidfile,
    /// rename(2).
    Rename,
    /// unlink(2) of the pidfile.
    Unlink,
    /// write(2) of the log.
    WriteLog,
    /// open(2) of a file for output.
    OpenOutput,
    /// write(2) of output to its file.
    WriteOutput,
}

/// Whether a hook is installed.
static INSTALLED: AtomicBool = AtomicBool::new(false);
static OS: OnceLock<&'static dyn Os> = OnceLock::new();

/// Installs `os` for this process and its forks. The first installed hook stays.
pub fn install(os: &'static dyn Os) {
    if OS.set(os).is_ok() {
        INSTALLED.store(true, Ordering::Relaxed);
    }
}

/// Call it before a system call that may fail.
///
/// # Errors
/// In a test, the error that the call must fail with.
#[inline]
pub fn before(call: Call) -> Result<(), Errno> {
    if is_installed() { check(call) } else { Ok(()) }
}

/// Call it at every step.
#[inline]
pub fn step(moment: Moment, what: fmt::Arguments<'_>) {
    if is_installed() {
        report(moment, what);
    }
}

#[inline]
fn is_installed() -> bool {
    cfg!(test) || INSTALLED.load(Ordering::Relaxed)
}

#[cold]
#[inline(never)]
fn check(call: Call) -> Result<(), Errno> {
    #[cfg(test)]
    testing::check(call)?;
    OS.get().map_or(Ok(()), |os| os.before(call))
}

#[cold]
#[inline(never)]
fn report(moment: Moment, what: fmt::Arguments<'_>) {
    if let Some(os) = OS.get() {
        os.step(moment, what);
    }
}

/// A hook for one unit test.
#[cfg(test)]
pub(crate) mod testing {
    use super::{Call, Errno};
    use std::cell::RefCell;

    /// Counts the calls up to the one that fails.
    struct Plan {
        calls: Vec<Call>,
        fails: Option<(usize, Errno)>,
    }

    thread_local! {
        static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
    }

    pub(super) fn check(call: Call) -> Result<(), Errno> {
        PLAN.with_borrow_mut(|plan| {
            let Some(plan) = plan else { return Ok(()) };
            let number = plan.calls.len();
            plan.calls.push(call);
            match plan.fails {
                Some((fails, errno)) if fails == number => Err(errno),
                _ => Ok(()),
            }
        })
    }

    /// Runs `work` in this thread. Its `number`th call (from 0) fails with this error.
    /// Returns the calls that it made.
    pub(crate) fn with<T>(fails: Option<(usize, Errno)>, work: impl FnOnce() -> T) -> (T, Vec<Call>) {
        PLAN.set(Some(Plan { calls: Vec::new(), fails }));
        let result = work();
        (result, PLAN.take().map_or_else(Vec::new, |plan| plan.calls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::socket::Socket;

    #[test]
    fn only_the_selected_call_fails() {
        let (result, calls) = testing::with(Some((1, Errno::EMFILE)), || {
            let first = Socket::pair();
            let second = Socket::pair();
            (first.is_ok(), second.unwrap_err().raw_os_error())
        });
        assert_eq!(result, (true, Some(libc::EMFILE)));
        assert_eq!(calls, [Call::Socketpair, Call::Socketpair]);
        assert!(Socket::pair().is_ok(), "the plan is over");
    }
}
