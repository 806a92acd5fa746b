//! The recommended unit, whose reload is `psflip upgrade`: `systemctl reload` returns once the outcome is
//! known, and reports it.

use std::fs;

use testkit::systemd::inner_pid_of;
use testkit::{Deadline, Process, Signal, wait_until};

use crate::rig::{APP, AT_ONCE, Rig, SERVER, SERVING};

/// As in `examples/systemd/app.service`.
fn recommended(rig: &Rig) -> String {
    let reload = format!(
        "{} upgrade --socket {}",
        rig.path("bin/psflip").display(),
        rig.path("psflip.pid.sock").display()
    );
    format!(
        "Type=notify\nNotifyAccess=main\nKillMode=mixed\nWatchdogSec=10\nRestart=on-failure\nSuccessExitStatus=SIGTERM\nExecReload={reload}\n"
    )
}

/// The assertions that must hold as soon as a reload has returned, without waiting.
#[track_caller]
fn assert_serves(rig: &Rig, psflip: Option<u32>) -> u32 {
    let (shown, active) = (rig.show(), rig.active_pid());
    assert_eq!(shown["MainPID"], active.to_string(), "{shown:?}");
    assert_eq!((shown["ActiveState"].as_str(), shown["NRestarts"].as_str()), ("active", "0"), "{shown:?}");
    if let Some(psflip) = psflip {
        assert_eq!(active, psflip);
    }
    active
}

#[test]
fn fifty_reloads_are_complete_when_they_return_and_ten_failures_are_reported() {
    // Contract: U4, U8, U10, P1
    let Some(rig) = Rig::new() else { return };
    rig.install(&recommended(&rig));
    rig.start();
    let probe = rig.ask();
    let mut active = rig.active_pid();
    for number in 1..=60 {
        if number % 6 == 0 {
            rig.configure(&["crash-on-init", "--code", "3"], SERVING);
            let error = rig.machine.systemctl(["reload", APP]).unwrap_err();
            assert!(error.contains("Job for app.service failed"), "{error}");
            assert_serves(&rig, Some(active));
            rig.configure_well();
        } else {
            rig.machine.systemctl(["reload", APP]).unwrap();
            let new = assert_serves(&rig, None);
            assert_ne!(new, active);
            active = new;
        }
        probe.wait_requests(5);
    }
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.len(), 51, "{report}");
    rig.wait_main();
    rig.assert_state("active/running/success/0");
    rig.stop_well();
}

/// A reload that must fail: its new generation hangs before it is healthy, until `cause` acts. Returns
/// systemctl's output.
#[track_caller]
fn fails_by(rig: &Rig, old: Process, cause: impl FnOnce(Process)) {
    rig.configure(
        &["never-ready"],
        "[upgrade]\ntimeout = \"1h\"\n[shutdown]\ntimeout = \"100ms\"\n[healthcheck.unix]\npath = \"other.sock\"\n",
    );
    let reload = rig.machine.reload(APP);
    cause(wait_coming(rig, old));
    let status = reload.wait_exit();
    assert!(!status.success(), "{}", reload.stderr());
    assert_serves(rig, inner_pid_of(old));
}

/// The new psflip, once its child exists.
#[track_caller]
fn wait_coming(rig: &Rig, old: Process) -> Process {
    wait_until(Deadline::default(), "the new psflip and its child", || {
        let by_systemd = |process: &Process| {
            let stat = process.stat();
            stat.is_some_and(|stat| stat.name == "psflip" && stat.parent == rig.machine.init().pid())
        };
        // The reload command is a psflip, too, but has no keeper.
        let all = rig.machine.processes(APP).into_iter();
        let mut psflips = all.filter(|process| *process != old && by_systemd(process));
        psflips.find(|new| child_of(*new).is_some_and(runs_never_ready))
    })
}

fn child_of(psflip: Process) -> Option<Process> {
    psflip.children().first()?.children().first().copied()
}

fn runs_never_ready(process: Process) -> bool {
    process.cmdline().is_ok_and(|line| line.first().is_some_and(|name| name.ends_with("never-ready")))
}

#[test]
fn every_failure_fails_the_reload_with_its_reason_only() {
    // Contract: F1, F2, F3, F4, F6, U8
    let Some(rig) = Rig::new() else { return };
    rig.install(&recommended(&rig));
    let old = rig.start();
    let probe = rig.ask();
    let fails = |why: &str| {
        rig.fails_to_reload(why);
        let shown = rig.machine.run(["systemctl", "status", "--no-pager", "--full", APP]).stdout;
        assert!(shown.contains("active (running)") && shown.contains("last upgrade failed: "), "{shown}");
        let status = rig.machine.property(APP, "StatusText");
        assert!(status.contains(why), "{status}");
    };
    rig.write_config("cmd = 1\n");
    fails("the configuration is invalid");
    for (argv, why) in [
        (&["crash-on-init", "--code", "3"][..], "exit code 3"),
        (&["crash-on-init", "--code", "0"], "exit code 0"),
        (&["crash-on-init", "--signal", "ABRT"], "SIGABRT"),
        (&["no-such-program/x"], "can't execute"),
    ] {
        rig.configure(argv, SERVING);
        fails(why);
    }
    rig.configure(
        &["never-ready"],
        "[upgrade]\ntimeout = \"300ms\"\n[healthcheck.unix]\npath = \"other.sock\"\n",
    );
    fails("was not healthy within");
    rig.configure(
        &["never-ready"],
        &format!("[hooks]\npromote = [\"sh\", \"-c\", \"echo no room >&2; exit 1\"]\n{AT_ONCE}"),
    );
    fails("no room");
    rig.configure_well();

    // The reload needs the real program, so it gets another path.
    let (exe, away) = (rig.path("bin/psflip"), rig.path("bin/away"));
    rig.install(&recommended(&rig).replace("bin/psflip upgrade", "bin/away upgrade"));
    fs::rename(&exe, &away).unwrap();
    fails("can't execute psflip again");
    for other in ["/bin/true", "/bin/sleep"] {
        std::os::unix::fs::symlink(other, &exe).unwrap();
        fails("exited without a reason");
        fs::remove_file(&exe).unwrap();
    }
    fs::rename(&away, &exe).unwrap();
    rig.install(&recommended(&rig));

    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        fails_by(&rig, old, |new| new.signal(signal).unwrap());
        fails_by(&rig, old, |new| child_of(new).unwrap().signal(signal).unwrap());
    }
    rig.configure_well();
    rig.machine.systemctl(["reload", APP]).unwrap();
    assert_ne!(Some(assert_serves(&rig, None)), inner_pid_of(old));
    probe.finish().assert_no_failures();
    rig.wait_main();
    rig.stop_well();
}

#[test]
fn a_new_psflip_that_hangs_fails_the_reload_at_its_deadline() {
    // Contract: F5, U8
    let Some(rig) = Rig::new() else { return };
    rig.install(&recommended(&rig));
    let old = rig.start();
    rig.configure(
        &["never-ready"],
        // Time for the test to find the new psflip: it must be stopped before it gives up by itself.
        "[upgrade]\ntimeout = \"3s\"\n[shutdown]\ntimeout = \"0s\"\n[healthcheck.unix]\npath = \"other.sock\"\n",
    );
    let reload = rig.machine.reload(APP);
    wait_coming(&rig, old).signal(Signal::SIGSTOP).unwrap();
    assert!(!reload.wait_exit().success());
    assert_serves(&rig, inner_pid_of(old));
    assert!(!rig.said("so it is killed").is_empty(), "{:#?}", rig.journal());
    rig.stop_well();
}

#[test]
fn an_old_child_that_dies_during_a_reload_is_replaced_by_the_new_one() {
    // Contract: F7
    let Some(rig) = Rig::new() else { return };
    rig.install(&recommended(&rig));
    let old = rig.start();
    rig.configure(SERVER, "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"go\"]\ninterval = \"20ms\"\n");
    let reload = rig.machine.reload(APP);
    rig.machine.wait_journal(APP, "generation 2: child started");
    child_of(old).unwrap().signal(Signal::SIGKILL).unwrap();
    rig.machine.wait_journal(APP, "the child exited during an upgrade");
    rig.sandbox.write("go", "");
    assert!(reload.wait_exit().success(), "{}", reload.stderr());
    assert_ne!(Some(assert_serves(&rig, None)), inner_pid_of(old));
    rig.stop_well();
}

#[test]
fn a_reload_may_take_longer_than_systemds_limit() {
    // Contract: U3
    let Some(rig) = Rig::new() else { return };
    rig.configure(&["slow-start", "--for", "2500ms", "--listen", "app.sock"], SERVING);
    rig.install(&format!("{}TimeoutStartSec=1\n", recommended(&rig)));
    rig.start();
    let old = rig.active_pid();
    rig.machine.systemctl(["reload", APP]).unwrap();
    assert_ne!(assert_serves(&rig, None), old);
    rig.stop_well();
}

#[test]
fn a_stop_during_a_reload_stops_both() {
    // Contract: S5, F11
    for kill_mode in ["mixed", "control-group"] {
        let Some(rig) = Rig::new() else { return };
        rig.install(&format!("{}KillMode={kill_mode}\n", recommended(&rig)));
        let old = rig.start();
        rig.configure(&["never-ready"], "[healthcheck.unix]\npath = \"other.sock\"\n");
        let reload = rig.machine.reload(APP);
        wait_coming(&rig, old);
        rig.stop_well();
        assert!(!reload.wait_exit().success(), "nothing was upgraded");
    }
}

#[test]
fn two_reloads_at_once_are_two_upgrades_at_most_and_both_succeed() {
    // Contract: U7
    let Some(rig) = Rig::new() else { return };
    rig.install(&recommended(&rig));
    rig.start();
    let probe = rig.ask();
    let reloads = [rig.machine.reload(APP), rig.machine.reload(APP)];
    for reload in reloads {
        assert!(reload.wait_exit().success(), "{}", reload.stderr());
    }
    assert_serves(&rig, None);
    let count = rig.said("healthy, active").len();
    assert!((2..=3).contains(&count), "{count} generations");
    probe.finish().assert_no_failures();
    rig.wait_main();
    rig.stop_well();
}
