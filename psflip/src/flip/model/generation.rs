//! One generation in the world, and what is left of it.

use super::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum ChildState {
    None,
    Launching {
        signalled: bool,
    },
    Runs {
        signalled: bool,
        killed: bool,
    },
    /// It has exited, and leftover processes remain.
    Left {
        killed: bool,
    },
    /// It, or one of its descendants, got SIGKILL and will never exit.
    Unkillable,
    Gone,
}

/// Whether the child has stayed healthy for as long as it has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Settle {
    No,
    UnderWay,
    Over,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RelayState {
    /// It has never accepted a connection.
    Unused,
    Accepts,
    /// It accepts no more, and lets clients wait. Requests may be under way.
    Holds,
    /// It accepts no more. Requests may be under way.
    Left,
}

/// A message from the predecessor or from the successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PeerMessage {
    TurnGranted,
    Prepared,
    Acknowledge { upgrade_queued: bool },
    Announced,
    Traffic,
    Keep,
    Abort,
    Hurry,
    PassedOn,
    Baking,
    Returned,
    Ready,
    PassedBack,
    StopPassedBack,
    End,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Generation {
    pub(super) alive: bool,
    pub(super) state: State,
    /// Decided, but not performed yet.
    pub(super) effects: VecDeque<Effect>,
    /// Caused by effects, but not passed to the decision yet.
    pub(super) feedback: VecDeque<Event>,
    pub(super) child: ChildState,
    pub(super) probing: bool,
    pub(super) settle: Settle,
    /// Its health check goes on while it has the traffic on trial.
    pub(super) watching: bool,
    /// It has failed then.
    pub(super) unhealthy: bool,
    /// `hooks.promote` or `upgrade.precheck` runs.
    pub(super) hook: bool,
    pub(super) relay: RelayState,
    /// Its relay still answers, and nothing allows it to signal its child meanwhile (T4, T5).
    pub(super) spares_child: bool,
    pub(super) timers: Vec<Timer>,
    /// Whether it reads messages from the predecessor.
    pub(super) listens: bool,
    pub(super) holds_pidfile: bool,
    pub(super) from_predecessor: VecDeque<PeerMessage>,
    pub(super) from_successor: VecDeque<PeerMessage>,
    /// Whether it believes that the process before it, or after it, is there.
    pub(super) knows_predecessor: bool,
    pub(super) knows_successor: bool,
    pub(super) committed: bool,
    /// The old generations that it can reach, apart from its predecessor.
    pub(super) older: Vec<usize>,
    /// Upgrade requests of these.
    pub(super) from_older: VecDeque<()>,
    /// It drains, and was requested to end at once.
    pub(super) was_ended: bool,
    /// It got a stop request as the service, its child has not ignored the stop, and its wait for the
    /// predecessor has not timed out.
    pub(super) has_to_wait: bool,
    /// It has reported leftover processes that it can't kill.
    pub(super) reported_survivors: bool,
    /// It got SIGKILL and hangs in the kernel: it does nothing more, and its exit is never noticed.
    pub(super) hangs: bool,
    /// It waits until nothing is left of the process tree of this neighbour.
    pub(super) awaits_tree: Option<Neighbour>,
    /// It is dead, and its keeper has not terminated its child's process tree yet (C7). Only with
    /// [`Budget::is_exclusive`], since nothing depends on it otherwise.
    pub(super) has_ghost: bool,
    /// Its child got a signal for the successor's sake, and has not been started again.
    pub(super) owes_child: bool,
    /// It started an upgrade on a signal that its child got as well, and the result of the upgrade is not
    /// known yet.
    pub(super) owes_upgrade: bool,
}

/// A generation next to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Neighbour {
    Predecessor,
    Successor,
}

impl Generation {
    pub(super) fn new(role: Role, old: OldGenerations) -> Self {
        let (state, effects) = begin(role, old);
        Self {
            alive: true,
            state,
            effects: effects.into(),
            feedback: VecDeque::new(),
            child: ChildState::None,
            probing: false,
            settle: Settle::No,
            watching: false,
            unhealthy: false,
            hook: false,
            relay: RelayState::Unused,
            spares_child: false,
            timers: Vec::new(),
            listens: true,
            holds_pidfile: false,
            from_predecessor: VecDeque::new(),
            from_successor: VecDeque::new(),
            knows_predecessor: role != Role::First,
            knows_successor: false,
            committed: false,
            older: Vec::new(),
            from_older: VecDeque::new(),
            was_ended: false,
            has_to_wait: false,
            reported_survivors: false,
            hangs: false,
            awaits_tree: None,
            has_ghost: false,
            owes_child: false,
            owes_upgrade: false,
        }
    }

    /// Whether it is the service. Once the acknowledgement is sent, it no longer is.
    pub(super) fn serves(&self) -> bool {
        self.alive && self.state.is_service() && !self.feedback.contains(&Event::Committed)
    }

    /// Whether it serves, or is a first generation that starts and has no predecessor.
    pub(super) fn is_all_there_is(&self) -> bool {
        let first = matches!(
            self.state.phase,
            Phase::Preparing { predecessor: Predecessor::None, .. }
                | Phase::Starting { predecessor: Predecessor::None, .. }
                | Phase::Settling { predecessor: Predecessor::None }
                | Phase::Promoting { predecessor: Predecessor::None, .. }
        );
        self.serves() || first
    }

    /// Whether all that is left of the child's process tree got SIGKILL.
    pub(super) fn is_killed(&self) -> bool {
        match self.child {
            ChildState::Runs { killed, .. } | ChildState::Left { killed } => killed,
            ChildState::Unkillable => true,
            ChildState::None | ChildState::Launching { .. } | ChildState::Gone => false,
        }
    }

    pub(super) fn is_preparing(&self) -> bool {
        matches!(self.state.phase, Phase::Preparing { .. })
    }

    /// Whether something of its child's process tree is there.
    pub(super) fn has_tree(&self) -> bool {
        self.has_ghost || !matches!(self.child, ChildState::None | ChildState::Gone)
    }

    /// Whether this effect reports to the predecessor that this generation has the traffic on trial, or gives
    /// it back and goes on accepting.
    pub(super) fn reports_in_bake(&self, effect: Effect) -> bool {
        let reports = matches!(effect, Effect::Report(Notice::Baking) | Effect::ReportReturned);
        reports && matches!(self.state.phase, Phase::Baking { .. })
    }

    pub(super) fn is_idle(&self) -> bool {
        self.effects.is_empty() && self.feedback.is_empty()
    }

    /// The process is killed or exits. Its child goes with it (contract C7), and so do unread messages. All
    /// other fields get fixed values, so that equal worlds compare equal.
    pub(super) fn die(&mut self) {
        let dead = Self::new(Role::First, OldGenerations { draining: 0, most: 0, announcing: false });
        *self = Self { alive: false, effects: VecDeque::new(), child: ChildState::Gone, ..dead };
    }
}

/// Whether something depends on the relay's report that nothing is under way. At other times the model skips
/// the report.
pub(super) fn awaits_relay(state: &State) -> bool {
    matches!(
        state.phase,
        Phase::Serving { stopping: Stopping::Answering(_), .. }
            | Phase::Upgrading { stopping: Stopping::Answering(_), .. }
            | Phase::GivingWay { step: GiveWay::Answering, .. }
            | Phase::Draining {
                step: DrainStep::Answering { .. } | DrainStep::PassingOn | DrainStep::Closing,
                ..
            }
    )
}

/// Whether a stop request is the second one, which does not wait for the relay (T5).
pub(super) fn is_second_stop(state: &State) -> bool {
    matches!(
        state.phase,
        Phase::Serving { stopping: Stopping::Answering(_), .. }
            | Phase::Upgrading { stopping: Stopping::Answering(_), .. }
            | Phase::Draining { step: DrainStep::Answering { stops: true }, .. }
    )
}
