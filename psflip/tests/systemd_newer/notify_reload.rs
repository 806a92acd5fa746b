//! Units of `Type=notify-reload` (since 253): systemd itself sends SIGHUP, and waits for psflip's
//! notification of the outcome.

use testkit::systemd::inner_pid_of;

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
