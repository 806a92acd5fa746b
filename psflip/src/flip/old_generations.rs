//! The old generations that drain while this one is the service (contract D). What happens to them
//! means the same in nearly every phase.

use super::decide::start_queued_upgrade;
use super::drain::exit;
use super::effect::{Effect, Notice};
use super::event::Event;
use super::state::{OldGeneration, Phase, State, Timer};

/// Decides what concerns old generations only. `None`: the phase decides.
pub(super) fn about_old_generations(state: &mut State, event: Event) -> Option<Vec<Effect>> {
    let is_over =
        event == Event::OldGenerationGone || event == Event::PredecessorGone && state.has_taken_over();
    if is_over {
        let is_older = event == Event::OldGenerationGone;
        return Some(one_is_gone(
            state,
            if is_older { Notice::OlderDrained } else { Notice::PredecessorDrained },
        ));
    }
    if event == Event::Announced {
        state.old.announcing = false;
        return Some(start_queued_upgrade(state));
    }
    if event == Event::TimedOut(Timer::Ending) {
        return Some(if state.has_old_generations() { vec![Effect::KillEnding] } else { Vec::new() });
    }
    if event == Event::EndDrainingRequested {
        let ends = state.has_old_generations() && state.old.draining > 0;
        return Some(if ends { vec![Effect::EndDraining, Effect::Arm(Timer::Ending)] } else { Vec::new() });
    }
    None
}

/// One of them is gone.
fn one_is_gone(state: &mut State, notice: Notice) -> Vec<Effect> {
    if state.old.draining == 0 {
        return Vec::new();
    }
    state.old.draining -= 1;
    state.old.announcing &= notice != Notice::PredecessorDrained;
    // Before its promotion, this generation only counts.
    if !state.has_old_generations() {
        return Vec::new();
    }
    let mut effects = vec![Effect::Report(notice)];
    if state.old.draining == 0 {
        effects.push(Effect::Disarm(Timer::Ending));
        match &mut state.phase {
            Phase::AwaitingPredecessor { outcome } => {
                let outcome = *outcome;
                effects.push(Effect::Disarm(Timer::Predecessor));
                effects.extend(exit(state, outcome));
            }
            Phase::Draining { old_generation, .. } => *old_generation = OldGeneration::Gone,
            Phase::Preparing { .. }
            | Phase::Starting { .. }
            | Phase::Settling { .. }
            | Phase::Promoting { .. }
            | Phase::Baking { .. }
            | Phase::Serving { .. }
            | Phase::Upgrading { .. }
            | Phase::GivingWay { .. }
            | Phase::Restarting { .. }
            | Phase::Exiting => {}
        }
    }
    effects.extend(start_queued_upgrade(state));
    effects
}
