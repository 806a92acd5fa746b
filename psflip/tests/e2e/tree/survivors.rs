//! Processes that may try to outlive psflip or their generation: workers, orphans, daemons, processes of
//! another user (C7, C8).

use std::os::unix::process::ExitStatusExt;

use testkit::client::control::Asking;
use testkit::{Process, Sandbox, Signal, Stream};

use super::{family, forks_workers, is_root, wait_all_gone};

/// Kills a psflip, or its keeper, in generation 1, 2 and 3. Every process must be gone after that.
#[track_caller]
fn killed(args: &[&str], victim: impl Fn(Process, &[Process]) -> Process) {
    for generation in 1..=3 {
        let sandbox = Sandbox::new();
        // Processes that ignore SIGTERM delay each upgrade before the kill by that time.
        let psflip = forks_workers(&sandbox, args, "shutdown.timeout = \"50ms\"\n").start().wait_ready();
        let mut family_now = family(&psflip, 1);
        for next in 2..=generation {
            psflip.flip();
            family_now = family(&psflip, next);
        }
        let active = psflip.active();
        victim(active, &family_now).signal(Signal::SIGKILL).unwrap();
        wait_all_gone("everything after the kill", &family_now);
        let status = psflip.wait_end_of(active);
        assert_eq!(status.signal(), Some(9), "generation {generation}\n{}", sandbox.report());
        sandbox.assert_no_process_left();
    }
}

fn psflip_itself(psflip: Process, _: &[Process]) -> Process {
    psflip
}

/// The child is the oldest of the family, and the keeper is its parent.
fn keeper(_: Process, family: &[Process]) -> Process {
    family[0].parent().unwrap()
}

#[test]
fn workers_and_orphans_die_with_a_psflip_that_is_killed() {
    // Contract: C7
    killed(&["--workers", "3", "--orphans", "2"], psflip_itself);
}

#[test]
fn daemons_that_ignore_sigterm_die_with_a_psflip_that_is_killed() {
    // Contract: C7
    killed(&["--workers", "2", "--orphans", "2", "--setsid", "--ignore-term"], psflip_itself);
}

#[test]
fn a_tree_of_another_user_dies_with_a_psflip_that_is_killed() {
    // Contract: C7
    if is_root() {
        let other = ["--workers", "2", "--orphans", "1", "--uid", "65534", "--main-uid", "65533"];
        killed(&other, psflip_itself);
    }
}

#[test]
fn everything_and_psflip_terminate_when_the_keeper_is_killed() {
    // Contract: C7, C5
    killed(&["--workers", "3", "--orphans", "2"], keeper);
}

#[test]
fn daemons_of_another_user_die_when_the_keeper_is_killed() {
    // Contract: C7, C5
    if is_root() {
        let other = ["--workers", "1", "--orphans", "2", "--setsid", "--ignore-term", "--uid", "65534"];
        killed(&[&other[..], &["--main-uid", "65533"]].concat(), keeper);
    }
}

#[test]
fn a_killed_keeper_of_a_draining_generation_affects_only_that_one() {
    // Contract: C7, C8
    let sandbox = Sandbox::new();
    let config = "shutdown.delay = \"1h\"\n";
    let psflip = forks_workers(&sandbox, &["--orphans", "1"], config).start().wait_ready();
    let (old_psflip, old) = (psflip.active(), family(&psflip, 1));
    psflip.request_flip();
    psflip.wait_successor(old_psflip);
    let new = family(&psflip, 2);
    old[0].parent().unwrap().signal(Signal::SIGKILL).unwrap();
    psflip.wait_gone(old_psflip);
    wait_all_gone("the old generation", &old);
    assert_eq!(psflip.wait_exit().code(), Some(0), "it was superseded\n{}", sandbox.report());
    assert!(new.iter().all(Process::is_alive), "{}", sandbox.report());
}

/// Upgrades from a tree that ignores SIGTERM, as far as `args` says, and ends the old generation when it has
/// come to this step.
#[track_caller]
fn ended_at(step: &str, args: &[&str], config: &str) {
    let sandbox = Sandbox::new();
    let psflip = forks_workers(&sandbox, args, config).start().wait_ready();
    let (old_psflip, old) = (psflip.active(), family(&psflip, 1));
    psflip.request_flip();
    psflip.wait_successor(old_psflip);
    let new = family(&psflip, 2);
    let mut watching = Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"watch"}"#);
    while watching.wait_event("status")["status"]["predecessor"]["step"] != step {}
    assert!(old_psflip.is_alive() && old.iter().any(Process::is_alive), "{}", sandbox.report());
    let end = r#"{"psflip":1,"request":"upgrade","end_draining":true}"#;
    Asking::ask(&psflip.control_path(), end).wait_event("promoted");
    assert!(!old.iter().any(Process::is_alive), "{}", sandbox.report());
    assert!(new.iter().any(Process::is_alive), "the active one drains as ever\n{}", sandbox.report());
}

#[test]
fn an_old_generation_that_is_ended_leaves_nothing_behind() {
    // Contract: D1, C8
    let tree = ["--workers", "2", "--orphans", "2", "--setsid"];
    ended_at("delay", &tree, "shutdown.delay = \"1h\"\n");
    let careless = [&tree[..], &["--ignore-term"]].concat();
    ended_at("orphans", &careless, "shutdown.timeout = \"1h\"\n");
}

#[test]
fn an_upgrade_stops_only_old_workers_and_orphans() {
    // Contract: C8
    let sandbox = Sandbox::new();
    let args = ["--workers", "3", "--orphans", "2", "--setsid"];
    let psflip = forks_workers(&sandbox, &args, "").start().wait_ready();
    let mut old = family(&psflip, 1);
    for generation in 2..=4 {
        psflip.flip();
        // No wait: the old psflip exits only when its tree is gone.
        assert!(old.iter().all(|process| !process.is_alive()), "{}", sandbox.report());
        old = family(&psflip, generation);
        assert_eq!(old.len(), 6, "{}", sandbox.report());
    }
    let got = psflip.program().stdout();
    // The same signal that the child got, and only once.
    assert_eq!(got.matches("-exit pid=").count(), 15, "{}", sandbox.report());
    assert_eq!(got.matches("got SIGTERM").count(), 18, "{}", sandbox.report());
}

#[test]
fn a_stop_terminates_workers_and_orphans_before_psflip_exits() {
    // Contract: C8
    let sandbox = Sandbox::new();
    let psflip = forks_workers(&sandbox, &["--orphans", "2", "--setsid"], "").start().wait_ready();
    let all = family(&psflip, 1);
    assert_eq!(psflip.stop().code(), Some(0), "{}", sandbox.report());
    assert!(all.iter().all(|process| !process.is_alive()), "{}", sandbox.report());
    assert!(!sandbox.path("psflip.pid").exists());
}

#[test]
fn workers_of_a_child_that_dies_by_itself_are_stopped() {
    // Contract: C8, C5
    let sandbox = Sandbox::new();
    let psflip = forks_workers(&sandbox, &["--orphans", "2"], "").start().wait_ready();
    let all = family(&psflip, 1);
    psflip.signal_child(Signal::SIGKILL);
    assert_eq!(psflip.wait_exit().signal(), Some(9), "{}", sandbox.report());
    assert!(all.iter().all(|process| !process.is_alive()), "{}", sandbox.report());
}

#[test]
fn workers_of_a_child_that_dies_before_it_is_healthy_are_stopped() {
    // Contract: C8, C6
    let sandbox = Sandbox::new();
    let config = "cmd = [\"sh\", \"-c\", \"sleep infinity & (sleep infinity &) ; exit 5\"]\n";
    let psflip = sandbox.psflip().config(config).start();
    assert_eq!(psflip.wait_exit().code(), Some(5), "{}", sandbox.report());
    assert_eq!(sandbox.processes(), [], "{}", sandbox.report());
}

#[test]
fn workers_that_ignore_the_signal_are_killed_after_the_timeout() {
    // Contract: C8, U5
    let sandbox = Sandbox::new();
    let args = ["--workers", "2", "--orphans", "1", "--ignore-term"];
    let config = "shutdown.timeout = \"100ms\"\n";
    let psflip = forks_workers(&sandbox, &args, config).start().wait_ready();
    let old = family(&psflip, 1);
    psflip.flip();
    assert!(old.iter().all(|process| !process.is_alive()), "{}", sandbox.report());
    psflip.wait_for_line(Stream::Stderr, "leftover processes of the child did not exit in time");
    let new = family(&psflip, 2);
    assert_eq!(psflip.stop().code(), Some(0), "{}", sandbox.report());
    assert!(new.iter().all(|process| !process.is_alive()), "{}", sandbox.report());
}

#[test]
fn orphans_are_left_alone_if_configured() {
    // Contract: C8
    let sandbox = Sandbox::new();
    sandbox.expect_leftovers();
    let config = "shutdown.orphans = \"leave\"\n";
    let args = ["--workers", "1", "--orphans", "1"];
    let psflip = forks_workers(&sandbox, &args, config).start().wait_ready();
    let old = family(&psflip, 1);
    psflip.flip();
    let new = family(&psflip, 2);
    assert_eq!(psflip.stop().code(), Some(0), "{}", sandbox.report());
    for family in [old, new] {
        assert!(!family[0].is_alive(), "the child itself exits in spite of that");
        assert!(family[1..].iter().all(Process::is_alive), "{}", sandbox.report());
    }
    assert!(!psflip.program().stdout().contains("-exit"), "{}", sandbox.report());
}

#[test]
fn orphans_of_an_old_generation_that_is_ended_are_left_alone_if_configured() {
    // Contract: D1, C8
    let sandbox = Sandbox::new();
    sandbox.expect_leftovers();
    let config = "shutdown.orphans = \"leave\"\nshutdown.delay = \"1h\"\n";
    let psflip = forks_workers(&sandbox, &["--workers", "1", "--orphans", "1"], config).start().wait_ready();
    let (old_psflip, old) = (psflip.active(), family(&psflip, 1));
    psflip.request_flip();
    psflip.wait_successor(old_psflip);
    family(&psflip, 2);
    let end = r#"{"psflip":1,"request":"upgrade","end_draining":true}"#;
    Asking::ask(&psflip.control_path(), end).wait_event("promoted");
    assert!(!old[0].is_alive(), "{}", sandbox.report());
    assert!(old[1..].iter().all(Process::is_alive), "{}", sandbox.report());
}
