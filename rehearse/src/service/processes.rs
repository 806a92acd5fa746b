//! What runs, and what it uses: proc(5).

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpgid};
use serde::Serialize;

use super::reaper;

/// How often the memory is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// A living process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Process {
    pub(crate) pid: i32,
    #[serde(skip)]
    pub(crate) parent: i32,
    /// Its command line, with spaces between the arguments.
    pub(crate) command: String,
}

/// All living processes that can be seen; zombies don't count.
pub(crate) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.flatten().filter_map(|entry| one(entry.file_name().to_str()?.parse().ok()?)).collect()
}

fn one(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may contain anything; the last parenthesis ends it.
    let (name, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ");
    let command = if command.is_empty() { name.split_once('(')?.1.to_owned() } else { command };
    Some(Process { pid, parent, command })
}

/// Processes and all their descendants.
pub(crate) fn tree(roots: &[i32]) -> Vec<Process> {
    let everything = all();
    let mut pids: HashSet<i32> = roots.iter().copied().collect();
    loop {
        let before = pids.len();
        pids.extend(
            everything.iter().filter(|one| pids.contains(&one.parent)).map(|one| one.pid).collect::<Vec<_>>(),
        );
        if pids.len() == before {
            return everything.into_iter().filter(|one| pids.contains(&one.pid)).collect();
        }
    }
}

/// Kills what is left of a process group of this process's descendants. A group with the same number that is none of
/// theirs is left alone: the leader may have exited long ago.
pub(crate) fn kill_group(leader: Pid) {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    let is_member = |one: &Process| getpgid(Some(Pid::from_raw(one.pid))) == Ok(leader);
    if tree(&[own]).iter().any(is_member) {
        reaper::signal(Pid::from_raw(-leader.as_raw()), Signal::SIGKILL);
    }
}

/// What some processes use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Usage {
    pub(crate) processes: usize,
    /// PSS: memory that several processes share counts once. In kB.
    pub(crate) memory_kb: u64,
    pub(crate) descriptors: usize,
}

/// What these processes use. What can't be read doesn't count.
pub(crate) fn usage(processes: &[Process]) -> Usage {
    let pss = |pid: i32| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    let descriptors = |pid: i32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    Usage {
        processes: processes.len(),
        memory_kb: processes.iter().filter_map(|one| pss(one.pid)).sum(),
        descriptors: processes.iter().map(|one| descriptors(one.pid)).sum(),
    }
}

/// Looks at the memory of a service every 50 ms, in a thread of its own.
#[derive(Debug)]
pub(crate) struct MemoryWatch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl MemoryWatch {
    /// The descendants of `root` count, without the trees of `without`.
    pub(crate) fn start(root: i32, without: Vec<i32>) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let own = Arc::clone(&stop);
        let look = move || {
            let mut most = 0;
            while !own.load(Ordering::Relaxed) {
                let others = tree(&without);
                let mut all = tree(&[root]);
                all.retain(|one| one.pid != root && !others.iter().any(|other| other.pid == one.pid));
                most = most.max(usage(&all).memory_kb);
                thread::park_timeout(LOOK);
            }
            most
        };
        Self { stop, thread: thread::Builder::new().name("memory".to_owned()).spawn(look).ok() }
    }

    /// The most that it has seen, in kB.
    pub(crate) fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take();
        thread.map_or(0, |thread| {
            thread.thread().unpark();
            thread.join().unwrap_or(0)
        })
    }
}
