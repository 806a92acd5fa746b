//! Open descriptors of a process at one moment, to be compared with a later one.

use std::collections::BTreeMap;

use crate::process::{Process, State};
use crate::report;
use crate::wait::{Deadline, wait_until};

/// The open descriptors of a process at one moment.
#[derive(Clone, Debug)]
pub struct FdSnapshot {
    process: Process,
    open: BTreeMap<i32, String>,
}

impl FdSnapshot {
    /// Of `process` as soon as it waits for something: what it has open only while it does something is not meant.
    ///
    /// # Panics
    /// When it has ended, belongs to another user, or is busy until the default deadline.
    #[track_caller]
    #[must_use]
    pub fn of(process: Process) -> Self {
        // How often it has slept and was woken; `None` while it runs or is about to.
        let rests = || {
            let rests = process.status_field("voluntary_ctxt_switches");
            rests.filter(|_| process.state() != State::Running)
        };
        let what = format!("process {process} to wait for something");
        let open = wait_until(Deadline::default(), what, || {
            let before = rests()?;
            let open = read(process);
            (rests()? == before).then_some(open)
        });
        Self { process, open }
    }

    /// The descriptors with what they refer to.
    #[must_use]
    pub fn open(&self) -> &BTreeMap<i32, String> {
        &self.open
    }

    /// Fails when the same process doesn't have as many descriptors of each kind open again. Numbers of sockets and pipes may
    /// differ: a closed and reopened one is no leak.
    ///
    /// # Panics
    /// When the difference stays until the default deadline.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        self.assert_unchanged_by(Deadline::default());
    }

    /// As [`FdSnapshot::assert_unchanged`], with a deadline of your own.
    ///
    /// # Panics
    /// When the difference stays until then.
    #[track_caller]
    pub fn assert_unchanged_by(&self, deadline: Deadline) {
        let same = || kinds(&read(self.process)) == kinds(&self.open);
        // The last look is made when nothing is left to wait for, so that the failure can show what is different.
        wait_until(deadline, Difference(self), || same().then_some(()));
    }

    /// As [`FdSnapshot::assert_unchanged`] across generations: `other` (a successor) has as many descriptors of each kind as this
    /// process had.
    ///
    /// # Panics
    /// When the difference stays until the default deadline.
    #[track_caller]
    pub fn assert_same_in(&self, other: Process) {
        let expected = Self { process: other, open: self.open.clone() };
        expected.assert_unchanged();
    }
}

/// Shows, when it is shown, what is different at that moment.
struct Difference<'a>(&'a FdSnapshot);

impl std::fmt::Display for Difference<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let snapshot = self.0;
        let now = snapshot.process.open_fds().unwrap_or_default();
        write!(f, "process {} to have the same descriptors open as before;", snapshot.process)?;
        for (number, target) in
            now.iter().filter(|(number, target)| snapshot.open.get(number) != Some(target))
        {
            write!(f, " new: {number} -> {target};")?;
        }
        for (number, target) in
            snapshot.open.iter().filter(|(number, target)| now.get(number) != Some(target))
        {
            write!(f, " before: {number} -> {target};")?;
        }
        Ok(())
    }
}

/// How many of each kind: `socket:[17]` counts as `socket`.
fn kinds(open: &BTreeMap<i32, String>) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for target in open.values() {
        let kind = target
            .split_once(":[")
            .filter(|(kind, _)| !kind.contains('/'))
            .map_or(target.as_str(), |(kind, _)| kind);
        let kind = if target.starts_with("anon_inode:") { target } else { kind };
        *counts.entry(kind).or_insert(0) += 1;
    }
    counts
}

#[track_caller]
fn read(process: Process) -> BTreeMap<i32, String> {
    match process.open_fds() {
        Ok(open) => open,
        Err(error) => report::fail(&format!("the descriptors of process {process} can't be read: {error}")),
    }
}
