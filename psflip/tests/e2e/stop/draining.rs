//! A stop while the old generation still drains (F11). Both stop, and the active psflip exits last, since a
//! service manager kills whatever is left when it exits.

use testkit::client::control::{Asking, status};
use testkit::{Sandbox, Signal, Stream};

use super::assert_over;
use crate::service::{Draining, flip_to_logger, freeze, kill, thaw};

const WAITS: &str = "stopped; waiting for the old generation, which still drains";

/// The old child exits when the test sends SIGUSR2, or is killed after `patience`. The new one exits on a
/// stop request.
#[track_caller]
fn flipped(sandbox: &Sandbox, patience: &str) -> Draining {
    let rest = format!("[shutdown]\ntimeout = \"{patience}\"\n");
    flip_to_logger(sandbox, &["ignore-sigterm", "--exit-on", "USR2"], &rest, "")
}

/// The old generation waits an hour before it stops its child.
#[track_caller]
fn with_a_long_delay(sandbox: &Sandbox, timeout: &str) -> Draining {
    let rest = format!("[shutdown]\ndelay = \"1h\"\ntimeout = \"{timeout}\"\n");
    flip_to_logger(sandbox, &["signal-logger"], &rest, &rest)
}

#[test]
fn a_stop_cancels_the_delay_of_an_old_generation_and_waits_for_its_exit() {
    // Contract: S5, F11
    let sandbox = Sandbox::new();
    let Draining { psflip, old, new, .. } = with_a_long_delay(&sandbox, "10s");
    new.signal(Signal::SIGTERM).unwrap();
    assert!(psflip.wait_end_of(new).success(), "{}", sandbox.report());
    assert!(!old.is_alive(), "the new one was the last\n{}", sandbox.report());
    assert!(psflip.wait_exit().success(), "superseded: 0");
    assert_eq!(
        psflip.output().wait_count(2, Stream::Stdout, "got SIGTERM").len(),
        2,
        "each child got its signal once\n{}",
        sandbox.report()
    );
    assert_over(&sandbox, &psflip);
}

#[test]
fn a_stop_waits_as_long_as_the_old_child_takes() {
    // Contract: F11, C5, P2
    let sandbox = Sandbox::new();
    let Draining { psflip, old, new, old_child } = flipped(&sandbox, "1h");
    let mut watching = Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"watch"}"#);
    while watching.wait_event("status")["status"]["predecessor"]["step"] != "asked" {}
    let mut asking = Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"stop"}"#);
    let waiting = asking.wait_event("waiting");
    assert_eq!(
        (waiting["predecessor"]["pid"].as_u64(), &waiting["predecessor"]["step"]),
        (Some(old.pid().into()), &"asked".into()),
        "{waiting}"
    );
    psflip.wait_for_line(Stream::Stderr, WAITS);
    assert!(old_child.is_alive());
    assert_eq!(psflip.active(), new, "the pidfile is not free yet");
    let shown = status(&psflip.control_path());
    assert_eq!(
        (&shown["state"], &shown["predecessor"]["step"]),
        (&"stopping".into(), &"asked".into()),
        "{shown}"
    );
    assert!(shown["child"].is_null(), "it has exited: {shown}");
    // No generation would be left to run an upgrade.
    let refused =
        Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"upgrade"}"#).wait_event("refused");
    assert!(refused["reason"].as_str().unwrap().contains("this generation is stopping"), "{refused}");
    old_child.signal(Signal::SIGUSR2).unwrap();
    let stopped = asking.wait_event("stopped");
    assert_eq!(stopped["end"], "exit code 0");
    assert!(psflip.wait_end_of(new).success(), "as its own child\n{}", sandbox.report());
    psflip.wait_exit();
    assert_over(&sandbox, &psflip);
}

#[test]
fn a_second_stop_does_not_wait() {
    // Contract: F11
    let sandbox = Sandbox::new();
    let Draining { psflip, old, new, old_child } = flipped(&sandbox, "1h");
    new.signal(Signal::SIGTERM).unwrap();
    psflip.wait_for_line(Stream::Stderr, WAITS);
    new.signal(Signal::SIGTERM).unwrap();
    assert!(psflip.wait_end_of(new).success(), "{}", sandbox.report());
    assert!(old.is_alive() && old_child.is_alive(), "it drains on\n{}", sandbox.report());
    old_child.signal(Signal::SIGUSR2).unwrap();
    assert!(psflip.wait_exit().success());
    assert_over(&sandbox, &psflip);
}

#[test]
fn an_old_psflip_that_is_killed_is_not_waited_for() {
    // Contract: F9, F11
    let sandbox = Sandbox::new();
    let Draining { psflip, old, new, .. } = flipped(&sandbox, "1h");
    new.signal(Signal::SIGTERM).unwrap();
    psflip.wait_for_line(Stream::Stderr, WAITS);
    kill(old);
    assert!(psflip.wait_end_of(new).success(), "{}", sandbox.report());
    assert_over(&sandbox, &psflip);
}

#[test]
fn the_wait_for_a_hanging_old_psflip_is_bounded() {
    // Contract: F11, F12
    let sandbox = Sandbox::new();
    let Draining { psflip, old, new, .. } = with_a_long_delay(&sandbox, "100ms");
    freeze(old);
    new.signal(Signal::SIGTERM).unwrap();
    // Its time is twice `shutdown.timeout` plus five seconds.
    psflip.wait_for_line(
        Stream::Stderr,
        "did not exit within the time that it announced; no longer waiting for it",
    );
    assert!(psflip.wait_end_of(new).success(), "{}", sandbox.report());
    thaw(old); // only now it gets the stop request
    assert!(psflip.wait_exit().success());
    assert_over(&sandbox, &psflip);
}

#[test]
fn the_exit_of_a_crashed_child_is_not_delayed_by_an_old_generation() {
    // Contract: C5
    // The service manager must be able to restart the service as soon as possible.
    let sandbox = Sandbox::new();
    let Draining { psflip, old, new, old_child } = flipped(&sandbox, "1h");
    psflip.signal_child(Signal::SIGKILL);
    psflip.wait_end_of(new);
    assert!(old.is_alive() && old_child.is_alive(), "{}", sandbox.report());
    old_child.signal(Signal::SIGUSR2).unwrap();
    psflip.wait_exit();
    assert_over(&sandbox, &psflip);
}
