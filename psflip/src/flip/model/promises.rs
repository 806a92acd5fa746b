//! What must hold in every state of the world, and at every effect.

use super::*;

/// Whether this generation gives up because of a stop request, or could not reach the predecessor.
fn is_stopped(state: &State) -> bool {
    matches!(
        state.phase,
        Phase::Draining { outcome: Outcome::Failed(Failure::Aborted | Failure::ReadyNotSent), .. }
    )
}

impl World {
    pub(super) fn check_effect(&self, index: usize, effect: Effect) -> Result<(), String> {
        let generation = &self.generations[index];
        match effect {
            // U6, B3: the old child gets no signal in a bake, nor for a roll-back.
            Effect::SignalChild | Effect::KillChild
                if generation.state.successor().is_some_and(Successor::had_traffic)
                    && !generation.state.is_stopping() =>
            {
                return Err(format!("U6: generation {index} ends its child for a bake"));
            }
            // E3: the child keeps running unless there is a successor that waits for it to stop.
            Effect::SignalChild
                if matches!(generation.state.phase, Phase::GivingWay { .. })
                    && !generation.knows_successor =>
            {
                return Err(format!("E3: generation {index} stops its child, and no successor waits"));
            }
            // U6: a child that serves gets a signal only after a promotion, or for a stop of its own
            // generation.
            Effect::SignalChild | Effect::KillChild if !generation.spares_child => {
                if let Phase::Draining { outcome: Outcome::Superseded, .. } = generation.state.phase
                    && !generation.committed
                {
                    return Err(format!("U6: generation {index} ends its child, but nobody was promoted"));
                }
            }
            Effect::SignalChild if generation.spares_child => {
                return Err(format!("T4: generation {index} stops a child that still answers"));
            }
            // T6, E2: clients that wait go to the successor.
            Effect::Relay(RelayOrder::Close)
                if generation.relay == RelayState::Holds
                    && matches!(
                        generation.state.phase,
                        Phase::Draining { outcome: Outcome::Superseded, .. }
                    ) =>
            {
                return Err(format!("E2: generation {index} closes connections that wait"));
            }
            Effect::Exit(_) if generation.owes_child => {
                return Err(format!("E3: generation {index} exits and could start its child again"));
            }
            Effect::Report(Notice::SurvivedKill) if !generation.is_killed() => {
                return Err(format!("U5: generation {index} gives up on what it has not killed"));
            }
            Effect::Report(Notice::SuccessorSurvivedKill)
                if self.generations.get(index + 1).is_some_and(|successor| successor.alive) =>
            {
                return Err(format!("U5: generation {index} gives up on a successor that it has not killed"));
            }
            // S4, F7: a signal that reaches psflip and its child together is an upgrade request.
            Effect::Exit(Outcome::Relay(_)) if generation.owes_upgrade => {
                return Err(format!(
                    "F7: generation {index} ends with its child, though an upgrade is under way"
                ));
            }
            // U5: processes that can't be killed are left behind, and psflip reports that.
            Effect::Exit(_)
                if !(matches!(generation.child, ChildState::Gone | ChildState::None)
                    || generation.reported_survivors && generation.is_killed()) =>
            {
                return Err(format!(
                    "C8: generation {index} exits with a child that is {:?}",
                    generation.child
                ));
            }
            // F11: a service manager kills the rest of the service when the active generation exits.
            Effect::Exit(Outcome::Relay(_))
                if generation.has_to_wait
                    && self.old_generations(index).iter().any(|old| self.generations[*old].alive) =>
            {
                return Err(format!("F11: generation {index} ends while an older one drains"));
            }
            Effect::RunHook(Hook::Promote) if generation.settle != Settle::Over => {
                return Err(format!("H6: generation {index} is promoted before its child has settled"));
            }
            // B1: two relays accept only while the traffic goes back.
            Effect::Relay(RelayOrder::Accept)
                if generation.knows_predecessor && matches!(generation.state.phase, Phase::Baking { .. }) =>
            {
                let old = &self.generations[index - 1];
                let is_back =
                    old.state.successor().is_some_and(|one| one.had_traffic() && !one.has_traffic());
                if old.alive && old.relay == RelayState::Accepts && !is_back {
                    return Err(format!("B1: generation {index} accepts, and so does the one before"));
                }
            }
            // U4: who hears of the promotion and connects reaches the new generation.
            Effect::AnnounceSuccessor
                if generation.relay == RelayState::Accepts
                    && matches!(generation.child, ChildState::Runs { .. }) =>
            {
                return Err(format!("U4: generation {index} announces its successor, and its relay accepts"));
            }
            // B3: the new relay accepts until the old one does, unless a stop is under way.
            Effect::Relay(RelayOrder::Return)
                if generation.relay == RelayState::Accepts
                    && matches!(generation.child, ChildState::Runs { .. })
                    && !is_stopped(&generation.state) =>
            {
                let old = &self.generations[index - 1];
                if old.alive
                    && old.relay != RelayState::Accepts
                    && matches!(old.child, ChildState::Runs { .. })
                    && !old.state.is_stopping()
                    && !old.effects.contains(&Effect::Relay(RelayOrder::Stay))
                // its child has ignored a stop
                {
                    return Err(format!("B3: generation {index} gives the traffic back, and nobody accepts"));
                }
            }
            // B2: a child whose health check has failed is not promoted.
            Effect::Report(Notice::Promoted) if generation.unhealthy => {
                return Err(format!("B2: generation {index} is promoted, and its child is not healthy"));
            }
            // D1: only an old generation, never the service.
            Effect::EndDraining | Effect::EndOldest | Effect::KillEnding
                if !generation.state.has_old_generations() =>
            {
                return Err(format!("D1: generation {index} ends its predecessor, and is not the service"));
            }
            // D3: otherwise the anchor ignores its successor, and systemd its main process.
            Effect::StartSuccessor
                if self.budget.most > 1
                    && generation.knows_predecessor
                    && self.generations[index - 1].alive
                    && !self.generations[index - 1].committed =>
            {
                return Err(format!("D3: generation {index} starts an upgrade before anybody knows it"));
            }
            Effect::StartSuccessor => {
                let others =
                    self.generations.iter().enumerate().filter(|(other, one)| *other != index && one.alive);
                if others.count() >= usize::from(self.budget.most) {
                    return Err(format!("U7: generation {index} starts one too many"));
                }
            }
            // D3: only when there is no other way.
            Effect::EndOldest if self.old_generations(index).len() < usize::from(self.budget.most) => {
                return Err(format!("D3: generation {index} ends an older one without need"));
            }
            Effect::EndOldest if self.budget.most == 1 => {
                return Err(format!("U7: generation {index} does not wait for the one before"));
            }
            Effect::SignalChild
            | Effect::KillChild
            | Effect::Prepare
            | Effect::AwaitPredecessorTree
            | Effect::AwaitSuccessorTree
            | Effect::ReportPrepared
            | Effect::GrantTurn
            | Effect::Relay(_)
            | Effect::StartChild
            | Effect::StartProbing
            | Effect::StartSettling
            | Effect::StartWatching
            | Effect::StopProbing
            | Effect::SignalOrphans
            | Effect::KillOrphans
            | Effect::RunHook(_)
            | Effect::KillHook
            | Effect::SwitchTraffic
            | Effect::TakePidfile
            | Effect::GiveBack
            | Effect::TakeBack
            | Effect::ReportBaking
            | Effect::ReportReturned
            | Effect::ReportReady
            | Effect::Withdraw
            | Effect::PassRequestBack
            | Effect::PassStopBack
            | Effect::EndOldest
            | Effect::EndDraining
            | Effect::KillEnding
            | Effect::PassRequestOn
            | Effect::GrantTraffic
            | Effect::PassKeep
            | Effect::RollBackSuccessor
            | Effect::Acknowledge { .. }
            | Effect::AnnounceSuccessor
            | Effect::AbortSuccessor
            | Effect::HurrySuccessor
            | Effect::KillSuccessor
            | Effect::Arm(_)
            | Effect::Disarm(_)
            | Effect::Report(_)
            | Effect::Exit(_) => {}
        }
        Ok(())
    }

    /// Checks what holds in every state.
    pub(super) fn check(&self) -> Result<(), String> {
        let serving = self.generations.iter().filter(|generation| generation.serves()).count();
        if serving > 1 {
            return Err("two generations are promoted".to_owned());
        }
        let living = self.generations.iter().filter(|generation| generation.alive).count();
        if living > usize::from(self.budget.most) + 1 {
            return Err(format!("U7: {living} generations are alive"));
        }
        if self.budget.is_exclusive && self.generations.iter().filter(|one| one.has_tree()).count() > 1 {
            return Err("E2: two children are there at once".to_owned());
        }
        // U8: a generation that fails gives back at once what it took, not only when its child has exited.
        for (index, generation) in self.generations.iter().enumerate() {
            let fails = matches!(generation.state.phase, Phase::Draining { outcome: Outcome::Failed(_), .. });
            let keeps = self.traffic == Some(index) || self.pidfile == Some(index);
            let hooks = matches!(
                generation.state.phase,
                Phase::Promoting { step: Promotion::RunningHook, .. }
                    | Phase::Preparing { step: Preparation::Checking { .. }, .. }
            );
            if generation.is_idle() && generation.hook && !hooks {
                return Err(format!("U4: the hook of generation {index} runs, and nobody waits for it"));
            }
            let accepts = generation.serves() || generation.state.is_on_trial();
            if generation.is_idle() && generation.relay == RelayState::Accepts && !accepts {
                return Err(format!("T3: generation {index} accepts and is not the service"));
            }
            let has_predecessor = generation.knows_predecessor && self.generations[index - 1].alive;
            let bakes = matches!(generation.state.phase, Phase::Baking { .. });
            if bakes && has_predecessor && self.pidfile == Some(index) {
                return Err(format!("B1: generation {index} bakes, and the pidfile names it"));
            }
            if generation.alive && generation.is_idle() && fails && keeps && has_predecessor {
                return Err(format!("U8: generation {index} fails and keeps clients or pidfile"));
            }
        }
        if self.is_quiet() {
            self.check_quiet()?;
        }
        Ok(())
    }

    /// Nothing is pending: no effect, no message, no unnoticed death.
    fn is_quiet(&self) -> bool {
        self.generations.iter().enumerate().all(|(index, generation)| {
            let unnoticed =
                |knows: bool, other: Option<&Generation>| knows && other.is_none_or(|other| !other.alive);
            !generation.alive
                || (generation.is_idle()
                    && generation.from_predecessor.is_empty()
                    && generation.from_successor.is_empty()
                    && generation.from_older.is_empty()
                    && generation.older.iter().all(|older| self.generations[*older].alive)
                    && !unnoticed(
                        generation.knows_predecessor,
                        index.checked_sub(1).map(|before| &self.generations[before]),
                    )
                    && !unnoticed(generation.knows_successor, self.generations.get(index + 1)))
        })
    }

    /// Checks what holds whenever nothing is pending.
    fn check_quiet(&self) -> Result<(), String> {
        for index in (0..self.generations.len()).filter(|index| self.generations[*index].serves()) {
            match self.pidfile {
                Some(named) if self.generations[named].alive => {}
                other => {
                    return Err(format!("P1: generation {index} is active and the pidfile names {other:?}"));
                }
            }
        }
        for (index, generation) in self.generations.iter().enumerate() {
            let serves = matches!(generation.state.phase, Phase::Serving { .. });
            if generation.alive && serves && !matches!(generation.child, ChildState::Runs { .. }) {
                return Err(format!("E3: generation {index} serves without a child"));
            }
        }
        // T3: the service accepts, unless it stops or its child has exited.
        for (index, generation) in self.generations.iter().enumerate() {
            let can = matches!(
                generation.state.phase,
                Phase::Serving { stopping: Stopping::No, .. }
                    | Phase::Upgrading { stopping: Stopping::No, child: Child::Runs, .. }
            );
            // B1: in a bake the successor accepts in its place.
            let successor = self.generations.get(index + 1).filter(|_| generation.knows_successor);
            if generation.alive
                && generation.state.successor().is_some_and(Successor::has_traffic)
                && !successor.is_some_and(|one| one.relay == RelayState::Accepts)
            {
                return Err(format!("B1: generation {index} stands by, and the next accepts no connections"));
            }
            let can = can && !generation.state.successor().is_some_and(Successor::has_traffic);
            if generation.alive && can && generation.relay != RelayState::Accepts {
                return Err(format!("T3: generation {index} is the service and accepts no connections"));
            }
        }
        // U8: once a successor is gone, traffic goes to the active generation. A symlink that points to a
        // dead generation is repointed by the next one.
        for index in (0..self.generations.len()).filter(|index| {
            let generation = &self.generations[*index];
            generation.serves() && !generation.knows_successor && !generation.knows_predecessor
        }) {
            if self.traffic != Some(index) {
                return Err(format!(
                    "U8: generation {index} is active and clients are sent to {:?}",
                    self.traffic
                ));
            }
        }
        // D3: an upgrade that waits for room gets it at once.
        for (index, generation) in self.generations.iter().enumerate().filter(|(_, one)| one.alive) {
            let waits = generation.state.upgrade_queued
                && !generation.state.old.announcing
                && generation.state.phase == Phase::Serving { stopping: Stopping::No };
            let old = self.old_generations(index);
            let counts = self.budget.most > 1 && generation.state.has_old_generations();
            if counts && old.len() != usize::from(generation.state.old.draining) {
                return Err(format!(
                    "D3: generation {index} does not know that {} older ones drain",
                    old.len()
                ));
            }
            if waits && self.budget.most > 1 && !old.iter().any(|old| self.generations[*old].was_ended) {
                return Err(format!("D3: generation {index} waits, and no older one ends"));
            }
        }
        let upgrade_queued =
            self.generations.iter().any(|generation| generation.alive && generation.state.upgrade_queued);
        let anybody = self.generations.iter().any(|generation| generation.alive);
        if self.open_requests && !upgrade_queued && anybody {
            return Err("U7: an upgrade request was neither followed, queued nor answered".to_owned());
        }
        Ok(())
    }

    /// Everything has exited, or one generation serves and can start an upgrade at once.
    pub(super) fn is_settled(&self) -> bool {
        let mut alive = self.generations.iter().filter(|generation| generation.alive);
        match (alive.next(), alive.next()) {
            (None, _) => true,
            (Some(one), None) => {
                one.is_idle() && one.state.phase == Phase::Serving { stopping: Stopping::No }
            }
            (Some(_), Some(_)) => false,
        }
    }
}
