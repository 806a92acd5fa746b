//! The cost of a start and of an upgrade (contract U9), as counts, which are the same on a busy host. Each
//! bound leaves some room. If a change exceeds it, `cargo xtask bench` shows what that costs in time.

use std::collections::BTreeSet;
use std::fs;

use testkit::{Deadline, Process, Sandbox, psflip_bin, wait_until};

use crate::anchor::{anchor_of, anchored};
use crate::service::{AT_ONCE, can_trace, psflip, stop, wait_idle};

/// System calls of a first psflip and its keeper until the pidfile exists: 270 when last counted, in a debug
/// build, where the standard library calls fcntl(2) before each close. It was 285 while the keeper gave back the
/// code of its start before it was idle. They include the dynamic linker's, and 62 calls that look at how each
/// signal was inherited. The latest additions are two process groups (C10), the warnings of a likely outage (L4),
/// the stack, and 6 calls that record where the program is (E3).
const START: usize = 281;
/// System calls of both psflips and both keepers, from that point until the pidfile names the new psflip:
/// 391 to 412, and 434 on a busy host.
const FLIP: usize = 455;
/// Heap of an idle psflip and of its keeper, in kB: 20 when last measured. It was 88 while each start built
/// the tree of all commands (36) and a registry of spans for the log (32).
const HEAP_KB: u64 = 48;
/// Code and constants of an idle anchor, psflip and keeper each, in kB: 128 when last measured, which is one
/// fault each for psflip and the C library. It was 340 to 530 while each waited in other code than that which
/// gives them back.
const CODE_KB: u64 = 256;

#[test]
fn a_start_and_an_upgrade_make_few_system_calls() {
    // Contract: U9, N8
    let sandbox = Sandbox::new();
    if !can_trace(&sandbox) {
        return;
    }
    let trace = sandbox.path("calls").display().to_string();
    let builder = psflip(&sandbox, &["/bin/sleep", "1000"], AT_ONCE);
    let psflip = builder.wrapper(["strace", "-D", "-f", "-qq", "-o", &trace]).start().wait_ready();
    psflip.flip();
    stop(&psflip);
    let counts = calls_until_renames(&sandbox.read("calls"));
    let [start, flip, ..] = counts[..] else { panic!("two renames of the pidfile: {counts:?}") };
    assert!((100..=START).contains(&start), "{start} system calls until the pidfile is there, not {START}");
    assert!((100..=FLIP).contains(&flip), "{flip} system calls from one pidfile to the next, not {FLIP}");
}

/// Page faults of an idle anchor in an upgrade: 111 to 116 when last counted, in a debug build. It was 400 to 490
/// while the anchor gave its code back after each message, and had to load it again for the next.
const ANCHOR_FAULTS: u64 = 230;

#[test]
fn an_anchor_keeps_its_code_until_it_is_idle_again() {
    // Contract: U9
    let sandbox = Sandbox::new();
    let psflip = anchored(psflip(&sandbox, &["/bin/sleep", "1000"], AT_ONCE)).start().wait_ready();
    let anchor = anchor_of(&psflip);
    for _ in 0..2 {
        wait_idle(anchor);
        let before = faults(anchor);
        let old = psflip.active();
        psflip.flip();
        psflip.wait_gone(old);
        let count = faults(anchor) - before;
        assert!(count <= ANCHOR_FAULTS, "{count} page faults of the anchor, not {ANCHOR_FAULTS}");
    }
    crate::anchor::stop(&psflip);
}

/// The page faults of a process so far that needed no reading from a disk: `minflt` of proc_pid_stat(5).
fn faults(process: Process) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    fields
        .split(' ')
        .nth(7)
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("no count in {stat}"))
}

/// The number of calls that psflip's own processes made before each rename of a file, counted from the rename
/// before.
fn calls_until_renames(trace: &str) -> Vec<usize> {
    let own = format!("execve(\"{}\"", psflip_bin().display());
    let (mut others, mut counts, mut count) = (BTreeSet::new(), Vec::new(), 0);
    for line in trace.lines() {
        // Counts `17 close(3) = 0`, but neither `17 <... close resumed>` nor `17 +++ exited with 0 +++`.
        let Some((pid, call)) = line.split_once(' ').map(|(pid, call)| (pid, call.trim_start())) else {
            continue;
        };
        if others.contains(pid) || !call.starts_with(|first: char| first.is_ascii_lowercase()) {
            continue;
        }
        count += 1;
        if call.starts_with("execve(") && !call.starts_with(&own) {
            others.insert(pid);
        } else if call.starts_with("rename") {
            counts.push(std::mem::take(&mut count));
        }
    }
    counts
}

#[test]
fn an_idle_psflip_uses_little_private_memory() {
    // Contract: U9
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["/bin/sleep", "1000"], AT_ONCE).start().wait_ready();
    for _ in 0..2 {
        let active = psflip.active();
        let keeper = psflip.child().parent().unwrap();
        for (who, process) in [("psflip", active), ("its keeper", keeper)] {
            let heap = heap_kb(process);
            assert!((8..=HEAP_KB).contains(&heap), "{who} has {heap} kB of heap, not {HEAP_KB}");
        }
        psflip.flip();
    }
    stop(&psflip);
}

#[test]
fn idle_processes_have_next_to_no_code_in_memory() {
    // Contract: U9
    let sandbox = Sandbox::new();
    let psflip = anchored(psflip(&sandbox, &["/bin/sleep", "1000"], AT_ONCE)).start().wait_ready();
    for _ in 0..2 {
        let (active, keeper) = (psflip.active(), psflip.child().parent().unwrap());
        for process in [psflip.program().first(), active, keeper] {
            wait_until(
                Deadline::default(),
                format!("process {process} to give back its code, all but {CODE_KB} kB"),
                || (code_kb(process) <= CODE_KB).then_some(()),
            );
        }
        psflip.flip();
    }
    crate::anchor::stop(&psflip);
}

/// The code and constants of a process that are in memory, in kB: its mappings of files that it can't write to
/// (proc_pid_smaps(5)), without what the dynamic linker has filled in, which has been written to.
fn code_kb(process: Process) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let (mut is_code, mut sum) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        match (words.next().unwrap_or_default(), words.next().unwrap_or_default()) {
            (range, access) if range.contains('-') && access.starts_with('r') => {
                is_code = !access.contains('w') && line.contains('/');
            }
            ("Private_Clean:" | "Shared_Clean:", size) if is_code => sum += size.parse::<u64>().unwrap(),
            _ => {}
        }
    }
    sum
}

/// The heap of a process in kB: proc_pid_smaps(5).
fn heap_kb(process: Process) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let heap = maps.split_once("[heap]\n").map_or("", |(_, rest)| rest);
    let line = heap.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_else(|_| panic!("no heap in {maps}"))
}
