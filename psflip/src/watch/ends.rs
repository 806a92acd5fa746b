//! The exit statuses of processes that the keeper reaped. They decide the exit status of `psflip watch`, and
//! whether to report an outage. The pidfile may name a process only after it has exited.

use std::collections::VecDeque;

use super::file::Content;
use super::{Phase, Watch};
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

impl Watch {
    /// Nothing is left. Returns the exit status.
    pub(super) fn end_of_all(&mut self) -> End {
        match self.phase {
            Phase::Ending(end, _) | Phase::Killing(end, _) => return end,
            Phase::Waiting(end, _) => {
                self.report_outage(end);
                return self.known(end);
            }
            Phase::Watching => {}
        }
        // A process may have written the pidfile just before it exited.
        let _ = self.file.take_events();
        let unheard = match self.file.read() {
            Content::Pid(pid) => self.ends.of(pid),
            Content::Missing | Content::Unchanged | Content::Nobody => None,
        };
        let service = self.service.as_ref().and_then(|service| self.ends.of(service.pid));
        let was_service = unheard.is_some() || self.service.is_some();
        let end = unheard.or(self.end_of_one_missed()).or(service).or(self.last.flatten());
        let end = end.unwrap_or_else(|| self.end_of_command());
        if was_service {
            self.report_outage(Some(end));
        }
        tracing::info!(%end, "stopped; nothing is left");
        end
    }

    /// Logs an outage if the service has exited without a stop request (contract L1). A stop request has no
    /// time limit: a service may take any time for its shutdown.
    pub(super) fn report_outage(&self, end: Option<End>) {
        if self.stop.is_none() {
            let end = end.map_or_else(|| "in an unknown way".to_owned(), |end| end.to_string());
            tracing::error!(
                end,
                "the service is down: it terminated without a stop request, and nothing took its place"
            );
        }
    }

    pub(super) fn is_command(&self, pid: u32) -> bool {
        self.tree.child_pid() == Some(pid)
    }

    /// The exit status of the command, used if no service is known.
    pub(super) fn end_of_command(&self) -> End {
        self.command_ended.unwrap_or(End::Exited(crate::exit::FAILURE))
    }

    /// The final exit status, if the last service exited with this one. If that is unknown, the status of the
    /// previous service counts, which ran on.
    pub(super) fn known(&mut self, end: Option<End>) -> End {
        let end = self.end_of_one_missed().or(end).or_else(|| self.end_of_older());
        end.unwrap_or_else(|| self.end_of_command())
    }

    pub(super) fn end_of_older(&self) -> Option<End> {
        self.older.as_ref().and_then(|older| self.ends.of(older.pid))
    }

    /// The exit status of the previous service, if it took over and gave up before the pidfile was read.
    pub(super) fn end_of_one_missed(&mut self) -> Option<End> {
        self.end_of_older().filter(|_| self.file.was_missed())
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
