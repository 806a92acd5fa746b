//! The service manager of an unprivileged user, as `systemctl --user` talks to it.

use crate::rig::{APP, Rig, SERVING};

#[test]
fn a_service_of_an_unprivileged_user_follows_every_upgrade() {
    // Contract: U4, U8, U10, C7
    let Some(mut rig) = Rig::installed(APP, "/run/testkit-user", "/etc/app/psflip.toml") else { return };
    rig.machine.start_user_manager(12345);
    let start = "/usr/bin/psflip run -c /etc/app/psflip.toml";
    let reload = "/usr/bin/psflip upgrade --socket /run/testkit-user/psflip.pid.sock";
    let common = "Type=notify\nNotifyAccess=main\nKillMode=mixed\nRestart=on-failure\n";
    rig.install(&format!("{common}ExecStart={start}\nExecReload={reload}\n"));
    rig.start();
    let probe = rig.ask();
    for _ in 0..10 {
        rig.flip();
        probe.wait_requests(5);
    }
    rig.configure(&["/usr/bin/crash-on-init", "--code", "3"], SERVING);
    rig.fails_to_reload("exit code 3");
    rig.configure_well();
    let old = rig.flip();
    assert_eq!(old.status_field("Uid").unwrap().split_whitespace().next(), Some("12345"));
    probe.finish().assert_no_failures();
    rig.assert_journal_has_generations(10);

    let tree = rig.machine.processes(APP);
    old.signal(testkit::Signal::SIGKILL).unwrap();
    rig.machine.wait_property(APP, "NRestarts", 1);
    rig.machine.wait_property(APP, "ActiveState", "active");
    assert!(tree.iter().all(|process| !process.is_alive()), "{tree:?}");
    rig.stop_well();
}
