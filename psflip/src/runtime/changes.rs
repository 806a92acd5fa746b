//! Upgrades that psflip requests because files have changed (`psflip run --watch`, contract R4).

use std::os::fd::AsFd as _;

use super::Runtime;
use super::poller::Token;
use super::timers::Key;
use crate::changes::Changes;
use crate::flip::Notice;
use crate::history;

impl Runtime {
    /// From now on, changes of these files request an upgrade.
    pub(super) fn watch_changes(&mut self, changes: Option<Box<Changes>>) {
        let Some(changes) = changes else { return };
        if let Err(error) = self.wait.poller.watch(Token::Changes, changes.as_fd()) {
            tracing::error!(%error, "can't watch for changes (`--watch`)");
            return;
        }
        if self.identity.generation == 1 {
            let (directories, files) = changes.counts();
            tracing::info!(directories, files, "watching for changes");
        }
        self.changes = Some(changes);
    }

    /// Something happened to a file.
    pub(super) fn on_changes(&mut self) {
        if let Some(time) = self.changes.as_mut().and_then(|changes| changes.on_ready()) {
            self.wait.timers.set(Key::Changes, time);
        }
    }

    /// The files have been left alone for a moment.
    pub(super) fn changes_settled(&mut self) {
        let Some(changes) = &mut self.changes else { return };
        match changes.compare() {
            Ok(changed) if changed.is_empty() => {}
            Ok(changed) => {
                let reason = history::changed(&changes.in_words(&changed));
                self.request_upgrade(&reason);
            }
            Err(error) => tracing::error!(error, "some changes will not be noticed"),
        }
    }

    /// What a notice means for the watched files.
    pub(super) fn notice_for_changes(&mut self, notice: Notice) {
        match notice {
            // The new generation reads the files as they are now.
            Notice::UpgradeStarted => {
                self.wait.timers.clear(Key::Changes);
                if let Some(changes) = &mut self.changes {
                    let _ = changes.compare(); // the next comparison reports the error
                }
            }
            // The new generation watches.
            Notice::Superseded => {
                self.wait.timers.clear(Key::Changes);
                self.wait.poller.forget(Token::Changes);
                self.changes = None;
            }
            _ => {}
        }
    }
}
