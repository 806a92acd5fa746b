//! The processes below a child that settles: which of them fail (contract H6).
//!
//! Only the parent of a process gets its exit status. psflip holds pidfds: they become readable when a
//! process exits, and the kernel reports its status while it is a zombie (proc(5)), or after it was reaped
//! (Linux 6.15). Processes that start later are found by looking at the tree again and again while the child
//! settles.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::exit_status::ExitStatus;
use crate::sys::pidfd::PidFd;
use crate::sys::seam::{self, Call};
use crate::sys::tree;
use crate::text;

/// How many processes are watched. Each costs a descriptor.
const MOST: usize = 128;
/// How many are logged.
const MOST_LOGGED: u32 = 10;
/// The tree is looked at this often while the child settles, within the limits below.
const LOOKS: u32 = 20;
const SHORTEST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(1);

/// The processes that are watched.
#[derive(Debug)]
pub(super) struct Descendants {
    /// A set of its own, so that one descriptor stands for all.
    epoll: Epoll,
    watched: Vec<Watched>,
    /// The pids of those that have exited, and that their parents have not reaped.
    exited: Vec<u32>,
    /// Whether the tree was looked at before.
    has_looked: bool,
    logged: u32,
}

#[derive(Debug)]
struct Watched {
    pid: u32,
    name: String,
    process: PidFd,
}

/// A process that has exited while the child settled.
#[derive(Debug, PartialEq, Eq)]
struct Exited {
    pid: u32,
    name: String,
    /// `None`: its parent has reaped it, and the kernel does not say more.
    end: Option<ExitStatus>,
}

impl Descendants {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub(super) fn new() -> io::Result<Self> {
        seam::before(Call::EpollCreate)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, watched: Vec::new(), exited: Vec::new(), has_looked: false, logged: 0 })
    }

    /// The time from one look at the tree to the next.
    pub(super) fn interval(settle: Duration) -> Duration {
        (settle / LOOKS).clamp(SHORTEST, LONGEST)
    }

    /// Watches the processes that are new below `keeper`, except for the child itself. What has exited before
    /// the first look has not failed while the child settled.
    pub(super) fn look(&mut self, keeper: u32, child: Option<u32>) {
        let mut seen = Vec::new();
        tree::each_below(keeper, |pid, process| {
            seen.push(pid);
            let is_known = Some(pid) == child
                || self.watched.iter().any(|watched| watched.pid == pid)
                || self.exited.contains(&pid);
            if is_known {
                return;
            }
            if !self.has_looked && process.has_exited() {
                self.exited.push(pid);
            } else if self.watched.len() < MOST {
                let _ = self.watch(pid, process); // without descriptors or memory it is not watched
            }
        });
        self.exited.retain(|pid| seen.contains(pid)); // once reaped, a pid may be another process's
        self.has_looked = true;
    }

    fn watch(&mut self, pid: u32, process: &PidFd) -> io::Result<()> {
        let process = process.try_clone()?;
        seam::before(Call::EpollControl)?;
        self.epoll.add(&process, EpollEvent::new(EpollFlags::EPOLLIN, u64::from(pid)))?;
        self.watched.push(Watched { pid, name: tree::name_of(pid).unwrap_or_default(), process });
        Ok(())
    }

    /// Logs the processes that have failed, and stops watching all that have exited.
    pub(super) fn log_failures(&mut self) {
        for Exited { pid, name, end } in self.take_exited() {
            if end == Some(ExitStatus::Exited(0)) || self.logged >= MOST_LOGGED {
                continue;
            }
            self.logged += 1;
            let name = text::head(&name, 16);
            match end {
                Some(end) => {
                    tracing::warn!(pid, name, %end, "a process of the child failed while it settled");
                }
                None => tracing::warn!(pid, name, "a process of the child ended while it settled"),
            }
        }
    }

    fn take_exited(&mut self) -> Vec<Exited> {
        let mut events = [EpollEvent::empty(); MOST];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or_default(); // EINTR: called again
        let mut found = Vec::new();
        for event in &events[..count] {
            let index = self.watched.iter().position(|watched| u64::from(watched.pid) == event.data());
            let Some(index) = index else { continue };
            let Watched { pid, name, process } = self.watched.swap_remove(index);
            // A fork of psflip may hold a copy of the descriptor for a moment, so closing it is not enough.
            let _ = self.epoll.delete(&process);
            self.exited.push(pid);
            let end = tree::zombie_status(pid).or_else(|| process.reaped_status());
            found.push(Exited { pid, name, end });
        }
        found
    }
}

impl AsFd for Descendants {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::process::{ChildStdin, Command, Stdio};
    use std::time::Instant;

    use nix::poll::{PollFd, PollFlags, poll};

    #[track_caller]
    fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
        let start = Instant::now();
        while !is_there() {
            assert!(start.elapsed() < Duration::from_secs(20), "waited in vain for {what}");
        }
    }

    /// Waits until a process has exited.
    #[track_caller]
    fn wait_ready(descendants: &Descendants) {
        let mut fds = [PollFd::new(descendants.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, 20_000_u16).unwrap(), 1, "no process has exited within 20 s");
    }

    #[test]
    fn a_process_that_nobody_reaps_is_found_once() {
        // Contract: H6
        // It starts three processes that wait for a line. `sleep` reaps none of them.
        let script = "exec 3<&0; for _ in 1 2 3; do sh -c 'read line <&3; exit 7' & done; exec sleep 1000";
        let mut parent = Command::new("sh").args(["-c", script]).stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin: ChildStdin = parent.stdin.take().unwrap();
        let pid = parent.id();
        wait_for("`sleep` to run", || tree::name_of(pid).as_deref() == Some("sleep"));
        let mut descendants = Descendants::new().unwrap();
        let look = |descendants: &mut Descendants| {
            descendants.look(pid, None);
            descendants.take_exited()
        };
        stdin.write_all(b"\n").unwrap();
        wait_for("a zombie", || {
            tree::children(pid).into_iter().any(|child| tree::zombie_status(child).is_some())
        });
        assert_eq!(look(&mut descendants), [], "it has exited before the first look");
        assert_eq!((descendants.watched.len(), descendants.exited.len()), (2, 1));
        for _ in 0..2 {
            stdin.write_all(b"\n").unwrap();
            wait_ready(&descendants);
            let found = descendants.take_exited();
            let found: Vec<_> = found.iter().map(|exited| (exited.name.as_str(), exited.end)).collect();
            assert_eq!(found, [("sh", Some(ExitStatus::Exited(7)))]);
            assert_eq!(look(&mut descendants), []);
        }
        assert_eq!((descendants.watched.len(), descendants.exited.len()), (0, 3));
        parent.kill().unwrap();
        parent.wait().unwrap();
        assert_eq!(look(&mut descendants), []);
        assert!(descendants.exited.is_empty());
    }

    #[test]
    fn the_tree_is_looked_at_more_often_in_a_short_time() {
        let interval = |seconds| Descendants::interval(Duration::from_secs_f64(seconds));
        assert_eq!(interval(0.1), SHORTEST);
        assert_eq!(interval(2.0), Duration::from_millis(100));
        assert_eq!(interval(3600.0), LONGEST);
    }
}
