//! Waits for all descriptors at once (epoll(7)).

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use crate::sys::memory::{self, Code};
use crate::sys::seam::{self, Call};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// What can become ready, in the order in which it is handled. Messages of processes come before timers. So a
/// psflip that was stopped for a while does not give up on a process that was in time (F12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Token {
    /// The anchor's death.
    Anchor,
    /// The exit of the process that forked this one, after which the anchor is the parent.
    FormerParent,
    /// The processes below a child that settles. Before the child's own exit, which theirs may explain.
    Descendants,
    /// The keeper of the child.
    Tree,
    /// The child's process, until its keeper has reported the exit.
    Child,
    /// The relay's reports.
    Relay,
    /// The exit of the process that reads the child's standard output, or both streams.
    Stdout,
    /// The same of standard error.
    Stderr,
    /// The successor's messages.
    Successor,
    /// The successor's process.
    SuccessorProcess,
    /// The predecessor's messages.
    Predecessor,
    /// The predecessor's process.
    PredecessorProcess,
    /// The old generations before the predecessor: messages and processes.
    OlderGenerations,
    /// What is left of the process tree of a successor that is gone.
    SuccessorTree,
    /// What is left of the process tree of a predecessor that was killed.
    PredecessorTree,
    /// The health check.
    Check,
    /// `NOTIFY_SOCKET` of the child.
    Notifications,
    /// `upgrade.precheck`.
    Precheck,
    /// `hooks.promote`.
    PromoteHook,
    /// `hooks.promoted`.
    PromotedHook,
    /// `hooks.failed`.
    FailedHook,
    /// `hooks.rolled_back`.
    RolledBackHook,
    /// Room for messages to the service manager.
    Managers,
    /// The control socket and its clients.
    Control,
    /// Pidfile and control socket.
    Files,
    /// The files that request an upgrade when they change.
    Changes,
    /// Signals.
    Signals,
    /// The timers.
    Timers,
}

const TOKENS: [Token; 28] = [
    Token::Anchor,
    Token::FormerParent,
    Token::Descendants,
    Token::Tree,
    Token::Child,
    Token::Relay,
    Token::Stdout,
    Token::Stderr,
    Token::Successor,
    Token::SuccessorProcess,
    Token::Predecessor,
    Token::PredecessorProcess,
    Token::OlderGenerations,
    Token::SuccessorTree,
    Token::PredecessorTree,
    Token::Check,
    Token::Notifications,
    Token::Precheck,
    Token::PromoteHook,
    Token::PromotedHook,
    Token::FailedHook,
    Token::RolledBackHook,
    Token::Managers,
    Token::Control,
    Token::Files,
    Token::Changes,
    Token::Signals,
    Token::Timers,
];

/// A set of descriptors to wait for.
#[derive(Debug)]
pub(super) struct Poller {
    epoll: Epoll,
    /// The descriptor number of each token, needed to unregister it even if its owner has closed it.
    registered: [Option<RawFd>; TOKENS.len()],
}

impl Poller {
    /// Creates an empty set.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub(super) fn new() -> io::Result<Self> {
        seam::before(Call::EpollCreate)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, registered: [None; TOKENS.len()] })
    }

    /// Waits for this descriptor to be readable. Replaces the descriptor that the token had before.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC: see epoll_ctl(2).
    pub(super) fn watch(&mut self, token: Token, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.watch_for(token, fd, EpollFlags::EPOLLIN)
    }

    /// As [`Poller::watch`], for these conditions.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC.
    pub(super) fn watch_for(
        &mut self,
        token: Token,
        fd: BorrowedFd<'_>,
        flags: EpollFlags,
    ) -> io::Result<()> {
        let is_known = self.registered[token as usize] == Some(fd.as_raw_fd());
        if !is_known {
            self.forget(token);
        }
        seam::before(Call::EpollControl)?;
        let mut event = EpollEvent::new(flags, token as u64);
        // `is_known` may be wrong: a known number may be another file by now, and a new number may be a file
        // that is already watched.
        let changed = if is_known { self.epoll.modify(fd, &mut event) } else { self.epoll.add(fd, event) };
        match changed {
            Err(Errno::ENOENT) => self.epoll.add(fd, event)?,
            Err(Errno::EEXIST) => self.epoll.modify(fd, &mut event)?,
            other => other?,
        }
        self.registered[token as usize] = Some(fd.as_raw_fd());
        Ok(())
    }

    /// Unregisters the descriptor of this token.
    pub(super) fn forget(&mut self, token: Token) {
        if let Some(number) = self.registered[token as usize].take() {
            crate::sys::fd::forget_in_epoll(self.epoll.0.as_fd(), number);
        }
    }

    /// Waits until descriptors are ready, at most for this time, and returns their tokens, in the order of
    /// [`Token`].
    ///
    /// # Errors
    /// None, if the set is valid.
    pub(super) fn wait(&self, at_most: Option<Duration>) -> io::Result<Vec<Token>> {
        let timeout = at_most
            .map_or(EpollTimeout::NONE, |time| EpollTimeout::try_from(time).unwrap_or(EpollTimeout::MAX));
        let mut events = [EpollEvent::empty(); TOKENS.len()];
        let waited = seam::before(Call::EpollWait).and_then(|()| self.epoll.wait(&mut events, timeout));
        let count = match waited {
            Ok(count) => count,
            Err(Errno::EINTR) => 0, // from a debugger, or a stop and continue
            Err(errno) => return Err(errno.into()),
        };
        let mut tokens: Vec<Token> =
            events[..count].iter().filter_map(|event| TOKENS.get(event.data() as usize).copied()).collect();
        tokens.sort_unstable();
        Ok(tokens)
    }

    /// Waits until something is ready, without the code that this process has loaded.
    pub(super) fn wait_without_code(&self) {
        let mut fds = [PollFd::new(self.epoll.0.as_fd(), PollFlags::POLLIN)];
        // If it fails, `wait` waits.
        let _ = seam::before(Call::Poll)
            .and_then(|()| memory::poll(&mut fds, PollTimeout::NONE, Code::IsDropped));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn tokens_are_their_own_index() {
        for (index, token) in TOKENS.iter().enumerate() {
            assert_eq!(index, *token as usize);
        }
    }

    #[test]
    fn messages_are_handled_before_timers() {
        // Contract: F12
        let mut poller = Poller::new().unwrap();
        let (early, mut early_writer) = std::io::pipe().unwrap();
        let (late, mut late_writer) = std::io::pipe().unwrap();
        poller.watch(Token::Timers, late.as_fd()).unwrap();
        poller.watch(Token::Successor, early.as_fd()).unwrap();
        late_writer.write_all(b"x").unwrap();
        early_writer.write_all(b"x").unwrap();
        assert_eq!(poller.wait(None).unwrap(), [Token::Successor, Token::Timers]);
        poller.forget(Token::Successor);
        assert_eq!(poller.wait(None).unwrap(), [Token::Timers]);
    }

    #[test]
    fn a_reused_descriptor_number_is_watched_again() {
        let mut poller = Poller::new().unwrap();
        for _ in 0..2 {
            let (reader, mut writer) = std::io::pipe().unwrap();
            poller.watch(Token::Check, reader.as_fd()).unwrap();
            writer.write_all(b"x").unwrap();
            assert_eq!(poller.wait(None).unwrap(), [Token::Check]);
        }
    }
}
