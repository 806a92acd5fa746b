//! Which files other processes have open and locked, from proc(5).

use std::fs;
use std::io;
use std::path::Path;

/// The most descriptors of a process that are examined for a removed file.
const MOST_DESCRIPTORS: usize = 1000;

/// Whether proc(5) is there at all.
#[must_use]
pub fn proc_is_there() -> bool {
    Path::new("/proc/self/status").exists()
}

/// The effective uid of a process; `None`: proc(5) does not show it.
///
/// # Errors
/// ENOENT: there is no such process, or no proc(5).
pub fn effective_uid(pid: u32) -> io::Result<Option<u32>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok()))
}

/// Whether a process has a descriptor of this file that is open for writing, or whose mode is not known.
///
/// # Errors
/// EACCES: this process may not see the descriptors.
pub fn may_write(pid: u32, is_it: impl Fn(&fs::Metadata) -> bool) -> io::Result<bool> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd"))?;
    Ok(fds.flatten().any(|fd| {
        fs::metadata(fd.path()).is_ok_and(|there| is_it(&there))
            && is_writable(pid, &fd.file_name().to_string_lossy())
    }))
}

/// Whether this descriptor of a process is open for writing (proc_pid_fdinfo(5)).
fn is_writable(pid: u32, fd: &str) -> bool {
    let Ok(info) = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")) else { return true };
    let flags =
        info.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_none_or(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

/// The processes that have an exclusive flock(2) lock of some file.
#[must_use]
pub fn flock_writers() -> Vec<u32> {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    // `1: FLOCK  ADVISORY  WRITE 4711 00:1b:1234 0 EOF`, see proc_locks(5).
    let writers = locks.lines().filter_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let is_lock = words.next() == Some("FLOCK") && words.nth(1) == Some("WRITE");
        words.next().filter(|_| is_lock)?.parse().ok()
    });
    writers.collect()
}

/// Whether a process has a removed file of this path open.
#[must_use]
pub fn has_removed(pid: u32, path: &Path) -> bool {
    let mut removed = path.as_os_str().to_owned();
    removed.push(" (deleted)");
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    fds.take(MOST_DESCRIPTORS).any(|fd| fs::read_link(fd.path()).is_ok_and(|target| *target == *removed))
}
