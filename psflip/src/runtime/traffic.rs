//! What leads clients and other processes to this generation: the sockets, the symlink (`crate::traffic`) and
//! the pidfile (`crate::manager::pidfile`).

use std::ffi::CString;
use std::os::fd::AsRawFd;

use super::Identity;
use super::handover::Handover;
use crate::config::Plan;
use crate::manager::pidfile::{Pidfile, TakenFrom};
use crate::process::environment::set_variable;
use crate::process::launch::Sockets;
use crate::text;
use crate::traffic::given::Given;
use crate::traffic::listen::{self, Listeners};
use crate::traffic::symlink::{self, Repointed};

/// The sockets, the symlink and the pidfile, as far as this generation has them.
#[derive(Debug)]
pub(super) struct Traffic {
    /// The sockets that the predecessor handed over, until the child starts.
    given: Vec<Given>,
    pub(super) listeners: Listeners,
    /// Everything that clients connect to has been opened.
    pub(super) is_open: bool,
    /// The symlink that this generation repointed, until it is promoted.
    repointed: Option<Repointed>,
    pub(super) pidfile: Option<Pidfile>,
    /// Set while an upgrade is running.
    before_upgrade: Option<BeforeUpgrade>,
}

/// The settings before an upgrade, to restore them if it fails.
#[derive(Debug)]
struct BeforeUpgrade {
    link: Option<symlink::SavedTarget>,
    listeners: listen::Settings,
}

impl Traffic {
    /// What the predecessor handed over.
    pub(super) fn new(given: Vec<Given>) -> Self {
        Self {
            given,
            listeners: Listeners::default(),
            is_open: false,
            repointed: None,
            pidfile: None,
            before_upgrade: None,
        }
    }

    /// Opens the sockets of this generation, or takes them over. `is_first`: there is no predecessor.
    pub(super) fn open(
        &mut self,
        plan: &Plan,
        identity: &Identity,
        is_first: bool,
    ) -> Result<(), listen::ListenError> {
        let given = std::mem::take(&mut self.given);
        let wanted: Vec<_> = plan.sockets().cloned().collect();
        self.listeners = Listeners::open(&wanted, given, &identity.activation)?;
        for (listener, address) in wanted.iter().zip(self.listeners.addresses()) {
            if listener.address.to_string() != address {
                tracing::info!(address, name = listener.name, "listening on a port that the kernel chose");
            }
        }
        let sockets = identity.activation.names().join(":");
        if is_first && !sockets.is_empty() && wanted.is_empty() {
            tracing::warn!(
                sockets,
                "the service manager passed sockets (LISTEN_FDS), but the configuration has no [[listen]]: the child is not \
                 told of them; add `[[listen]]` with `address = \"systemd:NAME\"`"
            );
        }
        if is_first {
            // Sockets from systemd's store belonged to a psflip that is gone.
            self.listeners.predecessor_is_gone();
        }
        Ok(())
    }

    /// The sockets that the child inherits, and its environment with the variables that describe them.
    pub(super) fn for_child(&self, envp: &[CString], identity: &Identity) -> (Sockets, Vec<CString>) {
        let mut envp = envp.to_vec();
        let (passing, fds) = self.listeners.passing(identity.generation);
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
            hides: identity.activation.clone(),
        };
        (sockets, envp)
    }

    /// Sends clients to this generation's child. Shared sockets need no switch: old and new child accept side
    /// by side.
    ///
    /// # Errors
    /// A text: the settings of a socket, or the symlink, could not be changed.
    pub(super) fn switch(&mut self, plan: &Plan) -> Result<(), String> {
        self.listeners.adjust().map_err(|error| error.to_string())?;
        self.repointed = match &plan.switch {
            Some(link) => Some(symlink::repoint(link).map_err(|error| error.to_string())?),
            None => None,
        };
        Ok(())
    }

    /// Writes this generation into the pidfile, unless it is there already: it may be if the predecessor was
    /// killed after a bake, and may have taken the file back before. `child`: the child's pid.
    ///
    /// # Errors
    /// A text: the pidfile can't be written, or another psflip holds it.
    pub(super) fn take_pidfile(
        &mut self,
        plan: &Plan,
        handover: &Handover,
        child: Option<u32>,
    ) -> Result<(), String> {
        let Some(path) = &plan.pidfile else { return Ok(()) };
        if let Some(taken) = &mut self.pidfile {
            return taken.mend().map(drop).map_err(|error| error.to_string());
        }
        // From the predecessor: by agreement if it is alive, and as a stale pidfile if it is not.
        let from = match handover.holder_of(&text::lossy(path)) {
            Some(_) => TakenFrom::OtherGeneration,
            None => TakenFrom::NoProcess,
        };
        let pidfile = Pidfile::take(path, from).map_err(|error| error.to_string())?;
        if child.is_some() && pidfile.replaced() == child {
            tracing::warn!(
                pidfile = %path.display(),
                child,
                "the child writes its own process ID to psflip's pidfile, and may remove the file; set another path for one of them"
            );
        }
        self.pidfile = Some(pidfile);
        Ok(())
    }

    /// Gives pidfile and symlink back to the predecessor, as far as this generation took them.
    pub(super) fn give_back(&mut self, handover: &Handover) {
        if let Some(pidfile) = self.pidfile.take() {
            let returned = match handover.holder_of(&text::lossy(pidfile.path())) {
                Some(pid) => pidfile.give_back(pid),
                None => pidfile.remove(),
            };
            if let Err(error) = returned {
                tracing::error!(%error, "can't return the pidfile to the predecessor");
            }
        }
        if let Some(repointed) = self.repointed.take()
            && let Err(error) = repointed.undo()
        {
            tracing::error!(%error, "the symlink still points to the failed generation");
        }
    }

    /// Records the settings before a successor may change them.
    pub(super) fn look_before_upgrade(&mut self, plan: &Plan) {
        let link = plan.switch.as_ref().map(symlink::SavedTarget::read);
        self.before_upgrade = Some(BeforeUpgrade { link, listeners: self.listeners.settings() });
    }

    /// A failed successor may have changed these, and may have been killed before it could undo that.
    pub(super) fn take_back(&mut self) {
        if let Some(pidfile) = &mut self.pidfile
            && let Err(error) = pidfile.reclaim()
        {
            tracing::error!(%error, "can't reclaim the pidfile from the failed generation");
        }
        let Some(BeforeUpgrade { link, listeners }) = self.before_upgrade.take() else { return };
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
    pub(super) fn let_go(&mut self) {
        self.listeners = Listeners::default();
    }

    /// psflip exits: removes the pidfile, if it still names this generation.
    pub(super) fn remove_pidfile(&mut self) {
        if let Some(pidfile) = self.pidfile.take()
            && let Err(error) = pidfile.remove()
        {
            tracing::warn!(%error, "can't remove the pidfile");
        }
    }
}
