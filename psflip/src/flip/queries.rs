//! Queries about a state, so that the runtime need not look into phases.

use super::state::{
    Bake, Child, DrainStep, GiveWay, OldGeneration, Outcome, Phase, Predecessor, Preparation, Restart, State,
    Stopping, Successor, Turn,
};

/// Why an upgrade can't start at once (contract U7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpgradeBlocked {
    /// The child is not healthy yet, settles, or its generation is not promoted yet.
    NotHealthy,
    /// A stop was requested, and the child has neither exited nor ignored it yet.
    Stopping,
    /// As many old generations drain as may.
    OldGenerationsDrain,
    /// An upgrade is already running.
    UnderWay,
    /// The new generation has the traffic on trial.
    Bakes,
    /// This generation is stopping, and starts no more upgrades.
    ShuttingDown,
}

impl State {
    /// Whether this generation is the service.
    #[must_use]
    pub fn is_service(&self) -> bool {
        matches!(
            self.phase,
            Phase::Serving { .. }
                | Phase::Upgrading { .. }
                | Phase::GivingWay { .. }
                | Phase::Restarting { .. }
        )
    }

    /// Whether the generation serves and nothing else is under way: the state in which it spends nearly all
    /// of its life.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.why_not_now().is_none()
    }

    /// Whether the child is starting, not healthy yet, or has to stay healthy for a while.
    #[must_use]
    pub fn is_starting(&self) -> bool {
        let restarts =
            matches!(self.phase, Phase::Restarting { step: Restart::Starting | Restart::Stopping });
        matches!(self.phase, Phase::Starting { .. }) || restarts || self.is_settling()
    }

    /// Whether the child was found healthy, and has to stay healthy for a while.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        matches!(self.phase, Phase::Settling { .. })
    }

    /// Whether this generation has no child yet, and checks what needs none or waits for its turn.
    #[must_use]
    pub fn is_preparing(&self) -> bool {
        matches!(self.phase, Phase::Preparing { .. })
    }

    /// Whether this generation begins with a wait for its turn.
    #[must_use]
    pub fn is_exclusive(&self) -> bool {
        matches!(self.phase, Phase::Preparing { step, .. } if step != Preparation::Checking { exclusive: false })
    }

    /// Whether this generation's child gives way to a successor's, or starts again after that.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        matches!(
            self.phase,
            Phase::GivingWay { .. }
                | Phase::Restarting { .. }
                | Phase::Upgrading { child: Child::GaveWay(_), .. }
        )
    }

    /// Whether this generation is the service, and old ones drain.
    #[must_use]
    pub fn old_generations_drain(&self) -> bool {
        self.has_taken_over() && self.is_service() && self.old.draining > 0
    }

    /// Whether this generation bakes.
    #[must_use]
    pub fn is_baking(&self) -> bool {
        matches!(self.phase, Phase::Baking { .. })
    }

    /// Whether this generation has the traffic on trial, and can still give it back.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        matches!(self.phase, Phase::Baking { .. } | Phase::Promoting { baked: true, .. })
    }

    /// Whether this generation gives the traffic back, and waits until the predecessor has it.
    #[must_use]
    pub fn is_returning(&self) -> bool {
        matches!(self.phase, Phase::Baking { step: Bake::Returning { .. } })
    }

    /// Whether the successor has the traffic on trial, and an operator may end that.
    #[must_use]
    pub fn successor_bakes(&self) -> bool {
        self.successor() == Some(Successor::Baking)
    }

    /// Whether one more old generation may drain, so that an upgrade can start.
    pub(super) fn has_room(&self) -> bool {
        self.old.draining < self.old.most && !self.old.announcing
    }

    /// What becomes of the old generations when this one, which is the service, exits.
    pub(super) fn old_generation(&self, is_stopping: bool) -> OldGeneration {
        match (self.old.draining, is_stopping) {
            (0, _) => OldGeneration::Gone,
            (_, false) => OldGeneration::Drains,
            (_, true) => OldGeneration::Awaited,
        }
    }

    /// Whether the old generations are this one's to stop and to wait for: it is the service, was it and
    /// stops, or goes on alone.
    #[must_use]
    pub fn has_old_generations(&self) -> bool {
        match self.phase {
            Phase::Preparing { predecessor, .. }
            | Phase::Starting { predecessor, .. }
            | Phase::Settling { predecessor }
            | Phase::Promoting { predecessor, .. } => predecessor == Predecessor::None,
            Phase::Serving { .. }
            | Phase::Upgrading { .. }
            | Phase::GivingWay { .. }
            | Phase::Restarting { .. }
            | Phase::Draining { .. }
            | Phase::AwaitingPredecessor { .. }
            | Phase::Baking { .. }
            | Phase::Exiting => self.has_taken_over(),
        }
    }

    /// Whether the predecessor, if there is one, is an old generation that drains: this generation is the
    /// service, or was it and stops.
    #[must_use]
    pub fn has_taken_over(&self) -> bool {
        match self.phase {
            Phase::Draining { old_generation, .. } => old_generation != OldGeneration::Gone,
            Phase::AwaitingPredecessor { .. } => true,
            Phase::Serving { .. }
            | Phase::Upgrading { .. }
            | Phase::GivingWay { .. }
            | Phase::Restarting { .. }
            | Phase::Preparing { .. }
            | Phase::Starting { .. }
            | Phase::Settling { .. }
            | Phase::Promoting { .. }
            | Phase::Baking { .. }
            | Phase::Exiting => self.is_service(),
        }
    }

    /// Whether old generations are all that psflip still waits for.
    #[must_use]
    pub fn awaits_predecessor(&self) -> bool {
        matches!(self.phase, Phase::AwaitingPredecessor { .. })
    }

    /// The successor, while an upgrade is running. After the promotion, the successor is independent.
    #[must_use]
    pub fn successor(&self) -> Option<Successor> {
        match self.phase {
            Phase::Upgrading { successor, .. } => Some(successor),
            Phase::GivingWay { turn: Turn::Awaited, .. } => Some(Successor::Starting),
            Phase::GivingWay { turn: Turn::Void, .. }
            | Phase::Restarting { .. }
            | Phase::Preparing { .. }
            | Phase::Starting { .. }
            | Phase::Settling { .. }
            | Phase::Promoting { .. }
            | Phase::Baking { .. }
            | Phase::Serving { .. }
            | Phase::Draining { .. }
            | Phase::AwaitingPredecessor { .. }
            | Phase::Exiting => None,
        }
    }

    /// Whether a successor is the service, and this generation drains.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.drain().is_some()
    }

    /// The step of this generation's shutdown, if a successor is the service.
    #[must_use]
    pub fn drain(&self) -> Option<DrainStep> {
        match self.phase {
            Phase::Draining { step, outcome: Outcome::Superseded, .. } => Some(step),
            Phase::Preparing { .. }
            | Phase::GivingWay { .. }
            | Phase::Restarting { .. }
            | Phase::Starting { .. }
            | Phase::Settling { .. }
            | Phase::Promoting { .. }
            | Phase::Baking { .. }
            | Phase::Serving { .. }
            | Phase::Upgrading { .. }
            | Phase::Draining { .. }
            | Phase::AwaitingPredecessor { .. }
            | Phase::Exiting => None,
        }
    }

    /// Whether this generation is stopping, or its child has been sent a stop signal. A child that ignores
    /// the stop keeps serving (contract S5), and this is false again.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        match self.phase {
            Phase::Starting { stopping, .. } => stopping,
            Phase::Serving { stopping, .. } | Phase::Upgrading { stopping, .. } => stopping != Stopping::No,
            Phase::Restarting { step } => step == Restart::Stopping,
            Phase::Preparing { .. }
            | Phase::Settling { .. }
            | Phase::GivingWay { .. }
            | Phase::Promoting { .. }
            | Phase::Baking { .. } => false,
            Phase::Draining { .. } | Phase::AwaitingPredecessor { .. } | Phase::Exiting => true,
        }
    }

    /// Whether a signal that requests a stop waits until the relay has answered what is under way (contract
    /// T5). A second one does not.
    #[must_use]
    pub fn stop_waits_for_relay(&self) -> bool {
        matches!(
            self.phase,
            Phase::Baking { .. }
                | Phase::Promoting { baked: true, .. }
                | Phase::Serving { stopping: Stopping::No, .. }
                | Phase::Upgrading { stopping: Stopping::No, child: Child::Runs, .. }
                | Phase::GivingWay { step: GiveWay::Answering, .. }
                | Phase::Draining { step: DrainStep::Answering { stops: false }, .. }
        )
    }

    /// Why an upgrade that is requested now can't start now; `None` if it can start.
    #[must_use]
    pub fn why_not_now(&self) -> Option<UpgradeBlocked> {
        match self.phase {
            Phase::Preparing { .. }
            | Phase::Settling { .. }
            | Phase::Starting { .. }
            | Phase::Promoting { .. }
            | Phase::Baking { step: Bake::AwaitingTraffic | Bake::OnTrial } => {
                Some(UpgradeBlocked::NotHealthy)
            }
            Phase::GivingWay { .. } | Phase::Restarting { step: Restart::AwaitingSuccessorTree(_) } => {
                Some(UpgradeBlocked::UnderWay)
            }
            Phase::Restarting { step: Restart::Starting } => Some(UpgradeBlocked::NotHealthy),
            Phase::Restarting { step: Restart::Stopping } => Some(UpgradeBlocked::Stopping),
            Phase::Serving { stopping: Stopping::No } => {
                (!self.has_room()).then_some(UpgradeBlocked::OldGenerationsDrain)
            }
            Phase::Upgrading { stopping: Stopping::No, successor: Successor::Baking, .. } => {
                Some(UpgradeBlocked::Bakes)
            }
            Phase::Upgrading { stopping: Stopping::No, .. } => Some(UpgradeBlocked::UnderWay),
            Phase::Serving { .. } | Phase::Upgrading { .. } => Some(UpgradeBlocked::Stopping),
            Phase::Baking { step: Bake::Returning { .. } }
            | Phase::Draining { .. }
            | Phase::AwaitingPredecessor { .. }
            | Phase::Exiting => Some(UpgradeBlocked::ShuttingDown),
        }
    }
}
