//! Each system call of an upgrade without overlap fails once. The upgrade succeeds, or the old child serves on
//! or again; no two children are there at once; and the next upgrade works.

use testkit::Sandbox;

use super::{assert_once, staged, web};
use crate::failures::each_call::Upgraded;
use crate::failures::stage::Stage;

#[track_caller]
fn each_call_of(role: &str) {
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let psflip = staged(&sandbox).start().wait_ready();
    let upgraded = Upgraded {
        sandbox: &sandbox,
        stage: &stage,
        psflip: &psflip,
        socket: &web(&sandbox),
        or_ends: "the old child serves again",
        beside: &[],
    };
    upgraded.each_call_may_fail(role, |_| true, || assert_once(&sandbox));
    psflip.stop();
    assert_once(&sandbox);
    sandbox.assert_no_process_left();
}

#[test]
fn each_call_of_the_old_psflip_may_fail() {
    // Contract: E2, E3, F10
    each_call_of("old");
}

#[test]
fn each_call_of_the_new_psflip_may_fail() {
    // Contract: E2, E3, F10
    each_call_of("new");
}

#[test]
fn each_call_of_the_old_keeper_may_fail() {
    // Contract: E2, E3, F10
    each_call_of("old-keeper");
}

#[test]
fn each_call_of_the_new_keeper_and_its_child_may_fail() {
    // Contract: E2, E3, F10
    each_call_of("new-keeper");
    each_call_of("new-child");
}
