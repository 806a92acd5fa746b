//! Tests of `state.rs`: which generation is active, that false messages have no effect,
//! and when the service has exited.

use super::*;
use crate::signal::Signal;

const OLD: u32 = 100;
const NEW: u32 = 200;
const STRANGER: u32 = 300;
const KILLED: End = End::Killed(Signal::KILL);

/// Every process is a child of the anchor.
fn ours(_: u32) -> bool {
    true
}

/// The old generation has started a successor, which runs.
fn upgrading() -> State {
    let mut state = State::new(OLD);
    state.said(OLD, Message::begins(false));
    state.said(OLD, Message::Upgrading);
    state.said(NEW, Message::Coming);
    state.said(NEW, Message::begins(false));
    state
}

fn promoted() -> State {
    let mut state = upgrading();
    assert!(state.said(OLD, Message::Main { pid: NEW }).is_some());
    state
}

#[test]
fn the_successor_becomes_active_when_the_active_generation_reports_it() {
    // Contract: A2
    let mut state = upgrading();
    assert_eq!(state.active(), Some(OLD));
    assert_eq!(state.said(OLD, Message::Main { pid: NEW }), Some(Some((1, 1))));
    assert_eq!(state.active(), Some(NEW));
    state.ended(OLD, End::Exited(0));
    assert_eq!(state.outcome(false), None);
    state.ended(NEW, End::Exited(3));
    assert_eq!(state.outcome(false), Some(End::Exited(3)));
}

#[test]
fn messages_from_other_processes_are_ignored() {
    // Contract: A2
    for message in
        [Message::Main { pid: NEW }, Message::Main { pid: STRANGER }, Message::Failed, Message::Upgrading]
    {
        for liar in [NEW, STRANGER] {
            let mut state = upgrading();
            assert_eq!(state.said(liar, message), None);
            assert_eq!(state, upgrading(), "{liar} said {message:?}");
        }
    }
    let mut state = upgrading();
    assert_eq!(state.said(OLD, Message::Main { pid: STRANGER }), None, "it never introduced itself");
    assert_eq!(state.active(), Some(OLD));
    state.said(STRANGER, Message::Coming);
    state.said(STRANGER, Message::begins(true));
    assert_eq!(state, upgrading(), "there is a successor already");
    let mut state = State::new(OLD);
    state.said(STRANGER, Message::Coming);
    assert_eq!(state, State::new(OLD), "nobody is expected");
    let mut state = promoted();
    assert_eq!(state.said(OLD, Message::Main { pid: OLD }), None, "it is not the active one any more");
    assert_eq!(state.active(), Some(NEW));
}

#[test]
fn a_failed_upgrade_changes_nothing() {
    // Contract: U8
    let mut state = upgrading();
    state.ended(NEW, End::Exited(124));
    state.said(OLD, Message::Failed);
    assert_eq!(state.active(), Some(OLD));
    assert_eq!(state, State::new(OLD));
}

#[test]
fn a_successor_goes_on_alone_once_it_is_reparented_to_the_anchor() {
    // Contract: F8
    let mut state = upgrading();
    state.ended(OLD, KILLED);
    assert_eq!((state.active(), state.outcome(true)), (None, None));
    assert!(!state.settle(|_| false), "its parent still is the process between the two forks");
    assert_eq!(state.outcome(false), None);
    assert!(state.settle(ours));
    assert_eq!(state.active(), Some(NEW));
    state.ended(NEW, End::Exited(124));
    assert_eq!(state.outcome(false), Some(End::Exited(124)));
}

#[test]
fn the_anchor_waits_for_a_successor_that_has_not_registered_yet() {
    // Contract: F8
    let mut state = State::new(OLD);
    state.said(OLD, Message::Upgrading);
    state.ended(OLD, KILLED);
    assert!(!state.settle(ours));
    assert_eq!(state.outcome(false), None);
    assert_eq!(state.outcome(true), Some(KILLED), "nobody is there who could");
    state.said(NEW, Message::Coming);
    assert!(state.settle(ours));
    assert_eq!((state.active(), state.outcome(false)), (Some(NEW), None));
}

#[test]
fn an_exit_of_the_promoted_generation_counts_even_before_its_report() {
    // Contract: C5
    let mut state = upgrading();
    state.ended(NEW, End::Exited(7));
    assert_eq!(state.said(OLD, Message::Main { pid: NEW }), None);
    assert_eq!((state.active(), state.outcome(false)), (None, None), "the old one drains");
    assert_eq!(state.hurry_up(), [OLD]);
    assert!(state.hurry_up().is_empty(), "once");
    state.ended(OLD, End::Exited(0));
    assert_eq!(state.outcome(false), Some(End::Exited(7)));
}

#[test]
fn draining_generations_are_hurried_when_none_serves() {
    // Contract: A3, C5, U5
    let mut state = promoted();
    assert!(state.hurry_up().is_empty());
    state.ended(NEW, KILLED);
    assert_eq!(state.hurry_up(), [OLD]);
    assert!(state.hurry_up().is_empty(), "once");
    assert_eq!(state.outcome(false), None);
    state.ended(OLD, End::Exited(0));
    assert_eq!(state.outcome(false), Some(KILLED));
}

#[test]
fn an_old_generation_killed_before_it_reports_its_successor_is_replaced() {
    // Contract: F9
    let mut state = upgrading();
    state.ended(OLD, KILLED);
    assert!(state.settle(ours));
    assert_eq!(state.active(), Some(NEW));
}

#[test]
fn the_last_generation_decides_whether_orphans_are_left_alone() {
    // Contract: C8
    let mut state = upgrading();
    state.said(NEW, Message::begins(true));
    assert!(!state.leaves());
    state.said(OLD, Message::Main { pid: NEW });
    assert!(state.leaves());
    assert_eq!(state.calm(), Some((NEW, true, vec![OLD])));
    state.said(NEW, Message::begins(false));
    assert!(!state.leaves());
}

#[test]
fn only_an_idle_anchor_re_executes_itself() {
    let mut state = State::new(OLD);
    assert_eq!(state.calm(), Some((OLD, false, vec![])));
    state.said(OLD, Message::Upgrading);
    assert_eq!(state.calm(), None);
    assert_eq!(upgrading().calm(), None);
    assert_eq!(promoted().calm(), Some((NEW, false, vec![OLD])));
    assert_eq!(State::resumed(NEW, false, false, vec![OLD]), promoted());
}
