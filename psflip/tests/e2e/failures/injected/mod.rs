//! Every system call of an upgrade fails once, on the real binary and from outside: nth call by nth call, in every process of
//! the old and the new generation (F10). Each time the upgrade fails and nothing has changed (U8), or it succeeds.
//!
//! What psflip calls is looked up by a run without a fault, so a new call is tested, or asked about, by itself. Each place gets
//! one error that the call may give; with `PSFLIP_MATRIX=full` in the environment all of them, one by one.

mod calls;
mod rig;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use calls::{About, failures};
use rig::{Outcome, Rig, Role};

/// One fault.
struct Case {
    call: String,
    number: usize,
    error: &'static str,
}

/// All faults of this kind that a process which made these calls can have.
fn cases(calls: &BTreeMap<String, usize>, about: Option<About>) -> Vec<Case> {
    let full = std::env::var_os("PSFLIP_MATRIX").is_some_and(|value| value == "full");
    let mut cases = Vec::new();
    for (call, count) in calls {
        let Some((kind, errors)) = failures(call) else { continue };
        if about.is_some_and(|about| about != kind) {
            continue;
        }
        for number in 1..=*count {
            let one = [errors[(number - 1) % errors.len()]];
            let errors = if full { errors } else { &one[..] };
            cases.extend(errors.iter().map(|error| Case { call: call.clone(), number, error }));
        }
    }
    cases
}

/// The calls of a process during an upgrade without a fault.
fn calls_of(rig: &mut Rig, role: Role) -> BTreeMap<String, usize> {
    let outcome = rig.upgrade(role, &["-e", "signal=none"]);
    assert_eq!(outcome, Outcome::Promoted);
    let mut together = BTreeMap::new();
    for calls in rig.calls().into_values() {
        for (call, count) in calls {
            let most = together.entry(call).or_insert(0);
            *most = count.max(*most);
        }
    }
    assert!(together.values().sum::<usize>() > 2, "{together:?}");
    together
}

/// Lets every call of this kind fail, one by one.
#[track_caller]
fn every(role: Role, about: Option<About>) {
    let mut rig = Rig::start();
    if !rig.has_strace() {
        let _ = writeln!(std::io::stdout(), "skipped: strace is not installed, or may not trace");
        return rig.ends();
    }
    let calls = calls_of(&mut rig, role);
    let mut wrong = Vec::new();
    let (mut failed, mut promoted, mut unreached) = (0, 0, 0);
    for Case { call, number, error } in cases(&calls, about) {
        let (trace, inject) = (format!("trace={call}"), format!("inject={call}:error={error}:when={number}"));
        let options = ["-e", "signal=none", "-e", &trace, "-e", &inject];
        let started = std::time::Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let outcome = rig.upgrade(role, &options);
            let faults = rig.faults();
            if outcome == Outcome::Failed && matches!(role, Role::Old | Role::OldKeeper | Role::Between) {
                rig.upgrade_untraced();
            }
            (outcome, faults)
        }));
        let _ = writeln!(
            std::io::stdout(),
            "{role:?}: {call} number {number} fails with {error}: {:?} ({:.0?})",
            result.as_ref().ok(),
            started.elapsed()
        );
        match result {
            Ok((_, 0)) => unreached += 1,
            Ok((Outcome::Failed, _)) => failed += 1,
            Ok((Outcome::Promoted, _)) => promoted += 1,
            Err(_) => {
                wrong.push(format!("{role:?}: {call} number {number} fails with {error}"));
                std::mem::replace(&mut rig, Rig::start()).give_up();
            }
        }
    }
    let _ = writeln!(
        std::io::stdout(),
        "{role:?} {about:?}: {} faults: {failed} upgrades failed, {promoted} succeeded; {unreached} places not reached; {} wrong",
        failed + promoted + wrong.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(failed + promoted > unreached, "most faults have to happen");
    rig.upgrade_untraced();
    rig.ends();
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
fn the_new_psflip_that_cannot_make_or_hear_processes_fails_the_upgrade_only() {
    // Contract: F10, U8
    every(Role::New, Some(About::Processes));
}
