//! All children of psflip itself: keepers, the intermediate process of a double fork, and
//! adopted orphans (contract C9).
//!
//! psflip is a subreaper like its keeper, for one case: when a keeper is killed, the rest of its tree becomes
//! children of psflip, which kills them (C7). Only while it starts a successor, psflip is not a subreaper, so
//! that the successor becomes a child of the service manager (U10).

use std::cell::RefCell;
use std::io;
use std::time::Instant;

use crate::sys::children::{self, Killing};
use crate::sys::process;
use crate::sys::tree;
use crate::sys::wait::{self, Change, ChangeKind};

thread_local! {
    /// The keepers of all trees of this process that have not been reaped.
    static KEEPERS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
    /// The output processes that have not been reaped. They exit by themselves.
    static OUTPUTS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// Call this when an output process (`crate::output`) was started. It is continued whenever it was stopped,
/// as a keeper is, and not killed together with other processes.
pub(crate) fn output_has_started(pid: u32) {
    has_started(pid);
    OUTPUTS.with_borrow_mut(|outputs| outputs.push(pid));
}

fn outputs() -> Vec<u32> {
    OUTPUTS.with_borrow(Clone::clone)
}

/// Call this when a keeper was started. The keeper is continued whenever it was stopped: there is no reason
/// to stop it, and a stopped keeper neither notices its child's exit nor reads messages.
pub(crate) fn has_started(keeper: u32) {
    KEEPERS.with_borrow_mut(|keepers| keepers.push(keeper));
}

/// Call this when a child of this process was reaped: from now on its pid may belong to another process.
pub(crate) fn was_reaped(pid: u32) {
    KEEPERS.with_borrow_mut(|keepers| keepers.retain(|keeper| *keeper != pid));
    OUTPUTS.with_borrow_mut(|outputs| outputs.retain(|output| *output != pid));
}

/// Reaps the children of psflip, and knows which of them psflip did not start.
#[derive(Debug)]
pub(crate) struct Reaper {
    /// Children that this process had before it became psflip
    /// (`sh -c 'helper & exec psflip'`). psflip must not kill them.
    foreign: Vec<u32>,
    /// The processes below the keeper, recorded before psflip gives up being a subreaper for a
    /// moment. If the keeper is killed in that moment, they all become children of the service
    /// manager, and can't be found by their parent.
    descendants_before_upgrade: Vec<tree::Known>,
    /// Set while the leftover processes of a tree whose keeper is gone are being killed.
    sweep: Option<Killing>,
}

impl Reaper {
    /// Create it before anything is started.
    ///
    /// # Errors
    /// None on Linux 3.4 or later.
    pub(crate) fn new() -> io::Result<Self> {
        let mut reaper = Self::knowing(Vec::new())?;
        reaper.foreign = children::own();
        Ok(reaper)
    }

    /// For a process that already has children, and knows which of them it did not start.
    ///
    /// # Errors
    /// As [`Reaper::new`].
    pub(crate) fn knowing(foreign: Vec<u32>) -> io::Result<Self> {
        process::set_subreaper(true)?;
        Ok(Self { foreign, descendants_before_upgrade: Vec::new(), sweep: None })
    }

    /// Children that were there before anything was started.
    #[must_use]
    pub(crate) fn foreign(&self) -> &[u32] {
        &self.foreign
    }

    /// Reaps one child that has exited. `None`: there is none at the moment.
    pub(crate) fn next(&mut self) -> Option<Change> {
        // Nothing depends on stops and continuations of psflip's own children.
        loop {
            let change = self.next_change()?;
            if change.exit_status().is_some() {
                return Some(change);
            }
        }
    }

    /// As [`Reaper::next`], but also returns stops and continuations.
    pub(crate) fn next_change(&mut self) -> Option<Change> {
        let change = wait::next_change().ok()??;
        if change.exit_status().is_some() {
            self.foreign.retain(|pid| *pid != change.pid);
            was_reaped(change.pid);
            if let Some(sweep) = &mut self.sweep {
                sweep.was_reaped(change.pid);
            }
        } else if matches!(change.kind, ChangeKind::Stopped(_))
            && KEEPERS.with_borrow(|keepers| keepers.contains(&change.pid))
        {
            children::wake(change.pid);
        }
        Some(change)
    }

    /// Kills and reaps all children that psflip has started or adopted, when psflip exits. None of them
    /// is of use then (the keeper of an aborted probe, the rest of a killed keeper's tree), and no
    /// other process should inherit a zombie.
    pub(crate) fn kill_own_children(&mut self) {
        let mut spared = std::mem::take(&mut self.foreign);
        spared.extend(outputs());
        children::kill_all_children(std::process::id(), spared, false);
    }

    /// As [`Reaper::kill_own_children`], except these.
    pub(crate) fn kill_children_but(&self, spared: impl Iterator<Item = u32>) {
        let spared = self.foreign.iter().copied().chain(spared).collect();
        children::kill_all_children(std::process::id(), spared, false);
    }

    /// Records the processes below the keeper, before psflip gives up being a subreaper.
    pub(crate) fn record_descendants(&mut self, keeper: u32) {
        self.descendants_before_upgrade = tree::below(keeper);
    }

    /// Kills what the lost keeper of the child's tree left, except these children of psflip.
    /// Returns whether nothing is left already. Otherwise call it again whenever a child was
    /// reaped, and at [`Reaper::next_sweep`].
    pub(crate) fn sweep(&mut self, except: &[u32]) -> bool {
        let spared: Vec<u32> = self.foreign.iter().chain(except).copied().chain(outputs()).collect();
        tree::kill_known(&std::mem::take(&mut self.descendants_before_upgrade));
        let sweep = self.sweep.get_or_insert_with(|| Killing::new(std::process::id(), Vec::new()));
        sweep.spare(spared);
        sweep.go_on();
        self.sweep.take_if(|sweep| sweep.is_over() && sweep.next_look().is_none()).is_some()
    }

    /// When the current sweep must go on, even if no child was reaped.
    #[must_use]
    pub(crate) fn next_sweep(&self) -> Option<Instant> {
        self.sweep.as_ref().and_then(Killing::next_look)
    }

    /// Whether a sweep is in progress.
    #[must_use]
    pub(crate) fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }
}
