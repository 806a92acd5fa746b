//! What the runtime may ask of a state, so that it has nothing to tell from a phase itself.

use super::state::{Outcome, Phase, State, Step, Successor};

/// Why an upgrade can't start at once (contract U7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// The child is not healthy yet, or its generation not promoted.
    NotHealthy,
    /// A stop was requested, and what the child makes of it is not known yet.
    Stopping,
    /// The predecessor still drains.
    PredecessorDrains,
    /// An upgrade is under way.
    UnderWay,
    /// This generation ends, and starts none any more.
    Ends,
}

impl State {
    /// Whether a child depends on this generation that serves already.
    #[must_use]
    pub fn is_service(&self) -> bool {
        matches!(self.phase, Phase::Serving { .. } | Phase::Upgrading { .. })
    }

    /// Whether it does what a generation does for nearly all of its life: serve, with nothing under way.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.why_not_now().is_none()
    }

    /// Whether the child is being waited for.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        matches!(self.phase, Phase::Starting { .. })
    }

    /// Whether the predecessor still drains.
    #[must_use]
    pub fn predecessor_drains(&self) -> bool {
        matches!(self.phase, Phase::Serving { predecessor_drains: true, .. })
    }

    /// Whether the predecessor, which drains, is all that is waited for.
    #[must_use]
    pub fn awaits_predecessor(&self) -> bool {
        matches!(self.phase, Phase::AwaitingPredecessor { .. })
    }

    /// The successor, while an upgrade is under way. Afterwards what it does is its own business.
    #[must_use]
    pub fn successor(&self) -> Option<Successor> {
        match self.phase {
            Phase::Upgrading { successor, .. } => Some(successor),
            Phase::Starting { .. }
            | Phase::Promoting { .. }
            | Phase::Serving { .. }
            | Phase::Draining { .. }
            | Phase::AwaitingPredecessor { .. }
            | Phase::Ended => None,
        }
    }

    /// Whether a successor is the service, and this generation drains.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.drain().is_some()
    }

    /// How far this generation's end is, if a successor is the service.
    #[must_use]
    pub fn drain(&self) -> Option<Step> {
        match self.phase {
            Phase::Draining { step, outcome: Outcome::Superseded, .. } => Some(step),
            Phase::Starting { .. }
            | Phase::Promoting { .. }
            | Phase::Serving { .. }
            | Phase::Upgrading { .. }
            | Phase::Draining { .. }
            | Phase::AwaitingPredecessor { .. }
            | Phase::Ended => None,
        }
    }

    /// Whether the end has begun: the child was asked to stop, or this generation ends. A child that ignores the stop is served
    /// on (contract S5).
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        match self.phase {
            Phase::Starting { stopping, .. }
            | Phase::Serving { stopping, .. }
            | Phase::Upgrading { stopping, .. } => stopping,
            Phase::Promoting { .. } => false,
            Phase::Draining { .. } | Phase::AwaitingPredecessor { .. } | Phase::Ended => true,
        }
    }

    /// Why an upgrade that is requested now can't start now; `None`: it starts.
    #[must_use]
    pub fn why_not_now(&self) -> Option<NotNow> {
        match self.phase {
            Phase::Starting { .. } | Phase::Promoting { .. } => Some(NotNow::NotHealthy),
            Phase::Serving { stopping: true, .. } | Phase::Upgrading { stopping: true, .. } => {
                Some(NotNow::Stopping)
            }
            Phase::Serving { predecessor_drains, .. } => {
                predecessor_drains.then_some(NotNow::PredecessorDrains)
            }
            Phase::Upgrading { .. } => Some(NotNow::UnderWay),
            Phase::Draining { .. } | Phase::AwaitingPredecessor { .. } | Phase::Ended => Some(NotNow::Ends),
        }
    }
}
