//! Processes are killed: how systemd reacts, and that nothing is left.

use testkit::{Deadline, Process, Signal, wait_until};

use crate::rig::{APP, AT_ONCE, KINDS, Rig, SIMPLE};

/// With this, systemd stops only the main process. So after a SIGKILL, only psflip can have stopped the
/// others.
const LEFT_TO_PSFLIP: &str = "KillMode=process\n";

#[test]
fn a_crashed_child_is_restarted_by_restart_on_failure() {
    // Contract: C5
    for kind in KINDS {
        let Some(rig) = Rig::new() else { return };
        rig.install(&format!("{kind}Restart=on-failure\n"));
        rig.start();
        let old = rig.flip();
        child_of(old).signal(Signal::SIGUSR1).unwrap();
        wait_restarted(&rig, old, 1);
        // Termination by a signal is reported as such (C5), not as an exit code.
        assert_eq!(rig.said("status=10/USR1").len(), 1, "{:#?}", rig.journal());
        rig.flip();
        rig.assert_state("active/running/success/1");
        rig.stop_well();
    }
}

#[test]
fn a_child_that_exits_with_0_is_not_restarted_by_restart_on_failure() {
    // Contract: C5
    for kind in KINDS {
        let Some(rig) = Rig::new() else { return };
        rig.configure(&["dies-later", "--on-file", "end", "--code", "0"], AT_ONCE);
        rig.install(&format!("{kind}Restart=on-failure\n"));
        rig.start();
        rig.flip();
        rig.sandbox.write("end", "");
        rig.machine.wait_property(APP, "ActiveState", "inactive");
        rig.assert_state("inactive/dead/success/0");
    }
}

#[test]
fn a_killed_psflip_is_restarted_and_no_old_process_is_left() {
    // Contract: C7, P3
    for kind in KINDS {
        let Some(rig) = Rig::new() else { return };
        rig.install(&format!("{kind}{LEFT_TO_PSFLIP}Restart=on-failure\n"));
        rig.start();
        let old = rig.flip();
        let tree = rig.machine.processes(APP);
        old.signal(Signal::SIGKILL).unwrap();
        wait_restarted(&rig, old, 1);
        assert!(tree.iter().all(|process| !process.is_alive()), "{tree:?}");
        let probe = rig.ask();
        rig.flip();
        probe.finish().assert_no_failures();
        rig.stop_well();
    }
}

/// Waits until systemd has restarted the service and it is healthy.
#[track_caller]
fn wait_restarted(rig: &Rig, old: Process, restarts: u32) {
    rig.wait_gone(old);
    rig.machine.wait_property(APP, "NRestarts", restarts);
    // The killed one has left its pidfile behind.
    wait_until(Deadline::default(), "a running psflip in the pidfile", || {
        let text = std::fs::read_to_string(rig.pidfile()).ok()?;
        rig.machine.process(text.trim_end().parse().ok()?).filter(|new| *new != old)
    });
    rig.wait_main();
}

/// psflip's only child is the keeper, whose only child is the service.
fn child_of(psflip: Process) -> Process {
    keeper_of(psflip).children()[0]
}

fn keeper_of(psflip: Process) -> Process {
    psflip.children()[0]
}

/// Starts a tree of processes that try to survive. The test chooses what to kill. After that the unit's
/// control group must be empty.
#[track_caller]
fn nothing_survives(tree: &[&str], kill: impl Fn(Process)) {
    for kind in KINDS {
        let Some(rig) = Rig::new() else { return };
        let argv = [&["forks-workers", "--workers", "3", "--orphans", "2"], tree].concat();
        rig.configure(&argv, &format!("[shutdown]\ntimeout = \"100ms\"\n{AT_ONCE}"));
        rig.install(&format!("{kind}{LEFT_TO_PSFLIP}"));
        rig.start();
        for generation in 1..=2 {
            rig.machine.wait_journal(APP, &format!("name=gen{generation}"));
            let psflip = rig.wait_main();
            if generation == 1 {
                rig.flip();
                continue;
            }
            let all = rig.machine.processes(APP);
            assert_eq!(all.len(), 2 + 1 + 3 + 2, "psflip, keeper, child, workers, orphans: {all:?}");
            kill(psflip);
            wait_until(Deadline::default(), "the unit's control group to be empty", || {
                rig.machine.processes(APP).is_empty().then_some(())
            });
            assert!(all.iter().all(|process| !process.is_alive()), "{all:?}");
        }
        rig.machine.wait_property(APP, "ActiveState", "failed");
        rig.assert_state("failed/failed/signal/0");
    }
}

fn kill_psflip(psflip: Process) {
    psflip.signal(Signal::SIGKILL).unwrap();
}

/// Kills the keeper, then psflip before it can react.
fn kill_keeper_then_psflip(psflip: Process) {
    psflip.signal(Signal::SIGSTOP).unwrap();
    keeper_of(psflip).signal(Signal::SIGKILL).unwrap();
    psflip.signal(Signal::SIGKILL).unwrap();
}

fn kill_keeper(psflip: Process) {
    keeper_of(psflip).signal(Signal::SIGKILL).unwrap();
}

const DAEMONS: &[&str] = &["--setsid", "--ignore-term"];
const OTHER_USERS: &[&str] = &["--uid", "65534", "--main-uid", "65533"];

#[test]
fn workers_and_orphans_do_not_survive_psflip() {
    // Contract: C7
    nothing_survives(&[], kill_psflip);
}

#[test]
fn daemons_do_not_survive_psflip() {
    // Contract: C7
    nothing_survives(DAEMONS, kill_psflip);
}

#[test]
fn processes_of_other_users_do_not_survive_psflip() {
    // Contract: C7
    nothing_survives(OTHER_USERS, kill_psflip);
}

#[test]
fn daemons_of_other_users_do_not_survive_the_keeper() {
    // Contract: C7
    nothing_survives(&[DAEMONS, OTHER_USERS].concat(), kill_keeper);
}

#[test]
fn systemd_kills_the_rest_if_keeper_and_psflip_are_killed() {
    // psflip does not promise to survive the loss of keeper and psflip at once. The unit's control group
    // covers that case.
    let Some(rig) = Rig::new() else { return };
    let argv = [&["forks-workers"], DAEMONS].concat();
    rig.configure(&argv, AT_ONCE);
    rig.install(&format!("{SIMPLE}KillMode=mixed\n"));
    let psflip = rig.start();
    rig.machine.wait_journal(APP, "name=gen1");
    let all = rig.machine.processes(APP);
    kill_keeper_then_psflip(psflip);
    rig.machine.wait_property(APP, "ActiveState", "failed");
    assert!(all.iter().all(|process| !process.is_alive()), "{all:?}");
}

#[test]
fn without_psflip_a_worker_survives() {
    // Proves that `KillMode=process` does not stop such processes, and so leaves them to psflip.
    let Some(rig) = Rig::new() else { return };
    let start = "/bin/sh -c 'sleep 1000 & exec sleep 1000'";
    rig.machine.unit(APP, format!("[Service]\n{LEFT_TO_PSFLIP}ExecStart={start}\n"));
    rig.machine.systemctl(["start", APP]).unwrap();
    wait_until(Deadline::default(), "both processes", || {
        let names = rig.machine.processes(APP).into_iter().filter_map(|process| process.cmdline().ok());
        (names.filter(|line| line.first().is_some_and(|name| name == "sleep")).count() == 2).then_some(())
    });
    rig.machine.main_process(APP).unwrap().signal(Signal::SIGKILL).unwrap();
    rig.machine.wait_property(APP, "ActiveState", "failed");
    assert_eq!(rig.machine.processes(APP).len(), 1);
}
