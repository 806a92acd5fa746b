//! `psflip upgrade --end-draining`: an upgrade does not wait for an old generation that drains, but ends it.

use serde_json::Value;
use testkit::client::control::Asking;
use testkit::{Psflip, Sandbox, Stream, psflip_bin};

use crate::service::{Draining, flip_to_logger, freeze, own_name, stop};

const END: &str = r#"{"psflip":1,"request":"upgrade","end_draining":true}"#;

/// The old child ignores its stop signal for an hour.
#[track_caller]
fn drains(sandbox: &Sandbox) -> Draining {
    flip_to_logger(sandbox, &["ignore-sigterm"], "[shutdown]\ntimeout = \"1h\"\n", "")
}

/// Waits until the client knows that the child of generation 1 has its signal.
#[track_caller]
fn signalled(psflip: &Psflip) {
    let mut watching = Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"watch"}"#);
    while watching.wait_event("status")["status"]["predecessor"]["step"] != "asked" {}
}

#[track_caller]
fn because(accepted: &Value) -> String {
    accepted["because"].as_str().unwrap_or_else(|| panic!("{accepted}")).to_owned()
}

#[test]
fn an_operator_ends_an_old_generation_that_drains() {
    // Contract: D1, U6, U7
    let sandbox = Sandbox::new();
    let Draining { psflip, old, new, old_child } = drains(&sandbox);
    signalled(&psflip);
    let child = psflip.child();
    let mut asking = Asking::ask(&psflip.control_path(), END);
    let accepted = asking.wait_event("accepted");
    assert_eq!(because(&accepted), "generation 1 still drains and is killed at once");
    asking.wait_event("promoted");
    assert!(!old.is_alive() && !old_child.is_alive(), "{}", sandbox.report());
    let third = psflip.active();
    assert!(third != new && psflip.child() != child, "{}", sandbox.report());
    let line = psflip.wait_for_line(Stream::Stderr, "killing the old generation, which still drains");
    let from = format!("from=\"{}\"", own_name());
    assert!(line.text.contains(&from), "{line}");
    psflip.wait_for_line(Stream::Stderr, "the active generation does not wait for this one any more");
    assert!(psflip.wait_exit().success(), "it ended by itself: 0\n{}", sandbox.report());
    psflip.wait_gone(new);
    let got = psflip.output().lines();
    let from = format!("got SIGTERM from={}", new.pid());
    let got = got.iter().filter(|line| line.text.contains(&from)).count();
    assert_eq!(got, 1, "the child of generation 2 stopped once, for generation 3\n{}", sandbox.report());
    stop(&psflip);
}

#[test]
fn a_requester_that_waits_for_an_old_generation_learns_how_to_end_it() {
    // Contract: D2
    let sandbox = Sandbox::new();
    let Draining { psflip, old, old_child, .. } = drains(&sandbox);
    signalled(&psflip);
    let mut asking = Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"upgrade"}"#);
    let text = because(&asking.wait_event("accepted"));
    assert!(text.starts_with("generation 1 still drains (this step for at most "), "{text}");
    assert!(text.ends_with("; `psflip upgrade --end-draining` kills it at once"), "{text}");
    assert!(old.is_alive() && old_child.is_alive());
    // The second request ends it, and both have the same upgrade.
    Asking::ask(&psflip.control_path(), END).wait_event("promoted");
    asking.wait_event("promoted");
    stop(&psflip);
}

#[test]
fn without_an_old_generation_nothing_is_ended() {
    // Contract: D1, U6
    let sandbox = Sandbox::new();
    let Draining { psflip, old, new, .. } = flip_to_logger(&sandbox, &["signal-logger"], "", "");
    psflip.wait_gone(old);
    Asking::ask(&psflip.control_path(), END).wait_event("promoted");
    psflip.wait_gone(new);
    let lines = psflip.output().lines();
    assert!(!lines.iter().any(|line| line.text.contains("killing the old")), "{}", sandbox.report());
    stop(&psflip);
}

#[test]
fn an_old_psflip_that_does_not_end_at_once_is_killed() {
    // Contract: D1, C7, F12
    let sandbox = Sandbox::new();
    let Draining { psflip, old, old_child, .. } = drains(&sandbox);
    signalled(&psflip);
    freeze(old);
    // An operator's script that repeats the request does not give it more time.
    let upgrades = || {
        let args = ["upgrade", "--end-draining", "--timeout", "4s"];
        sandbox.command([psflip_bin()]).args(args).start().wait_exit().success()
    };
    assert!((0..15).any(|_| upgrades()), "{}", sandbox.report());
    psflip.wait_for_line(Stream::Stderr, "does not exit at once; killing it");
    assert!(!old.is_alive() && !old_child.is_alive(), "{}", sandbox.report());
    // `--strict` of that upgrade exits with 4.
    let mut following = Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"follow","upgrade":1}"#);
    assert_eq!(following.wait_event("drained")["killed"], true);
    stop(&psflip);
}
