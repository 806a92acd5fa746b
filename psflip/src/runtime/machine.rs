//! The state machine (`crate::flip`) with its queue of events.

use std::collections::VecDeque;

use crate::flip::{self, Effect, Event, OldGenerations, Outcome, Role, State};

/// The state of this generation, and the events that are still to be decided.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) state: State,
    /// Events caused by effects.
    queue: VecDeque<Event>,
    /// Set when psflip is to exit.
    pub(super) outcome: Option<Outcome>,
}

/// What followed from an event.
pub(super) struct Decided {
    /// The state before it.
    pub(super) before: State,
    pub(super) effects: Vec<Effect>,
}

impl Machine {
    /// The machine of a new generation, and its first effects.
    pub(super) fn new(role: Role, old: OldGenerations) -> (Self, Vec<Effect>) {
        let (state, effects) = flip::begin(role, old);
        (Self { state, queue: VecDeque::new(), outcome: None }, effects)
    }

    /// Queues an event.
    pub(super) fn push(&mut self, event: Event) {
        self.queue.push_back(event);
    }

    /// Decides what follows from the next queued event. `None`: there is none, or psflip exits.
    pub(super) fn decide(&mut self) -> Option<Decided> {
        if self.outcome.is_some() {
            self.queue.clear();
        }
        let event = self.queue.pop_front()?;
        let before = self.state;
        let effects = flip::decide(&mut self.state, event);
        if before != self.state || !effects.is_empty() {
            tracing::trace!(?event, state = ?self.state, ?effects, "decided");
        }
        Some(Decided { before, effects })
    }

    /// Whether a successor is the service, and this generation drains or exits.
    pub(super) fn is_superseded(&self) -> bool {
        self.state.is_superseded() || self.outcome == Some(Outcome::Superseded)
    }
}
