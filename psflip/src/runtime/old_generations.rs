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
use crate::sys::seam::{self, Call};

/// The old generations before the predecessor, the oldest first.
#[derive(Debug, Default)]
pub(super) struct OlderGenerations {
    all: Vec<Older>,
    /// Watches all of them; the loop watches this.
    epoll: Option<Epoll>,
}

/// An old generation that drains.
#[derive(Debug)]
pub(super) struct Older {
    pub(super) generation: u64,
    pub(super) pid: u32,
    link: PredecessorLink,
    /// Its current step, and the deadline for it.
    progress: Option<Progress>,
    /// It has closed its end of the connection.
    closed: bool,
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
        let all = given.into_iter().map(|OldLink { generation, pid, link, progress }| Older {
            generation,
            pid,
            link,
            progress: progress.map(until),
            closed: false,
        });
        Self { all: all.collect(), epoll: None }
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

    /// Watches their processes. `reads`: and their connections, from which only the active generation reads.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM, ENOSPC.
    pub(super) fn watch(&mut self, reads: bool, wait: &mut Waiting) -> io::Result<()> {
        wait.poller.forget(Token::OlderGenerations);
        self.epoll = None;
        if self.all.is_empty() {
            return Ok(());
        }
        seam::before(Call::EpollCreate)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let event = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        for old in &self.all {
            epoll.add(old.link.process(), event())?;
            if reads && !old.closed {
                epoll.add(&old.link, event())?;
            }
        }
        wait.poller.watch(Token::OlderGenerations, epoll.0.as_fd())?;
        self.epoll = Some(epoll);
        Ok(())
    }

    /// What they have sent, and which of them have exited. `reads` as for [`OlderGenerations::watch`].
    fn news(&mut self, reads: bool) -> Vec<News> {
        let mut news = Vec::new();
        let mut all = Vec::new();
        for mut old in std::mem::take(&mut self.all) {
            let has_exited = old.link.process().has_exited(); // before its last messages are read
            while reads && !old.closed {
                match old.link.receive() {
                    Ok(Some(FromPredecessor::Message(message))) => {
                        if let ToSuccessor::Draining { generation: None, step, left } = &message {
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
                    Ok(Some(FromPredecessor::Closed)) | Err(_) => old.closed = true,
                }
            }
            if has_exited {
                news.push(News::Gone(old));
            } else {
                all.push(old);
            }
        }
        self.all = all;
        news
    }

    /// The successor has the connections now.
    fn let_go(&mut self, wait: &mut Waiting) {
        wait.poller.forget(Token::OlderGenerations);
        *self = Self::default();
    }

    /// What the predecessor has read before this generation took over.
    pub(super) fn set_progress(&mut self, generation: u64, step: Drain, left: Duration) {
        if let Some(old) = self.all.iter_mut().find(|old| old.generation == generation) {
            old.progress = Some(until((step, left)));
        }
    }
}

fn until((step, left): (Drain, Duration)) -> Progress {
    (step, Instant::now() + left)
}

fn left(progress: Progress) -> (Drain, Duration) {
    let (step, until) = progress;
    (step, until.saturating_duration_since(Instant::now()))
}

/// The message that hands an old generation over, with its descriptors.
fn handed(generation: u64, pid: u32, link: &PredecessorLink, progress: Option<Progress>) -> Handed<'_> {
    Handed {
        message: ToSuccessor::Older { generation, pid, progress: progress.map(left) },
        descriptors: vec![link.as_fd(), link.process().as_fd()],
    }
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

    /// Passes a stop request on to all of them.
    pub(super) fn pass_stop_back(&self) {
        for old in self.old_generations() {
            let _ = old.link.send(&ToPredecessor::Stop); // if it is gone, its pidfd shows that
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
        let older = self.older.all.iter();
        let older = older.map(|old| handed(old.generation, old.pid, &old.link, old.progress));
        let predecessor = self.predecessor.iter();
        older.chain(predecessor.map(|old| handed(old.generation, old.pid, &old.link, old.progress)))
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
                let generation = Some(generation);
                self.send_to_successor(&ToSuccessor::Draining { generation, step, left }); // it may be dead
            }
        }
        self.older.let_go(wait);
        if self.predecessor.is_some() {
            self.forget_predecessor(wait);
        }
    }
}

impl Runtime {
    /// The connections to the old generations are this one's now.
    pub(super) fn read_from_older_generations(&mut self) {
        self.watch_older_generations(true);
    }

    /// Without that, nobody would wait for them: neither the next upgrade nor a stop.
    fn watch_older_generations(&mut self, reads: bool) {
        if let Err(error) = self.handover.older.watch(reads, &mut self.wait) {
            tracing::error!(%error, "can't watch the old generations that drain; no longer waiting for them");
            for _ in 0..self.handover.older.count() {
                self.machine.push(Event::OldGenerationGone);
            }
            self.handover.older.let_go(&mut self.wait);
        }
    }

    /// Handles what the old generations before the predecessor have sent, and their exits.
    pub(super) fn on_older_generations(&mut self) {
        let reads = self.machine.state.has_taken_over();
        let news = self.handover.older.news(reads);
        self.watch_older_generations(reads);
        for one in news {
            match one {
                News::Message(from, ToSuccessor::Draining { generation: None, step, left: _ }) => {
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
        for (generation, _, _) in self.handover.older.iter() {
            if self.handover.ending.contains(&generation) {
                self.operators.record_older_drain(generation, Drain::Killed);
            }
        }
    }
}
