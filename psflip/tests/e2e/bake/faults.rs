//! Each system call of an upgrade with a bake fails once. The upgrade succeeds, or the old child has the traffic
//! (again); and the next upgrade works.

use nix::errno::Errno;
use testkit::{Sandbox, Stream};

use super::{Baked, LONG, staged};
use crate::failures::each_call::Upgraded;
use crate::failures::stage::Stage;

#[track_caller]
fn each_call_of(role: &str) {
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    // A fault of a child is one of each probe's command as well, so no probe succeeds: the upgrade fails in time.
    let psflip = staged(&sandbox, "bake = \"20ms\"\ntimeout = \"3s\"\n");
    let upgraded = Upgraded {
        sandbox: &sandbox,
        stage: &stage,
        psflip: &psflip,
        socket: &sandbox.path("web.sock"),
        or_ends: "upgrade rolled back; the old child keeps running",
        beside: &[],
    };
    upgraded.each_call_may_fail(role, |_| true, || ());
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn each_call_of_the_old_psflip_may_fail() {
    // Contract: B3, F10
    each_call_of("old");
}

#[test]
fn each_call_of_the_new_psflip_may_fail() {
    // Contract: B3, F10
    each_call_of("new");
}

#[test]
fn each_call_of_the_keepers_and_the_new_child_may_fail() {
    // Contract: B3, B4, F10
    for role in ["old-keeper", "new-keeper", "new-child"] {
        each_call_of(role);
    }
}

/// Plans that the next call of the new psflip to send or to receive a message fails with this error.
fn next_call_fails(service: &Baked, stage: &Stage, call: &str, errno: Errno) {
    let plan = format!("record\nfail new {call} 1 {}", errno as i32);
    stage.plan(&service.sandbox, Some(service.psflip.active()), &plan);
}

#[test]
fn the_new_psflip_can_not_report_that_it_gives_the_traffic_back() {
    // Contract: B2, B3, F10
    let (service, stage) = Baked::start_staged(LONG);
    let bake = service.bake();
    service.serves("gen2");
    stage.plan(&service.sandbox, Some(bake.old), "pause new Sending returned");
    service.sandbox.write("sick", "");
    let paused = stage.wait_pause(&service.sandbox);
    next_call_fails(&service, &stage, "Sendmsg", Errno::ENOBUFS);
    paused.go_on();
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "can't report to the old psflip");
    let line = service.is_rolled_back(bake);
    assert!(line.text.contains("the health check failed in the bake"), "{line}");
    service.serves("gen1");
    stage.no_plan(&service.sandbox);
    std::fs::remove_file(service.sandbox.path("sick")).unwrap();
    service.goes_on_and_ends();
}

#[test]
fn the_new_psflip_can_not_report_that_it_has_the_traffic() {
    // Contract: B2, B3, F10
    let (service, stage) = Baked::start_staged(LONG);
    let (old, mark) = (service.psflip.active(), service.psflip.output().mark());
    stage.plan(&service.sandbox, Some(old), "pause new Received traffic");
    service.psflip.request_flip();
    let paused = stage.wait_pause(&service.sandbox);
    stage.plan(&service.sandbox, Some(old), "pause new Sending progress");
    paused.go_on();
    let paused = stage.wait_pause(&service.sandbox);
    next_call_fails(&service, &stage, "Sendmsg", Errno::ENOBUFS);
    paused.go_on();
    let line = service.psflip.output().wait_after(mark, Stream::Stderr, "upgrade rolled back");
    assert!(
        line.text.contains("can't report to the old psflip that this generation has the traffic"),
        "{line}"
    );
    service.serves("gen1");
    stage.no_plan(&service.sandbox);
    service.goes_on_and_ends();
}

#[test]
fn the_new_psflip_can_not_receive_for_a_moment_in_its_bake() {
    // Contract: B1, F10
    let (service, stage) = Baked::start_staged(LONG);
    let bake = service.bake();
    service.serves("gen2");
    stage.plan(&service.sandbox, Some(bake.old), "pause old Sending keep");
    let keep = service.sandbox.command([testkit::psflip_bin()]).args(["keep"]).start();
    let paused = stage.wait_pause(&service.sandbox);
    next_call_fails(&service, &stage, "Recvmsg", Errno::ENOMEM);
    paused.go_on();
    assert!(keep.wait_exit().success());
    assert!(service.sandbox.read("trace").contains("fault new Recvmsg 1"));
    stage.no_plan(&service.sandbox);
    service.psflip.wait_successor(bake.old);
    assert_eq!(service.psflip.active(), bake.new);
    service.goes_on_and_ends();
}
