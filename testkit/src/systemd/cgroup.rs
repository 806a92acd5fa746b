//! The control group of a machine: it is the root of all groups that its systemd sees (cgroups(7), cgroup_namespaces(7)).
//!
//! A systemd whose root group were the host's would move every process of the host into a group of its own.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::process::Process;
use crate::wait::look_for;

/// What the name of every machine's group begins with; then come pid and start time of the process that supervises it.
const PREFIX: &str = "testkit-systemd-";

/// How long the processes of a group may take to be gone after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(10);

/// A control group (version 2) that was made for one machine.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

/// Where version 2 of the control groups is mounted: alone, or beside version 1.
///
/// # Errors
/// It isn't.
pub fn hierarchy() -> Result<PathBuf, String> {
    let places = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
    let found = places.into_iter().find(|place| place.join("cgroup.procs").exists());
    found.ok_or_else(|| "no cgroup2 is mounted on `/sys/fs/cgroup` or `/sys/fs/cgroup/unified`".into())
}

impl Cgroup {
    /// Makes one for the calling process, and removes those that supervisors left that were killed.
    ///
    /// # Errors
    /// It can't be made: no root, or a file system that is mounted read-only.
    pub fn make() -> Result<Self, String> {
        let hierarchy = hierarchy()?;
        sweep(&hierarchy);
        let own = Process::current();
        let path = hierarchy.join(format!("{PREFIX}{}-{}", own.pid(), own.starttime()));
        fs::create_dir(&path)
            .map_err(|error| format!("control group `{}` can't be made: {error}", path.display()))?;
        Ok(Self { path })
    }

    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Kills everything in it and below it, and removes it.
    ///
    /// # Errors
    /// Something in it doesn't end, even by SIGKILL.
    pub fn remove(&self) -> Result<(), String> {
        let gone = || {
            kill(&self.path);
            remove_below(&self.path);
            (!self.path.exists()).then_some(())
        };
        look_for(PATIENCE, gone).ok_or_else(|| {
            let left: Vec<u32> = members(&self.path);
            format!("control group `{}` can't be removed; left in it: {left:?}", self.path.display())
        })
    }
}

/// The pids, as the host sees them, of a group and all groups below it. None when there is no such group.
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

/// By one write where the kernel can (since Linux 5.14), else one by one; whoever was missed is there at the next look.
fn kill(group: &Path) {
    if fs::write(group.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for process in members(group).into_iter().filter_map(Process::find) {
        // It has ended since.
        let _ = process.signal(nix::sys::signal::Signal::SIGKILL);
    }
}

fn remove_below(group: &Path) {
    for path in below(group) {
        remove_below(&path);
    }
    // EBUSY: something in it has not ended yet.
    let _ = fs::remove_dir(group);
}

/// Removes the groups whose supervisor has ended: it was killed, or it would have done so itself.
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

/// Makes the calling process a member.
///
/// # Errors
/// As write(2) to its `cgroup.procs`.
pub fn join(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), "0")
}
