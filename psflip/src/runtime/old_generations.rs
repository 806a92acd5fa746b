//! The old generations that drain before the predecessor (contract D3). The active generation has the
//! connections to them, and hands these over to its successor. Until its promotion a successor watches only
//! their processes.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::Runtime;
use super::handover::Handover;
use super::poller::Token;
use super::waiting::Waiting;
use crate::flip::{Event, Timer};
use crate::handover::predecessor::{FromPredecessor, OldLink, PredecessorLink};
use crate::handover::successor::Handed;
use crate::handover::{ToPredecessor, ToSuccessor};
use crate::history::Drain;
use crate::signal::Signal;
use crate::sys::errors::is_transient;
use crate::sys::seam::{self, Call};

/// The old generations before the predecessor, the oldest first.
#[derive(Debug, Default)]
pub(super) struct OlderGenerations {
    all: Vec<Older>,
    /// Watches their processes, and the connections that this generation reads from; the loop watches this.
    epoll: Option<Epoll>,
    /// This generation is the one that reads.
    reads: bool,
}

/// An old generation that drains.
#[derive(Debug)]
struct Older {
    generation: u64,
    pid: u32,
    link: PredecessorLink,
    /// Its current step, and the deadline for it.
    progress: Option<Progress>,
    /// The connection is read from.
    is_read: bool,
}

/// A step of draining, and the deadline for it.
pub(super) type Progress = (Drain, Instant);

/// What was received from an old generation.
enum News {
    /// A message.
    Message(u64, ToSuccessor),
    /// It has exited.
    Gone(Older),
}

/// An old generation that drains: the predecessor, or one before it.
pub(super) struct OldGeneration<'h> {
    pub(super) generation: u64,
    pub(super) pid: u32,
    link: &'h PredecessorLink,
}

impl OlderGenerations {
    /// Those that the predecessor handed over.
    pub(super) fn new(given: Vec<OldLink>) -> Self {
        let all = given.into_iter().map(|OldLink { generation, pid, link, ending: _, progress }| Older {
            generation,
            pid,
            link,
            progress: progress.map(until),
            is_read: false,
        });
        Self { all: all.collect(), epoll: None, reads: false }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u8 {
        u8::try_from(self.all.len()).unwrap_or(u8::MAX)
    }

    /// Their numbers, for people.
    pub(super) fn numbers(&self) -> String {
        let numbers: Vec<_> = self.all.iter().map(|old| old.generation.to_string()).collect();
        numbers.join(", ")
    }

    /// Each with its pid and its progress.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u32, Option<Progress>)> {
        self.all.iter().map(|old| (old.generation, old.pid, old.progress))
    }

    /// Watches their processes.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM, ENOSPC.
    pub(super) fn watch(&mut self, wait: &mut Waiting) -> io::Result<()> {
        if self.all.is_empty() {
            return Ok(());
        }
        seam::before(Call::EpollCreate)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for old in &self.all {
            seam::before(Call::EpollControl)?;
            epoll.add(old.link.process(), readable())?;
        }
        wait.poller.watch(Token::OlderGenerations, epoll.0.as_fd())?;
        self.epoll = Some(epoll);
        Ok(())
    }

    /// Begins to read from the connections, which only one generation may do.
    fn read(&mut self) {
        self.reads = true;
        let Some(epoll) = &self.epoll else { return };
        for old in self.all.iter_mut().filter(|old| !old.is_read) {
            let added = seam::before(Call::EpollControl);
            match added.and_then(|()| epoll.add(&old.link, readable())) {
                Ok(()) => old.is_read = true,
                // Its exit is noticed, and it can be stopped.
                Err(error) => {
                    tracing::error!(old_generation = old.generation, %error, "can't read from an old generation");
                }
            }
        }
    }

    /// What they have sent, and which of them have exited.
    fn news(&mut self, wait: &mut Waiting) -> Vec<News> {
        let mut news = Vec::new();
        let mut all = Vec::new();
        let unwatch = |descriptor: BorrowedFd<'_>| {
            if let Some(epoll) = &self.epoll {
                let _ = epoll.delete(descriptor); // it is not watched: the same
            }
        };
        for mut old in std::mem::take(&mut self.all) {
            let has_exited = old.link.process().has_exited(); // before its last messages are read
            let most = if has_exited { usize::MAX } else { AT_ONCE };
            for _ in 0..most {
                if !old.is_read {
                    break;
                }
                match old.link.receive() {
                    Ok(Some(FromPredecessor::Message(message))) => {
                        if let ToSuccessor::Draining { step, left } = &message {
                            old.progress = Some(until((*step, *left)));
                        }
                        news.push(News::Message(old.generation, message));
                    }
                    Ok(Some(
                        FromPredecessor::Start { .. }
                        | FromPredecessor::Logger(_)
                        | FromPredecessor::Reopen { .. },
                    )) => {}
                    Ok(None) => break,
                    Err(error) if is_transient(&error) => break, // read again at once
                    Ok(Some(FromPredecessor::Closed)) | Err(_) => {
                        old.is_read = false;
                        unwatch(old.link.as_fd());
                    }
                }
            }
            if has_exited {
                unwatch(old.link.as_fd());
                unwatch(old.link.process().as_fd());
                news.push(News::Gone(old));
            } else {
                all.push(old);
            }
        }
        self.all = all;
        if self.all.is_empty() {
            self.let_go(wait);
        }
        news
    }

    /// The successor has the connections now, or none is left.
    fn let_go(&mut self, wait: &mut Waiting) {
        wait.poller.forget(Token::OlderGenerations);
        *self = Self { reads: self.reads, ..Self::default() };
    }

    /// Its progress, as of the promotion or by this generation.
    pub(super) fn set_progress(&mut self, generation: u64, step: Drain, left: Duration) {
        if let Some(old) = self.all.iter_mut().find(|old| old.generation == generation) {
            old.progress = Some(until((step, left)));
        }
    }
}

fn readable() -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, 0)
}

fn until((step, left): (Drain, Duration)) -> Progress {
    (step, Instant::now() + left)
}

fn left(progress: Progress) -> (Drain, Duration) {
    let (step, until) = progress;
    (step, until.saturating_duration_since(Instant::now()))
}

/// All old generations of the service.
impl Handover {
    /// All that drain, the oldest first. Only for a generation that has taken over: before, the predecessor
    /// is the service.
    pub(super) fn old_generations(&self) -> impl Iterator<Item = OldGeneration<'_>> {
        let older = self.older.all.iter();
        let older = older.map(|Older { generation, pid, link, .. }| (*generation, *pid, link));
        let predecessor = self.predecessor.iter().map(|old| (old.generation, old.pid, &old.link));
        older.chain(predecessor).map(|(generation, pid, link)| OldGeneration { generation, pid, link })
    }

    /// Passes a request to open the files of `[output]` again on to all of them.
    pub(super) fn pass_reopen_back(&self, client: BorrowedFd<'_>) {
        for old in self.old_generations() {
            let _ = old.link.send_with(&ToPredecessor::Reopen, client); // it may be gone
        }
    }

    /// The pids of all psflips whose children run beside this one's.
    pub(super) fn old_psflips(&self) -> Vec<u32> {
        let older = self.older.all.iter().map(|old| old.pid);
        older.chain(self.predecessor_pid()).collect()
    }

    /// Sends a message to all of them.
    pub(super) fn report_to_old_generations(&self, message: &ToPredecessor) {
        for old in self.old_generations() {
            let _ = old.link.send(message); // if it is gone, its pidfd shows that
        }
    }

    /// Kills those that were requested to end at once, and have not.
    pub(super) fn kill_ending(&self) {
        for OldGeneration { generation, pid, link } in self.old_generations() {
            if !self.ending.contains(&generation) {
                continue;
            }
            tracing::error!(
                old_generation = generation,
                old_psflip = pid,
                "the old psflip does not exit at once; killing it"
            );
            if let Err(error) = link.process().send(Signal::KILL)
                && error.raw_os_error() != Some(libc::ESRCH)
            {
                tracing::error!(old_psflip = pid, %error, "can't kill the old psflip");
            }
        }
    }

    /// The messages that hand them over.
    pub(super) fn old_generations_to_hand_over(&self) -> impl Iterator<Item = Handed<'_>> {
        let progress = |generation: u64| {
            let older = self.older.all.iter().find(|old| old.generation == generation);
            older.map_or_else(|| self.predecessor.as_ref()?.progress, |old| old.progress)
        };
        self.old_generations().map(move |OldGeneration { generation, pid, link }| Handed {
            message: ToSuccessor::Older {
                generation,
                pid,
                ending: self.ending.contains(&generation),
                progress: progress(generation).map(left),
            },
            descriptors: vec![link.as_fd(), link.process().as_fd()],
        })
    }

    /// Its step of draining.
    pub(super) fn set_progress(&mut self, step: Drain, left: Duration) {
        if let Some(old) = &mut self.predecessor {
            old.progress = Some(until((step, left)));
        }
    }

    /// The successor is promoted, and has the connections to them.
    pub(super) fn let_old_generations_go(&mut self, wait: &mut Waiting) {
        let older = self.older.iter().map(|(generation, _, progress)| (generation, progress));
        let predecessor = self.predecessor.iter().map(|old| (old.generation, old.progress));
        for (generation, progress) in older.chain(predecessor) {
            if let Some((step, left)) = progress.map(left) {
                self.send_to_successor(&ToSuccessor::OlderDraining { generation, step, left }); // it may be dead
            }
        }
        self.older.let_go(wait);
        if self.predecessor.is_some() {
            self.forget_predecessor(wait);
        }
    }
}

impl Runtime {
    /// From now on the old generations are this one's: to read from, to stop and to end.
    pub(super) fn take_older_generations_over(&mut self) {
        self.handover.older.read();
        if !self.handover.ending.is_empty() {
            self.set_timer(Timer::Ending);
        }
    }

    /// Handles what the old generations before the predecessor have sent, and their exits.
    pub(super) fn on_older_generations(&mut self) {
        let reads = self.handover.older.reads;
        let news = self.handover.older.news(&mut self.wait);
        for one in news {
            match one {
                News::Message(from, ToSuccessor::Draining { step, left: _ }) => {
                    self.operators.record_older_drain(from, step);
                    if self.machine.state.awaits_predecessor() {
                        self.set_timer(Timer::Predecessor);
                    }
                }
                News::Message(_, ToSuccessor::Upgrade { by }) => {
                    self.operators.log.set_requester(by);
                    self.dispatch(Event::RequestPassedOn);
                }
                News::Message(from, ToSuccessor::Answered { passed_on, waited_for }) => {
                    self.operators.record_older_answered(from, passed_on, waited_for);
                }
                News::Message(..) => {} // the rest is for a successor before its promotion
                News::Gone(Older { generation, pid, .. }) => {
                    self.handover.ending.retain(|ending| *ending != generation);
                    self.operators.record_older_gone(generation);
                    if reads {
                        tracing::info!(
                            old_generation = generation,
                            old_psflip = pid,
                            "an old generation is gone"
                        );
                    }
                    self.dispatch(Event::OldGenerationGone);
                }
            }
        }
        self.drain_queue();
    }

    /// Requests old generations that drain to end at once: the oldest, because one more is about to drain, or
    /// all, because an operator does not wait for them.
    pub(super) fn end_old_generations(&mut self, all: bool) {
        let most = if all { usize::MAX } else { 1 };
        let from = self.operators.end_draining_from.clone().filter(|_| all);
        let reason = if all {
            "requested by --end-draining"
        } else {
            "as many old generations drain as may (`upgrade.draining`)"
        };
        let mut ending = Vec::new();
        for OldGeneration { generation, pid, link } in self.handover.old_generations().take(most) {
            if self.handover.ending.contains(&generation) {
                continue;
            }
            tracing::warn!(
                old_generation = generation,
                old_psflip = pid,
                from,
                reason,
                "killing the old generation, which still drains"
            );
            let _ = link.send(&ToPredecessor::End); // if it is gone, its pidfd shows that
            ending.push(generation);
        }
        if !ending.is_empty() {
            self.handover.ending.extend(ending);
            self.wait.timers.clear(super::Key::Flip(Timer::Ending)); // armed next, for all of them
        }
    }

    /// Kills the old generations that were requested to end at once, and have not.
    pub(super) fn kill_ending(&mut self) {
        self.handover.kill_ending();
        if self
            .handover
            .predecessor
            .as_ref()
            .is_some_and(|old| self.handover.ending.contains(&old.generation))
        {
            self.handover.set_progress(Drain::Killed, super::KILL);
            self.operators.record_drain_step(Drain::Killed); // its child is killed with it (C7)
        }
        for generation in self.handover.ending.clone() {
            self.handover.older.set_progress(generation, Drain::Killed, super::KILL);
            if self.handover.older.iter().any(|(older, ..)| older == generation) {
                self.operators.record_older_drain(generation, Drain::Killed);
            }
        }
    }
}

/// How many messages of one are read before other descriptors get their turn.
const AT_ONCE: usize = 50;
