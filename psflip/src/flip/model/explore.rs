//! Visits every state of the world, with the real decision and with decisions that are faulty on purpose.

use rustc_hash::FxHashMap;

use super::*;

pub(super) const NOTHING: Budget = Budget {
    upgrades: 0,
    stops: 0,
    kills: 0,
    crashes: 0,
    faults: 0,
    bakes: false,
    verdicts: 0,
    keepers: 0,
    unkillable: 0,
    group_signals: 0,
    is_exclusive: false,
    most: 1,
    ends: 0,
    is_coarse: false,
};

const FULL: Budget = Budget { upgrades: 2, stops: 1, kills: 1, crashes: 1, faults: 1, ..NOTHING };

const SMALL: Budget = Budget { upgrades: 2, kills: 1, faults: 1, ..NOTHING };

/// With processes that can't be killed.
const UNKILLABLE: Budget = Budget { upgrades: 1, stops: 1, kills: 1, unkillable: 1, ..NOTHING };

/// The same where nothing is killed from outside: that would end the wait for a process that hangs.
const HANGING: Budget = Budget { upgrades: 1, stops: 1, unkillable: 1, ..NOTHING };

/// With signals that psflip and its child get together, and with keepers that are killed.
const GROUPS: Budget = Budget { upgrades: 1, stops: 1, keepers: 1, group_signals: 1, ..NOTHING };

/// Without two children at once.
const EXCLUSIVE: Budget = Budget { upgrades: 2, stops: 1, kills: 1, is_exclusive: true, ..NOTHING };
const EXCLUSIVE_FULL: Budget = Budget { crashes: 1, faults: 1, ..EXCLUSIVE };

/// Visits every reachable state. Returns the number of states, or the first broken promise with the shortest
/// path to it.
pub(super) fn explore(budget: Budget, decide: Decide) -> Result<usize, String> {
    let first = World::new(budget);
    let mut numbers = FxHashMap::from_iter([(first.clone(), 0_usize)]);
    let mut worlds = vec![first];
    let mut came_from: Vec<Option<(usize, Transition)>> = vec![None];
    let mut followers: Vec<Vec<usize>> = Vec::new();
    let way = |came_from: &[Option<(usize, Transition)>], mut at: usize| {
        let mut way = Vec::new();
        while let Some((before, step)) = came_from[at] {
            way.push(format!("  {step:?}"));
            at = before;
        }
        way.reverse();
        way.join("\n")
    };
    let mut next = 0;
    while next < worlds.len() {
        let world = worlds[next].clone();
        let mut to = Vec::new();
        for step in world.steps() {
            match world.after(step, decide) {
                Err(broken) => {
                    return Err(format!(
                        "{broken}\nafter\n{}\n  {step:?}\nfrom\n{world:#?}",
                        way(&came_from, next)
                    ));
                }
                Ok(after) => {
                    let number = *numbers.entry(after).or_insert_with_key(|after| {
                        worlds.push(after.clone());
                        came_from.push(Some((next, step)));
                        worlds.len() - 1
                    });
                    to.push(number);
                }
            }
        }
        followers.push(to);
        next += 1;
    }
    let mut before = vec![Vec::new(); worlds.len()];
    for (number, to) in followers.iter().enumerate() {
        for after in to {
            before[*after].push(number);
        }
    }
    // No deadlock and no livelock: from every state, a settled one can be reached.
    let settles = comes_to(&before, |number| worlds[number].is_settled());
    if let Some(stuck) = settles.iter().position(|settles| !settles) {
        return Err(format!("stuck for ever after\n{}\nin\n{:#?}", way(&came_from, stuck), worlds[stuck]));
    }
    // S5, F11: a stop that no child ignores stops every generation, whatever else happens.
    let ends = comes_to(&before, |number| worlds[number].generations.iter().all(|one| !one.alive));
    match (0..worlds.len()).find(|number| worlds[*number].stopping && !ends[*number]) {
        Some(lives) => Err(format!(
            "S5: a stop ends nothing after\n{}\nin\n{:#?}",
            way(&came_from, lives),
            worlds[lives]
        )),
        None => Ok(worlds.len()),
    }
}

/// For each state, whether it can reach a state for which `is_there` holds.
fn comes_to(before: &[Vec<usize>], is_there: impl Fn(usize) -> bool) -> Vec<bool> {
    let mut comes = vec![false; before.len()];
    let mut queue: VecDeque<usize> = (0..before.len()).filter(|number| is_there(*number)).collect();
    while let Some(number) = queue.pop_front() {
        if !std::mem::replace(&mut comes[number], true) {
            queue.extend(before[number].iter());
        }
    }
    comes
}

#[track_caller]
#[expect(clippy::print_stdout, reason = "`--no-capture` shows how large the world is")]
pub(super) fn breaks_no_promise(budget: Budget, least: usize) {
    match explore(budget, decide) {
        Ok(states) => {
            println!("{states} states");
            assert!(states > least, "only {states} states: the world has become too small");
        }
        Err(broken) => panic!("{broken}"),
    }
}

#[test]
fn no_sequence_of_events_violates_the_contract() {
    // Contract: S5, U4, U6, U7, U8, F6, F7, F8, F9, F11, H6
    breaks_no_promise(FULL, 100_000);
}

#[test]
fn no_unkillable_process_violates_the_contract() {
    // Contract: S5, U5, U7, C8, F8, F11
    breaks_no_promise(UNKILLABLE, 10_000);
    breaks_no_promise(HANGING, 1_000);
}

#[test]
fn no_group_signal_or_keeper_exit_violates_the_contract() {
    // Contract: S4, S5, U7, U8, F3, F7, F11
    breaks_no_promise(GROUPS, 10_000);
}

#[test]
fn no_exclusive_upgrade_violates_the_contract() {
    // Contract: E1, E2, E3, E4, U7, F6, F7, F8, F11
    breaks_no_promise(EXCLUSIVE_FULL, 50_000);
}

/// Faulty decisions: each has a fault that a developer might make, and the promise that it breaks.
const MUTANTS: &[(&str, &str, Decide)] = &[
    ("a failed acknowledgement counts", "U7", |state, event| {
        let event = if event == Event::NotCommitted { Event::Committed } else { event };
        decide(state, event)
    }),
    ("the end of the predecessor is overlooked", "F8", |state, event| match (state.phase, event) {
        (Phase::Promoting { .. }, Event::PredecessorGone) => Vec::new(),
        _ => decide(state, event),
    }),
    ("a successor gives up without asking whether it is too late", "two generations", |state, event| {
        let is_late = event == Event::TimedOut(Timer::Acknowledgement);
        decide(state, if is_late { Event::PredecessorGone } else { event })
    }),
    (
        "a `ready` that could not be sent counts as the end of the predecessor",
        "two generations",
        |state, event| {
            let is_lost = event == Event::ReadyNotSent;
            decide(state, if is_lost { Event::PredecessorGone } else { event })
        },
    ),
    ("an upgrade starts while the predecessor drains", "U7", |state, event| {
        if let (Phase::Serving { .. }, Event::UpgradeRequested) = (state.phase, event) {
            state.old.draining = 0;
        }
        decide(state, event)
    }),
    ("a queued upgrade is forgotten when an upgrade fails", "U7", |state, event| {
        state.upgrade_queued &= !matches!(event, Event::SuccessorNotStarted | Event::SuccessorGone);
        decide(state, event)
    }),
    ("what a failed successor took is not taken back", "U8", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::TakeBack);
        effects
    }),
    ("clients are not taken back", "U8", |state, event| {
        let mut effects = decide(state, event);
        if matches!(state.phase, Phase::Draining { outcome: Outcome::Failed(_), .. }) {
            effects.retain(|effect| *effect != Effect::GiveBack);
        }
        effects
    }),
    ("a hook goes on when its generation does not", "U4", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::KillHook);
        effects
    }),
    ("a child that could not be started is waited for", "U5", |state, event| match (state.phase, event) {
        (Phase::Draining { .. }, Event::ChildNotStarted(_)) => Vec::new(),
        _ => decide(state, event),
    }),
    ("a stop request is overheard while a child starts", "S5", |state, event| match (state.phase, event) {
        (Phase::Starting { .. }, Event::StopRequested(_)) => Vec::new(),
        _ => decide(state, event),
    }),
    (
        "a stop of the process that the pidfile names is taken for one of the successor alone",
        "S5",
        |state, event| match (state.phase, event) {
            (Phase::Upgrading { .. }, Event::StopRequested(ChildSignal::Send)) => Vec::new(),
            _ => decide(state, event),
        },
    ),
    ("an operator's stop does not reach the child", "S5", |state, event| {
        let was_stopping = state.is_stopping();
        let mut effects = decide(state, event);
        if was_stopping && matches!(state.phase, Phase::Serving { .. } | Phase::Upgrading { .. }) {
            effects.retain(|effect| *effect != Effect::SignalChild);
        }
        effects
    }),
    ("after a stop nobody waits for a predecessor that drains", "F11", |state, event| {
        let mut effects = decide(state, event);
        if let Phase::AwaitingPredecessor { outcome } = state.phase {
            effects.push(Effect::Exit(outcome));
        }
        effects
    }),
    ("a predecessor that drains is waited for without end", "stuck", |state, event| {
        match (state.phase, event) {
            (
                Phase::AwaitingPredecessor { .. },
                Event::TimedOut(Timer::Predecessor) | Event::PredecessorGone | Event::OldGenerationGone,
            ) => Vec::new(),
            _ => decide(state, event),
        }
    }),
    ("a generation accepts before it is the service", "T3", |state, event| {
        let mut effects = decide(state, event);
        if event == Event::PidfileTaken && effects.contains(&Effect::ReportReady) {
            effects.push(Effect::Relay(RelayOrder::Accept));
        }
        effects
    }),
    ("nobody accepts once the predecessor was killed", "T3", |state, event| {
        let mut effects = decide(state, event);
        if event == Event::PredecessorGone {
            effects.retain(|effect| *effect != Effect::Relay(RelayOrder::Accept));
        }
        effects
    }),
    ("a predecessor goes on accepting, and nobody hears of its successor", "T3", |state, event| {
        let mut effects = decide(state, event);
        let is_change =
            |effect: &Effect| matches!(effect, Effect::Relay(RelayOrder::Leave) | Effect::AnnounceSuccessor);
        if event == Event::Committed {
            effects.retain(|effect| !is_change(effect));
        }
        effects
    }),
    ("the promotion is announced before the old relay leaves", "U4", |state, event| {
        let mut effects = decide(state, event);
        if let Some(place) = effects.iter().position(|effect| *effect == Effect::AnnounceSuccessor) {
            effects[..=place].rotate_right(1);
        }
        effects
    }),
    ("a child that ignored a stop gets no connections any more", "T3", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::Relay(RelayOrder::Stay));
        effects
    }),
    ("the old child is stopped while it answers", "T4", |state, event| {
        let mut effects = decide(state, event);
        if event == Event::Committed {
            effects.extend(decide(state, Event::RelayDrained));
            effects.extend(decide(state, Event::TimedOut(Timer::Delay)));
        }
        effects
    }),
    ("a stop request does not wait for what is under way", "T4", |state, event| {
        let mut effects = decide(state, event);
        if let (Phase::Serving { .. }, Event::StopRequested(_)) = (state.phase, event) {
            effects.extend(decide(state, Event::RelayDrained));
        }
        effects
    }),
    ("what is under way is waited for without end", "stuck", |state, event| {
        let is_done = matches!(event, Event::RelayDrained | Event::TimedOut(Timer::Drain));
        if is_done { Vec::new() } else { decide(state, event) }
    }),
    ("a child that was healthy for a moment is promoted", "H6", |state, event| {
        let mut effects = decide(state, event);
        if event == Event::ChildHealthy && effects.contains(&Effect::StartSettling) {
            effects.extend(decide(state, Event::ChildSettled));
        }
        effects
    }),
    ("a child that is not healthy any more is promoted", "H6", |state, event| {
        decide(state, if event == Event::ChildUnhealthy { Event::ChildSettled } else { event })
    }),
    ("psflip exits when its child has, not when its tree has", "C8", |state, event| {
        let mut effects = decide(state, event);
        if let Event::ChildExited(end) = event {
            effects.push(Effect::Exit(Outcome::Relay(end)));
        }
        effects
    }),
];

/// The same, for faults that show only with unkillable processes and signals to process groups.
const MUTANTS_OF_GROUPS: &[(&str, &str, Decide)] = &[
    ("what SIGKILL does not end is waited for without end", "stuck", |state, event| {
        if event == Event::TimedOut(Timer::Kill) { Vec::new() } else { decide(state, event) }
    }),
    ("a successor that SIGKILL does not end is waited for without end", "stuck", |state, event| {
        if event == Event::TimedOut(Timer::SuccessorKill) { Vec::new() } else { decide(state, event) }
    }),
    ("a successor is left behind that nobody has killed", "U5", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::KillSuccessor);
        effects
    }),
    ("what SIGKILL does not end is left behind without a word", "C8", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::Report(Notice::SurvivedKill));
        effects
    }),
    ("what was only asked to end is left behind", "U5", |state, event| {
        if let (Phase::Draining { step, .. }, Event::TimedOut(Timer::Grace)) = (&mut state.phase, event) {
            *step = DrainStep::OrphansKilled;
            return decide(state, Event::TimedOut(Timer::Kill));
        }
        decide(state, event)
    }),
    ("the end of the child ends an upgrade that is under way", "F7", |state, event| {
        if let (Phase::Upgrading { stopping: Stopping::No, .. }, Event::ChildExited(end)) =
            (state.phase, event)
        {
            state.phase = Phase::Serving { stopping: Stopping::No };
            return decide(state, Event::ChildExited(end));
        }
        decide(state, event)
    }),
    ("the end of a child that has not started yet is overlooked", "U5", |state, event| {
        match (state.phase, event) {
            (Phase::Starting { .. } | Phase::Draining { .. }, Event::ChildExited(_)) => Vec::new(),
            _ => decide(state, event),
        }
    }),
];

/// The same, for faults that show only if two children must not run at once.
const MUTANTS_OF_EXCLUSIVE: &[(&str, &str, Decide)] = &[
    ("a successor does not wait for its turn", "E2", |state, event| {
        if let (Phase::Preparing { step, .. }, Event::Prepared) = (&mut state.phase, event) {
            *step = Preparation::Checking { exclusive: false };
        }
        decide(state, event)
    }),
    ("the turn is granted when the child has exited, and not its tree", "E2", |state, event| {
        let mut effects = decide(state, event);
        if let (Phase::GivingWay { .. }, Event::ChildExited(_)) = (state.phase, event) {
            effects.extend(decide(state, Event::TreeGone));
        }
        effects
    }),
    ("the old child starts again while the new one ends", "E2", |state, event| {
        let mut effects = decide(state, event);
        if let (Phase::Restarting { .. }, Event::SuccessorGone) = (state.phase, event) {
            effects.extend(decide(state, Event::SuccessorTreeGone));
        }
        effects
    }),
    ("a successor whose predecessor was killed starts at once", "E2", |state, event| {
        let mut effects = decide(state, event);
        if let (Phase::Preparing { .. }, Event::PredecessorGone) = (state.phase, event) {
            effects.extend(decide(state, Event::PredecessorTreeGone));
        }
        effects
    }),
    ("the old child does not start again", "E3", |state, event| {
        if let (Phase::Upgrading { child, .. }, Event::SuccessorGone) = (&mut state.phase, event)
            && let Child::GaveWay(end) = *child
        {
            *child = Child::Gone(end);
        }
        decide(state, event)
    }),
    ("what waits is not let go on when the old child has started again", "T3", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::Relay(RelayOrder::Stay));
        effects
    }),
    ("the old child stops for a successor that has failed", "E3", |state, event| {
        match (state.phase, event) {
            (Phase::GivingWay { step: GiveWay::Answering, .. }, Event::SuccessorGone) => Vec::new(),
            _ => decide(state, event),
        }
    }),
    ("the old child stops while it answers", "T4", |state, event| {
        let mut effects = decide(state, event);
        if event == Event::SuccessorPrepared {
            effects.extend(decide(state, Event::RelayDrained));
        }
        effects
    }),
    ("a stop request is overheard while a child gives way", "S5", |state, event| {
        match (state.phase, event) {
            (Phase::GivingWay { .. } | Phase::Restarting { .. }, Event::StopRequested(_)) => Vec::new(),
            _ => decide(state, event),
        }
    }),
    ("a successor that waits for its turn overlooks the end of its predecessor", "stuck", |state, event| {
        match (state.phase, event) {
            (Phase::Preparing { .. }, Event::PredecessorGone) => Vec::new(),
            _ => decide(state, event),
        }
    }),
    ("clients that waited are not passed on", "E2", |state, event| {
        let mut effects = decide(state, event);
        if event == Event::Committed {
            effects.retain(|effect| *effect != Effect::Relay(RelayOrder::Leave));
        }
        effects
    }),
    ("a request that came in the preparation is forgotten", "U7", |state, event| {
        state.upgrade_queued &= !matches!(event, Event::TurnGranted | Event::SuccessorTreeGone);
        decide(state, event)
    }),
];

#[test]
fn injected_faults_of_exclusive_upgrades_are_found() {
    // Contract: E2, E3, E4
    for (fault, promise, mutant) in MUTANTS_OF_EXCLUSIVE {
        let found = explore(EXCLUSIVE, *mutant).and_then(|_| explore(EXCLUSIVE_FULL, *mutant));
        match found {
            Ok(states) => panic!("nobody noticed in {states} states that {fault}"),
            Err(broken) => assert!(broken.starts_with(promise), "{fault}: {broken}"),
        }
    }
}

/// Checks every eighth fault, beginning at `remainder`. Several tests share the faults, since each fault
/// takes a world or two.
#[track_caller]
fn are_found(remainder: usize) {
    for (fault, promise, mutant) in MUTANTS.iter().skip(remainder).step_by(8) {
        // Most faults are found in the small world, which takes less time.
        match explore(SMALL, *mutant).and_then(|_| explore(FULL, *mutant)) {
            Ok(states) => panic!("nobody noticed in {states} states that {fault}"),
            Err(broken) => assert!(broken.starts_with(promise), "{fault}: {broken}"),
        }
    }
}

#[test]
fn injected_faults_are_found_1() {
    // Contract: U6, U7, U8, P1
    are_found(0);
}

#[test]
fn injected_faults_are_found_2() {
    // Contract: U4, U7, U8
    are_found(1);
}

#[test]
fn injected_faults_are_found_3() {
    // Contract: S5, U8
    are_found(2);
}

#[test]
fn injected_faults_are_found_4() {
    // Contract: F8, F11, C8
    are_found(3);
}

#[test]
fn injected_faults_are_found_5() {
    // Contract: U6, U7, U8, P1
    are_found(4);
}

#[test]
fn injected_faults_are_found_6() {
    // Contract: U4, U7, U8
    are_found(5);
}

#[test]
fn injected_faults_are_found_7() {
    // Contract: S5, U8
    are_found(6);
}

#[test]
fn injected_faults_are_found_8() {
    // Contract: F8, F11, C8
    are_found(7);
}

#[test]
fn injected_faults_with_unkillable_processes_and_groups_are_found() {
    // Contract: U5, F7, S4
    for (fault, promise, mutant) in MUTANTS_OF_GROUPS {
        let found = explore(HANGING, *mutant)
            .and_then(|_| explore(UNKILLABLE, *mutant))
            .and_then(|_| explore(GROUPS, *mutant));
        match found {
            Ok(states) => panic!("nobody noticed in {states} states that {fault}"),
            Err(broken) => assert!(broken.starts_with(promise), "{fault}: {broken}"),
        }
    }
}
