//! Stop requests in each step.

use testkit::{Deadline, Sandbox, Signal, Stream, wait_until};

use super::{assert_once, staged};
use crate::failures::stage::Stage;

const STEPS: &[&str] = &[
    "new Before Prepare",
    "new Sending prepared",
    "old Before Relay(Hold)",
    "old Before SignalChild",
    "old Before SignalOrphans",
    "old Before GrantTurn",
    "old After GrantTurn",
    "new Before StartChild",
    "new Before StartProbing",
    "new Before TakePidfile",
];

#[test]
fn a_stop_request_in_any_step_stops_both_generations() {
    // Contract: E4, F11
    for step in STEPS {
        let sandbox = Sandbox::new();
        let stage = Stage::new(&sandbox);
        let psflip = staged(&sandbox).start().wait_ready();
        let old = psflip.active();
        stage.plan(&sandbox, Some(old), &format!("record\npause {step}"));
        psflip.request_flip();
        let paused = stage.wait_pause(&sandbox);
        let mark = psflip.output().mark();
        old.signal(Signal::SIGTERM).unwrap();
        if step.starts_with("new") {
            psflip.output().wait_after(mark, Stream::Stderr, "stop requested");
        }
        stage.pause_no_more(&sandbox, old);
        paused.go_on();
        wait_until(Deadline::default(), format!("everything to stop after `{step}`"), || {
            sandbox.processes().is_empty().then_some(())
        });
        assert!(!psflip.pidfile_path().exists(), "{step}");
        assert_once(&sandbox);
        stage.no_plan(&sandbox);
        sandbox.assert_no_process_left();
    }
}
