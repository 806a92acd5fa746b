//! The control group of a machine: the root of all groups that its systemd sees (cgroups(7),
//! cgroup_namespaces(7)).
//!
//! If the host's root group were its root, systemd would move every process of the host.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::Process;
use crate::wait::look_for;

/// The prefix of every machine's group; the supervisor's pid and start time follow.
const PREFIX: &str = "testkit-systemd-";

/// How long the processes of a group may take to exit after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// A control group (version 2) of one machine.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

/// The mount point of cgroup version 2, whether version 1 is mounted too or not.
///
/// # Errors
/// Version 2 isn't mounted.
pub fn hierarchy() -> Result<PathBuf, String> {
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let found = places.into_iter().find(|place| place.join("cgroup.procs").exists());
    found.ok_or_else(|| "no cgroup2 is mounted on `/sys/fs/cgroup` or `/sys/fs/cgroup/unified`".into())
}

impl Cgroup {
    /// Creates a group for the calling process, and removes those of killed supervisors.
    ///
    /// # Errors
    /// It can't be created: not root, or the file system is mounted read-only.
    pub fn make() -> Result<Self, String> {
        let hierarchy = hierarchy()?;
        sweep(&hierarchy);
        let own = Process::current();
        let path = hierarchy.join(format!("{PREFIX}{}-{}", own.pid(), own.starttime()));
        fs::create_dir(&path)
            .map_err(|error| format!("control group `{}` can't be made: {error}", path.display()))?;
        Ok(Self { path })
    }

    /// The path of its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Kills all processes in it and below it, and removes it.
    ///
    /// # Errors
    /// A process doesn't exit, even on SIGKILL.
    pub fn remove(&self) -> Result<(), String> {
        let gone = || {
            kill(&self.path);
            remove_below(&self.path);
            (!self.path.exists()).then_some(())
        };
        look_for(KILL_TIMEOUT, gone).ok_or_else(|| {
            let left: Vec<u32> = members(&self.path);
            format!("control group `{}` can't be removed; left in it: {left:?}", self.path.display())
        })
    }
}

/// The pids, as the host sees them, of a group and all groups below it. `None` if there is no such group.
#[must_use]
pub fn members(group: &Path) -> Vec<u32> {
    let own = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<u32> = own.lines().filter_map(|line| line.parse().ok()).collect();
    pids.extend(below(group).iter().flat_map(|path| members(path)));
    pids
}

fn below(group: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Kills by one write to `cgroup.kill` where the kernel has it (since Linux 5.14), else one by one. The next
/// look finds processes that were missed.
fn kill(group: &Path) {
    if fs::write(group.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for process in members(group).into_iter().filter_map(Process::find) {
        // An error means that it has exited since.
        let _ = process.signal(nix::sys::signal::Signal::SIGKILL);
    }
}

fn remove_below(group: &Path) {
    for path in below(group) {
        remove_below(&path);
    }
    // EBUSY: a process in it has not exited yet.
    let _ = fs::remove_dir(group);
}

/// Removes the groups whose supervisor was killed and so could not remove them.
fn sweep(hierarchy: &Path) {
    for path in below(hierarchy) {
        let Some(owner) = path.file_name().and_then(|name| name.to_str()?.strip_prefix(PREFIX)) else {
            continue;
        };
        let numbers: Vec<u64> = owner.split('-').filter_map(|number| number.parse().ok()).collect();
        let [pid, start] = numbers[..] else { continue };
        let lives = |process: &Process| process.starttime() == start;
        if u32::try_from(pid).ok().and_then(Process::find).filter(lives).is_none() {
            kill(&path);
            remove_below(&path);
        }
    }
}

/// Moves the calling process into the group.
///
/// # Errors
/// Those of write(2) to its `cgroup.procs`.
pub fn join(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}
