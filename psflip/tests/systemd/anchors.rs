//! Whether psflip keeps an anchor, for each kind of unit. The units themselves say nothing about anchors.

use testkit::{Deadline, Process, Signal, wait_until};

use crate::rig::{APP, AT_ONCE, Rig};

/// The main process, once the service is healthy.
#[track_caller]
fn start(rig: &Rig) -> Process {
    rig.machine.systemctl(["start", APP]).unwrap();
    wait_until(Deadline::default(), "the first pidfile", || rig.pidfile().exists().then_some(()));
    rig.machine.main_process(APP).unwrap()
}

fn name(process: Process) -> String {
    process.stat().map(|stat| stat.name).unwrap_or_default()
}

/// The unit's commands, without options for the anchor.
fn unit(rig: &Rig, service: &str) -> String {
    let start = rig.psflip("run");
    format!("[Service]\nTimeoutStopSec=30\nExecStart={start}\nExecReload=/bin/kill -HUP $MAINPID\n{service}")
}

/// Upgrades under load, a failed upgrade, a crash and a stop of a unit whose main process stays.
#[track_caller]
fn keeps_its_main_process(service: &str) {
    let Some(rig) = Rig::new() else { return };
    rig.machine.unit(APP, unit(&rig, &format!("Restart=on-failure\n{service}")));
    let anchor = start(&rig);
    assert_eq!(name(anchor), "psflip: anchor");
    let line = rig.said("running below an anchor");
    assert!(line.len() == 1, "{line:?}");
    let probe = rig.ask();
    for _ in 0..5 {
        let old = rig.active_pid();
        rig.machine.systemctl(["reload", APP]).unwrap();
        wait_until(Deadline::default(), "the next generation, alone", || {
            (rig.active_pid() != old && rig.machine.processes(APP).len() == 4).then_some(())
        });
        assert_eq!(rig.machine.main_process(APP), Some(anchor));
        probe.wait_requests(10);
    }
    rig.write_config("cmd = 1\n");
    rig.machine.systemctl(["reload", APP]).unwrap();
    wait_until(Deadline::default(), "the failed upgrade", || {
        rig.said("upgrade failed; the old child keeps running").first().map(drop)
    });
    probe.wait_requests(10);
    probe.finish().assert_no_failures();
    rig.assert_state("active/running/success/0");
    rig.configure_well();
    let killed = rig.active_pid();
    rig.machine.process(killed).unwrap().signal(Signal::SIGKILL).unwrap();
    rig.machine.wait_property(APP, "NRestarts", "1");
    wait_until(Deadline::default(), "the restarted service, of which the pidfile is", || {
        let main = rig.machine.main_process(APP)?;
        // The killed one has left its pidfile.
        let is_up = rig.machine.processes(APP).len() == 4 && rig.active_pid() != killed;
        (main != anchor && is_up).then_some(())
    });
    rig.stop_well();
}

#[test]
fn a_simple_unit_keeps_its_main_process() {
    // Contract: A1, A2, A3
    keeps_its_main_process("Type=simple\n");
}

#[test]
fn an_exec_unit_keeps_its_main_process() {
    // Contract: A1, A2, A3
    keeps_its_main_process("Type=exec\nKillMode=mixed\n");
}

#[test]
fn notify_units_have_no_anchor() {
    // Contract: A1, U4
    let Some(rig) = Rig::new() else { return };
    for service in ["Type=notify\n", "Type=simple\nNotifyAccess=main\n", "Type=exec\nWatchdogSec=30\n"] {
        rig.configure_well();
        rig.machine.unit(APP, unit(&rig, service));
        let main = start(&rig);
        assert_eq!(name(main), "psflip", "{service}");
        rig.wait_main();
        for _ in 0..3 {
            rig.flip();
        }
        assert_eq!(rig.machine.processes(APP).len(), 3, "{service}");
        rig.stop_well();
    }
    let lines = rig.said("running without an anchor");
    assert!(lines.len() == 3, "{lines:?}");
    assert!(lines.iter().all(|line| line.message.contains("started by systemd")), "{lines:?}");
    assert!(rig.said("running below an anchor").is_empty());
}

#[test]
fn a_unit_whose_script_does_not_exec_has_an_anchor() {
    // Contract: A1
    let Some(rig) = Rig::new() else { return };
    rig.configure(&["never-ready"], AT_ONCE);
    let script = format!("/bin/sh -c '{}; exit $?'", rig.psflip("run"));
    rig.machine
        .unit(APP, format!("[Service]\nType=notify\nNotifyAccess=all\nKillMode=mixed\nExecStart={script}\n"));
    let shell = start(&rig);
    let anchor = shell.children()[0];
    assert_eq!(name(anchor), "psflip: anchor");
    for _ in 0..3 {
        let old = rig.active_pid();
        anchor.signal(Signal::SIGHUP).unwrap();
        wait_until(Deadline::default(), "the next generation, alone", || {
            (rig.active_pid() != old && rig.machine.processes(APP).len() == 5).then_some(())
        });
        assert_eq!(rig.machine.main_process(APP), Some(shell));
    }
    rig.assert_state("active/running/success/0");
    rig.machine.systemctl(["stop", APP]).unwrap();
    assert!(rig.machine.processes(APP).is_empty());
}
