//! Units of `Type=notify-reload` (since 253): systemd itself sends SIGHUP, and waits for psflip's
//! notification of the outcome.

use testkit::systemd::inner_pid_of;
use testkit::{Deadline, wait_until};

use crate::rig::{APP, Rig, SERVING};

#[test]
fn reloads_are_complete_when_they_return_and_a_failed_one_changes_nothing() {
    // Contract: U4, U8, U10, P1
    let Some(rig) = Rig::new() else { return };
    rig.install("Type=notify-reload\nNotifyAccess=main\nKillMode=mixed\nRestart=on-failure\n");
    let mut old = rig.start();
    let probe = rig.ask();
    for _ in 0..20 {
        rig.machine.systemctl(["reload", APP]).unwrap();
        let (shown, active) = (rig.show(), rig.active_pid());
        assert_eq!(shown["MainPID"], active.to_string(), "{shown:?}");
        assert_ne!(Some(active), inner_pid_of(old));
        old = rig.wait_main();
        probe.wait_requests(5);
    }
    // The protocol has no message for a failure, so `systemctl reload` succeeds all the same.
    rig.configure(&["crash-on-init", "--code", "3"], SERVING);
    rig.machine.systemctl(["reload", APP]).unwrap();
    assert_eq!(rig.wait_main(), old);
    rig.machine.wait_journal(APP, "upgrade failed; the old child keeps running");
    assert!(rig.machine.property(APP, "StatusText").contains("last upgrade failed: "));
    rig.assert_state("active/running/success/0");
    probe.finish().assert_no_failures();
    rig.stop_well();
}

#[test]
fn a_reload_returns_at_the_bake_and_the_main_process_changes_after_it() {
    // Contract: B1, B7
    let Some(rig) = Rig::new() else { return };
    let listen = format!("[[listen]]\naddress = \"unix://{}\"\n", rig.path("app.sock").display());
    let server = ["http-server", "--inherit", "listen_fds", "--linger", "50ms"];
    rig.configure(&server, &format!("{listen}[healthcheck.notify]\n[upgrade]\nbake = \"1h\"\n"));
    rig.install("Type=notify-reload\nNotifyAccess=main\nKillMode=mixed\nRestart=on-failure\n");
    let old = rig.start();
    let probe = rig.ask();
    let order = |order: &str| {
        let socket = rig.path("psflip.pid.sock").display().to_string();
        let args =
            [rig.path("bin/psflip").display().to_string(), order.to_owned(), "--socket".to_owned(), socket];
        assert!(rig.sandbox.command(args).start().wait_exit().success(), "psflip {order}");
    };
    let bakes = || {
        rig.machine.systemctl(["reload", APP]).unwrap();
        wait_until(Deadline::default(), "the status line to say that a generation bakes", || {
            rig.machine.property(APP, "StatusText").contains("bakes until").then_some(())
        });
        assert_eq!(rig.wait_main(), old);
    };
    bakes();
    order("rollback");
    rig.assert_state("active/running/success/0");
    assert_eq!(rig.wait_main(), old);
    bakes();
    order("keep");
    rig.wait_flipped(old);
    rig.assert_state("active/running/success/0");
    probe.finish().assert_no_failures();
    rig.stop_well();
}
