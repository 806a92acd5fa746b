//! The generations next to this one, as long as they are there: the predecessor, and the successor of an
//! upgrade. `crate::handover` has the messages.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::old_generations::OlderGenerations;
use super::poller::Token;
use super::waiting::Waiting;
use super::{KILL, Predecessor};
use crate::anchor::AnchorLink;
use crate::flip::Successor;
use crate::handover::predecessor::{Acknowledged, OldLink};
use crate::handover::successor::{Handed, SuccessorLink};
use crate::handover::{Hello, ToPredecessor, ToSuccessor};
use crate::process::invocation::Program;
use crate::proxy::Hold;
use crate::signal::Signal;
use crate::sys::pidfd::PidFd;
use crate::sys::process;
use crate::sys::signal::Received;
use crate::sys::socket::Socket;
use crate::sys::tree;

/// How long a successor may take to give the traffic back before it is killed. Its relay accepts meanwhile.
const RETURN: Duration = Duration::from_secs(5);

/// The links to the neighbours, and to older generations that drain.
#[derive(Debug)]
pub(super) struct Handover {
    pub(super) predecessor: Option<Predecessor>,
    pub(super) successor: Option<SuccessorLink>,
    /// The old generations before the predecessor.
    pub(super) older: OlderGenerations,
    /// The numbers of the old generations that were requested to end at once.
    pub(super) ending: Vec<u64>,
    /// The process that starts the successor and exits at once, until it is reaped.
    intermediate: Option<u32>,
    /// Why no successor could be started.
    start_error: Option<String>,
    /// Once the successor's child may start: the other end is open while the successor or the keeper of its
    /// child is there.
    successor_tree: Option<Socket>,
    /// The keeper of the predecessor's child, until this generation's may start.
    predecessor_keeper: Option<PidFd>,
    /// Kept open for the predecessor, as the keeper of the child does that inherits it.
    lease: Option<OwnedFd>,
}

/// What became of the acknowledgement.
pub(super) enum Committed {
    /// It was sent: the successor is promoted.
    Yes,
    /// It was not sent, and nothing has changed. The value is the requester of the queued upgrade.
    No(Option<String>),
}

impl Handover {
    /// The links of a new generation.
    pub(super) fn new(
        predecessor: Option<Predecessor>,
        older: Vec<OldLink>,
        predecessor_keeper: Option<PidFd>,
    ) -> Self {
        Self {
            predecessor,
            successor: None,
            ending: older.iter().filter(|old| old.ending).map(|old| old.generation).collect(),
            older: OlderGenerations::new(older),
            intermediate: None,
            start_error: None,
            successor_tree: None,
            predecessor_keeper,
            lease: None,
        }
    }
}

/// The predecessor.
impl Handover {
    /// Its pid.
    pub(super) fn predecessor_pid(&self) -> Option<u32> {
        self.predecessor.as_ref().map(|predecessor| predecessor.pid)
    }

    /// Whether it knows what a bake is.
    pub(super) fn predecessor_bakes(&self) -> bool {
        self.predecessor.as_ref().is_some_and(|predecessor| predecessor.bakes)
    }

    /// The pid of a predecessor that has not exited. Its exit may not have been handled yet.
    pub(super) fn living_predecessor(&self) -> Option<u32> {
        let living = self.predecessor.as_ref().filter(|old| !old.link.process().has_exited());
        living.map(|predecessor| predecessor.pid)
    }

    /// The pid of the predecessor, if it held this pidfile.
    pub(super) fn holder_of(&self, pidfile: &str) -> Option<u32> {
        let holder =
            self.predecessor.as_ref().filter(|predecessor| predecessor.pidfile.as_deref() == Some(pidfile));
        holder.map(|predecessor| predecessor.pid)
    }

    /// Sends it a message.
    ///
    /// # Errors
    /// EPIPE: there is none, or it is gone, which its pidfd shows as well.
    pub(super) fn send_to_predecessor(&self, message: &ToPredecessor) -> io::Result<()> {
        match &self.predecessor {
            Some(Predecessor { link, .. }) => link.send(message),
            None => Err(io::Error::from_raw_os_error(libc::EPIPE)),
        }
    }

    /// Reports to it. Nothing depends on that, and it may be gone.
    pub(super) fn report(&self, message: &ToPredecessor) {
        let _ = self.send_to_predecessor(message); // if it is gone, its pidfd shows that
    }

    /// Stops reading from it. Returns the acknowledgement if it had been sent.
    ///
    /// # Errors
    /// As [`crate::handover::predecessor::PredecessorLink::withdraw`].
    pub(super) fn withdraw(&self, wait: &mut Waiting) -> io::Result<Option<Acknowledged>> {
        let answer = match &self.predecessor {
            Some(Predecessor { link, .. }) => link.withdraw(),
            None => Ok(None),
        };
        wait.poller.forget(Token::Predecessor);
        answer
    }

    /// This generation may start its child. The predecessor's end of `lease` shows it when this process and
    /// the keeper of the child are gone.
    pub(super) fn keep_lease(&mut self, lease: OwnedFd) {
        self.lease = Some(lease);
        self.predecessor_keeper = None;
    }

    /// Whether it has stopped its child for this generation's, and has not exited.
    pub(super) fn has_turn(&self) -> bool {
        self.lease.is_some()
    }

    /// A copy of the lease for the keeper of this generation's child.
    ///
    /// # Errors
    /// EMFILE.
    pub(super) fn lease(&self) -> io::Result<Option<OwnedFd>> {
        self.lease.as_ref().map(OwnedFd::try_clone).transpose()
    }

    /// This generation's child does not wait for the end of its child.
    pub(super) fn forget_keeper(&mut self) {
        self.predecessor_keeper = None;
    }

    /// Watches the keeper of its child. Returns false if there is none to wait for.
    pub(super) fn watch_predecessor_tree(&mut self, wait: &mut Waiting) -> bool {
        self.predecessor_keeper.take_if(|keeper| keeper.has_exited());
        let Some(keeper) = &self.predecessor_keeper else { return false };
        let watched = wait.poller.watch(Token::PredecessorTree, keeper.as_fd());
        if let Err(error) = watched {
            tracing::error!(%error, "can't wait for the old child's keeper, only for a while");
        }
        true
    }

    /// The keeper of its child has exited.
    pub(super) fn forget_predecessor_tree(&mut self, wait: &mut Waiting) {
        wait.poller.forget(Token::PredecessorTree);
        self.predecessor_keeper = None;
    }

    /// It has exited.
    pub(super) fn forget_predecessor(&mut self, wait: &mut Waiting) {
        wait.poller.forget(Token::PredecessorProcess);
        wait.poller.forget(Token::Predecessor);
        self.predecessor = None;
        self.lease = None;
    }
}

/// The successor.
impl Handover {
    /// Lets it start its child. If it can't be reached, it is killed. Returns false if there is no process to
    /// wait for.
    pub(super) fn grant_turn(&mut self, waiting_since: Option<u64>) -> bool {
        let Some(link) = &mut self.successor else { return false };
        let granted = Socket::pair().and_then(|(ours, theirs)| {
            link.grant_turn(waiting_since, &theirs)?;
            Ok(ours)
        });
        match granted {
            Ok(ours) => {
                self.successor_tree = Some(ours);
                true
            }
            Err(error) => {
                link.set_failure(format!("the new psflip can't be told to start its child: {error}"));
                self.successor_misbehaved()
            }
        }
    }

    /// Watches what is left of its process tree. Returns false if there is nothing.
    pub(super) fn watch_successor_tree(&self, wait: &mut Waiting) -> bool {
        let Some(tree) = &self.successor_tree else { return false };
        if let Err(error) = wait.poller.watch(Token::SuccessorTree, tree.as_fd()) {
            tracing::error!(%error, "can't wait for the new child's keeper, only for a while");
        }
        true
    }

    /// Nothing is left of its process tree.
    pub(super) fn forget_successor_tree(&mut self, wait: &mut Waiting) {
        wait.poller.forget(Token::SuccessorTree);
        self.successor_tree = None;
    }

    /// Its pid and process, once it has reported them.
    pub(super) fn successor_process(&self) -> Option<(u32, &PidFd)> {
        self.successor.as_ref().and_then(SuccessorLink::process)
    }

    /// Starts it. `inheritance`: the messages that follow `hello`, before those about old generations.
    /// psflip is no subreaper until it has reaped the process between the two (`process/reaper.rs`). Returns
    /// whether that worked.
    pub(super) fn start_successor<'s>(
        &mut self,
        program: &Program,
        hello: Hello,
        inheritance: impl Iterator<Item = Handed<'s>>,
        deadline: Duration,
        anchor: Option<&AnchorLink>,
        wait: &mut Waiting,
    ) -> bool {
        let older = self.old_generations_to_hand_over();
        let result = process::set_subreaper(false).and_then(|()| {
            SuccessorLink::start(program, hello, inheritance, older, deadline, anchor, |end| {
                wait.poller.watch(Token::Successor, end)
            })
        });
        match result {
            Ok((link, intermediate)) => {
                self.intermediate = Some(intermediate);
                self.successor = Some(link);
                true
            }
            Err(error) => {
                wait.poller.forget(Token::Successor);
                become_subreaper_again();
                self.start_error = Some(format!("can't start a new psflip: {error}"));
                false
            }
        }
    }

    /// The process between this one and the successor, as long as it is there.
    pub(super) fn intermediate(&self) -> Option<u32> {
        self.intermediate
    }

    /// A child was reaped. Returns whether the successor, which is ready, waited for that.
    pub(super) fn was_reaped(&mut self, pid: u32) -> bool {
        if self.intermediate != Some(pid) {
            return false;
        }
        self.intermediate = None;
        become_subreaper_again();
        self.successor.as_ref().is_some_and(SuccessorLink::is_ready)
    }

    /// Whether the successor's parent is the service manager. Until then this psflip would kill it on exit,
    /// and so it must not become the service (contract U10).
    pub(super) fn successor_is_independent(&self) -> bool {
        self.intermediate.is_none()
    }

    /// The successor exists: watches it.
    pub(super) fn watch_successor(&mut self, wait: &mut Waiting) -> io::Result<()> {
        let Some(link) = &mut self.successor else { return Ok(()) };
        let Some((_, process)) = link.process() else { return Ok(()) };
        let watched = wait.poller.watch(Token::SuccessorProcess, process.as_fd());
        if let Err(error) = &watched {
            let _ = process.send(Signal::KILL); // it may have exited
            link.set_failure(format!("can't wait for the new psflip: {error}"));
        }
        watched
    }

    /// How long to wait for its next step in this state.
    pub(super) fn successor_deadline(&self, state: Option<Successor>, default: Duration) -> Duration {
        let Some(link) = &self.successor else { return default };
        match state {
            Some(Successor::Returning) => RETURN,
            Some(Successor::Exiting { .. }) => link.grace(),
            Some(Successor::Baking) => link.deadline_in_bake(),
            Some(Successor::Kept) => link.deadline_after_bake(),
            Some(Successor::Starting | Successor::Ready { .. } | Successor::Killed { .. }) | None => {
                link.deadline()
            }
        }
    }

    /// How long it still bakes.
    pub(super) fn bake_left(&self) -> Duration {
        let until = self.successor.as_ref().and_then(SuccessorLink::bakes_until);
        until.map(|until| until.saturating_duration_since(Instant::now())).unwrap_or_default()
    }

    /// How long its bake takes, if it has the traffic on trial.
    pub(super) fn bake(&self) -> Duration {
        self.successor.as_ref().and_then(SuccessorLink::bake).unwrap_or_default()
    }

    /// Sets the reason of a roll-back, unless there is one already.
    pub(super) fn set_rollback(&mut self, reason: String) {
        if let Some(link) = &mut self.successor {
            link.set_failure(reason);
        }
    }

    /// Why it fails, as far as that is known by now.
    pub(super) fn successor_failure(&self) -> Option<&str> {
        self.successor.as_ref().and_then(SuccessorLink::failure)
    }

    /// Reports to it that it no longer has the traffic.
    pub(super) fn roll_back_successor(&self) {
        let reason = self.successor_failure().map(str::to_owned);
        self.send_to_successor(&ToSuccessor::Abort { reason }); // it may be dead
    }

    /// How long it may take to exit after an abort.
    pub(super) fn successor_grace(&self) -> Duration {
        self.successor.as_ref().map_or(Duration::ZERO, SuccessorLink::grace)
    }

    /// The reason why it is about to be aborted.
    pub(super) fn set_successor_failure(&mut self, reason: &str) {
        if let Some(link) = &mut self.successor {
            link.set_failure(reason.to_owned());
        }
    }

    /// The successor missed its deadline in this state.
    pub(super) fn successor_is_late(&mut self, state: Option<Successor>) {
        let waited = self.successor_deadline(state, Duration::ZERO);
        let Some(link) = &mut self.successor else { return };
        let time = if matches!(state, Some(Successor::Exiting { .. })) {
            format!("did not exit within {waited:?} after the upgrade was aborted")
        } else {
            format!("did not answer within {waited:?}")
        };
        let who = link.process().map_or_else(String::new, |(pid, _)| format!(" (pid {pid})"));
        link.set_failure(format!("the new psflip{who} {time}, so it is killed"));
    }

    /// It closed the connection, so it is of no use and is killed. Usually it is dead already. Returns false
    /// if it died before it sent its first message.
    pub(super) fn successor_closed(&self) -> bool {
        // It has reported that it gives up, and is about to exit with a code that says why. The timer
        // makes sure that it does.
        let gives_up = self.successor.as_ref().is_some_and(|link| link.failure().is_some());
        match self.successor_process() {
            Some(_) if gives_up => true,
            Some((_, process)) => {
                let _ = process.send(Signal::KILL); // it may have exited
                true
            }
            None => self.successor.is_none(),
        }
    }

    /// Kills a successor that is faulty or not a psflip, instead of waiting for it. Returns false if there is
    /// no process to wait for.
    pub(super) fn successor_misbehaved(&self) -> bool {
        let Some((_, process)) = self.successor_process() else { return false };
        let _ = process.send(Signal::KILL); // it may have exited
        true
    }

    /// Kills a successor that was late. Returns false if it has not reported its pid. If it still starts, it
    /// exits on the `abort` that `abandon` sends.
    pub(super) fn kill_successor(&self) -> bool {
        let Some((pid, process)) = self.successor_process() else { return false };
        tracing::warn!(pid, "killing the new psflip");
        let _ = process.send(Signal::KILL); // it may have exited
        true
    }

    /// The successor survived SIGKILL. Its keeper lives as long as it does, so the new child may still serve:
    /// whatever is below it is killed, as far as psflip finds it and may kill it. Nobody waits for the
    /// process itself: [`Handover::why_upgrade_failed`] drops the link to it.
    pub(super) fn leave_successor_behind(&self) {
        let Some((pid, process)) = self.successor_process() else { return };
        let below = tree::below(pid);
        if process.has_exited() {
            return; // a moment ago, and its pid may have been another process's in the list
        }
        tree::kill_known(&below);
        tracing::error!(
            new_psflip = pid,
            killed_below = below.len(),
            "SIGKILL did not terminate the new psflip within {KILL:?}: it hangs in the kernel, or psflip may not kill it; leaving it behind"
        );
    }

    /// The point of no return (see `flip`): either the acknowledgement is sent, or it fails and nothing has
    /// changed. `by`: the requester of the queued upgrade.
    pub(super) fn acknowledge(
        &mut self,
        upgrade_queued: bool,
        by: Option<String>,
        hold: Option<Hold>,
    ) -> Committed {
        let Some(link) = &mut self.successor else { return Committed::No(by) };
        let alive = link.process().is_some_and(|(_, process)| !process.has_exited());
        // A successor that was sent an abort may not have read it yet.
        let committed = if alive && link.failure().is_none() {
            link.send(&ToSuccessor::Acknowledge { upgrade_queued, by: by.clone(), hold })
        } else {
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        };
        let Err(error) = committed else { return Committed::Yes };
        let gave_up = matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::ESRCH));
        let why = if gave_up { "gave up before it could" } else { "can't" };
        link.give_up_unacknowledged(format!("the new psflip {why} be acknowledged: {error}"));
        Committed::No(by)
    }

    /// Sends it a message. Returns whether it still reads.
    pub(super) fn send_to_successor(&self, message: &ToSuccessor) -> bool {
        self.successor.as_ref().is_some_and(|link| link.send(message).is_ok())
    }

    /// Requests it to give up.
    pub(super) fn abort_successor(&mut self) {
        self.send_to_successor(&ToSuccessor::Abort { reason: None }); // it may be dead
        if let Some(link) = &mut self.successor {
            link.set_stopped();
        }
    }

    /// Whether nobody has asked for the reason of the failure yet ([`Handover::why_upgrade_failed`]).
    pub(super) fn knows_why_upgrade_failed(&self) -> bool {
        self.start_error.is_some() || self.successor.is_some()
    }

    /// The reason why the successor failed. The link is of no more use then. A successor that still lives
    /// exits on the `abort` that `abandon` sends.
    pub(super) fn why_upgrade_failed(&mut self, wait: &mut Waiting) -> String {
        if let Some(error) = self.start_error.take() {
            return error;
        }
        wait.poller.forget(Token::SuccessorProcess);
        wait.poller.forget(Token::Successor);
        let Some(link) = self.successor.take() else {
            return "the new psflip could not be started".to_owned();
        };
        let reason = match (link.failure(), link.process()) {
            (Some(reason), _) => reason.to_owned(),
            (None, Some((pid, _))) => {
                format!(
                    "the new psflip (pid {pid}) exited without a reason: killed, crashed, or not a psflip"
                )
            }
            (None, None) => {
                "the new psflip exited without a reason, before it began: killed, crashed, or not a psflip"
                    .to_owned()
            }
        };
        link.abandon();
        reason
    }

    /// Passes a signal from the anchor on to the successor, which is the active generation: the anchor has
    /// not read that yet. Returns whether the signal needs no other handling.
    pub(super) fn pass_on(&self, received: &Received, original: &Received) -> bool {
        let Some((pid, process)) = self.successor_process() else { return false };
        tracing::debug!(signal = %original.signal, new_psflip = pid, "signal passed on to the new psflip");
        if let Err(error) = process.forward(received)
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            tracing::error!(signal = %original.signal, %error, "can't pass a signal on to the new psflip");
        }
        original.signal != Signal::CONT // psflip itself may be stopped, too
    }
}

/// Undoes `set_subreaper(false)`.
fn become_subreaper_again() {
    if let Err(error) = process::set_subreaper(true) {
        tracing::error!(%error, "can't become a subreaper again");
    }
}
