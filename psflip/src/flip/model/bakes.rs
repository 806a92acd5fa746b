//! Visits every state of worlds in which new generations bake (contract B).

use super::explore::{NOTHING, breaks_no_promise, explore};
use super::*;

/// With bakes that processes disturb.
const BAKES: Budget = Budget { upgrades: 1, kills: 1, crashes: 1, bakes: true, verdicts: 1, ..NOTHING };

/// With bakes that effects and operators disturb.
const BAKES_STOPPED: Budget =
    Budget { upgrades: 1, stops: 1, faults: 1, bakes: true, verdicts: 1, ..NOTHING };

/// The same, in smaller worlds.
const BAKES_FAULTY: Budget = Budget { upgrades: 1, faults: 1, bakes: true, ..NOTHING };
const BAKES_ABORTED: Budget = Budget { upgrades: 1, stops: 1, bakes: true, ..NOTHING };

/// With an upgrade after a roll-back, or during a bake.
const BAKES_TWICE: Budget = Budget { upgrades: 2, kills: 1, bakes: true, verdicts: 1, ..NOTHING };

#[test]
fn no_bake_violates_the_contract() {
    // Contract: B1, B2, B3, B4, S5, U4, U6, U7, U8, F5, F6, F7, F8, F11
    breaks_no_promise(BAKES, 1_000);
    breaks_no_promise(BAKES_STOPPED, 1_000);
}

#[test]
fn no_upgrade_around_a_bake_violates_the_contract() {
    // Contract: B1, B3, B6, U7, U8
    breaks_no_promise(BAKES_TWICE, 1_000);
}

/// Faulty decisions, each with the promise that it breaks.
const MUTANTS_OF_BAKES: &[(&str, &str, Decide)] = &[
    ("the old relay goes on accepting in a bake", "B1", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::Relay(RelayOrder::StandBy));
        effects
    }),
    ("the new generation accepts before the old relay leaves", "B1", |state, event| {
        let mut effects = decide(state, event);
        if effects.contains(&Effect::ReportBaking) {
            effects.push(Effect::Relay(RelayOrder::Accept));
        }
        effects
    }),
    ("the traffic is not granted", "B1", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::GrantTraffic);
        effects
    }),
    ("the traffic comes back, and the old relay does not accept", "B3", |state, event| {
        let mut effects = decide(state, event);
        if event == Event::SuccessorReturned {
            effects.retain(|effect| *effect != Effect::Relay(RelayOrder::Stay));
        }
        effects
    }),
    ("the new psflip dies in a bake, and the old relay does not accept", "T3", |state, event| {
        let mut effects = decide(state, event);
        if event == Event::SuccessorGone {
            effects.retain(|effect| *effect != Effect::Relay(RelayOrder::Stay));
        }
        effects
    }),
    ("the new generation does not report that it gives the traffic back", "B1", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::ReportReturned);
        effects
    }),
    ("the new relay goes on accepting after a roll-back", "T3", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::Relay(RelayOrder::Return));
        effects
    }),
    ("the new relay leaves before the old one accepts", "B3", |state, event| {
        let mut effects = decide(state, event);
        if let Phase::Baking { step: Bake::Returning { cause } } = state.phase
            && effects.contains(&Effect::ReportReturned)
            && cause != Failure::Aborted
        {
            effects.extend(decide(state, Event::Aborted));
        }
        effects
    }),
    ("a generation that has baked waits for its acknowledgement for 10 s", "B3", |state, event| {
        if let Phase::Promoting { step, baked: true, .. } = &mut state.phase
            && *step == Promotion::AwaitingAcknowledgement
            && event == Event::TimedOut(Timer::Acknowledgement)
        {
            *step = Promotion::Withdrawing { cause: Failure::NoAcknowledgement };
            return vec![Effect::Withdraw];
        }
        decide(state, event)
    }),
    ("a failing health check is overlooked in a bake", "B2", |state, event| match (state.phase, event) {
        (Phase::Baking { .. }, Event::ChildUnhealthy) => Vec::new(),
        _ => decide(state, event),
    }),
    ("the pidfile is taken before the bake", "B1", |state, event| {
        let mut effects = decide(state, event);
        if effects.contains(&Effect::ReportBaking) {
            effects.insert(0, Effect::TakePidfile);
        }
        effects
    }),
    ("the old child is stopped when the bake begins", "U6", |state, event| {
        let mut effects = decide(state, event);
        if event == Event::SuccessorBakes {
            effects.push(Effect::SignalChild);
        }
        effects
    }),
    ("after a roll-back the symlink leads to the new child", "U8", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| !matches!(effect, Effect::TakeBack | Effect::GiveBack));
        effects
    }),
    ("a stop during a bake leaves the new generation alone", "S5", |state, event| {
        if let (Phase::Upgrading { successor: Successor::Baking, .. }, Event::StopRequested(_)) =
            (state.phase, event)
        {
            return Vec::new();
        }
        decide(state, event)
    }),
    ("the end of the old psflip is overlooked in a bake", "F8", |state, event| match (state.phase, event) {
        (Phase::Baking { .. }, Event::PredecessorGone) => roll_back_of(state),
        _ => decide(state, event),
    }),
];

/// Gives up, as if the predecessor served.
fn roll_back_of(state: &mut State) -> Vec<Effect> {
    decide(state, Event::Aborted)
}

/// Checks every second fault, beginning at `remainder`.
#[track_caller]
fn are_found(remainder: usize) {
    for (fault, promise, mutant) in MUTANTS_OF_BAKES.iter().skip(remainder).step_by(2) {
        let found = explore(BAKES_FAULTY, *mutant)
            .and_then(|_| explore(BAKES, *mutant))
            .and_then(|_| explore(BAKES_ABORTED, *mutant));
        match found {
            Ok(states) => panic!("nobody noticed in {states} states that {fault}"),
            Err(broken) => assert!(broken.starts_with(promise), "{fault}: {broken}"),
        }
    }
}

#[test]
fn injected_faults_of_bakes_are_found_1() {
    // Contract: B1, B2, B3, U6, U8
    are_found(0);
}

#[test]
fn injected_faults_of_bakes_are_found_2() {
    // Contract: B1, B2, B3, U6, U8
    are_found(1);
}
