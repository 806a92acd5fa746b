//! Units that need only psflip's pidfile: `Type=simple` and `Type=forking`, with `PIDFile=` and a signal as
//! reload.

use testkit::{Deadline, wait_until};

use crate::rig::{APP, AT_ONCE, KINDS, Rig, SERVER, SERVING, SIMPLE};

/// Fifty upgrades under load. After each, systemd knows the new psflip, counts no restart, and has that
/// generation's lines in its journal. It stops the last one cleanly.
#[track_caller]
fn fifty_flips(service: impl FnOnce(&Rig) -> String) {
    let Some(rig) = Rig::new() else { return };
    rig.install(&service(&rig));
    rig.start();
    rig.flips_fifty_times();
    assert_eq!(rig.machine.processes(APP).len(), 3, "psflip, keeper, child");
    rig.stop_well();
}

#[test]
fn fifty_upgrades_of_a_simple_unit_with_a_pidfile_lose_nothing() {
    // Contract: U4, U10, P1
    fifty_flips(|_| SIMPLE.to_owned());
}

#[test]
fn fifty_upgrades_of_a_forking_unit_lose_nothing() {
    // Contract: U4, U10, P1
    fifty_flips(|rig| {
        let start = format!("ExecStart=/bin/sh -c 'exec {} &'\n", rig.psflip("run --no-anchor"));
        format!("Type=forking\nExecReload=/bin/kill -HUP $MAINPID\nKillMode=mixed\n{start}")
    });
}

#[test]
fn without_pidfile_and_notify_systemd_takes_an_upgrade_for_an_exit() {
    // This is why docs/systemd.md requires one of the two. It also proves that the other tests can fail.
    let Some(rig) = Rig::new() else { return };
    rig.install(&format!("{SIMPLE}PIDFile=\n"));
    rig.start();
    rig.machine.systemctl(["reload", APP]).unwrap();
    rig.machine.wait_property(APP, "ActiveState", "inactive");
    rig.assert_state("inactive/dead/success/0");
}

#[test]
fn failed_upgrades_leave_the_unit_unchanged() {
    // Contract: F1, F2, F3, F4, U8
    let Some(rig) = Rig::new() else { return };
    rig.install(SIMPLE);
    rig.start();
    let probe = rig.ask();
    rig.write_config("cmd = 1\n");
    rig.fails_to_reload("the configuration is invalid");
    rig.configure(&["crash-on-init", "--code", "3"], SERVING);
    rig.fails_to_reload("exit code 3");
    rig.configure(&["no-such-program/x"], SERVING);
    rig.fails_to_reload("can't execute");
    rig.configure(
        &["never-ready"],
        "[upgrade]\ntimeout = \"300ms\"\n[healthcheck.unix]\npath = \"other.sock\"\n",
    );
    rig.fails_to_reload("was not healthy within");
    rig.configure_well();
    let exe = rig.sandbox.path("bin/psflip");
    std::fs::rename(&exe, rig.sandbox.path("bin/away")).unwrap();
    rig.fails_to_reload("can't execute psflip again");
    std::fs::rename(rig.sandbox.path("bin/away"), &exe).unwrap();

    rig.flip();
    probe.wait_requests(10);
    probe.finish().assert_no_failures();
    rig.stop_well();
}

#[test]
fn systemd_may_reload_and_re_execute_at_any_time() {
    // Contract: U4, U10
    for kind in KINDS {
        let Some(rig) = Rig::new() else { return };
        rig.install(&format!("{kind}KillMode=mixed\n"));
        rig.start();
        let probe = rig.ask();
        for (verb, next) in [("daemon-reload", 3), ("daemon-reexec", 5)] {
            rig.machine.systemctl([verb]).unwrap();
            let old = rig.flip();
            // During an upgrade: the new child is healthy when the test allows it.
            rig.configure(
                SERVER,
                "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"go\"]\ninterval = \"20ms\"\n",
            );
            rig.machine.systemctl(["reload", "--no-block", APP]).unwrap();
            rig.machine.wait_journal(APP, &format!("generation {next}: child started"));
            rig.machine.systemctl([verb]).unwrap();
            rig.sandbox.write("go", "");
            rig.wait_flipped(old);
            std::fs::remove_file(rig.sandbox.path("go")).unwrap();
            rig.configure_well();
            probe.wait_requests(10);
        }
        rig.flip();
        rig.assert_state("active/running/success/0");
        probe.finish().assert_no_failures();
        rig.stop_well();
    }
}

/// A child that is slow to exit gets its time at a stop, even if only the new generation's psflip may stop
/// it.
#[track_caller]
fn drains_at_a_stop(kill_mode: &str) {
    let Some(rig) = Rig::new() else { return };
    rig.configure(&["never-ready", "--graceful", "300ms"], AT_ONCE);
    rig.install(&format!("{SIMPLE}KillMode={kill_mode}\n"));
    rig.start();
    // A child that is healthy at once may not handle signals yet.
    let starts = |count: usize| {
        wait_until(Deadline::default(), format!("the start of {count} children"), || {
            (rig.said("starting pid=").len() == count).then_some(())
        });
    };
    starts(1);
    rig.flip();
    starts(2);
    rig.stop_well();
    assert_eq!(rig.said("exit 0").len(), 2, "both children have exited by themselves: {:#?}", rig.journal());
}

#[test]
fn a_stop_waits_for_the_child_with_kill_mode_mixed() {
    // Contract: S5, F11
    drains_at_a_stop("mixed");
}

#[test]
fn a_stop_waits_for_the_child_with_kill_mode_control_group() {
    // Contract: S5, F11
    drains_at_a_stop("control-group");
}

#[test]
fn a_stop_in_the_middle_of_an_upgrade_stops_both_generations() {
    // Contract: S5, F11
    for kill_mode in ["mixed", "control-group"] {
        let Some(rig) = Rig::new() else { return };
        rig.install(&format!("{SIMPLE}KillMode={kill_mode}\n"));
        rig.start();
        rig.configure(&["never-ready"], "[healthcheck.unix]\npath = \"other.sock\"\n");
        rig.machine.systemctl(["reload", APP]).unwrap();
        wait_until(Deadline::default(), "the new child", || {
            (rig.machine.processes(APP).len() == 6).then_some(())
        });
        rig.stop_well();
        assert_eq!(rig.said("SIGKILL").len(), 0, "{:#?}", rig.journal());
    }
}

/// A service whose old generation drains for an hour, beside the new one.
fn draining(service: &str) -> Option<Rig> {
    let rig = Rig::new()?;
    rig.configure(SERVER, "[shutdown]\ndelay = \"1h\"\n[healthcheck.unix]\npath = \"app.sock\"\n");
    rig.install(&format!("{SIMPLE}{service}"));
    rig.start();
    let old = rig.active_pid();
    // After a reload systemd reads the pidfile again, and this promotion is to come later than that.
    let check = "[healthcheck.command]\ncmd = [\"/usr/bin/test\", \"-e\", \"go\"]\ninterval = \"100ms\"\n";
    rig.configure(SERVER, &format!("[shutdown]\ndelay = \"1h\"\n{check}"));
    rig.machine.systemctl(["reload", APP]).unwrap();
    std::fs::write(rig.path("go"), "").unwrap();
    wait_until(Deadline::default(), "the promotion", || (rig.active_pid() != old).then_some(()));
    Some(rig)
}

#[test]
fn a_stop_while_the_old_generation_drains_stops_both() {
    // Contract: S5, F11, C8
    let Some(rig) = draining("KillMode=control-group\n") else { return };
    rig.stop_well();
}

#[test]
fn a_stop_during_a_drain_with_kill_mode_mixed_needs_notify() {
    // systemd learns of the new main process only after the old one has exited, so a stop does not send it
    // SIGTERM.
    let Some(rig) = draining("KillMode=mixed\nTimeoutStopSec=1\n") else { return };
    rig.machine.systemctl(["stop", APP]).unwrap();
    rig.assert_state("failed/failed/timeout/0");
    assert_eq!(rig.machine.processes(APP), []);
}
