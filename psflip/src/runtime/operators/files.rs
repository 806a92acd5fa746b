//! The files by which other processes find this psflip: pidfile and control socket. Another process may
//! remove or replace them: a cleaner of temporary files, a child that uses the same path, a person. psflip
//! checks them whenever something else happens (an upgrade, a request, the exit of an old generation). It
//! watches them by inotify(7) only in directories that every user may write to (`/tmp`), since inotify
//! instances are scarce: their number is limited for each user.

use std::io;
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::control::Control;
use crate::config::Plan;
use crate::manager::pidfile::{Mended, Pidfile, is_open_to_all};
use crate::runtime::poller::Token;
use crate::runtime::waiting::Waiting;

/// The events of a file that lost its name, or whose content changed.
const EVENTS: AddWatchFlags = AddWatchFlags::IN_ATTRIB
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_DONT_FOLLOW);

/// What psflip knows of the two files.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Files {
    watch: Option<Inotify>,
    /// The last logged error about the pidfile and about the socket, if it still persists.
    reported: [Option<String>; 2],
}

impl Files {
    /// Writes the pidfile and creates the control socket again if they are gone. `child`: the child's pid.
    pub(super) fn mend(
        &mut self,
        pidfile: Option<&mut Pidfile>,
        control: &mut Control,
        plan: &Plan,
        child: Option<u32>,
    ) {
        if let Some(pidfile) = pidfile {
            self.mend_pidfile(pidfile, child);
        }
        let mended = control.mend(plan);
        self.log_mended_control(mended);
    }

    /// Watches files in directories that every user may write to. If that fails, changes are found when
    /// something else happens.
    pub(super) fn watch(
        &mut self,
        pidfile: Option<&Pidfile>,
        control: &Control,
        plan: &Plan,
        wait: &mut Waiting,
    ) {
        let control = plan.control.path(plan.pidfile.as_deref()).filter(|_| control.is_there());
        let pidfile = pidfile.map(|pidfile| pidfile.path().to_owned());
        let mut paths = pidfile.into_iter().chain(control).filter(|path| is_open_to_all(path)).peekable();
        if paths.peek().is_none() {
            return;
        }
        let watched = self.inotify(wait).and_then(|inotify| {
            paths.try_for_each(|path| inotify.add_watch(&path, EVENTS).map(drop).map_err(io::Error::from))
        });
        if let Err(error) = watched {
            tracing::debug!(%error, "can't watch pidfile and control socket");
        }
    }

    /// Something changed one of the files. `is_over`: they belong to a successor.
    pub(in crate::runtime) fn read_changes(&mut self, is_over: bool, wait: &mut Waiting) {
        // Drains the queue first, so that later changes are a new event.
        if let Some(inotify) = &self.watch {
            while inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
        }
        if is_over {
            wait.poller.forget(Token::Files);
            self.watch = None;
        }
    }

    fn mend_pidfile(&mut self, pidfile: &mut Pidfile, child: Option<u32>) {
        let mended = pidfile.mend();
        let path = pidfile.path().display();
        let reported = match mended {
            Ok(None) => None,
            Ok(Some(Mended::Gone)) => {
                tracing::warn!(pidfile = %path, "another process removed the pidfile; psflip has written it again");
                None
            }
            Ok(Some(Mended::Names(pid))) => {
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
        if let Some(error) = reported.as_ref().filter(|_| reported != self.reported[0]) {
            tracing::error!(error, "the pidfile does not name this psflip any more");
        }
        self.reported[0] = reported;
    }

    fn log_mended_control(&mut self, mended: Result<bool, String>) {
        let reported = match mended {
            Ok(false) => None,
            Ok(true) => {
                tracing::warn!("another process removed the control socket; psflip has made it again");
                None
            }
            Err(error) => Some(error),
        };
        if let Some(error) = reported.as_ref().filter(|_| reported != self.reported[1]) {
            tracing::error!(
                error,
                "another process removed the control socket, and psflip can't make it again"
            );
        }
        self.reported[1] = reported;
    }

    fn inotify(&mut self, wait: &mut Waiting) -> io::Result<&Inotify> {
        if self.watch.is_none() {
            let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            wait.poller.watch(Token::Files, inotify.as_fd())?;
            self.watch = Some(inotify);
        }
        self.watch.as_ref().ok_or_else(|| Errno::ENOENT.into())
    }
}
