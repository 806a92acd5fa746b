//! The sockets and the symlink by which clients reach the child (`crate::traffic`): performs the effects on
//! them.

use std::ffi::CString;

use super::Runtime;
use crate::flip::{Event, Outcome};
use crate::history::Step;
use crate::process::environment::set_variable;
use crate::process::launch::Sockets;
use crate::traffic::listen::{self, Listeners};
use crate::traffic::symlink;

use std::os::fd::AsRawFd;

/// The settings before an upgrade, to restore them if it fails.
#[derive(Debug)]
pub(super) struct BeforeUpgrade {
    link: Option<symlink::Was>,
    listeners: listen::Settings,
}

impl Runtime {
    /// Opens the sockets of this generation, or takes them over.
    pub(super) fn open_listeners(&mut self) -> Result<(), listen::Error> {
        let given = std::mem::take(&mut self.given);
        self.listeners = Listeners::open(&self.plan.listeners, given, &self.identity.activation)?;
        for (listener, address) in self.plan.listeners.iter().zip(self.listeners.addresses()) {
            if listener.address.to_string() != address {
                tracing::info!(address, name = listener.name, "listening on a port that the kernel chose");
            }
        }
        let sockets = self.identity.activation.names().join(":");
        if self.predecessor.is_none() && !sockets.is_empty() && self.plan.listeners.is_empty() {
            tracing::warn!(
                sockets,
                "the service manager passed sockets (LISTEN_FDS), but the configuration has no [[listen]]: the child is not \
                 told of them; add `[[listen]]` with `address = \"systemd:NAME\"`"
            );
        }
        if self.predecessor.is_none() {
            // Sockets from systemd's store belonged to a psflip that is gone.
            self.listeners.predecessor_is_gone();
        }
        Ok(())
    }

    /// The sockets that the child inherits, and its environment with the variables that describe them.
    pub(super) fn sockets_for_child(&self) -> (Sockets, Vec<CString>) {
        let mut envp = self.envp.to_vec();
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
        // Shared sockets need no switch: old and new child accept side by side.
        if self.plan.switch.is_some() {
            self.note(Step::Switch);
        }
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
            tracing::error!(%error, "the symlink still points to the failed generation");
        }
    }

    /// Records the settings before a successor may change them.
    pub(super) fn look_before_upgrade(&mut self) {
        let link = self.plan.switch.as_ref().map(symlink::Was::look);
        self.descendants_before_upgrade = Some(BeforeUpgrade { link, listeners: self.listeners.settings() });
    }

    /// A failed successor may have changed these, and may have been killed before it could undo that.
    pub(super) fn take_back(&mut self) {
        self.reclaim_pidfile();
        let Some(BeforeUpgrade { link, listeners }) = self.descendants_before_upgrade.take() else { return };
        if let Some(link) = link
            && let Err(error) = link.restore()
        {
            tracing::error!(%error, "can't point the symlink back from the failed generation");
        }
        if let Err(error) = self.listeners.restore(&listeners) {
            tracing::error!(%error, "can't undo what the failed generation changed");
        }
    }

    /// The successor is promoted. A socket that it does not use belongs to the old child alone. When the old
    /// child closes it, clients are refused instead of waiting forever in its queue.
    pub(super) fn let_go_of_listeners(&mut self) {
        self.listeners = Listeners::default();
    }

    /// Removes the files of sockets that will not be used any more.
    pub(super) fn leave_listeners(&mut self, outcome: Outcome) {
        // Its exit may not have been handled yet.
        let predecessor = self.predecessor.as_ref().filter(|old| !old.link.process().has_ended());
        match (outcome, predecessor) {
            (Outcome::Superseded, _) => {}
            (Outcome::Failed(_), Some(_)) => {
                self.listeners.remove_new_files();
                self.control.listeners.remove_new_files();
            }
            (Outcome::Failed(_) | Outcome::Relay(_), _) => {
                for listeners in [&mut self.listeners, &mut self.control.listeners] {
                    listeners.predecessor_is_gone();
                }
                if self.managers.keep_sockets() {
                    self.listeners.remove_files_of_lost();
                } else {
                    self.listeners.remove_new_files();
                }
                self.control.listeners.remove_new_files();
            }
        }
    }
}
