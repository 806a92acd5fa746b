//! A stop while the generation before still drains (F11): both end, and the active psflip is the last, since a manager ends what is left with it.

use testkit::client::control::{Asking, status};
use testkit::{Process, Psflip, Sandbox, Signal, Stream};

use super::assert_over;
use crate::service::{AT_ONCE, configure, freeze, kill, psflip, thaw};

const WAITS: &str = "stopped; waiting for the old generation, which still drains";

/// A service after a flip, whose old generation drains, and the first and the second psflip.
struct Draining {
    psflip: Psflip,
    old: Process,
    new: Process,
    old_child: Process,
    sandbox: Sandbox,
}

/// The old child ends when the test says so (SIGUSR2), or after `patience` by SIGKILL; the new one when it is asked to.
#[track_caller]
fn flipped(patience: &str) -> Draining {
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}[shutdown]\ntimeout = \"{patience}\"\n");
    let psflip = psflip(&sandbox, &["ignore-sigterm", "--exit-on", "USR2"], &rest).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let (old, old_child) = (psflip.active(), psflip.child());
    configure(&sandbox, &["signal-logger"], AT_ONCE);
    psflip.request_flip();
    let new = psflip.wait_successor(old);
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    psflip.wait_for_line(Stream::Stderr, "superseded");
    Draining { psflip, old, new, old_child, sandbox }
}

/// A service after a flip, whose old generation waits for an hour before it ends its child; the old and the new psflip.
#[track_caller]
fn with_a_long_delay(timeout: &str) -> (Psflip, Process, Process, Sandbox) {
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}[shutdown]\ndelay = \"1h\"\ntimeout = \"{timeout}\"\n");
    let psflip = psflip(&sandbox, &["signal-logger"], &rest).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let old = psflip.active();
    psflip.request_flip();
    let new = psflip.wait_successor(old);
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    psflip.wait_for_line(Stream::Stderr, "superseded");
    (psflip, old, new, sandbox)
}

#[test]
fn a_stop_ends_the_delay_of_an_old_generation_and_waits_for_its_end() {
    // Contract: S5, F11
    let (psflip, old, new, sandbox) = with_a_long_delay("10s");
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
    let draining = flipped("1h");
    let Draining { psflip, new, old_child, sandbox, .. } = &draining;
    let mut asking = Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"stop"}"#);
    psflip.wait_for_line(Stream::Stderr, WAITS);
    assert!(old_child.is_alive());
    assert_eq!(psflip.active(), *new, "the pidfile is not free yet");
    let shown = status(&psflip.control_path());
    assert_eq!(
        (&shown["state"], &shown["predecessor"]["step"]),
        (&"stopping".into(), &"asked".into()),
        "{shown}"
    );
    assert!(shown["child"].is_null(), "it has ended: {shown}");
    // An upgrade would have nobody to follow it.
    let refused =
        Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"upgrade"}"#).wait_event("refused");
    assert!(refused["reason"].as_str().unwrap().contains("ends"), "{refused}");
    old_child.signal(Signal::SIGUSR2).unwrap();
    let stopped = asking.wait_event("stopped");
    assert_eq!(stopped["end"], "exit code 0");
    assert!(psflip.wait_end_of(*new).success(), "as its own child\n{}", sandbox.report());
    psflip.wait_exit();
    assert_over(sandbox, psflip);
}

#[test]
fn a_second_stop_does_not_wait() {
    // Contract: F11
    let draining = flipped("1h");
    let Draining { psflip, old, new, old_child, sandbox } = &draining;
    new.signal(Signal::SIGTERM).unwrap();
    psflip.wait_for_line(Stream::Stderr, WAITS);
    new.signal(Signal::SIGTERM).unwrap();
    assert!(psflip.wait_end_of(*new).success(), "{}", sandbox.report());
    assert!(old.is_alive() && old_child.is_alive(), "it drains on\n{}", sandbox.report());
    old_child.signal(Signal::SIGUSR2).unwrap();
    assert!(psflip.wait_exit().success());
    assert_over(sandbox, psflip);
}

#[test]
fn an_old_psflip_that_is_killed_is_not_waited_for() {
    // Contract: F9, F11
    let draining = flipped("1h");
    let Draining { psflip, old, new, sandbox, .. } = &draining;
    new.signal(Signal::SIGTERM).unwrap();
    psflip.wait_for_line(Stream::Stderr, WAITS);
    kill(*old);
    assert!(psflip.wait_end_of(*new).success(), "{}", sandbox.report());
    assert_over(sandbox, psflip);
}

#[test]
fn an_old_psflip_that_hangs_is_not_waited_for_without_end() {
    // Contract: F11, F12
    let (psflip, old, new, sandbox) = with_a_long_delay("100ms");
    freeze(old);
    new.signal(Signal::SIGTERM).unwrap();
    // It has twice `shutdown.timeout` and five seconds.
    psflip
        .wait_for_line(Stream::Stderr, "did not end in the time that it said; not waiting for it any longer");
    assert!(psflip.wait_end_of(new).success(), "{}", sandbox.report());
    thaw(old); // it hears of the stop now
    assert!(psflip.wait_exit().success());
    assert_over(&sandbox, &psflip);
}

#[test]
fn a_child_that_crashes_is_not_held_up_by_an_old_generation() {
    // Contract: C5
    // The manager is to start the service again as soon as it can.
    let draining = flipped("1h");
    let Draining { psflip, old, new, old_child, sandbox } = &draining;
    psflip.signal_child(Signal::SIGKILL);
    psflip.wait_end_of(*new);
    assert!(old.is_alive() && old_child.is_alive(), "{}", sandbox.report());
    old_child.signal(Signal::SIGUSR2).unwrap();
    psflip.wait_exit();
    assert_over(sandbox, psflip);
}
