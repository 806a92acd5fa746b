//! Each process below an anchor is killed, at each stage of an upgrade (C7, F).

use std::os::unix::process::ExitStatusExt as _;

use testkit::{Deadline, Process, Psflip, Sandbox, Signal, Stream, child_of, wait_until};

use super::{anchor_of, anchored, stop};
use crate::failures::stage::Stage;
use crate::service::{AT_ONCE, configure, freeze, generations, kill, psflip, script};

/// Healthy once the file `healthy` exists.
const UNTIL_FILE_DEBUG: &str = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"healthy\"]\ninterval = \"5ms\"\n[log]\nlevel = \"debug\"\n";

/// The new psflip beside the old one.
#[track_caller]
fn coming(sandbox: &Sandbox, known: &[Process]) -> Process {
    wait_until(Deadline::default(), "a new psflip", || {
        generations(sandbox).into_iter().find(|process| !known.contains(process))
    })
}

const SLEEP: &[&str] = &["/bin/sleep", "infinity"];

/// Starts a child that sleeps below an anchor, and an upgrade to one with this configuration. Returns the
/// anchor, the old psflip and the new one.
#[track_caller]
fn upgrading(sandbox: &Sandbox, rest: &str) -> (Psflip, [Process; 3]) {
    let psflip = anchored(psflip(sandbox, SLEEP, AT_ONCE)).start().wait_ready();
    let (anchor, old) = (anchor_of(&psflip), psflip.active());
    configure(sandbox, SLEEP, rest);
    psflip.request_flip();
    let new = coming(sandbox, &[anchor, old]);
    (psflip, [anchor, old, new])
}

#[test]
fn no_process_outlives_a_killed_anchor() {
    // Contract: A4, C7
    for frozen in [false, true] {
        for upgrading in [false, true] {
            let sandbox = Sandbox::new();
            let child = &["forks-workers", "--orphans", "2", "--ignore-term"];
            let psflip = anchored(psflip(&sandbox, child, AT_ONCE)).start().wait_ready();
            psflip.wait_for_line(Stream::Stdout, "ready pid=");
            let (anchor, old) = (anchor_of(&psflip), psflip.active());
            if upgrading {
                configure(&sandbox, child, UNTIL_FILE_DEBUG);
                let mark = psflip.output().mark();
                psflip.request_flip();
                let new = coming(&sandbox, &[anchor, old]);
                psflip.output().wait_after(mark, Stream::Stdout, "ready pid=");
                if frozen {
                    freeze(new);
                }
            }
            if frozen {
                freeze(old);
            }
            kill(anchor);
            assert_eq!(psflip.wait_exit().signal(), Some(9));
            sandbox.assert_no_process_left();
        }
    }
}

/// On a busy host the process that forks the new psflip may exit late. Until then the anchor is not the parent.
#[test]
fn a_suspended_new_psflip_dies_with_the_anchor_even_if_it_was_reparented_late() {
    // Contract: A4, C7
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let psflip = anchored(stage.psflip(&sandbox, "[log]\nlevel = \"debug\"\n")).start().wait_ready();
    let (anchor, old) = (anchor_of(&psflip), psflip.active());
    configure(&sandbox, SLEEP, UNTIL_FILE_DEBUG);
    stage.plan(&sandbox, Some(old), "record\npause intermediate Ends intermediate");
    psflip.request_flip();
    let paused = stage.wait_pause(&sandbox);
    wait_until(Deadline::default(), "the new psflip to report its start", || {
        sandbox.read("trace").contains(" new Sent starting\n").then_some(())
    });
    let pid = psflip.wait_for_line(Stream::Stderr, "psflip{generation=2 pid=").text;
    let pid = pid.split("pid=").nth(1).and_then(|rest| rest.split('}').next()).unwrap();
    let new = Process::find(pid.parse().unwrap()).unwrap();
    assert_ne!(new.parent(), Some(anchor));
    paused.go_on();
    psflip.wait_for_line(Stream::Stderr, "the anchor is the parent now");
    assert_eq!(new.parent(), Some(anchor));
    freeze(new);
    freeze(old);
    kill(anchor);
    assert_eq!(psflip.wait_exit().signal(), Some(9));
    sandbox.assert_no_process_left();
}

#[test]
fn below_an_anchor_a_predecessor_killed_during_an_upgrade_is_replaced() {
    // Contract: A3, F8
    let sandbox = Sandbox::new();
    let (psflip, [anchor, old, new]) = upgrading(&sandbox, UNTIL_FILE_DEBUG);
    psflip.wait_for_line(Stream::Stderr, "psflip{generation=2 ");
    kill(old);
    psflip.wait_for_line(Stream::Stderr, "the old psflip was killed; going on alone");
    assert!(anchor.is_alive());
    // A request during the upgrade goes to the psflip that is left.
    anchor.signal(Signal::SIGHUP).unwrap();
    psflip.wait_for_line(Stream::Stderr, "upgrade queued");
    sandbox.write("healthy", "");
    // It may be the service for a few milliseconds only, so the test reads the log, not the pidfile.
    psflip.wait_for_line(Stream::Stderr, &format!("pid={new}}}: healthy, active"));
    let third = psflip.wait_successor(new);
    psflip.wait_gone(new);
    assert_eq!((psflip.active(), third.parent()), (third, Some(anchor)), "{}", sandbox.report());
    assert_eq!(stop(&psflip).signal(), Some(15));
    sandbox.assert_no_process_left();
}

#[test]
fn a_stop_of_the_anchor_stops_a_generation_that_goes_on_alone() {
    // Contract: A2, F8, F11
    let sandbox = Sandbox::new();
    let (psflip, [_, old, _]) = upgrading(&sandbox, UNTIL_FILE_DEBUG);
    psflip.wait_for_line(Stream::Stderr, "psflip{generation=2 ");
    kill(old);
    psflip.wait_gone(old);
    assert_eq!(stop(&psflip).signal(), Some(15), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn the_anchor_exits_if_a_generation_that_goes_on_alone_fails() {
    // Contract: A3, F8, F4
    let sandbox = Sandbox::new();
    // Time for the test to kill the old psflip.
    let soon = format!("{UNTIL_FILE_DEBUG}[upgrade]\ntimeout = \"4s\"\n");
    let (psflip, [_, old, _]) = upgrading(&sandbox, &soon);
    kill(old);
    assert_eq!(psflip.wait_exit().code(), Some(124), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn the_anchor_dies_of_the_signal_that_killed_the_active_generation() {
    // Contract: A3, C7
    let sandbox = Sandbox::new();
    let child = &["forks-workers", "--orphans", "2", "--ignore-term"];
    let psflip = anchored(psflip(&sandbox, child, AT_ONCE)).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready pid=");
    kill(psflip.active());
    assert_eq!(psflip.wait_exit().signal(), Some(9));
    sandbox.assert_no_process_left();
}

#[test]
fn a_tree_whose_psflip_and_keeper_are_killed_dies_with_the_anchor() {
    // Contract: A3, C7
    let sandbox = Sandbox::new();
    let child = &["forks-workers", "--orphans", "2", "--ignore-term"];
    let psflip = anchored(psflip(&sandbox, child, AT_ONCE)).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready pid=");
    let (active, keeper) = (psflip.active(), psflip.child().parent().unwrap());
    freeze(active); // otherwise it stops what the keeper left
    kill(keeper);
    kill(active);
    assert_eq!(psflip.wait_exit().signal(), Some(9));
    sandbox.assert_no_process_left();
}

#[test]
fn an_old_tree_without_psflip_and_keeper_is_killed_during_an_upgrade() {
    // Contract: C7, F8, F9
    for draining in [false, true] {
        let sandbox = Sandbox::new();
        let workers = &["forks-workers", "--workers", "2", "--orphans", "2", "--setsid", "--ignore-term"];
        let long = "[shutdown]\ndelay = \"1h\"\n";
        let psflip = anchored(psflip(&sandbox, workers, &format!("{long}{AT_ONCE}"))).start().wait_ready();
        psflip.wait_for_line(Stream::Stdout, "ready pid=");
        let (anchor, old, keeper) = (anchor_of(&psflip), psflip.active(), psflip.child().parent().unwrap());
        configure(&sandbox, SLEEP, if draining { AT_ONCE } else { UNTIL_FILE_DEBUG });
        psflip.request_flip();
        let new = coming(&sandbox, &[anchor, old]);
        if draining {
            psflip.wait_for_line(Stream::Stderr, "new generation took over");
        } else {
            psflip.wait_for_line(Stream::Stderr, "generation=2");
        }
        freeze(old); // otherwise it stops what the keeper left
        kill(keeper);
        kill(old);
        sandbox.write("healthy", "");
        psflip.wait_gone(old);
        psflip.wait_for_line(Stream::Stderr, "healthy, active");
        wait_until(Deadline::default(), "only the anchor and the new generation to be left", || {
            (sandbox.processes().len() == 4).then_some(())
        });
        assert!(anchor.is_alive() && new.is_alive(), "{}", sandbox.report());
        sandbox.assert_zombie_free();
        assert_eq!(psflip.wait_pidfile(), new);
        let _ = stop(&psflip);
        sandbox.assert_no_process_left();
    }
}

#[test]
fn the_anchor_exits_at_once_if_the_new_generation_dies_during_a_drain() {
    // Contract: A3, U5
    let sandbox = Sandbox::new();
    let times = format!("{AT_ONCE}[shutdown]\ndelay = \"1h\"\ntimeout = \"5s\"\n");
    let psflip = anchored(psflip(&sandbox, SLEEP, &times)).start().wait_ready();
    let old = psflip.active();
    let child = script(&sandbox, "child", "while [ ! -e go ]; do sleep 0.01; done; exit 3");
    configure(&sandbox, &[child.to_str().unwrap()], AT_ONCE);
    psflip.request_flip();
    psflip.wait_successor(old);
    psflip.wait_for_line(Stream::Stderr, "new generation took over");
    assert!(old.is_alive());
    sandbox.write("go", "");
    // The supervisor must be able to restart the service without waiting for the hour of the old one's drain.
    assert_eq!(psflip.wait_exit().code(), Some(3), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn the_anchor_stops_every_old_generation_if_the_active_one_dies() {
    // Contract: A3, D3, U5
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}[upgrade]\ndraining = 2\n[shutdown]\ndelay = \"1h\"\ntimeout = \"5s\"\n");
    let psflip = anchored(psflip(&sandbox, SLEEP, &rest)).start().wait_ready();
    let old = [(); 2].map(|()| {
        let old = psflip.request_flip();
        psflip.wait_successor(old);
        old
    });
    psflip.output().wait_count(3, Stream::Stderr, "healthy, active");
    assert!(old.iter().all(Process::is_alive), "{}", sandbox.report());
    kill(psflip.active());
    assert_eq!(psflip.wait_exit().signal(), Some(9), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn a_failed_upgrade_below_an_anchor_keeps_the_old_generation() {
    // Contract: U8, F1, F2, F3, F6
    let sandbox = Sandbox::new();
    let psflip = anchored(psflip(&sandbox, SLEEP, AT_ONCE)).start().wait_ready();
    let (anchor, old, child) = (anchor_of(&psflip), psflip.active(), psflip.child());
    let ask = || {
        let mark = psflip.output().mark();
        anchor.signal(Signal::SIGHUP).unwrap();
        mark
    };
    let failed = |mark| {
        let line = psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed").text;
        wait_until(Deadline::default(), "only one anchor, psflip, keeper and child to be left", || {
            (sandbox.processes().len() == 4).then_some(())
        });
        assert_eq!((psflip.active(), psflip.child()), (old, child), "{line}");
        sandbox.assert_zombie_free();
    };
    sandbox.write("psflip.toml", "cmd = 3\n");
    failed(ask());
    configure(&sandbox, &["exit-with", "--code", "4"], "[healthcheck.alive]\ntimeout = \"1m\"\n");
    failed(ask());
    configure(&sandbox, SLEEP, UNTIL_FILE_DEBUG);
    let mark = ask();
    kill(coming(&sandbox, &[anchor, old]));
    failed(mark);
    configure(&sandbox, SLEEP, AT_ONCE);
    psflip.flip();
    assert_eq!(stop(&psflip).signal(), Some(15));
    sandbox.assert_no_process_left();
}

#[test]
fn a_suspended_anchor_catches_up_when_continued() {
    // Contract: A2, F12
    let sandbox = Sandbox::new();
    let psflip = anchored(psflip(&sandbox, SLEEP, AT_ONCE)).start().wait_ready();
    let anchor = anchor_of(&psflip);
    freeze(anchor);
    for _ in 0..3 {
        psflip.flip();
    }
    let (third, mark) = (psflip.active(), psflip.output().mark());
    anchor.signal(Signal::SIGHUP).unwrap();
    anchor.signal(Signal::SIGCONT).unwrap();
    psflip.output().wait_after(mark, Stream::Stderr, "new generation took over");
    psflip.wait_successor(third);
    psflip.wait_gone(third);
    wait_until(Deadline::default(), "no process of earlier generations to be left", || {
        (sandbox.processes().len() == 4).then_some(())
    });
    assert_eq!(stop(&psflip).signal(), Some(15));
}

#[test]
fn a_new_tree_whose_psflip_and_keeper_are_killed_is_killed_at_once() {
    // Contract: C7, F6, U8
    let sandbox = Sandbox::new();
    let psflip = anchored(psflip(&sandbox, SLEEP, AT_ONCE)).start().wait_ready();
    let (anchor, old, child) = (anchor_of(&psflip), psflip.active(), psflip.child());
    let workers = &["forks-workers", "--workers", "2", "--orphans", "2", "--setsid", "--ignore-term"];
    for round in 1..=3 {
        configure(&sandbox, workers, UNTIL_FILE_DEBUG);
        let mark = psflip.output().mark();
        anchor.signal(Signal::SIGHUP).unwrap();
        psflip.output().wait_after(mark, Stream::Stdout, "ready pid=");
        let new = coming(&sandbox, &[anchor, old]);
        let keeper = child_of(new).unwrap().parent().unwrap();
        freeze(new); // otherwise it stops what the keeper left
        kill(keeper);
        kill(new);
        psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
        wait_until(Deadline::default(), "only the anchor and the old generation to be left", || {
            (sandbox.processes().len() == 4).then_some(())
        });
        assert_eq!((psflip.active(), psflip.child()), (old, child), "round {round}: {}", sandbox.report());
        sandbox.assert_zombie_free();
    }
    configure(&sandbox, SLEEP, AT_ONCE);
    psflip.flip();
    assert_eq!(stop(&psflip).signal(), Some(15));
    sandbox.assert_no_process_left();
}
