//! Compares the open descriptors of a process at two moments.

use std::collections::BTreeMap;

use crate::process::{Process, ProcessState};
use crate::report;
use crate::wait::{Deadline, wait_until};

/// The open descriptors of a process at one moment.
#[derive(Clone, Debug)]
pub struct FdSnapshot {
    process: Process,
    open: BTreeMap<i32, String>,
}

impl FdSnapshot {
    /// Takes the snapshot as soon as `process` sleeps, so that descriptors of work in progress are not in it.
    ///
    /// # Panics
    /// If the process has exited, belongs to another user, or is busy until the default deadline.
    #[track_caller]
    #[must_use]
    pub fn of(process: Process) -> Self {
        // How often the process has slept and woken up; `None` while it runs or is runnable.
        let rests = || {
            let rests = process.status_field("voluntary_ctxt_switches");
            rests.filter(|_| process.state() != ProcessState::Running)
        };
        let what = format!("process {process} to wait for something");
        let open = wait_until(Deadline::default(), what, || {
            let before = rests()?;
            let open = read(process);
            (rests()? == before).then_some(open)
        });
        Self { process, open }
    }

    /// Each descriptor, and what it refers to.
    #[must_use]
    pub fn open(&self) -> &BTreeMap<i32, String> {
        &self.open
    }

    /// Asserts that the process again has as many descriptors of each kind. Numbers may differ, since a
    /// socket that was closed and opened again is no leak.
    ///
    /// # Panics
    /// If there still is a difference at the default deadline.
    #[track_caller]
    pub fn assert_unchanged(&self) {
        self.assert_unchanged_by(Deadline::default());
    }

    /// [`FdSnapshot::assert_unchanged`] with a deadline of your own.
    ///
    /// # Panics
    /// If there still is a difference at the deadline.
    #[track_caller]
    pub fn assert_unchanged_by(&self, deadline: Deadline) {
        let same = || kinds(&read(self.process)) == kinds(&self.open);
        // Wait only for the comparison to hold; the failure then shows the difference at that moment.
        wait_until(deadline, Difference(self), || same().then_some(()));
    }

    /// [`FdSnapshot::assert_unchanged`] across generations: `other` (a successor) has as many descriptors of
    /// each kind as this process had.
    ///
    /// # Panics
    /// If there still is a difference at the default deadline.
    #[track_caller]
    pub fn assert_same_in(&self, other: Process) {
        let expected = Self { process: other, open: self.open.clone() };
        expected.assert_unchanged();
    }
}

/// Its `Display` shows the difference at the time of printing.
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

/// Counts descriptors by kind: `socket:[17]` counts as `socket`.
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
