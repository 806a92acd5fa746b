//! Which generation is active below an anchor, and when the service has exited. It follows from the messages
//! of generations and from exits, without system calls.
//!
//! Generations are identified by their pids. That is safe because all of them are the anchor's own children:
//! a pid is not used again before the anchor has reaped its process.

#![deny(clippy::wildcard_enum_match_arm)]

use super::message::AnchorMessage;
use crate::exit_status::ExitStatus;

/// The anchor protocols that a psflip program supports: oldest and newest.
pub(super) type Speaks = (u32, u32);

/// More output processes than generations and restarts of them run at a time.
const MOST_OUTPUTS: usize = 32;

/// What the anchor knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AnchorState {
    /// The active generation. It gets the signals, and its exit is the service's.
    active: Option<u32>,
    /// Whether the leftover processes of the active generation must not be killed.
    leaves: bool,
    /// Some generation's `shutdown.orphans` was "leave", so an orphan of the anchor may be there on purpose.
    has_left: bool,
    /// The successor that has announced itself.
    coming: Option<Coming>,
    /// Successors whose upgrade has failed, and that have not exited yet.
    failed: Vec<u32>,
    /// The active generation has announced a successor, and has not reported the outcome yet.
    upgrading: bool,
    /// Old generations that drain.
    former: Vec<Former>,
    /// The exit status of the last active generation.
    exit_status: Option<ExitStatus>,
    /// Processes that write the last lines of a child, and exit by themselves. Some may have exited as
    /// children of their generation.
    outputs: Vec<u32>,
    /// Messages about an upgrade of a generation of which the anchor does not know yet that it is active,
    /// because its predecessor was killed before it could report that. They count as soon as it is.
    early: Vec<(u32, AnchorMessage)>,
}

/// More early messages than any version sends.
const MOST_EARLY: usize = 16;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Coming {
    pid: u32,
    /// Its exit status if it has exited. It may have been promoted before that.
    exit_status: Option<ExitStatus>,
    speaks: Option<Speaks>,
    leaves: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Former {
    pid: u32,
    /// It was requested to exit soon, since no generation is active any more.
    exit_requested: bool,
}

impl AnchorState {
    /// The state after the first generation was started.
    pub(super) fn new(first: u32) -> Self {
        Self::resumed(first, false, false, Vec::new(), Vec::new())
    }

    /// The state that a former program of the anchor passed on; see [`AnchorState::calm`].
    pub(super) fn resumed(
        active: u32,
        leaves: bool,
        has_left: bool,
        former: Vec<u32>,
        outputs: Vec<u32>,
    ) -> Self {
        let former = former.into_iter().map(|pid| Former { pid, exit_requested: false }).collect();
        Self {
            active: Some(active),
            leaves,
            has_left,
            coming: None,
            failed: Vec::new(),
            upgrading: false,
            former,
            exit_status: None,
            outputs,
            early: Vec::new(),
        }
    }

    /// Processes that write the last lines of a child.
    pub(super) fn outputs(&self) -> &[u32] {
        &self.outputs
    }

    /// Whether the list has no room for another one; see [`AnchorState::retain_outputs`].
    pub(super) fn is_full_of_outputs(&self) -> bool {
        self.outputs.len() >= MOST_OUTPUTS
    }

    /// Removes the output processes that are gone: those that exit as children of their generation are not
    /// reported to the anchor.
    pub(super) fn retain_outputs(&mut self, is_there: impl Fn(u32) -> bool) {
        self.outputs.retain(|pid| is_there(*pid));
    }

    /// The active generation, `leaves` and the draining generations. `None` while there is more
    /// to know, as during an upgrade.
    pub(super) fn calm(&self) -> Option<(u32, bool, Vec<u32>)> {
        let is_known = self.coming.is_none() && self.failed.is_empty() && !self.upgrading;
        let active = self.active.filter(|_| is_known)?;
        Some((active, self.leaves, self.former.iter().map(|former| former.pid).collect()))
    }

    /// The generation that gets signals.
    pub(super) fn active(&self) -> Option<u32> {
        self.active
    }

    /// Whether leftover processes must not be killed when the service exits.
    pub(super) fn leaves(&self) -> bool {
        self.leaves
    }

    /// Whether this was so for any generation. Then it is unknown which orphans are there on purpose.
    pub(super) fn has_left(&self) -> bool {
        self.has_left
    }

    /// Whether this is a generation: active, draining, or a successor, even one whose upgrade failed.
    pub(super) fn is_generation(&self, pid: u32) -> bool {
        let is_coming = self.coming.as_ref().is_some_and(|coming| coming.pid == pid);
        self.is_known(pid) || is_coming || self.failed.contains(&pid)
    }

    /// A generation has sent a message. Messages that only the active generation may send are ignored from
    /// any other process. Returns the protocols of the new active generation, if there is one.
    pub(super) fn on_message(&mut self, from: u32, message: AnchorMessage) -> Option<Option<Speaks>> {
        let is_active = self.active == Some(from);
        if self.is_early(from, message) {
            self.early.push((from, message));
            return None;
        }
        match message {
            AnchorMessage::Upgrading if is_active => {
                self.upgrading = true;
                self.give_up_coming();
            }
            AnchorMessage::Failed if is_active => {
                self.upgrading = false;
                self.give_up_coming();
            }
            AnchorMessage::Coming if self.upgrading && self.coming.is_none() && !self.is_known(from) => {
                self.coming = Some(Coming { pid: from, exit_status: None, speaks: None, leaves: false });
            }
            AnchorMessage::Begins { protocol, oldest, leaves } => match &mut self.coming {
                Some(coming) if coming.pid == from => {
                    coming.speaks = Some((oldest, protocol));
                    coming.leaves = leaves;
                    self.has_left |= leaves;
                }
                _ if is_active => {
                    self.leaves = leaves;
                    self.has_left |= leaves;
                }
                _ => {}
            },
            AnchorMessage::Main { pid } if is_active => {
                let coming = self.coming.take_if(|coming| coming.pid == pid)?;
                self.former.push(Former { pid: from, exit_requested: false });
                self.upgrading = false;
                self.leaves = coming.leaves;
                match coming.exit_status {
                    None => {
                        self.active = Some(pid);
                        return Some(self.catch_up().unwrap_or(coming.speaks));
                    }
                    Some(end) => (self.active, self.exit_status) = (None, Some(end)),
                }
            }
            AnchorMessage::Output if !self.is_generation(from) => {
                // If all of the others still run, the oldest one is the first to exit.
                self.outputs.truncate(MOST_OUTPUTS - 1);
                self.outputs.insert(0, from);
            }
            AnchorMessage::Output
            | AnchorMessage::Upgrading
            | AnchorMessage::Failed
            | AnchorMessage::Coming
            | AnchorMessage::Main { .. } => {}
        }
        None
    }

    /// The upgrade of the announced successor is over. The successor may run a little
    /// longer, to stop its child.
    fn give_up_coming(&mut self) {
        self.early.clear();
        let living = self.coming.take().filter(|coming| coming.exit_status.is_none());
        self.failed.extend(living.map(|coming| coming.pid));
    }

    fn is_known(&self, pid: u32) -> bool {
        self.active == Some(pid) || self.former.iter().any(|former| former.pid == pid)
    }

    /// A child of the anchor has exited. Call it after all messages that were sent before the exit.
    pub(super) fn on_exit(&mut self, pid: u32, end: ExitStatus) {
        self.former.retain(|former| former.pid != pid);
        self.failed.retain(|failed| *failed != pid);
        self.outputs.retain(|output| *output != pid);
        if self.active == Some(pid) {
            self.active = None;
            self.exit_status = Some(end);
        }
        if let Some(coming) = &mut self.coming
            && coming.pid == pid
        {
            coming.exit_status = Some(end);
        }
    }

    /// Call it after all messages and exits. A successor whose predecessor is dead becomes the active
    /// generation (contract F8). Returns whether there is a new active generation. `is_child`: whether the
    /// anchor has become its parent yet.
    pub(super) fn settle(&mut self, is_child: impl FnOnce(u32) -> bool) -> bool {
        if self.active.is_some() {
            return false;
        }
        let Some(coming) = self.coming.take_if(|coming| coming.exit_status.is_none() && is_child(coming.pid))
        else {
            return false;
        };
        self.active = Some(coming.pid);
        self.leaves = coming.leaves;
        self.upgrading = false;
        self.catch_up();
        true
    }

    /// Whether this message is to count once the announced successor is active: that one has started an
    /// upgrade.
    fn is_early(&self, from: u32, message: AnchorMessage) -> bool {
        let Some(coming) = &self.coming else { return false };
        let begins = coming.pid == from && message == AnchorMessage::Upgrading;
        let follows = !self.early.is_empty() && !self.is_known(from);
        (begins || follows) && self.early.len() < MOST_EARLY
    }

    /// Reads the early messages. Returns as [`AnchorState::on_message`].
    fn catch_up(&mut self) -> Option<Option<Speaks>> {
        let mut active = None;
        for (from, message) in std::mem::take(&mut self.early) {
            active = self.on_message(from, message).or(active);
        }
        active
    }

    /// The generations that drain although no generation is active. Each is returned once, to be requested to
    /// exit soon: the service manager shall be able to start the service again.
    pub(super) fn hurry_up(&mut self) -> Vec<u32> {
        if self.active.is_some() || self.coming_lives() {
            return Vec::new();
        }
        let new = self.former.iter_mut().filter(|former| !former.exit_requested);
        new.map(|former| {
            former.exit_requested = true;
            former.pid
        })
        .collect()
    }

    fn coming_lives(&self) -> bool {
        self.coming.as_ref().is_some_and(|coming| coming.exit_status.is_none())
    }

    /// The exit status of the anchor, once the service has exited. `closed`: no process has the
    /// other end of the socket any more.
    pub(super) fn outcome(&self, closed: bool) -> Option<ExitStatus> {
        // A predecessor may have been killed after its fork, before its successor could announce itself.
        let somebody_may_come = self.upgrading && self.coming.is_none() && !closed;
        let somebody_is_left = self.active.is_some() || self.coming_lives() || !self.former.is_empty();
        self.exit_status.filter(|_| !somebody_is_left && !somebody_may_come)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
