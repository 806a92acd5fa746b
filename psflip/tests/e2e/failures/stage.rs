//! A psflip whose system calls fail and whose steps pause as the test plans it (`tools/doubles`), and
//! helpers for tests of failures.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use testkit::{Deadline, Process, PsflipBuilder, Sandbox, double};

use crate::service::{AT_ONCE, psflip};

/// The plan and the trace of a staged psflip.
pub(crate) struct Stage {
    socket: UnixListener,
    plans: std::cell::Cell<u64>,
}

/// A process that is paused until the test continues it.
#[derive(Debug)]
pub(crate) struct Paused {
    /// The step: role, moment and name.
    pub(crate) at: String,
    connection: UnixStream,
}

impl Paused {
    /// Continues the process.
    pub(crate) fn go_on(self) {
        drop(self.connection);
    }
}

impl Stage {
    /// A stage in this sandbox, without a plan.
    pub(crate) fn new(sandbox: &Sandbox) -> Self {
        let socket = UnixListener::bind(sandbox.path("stage")).unwrap();
        Self { socket, plans: 0.into() }
    }

    /// Lets a psflip that is not root pause as well.
    pub(crate) fn is_for_all(&self, sandbox: &Sandbox) {
        std::fs::set_permissions(sandbox.path("stage"), std::fs::Permissions::from_mode(0o777)).unwrap();
    }

    /// A staged psflip whose child is healthy at once, with these timeouts.
    pub(crate) fn psflip(&self, sandbox: &Sandbox, times: &str) -> PsflipBuilder {
        let builder = psflip(sandbox, &["/bin/sleep", "infinity"], &format!("{times}{AT_ONCE}"));
        builder.exe(double("psflip-staged")).env("PSFLIP_STAGED", sandbox.dir())
    }

    /// Sets the plan. `old` is the psflip whose processes have the role "old".
    pub(crate) fn plan(&self, sandbox: &Sandbox, old: Option<Process>, orders: &str) {
        self.plans.set(self.plans.get() + 1);
        let mut plan = format!("id {}\n{orders}\n", self.plans.get());
        if let Some(old) = old {
            let _ = writeln!(plan, "old {old}"); // writing to a String can't fail
        }
        let _ = std::fs::remove_file(sandbox.path("trace")); // missing the first time
        sandbox.write("plan", plan);
    }

    /// Stops pausing processes. Steps are still recorded.
    pub(crate) fn pause_no_more(&self, sandbox: &Sandbox, old: Process) {
        sandbox.write("plan", format!("id {}\nrecord\nold {old}\n", self.plans.get()));
    }

    /// Removes the plan. The trace stays.
    pub(crate) fn no_plan(&self, sandbox: &Sandbox) {
        std::fs::remove_file(sandbox.path("plan")).unwrap();
    }

    /// Waits until a process pauses.
    #[track_caller]
    pub(crate) fn wait_pause(&self, sandbox: &Sandbox) -> Paused {
        let deadline = Deadline::default();
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(deadline.remaining()).unwrap_or(PollTimeout::MAX);
        assert_eq!(poll(&mut fds, timeout), Ok(1), "no process pauses\n{}", sandbox.report());
        let (connection, _) = self.socket.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&connection).read_line(&mut line).unwrap();
        let (_, at) = line.trim_end().split_once(' ').unwrap_or_else(|| panic!("`{line}`"));
        Paused { at: at.to_owned(), connection }
    }
}
