//! Zombies, and each process's parent (C9, U10), through many upgrades (as PID 1: `anchor/namespace.rs`).

use testkit::{Deadline, Process, Sandbox, Signal, Stream, fixture, wait_until};

use crate::service::wait_rest;

use super::{AT_ONCE, family, forks_workers};

/// Waits until a process has exited and its parent has reaped it.
#[track_caller]
pub(crate) fn wait_reaped(process: Process) {
    wait_until(Deadline::default(), format!("process {process} to exit and be reaped"), || {
        process.stat().is_none().then_some(())
    });
}

#[test]
fn exited_orphans_are_reaped() {
    // Contract: C9
    let sandbox = Sandbox::new();
    let args = ["--workers", "0", "--orphans", "5", "--setsid"];
    let psflip = forks_workers(&sandbox, &args, "").start().wait_ready();
    let family = family(&psflip, 1);
    for orphan in &family[1..] {
        orphan.signal(Signal::SIGKILL).unwrap();
        wait_reaped(*orphan);
    }
    assert_eq!(psflip.child(), family[0], "the child doesn't notice\n{}", sandbox.report());
}

#[test]
fn children_from_before_the_exec_are_reaped_and_not_killed() {
    // Contract: C8, C9
    let sandbox = Sandbox::new();
    sandbox.expect_leftovers();
    let shell = ["sh", "-c", "sleep infinity & sleep infinity & exec \"$@\"", "sh"];
    let psflip = sandbox.psflip().cmd(["sleep", "infinity"]).config(AT_ONCE).wrapper(shell);
    let psflip = psflip.start().wait_ready();
    let child = psflip.child();
    let helpers = psflip.active().children();
    let helpers: Vec<_> = helpers.into_iter().filter(|helper| *helper != child.parent().unwrap()).collect();
    assert_eq!(helpers.len(), 2, "{}", sandbox.report());
    helpers[0].signal(Signal::SIGKILL).unwrap();
    wait_reaped(helpers[0]);
    psflip.stop();
    assert!(!child.is_alive() && helpers[1].is_alive(), "{}", sandbox.report());
}

#[test]
fn twenty_upgrades_leave_no_zombie_and_no_descriptor() {
    // Contract: C9, U10
    let sandbox = Sandbox::new();
    let args = ["--workers", "2", "--orphans", "1"];
    let psflip = forks_workers(&sandbox, &args, "log.level = \"debug\"\n").start().wait_ready();
    let numbers = |process: Process| process.open_fds().unwrap().into_keys().collect::<Vec<_>>();
    let mut second = None;
    for generation in 2..=21 {
        psflip.flip();
        // Until the new psflip has seen the old one exit, it keeps the descriptors that connect the two.
        psflip.output().wait_count(generation - 1, Stream::Stderr, "the old generation is gone");
        let child = family(&psflip, generation)[0];
        let keeper = child.parent().unwrap();
        sandbox.assert_zombie_free();
        wait_rest(&sandbox);
        // The first psflip had no predecessor, so the second one is the reference.
        let open = (numbers(psflip.active()), numbers(keeper), numbers(child));
        let second = second.get_or_insert_with(|| open.clone());
        assert_eq!(open, *second, "generation {generation}\n{}", sandbox.report());
    }
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn the_new_psflip_is_a_child_of_the_supervisor_before_its_promotion() {
    // Contract: U10
    let sandbox = Sandbox::new();
    sandbox.write("go", "");
    let health = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"go\"]\ninterval = \"5ms\"\n";
    let child = [fixture("never-ready").display().to_string()];
    let psflip = sandbox.psflip().cmd(child).config(health).start().wait_ready();
    // Its health check does not depend on it here, so it may be slower than its successor.
    psflip.wait_for_line(Stream::Stdout, "starting pid=");
    for started in 2..=4 {
        std::fs::remove_file(sandbox.path("go")).unwrap();
        let old = psflip.request_flip();
        // Its child runs, so its start is over. The child isn't healthy, so there is no promotion yet.
        let lines = psflip.output().wait_count(started, Stream::Stdout, "starting pid=");
        let pid = lines[started - 1].text.trim_start_matches("starting pid=").parse().unwrap();
        let new = Process::find(pid).and_then(|child| child.parent()?.parent()).unwrap();
        // The intermediate process has exited, or is about to. The old psflip is never the parent.
        let parent = wait_until(Deadline::default(), "the intermediate process to exit", || {
            new.parent().filter(|parent| [old, Process::current()].contains(parent))
        });
        assert_eq!(parent, Process::current(), "{}", sandbox.report());
        assert_eq!(psflip.active(), old, "it is not promoted yet\n{}", sandbox.report());
        sandbox.write("go", "");
        assert_eq!(psflip.wait_successor(old), new);
        psflip.wait_gone(old);
    }
    sandbox.assert_zombie_free();
}
