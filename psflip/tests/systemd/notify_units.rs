//! Units of `Type=notify`: psflip itself reports the main process and the state of the service to systemd.

use testkit::systemd::inner_pid_of;
use testkit::{Deadline, Signal, wait_until};

use crate::rig::{APP, AT_ONCE, Rig, SERVER, SERVING};

/// As docs/systemd.md recommends it, except for the reload.
const NOTIFY: &str = "Type=notify\nNotifyAccess=main\nKillMode=mixed\nExecReload=/bin/kill -HUP $MAINPID\n";

/// systemd's log lines when it refuses a notification, or doubts that a process belongs to the service.
const DOUBTS: &[&str] =
    &["not our child", "reception only permitted", "refusing", "Can't open PID file", "ignoring"];

#[track_caller]
fn assert_no_doubts(rig: &Rig) {
    for doubt in DOUBTS {
        let said: Vec<_> =
            rig.said(doubt).into_iter().filter(|entry| entry.identifier == "systemd").collect();
        assert!(said.is_empty(), "{said:#?}");
    }
}

#[test]
fn fifty_upgrades_lose_nothing_and_cause_no_systemd_warning() {
    // Contract: U4, U10, P1
    let Some(rig) = Rig::new() else { return };
    rig.install(NOTIFY);
    rig.machine.systemctl(["start", APP]).unwrap();
    // The start has waited for the health check.
    let first = rig.active_pid();
    assert_eq!(rig.show()["MainPID"], first.to_string());
    rig.flips_fifty_times();
    assert_no_doubts(&rig);
    rig.stop_well();
}

#[test]
fn systemd_knows_the_new_main_process_while_the_old_one_drains() {
    // Contract: U4, U5
    // With `mixed`, systemd kills what is left when the main process exits. So the main process must exit
    // last.
    for kill_mode in ["mixed", "control-group"] {
        let Some(rig) = Rig::new() else { return };
        rig.configure(SERVER, &format!("[shutdown]\ndelay = \"1h\"\n{SERVING}"));
        rig.install(&format!("{NOTIFY}KillMode={kill_mode}\n"));
        let old = rig.start();
        rig.machine.systemctl(["reload", APP]).unwrap();
        wait_until(Deadline::default(), "the promotion", || {
            (Some(rig.active_pid()) != inner_pid_of(old)).then_some(())
        });
        rig.wait_main();
        assert!(old.is_alive(), "it drains for an hour");
        rig.assert_state("active/running/success/0");
        rig.stop_well();
        assert_eq!(rig.said("exit 0").len(), 2, "{kill_mode}: {:#?}", rig.journal());
        assert_no_doubts(&rig);
    }
}

#[test]
fn the_status_shows_the_generation_and_why_the_last_upgrade_failed() {
    // Contract: U8
    let Some(rig) = Rig::new() else { return };
    rig.install(NOTIFY);
    let old = rig.start();
    let status = || rig.machine.property(APP, "StatusText");
    assert!(status().starts_with("generation 1, healthy since "), "{}", status());
    rig.configure(&["crash-on-init", "--code", "3"], SERVING);
    rig.machine.systemctl(["reload", APP]).unwrap();
    let text = wait_until(Deadline::default(), "the reason in the status", || {
        Some(status()).filter(|text| text.contains("last upgrade failed: "))
    });
    assert!(text.starts_with("generation 1, ") && text.contains("exit code 3"), "{text}");
    rig.wait_main();
    let shown = rig.machine.run(["systemctl", "status", "--no-pager", "--full", APP]).stdout;
    assert!(shown.contains("last upgrade failed: ") && shown.contains("active (running)"), "{shown}");
    assert_eq!(rig.wait_main(), old);

    rig.configure_well();
    rig.flip();
    wait_until(Deadline::default(), "the status of generation 2", || {
        status().starts_with("generation 2, healthy since ").then_some(())
    });
    assert!(!status().contains("failed"), "{}", status());
    rig.stop_well();
}

#[test]
fn a_service_never_stays_in_reloading() {
    // Contract: F2, F4, F6, U8
    let Some(rig) = Rig::new() else { return };
    rig.install(NOTIFY);
    let (old, probe) = (rig.start(), rig.ask());
    // Each upgrade hangs until the test stops it.
    rig.configure(
        &["never-ready"],
        "[upgrade]\ntimeout = \"1h\"\n[healthcheck.unix]\npath = \"other.sock\"\n",
    );
    let begins = || {
        rig.machine.systemctl(["reload", "--no-block", APP]).unwrap();
        rig.machine.wait_property(APP, "ActiveState", "reloading");
        wait_until(Deadline::default(), "the new psflip and its child", || {
            let all = rig.machine.processes(APP);
            let new = all.iter().find(|process| {
                **process != old
                    && process
                        .stat()
                        .is_some_and(|stat| stat.name == "psflip" && stat.parent == rig.machine.init().pid())
            });
            new.copied().filter(|_| all.len() == 6)
        })
    };
    let is_over = || {
        assert_eq!(rig.wait_main(), old);
        rig.assert_state("active/running/success/0");
    };
    // The new psflip is killed.
    begins().signal(Signal::SIGKILL).unwrap();
    is_over();
    // The new psflip gets SIGTERM.
    begins().signal(Signal::SIGTERM).unwrap();
    is_over();
    // Its child is killed.
    begins().children()[0].children()[0].signal(Signal::SIGKILL).unwrap();
    is_over();

    // The new program is not psflip at all.
    let exe = rig.sandbox.path("bin/psflip");
    std::fs::rename(&exe, rig.sandbox.path("bin/away")).unwrap();
    rig.machine.systemctl(["reload", APP]).unwrap();
    rig.machine.wait_journal(APP, "can't execute psflip again");
    is_over();
    std::fs::rename(rig.sandbox.path("bin/away"), &exe).unwrap();
    rig.configure_well();
    rig.flip();
    probe.finish().assert_no_failures();
    rig.stop_well();
}

#[test]
fn a_stop_in_the_middle_of_an_upgrade_is_a_clean_exit() {
    // Contract: S5, F11
    for kill_mode in ["mixed", "control-group"] {
        let Some(rig) = Rig::new() else { return };
        rig.install(&format!("{NOTIFY}KillMode={kill_mode}\n"));
        rig.start();
        rig.configure(&["never-ready"], "[healthcheck.unix]\npath = \"other.sock\"\n");
        rig.machine.systemctl(["reload", "--no-block", APP]).unwrap();
        wait_until(Deadline::default(), "the new child", || {
            (rig.machine.processes(APP).len() == 6).then_some(())
        });
        rig.stop_well();
        assert_eq!(rig.said("SIGKILL").len(), 0, "{:#?}", rig.journal());
    }
}

#[test]
fn a_psflip_killed_during_an_upgrade_is_restarted() {
    // Contract: C7
    // systemd stops the unit with its main process, so the new generation can't go on alone (F8).
    let Some(rig) = Rig::new() else { return };
    rig.install(&format!("{NOTIFY}Restart=on-failure\n"));
    let old = rig.start();
    rig.configure(&["never-ready"], "[healthcheck.unix]\npath = \"other.sock\"\n");
    rig.machine.systemctl(["reload", "--no-block", APP]).unwrap();
    let all = wait_until(Deadline::default(), "the new child", || {
        Some(rig.machine.processes(APP)).filter(|all| all.len() == 6)
    });
    rig.configure_well();
    old.signal(Signal::SIGKILL).unwrap();
    rig.machine.wait_property(APP, "NRestarts", 1);
    rig.machine.wait_property(APP, "ActiveState", "active");
    rig.wait_main();
    assert!(all.iter().all(|process| !process.is_alive()), "{all:?}");
    rig.flip();
    rig.stop_well();
}

#[test]
fn a_first_child_that_fails_fails_the_start() {
    // Contract: C6
    let Some(rig) = Rig::new() else { return };
    rig.configure(&["crash-on-init", "--code", "3"], SERVING);
    rig.install(NOTIFY);
    let error = rig.machine.systemctl(["start", APP]).unwrap_err();
    assert!(
        error.contains("Job for app.service failed because the control process exited with error code")
            || error.contains("failed"),
        "{error}"
    );
    rig.assert_state("failed/failed/exit-code/0");
    assert_eq!(rig.machine.property(APP, "ExecMainStatus"), "3");
    let status = rig.machine.property(APP, "StatusText");
    assert!(status.starts_with("failed: ") && status.contains("exit code 3"), "{status}");
    assert_eq!(rig.machine.processes(APP), []);

    rig.configure(&["no-such-program/x"], SERVING);
    rig.machine.systemctl(["start", APP]).unwrap_err();
    let errno = rig.machine.property(APP, "StatusErrno");
    assert_eq!((errno.as_str(), rig.machine.property(APP, "ExecMainStatus").as_str()), ("2", "127"));
}

#[test]
fn a_child_that_ignores_a_manual_stop_keeps_running() {
    // Contract: S5
    let Some(rig) = Rig::new() else { return };
    rig.configure(&["ignore-sigterm"], &format!("[shutdown]\ntimeout = \"300ms\"\n{AT_ONCE}"));
    rig.install(&format!("{NOTIFY}TimeoutStopSec=2\n"));
    let psflip = rig.start();
    rig.machine.wait_journal(APP, "name=gen1");
    psflip.signal(Signal::SIGTERM).unwrap();
    wait_until(Deadline::default(), "the status to report that", || {
        let text = rig.machine.property(APP, "StatusText");
        text.ends_with("the child ignored a stop request").then_some(())
    });
    assert_eq!(rig.wait_main(), psflip);
    rig.assert_state("active/running/success/0");
    // A stop by systemd ends with SIGKILL, after systemd's own timeout.
    rig.machine.systemctl(["stop", APP]).unwrap();
    assert_eq!(rig.machine.processes(APP), []);
}

#[test]
fn a_start_may_take_longer_than_systemds_limit() {
    // Contract: U3
    let Some(rig) = Rig::new() else { return };
    rig.configure(&["slow-start", "--for", "2500ms", "--listen", "app.sock"], SERVING);
    rig.install(&format!("{NOTIFY}TimeoutStartSec=1\n"));
    rig.start();
    rig.assert_state("active/running/success/0");
    rig.stop_well();
}

#[test]
fn the_watchdog_is_pinged_throughout_fifty_upgrades() {
    // Contract: U4
    let Some(rig) = Rig::new() else { return };
    rig.install(&format!("{NOTIFY}WatchdogSec=4\nRestart=on-failure\n"));
    rig.start();
    let probe = rig.ask();
    for _ in 0..50 {
        rig.flip();
    }
    // Two and a half times WatchdogSec=, with no messages but those of the watchdog.
    let until = Deadline::after(std::time::Duration::from_secs(10));
    wait_until(Deadline::default(), "two and a half times of the watchdog", || {
        until.has_expired().then_some(())
    });
    rig.assert_state("active/running/success/0");
    probe.finish().assert_no_failures();
    assert_no_doubts(&rig);
    rig.stop_well();
}

#[test]
fn a_psflip_that_hangs_is_killed_by_the_watchdog_and_restarted() {
    // Contract: C7
    let Some(rig) = Rig::new() else { return };
    rig.install(&format!("{NOTIFY}WatchdogSec=3\nRestart=on-failure\n"));
    rig.start();
    let old = rig.flip();
    let all = rig.machine.processes(APP);
    old.signal(Signal::SIGSTOP).unwrap();
    rig.machine.wait_property(APP, "NRestarts", 1);
    rig.wait_gone(old);
    rig.machine.wait_journal(APP, "Watchdog timeout");
    rig.machine.wait_property(APP, "ActiveState", "active");
    rig.wait_main();
    assert!(all.iter().all(|process| !process.is_alive()), "{all:?}");
    rig.stop_well();
}

#[test]
fn the_child_gets_no_variable_that_systemd_set_for_psflip() {
    // Contract: C3
    let Some(rig) = Rig::new() else { return };
    rig.configure(&["introspect", "--hold"], AT_ONCE);
    rig.install(&format!("{NOTIFY}WatchdogSec=30\n"));
    rig.start();
    for generation in 1..=2 {
        let child = rig.wait_main().children()[0].children()[0];
        wait_until(Deadline::default(), "the child's environment", || child.env("PSFLIP_GENERATION"));
        for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID"] {
            assert_eq!(child.env(name), None, "generation {generation}: {name}");
        }
        rig.flip();
    }
    rig.stop_well();
}
