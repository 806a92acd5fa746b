//! Processes as proc(5) shows them, safe against reused pids.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::pidfd::PidFd;
use crate::wait::look_for;

/// How long an execve(2) may take on a busy host.
const EXECVE: Duration = Duration::from_secs(5);

/// One process, identified by its pid and start time, so that a reused pid is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    pid: u32,
    /// The start time in clock ticks since boot.
    starttime: u64,
}

/// The state of a process: the third field of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// Running or runnable.
    Running,
    /// Sleeping: the normal state of an idle service.
    Sleeping,
    /// In an uninterruptible wait in the kernel.
    DiskSleep,
    /// Stopped by SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU.
    Stopped,
    /// Stopped by a debugger.
    Traced,
    /// Exited, and not yet reaped by its parent.
    Zombie,
    /// Exited and reaped, or the pid is another process's now.
    Gone,
    /// Any other state that proc(5) lists.
    Other(char),
}

/// The relevant fields of `/proc/PID/stat`, read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The process.
    pub process: Process,
    /// The name of its executable, at most 15 bytes.
    pub name: String,
    /// Its state.
    pub state: ProcessState,
    /// Its parent's pid; 0 for none.
    pub parent: u32,
    /// Its process group.
    pub group: u32,
    /// Its session.
    pub session: u32,
    /// The device number of its controlling terminal; 0 for none.
    pub tty: i32,
    /// The foreground process group of its terminal; -1 for none.
    pub foreground: i32,
    /// The number of its threads.
    pub threads: u32,
}

impl Stat {
    /// Of the process that has this pid now, including a zombie.
    #[must_use]
    pub fn read(pid: u32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(pid, &String::from_utf8_lossy(&text))
    }

    fn parse(pid: u32, text: &str) -> Option<Self> {
        // The name may contain blanks and parentheses, so search for the last one.
        let (front, rest) = text.rsplit_once(") ")?;
        let name = front.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            process: Process { pid, starttime: field(22)?.parse().ok()? },
            name,
            state: ProcessState::from_letter(field(3)?.chars().next()?),
            parent: field(4)?.parse().ok()?,
            group: field(5)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            tty: field(7)?.parse().ok()?,
            foreground: field(8)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
        })
    }
}

impl ProcessState {
    fn from_letter(letter: char) -> Self {
        match letter {
            'R' => Self::Running,
            'S' | 'I' => Self::Sleeping,
            'D' => Self::DiskSleep,
            'T' => Self::Stopped,
            't' => Self::Traced,
            'Z' => Self::Zombie,
            'X' | 'x' => Self::Gone,
            other => Self::Other(other),
        }
    }

    /// Whether the process had not exited: neither gone nor a zombie.
    #[must_use]
    pub fn is_alive(self) -> bool {
        !matches!(self, Self::Zombie | Self::Gone)
    }
}

impl Process {
    /// The process that has this pid now, including a zombie.
    #[must_use]
    pub fn find(pid: u32) -> Option<Self> {
        Stat::read(pid).map(|stat| stat.process)
    }

    /// The test's own process.
    ///
    /// # Panics
    /// If `/proc` isn't mounted.
    #[must_use]
    pub fn current() -> Self {
        Self::find(std::process::id()).expect("/proc shows the test's own process")
    }

    /// The pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The start time in clock ticks since boot; equal for processes that started within the same 10 ms.
    #[must_use]
    pub fn starttime(&self) -> u64 {
        self.starttime
    }

    /// Its entry in `/proc/PID/stat`; `None` if it is gone.
    #[must_use]
    pub fn stat(&self) -> Option<Stat> {
        Stat::read(self.pid).filter(|stat| stat.process == *self)
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> ProcessState {
        self.stat().map_or(ProcessState::Gone, |stat| stat.state)
    }

    /// Whether it has not exited: neither gone nor a zombie.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.state().is_alive()
    }

    /// Its parent; `None` if either is gone, or the parent is outside of this PID namespace.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.stat().and_then(|stat| Self::find(stat.parent))
    }

    /// Its children, oldest first, including zombies.
    #[must_use]
    pub fn children(&self) -> Vec<Self> {
        let mut found: Vec<_> =
            all().into_iter().filter(|stat| stat.parent == self.pid).map(|stat| stat.process).collect();
        found.sort_by(by_age);
        found
    }

    /// The process and all its descendants: parents before their children, siblings oldest first.
    #[must_use]
    pub fn tree(&self) -> Vec<Self> {
        let mut everything = all();
        everything.sort_by(|one, other| by_age(&one.process, &other.process));
        let mut found = vec![*self];
        let mut next = 0;
        while next < found.len() {
            let parent = found[next].pid;
            found.extend(everything.iter().filter(|stat| stat.parent == parent).map(|stat| stat.process));
            next += 1;
        }
        found
    }

    /// Its environment at the last execve(2). Empty for a zombie.
    ///
    /// # Errors
    /// It is gone, or belongs to another user.
    pub fn environ(&self) -> io::Result<Vec<(OsString, OsString)>> {
        let text = self.read("environ")?;
        let mut found = Vec::new();
        for entry in text.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()) {
            let end = entry.iter().position(|byte| *byte == b'=').unwrap_or(entry.len());
            let value = entry.get(end + 1..).unwrap_or_default();
            found.push((OsString::from_vec(entry[..end].to_vec()), OsString::from_vec(value.to_vec())));
        }
        Ok(found)
    }

    /// A variable of [`Process::environ`]. Waits while the process is in the middle of execve(2), since it
    /// shows neither environment nor arguments then.
    #[must_use]
    pub fn env(&self, name: impl AsRef<OsStr>) -> Option<OsString> {
        let name = name.as_ref();
        let shown = || {
            let environ = self.environ();
            let is_empty = environ.as_ref().is_ok_and(Vec::is_empty);
            // A zombie shows no executable, and a kernel thread has none.
            let executes =
                is_empty && self.exe().is_ok() && self.cmdline().is_ok_and(|arguments| arguments.is_empty());
            (!executes).then_some(environ)
        };
        let environ = look_for(EXECVE, shown)?.ok()?;
        environ.into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Its arguments, starting with the program's name; empty for a zombie.
    ///
    /// # Errors
    /// It is gone.
    pub fn cmdline(&self) -> io::Result<Vec<String>> {
        let text = self.read("cmdline")?;
        let text = text.strip_suffix(b"\0").unwrap_or(&text);
        if text.is_empty() {
            return Ok(Vec::new());
        }
        Ok(text.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect())
    }

    /// Its executable.
    ///
    /// # Errors
    /// It is gone, a zombie, or belongs to another user.
    pub fn exe(&self) -> io::Result<PathBuf> {
        self.still(fs::read_link(self.path("exe")))
    }

    /// Its working directory.
    ///
    /// # Errors
    /// It is gone, a zombie, or belongs to another user.
    pub fn cwd(&self) -> io::Result<PathBuf> {
        self.still(fs::read_link(self.path("cwd")))
    }

    /// Its open descriptors, and what each refers to (`/dev/null`, `socket:[17]`, `anon_inode:[pidfd]`).
    ///
    /// # Errors
    /// It is gone, a zombie, or belongs to another user.
    pub fn open_fds(&self) -> io::Result<BTreeMap<i32, String>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(self.path("fd"))? {
            let entry = entry?;
            let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // A descriptor that was closed since readdir(3) is not open.
            if let Ok(target) = fs::read_link(entry.path()) {
                found.insert(number, target.display().to_string());
            }
        }
        self.still(Ok(found))
    }

    /// The value of a line of `/proc/PID/status`, such as `SigIgn` or `VmRSS`, without surrounding blanks.
    #[must_use]
    pub fn status_field(&self, name: &str) -> Option<String> {
        let text = self.read("status").ok()?;
        let text = String::from_utf8_lossy(&text);
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim().to_owned())
    }

    /// Sends a signal to this process, never to another one that has got its pid.
    ///
    /// # Errors
    /// ESRCH: it is gone. EPERM: it belongs to another user.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.pidfd()?.signal(signal)
    }

    /// Sends a signal to the process group that it leads, as its own `kill(0, signal)` would.
    ///
    /// # Errors
    /// ESRCH: it is gone, or leads no group. EPERM: the whole group belongs to another user.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        // A group can't be signalled through a pidfd. The remaining race is short, and takes a process with
        // the same pid that leads a group.
        self.still(Ok(()))?;
        let group = nix::unistd::Pid::from_raw(self.pid.cast_signed());
        nix::sys::signal::killpg(group, signal).map_err(io::Error::from)
    }

    /// A pidfd of exactly this process: opens it, then checks that the pid still is this process.
    pub(crate) fn pidfd(&self) -> io::Result<PidFd> {
        let fd = PidFd::open(self.pid)?;
        self.still(Ok(fd))
    }

    fn path(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.pid))
    }

    fn read(&self, file: &str) -> io::Result<Vec<u8>> {
        self.still(fs::read(self.path(file)))
    }

    /// Returns `result`, or ESRCH if the pid is another process's by now.
    fn still<T>(&self, result: io::Result<T>) -> io::Result<T> {
        let value = result?;
        match Self::find(self.pid) {
            Some(found) if found == *self => Ok(value),
            _ => Err(io::Error::from_raw_os_error(nix::errno::Errno::ESRCH as i32)),
        }
    }
}

impl fmt::Display for Process {
    /// Shows the pid.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pid.fmt(f)
    }
}

/// Orders by age, oldest first; processes that started within the same 10 ms by pid. A larger difference of
/// pids means that the numbers wrapped around, since so many processes never start within 10 ms.
fn by_age(one: &Process, other: &Process) -> Ordering {
    const TOO_MANY: u32 = 10_000;
    let by_pid = one.pid.cmp(&other.pid);
    let anew = one.starttime == other.starttime && one.pid.abs_diff(other.pid) > TOO_MANY;
    one.starttime.cmp(&other.starttime).then(if anew { by_pid.reverse() } else { by_pid })
}

/// Every process of this PID namespace, at about this moment.
///
/// # Panics
/// If `/proc` isn't mounted.
#[must_use]
pub fn all() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").expect("/proc can be listed");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Stat::read)
        .collect()
}

/// The process `pid` and all its descendants; empty if there is no such process.
#[must_use]
pub fn tree(pid: u32) -> Vec<Process> {
    Process::find(pid).map(|process| process.tree()).unwrap_or_default()
}

/// Converts a status of waitid(2) into the encoding of wait(2).
pub(crate) fn exit_status(end: &rustix::process::WaitIdStatus) -> std::process::ExitStatus {
    let core = if end.dumped() { 0x80 } else { 0 };
    let raw = end
        .terminating_signal()
        .map_or_else(|| (end.exit_status().unwrap_or(0) & 0xff) << 8, |signal| signal | core);
    std::process::ExitStatus::from_raw(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_parentheses_is_read_completely() {
        let text = "7 (a) b (c) S 1 2 3 34816 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 4 0 2200 0 0";
        // Fields from 3 on: state ppid pgrp session tty tpgid ...; 20 is the number of threads, 22 the start time.
        let stat = Stat::parse(7, text).unwrap();
        assert_eq!(
            (stat.name.as_str(), stat.state, stat.parent, stat.group),
            ("a) b (c", ProcessState::Sleeping, 1, 2)
        );
        assert_eq!((stat.session, stat.tty, stat.foreground), (3, 34816, 5));
    }

    #[test]
    fn another_start_time_is_another_process() {
        let me = Process::current();
        assert!(me.is_alive());
        let reused = Process { pid: me.pid, starttime: me.starttime + 1 };
        assert_eq!(reused.state(), ProcessState::Gone);
        assert!(reused.environ().is_err() && reused.pidfd().is_err());
    }

    #[test]
    fn the_oldest_process_comes_first_also_when_pids_wrap_around() {
        let process = |(starttime, pid)| Process { pid, starttime };
        let mut found = [(7, 301), (8, 300), (7, 32_766), (7, 300), (6, 32_767), (7, 32_767)].map(process);
        found.sort_by(by_age);
        let sorted = [(6, 32_767), (7, 32_766), (7, 32_767), (7, 300), (7, 301), (8, 300)].map(process);
        assert_eq!(found, sorted);
    }

    #[test]
    fn processes_without_an_environment_are_not_waited_for() {
        let begun = std::time::Instant::now();
        // Includes kernel threads, where they are visible.
        for stat in all() {
            let _ = stat.process.env("PATH"); // an error means that it has exited
        }
        let mut zombie = std::process::Command::new("true").spawn().unwrap();
        crate::wait_until(crate::Deadline::default(), "a zombie", || {
            Stat::read(zombie.id()).filter(|stat| stat.state == ProcessState::Zombie).map(drop)
        });
        assert_eq!(Process::find(zombie.id()).unwrap().env("PATH"), None);
        zombie.wait().unwrap();
        assert!(begun.elapsed() < EXECVE, "it waited for a process");
    }

    #[test]
    fn the_tree_of_the_test_holds_the_test_first() {
        assert_eq!(tree(std::process::id())[0], Process::current());
        assert!(tree(u32::MAX).is_empty());
    }
}
