//! psflip's own children, all of them: keepers, the intermediate of a double fork, and whatever else falls to it (contract C9).
//!
//! psflip is a subreaper like its keeper. It needs that for one case: when a keeper is killed, what is left of its tree
//! becomes psflip's, which can end it (C7). Only while a successor is being started it is none, so that the successor falls
//! to the manager (U10).

use std::cell::RefCell;
use std::io;
use std::time::Instant;

use crate::sys::children::{self, Ending};
use crate::sys::process::{self, Change, ChangeKind};
use crate::sys::tree;

thread_local! {
    /// The keepers of all trees of this process, but for those that were reaped.
    static KEEPERS: RefCell<Vec<u32>> = const { RefCell::new(Vec::new()) };
}

/// To be called when a keeper was started. It is continued whenever it was stopped: one that stands still sees neither its child's end nor
/// what it is told, and nobody has a reason to stop it.
pub(crate) fn has_started(keeper: u32) {
    KEEPERS.with_borrow_mut(|keepers| keepers.push(keeper));
}

/// To be called when a child of this process was reaped: its pid may be another's from now on.
pub(crate) fn was_reaped(pid: u32) {
    KEEPERS.with_borrow_mut(|keepers| keepers.retain(|keeper| *keeper != pid));
}

/// Knows which children of psflip are none of its business.
#[derive(Debug)]
pub(crate) struct Reaper {
    /// Children that this process had before it became psflip (`sh -c 'helper & exec psflip'`): not ours to end.
    foreign: Vec<u32>,
    /// What was below the keeper when psflip was to be no subreaper for a moment: if the keeper is killed in that moment, all of it
    /// falls to the manager, and can't be found by its parent.
    wards: Vec<tree::Known>,
    /// The remains of a tree whose keeper is gone are being ended.
    sweep: Option<Ending>,
}

impl Reaper {
    /// To be made before anything is started.
    ///
    /// # Errors
    /// None that a kernel since 3.4 could give.
    pub(crate) fn new() -> io::Result<Self> {
        let mut reaper = Self::knowing(Vec::new())?;
        reaper.foreign = children::own();
        Ok(reaper)
    }

    /// For a process that has children already, and knows which of them are not its own.
    ///
    /// # Errors
    /// As [`Reaper::new`].
    pub(crate) fn knowing(foreign: Vec<u32>) -> io::Result<Self> {
        process::set_subreaper(true)?;
        Ok(Self { foreign, wards: Vec::new(), sweep: None })
    }

    /// Children that were there before anything was started.
    #[must_use]
    pub(crate) fn foreign(&self) -> &[u32] {
        &self.foreign
    }

    /// Reaps one child that has ended; `None`: no more at the moment.
    pub(crate) fn next(&mut self) -> Option<Change> {
        // Stops and continuations of psflip's own children mean nothing else.
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

    /// Ends and reaps all children that psflip has started, and all that fell to it: at the end there is no use for any of
    /// them (the keeper of a probe that was ended, what a killed keeper left), and nobody else may be left with a zombie.
    pub(crate) fn end_our_own(&mut self) {
        children::end_children(std::process::id(), std::mem::take(&mut self.foreign), false);
    }

    /// Notes what is below the keeper, before psflip is no subreaper.
    pub(crate) fn note_wards(&mut self, keeper: u32) {
        self.wards = tree::below(keeper);
    }

    /// The keeper of the child's tree is gone: ends what it left, except these children of psflip. Returns whether nothing is
    /// left already; else it has to be called again whenever a child was reaped, and at [`Reaper::next_sweep`].
    pub(crate) fn sweep(&mut self, except: &[u32]) -> bool {
        let spared: Vec<u32> = self.foreign.iter().chain(except).copied().collect();
        tree::kill_known(&std::mem::take(&mut self.wards));
        let sweep = self.sweep.get_or_insert_with(|| Ending::new(std::process::id(), Vec::new()));
        sweep.spare(spared);
        sweep.go_on();
        self.sweep.take_if(|sweep| sweep.is_over() && sweep.next_look().is_none()).is_some()
    }

    /// When the sweep that is under way has to go on, even if nothing was reaped.
    #[must_use]
    pub(crate) fn next_sweep(&self) -> Option<Instant> {
        self.sweep.as_ref().and_then(Ending::next_look)
    }

    /// Whether a sweep is under way.
    #[must_use]
    pub(crate) fn is_sweeping(&self) -> bool {
        self.sweep.is_some()
    }
}
