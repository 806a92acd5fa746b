//! The role of the current process. Forks share memory with their parent as of the fork (after vfork(2) even
//! later), so a process is identified by its pid and not by what the memory says.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use psflip::testing::sys::seam::Call;

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// `old` and `new`: psflip itself; `old-keeper`, `old-child` and so on: its keeper, and its child before
    /// execve(2).
    Of { old: bool, part: Part },
    /// `intermediate`: the first process of the double fork.
    Intermediate,
    /// `coming`: the second one, before it executes psflip.
    Coming,
    /// `anchor`: the stable parent.
    Anchor,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Psflip,
    Keeper,
    Child,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Of { old: true, part: Part::Psflip } => "old",
            Self::Of { old: true, part: Part::Keeper } => "old-keeper",
            Self::Of { old: true, part: Part::Child } => "old-child",
            Self::Of { old: false, part: Part::Psflip } => "new",
            Self::Of { old: false, part: Part::Keeper } => "new-keeper",
            Self::Of { old: false, part: Part::Child } => "new-child",
            Self::Intermediate => "intermediate",
            Self::Coming => "coming",
            Self::Anchor => "anchor",
        })
    }
}

/// The roles that this process and its ancestors have taken, and how often they made each call.
pub(super) struct Roles {
    psflip: u32,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The first generation below an anchor: a fork that did not execute psflip again.
    generation: Option<u32>,
    begun: Vec<(u32, String)>,
    plan: u64,
    counts: BTreeMap<(u32, Call), usize>,
}

impl Roles {
    /// For a process that has just executed psflip.
    pub(super) fn of_this_process() -> Self {
        Self { psflip: std::process::id(), known: Mutex::default() }
    }

    /// Records that this process has taken a role.
    pub(super) fn begin(&self, what: &str) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if what == "generation" {
            known.generation = Some(std::process::id());
        }
        known.begun.push((std::process::id(), what.to_owned()));
    }

    /// The role of this process, if `old` is the pid of the old psflip.
    pub(super) fn now(&self, old: u32) -> Role {
        let pid = std::process::id();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let last = known.begun.iter().rev().find(|(begun, _)| *begun == pid);
        let part = match last.map(|(_, what)| what.as_str()) {
            Some("intermediate") => return Role::Intermediate,
            Some("successor") => return Role::Coming,
            Some("anchor") => return Role::Anchor,
            Some("keeper") => Part::Keeper,
            Some("child") => Part::Child,
            _ => Part::Psflip,
        };
        Role::Of { old: known.generation.unwrap_or(self.psflip) == old, part }
    }

    /// How often this process has made this call since the plan's `id` changed, including this time.
    pub(super) fn count(&self, plan: u64, call: Call) -> usize {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.plan != plan {
            known.plan = plan;
            known.counts.clear();
        }
        let count = known.counts.entry((std::process::id(), call)).or_default();
        *count += 1;
        *count
    }
}
