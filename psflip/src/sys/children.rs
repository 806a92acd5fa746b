//! The children of this process, and how to kill them all.
//!
//! Children are found by waitid(2), which answers only for the caller's own children, and signalled by pid.
//! Only this process can reap them, so their pids can't belong to another process. What proc(5) shows of
//! other processes may be hidden (`hidepid=`, `ProtectProc=`, unreadable programs) or missing. It is used
//! only to find more than the children.
//!
//! To kill a tree, a subreaper need not look below its children: the orphans of each process
//! that exits become its own children.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use super::cerr;
use super::seam::{self, Call};
use super::{tree, wait};
use crate::signal::Signal;

/// The largest number of processes that Linux can have, and so the largest pid
/// (proc_sys_kernel(5), `pid_max`).
const MOST_PIDS: u32 = 4 * 1024 * 1024;

/// All pids of this host are smaller than this. The `/proc` of another PID namespace shows the same limit.
fn pid_limit() -> u32 {
    let text =
        seam::before(Call::OpenProc).ok().and_then(|()| fs::read_to_string("/proc/sys/kernel/pid_max").ok());
    text.and_then(|text| text.trim().parse().ok()).map_or(MOST_PIDS, |limit: u32| limit.clamp(2, MOST_PIDS))
}

/// How many pids are tried first if there is no list of children.
const FIRST_SEARCH: u32 = 1024;

/// With up to this many killed processes that have not exited yet, each exit is followed by a look
/// for orphans. With more of them, half must exit first. So the cost of all looks together is
/// proportional to the number of processes.
const FEW: usize = 64;

/// How long to wait for killed processes before looking for the orphans of those that have exited.
const ORPHAN_SEARCH_DELAY: Duration = Duration::from_millis(10);

/// How often to retry a process that could not be signalled. The pause doubles each time, to 10 s altogether.
const TRIES: u32 = 10;

/// How long [`kill_all_children`] waits for the next killed process to exit before it leaves the rest to
/// their next parent. A process that hangs in the kernel (a dead network file system) exits when it can, and
/// nothing has to wait for that.
const STUCK: Duration = Duration::from_secs(5);

/// All children of this process, zombies included.
#[must_use]
pub fn own() -> Vec<u32> {
    if !wait::has_children() {
        return Vec::new();
    }
    listed().unwrap_or_else(|| (1..pid_limit()).filter(|pid| wait::is_child(*pid)).collect())
}

/// The children as proc(5) lists them. There must be at least one. `None`: there is no such list, or it
/// belongs to another PID namespace.
fn listed() -> Option<Vec<u32>> {
    if tree::is_blind() {
        return None;
    }
    seam::before(Call::OpenProc).ok()?;
    let mut pids = Vec::new();
    for thread in fs::read_dir("/proc/self/task").ok()? {
        // Missing in a kernel without CONFIG_PROC_CHILDREN.
        let text = fs::read_to_string(thread.ok()?.path().join("children")).ok()?;
        for pid in text.split_ascii_whitespace() {
            pids.push(pid.parse().ok().filter(|pid| wait::is_child(*pid))?);
        }
    }
    (!pids.is_empty()).then_some(pids)
}

/// kill(2) of a child that is not reaped yet.
///
/// # Errors
/// EPERM: the child changed its credentials, and this process may not signal it.
fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    seam::before(Call::SignalChild)?;
    if !wait::is_child(pid) {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    // SAFETY: kill(2) has no preconditions. A child's pid is larger than 0, and so no group.
    cerr(unsafe { libc::kill(pid.cast_signed(), signal.number()) }).map(drop)
}

/// Sends SIGCONT to a process, if it is a child of this process.
pub fn wake(pid: u32) {
    let _ = signal(pid, Signal::CONT); // it may have been reaped
}

/// The process group of a child, if only descendants of this process can be in it: the group that `leader`
/// leads, or one of a session that began below this process. It is never the group of this process itself.
///
/// A group belongs to one session. A process gets into a session only by fork, and leaves it
/// only for a new one (setsid(2)).
fn own_group(child: u32, leader: u32) -> Option<u32> {
    // SAFETY: getpgid(2) has no preconditions.
    let group = unsafe { libc::getpgid(child.cast_signed()) };
    // SAFETY: getsid(2) has no preconditions.
    let session = unsafe { libc::getsid(child.cast_signed()) };
    // SAFETY: as above.
    let ours = unsafe { libc::getsid(0) };
    // SAFETY: getpgrp(2) has no preconditions.
    let our_group = unsafe { libc::getpgrp() };
    // 0: a group outside of this PID namespace. 1: kill(2) takes -1 for every process.
    let is_possible = group > 1 && group != our_group;
    let is_own = is_possible && (group.cast_unsigned() == leader || session > 1 && session != ours);
    is_own.then_some(group.cast_unsigned())
}

/// kill(2) of a process group. An unreaped child is in the group, so its number can't
/// belong to another group.
fn signal_group(group: u32, signal: Signal) {
    // SAFETY: kill(2) has no preconditions. `own_group` gave the group, so it is none of those that
    // kill(2) knows by other meanings.
    unsafe { libc::kill(-group.cast_signed(), signal.number()) }; // all of it may have exited
}

/// Whether a process is below this one, as far as that is known without proc(5). It is if it is a child, or
/// if it shares a group or session with a child, and only descendants of this process can be in that group or
/// session. `leader`: as for [`signal_all_below`].
#[must_use]
pub fn is_below(pid: u32, leader: u32) -> bool {
    let place = |pid: u32| {
        // SAFETY: getpgid(2) has no preconditions.
        let group = unsafe { libc::getpgid(pid.cast_signed()) };
        // SAFETY: getsid(2) has no preconditions.
        (group, unsafe { libc::getsid(pid.cast_signed()) })
    };
    let (group, session) = place(pid);
    let ours = place(std::process::id()).1;
    let is_together = |child: u32| {
        let (its_group, its_session) = place(child);
        own_group(child, leader).is_some_and(|own| own.cast_signed() == group && its_group == group)
            || its_session > 1 && its_session != ours && its_session == session
    };
    wait::is_child(pid) || group > 0 && own().into_iter().any(is_together)
}

/// Sends a signal once to each process below this one that can be found: to whole groups, and to the others
/// one by one. `leader`: the first process of the tree, which may have been reaped.
pub fn signal_all_below(leader: u32, number: Signal) {
    let children = own();
    let groups: BTreeSet<u32> = children.iter().filter_map(|child| own_group(*child, leader)).collect();
    for group in &groups {
        signal_group(*group, number);
    }
    let has_it = |pid: u32| {
        // SAFETY: getpgid(2) has no preconditions.
        let group = unsafe { libc::getpgid(pid.cast_signed()) };
        groups.contains(&group.cast_unsigned())
    };
    for child in children {
        if !has_it(child) {
            let _ = signal(child, number); // it changed its credentials; go on with the others
        }
        tree::each_below(child, |pid, process| {
            if !has_it(pid) {
                let _ = process.send(number); // as above
            }
        });
    }
}

/// The state while all children of this process are being killed, and the orphans that it adopts meanwhile.
/// The caller reaps, and reports each exit to [`Killing::was_reaped`].
#[derive(Debug)]
pub struct Killing {
    /// The first process of the tree. A search begins at its pid.
    leader: u32,
    spared: Vec<u32>,
    /// Killed, and not reaped yet.
    killed: BTreeSet<u32>,
    /// Could not be killed, and are not reaped yet.
    refused: BTreeSet<u32>,
    /// How many were reaped since the last look.
    reaped: usize,
    /// How often those that could not be killed were tried again.
    tries: u32,
    /// When the next look is due at the latest.
    due: Option<Instant>,
    /// Whether there is no list of children, so that pids must be tried.
    searches: bool,
}

impl Killing {
    /// Begins; [`Killing::go_on`] continues. The `spared` processes are not killed, nor is what is below them
    /// as long as it is not orphaned.
    #[must_use]
    pub fn new(leader: u32, spared: Vec<u32>) -> Self {
        Self {
            leader,
            spared,
            killed: BTreeSet::new(),
            refused: BTreeSet::new(),
            reaped: 0,
            tries: 0,
            due: Some(Instant::now()),
            searches: false,
        }
    }

    /// From now on, spares these processes.
    pub fn spare(&mut self, spared: Vec<u32>) {
        self.spared = spared;
    }

    /// Records that a child was reaped.
    pub fn was_reaped(&mut self, pid: u32) {
        self.killed.remove(&pid);
        self.refused.remove(&pid);
        self.reaped += 1;
        self.tries = 0;
        // A search is expensive: only if there is nothing else to wait for, or if the wait takes too long.
        let few = if self.searches { 0 } else { FEW };
        let waits = self.killed.len() > few && self.killed.len() > self.reaped;
        let patience = if self.searches { 100 * ORPHAN_SEARCH_DELAY } else { ORPHAN_SEARCH_DELAY };
        let due = Instant::now() + if waits { patience } else { Duration::ZERO };
        self.due = Some(self.due.map_or(due, |before| before.min(due)));
    }

    /// Looks for children and kills them, if that is due.
    pub fn go_on(&mut self) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.look();
        }
    }

    fn look(&mut self) {
        self.reaped = 0;
        let mut groups = BTreeSet::new();
        for pid in self.fresh() {
            // A spared process may be in the same group as others.
            if self.spared.is_empty()
                && let Some(group) = own_group(pid, self.leader).filter(|group| groups.insert(*group))
            {
                signal_group(group, Signal::KILL);
            }
            match signal(pid, Signal::KILL) {
                Ok(()) => {
                    self.refused.remove(&pid);
                    self.killed.insert(pid);
                }
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                Err(_) => {
                    self.refused.insert(pid);
                    // Its descendants stay below it, and this process may be allowed to kill them.
                    tree::each_below(pid, |_, process| {
                        let _ = process.send(Signal::KILL); // as above
                    });
                }
            }
        }
        let again = !self.refused.is_empty() && self.tries < TRIES;
        self.due = again.then(|| Instant::now() + ORPHAN_SEARCH_DELAY * (1 << self.tries));
        self.tries += u32::from(again);
    }

    /// Children that are not killed yet.
    fn fresh(&mut self) -> Vec<u32> {
        if !wait::has_children() {
            return Vec::new();
        }
        let is_fresh = |pid: &u32| !self.spared.contains(pid) && !self.killed.contains(pid);
        match listed() {
            Some(pids) => pids.into_iter().filter(is_fresh).collect(),
            None => {
                self.searches = true;
                search(self.leader, |pid| is_fresh(&pid) && wait::is_child(pid))
            }
        }
    }

    /// When [`Killing::go_on`] must be called again, even if nothing is reaped.
    #[must_use]
    pub fn next_look(&self) -> Option<Instant> {
        self.due
    }

    /// Whether everything that was found has exited.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.killed.is_empty() && self.refused.is_empty()
    }

    /// Whether this process is not permitted to kill any of the rest.
    fn is_powerless(&self) -> bool {
        self.killed.is_empty() && self.tries >= TRIES
    }
}

/// Tries pids upwards from `start`, then from the smallest one, in steps that double
/// until a step contains a match.
fn search(start: u32, is_wanted: impl Fn(u32) -> bool) -> Vec<u32> {
    let limit = pid_limit();
    let start = start.clamp(1, limit - 1);
    let (mut done, mut step) = (0, FIRST_SEARCH);
    while done < limit {
        let pids = (done..(done + step).min(limit)).map(|number| (start + number) % limit);
        let found: Vec<u32> = pids.filter(|pid| *pid > 0 && is_wanted(*pid)).collect();
        if !found.is_empty() {
            return found;
        }
        (done, step) = (done + step, step * 2);
    }
    Vec::new()
}

/// Kills and reaps all children of this process except `spared`, and all orphans that it adopts
/// meanwhile. All signals are blocked. Unless `stays`, the wait for processes that can't be killed,
/// or don't exit after SIGKILL, is limited.
pub fn kill_all_children(leader: u32, spared: Vec<u32>, stays: bool) {
    let mut killing = Killing::new(leader, spared);
    let mut progress = Instant::now();
    loop {
        loop {
            match wait::next_change() {
                Ok(Some(change)) => {
                    if change.exit_status().is_some() {
                        killing.was_reaped(change.pid);
                        progress = Instant::now();
                    }
                }
                Ok(None) => break,
                Err(_) => return, // ECHILD
            }
        }
        killing.go_on();
        if killing.is_over() && killing.next_look().is_none() && !stays {
            return; // only spared processes are left
        }
        if !stays && (killing.is_powerless() || progress.elapsed() >= STUCK) {
            return;
        }
        let stuck = (!stays).then(|| progress + STUCK);
        let until = [killing.next_look(), stuck].into_iter().flatten().min();
        wait_for_change(until);
    }
}

/// Waits until a child changes its state, or until this time. All signals are blocked.
fn wait_for_change(until: Option<Instant>) {
    let Some(until) = until else {
        wait::for_exit();
        return;
    };
    let left = until.saturating_duration_since(Instant::now());
    let mut signals = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the pointer is to a sigset_t, which the call initializes.
    unsafe { libc::sigemptyset(signals.as_mut_ptr()) };
    // SAFETY: as above; the signal exists.
    unsafe { libc::sigaddset(signals.as_mut_ptr(), libc::SIGCHLD) };
    let time = libc::timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
    // SAFETY: set and time live through the call; the null pointer means that no information is stored.
    // EAGAIN: the time is up. EINTR: the caller looks again.
    unsafe { libc::sigtimedwait(signals.as_ptr(), std::ptr::null_mut(), &raw const time) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_found_with_and_without_a_list() {
        // Contract: C7
        let mut child = Command::new("sleep").arg("infinity").spawn().unwrap();
        let pid = child.id();
        assert!(own().contains(&pid) && listed().unwrap().contains(&pid));
        let is_it = |candidate: u32| candidate == pid && wait::is_child(candidate);
        for start in [pid, pid - 1, pid + 1, 0, u32::MAX] {
            assert_eq!(search(start, is_it), [pid], "from {start}");
        }
        assert!(is_below(pid, pid) && !is_below(std::process::id(), pid) && !is_below(1, pid));
        for leader in [pid, std::process::id(), nix::unistd::getpgrp().as_raw().cast_unsigned()] {
            assert_eq!(own_group(pid, leader), None, "it is in the group of this process");
        }
        signal(pid, Signal::KILL).unwrap();
        child.wait().unwrap();
        assert!(search(pid, is_it).is_empty() && !own().contains(&pid));
        assert_eq!(signal(pid, Signal::KILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    }

    #[test]
    fn many_killed_processes_need_few_scans() {
        // Contract: C7
        let mut killing = Killing::new(1, Vec::new());
        killing.due = None;
        killing.killed.extend(1..=1000);
        let mut looks = 0;
        for pid in 1..=1000 {
            killing.was_reaped(pid);
            if killing.due.is_some_and(|due| due <= Instant::now() && killing.killed.len() > FEW) {
                (killing.reaped, killing.due) = (0, None);
                looks += 1;
            } else if killing.killed.len() > FEW {
                killing.due = None; // time does not pass in this test
            }
        }
        assert!((1..=4).contains(&looks), "{looks}");
        assert!(killing.is_over());
    }
}
