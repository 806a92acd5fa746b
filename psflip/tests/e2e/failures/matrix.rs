//! Each process of a flip gets each signal at each step of it (F5 to F12, C7, S5): `psflip-staged` waits at the step until the
//! signal has done its work.

use testkit::{Sandbox, Signal, Stream};

use super::stage::Stage;
use crate::service::stop;

#[test]
fn a_new_psflip_that_is_killed_before_it_takes_the_pidfile_changes_nothing() {
    // Contract: F6, U8
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let psflip = stage.psflip(&sandbox).start().wait_ready();
    let old = psflip.active();
    stage.plan(&sandbox, Some(old), "pause new Before TakePidfile");
    psflip.request_flip();
    let paused = stage.wait_pause(&sandbox);
    assert_eq!(paused.at, "new Before TakePidfile");
    paused.process.signal(Signal::SIGKILL).unwrap();
    paused.go_on();
    psflip.wait_for_line(Stream::Stderr, "upgrade failed");
    stage.no_plan(&sandbox);
    psflip.flip();
    stop(&psflip);
}
