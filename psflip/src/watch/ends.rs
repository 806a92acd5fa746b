//! The exit statuses of processes that the keeper reaped. The pidfile may name such a process only
//! afterwards.

use std::collections::VecDeque;

use crate::end::End;

/// How many are kept.
const KEPT: usize = 64;

/// The last exit statuses, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ends(VecDeque<(u32, End)>);

impl Ends {
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
    fn the_last_ones_are_known_and_no_pid_stands_for_two() {
        let mut ends = Ends::default();
        for pid in 1..=100_u8 {
            ends.note(u32::from(pid), End::Exited(pid));
        }
        assert_eq!(
            (ends.of(36), ends.of(37), ends.of(100)),
            (None, Some(End::Exited(37)), Some(End::Exited(100)))
        );
        ends.note(100, End::Exited(7));
        assert_eq!(ends.of(100), Some(End::Exited(7)));
        ends.forget(100);
        assert_eq!(ends.of(100), None);
    }
}
