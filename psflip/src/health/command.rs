//! `command`: the child is healthy when a command exits 0.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::{Attempt, Begun, ChildInfo, Interest, Probe, Progress, Why};
use crate::process::command::SupervisedCommand;

pub(super) struct Command {
    argv: Vec<String>,
}

impl Command {
    pub(super) fn new(argv: &[String]) -> Self {
        Self { argv: argv.to_vec() }
    }
}

impl Probe for Command {
    fn begin(&self, child: &ChildInfo) -> Result<Begun, Why> {
        let pid = child.pid.to_string();
        let variables = [("PSFLIP_CHILD_PID", pid.as_str())];
        let workdir = child.workdir.clone();
        let run = SupervisedCommand::start(&self.argv, &child.envp, &variables, workdir, child.signals)?;
        Ok(Begun::Pending(Box::new(run)))
    }
}

impl Attempt for SupervisedCommand {
    fn watch(&self) -> (BorrowedFd<'_>, Interest) {
        (self.as_fd(), Interest::Read)
    }

    fn advance(&mut self) -> Progress {
        Self::advance(self).map_err(Why::from).into()
    }

    fn overdue(&self, limit: Duration) -> String {
        Self::overdue(self, limit)
    }
}
