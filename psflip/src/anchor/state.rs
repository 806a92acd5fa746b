//! Who is active below an anchor, and when everything is over: pure, from what generations said and who has ended.
//!
//! Generations are known by their pids. That is safe since all of them are the anchor's own children: a pid is not used again before
//! the anchor has reaped its process.

use super::message::Message;
use crate::end::End;

/// Which protocols of an anchor a psflip's program speaks: oldest and newest.
pub(super) type Speaks = (u32, u32);

/// What the anchor knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    /// The active generation: signals are for it, and its end is the service's.
    active: Option<u32>,
    /// What the active one does not want to be ended.
    leaves: bool,
    /// Some generation's `shutdown.orphans` was "leave": what has fallen to the anchor may be there on purpose.
    has_left: bool,
    /// The successor that has introduced itself.
    coming: Option<Coming>,
    /// Successors whose upgrade has failed and that have not ended yet.
    failed: Vec<u32>,
    /// The active one has said that it starts a successor, and not yet what became of it.
    upgrading: bool,
    /// Generations that were active once, and drain.
    former: Vec<Former>,
    /// How the last active generation ended.
    end: Option<End>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Coming {
    pid: u32,
    /// It has ended, and may have been promoted before that.
    end: Option<End>,
    speaks: Option<Speaks>,
    leaves: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Former {
    pid: u32,
    /// It was asked to come to an end, since nobody serves any more.
    asked: bool,
}

impl State {
    /// The first generation was started.
    pub(super) fn new(first: u32) -> Self {
        Self::resumed(first, false, false, Vec::new())
    }

    /// As a former program of the anchor left it; see [`State::calm`].
    pub(super) fn resumed(active: u32, leaves: bool, has_left: bool, former: Vec<u32>) -> Self {
        let former = former.into_iter().map(|pid| Former { pid, asked: false }).collect();
        Self {
            active: Some(active),
            leaves,
            has_left,
            coming: None,
            failed: Vec::new(),
            upgrading: false,
            former,
            end: None,
        }
    }

    /// Active generation, `leaves` and former generations, if these are all that there is to know.
    pub(super) fn calm(&self) -> Option<(u32, bool, Vec<u32>)> {
        let is_known = self.coming.is_none() && self.failed.is_empty() && !self.upgrading;
        let active = self.active.filter(|_| is_known)?;
        Some((active, self.leaves, self.former.iter().map(|former| former.pid).collect()))
    }

    /// Who gets signals.
    pub(super) fn active(&self) -> Option<u32> {
        self.active
    }

    /// Whether what is left in the end is not to be ended.
    pub(super) fn leaves(&self) -> bool {
        self.leaves
    }

    /// Whether any generation wanted that, so that nobody knows what was left alone on purpose.
    pub(super) fn has_left(&self) -> bool {
        self.has_left
    }

    /// Whether this is a generation: one that is or was active, or a successor, whatever became of its upgrade.
    pub(super) fn is_generation(&self, pid: u32) -> bool {
        let is_coming = self.coming.as_ref().is_some_and(|coming| coming.pid == pid);
        self.is_known(pid) || is_coming || self.failed.contains(&pid)
    }

    /// Somebody said something. What nobody but the active generation may say is not believed of anybody else.
    /// Returns what the new active generation speaks, if there is one.
    pub(super) fn said(&mut self, from: u32, message: Message) -> Option<Option<Speaks>> {
        let is_active = self.active == Some(from);
        match message {
            Message::Upgrading if is_active => {
                self.upgrading = true;
                self.give_up_coming();
            }
            Message::Failed if is_active => {
                self.upgrading = false;
                self.give_up_coming();
            }
            Message::Coming if self.upgrading && self.coming.is_none() && !self.is_known(from) => {
                self.coming = Some(Coming { pid: from, end: None, speaks: None, leaves: false });
            }
            Message::Begins { protocol, oldest, leaves } => match &mut self.coming {
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
            Message::Main { pid } if is_active => {
                let coming = self.coming.take_if(|coming| coming.pid == pid)?;
                self.former.push(Former { pid: from, asked: false });
                self.upgrading = false;
                self.leaves = coming.leaves;
                match coming.end {
                    None => {
                        self.active = Some(pid);
                        return Some(coming.speaks);
                    }
                    Some(end) => (self.active, self.end) = (None, Some(end)),
                }
            }
            Message::Upgrading | Message::Failed | Message::Coming | Message::Main { .. } => {}
        }
        None
    }

    /// The upgrade of the successor that has introduced itself is over. It may go on for a while, to end its child.
    fn give_up_coming(&mut self) {
        let living = self.coming.take().filter(|coming| coming.end.is_none());
        self.failed.extend(living.map(|coming| coming.pid));
    }

    fn is_known(&self, pid: u32) -> bool {
        self.active == Some(pid) || self.former.iter().any(|former| former.pid == pid)
    }

    /// A child of the anchor has ended. To be told after everything that was said before its end.
    pub(super) fn ended(&mut self, pid: u32, end: End) {
        self.former.retain(|former| former.pid != pid);
        self.failed.retain(|failed| *failed != pid);
        if self.active == Some(pid) {
            self.active = None;
            self.end = Some(end);
        }
        if let Some(coming) = &mut self.coming
            && coming.pid == pid
        {
            coming.end = Some(end);
        }
    }

    /// After everything that was said and everybody that has ended: a successor whose predecessor is dead goes on alone (contract F8).
    /// Returns whether there is a new active generation. `is_child`: whether it has fallen to the anchor yet.
    pub(super) fn settle(&mut self, is_child: impl FnOnce(u32) -> bool) -> bool {
        if self.active.is_some() {
            return false;
        }
        let Some(coming) = self.coming.take_if(|coming| coming.end.is_none() && is_child(coming.pid)) else {
            return false;
        };
        self.active = Some(coming.pid);
        self.leaves = coming.leaves;
        self.upgrading = false;
        true
    }

    /// Generations that drain although nobody serves any more: they are asked to end soon, once, for the manager shall start the
    /// service again.
    pub(super) fn hurry_up(&mut self) -> Vec<u32> {
        if self.active.is_some() || self.coming_lives() {
            return Vec::new();
        }
        let new = self.former.iter_mut().filter(|former| !former.asked);
        new.map(|former| {
            former.asked = true;
            former.pid
        })
        .collect()
    }

    fn coming_lives(&self) -> bool {
        self.coming.as_ref().is_some_and(|coming| coming.end.is_none())
    }

    /// How the anchor ends, if everything is over. `closed`: no process has the other end of its socket any more.
    pub(super) fn outcome(&self, closed: bool) -> Option<End> {
        // A predecessor may have been killed after it had forked and before its successor could introduce itself.
        let somebody_may_come = self.upgrading && self.coming.is_none() && !closed;
        let somebody_is_left = self.active.is_some() || self.coming_lives() || !self.former.is_empty();
        self.end.filter(|_| !somebody_is_left && !somebody_may_come)
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
