//! psflip's own children, all of them: keepers, the intermediate of a double fork, and whatever else falls to it (contract C9).
//!
//! psflip is a subreaper like its keeper. It needs that for one case: when a keeper is killed, what is left of its tree
//! becomes psflip's, which can end it (C7). Only while a successor is being started it is none, so that the successor falls
//! to the manager (U10).

use std::io;

use crate::signal::Signal;
use crate::sys::process::{self, Change};
use crate::sys::tree;

/// Knows which children of psflip are none of its business.
#[derive(Debug)]
pub(crate) struct Reaper {
    /// Children that this process had before it became psflip (`sh -c 'helper & exec psflip'`): not ours to end.
    foreign: Vec<u32>,
    /// What was below the keeper when psflip was to be no subreaper for a moment: if the keeper is killed in that moment, all of it
    /// falls to the manager, and can't be found by its parent.
    wards: Vec<tree::Known>,
    /// The remains of a tree whose keeper is gone are being ended.
    sweeping: bool,
}

impl Reaper {
    /// To be made before anything is started.
    ///
    /// # Errors
    /// None that a kernel since 3.4 could give.
    pub(crate) fn new() -> io::Result<Self> {
        process::set_subreaper(true)?;
        // ECHILD for nearly everybody: then /proc needs no look.
        let foreign =
            if process::next_change().is_err() { Vec::new() } else { tree::children(std::process::id()) };
        Ok(Self { foreign, wards: Vec::new(), sweeping: false })
    }

    /// For a process that has children already, and knows which of them are not its own.
    ///
    /// # Errors
    /// As [`Reaper::new`].
    pub(crate) fn knowing(foreign: Vec<u32>) -> io::Result<Self> {
        process::set_subreaper(true)?;
        Ok(Self { foreign, wards: Vec::new(), sweeping: false })
    }

    /// Children that were there before anything was started.
    #[must_use]
    pub(crate) fn foreign(&self) -> &[u32] {
        &self.foreign
    }

    /// Reaps one child that has ended; `None`: no more at the moment.
    pub(crate) fn next(&mut self) -> Option<Change> {
        // Stops and continuations of psflip's own children mean nothing.
        loop {
            let change = self.next_change()?;
            if change.end().is_some() {
                return Some(change);
            }
        }
    }

    /// As [`Reaper::next`], but tells of stops and continuations as well.
    pub(crate) fn next_change(&mut self) -> Option<Change> {
        let change = process::next_change().ok()??;
        if change.end().is_some() {
            self.foreign.retain(|pid| *pid != change.pid);
        }
        Some(change)
    }

    /// Ends and reaps all children that psflip has started, and all that fell to it: at the end there is no use for any of
    /// them (the keeper of a probe that was ended, what a killed keeper left), and nobody else may be left with a zombie.
    pub(crate) fn end_our_own(&mut self) {
        let own_pid = std::process::id();
        // ECHILD is the usual case and needs no look at /proc.
        while process::next_change().is_ok() {
            let found = tree::signal_descendants_except(own_pid, Signal::KILL, &self.foreign);
            if found == 0 || process::reap_next().is_err() {
                return;
            }
        }
    }

    /// Notes what is below the keeper, before psflip is no subreaper.
    pub(crate) fn note_wards(&mut self, keeper: u32) {
        self.wards = tree::below(keeper);
    }

    /// The keeper of the child's tree is gone: ends what it left, except these children of psflip. Returns whether nothing is
    /// left already; else it has to be called again whenever a child was reaped.
    pub(crate) fn sweep(&mut self, except: &[u32]) -> bool {
        let spared: Vec<u32> = self.foreign.iter().chain(except).copied().collect();
        tree::kill_known(&std::mem::take(&mut self.wards));
        let found = tree::signal_descendants_except(std::process::id(), Signal::KILL, &spared);
        self.sweeping = found > 0;
        !self.sweeping
    }

    /// Whether a sweep is under way.
    #[must_use]
    pub(crate) fn is_sweeping(&self) -> bool {
        self.sweeping
    }
}
