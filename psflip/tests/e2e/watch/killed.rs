//! Nothing survives when watch or its keeper is killed (contract C7).

use std::os::unix::process::ExitStatusExt;

use testkit::{Process, Running, Sandbox, Signal, Stream, fixture};

use super::{wait_follows, watch, watched_psflip};
use crate::service::program;
use crate::tree::is_root;

/// Processes that try to survive: workers, orphans, daemons that ignore SIGTERM, of another user where
/// possible.
fn stubborn() -> Vec<String> {
    let mut argv: Vec<&str> =
        vec!["forks-workers", "--workers", "2", "--orphans", "2", "--setsid", "--ignore-term"];
    if is_root() {
        argv.extend(["--uid", "65534", "--main-uid", "65533"]);
    }
    program(&argv)
}

/// Kills watch (0) or its keeper (1), and checks that nothing is left.
#[track_caller]
fn nothing_survives(sandbox: &Sandbox, watch: &Running, victim: usize) {
    let first = watch.first();
    let family: [Process; 2] = [first, first.children()[0]];
    family[victim].signal(Signal::SIGKILL).unwrap();
    assert_eq!(watch.wait_exit().signal(), Some(9), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn the_tree_of_a_daemon_dies_with_watch_and_with_its_keeper() {
    // Contract: C7, W3
    for victim in [0, 1] {
        let sandbox = Sandbox::new();
        let workers = stubborn().join(" ");
        let daemon = format!("setsid sh -c 'echo $$ > x.pid; exec {workers}' & exit 0");
        let watch = watch(&sandbox, &[], &["sh", "-c", &daemon]);
        watch.output().wait(Stream::Stdout, "ready pid");
        watch.output().wait(Stream::Stderr, "follows the pidfile");
        nothing_survives(&sandbox, &watch, victim);
    }
}

#[test]
fn every_generation_of_a_psflip_dies_with_watch_and_with_its_keeper() {
    // Contract: C7
    for victim in [0, 1] {
        for flips in [0, 2] {
            let sandbox = Sandbox::new();
            let child = stubborn();
            let argv: Vec<&str> = child.iter().map(String::as_str).collect();
            let rest = "shutdown.timeout = \"50ms\"\n[healthcheck.alive]\ntimeout = \"0s\"\n";
            let psflip = watched_psflip(&sandbox, &argv, rest);
            for _ in 0..flips {
                psflip.flip();
            }
            psflip.wait_for_line(Stream::Stdout, &format!("name=gen{}", flips + 1));
            wait_follows(psflip.program(), psflip.active_pid());
            nothing_survives(&sandbox, psflip.program(), victim);
        }
    }
}

#[test]
fn the_tree_of_a_killed_psflip_dies_and_its_exit_is_relayed() {
    // Contract: C5, C7
    for keeper_first in [false, true] {
        let sandbox = Sandbox::new();
        let child = stubborn();
        let argv: Vec<&str> = child.iter().map(String::as_str).collect();
        let psflip = watched_psflip(&sandbox, &argv, "[healthcheck.alive]\ntimeout = \"0s\"\n");
        psflip.wait_for_line(Stream::Stdout, "ready pid");
        let active = psflip.active();
        wait_follows(psflip.program(), active.pid());
        let keeper = psflip.child().parent().unwrap();
        for victim in if keeper_first { vec![keeper, active] } else { vec![active] } {
            let _ = victim.signal(Signal::SIGKILL); // it may have exited with the other one
        }
        assert_eq!(psflip.program().wait_exit().signal(), Some(9), "{}", sandbox.report());
        sandbox.assert_no_process_left();
    }
}

#[test]
fn inherited_orphans_are_reaped() {
    // Contract: C9
    let sandbox = Sandbox::new();
    let workers = fixture("forks-workers").display().to_string();
    let watch = watch(&sandbox, &[], &[&workers, "--workers", "0", "--orphans", "5", "--setsid"]);
    watch.output().wait(Stream::Stdout, "ready pid");
    let keeper = watch.first().children()[0];
    for orphan in keeper.children().into_iter().skip(1) {
        orphan.signal(Signal::SIGKILL).unwrap();
    }
    testkit::wait_until(testkit::Deadline::default(), "the orphans to be reaped", || {
        (keeper.children().len() == 1).then_some(())
    });
    sandbox.assert_zombie_free();
    watch.signal(Signal::SIGTERM);
    assert_eq!(watch.wait_exit().code(), Some(0));
}
