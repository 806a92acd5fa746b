//! Every system call of an upgrade fails once, on the real binary and injected from outside: call by call, in
//! every process of the old and the new generation (F10). Each time the upgrade fails and nothing has changed
//! (U8), or it succeeds.
//!
//! A run without a fault finds out which calls psflip makes. A new call is tested, or must be added to the
//! list. Each place gets one error that the call may return. With `PSFLIP_MATRIX=full` in the environment it
//! gets all of them, one by one.

mod calls;
mod faults;
mod start_and_stop;
mod traced;

use std::collections::BTreeMap;

use crate::service::can_trace;
use calls::About;
use faults::{Fault, LOOK, Tally, calls_in, faults_of, lasting_faults_of};
use traced::{Role, Traced};

use super::rig::Outcome;

/// Makes every call of this kind fail, one by one.
#[track_caller]
fn every(role: Role, about: Option<About>) {
    let name = about.map_or(format!("{role:?}"), |about| format!("{role:?}, {about:?}"));
    try_all(role, &name, |calls| faults_of(calls, about));
}

/// Makes every call but these fail for the rest of the upgrade, one by one.
#[track_caller]
fn every_lasting(role: Role, but: &[&str]) {
    try_all(role, &format!("{role:?}, lasting"), |calls| {
        lasting_faults_of(calls).into_iter().filter(|fault| !fault.is_in(but)).collect()
    });
}

#[track_caller]
fn try_all(role: Role, name: &str, faults: impl FnOnce(&BTreeMap<String, usize>) -> Vec<Fault>) {
    let mut service = Traced::start();
    if !can_trace(&service.rig.sandbox) {
        return service.rig.ends();
    }
    assert_eq!(service.upgrade(role, LOOK), Outcome::Promoted);
    let calls = calls_in(&service.trace_text());
    let mut tally = Tally::new(name);
    for fault in faults(&calls) {
        let options = fault.options();
        let fine = tally.try_one(&fault, || {
            let outcome = service.upgrade(role, &options);
            let trace = service.trace_text();
            if outcome == Outcome::Failed && matches!(role, Role::Old | Role::OldKeeper | Role::Between) {
                service.rig.upgrade_well();
            }
            (if outcome == Outcome::Failed { "failed" } else { "succeeded" }, trace)
        });
        if !fine {
            std::mem::replace(&mut service, Traced::start()).rig.give_up();
        }
    }
    tally.finish();
    service.rig.upgrade_well();
    service.rig.ends();
}

#[test]
fn the_old_psflip_survives_every_failing_call() {
    // Contract: F10, U8
    every(Role::Old, None);
}

#[test]
fn the_old_keeper_survives_every_failing_call() {
    // Contract: F10, U8
    every(Role::OldKeeper, None);
}

#[test]
fn every_failing_call_between_old_and_new_fails_the_upgrade_only() {
    // Contract: F10, U8
    every(Role::Between, None);
}

#[test]
fn every_failing_call_of_the_new_keeper_fails_the_upgrade_only() {
    // Contract: F10, U8
    every(Role::NewKeeper, None);
}

#[test]
fn the_new_psflip_without_memory_fails_the_upgrade_only() {
    // Contract: F10, U8
    every(Role::New, Some(About::Memory));
}

#[test]
fn the_new_psflip_without_files_fails_the_upgrade_only() {
    // Contract: F10, U8
    every(Role::New, Some(About::Files));
}

#[test]
fn the_new_psflip_that_cannot_read_or_write_fails_the_upgrade_only() {
    // Contract: F10, U8
    every(Role::New, Some(About::Data));
}

#[test]
fn the_new_psflip_that_cannot_wait_fails_the_upgrade_only() {
    // Contract: F10, U8
    every(Role::New, Some(About::Waiting));
}

#[test]
fn the_new_psflip_that_cannot_fork_or_wait_fails_the_upgrade_only() {
    // Contract: F10, U8
    every(Role::New, Some(About::Processes));
}

/// Calls without which a serving psflip can't go on: reads of its signalfd, which no kernel refuses, and
/// signals to its child. Without those it waits until the child exits by itself.
const VITAL: &[&str] = &["read", "pidfd_send_signal"];

#[test]
fn the_old_psflip_survives_calls_that_fail_for_good() {
    // Contract: F10, U8
    every_lasting(Role::Old, VITAL);
}

#[test]
fn keepers_survive_calls_that_fail_for_good() {
    // Contract: F10, U8
    every_lasting(Role::OldKeeper, VITAL);
    every_lasting(Role::NewKeeper, &[]);
}

#[test]
fn intermediate_calls_that_fail_for_good_fail_the_upgrade_only() {
    // Contract: F10, U8
    every_lasting(Role::Between, &[]);
}

#[test]
fn the_new_psflip_whose_calls_fail_for_good_fails_the_upgrade_only() {
    // Contract: F10, U8
    every_lasting(Role::New, &[]);
}
