//! The sockets and the link by which clients reach the child (`crate::traffic`), as the effects want them.

use std::ffi::CString;

use super::Runtime;
use crate::flip::{Event, Outcome};
use crate::launch::{Sockets, set_variable};
use crate::traffic::listen::{self, Listeners};
use crate::traffic::symlink;

use std::os::fd::AsRawFd;

impl Runtime {
    /// Opens the sockets of this generation, or takes them over.
    pub(super) fn open_listeners(&mut self) -> Result<(), listen::Error> {
        let given = std::mem::take(&mut self.given);
        self.listeners = Listeners::open(&self.plan.listeners, given, &self.identity.activation)?;
        Ok(())
    }

    /// What the child inherits, and its environment, which says so.
    pub(super) fn sockets_for_child(&self) -> (Sockets, Vec<CString>) {
        let mut envp = self.envp.clone();
        let (passing, fds) = self.listeners.passing(self.identity.generation);
        for (name, value) in &passing.variables {
            set_variable(&mut envp, name, Some(value));
        }
        for (name, value) in &passing.numbered {
            set_variable(&mut envp, name, Some(value));
        }
        let numbers = passing.numbers.iter().map(|(place, number)| (fds[*place].as_raw_fd(), *number));
        let sockets = Sockets {
            numbers: numbers.collect(),
            listen_pid: passing.listen_pid,
            hides: self.identity.activation.clone(),
        };
        (sockets, envp)
    }

    pub(super) fn switch_traffic(&mut self) {
        let switched = self.listeners.adjust().map_err(|error| error.to_string()).and_then(|()| match &self
            .plan
            .switch
        {
            Some(link) => symlink::turn(link).map(Some).map_err(|error| error.to_string()),
            None => Ok(None),
        });
        self.queue.push_back(match switched {
            Ok(turned) => {
                self.turned = turned;
                Event::TrafficSwitched
            }
            Err(reason) => {
                self.failure = Some(reason);
                Event::TrafficRefused
            }
        });
    }

    pub(super) fn give_back(&mut self) {
        self.return_pidfile();
        if let Some(turned) = self.turned.take()
            && let Err(error) = turned.turn_back()
        {
            tracing::error!(%error, "the link stays turned");
        }
    }

    /// A successor that failed may have come as far as changing these.
    pub(super) fn take_back(&mut self) {
        self.reclaim_pidfile();
        if let Some(link) = &self.plan.switch
            && !symlink::leads(link)
            && let Err(error) = symlink::turn(link)
        {
            tracing::error!(%error, "can't turn the link back from the failed generation");
        }
        if let Err(error) = self.listeners.adjust() {
            tracing::warn!(%error, "can't undo what the failed generation changed");
        }
    }

    /// Removes the files of sockets that nobody will use any more.
    pub(super) fn leave_listeners(&mut self, outcome: Outcome) {
        match (outcome, &self.predecessor) {
            (Outcome::Superseded, _) => {}
            (Outcome::Failed(_), Some(_)) => self.listeners.remove_new_files(),
            (Outcome::Failed(_) | Outcome::Relay(_), _) => {
                self.listeners.predecessor_is_gone();
                self.listeners.remove_new_files();
            }
        }
    }
}
