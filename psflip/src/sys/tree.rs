//! The processes below a process, from proc(5).

use std::collections::VecDeque;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use super::pidfd::PidFd;
use super::seam::{self, Call};
use crate::exit_status::ExitStatus;
use crate::signal::Signal;

/// Set if /proc has nothing that can be used.
static IS_BLIND: AtomicBool = AtomicBool::new(false);

/// Checks whether proc(5) is mounted on /proc and shows this process's PID namespace. If not, this process
/// and its forks don't read it any more: its pids would belong to other processes.
#[must_use]
pub fn look_at_proc() -> bool {
    let own = std::process::id().to_string();
    let is_ours = fs::read_link("/proc/self").is_ok_and(|link| link.as_os_str() == own.as_str());
    IS_BLIND.store(!is_ours, Ordering::Relaxed);
    is_ours
}

/// The last result of [`look_at_proc`].
pub(super) fn is_blind() -> bool {
    IS_BLIND.load(Ordering::Relaxed)
}

/// Calls `act` for each process below `root`, without `root`, as far as proc(5) shows them.
/// Parents come before their children.
///
/// A tree may change while it is read. A caller that must get all of it repeats this until nothing is left.
pub fn each_below(root: u32, mut act: impl FnMut(u32, &PidFd)) {
    let own = std::process::id();
    let mut queue = VecDeque::from([root]);
    while let Some(parent) = queue.pop_front() {
        for child in children(parent) {
            // The pid may have been reused since it was listed, so check that the
            // process is still below `root`.
            let Ok(process) = PidFd::open(child) else { continue };
            // Its parent may have exited meanwhile, and this process may be the subreaper.
            match parent_of(child) {
                Some(now) if now == parent || now == own => {}
                _ => continue,
            }
            // Before its own children are read: a dead parent forks no more.
            act(child, &process);
            queue.push_back(child);
        }
    }
}

/// The children of a process, of all its threads. Empty if the process is gone.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    if is_blind() || seam::before(Call::OpenProc).is_err() {
        return Vec::new();
    }
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut children = Vec::new();
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(text) => {
                children.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
            }
            // A kernel without CONFIG_PROC_CHILDREN, or a thread that has just exited.
            Err(_) if thread.path().exists() => return children_by_search(pid),
            Err(_) => {}
        }
    }
    children
}

/// As [`children`], by reading every process of /proc.
fn children_by_search(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|candidate| parent_of(*candidate) == Some(pid))
        .collect()
}

/// The fields of /proc/PID/stat after the name, which is in parentheses and may contain any character.
fn stat(pid: u32) -> Option<String> {
    if is_blind() {
        return None;
    }
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.iter().rposition(|byte| *byte == b')')? + 1;
    String::from_utf8(stat.get(after..)?.to_vec()).ok()
}

/// The parent of a process; `None` if the process is gone.
#[must_use]
pub fn parent_of(pid: u32) -> Option<u32> {
    parent_in(&stat(pid)?)
}

/// The parent in the fields of [`stat`].
///
/// For a process that is just being reaped, the kernel shows 0, -1 and -1 as parent, group and
/// session (do_task_stat in Linux' fs/proc/array.c). A parent of 0 alone means a parent
/// outside of this PID namespace, or none.
fn parent_in(stat: &str) -> Option<u32> {
    let mut fields = stat.split_ascii_whitespace().skip(1);
    let (parent, group) = (fields.next()?, fields.next()?);
    if group == "-1" { None } else { parent.parse().ok() }
}

/// A process that can be recognized later, when its pid may belong to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pid: u32,
    /// Clock ticks since boot, from /proc.
    started: u64,
}

impl Known {
    /// Its pid.
    #[must_use]
    pub fn pid(self) -> u32 {
        self.pid
    }
}

/// All processes below a process at about this moment.
#[must_use]
pub fn below(root: u32) -> Vec<Known> {
    let mut found: Vec<Known> = Vec::new();
    let mut queue = VecDeque::from([root]);
    while let Some(parent) = queue.pop_front() {
        for pid in children(parent) {
            if let Some(started) = start_of(pid).filter(|_| found.iter().all(|known| known.pid != pid)) {
                found.push(Known { pid, started });
                queue.push_back(pid);
            }
        }
    }
    found
}

/// The running processes below `root`, for people: each with its pid, and its name unless proc(5) hides it.
/// The processes in `except` are left out, with everything below them.
#[must_use]
pub fn described_below(root: u32, except: &[u32]) -> Vec<String> {
    let mut found = Vec::new();
    let mut queue = VecDeque::from([root]);
    while let Some(parent) = queue.pop_front() {
        for pid in children(parent).into_iter().filter(|pid| !except.contains(pid)) {
            queue.push_back(pid);
            match (is_zombie(pid), name_of(pid)) {
                (true, _) => {}
                (false, Some(name)) => found.push(format!("{name} (pid {pid})")),
                (false, None) => found.push(format!("pid {pid}")),
            }
        }
    }
    found
}

/// The exit status of a process that has exited and was not reaped yet; `None`: it was reaped, or still runs.
/// If this process may not trace it (ptrace(2)), the kernel shows exit code 0.
#[must_use]
pub fn zombie_status(pid: u32) -> Option<ExitStatus> {
    let stat = stat(pid)?;
    let mut fields = stat.split_ascii_whitespace();
    let code = fields.clone().nth(49)?.parse().ok()?;
    (fields.next() == Some("Z")).then(|| ExitStatus::from_wait_status(code))
}

fn is_zombie(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| stat.trim_start().starts_with(['Z', 'X']))
}

/// The name of a process, as ps(1) shows it; `None`: proc(5) does not show it.
#[must_use]
pub fn name_of(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Kills those of these processes that still exist, and everything below them, whatever
/// their parent is by now.
pub fn kill_known(known: &[Known]) {
    for Known { pid, started } in known {
        // Open first, check afterwards: the descriptor can't become another process's.
        let Ok(process) = PidFd::open(*pid) else { continue };
        if start_of(*pid) == Some(*started) {
            each_below(*pid, |_, below| {
                let _ = below.send(Signal::KILL); // it may have exited
            });
            let _ = process.send(Signal::KILL); // it may have exited
        }
    }
}

fn start_of(pid: u32) -> Option<u64> {
    stat(pid)?.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Whether a process is somewhere below another one. False if it is gone.
#[must_use]
pub fn is_below(pid: u32, ancestor: u32) -> bool {
    std::iter::successors(parent_of(pid), |pid| parent_of(*pid))
        .take_while(|pid| *pid != 0)
        .any(|pid| pid == ancestor)
}

/// The position of a process relative to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Membership {
    /// Somewhere below the other process.
    Below,
    /// Not below it.
    Elsewhere,
    /// The process has exited and was reaped.
    Gone,
}

/// The position of a process relative to `ancestor`.
#[must_use]
pub fn membership(pid: u32, ancestor: u32) -> Membership {
    let mut current = pid;
    loop {
        match parent_of(current) {
            Some(parent) if parent == ancestor => return Membership::Below,
            Some(0) => return Membership::Elsewhere,
            Some(parent) => current = parent,
            None if current == pid => return Membership::Gone,
            // This ancestor has just exited, so a process below it has a new parent: start again. This can't
            // go on for ever, because each time a process has exited.
            None => current = pid,
        }
    }
}

/// Whether a process is stopped by a signal or a tracer.
#[must_use]
pub fn is_stopped(pid: u32) -> bool {
    stat(pid).is_some_and(|stat| {
        stat.split_ascii_whitespace().next().is_some_and(|state| state.eq_ignore_ascii_case("t"))
    })
}

/// Whether a signal has come to a process that does not block it, and the process has not acted on it yet,
/// for example because it is stopped. False if proc(5) does not show that.
#[must_use]
pub fn is_pending(pid: u32, signal: Signal) -> bool {
    if is_blind() {
        return false;
    }
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    let has = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let bits = line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default();
        bits & (1 << (signal.number() - 1)) != 0
    };
    (has("SigPnd:") || has("ShdPnd:")) && !has("SigBlk:")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn both_methods_find_the_same_children() {
        let mut child = Command::new("sleep").arg("infinity").spawn().unwrap();
        let own = std::process::id();
        assert!(children(own).contains(&child.id()));
        assert!(children_by_search(own).contains(&child.id()));
        assert_eq!(parent_of(child.id()), Some(own));
        assert!(is_below(child.id(), own) && is_below(child.id(), std::os::unix::process::parent_id()));
        assert!(!is_below(own, child.id()) && !is_below(own, own));
        assert!(described_below(own, &[]).contains(&format!("sleep (pid {})", child.id())));
        assert!(!described_below(own, &[child.id()]).iter().any(|text| text.contains("sleep")));
        assert_eq!(
            (membership(child.id(), own), membership(own, child.id())),
            (Membership::Below, Membership::Elsewhere)
        );
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(membership(child.id(), own), Membership::Gone);
        assert!(!children(own).contains(&child.id()));
    }

    #[test]
    fn a_process_that_is_being_reaped_is_gone_and_not_elsewhere() {
        // Read while another thread reaped `true`.
        assert_eq!(parent_in(" X 0 -1 -1 0 -1 4227084 50 0 0 0 0 0 0 0 20 0"), None);
        assert_eq!(parent_in(" Z 0 -1 -1 0 -1 4227084 50 0 0 0 0 0 0 0 20 0"), None);
        // An init, and an unreaped zombie.
        assert_eq!(parent_in(" S 0 1 1 0 -1 4194560 26310 0 0 0 0 0 0 0 20 0"), Some(0));
        assert_eq!(parent_in(" Z 77 5 5 0 -1 4227084 50 0 0 0 0 0 0 0 20 0"), Some(77));
    }

    /// The same with the real kernel, where one read in a few hundred sees it.
    #[test]
    fn a_process_that_exits_during_the_scan_is_not_elsewhere() {
        let own = std::process::id();
        for _ in 0..200 {
            let mut child = Command::new("true").spawn().unwrap();
            let pid = child.id();
            let reaper = std::thread::spawn(move || child.wait());
            while !reaper.is_finished() {
                assert_ne!(membership(pid, own), Membership::Elsewhere);
            }
            reaper.join().unwrap().unwrap();
        }
    }

    #[test]
    fn a_signal_is_pending_in_a_stopped_process_until_it_is_continued() {
        let mut child = Command::new("sleep").arg("infinity").spawn().unwrap();
        let process = PidFd::open(child.id()).unwrap();
        process.send(Signal::STOP).unwrap();
        while !is_stopped(child.id()) {}
        assert!(!is_pending(child.id(), Signal::TSTP));
        process.send(Signal::TSTP).unwrap();
        assert!(is_pending(child.id(), Signal::TSTP) && !is_pending(child.id(), Signal::HUP));
        process.send(Signal::CONT).unwrap();
        assert!(!is_pending(child.id(), Signal::TSTP));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_zombie_shows_its_exit_status() {
        for (script, end) in
            [("exit 7", ExitStatus::Exited(7)), ("kill -9 $$", ExitStatus::Killed(Signal::KILL))]
        {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            while !is_zombie(child.id()) {}
            assert_eq!(zombie_status(child.id()), Some(end));
            child.wait().unwrap();
            assert_eq!(zombie_status(child.id()), None);
        }
        assert_eq!(zombie_status(std::process::id()), None);
    }

    #[test]
    fn an_exited_process_has_no_children() {
        let gone = i32::MAX.cast_unsigned();
        assert!(children(gone).is_empty());
        assert_eq!(parent_of(gone), None);
        assert!(!is_stopped(gone) && !is_pending(gone, Signal::TSTP));
    }
}
