//! Visits every state of worlds in which several old generations drain, or an operator does not wait for them
//! (contract D).

use super::explore::{NOTHING, breaks_no_promise, explore};
use super::*;

/// An operator does not wait for an old generation that drains.
const ENDING: Budget = Budget { upgrades: 2, ends: 1, stops: 1, ..NOTHING };

/// Two old generations may drain, and a third upgrade comes.
const SEVERAL: Budget = Budget { upgrades: 3, most: 2, is_coarse: true, ..NOTHING };
const SEVERAL_KILLED: Budget = Budget { kills: 1, ends: 1, ..SEVERAL };
const SEVERAL_STOPPED: Budget = Budget { upgrades: 2, stops: 1, ..SEVERAL };
/// With bakes, which processes and operators disturb.
const SEVERAL_BAKE: Budget = Budget { kills: 1, bakes: true, verdicts: 1, ..SEVERAL };
/// Requests come at old generations, too.
const SEVERAL_ASKED: Budget = Budget { is_coarse: false, ..SEVERAL };
/// Three may drain, and a fourth upgrade comes.
const MORE: Budget = Budget { upgrades: 4, most: 3, ..SEVERAL };

#[test]
fn no_old_generation_that_is_ended_violates_the_contract() {
    // Contract: D1, U6, U7, C8, F11
    breaks_no_promise(ENDING, 1_000);
}

#[test]
fn no_upgrade_beside_old_generations_violates_the_contract() {
    // Contract: D3, U7, U8, F8, F9, F11
    breaks_no_promise(SEVERAL_KILLED, 50_000);
    breaks_no_promise(SEVERAL_STOPPED, 10_000);
    breaks_no_promise(SEVERAL_BAKE, 50_000);
}

#[test]
fn no_upgrade_beside_three_old_generations_violates_the_contract() {
    // Contract: D3, U7
    breaks_no_promise(MORE, 50_000);
}

/// Faulty decisions, each with the promise that it breaks and a world in which it does.
const MUTANTS: &[(&str, &str, Budget, Decide)] = &[
    ("a generation that is not the service ends its predecessor", "D1", ENDING, |state, event| {
        let mut effects = decide(state, event);
        if event == Event::PidfileTaken && effects.contains(&Effect::ReportReady) {
            effects.push(Effect::EndDraining);
        }
        effects
    }),
    ("one old generation too many drains", "U7", SEVERAL, |state, event| {
        state.old.most = 3;
        decide(state, event)
    }),
    ("an upgrade starts before the managers know the generation", "D3", SEVERAL, |state, event| {
        state.old.announcing = false;
        decide(state, event)
    }),
    ("an old generation is ended without need", "D3", SEVERAL, |state, event| {
        let mut effects = decide(state, event);
        if effects.contains(&Effect::StartSuccessor) && state.old.draining > 0 {
            effects.push(Effect::EndOldest);
        }
        effects
    }),
    ("an upgrade waits for an old generation that nobody ends", "D3", SEVERAL, |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::EndOldest);
        effects
    }),
    ("an upgrade does not start when there is room", "U7", SEVERAL, |state, event| {
        let mut effects = decide(state, event);
        if event == Event::OldGenerationGone {
            effects.retain(|effect| *effect != Effect::StartSuccessor);
        }
        effects
    }),
    ("the end of an older one is overlooked during an upgrade", "D3", SEVERAL_KILLED, |state, event| match (
        state.phase,
        event,
    ) {
        (Phase::Upgrading { .. }, Event::OldGenerationGone) => Vec::new(),
        _ => decide(state, event),
    }),
    ("the end of an older one is overlooked before the promotion", "D3", SEVERAL_KILLED, |state, event| {
        if event == Event::OldGenerationGone && !state.has_taken_over() {
            return Vec::new();
        }
        decide(state, event)
    }),
    ("a generation that goes on alone forgets the older ones", "D3", SEVERAL_KILLED, |state, event| {
        let effects = decide(state, event);
        if event == Event::PredecessorGone && effects.contains(&Effect::Report(Notice::PredecessorKilled)) {
            state.old.draining = 0;
        }
        effects
    }),
    ("a stop waits for the predecessor only", "D3", SEVERAL_STOPPED, |state, event| {
        if event == Event::PredecessorGone && state.has_taken_over() {
            state.old.draining = state.old.draining.min(1);
        }
        decide(state, event)
    }),
    (
        "a request that an old one passes on during an upgrade is forgotten",
        "U7",
        SEVERAL_ASKED,
        |state, event| match (state.phase, event) {
            (Phase::Upgrading { .. }, Event::RequestPassedOn) => Vec::new(),
            _ => decide(state, event),
        },
    ),
];

#[test]
fn injected_faults_of_draining_are_found() {
    // Contract: D1, D3, U7, F8, F11
    for (fault, promise, world, mutant) in MUTANTS {
        match explore(*world, *mutant) {
            Ok(states) => panic!("nobody noticed in {states} states that {fault}"),
            Err(broken) => assert!(broken.starts_with(promise), "{fault}: {broken}"),
        }
    }
}
