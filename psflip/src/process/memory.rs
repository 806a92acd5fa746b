//! How much memory the child's process tree uses.
//!
//! This is the PSS (proportional set size) of its processes, and what of them is in swap: a page that several
//! processes share, as the workers of a forking server do, counts once. The control group's `memory.current`
//! would be cheaper, but it is no measure of the child: psflip makes no group for each child, so it counts
//! the old child, psflip, its relay, and the page cache of files, which a new child would not reduce.

use std::fs;
use std::io;

use crate::sys::tree;

/// What a tree uses.
#[derive(Debug)]
pub struct Used {
    /// In bytes. If it is not more than the limit, it may be the sum of what each process has resident and in
    /// swap, which is never less than the PSS.
    pub bytes: u64,
    /// A process whose PSS psflip may not read; its private memory counts.
    pub unreadable: Option<Unreadable>,
}

/// Why the PSS of a process can't be read.
#[derive(Debug)]
pub struct Unreadable {
    /// Its pid.
    pub pid: u32,
    /// EACCES: it runs as another user, or is not dumpable (ptrace(2), PTRACE_MODE_READ_FSCREDS). ENOENT: the
    /// kernel has no `smaps_rollup`.
    pub error: io::Error,
}

/// What the processes below `root` use, without `root`. Processes that exit meanwhile don't count, nor do
/// those that proc(5) hides. Below `limit` in bytes, the cheap bound is enough: for the PSS the kernel walks
/// all pages of each process (about 20 ms a GB), under a lock of that process.
#[must_use]
pub fn of_tree(root: u32, limit: u64) -> Used {
    let mut used = Used { bytes: 0, unreadable: None };
    let all = tree::below(root);
    let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status"));
    for process in &all {
        let resident = status(process.pid()).map_or(0, |text| sum(&text, &["VmRSS:", "VmSwap:"]));
        used.bytes = used.bytes.saturating_add(resident);
    }
    if used.bytes <= limit {
        return used;
    }
    used.bytes = 0;
    for process in all {
        let pid = process.pid();
        let bytes = match fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) {
            Ok(text) => pss(&text),
            Err(error) => match status(pid) {
                Ok(text) => {
                    used.unreadable.get_or_insert(Unreadable { pid, error });
                    private(&text)
                }
                Err(_) => 0, // it has exited
            },
        };
        used.bytes = used.bytes.saturating_add(bytes);
    }
    used
}

/// From the text of `smaps_rollup` (proc_pid_smaps(5)).
fn pss(text: &str) -> u64 {
    sum(text, &["Pss:", "SwapPss:"])
}

/// From the text of `status` (proc_pid_status(5)), which every user may read.
fn private(text: &str) -> u64 {
    sum(text, &["RssAnon:", "VmSwap:"])
}

/// The sum of these fields, in bytes.
fn sum(text: &str, names: &[&str]) -> u64 {
    let field = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?;
        words.next().filter(|_| names.contains(&name))?.parse::<u64>().ok()
    };
    text.lines().filter_map(field).fold(0, |sum, kb| sum.saturating_add(kb.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_pages_and_swap_count_once() {
        // Contract: R2
        let rollup = "00400000-7ffd0000 ---p 00000000 00:00 0   [rollup]\nRss:   900 kB\nPss:   300 kB\nPss_Anon:  200 kB\nSwap:  90 kB\nSwapPss:  30 kB\n";
        assert_eq!(pss(rollup), 330 * 1024);
        let status =
            "Name:\tPss: 5\nVmRSS:\t900 kB\nRssAnon:\t  200 kB\nRssFile:\t 700 kB\nVmSwap:\t 40 kB\n";
        assert_eq!(private(status), 240 * 1024);
        assert_eq!(pss("Pss:\nSwapPss: x kB\n"), 0);
    }

    #[test]
    fn the_memory_of_a_tree_is_that_of_its_processes() {
        // Contract: R2
        let own = std::process::id();
        let mut child = std::process::Command::new("/bin/sleep").arg("1000").spawn().unwrap();
        let (used, bound) = (of_tree(own, 0), of_tree(own, u64::MAX));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(used.bytes >= 4096 && used.unreadable.is_none(), "{used:?}");
        assert!(bound.bytes >= used.bytes && bound.unreadable.is_none(), "{used:?} {bound:?}");
    }
}
