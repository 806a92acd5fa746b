//! The exit statuses of processes that the keeper reaped. They decide the exit status of `psflip watch`, and
//! whether to report an outage. The pidfile may name a process only after it has exited.

use std::collections::VecDeque;

use crate::end::End;

/// How many are kept.
const KEPT: usize = 64;

/// The last exit statuses, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Exits(VecDeque<(u32, End)>);

impl Exits {
    /// Records that this process has exited.
    pub(super) fn note(&mut self, pid: u32, end: End) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((pid, end));
    }

    /// The exit status of the last process with this pid, if it is known.
    pub(super) fn of(&self, pid: u32) -> Option<End> {
        self.0.iter().rev().find(|(known, _)| *known == pid).map(|(_, end)| *end)
    }

    /// The pid now belongs to a running process.
    pub(super) fn forget(&mut self, pid: u32) {
        self.0.retain(|(known, _)| *known != pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_exits_are_kept_with_one_entry_per_pid() {
        let mut exits = Exits::default();
        for pid in 1..=100_u8 {
            exits.note(u32::from(pid), End::Exited(pid));
        }
        assert_eq!(
            (exits.of(36), exits.of(37), exits.of(100)),
            (None, Some(End::Exited(37)), Some(End::Exited(100)))
        );
        exits.note(100, End::Exited(7));
        assert_eq!(exits.of(100), Some(End::Exited(7)));
        exits.forget(100);
        assert_eq!(exits.of(100), None);
    }
}
