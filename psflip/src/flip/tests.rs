//! Visits every reachable state, with every event.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use super::*;
use crate::exit_status::ExitStatus;

const NO_OLD: OldGenerations = OldGenerations { draining: 0, most: 1, announcing: false };
/// The last one may drain together with one more.
const BEGINNINGS: [(Role, OldGenerations); 5] = [
    (Role::First, NO_OLD),
    (Role::Successor, NO_OLD),
    (Role::Prechecked, NO_OLD),
    (Role::Exclusive, NO_OLD),
    (Role::Successor, OldGenerations { draining: 1, most: 2, announcing: false }),
];
const END: ExitStatus = ExitStatus::Exited(3);

/// Every event, with one value for each field that the decision does not look at.
fn events() -> Vec<Event> {
    use Event as E;
    let mut events = vec![
        E::Prepared,
        E::NotPrepared(Failure::Precheck),
        E::TurnGranted,
        E::PredecessorTreeGone,
        E::ChildStarted,
        E::ChildNotStarted(StartFailure::NotFound),
        E::ChildHealthy,
        E::ChildSettled,
        E::ChildUnhealthy,
        E::ChildNeverHealthy,
        E::ChildExited(END),
        E::TreeGone,
        E::RelayDrained,
        E::RelayLost,
        E::UpgradeRequested,
        E::StopRequested(ChildSignal::HasIt),
        E::StopRequested(ChildSignal::Send),
        E::HookSucceeded,
        E::HookFailed,
        E::TrafficSwitched { bakes: false },
        E::TrafficSwitched { bakes: true },
        E::TrafficRefused,
        E::PidfileTaken,
        E::PidfileRefused,
        E::ReadyNotSent,
        E::TrafficGranted,
        E::KeepRequested,
        E::RollbackRequested,
        E::Acknowledged { upgrade_queued: false },
        E::Acknowledged { upgrade_queued: true },
        E::Withdrawn,
        E::Aborted,
        E::RequestPassedOn,
        E::PredecessorGone,
        E::SuccessorPrepared,
        E::SuccessorBakes,
        E::SuccessorReturned,
        E::SuccessorReady,
        E::Committed,
        E::NotCommitted,
        E::RequestPassedBack,
        E::SuccessorNotStarted,
        E::SuccessorGone,
        E::SuccessorTreeGone,
        E::OldGenerationGone,
        E::EndDrainingRequested,
        E::EndRequested,
    ];
    let timers = [
        Timer::Healthy,
        Timer::Bake,
        Timer::Acknowledgement,
        Timer::Successor,
        Timer::SuccessorKill,
        Timer::Predecessor,
        Timer::Ending,
        Timer::Drain,
        Timer::Delay,
        Timer::Closing,
        Timer::Grace,
        Timer::Ending,
        Timer::Kill,
    ];
    events.extend(timers.map(E::TimedOut));
    events
}

struct Row {
    from: State,
    event: Event,
    to: State,
    effects: Vec<Effect>,
}

/// Explores from both initial states until no new state is found. Rows are in the order of discovery.
fn table() -> Vec<Row> {
    let mut seen: Vec<State> = Vec::new();
    let mut queue = VecDeque::new();
    for (role, old) in BEGINNINGS {
        queue.push_back(begin(role, old).0);
    }
    let mut rows = Vec::new();
    while let Some(from) = queue.pop_front() {
        if seen.contains(&from) {
            continue;
        }
        seen.push(from);
        for event in events() {
            let mut to = from;
            let effects = decide(&mut to, event);
            queue.push_back(to);
            rows.push(Row { from, event, to, effects });
        }
    }
    rows
}

/// Whether an upgrade has failed after this event, if it can happen in that state.
fn ends_upgrade(event: Event) -> bool {
    matches!(event, Event::SuccessorNotStarted | Event::SuccessorGone | Event::TimedOut(Timer::SuccessorKill))
}

fn name(state: State) -> String {
    let upgrade_queued = if state.upgrade_queued { " + queued upgrade" } else { "" };
    let OldGenerations { draining, most, announcing } = state.old;
    let known = if announcing { ", not announced" } else { "" };
    let old = if most > 1 || draining > 0 {
        format!(" + {draining} of {most} drain{known}")
    } else {
        String::new()
    };
    format!("{:?}{old}{upgrade_queued}", state.phase)
}

#[test]
fn the_whole_table() {
    let mut text = String::new();
    for (role, old) in BEGINNINGS.into_iter().filter(|(_, old)| old.most == 1) {
        let (state, effects) = begin(role, old);
        writeln!(text, "begin as {role:?} -> {}\n    {effects:?}", name(state)).unwrap();
    }
    let mut ignored: Vec<String> = Vec::new();
    let mut last = None;
    let end_of_state = |text: &mut String, ignored: &mut Vec<String>| {
        if !ignored.is_empty() {
            writeln!(text, "  ignored: {}", ignored.join(", ")).unwrap();
            ignored.clear();
        }
    };
    // With more old generations the table would be four times as long, and say little more.
    for Row { from, event, to, effects } in table().into_iter().filter(|row| row.from.old.most == 1) {
        if last != Some(from) {
            end_of_state(&mut text, &mut ignored);
            writeln!(text, "\n{}", name(from)).unwrap();
            last = Some(from);
        }
        if from == to && effects.is_empty() {
            ignored.push(format!("{event:?}"));
            continue;
        }
        let target = if from == to { "stays".to_owned() } else { name(to) };
        writeln!(text, "  {event:?} -> {target}").unwrap();
        if !effects.is_empty() {
            writeln!(text, "      {effects:?}").unwrap();
        }
    }
    end_of_state(&mut text, &mut ignored);
    insta::assert_snapshot!("table", text);
}

#[test]
fn the_old_child_gets_no_signal_before_the_promotion() {
    // Contract: U6
    let mut committed = 0;
    for Row { from, event, to, effects } in table() {
        let upgrading = matches!(from.phase, Phase::Upgrading { .. } | Phase::Serving { .. });
        let signalled =
            effects.iter().any(|effect| matches!(effect, Effect::SignalChild | Effect::KillChild));
        assert!(!(upgrading && signalled) || from.is_stopping(), "{from:?} {event:?}"); // not for an upgrade
        if matches!(to.phase, Phase::Draining { outcome: Outcome::Superseded, .. }) && upgrading {
            assert_eq!(event, Event::Committed, "{from:?}");
            committed += 1;
        }
    }
    assert!(committed > 0);
}

#[test]
fn there_is_never_a_third_generation() {
    // Contract: U7
    let mut started = 0;
    for Row { from, event, to, effects } in table() {
        if effects.contains(&Effect::StartSuccessor) {
            started += 1;
            let alone = Phase::Upgrading {
                child: Child::Runs,
                successor: Successor::Starting,
                stopping: Stopping::No,
            };
            assert_eq!(to.phase, alone, "{from:?} {event:?}");
            let successor_before = matches!(from.phase, Phase::Upgrading { .. }) && !ends_upgrade(event);
            assert!(!successor_before, "{from:?} {event:?}");
            assert!(to.old.draining < to.old.most, "{from:?} {event:?}");
        }
    }
    assert!(started > 0);
}

#[test]
fn a_request_is_started_queued_or_answered_in_every_state() {
    // Contract: U7
    for Row { from, event, to, effects } in table() {
        if event != Event::UpgradeRequested || from.phase == Phase::Exiting {
            continue;
        }
        let answered = effects.iter().any(|effect| {
            matches!(
                effect,
                Effect::StartSuccessor
                    | Effect::PassRequestOn
                    | Effect::PassRequestBack
                    | Effect::Report(Notice::RequestRefused)
            )
        });
        assert!(answered || to.upgrade_queued, "{from:?}");
    }
}

#[test]
fn a_queued_request_is_never_dropped() {
    // Contract: U7
    for Row { from, event, to, effects } in table() {
        if !from.upgrade_queued || to.upgrade_queued {
            continue;
        }
        let kept = effects.iter().any(|effect| {
            matches!(
                effect,
                Effect::StartSuccessor
                    | Effect::PassRequestBack
                    | Effect::Report(Notice::RequestRefused | Notice::Superseded)
            )
        });
        assert!(kept, "{from:?} {event:?} {effects:?}");
    }
}

#[test]
fn the_reported_answer_to_a_request_matches_the_decision() {
    // Contract: U7
    for Row { from, event, to, effects } in table() {
        if event != Event::UpgradeRequested || from.phase == Phase::Exiting {
            continue;
        }
        let starts = effects.contains(&Effect::StartSuccessor);
        let why = from.why_not_now();
        assert_eq!(why.is_none(), starts, "{from:?}");
        assert_eq!(from.is_idle(), starts, "{from:?}");
        let waits = to.upgrade_queued;
        assert_eq!(why == Some(UpgradeBlocked::ShuttingDown), !starts && !waits, "{from:?} {effects:?}");
    }
}

#[test]
fn a_stop_over_the_control_socket_signals_the_child_once() {
    // Contract: S5
    for Row { from, event, to, effects } in table() {
        if event != Event::StopRequested(ChildSignal::Send) {
            continue;
        }
        let runs = match from.phase {
            Phase::Promoting {
                step: Promotion::Withdrawing { cause: Failure::ExitedEarly(_) },
                baked: true,
                ..
            } => false,
            Phase::Upgrading { child, .. } => child == Child::Runs,
            Phase::Draining { step, .. } => matches!(step, DrainStep::Answering { .. } | DrainStep::Delay),
            Phase::Starting { .. }
            | Phase::Settling { .. }
            | Phase::Promoting { .. }
            | Phase::Baking { .. }
            | Phase::Serving { .. } => true,
            Phase::GivingWay { step, .. } => {
                matches!(step, GiveWay::Answering | GiveWay::Signalled | GiveWay::Killed)
            }
            Phase::Restarting { step } => !matches!(step, Restart::AwaitingSuccessorTree(_)),
            Phase::Preparing { .. } | Phase::AwaitingPredecessor { .. } | Phase::Exiting => false,
        };
        let is_signalled = match from.phase {
            Phase::Serving { stopping, .. } | Phase::Upgrading { stopping, .. } => {
                stopping == Stopping::Signalled
            }
            Phase::Draining { .. } => !runs,
            Phase::GivingWay { step, .. } => step != GiveWay::Answering,
            Phase::Preparing { .. }
            | Phase::Restarting { .. }
            | Phase::Starting { .. }
            | Phase::Settling { .. }
            | Phase::Promoting { .. }
            | Phase::Baking { .. }
            | Phase::AwaitingPredecessor { .. }
            | Phase::Exiting => from.is_stopping(),
        };
        // The relay has answered everything, so the signal goes out.
        let (mut to, mut effects) = (to, effects);
        if from.is_on_trial() {
            effects.extend(decide(&mut to, Event::Withdrawn)); // no acknowledgement has come
        }
        if to.is_baking() {
            effects.extend(decide(&mut to, Event::Aborted)); // the predecessor has the traffic
        }
        effects.extend(decide(&mut to, Event::RelayDrained));
        let signals = effects.iter().filter(|effect| **effect == Effect::SignalChild).count();
        assert_eq!(signals, usize::from(runs && !is_signalled), "{from:?} {effects:?}");
        if matches!(from.phase, Phase::Draining { step: DrainStep::Answering { stops: false }, .. }) {
            continue; // the signal that waits is still to be sent in both cases
        }
        let mut other = from;
        let mut without = decide(&mut other, Event::StopRequested(ChildSignal::HasIt));
        if from.is_on_trial() {
            without.extend(decide(&mut other, Event::Withdrawn));
        }
        without.extend(decide(&mut other, Event::RelayDrained));
        if from.is_on_trial() {
            assert_eq!(other, to, "{from:?}"); // only the signal that waits needs the timer of the relay
            continue;
        }
        let rest: Vec<_> = effects.into_iter().filter(|effect| *effect != Effect::SignalChild).collect();
        assert_eq!(
            (other, without),
            (to, rest),
            "{from:?}: a forwarded stop differs in more than the signal"
        );
    }
}

#[test]
fn clients_of_an_upgrade_that_a_stop_aborts_are_notified() {
    // Contract: S5, U8
    let mut told = 0;
    for Row { from, event, to, effects } in table() {
        let failed = [Notice::UpgradeFailed, Notice::UpgradeFailedWithoutChild, Notice::UpgradeAborted];
        let has_reported_ready = |notice: &Notice| effects.contains(&Effect::Report(*notice));
        let Some(notice) = failed.into_iter().find(has_reported_ready) else { continue };
        let Phase::Upgrading { child, stopping, .. } = from.phase else {
            let gives_way = matches!(from.phase, Phase::GivingWay { .. } | Phase::Restarting { .. });
            assert!(gives_way, "{from:?} {event:?}");
            continue;
        };
        // A stop is not a failed upgrade.
        assert_eq!(notice == Notice::UpgradeFailed, child == Child::Runs, "{from:?} {event:?}");
        let stopping = stopping != Stopping::No;
        assert_eq!(notice == Notice::UpgradeAborted, stopping && child != Child::Runs, "{from:?} {event:?}");
        assert_eq!(to.is_stopping(), stopping || child != Child::Runs, "{from:?} {event:?}");
        told += 1;
    }
    assert!(told > 0);
}

#[test]
fn a_stop_terminates_every_generation_whose_child_exits() {
    // Contract: S5, F11
    for Row { from, event, to: stopped, effects } in table() {
        let Event::StopRequested(_) = event else { continue };
        let mut state = stopped;
        let at_once = effects.iter().filter(|effect| matches!(effect, Effect::Exit(_))).count();
        // The answers of a world in which every process obeys.
        let answers = [
            Event::Withdrawn,
            Event::SuccessorGone,
            Event::RelayDrained,
            Event::ChildExited(END),
            Event::TreeGone,
            Event::TreeGone,
            Event::RelayDrained,
            Event::PredecessorGone,
            Event::OldGenerationGone,
        ];
        let mut exits: BTreeMap<String, usize> = BTreeMap::new();
        for answer in answers {
            for effect in decide(&mut state, answer) {
                if let Effect::Exit(outcome) = effect {
                    *exits.entry(format!("{outcome:?}")).or_default() += 1;
                }
            }
        }
        assert_eq!(state.phase, Phase::Exiting, "{from:?} -> {stopped:?}");
        assert!(
            at_once + exits.values().sum::<usize>() == 1 || from.phase == Phase::Exiting,
            "{from:?} {exits:?}"
        );
    }
}

#[test]
fn every_failed_upgrade_leaves_a_generation_that_can_be_upgraded() {
    // Contract: U8
    for Row { from, event, to, .. } in table() {
        let Phase::Upgrading { child: Child::Runs, stopping: Stopping::No, .. } = from.phase else {
            continue;
        };
        if !ends_upgrade(event) || from == to {
            continue;
        }
        let mut state = to;
        if !from.upgrade_queued {
            assert_eq!(state.phase, Phase::Serving { stopping: Stopping::No }, "{from:?}");
            assert!(
                decide(&mut state, Event::UpgradeRequested).contains(&Effect::StartSuccessor),
                "{from:?}"
            );
        }
        assert!(matches!(state.phase, Phase::Upgrading { .. }), "{from:?}");
    }
}
