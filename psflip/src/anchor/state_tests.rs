//! Tests of `state.rs`: which generation is active, that false messages have no effect,
//! and when the service has exited.

use super::*;
use crate::signal::Signal;

const OLD: u32 = 100;
const NEW: u32 = 200;
const STRANGER: u32 = 300;
const KILLED: ExitStatus = ExitStatus::Killed(Signal::KILL);

/// Every process is a child of the anchor.
fn ours(_: u32) -> bool {
    true
}

/// The old generation has started a successor, which runs.
fn upgrading() -> AnchorState {
    let mut state = AnchorState::new(OLD);
    state.on_message(OLD, AnchorMessage::begins(false));
    state.on_message(OLD, AnchorMessage::Upgrading);
    state.on_message(NEW, AnchorMessage::Coming);
    state.on_message(NEW, AnchorMessage::begins(false));
    state
}

fn promoted() -> AnchorState {
    let mut state = upgrading();
    assert!(state.on_message(OLD, AnchorMessage::Main { pid: NEW }).is_some());
    state
}

#[test]
fn the_successor_becomes_active_when_the_active_generation_reports_it() {
    // Contract: A2
    let mut state = upgrading();
    assert_eq!(state.active(), Some(OLD));
    assert_eq!(state.on_message(OLD, AnchorMessage::Main { pid: NEW }), Some(Some((1, 1))));
    assert_eq!(state.active(), Some(NEW));
    state.on_exit(OLD, ExitStatus::Exited(0));
    assert_eq!(state.outcome(false), None);
    state.on_exit(NEW, ExitStatus::Exited(3));
    assert_eq!(state.outcome(false), Some(ExitStatus::Exited(3)));
}

#[test]
fn messages_from_other_processes_are_ignored() {
    // Contract: A2
    for message in [
        AnchorMessage::Main { pid: NEW },
        AnchorMessage::Main { pid: STRANGER },
        AnchorMessage::Failed,
        AnchorMessage::Upgrading,
    ] {
        for liar in [NEW, STRANGER] {
            if (liar, message) == (NEW, AnchorMessage::Upgrading) {
                continue; // it may be true soon
            }
            let mut state = upgrading();
            assert_eq!(state.on_message(liar, message), None);
            assert_eq!(state, upgrading(), "{liar} said {message:?}");
        }
    }
    let mut state = upgrading();
    assert_eq!(
        state.on_message(OLD, AnchorMessage::Main { pid: STRANGER }),
        None,
        "it never introduced itself"
    );
    assert_eq!(state.active(), Some(OLD));
    state.on_message(STRANGER, AnchorMessage::Coming);
    state.on_message(STRANGER, AnchorMessage::begins(true));
    assert_eq!(state, upgrading(), "there is a successor already");
    let mut state = AnchorState::new(OLD);
    state.on_message(STRANGER, AnchorMessage::Coming);
    assert_eq!(state, AnchorState::new(OLD), "nobody is expected");
    let mut state = promoted();
    assert_eq!(
        state.on_message(OLD, AnchorMessage::Main { pid: OLD }),
        None,
        "it is not the active one any more"
    );
    assert_eq!(state.active(), Some(NEW));
}

#[test]
fn an_upgrade_that_starts_before_the_anchor_knows_its_generation_counts() {
    // Contract: A2, D3, F8
    let next = 400;
    for killed in [false, true] {
        let mut state = upgrading();
        state.on_message(NEW, AnchorMessage::Upgrading);
        state.on_message(next, AnchorMessage::Coming);
        state.on_message(next, AnchorMessage::begins(false));
        assert_eq!(state.active(), Some(OLD));
        if killed {
            state.on_exit(OLD, KILLED);
            assert!(state.settle(ours));
        } else {
            state.on_message(OLD, AnchorMessage::Main { pid: NEW });
        }
        assert_eq!(state.active(), Some(NEW));
        assert!(state.on_message(NEW, AnchorMessage::Main { pid: next }).is_some());
        assert_eq!(state.active(), Some(next));
        state.on_exit(NEW, ExitStatus::Exited(0));
        state.on_exit(OLD, ExitStatus::Exited(0));
        assert_eq!((state.active(), state.outcome(false)), (Some(next), None));
    }
    // It was no upgrade of the active generation: the successor has failed.
    let mut state = upgrading();
    state.on_message(NEW, AnchorMessage::Upgrading);
    state.on_message(STRANGER, AnchorMessage::Coming);
    state.on_exit(NEW, ExitStatus::Exited(1));
    state.on_message(OLD, AnchorMessage::Failed);
    assert_eq!(state, AnchorState::new(OLD));
}

#[test]
fn a_failed_upgrade_changes_nothing() {
    // Contract: U8
    let mut state = upgrading();
    state.on_exit(NEW, ExitStatus::Exited(124));
    state.on_message(OLD, AnchorMessage::Failed);
    assert_eq!(state.active(), Some(OLD));
    assert_eq!(state, AnchorState::new(OLD));
}

#[test]
fn a_successor_goes_on_alone_once_it_is_reparented_to_the_anchor() {
    // Contract: F8
    let mut state = upgrading();
    state.on_exit(OLD, KILLED);
    assert_eq!((state.active(), state.outcome(true)), (None, None));
    assert!(!state.settle(|_| false), "its parent still is the process between the two forks");
    assert_eq!(state.outcome(false), None);
    assert!(state.settle(ours));
    assert_eq!(state.active(), Some(NEW));
    state.on_exit(NEW, ExitStatus::Exited(124));
    assert_eq!(state.outcome(false), Some(ExitStatus::Exited(124)));
}

#[test]
fn the_anchor_waits_for_a_successor_that_has_not_registered_yet() {
    // Contract: F8
    let mut state = AnchorState::new(OLD);
    state.on_message(OLD, AnchorMessage::Upgrading);
    state.on_exit(OLD, KILLED);
    assert!(!state.settle(ours));
    assert_eq!(state.outcome(false), None);
    assert_eq!(state.outcome(true), Some(KILLED), "nobody is there who could");
    state.on_message(NEW, AnchorMessage::Coming);
    assert!(state.settle(ours));
    assert_eq!((state.active(), state.outcome(false)), (Some(NEW), None));
}

#[test]
fn an_exit_of_the_promoted_generation_counts_even_before_its_report() {
    // Contract: C5
    let mut state = upgrading();
    state.on_exit(NEW, ExitStatus::Exited(7));
    assert_eq!(state.on_message(OLD, AnchorMessage::Main { pid: NEW }), None);
    assert_eq!((state.active(), state.outcome(false)), (None, None), "the old one drains");
    assert_eq!(state.hurry_up(), [OLD]);
    assert!(state.hurry_up().is_empty(), "once");
    state.on_exit(OLD, ExitStatus::Exited(0));
    assert_eq!(state.outcome(false), Some(ExitStatus::Exited(7)));
}

#[test]
fn draining_generations_are_hurried_when_none_serves() {
    // Contract: A3, C5, U5
    let mut state = promoted();
    assert!(state.hurry_up().is_empty());
    state.on_exit(NEW, KILLED);
    assert_eq!(state.hurry_up(), [OLD]);
    assert!(state.hurry_up().is_empty(), "once");
    assert_eq!(state.outcome(false), None);
    state.on_exit(OLD, ExitStatus::Exited(0));
    assert_eq!(state.outcome(false), Some(KILLED));
}

#[test]
fn an_old_generation_killed_before_it_reports_its_successor_is_replaced() {
    // Contract: F9
    let mut state = upgrading();
    state.on_exit(OLD, KILLED);
    assert!(state.settle(ours));
    assert_eq!(state.active(), Some(NEW));
}

#[test]
fn the_last_generation_decides_whether_orphans_are_left_alone() {
    // Contract: C8
    let mut state = upgrading();
    state.on_message(NEW, AnchorMessage::begins(true));
    assert!(!state.leaves());
    state.on_message(OLD, AnchorMessage::Main { pid: NEW });
    assert!(state.leaves());
    assert_eq!(state.calm(), Some((NEW, true, vec![OLD])));
    state.on_message(NEW, AnchorMessage::begins(false));
    assert!(!state.leaves());
}

#[test]
fn only_an_idle_anchor_re_executes_itself() {
    let mut state = AnchorState::new(OLD);
    assert_eq!(state.calm(), Some((OLD, false, vec![])));
    state.on_message(OLD, AnchorMessage::Upgrading);
    assert_eq!(state.calm(), None);
    assert_eq!(upgrading().calm(), None);
    assert_eq!(promoted().calm(), Some((NEW, false, vec![OLD])));
    assert_eq!(AnchorState::resumed(NEW, false, false, vec![OLD], vec![]), promoted());
}

#[test]
fn output_processes_are_known_until_they_exit_and_hold_up_nothing() {
    // Contract: N1, A3
    let mut state = AnchorState::new(OLD);
    assert_eq!(state.on_message(30, AnchorMessage::Output), None);
    assert_eq!(state.on_message(OLD, AnchorMessage::Output), None);
    assert_eq!(state.outputs(), [30], "a generation is none");
    for pid in 100..200 {
        state.on_message(pid, AnchorMessage::Output);
    }
    assert_eq!(state.outputs().len(), MOST_OUTPUTS, "of many, the latest count");
    assert!(state.is_full_of_outputs());
    state.retain_outputs(|pid| pid % 2 == 1 || pid < 180);
    assert!(!state.is_full_of_outputs() && state.outputs().contains(&168) && !state.outputs().contains(&198));
    state.on_message(198, AnchorMessage::Output);
    assert!(state.outputs().contains(&168), "those that run stay");
    state.on_exit(199, ExitStatus::Exited(0));
    assert!(!state.outputs().contains(&199) && state.outputs().contains(&198));
    state.on_exit(OLD, ExitStatus::Exited(3));
    assert_eq!(state.outcome(true), Some(ExitStatus::Exited(3)), "the anchor waits for them after that");
}
