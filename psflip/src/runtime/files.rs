//! The files by which other processes find this psflip: pidfile and control socket. Another process may
//! remove or replace them: a cleaner of temporary files, a child that uses the same path, a person. psflip
//! checks them whenever something else happens (an upgrade, a request, the exit of an old generation). It
//! watches them by inotify(7) only in directories that every user may write to (`/tmp`), since inotify
//! instances are scarce: their number is limited for each user.

use std::io;
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::Runtime;
use super::poller::Token;
use crate::manager::pidfile::{Mended, is_open_to_all};
use crate::process::keeper::Tree;

/// The events of a file that lost its name, or whose content changed.
const EVENTS: AddWatchFlags = AddWatchFlags::IN_ATTRIB
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_DONT_FOLLOW);

/// What psflip knows of the two files.
#[derive(Debug, Default)]
pub(super) struct Files {
    watch: Option<Inotify>,
    /// The last logged error about the pidfile and about the socket, if it still persists.
    told: [Option<String>; 2],
}

impl Runtime {
    /// Writes the pidfile and creates the control socket again if they are gone and belong to this
    /// generation.
    pub(super) fn look_after_files(&mut self) {
        if self.state.is_service() && self.state.successor().is_none() {
            self.mend_files();
            self.watch_files();
        }
    }

    /// As [`Runtime::look_after_files`], but in every state.
    pub(super) fn mend_files(&mut self) {
        self.mend_pidfile();
        self.mend_control();
    }

    fn mend_pidfile(&mut self) {
        let Some(pidfile) = &mut self.pidfile else { return };
        let mended = pidfile.mend();
        let path = pidfile.path().display();
        let told = match mended {
            Ok(None) => None,
            Ok(Some(Mended::Gone)) => {
                tracing::warn!(pidfile = %path, "another process removed the pidfile; psflip has written it again");
                None
            }
            Ok(Some(Mended::Names(pid))) => {
                let child = self.tree.as_ref().and_then(Tree::child_pid);
                tracing::warn!(
                    pidfile = %path,
                    pid,
                    child,
                    "another process changed the pidfile; psflip has written it again; let no other program use this path"
                );
                None
            }
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = told.as_ref().filter(|_| told != self.files.told[0]) {
            tracing::error!(error, "the pidfile does not name this psflip any more");
        }
        self.files.told[0] = told;
    }

    fn mend_control(&mut self) {
        let told = match self.mend_control_socket() {
            Ok(false) => None,
            Ok(true) => {
                tracing::warn!("another process removed the control socket; psflip has made it again");
                None
            }
            Err(error) => Some(error),
        };
        if let Some(error) = told.as_ref().filter(|_| told != self.files.told[1]) {
            tracing::error!(
                error,
                "another process removed the control socket, and psflip can't make it again"
            );
        }
        self.files.told[1] = told;
    }

    /// Watches files in directories that every user may write to. If that fails, changes are found when
    /// something else happens.
    fn watch_files(&mut self) {
        let control = self.plan.control.path(self.plan.pidfile.as_deref());
        let control = control.filter(|_| self.has_control());
        let pidfile = self.pidfile.as_ref().map(|pidfile| pidfile.path().to_owned());
        let mut paths = pidfile.into_iter().chain(control).filter(|path| is_open_to_all(path)).peekable();
        if paths.peek().is_none() {
            return;
        }
        let watched = self.inotify().and_then(|inotify| {
            paths.try_for_each(|path| inotify.add_watch(&path, EVENTS).map(drop).map_err(io::Error::from))
        });
        if let Err(error) = watched {
            tracing::debug!(%error, "can't watch pidfile and control socket");
        }
    }

    fn inotify(&mut self) -> io::Result<&Inotify> {
        if self.files.watch.is_none() {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            self.poller.watch(Token::Files, inotify.as_fd())?;
            self.files.watch = Some(inotify);
        }
        self.files.watch.as_ref().ok_or_else(|| Errno::ENOENT.into())
    }

    /// Something changed one of the files.
    pub(super) fn files_changed(&mut self) {
        // Drains the queue first, so that later changes are a new event.
        if let Some(inotify) = &self.files.watch {
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
        if self.state.is_superseded() {
            self.poller.forget(Token::Files);
            self.files.watch = None;
        }
        self.look_after_files();
    }
}
