//! Processes as `/proc` shows them, safe against reused pids: proc(5).

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

/// How long an execve(2) may take on a busy machine.
const EXECVE: Duration = Duration::from_secs(5);

/// One process: its pid together with its start time, so that a reused pid is another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    pid: u32,
    /// Clock ticks since boot.
    starttime: u64,
}

/// What a process does, from the third field of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Runs or is about to.
    Running,
    /// Waits for something: the normal state of a service.
    Sleeping,
    /// Waits in the kernel and can't be interrupted.
    DiskSleep,
    /// Stopped by SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU.
    Stopped,
    /// Stopped by a debugger.
    Traced,
    /// Has ended; its parent hasn't taken note of it.
    Zombie,
    /// Has ended and is gone, or its pid is another process's now.
    Gone,
    /// Anything else that proc(5) lists.
    Other(char),
}

/// The fields of `/proc/PID/stat` that matter here, read at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Which process it was.
    pub process: Process,
    /// Its name: the executable's, at most 15 bytes.
    pub name: String,
    /// What it did.
    pub state: State,
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
    /// Of the process that has this pid now; zombies count.
    #[must_use]
    pub fn read(pid: u32) -> Option<Self> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(pid, &String::from_utf8_lossy(&text))
    }

    fn parse(pid: u32, text: &str) -> Option<Self> {
        // The name may contain blanks and parentheses: proc(5) says to look for the last one.
        let (front, rest) = text.rsplit_once(") ")?;
        let name = front.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            process: Process { pid, starttime: field(22)?.parse().ok()? },
            name,
            state: State::from_letter(field(3)?.chars().next()?),
            parent: field(4)?.parse().ok()?,
            group: field(5)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            tty: field(7)?.parse().ok()?,
            foreground: field(8)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
        })
    }
}

impl State {
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

    /// Neither gone nor a zombie.
    #[must_use]
    pub fn is_alive(self) -> bool {
        !matches!(self, Self::Zombie | Self::Gone)
    }
}

impl Process {
    /// The process that has this pid now, a zombie included.
    #[must_use]
    pub fn find(pid: u32) -> Option<Self> {
        Stat::read(pid).map(|stat| stat.process)
    }

    /// The process of the test itself.
    ///
    /// # Panics
    /// Without a `/proc`.
    #[must_use]
    pub fn current() -> Self {
        Self::find(std::process::id()).expect("/proc shows the test's own process")
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// When it started, in clock ticks since boot: equal for processes started in the same 10 ms.
    #[must_use]
    pub fn starttime(&self) -> u64 {
        self.starttime
    }

    /// What `/proc/PID/stat` says of it now; `None` when it is gone.
    #[must_use]
    pub fn stat(&self) -> Option<Stat> {
        Stat::read(self.pid).filter(|stat| stat.process == *self)
    }

    /// What it does now.
    #[must_use]
    pub fn state(&self) -> State {
        self.stat().map_or(State::Gone, |stat| stat.state)
    }

    /// Whether it is there and no zombie.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.state().is_alive()
    }

    /// Its parent; `None` when either is gone or outside of this pid namespace.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        self.stat().and_then(|stat| Self::find(stat.parent))
    }

    /// Its children, oldest first, zombies included.
    #[must_use]
    pub fn children(&self) -> Vec<Self> {
        let mut found: Vec<_> =
            all().into_iter().filter(|stat| stat.parent == self.pid).map(|stat| stat.process).collect();
        found.sort_by(by_age);
        found
    }

    /// The process itself and all its descendants, parents before their children, the children of each oldest first.
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

    /// Its environment at the start of its program. Empty for a zombie.
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

    /// One variable of [`Process::environ`], once the process shows its environment: in the middle of execve(2) it shows neither
    /// that nor its arguments.
    #[must_use]
    pub fn env(&self, name: impl AsRef<OsStr>) -> Option<OsString> {
        let name = name.as_ref();
        let shown = || {
            let environ = self.environ();
            let is_empty = environ.as_ref().is_ok_and(Vec::is_empty);
            // A zombie shows no executable, and a thread of the kernel has none.
            let executes =
                is_empty && self.exe().is_ok() && self.cmdline().is_ok_and(|arguments| arguments.is_empty());
            (!executes).then_some(environ)
        };
        let environ = look_for(EXECVE, shown)?.ok()?;
        environ.into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Its arguments, the program's name first; empty for a zombie.
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

    /// The executable it runs.
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

    /// Its open descriptors with what they refer to (`/dev/null`, `socket:[17]`, `anon_inode:[pidfd]`).
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
            // One that was closed between the two calls is not open.
            if let Ok(target) = fs::read_link(entry.path()) {
                found.insert(number, target.display().to_string());
            }
        }
        self.still(Ok(found))
    }

    /// The value of one line of `/proc/PID/status`, such as `SigIgn` or `VmRSS`, without the blanks around it.
    #[must_use]
    pub fn status_field(&self, name: &str) -> Option<String> {
        let text = self.read("status").ok()?;
        let text = String::from_utf8_lossy(&text);
        text.lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim().to_owned())
    }

    /// Sends it a signal; never to another process that got its pid.
    ///
    /// # Errors
    /// ESRCH: it is gone. EPERM: it belongs to another user.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        self.pidfd()?.signal(signal)
    }

    /// Sends a signal to the whole process group that it leads, as its own `kill(0, signal)` does.
    ///
    /// # Errors
    /// ESRCH: it is gone, or leads no group. EPERM: all of the group belongs to another user.
    pub fn signal_group(&self, signal: Signal) -> io::Result<()> {
        // Only for a moment between the look and the signal may the pid be another process's, and that would have to lead a group.
        self.still(Ok(()))?;
        let group = nix::unistd::Pid::from_raw(self.pid.cast_signed());
        nix::sys::signal::killpg(group, signal).map_err(io::Error::from)
    }

    /// A descriptor for exactly this process: opened first, its identity checked after.
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

    /// `result`, unless the pid is another process's by now.
    fn still<T>(&self, result: io::Result<T>) -> io::Result<T> {
        let value = result?;
        match Self::find(self.pid) {
            Some(found) if found == *self => Ok(value),
            _ => Err(io::Error::from_raw_os_error(nix::errno::Errno::ESRCH as i32)),
        }
    }
}

impl fmt::Display for Process {
    /// The pid.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.pid.fmt(f)
    }
}

/// Older ones first. Of two that were started in the same 10 ms, the one with the lower pid, unless the pids have begun anew in between:
/// that many are never started in this time.
fn by_age(one: &Process, other: &Process) -> Ordering {
    const TOO_MANY: u32 = 10_000;
    let by_pid = one.pid.cmp(&other.pid);
    let anew = one.starttime == other.starttime && one.pid.abs_diff(other.pid) > TOO_MANY;
    one.starttime.cmp(&other.starttime).then(if anew { by_pid.reverse() } else { by_pid })
}

/// Every process of this pid namespace at about this moment.
///
/// # Panics
/// Without a `/proc`.
#[must_use]
pub fn all() -> Vec<Stat> {
    let entries = fs::read_dir("/proc").expect("/proc can be listed");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(Stat::read)
        .collect()
}

/// The process `pid` and all its descendants; empty when there is none.
#[must_use]
pub fn tree(pid: u32) -> Vec<Process> {
    Process::find(pid).map(|process| process.tree()).unwrap_or_default()
}

/// The end of a process as wait(2) encodes it.
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
    fn a_name_with_blanks_and_parentheses_is_read_whole() {
        let text = "7 (a) b (c) S 1 2 3 34816 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 4 0 2200 0 0";
        // Fields from 3 on: state ppid pgrp session tty tpgid ...; 20 is the number of threads, 22 the start time.
        let stat = Stat::parse(7, text).unwrap();
        assert_eq!(
            (stat.name.as_str(), stat.state, stat.parent, stat.group),
            ("a) b (c", State::Sleeping, 1, 2)
        );
        assert_eq!((stat.session, stat.tty, stat.foreground), (3, 34816, 5));
    }

    #[test]
    fn another_start_time_is_another_process() {
        let me = Process::current();
        assert!(me.is_alive());
        let reused = Process { pid: me.pid, starttime: me.starttime + 1 };
        assert_eq!(reused.state(), State::Gone);
        assert!(reused.environ().is_err() && reused.pidfd().is_err());
    }

    #[test]
    fn the_oldest_come_first_also_when_the_pids_begin_anew() {
        let process = |(starttime, pid)| Process { pid, starttime };
        let mut found = [(7, 301), (8, 300), (7, 32_766), (7, 300), (6, 32_767), (7, 32_767)].map(process);
        found.sort_by(by_age);
        let sorted = [(6, 32_767), (7, 32_766), (7, 32_767), (7, 300), (7, 301), (8, 300)].map(process);
        assert_eq!(found, sorted);
    }

    #[test]
    fn nobody_is_waited_for_who_has_no_environment() {
        let begun = std::time::Instant::now();
        // Threads of the kernel among them, where they are to be seen.
        for stat in all() {
            let _ = stat.process.env("PATH"); // it may have ended
        }
        let mut zombie = std::process::Command::new("true").spawn().unwrap();
        crate::wait_until(crate::Deadline::default(), "a zombie", || {
            Stat::read(zombie.id()).filter(|stat| stat.state == State::Zombie).map(drop)
        });
        assert_eq!(Process::find(zombie.id()).unwrap().env("PATH"), None);
        zombie.wait().unwrap();
        assert!(begun.elapsed() < EXECVE, "somebody was waited for");
    }

    #[test]
    fn the_tree_of_the_test_holds_the_test_first() {
        assert_eq!(tree(std::process::id())[0], Process::current());
        assert!(tree(u32::MAX).is_empty());
    }
}
