//! The exit statuses of processes that the keeper reaped. They decide the exit status of `psflip watch`, and
//! whether to report an outage. The pidfile may name a process only after it has exited.

use std::collections::VecDeque;

use crate::exit_status::ExitStatus;

/// How many are kept.
const KEPT: usize = 64;

/// The last exit statuses, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Exits(VecDeque<(u32, ExitStatus)>);

impl Exits {
    /// Records that this process has exited.
    pub(super) fn record(&mut self, pid: u32, end: ExitStatus) {
        if self.0.len() == KEPT {
            self.0.pop_front();
        }
        self.0.push_back((pid, end));
    }

    /// The exit status of the last process with this pid, if it is known.
    pub(super) fn of(&self, pid: u32) -> Option<ExitStatus> {
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
            exits.record(u32::from(pid), ExitStatus::Exited(pid));
        }
        assert_eq!(
            (exits.of(36), exits.of(37), exits.of(100)),
            (None, Some(ExitStatus::Exited(37)), Some(ExitStatus::Exited(100)))
        );
        exits.record(100, ExitStatus::Exited(7));
        assert_eq!(exits.of(100), Some(ExitStatus::Exited(7)));
        exits.forget(100);
        assert_eq!(exits.of(100), None);
    }
}
