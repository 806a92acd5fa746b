//! What a start and a flip cost (contract U9), by counts: they are the same on a busy machine, as times are not. A bound has room for what
//! is added on purpose; who exceeds it has added more than a feature's own share, and finds out by `cargo xtask bench` what that takes.

use std::collections::BTreeSet;
use std::fs;

use testkit::{Process, Sandbox, psflip_bin};

use crate::service::{AT_ONCE, can_trace, psflip, stop};

/// System calls of a first psflip and its keeper until the pidfile is there: 265 when this was last counted, in a debug build, where the
/// standard library asks fcntl(2) before each close. The dynamic linker's are among them, and 62 that look at how each signal was
/// inherited. Of late came what the kernel can do (C6), two process groups (C10), what would mean an outage (L4), and the stack.
const START: usize = 285;
/// System calls of both psflips and both keepers from there until the pidfile names the new one: 374.
const FLIP: usize = 420;
/// What psflip, and its keeper, have of the heap when they are idle, in kB: 20 when this was written. It was 88 when each start made the
/// tree of all commands (36) and a registry of spans for the log (32).
const HEAP_KB: u64 = 48;

#[test]
fn a_start_and_a_flip_make_few_system_calls() {
    // Contract: U9
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

/// How many calls psflip's own processes made until each rename of a file, the one before excluded.
fn calls_until_renames(trace: &str) -> Vec<usize> {
    let own = format!("execve(\"{}\"", psflip_bin().display());
    let (mut others, mut counts, mut count) = (BTreeSet::new(), Vec::new(), 0);
    for line in trace.lines() {
        // `17 close(3) = 0`, but also `17 <... close resumed>` and `17 +++ exited with 0 +++`.
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
fn an_idle_psflip_has_little_memory_of_its_own() {
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

/// How much of its heap a process uses: proc_pid_smaps(5).
fn heap_kb(process: Process) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{process}/smaps")).unwrap();
    let heap = maps.split_once("[heap]\n").map_or("", |(_, rest)| rest);
    let line = heap.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or_else(|_| panic!("no heap in {maps}"))
}
