//! Bakes under systemd (`upgrade.bake`): `systemctl reload` returns when the new generation has the traffic, and until
//! the bake is over systemd's main process is the old psflip, whatever happens to the new one.

use std::path::Path;

use testkit::client::http::HttpClient;
use testkit::systemd::inner_pid_of;
use testkit::{AvailabilityProbe, Deadline, Process, Signal, wait_until};

use crate::rig::{APP, Rig};

/// As in `examples/systemd/app.service`, with what the reload waits for.
fn unit(rig: &Rig, more: &str) -> String {
    let psflip = rig.path("bin/psflip").display().to_string();
    let socket = rig.path("psflip.pid.sock").display().to_string();
    format!(
        "Type=notify\nNotifyAccess=main\nKillMode=mixed\nRestart=on-failure\nSuccessExitStatus=SIGTERM\n\
         ExecReload={psflip} upgrade --socket {socket} {more}\n"
    )
}

/// The shop of the end-to-end tests behind a proxy: `release.json` says how the next release fails.
#[track_caller]
fn configure(rig: &Rig, bake: &str, faults: &str) {
    let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/servers/proxied/apps/shop.js");
    std::fs::copy(app, rig.path("shop.js")).unwrap();
    rig.sandbox.write("release.json", format!("{{ \"name\": \"a\"{faults} }}"));
    let folder = rig.sandbox.dir().display();
    let rest = format!(
        "[upgrade]\nbake = \"{bake}\"\n[healthcheck.http]\nurl = \"/up\"\ninterval = \"20ms\"\n\
         [env]\nPORT = \"own-{{{{ blue_green() }}}}.sock\"\n\
         [[proxy]]\nlisten = \"unix://{folder}/app.sock\"\n\
         forward = \"unix://{folder}/own-{{{{ blue_green() }}}}.sock\"\n\
         protocol = \"http\"\n"
    );
    rig.configure(&["/usr/bin/env", "node", "shop.js"], &rest);
}

/// A machine with this unit. `None`: none can be booted, or Node is not installed.
#[track_caller]
fn start(more: &str) -> Option<(Rig, Process)> {
    testkit::need("node")?;
    let rig = Rig::new()?;
    configure(&rig, "1h", "");
    rig.install(&unit(&rig, more));
    let old = rig.start();
    Some((rig, old))
}

/// Clients that read pages.
fn pages(rig: &Rig) -> AvailabilityProbe {
    let socket = rig.path("app.sock");
    let probe = AvailabilityProbe::start(2, |number| {
        let client = HttpClient::unix(&socket);
        let mut client = if number == 0 { client.keep_alive() } else { client };
        move || client.get("/")?.tag("release")
    });
    probe.wait_requests(10);
    probe
}

/// Orders until the release notices that it fails.
#[track_caller]
fn order_until_it_is_broken(rig: &Rig) {
    let mut client = HttpClient::unix(rig.path("app.sock"));
    wait_until(Deadline::default(), "three orders to fail", || {
        (client.post("/order", b"x").ok()?.status == 500).then_some(())
    });
    for _ in 0..4 {
        let _ = client.post("/order", b"x"); // the roll-back may have begun
    }
}

/// The old psflip is the main process of an active service, now.
#[track_caller]
fn is_main(rig: &Rig, psflip: Process) {
    assert_eq!(rig.show()["MainPID"], inner_pid_of(psflip).unwrap().to_string());
    rig.assert_state("active/running/success/0");
    assert_eq!(Some(rig.active_pid()), inner_pid_of(psflip));
}

/// Waits until the status has this text, and returns it.
#[track_caller]
fn wait_status(rig: &Rig, text: &str) -> String {
    wait_until(Deadline::default(), format!("`{text}` in the status"), || {
        Some(rig.machine.property(APP, "StatusText")).filter(|status| status.contains(text))
    })
}

/// The psflip that bakes.
#[track_caller]
fn baking(rig: &Rig, old: Process) -> Process {
    let by_systemd = |process: &Process| {
        process.stat().is_some_and(|stat| stat.name == "psflip" && stat.parent == rig.machine.init().pid())
    };
    wait_until(Deadline::default(), "the psflip that bakes", || {
        rig.machine.processes(APP).into_iter().find(|process| *process != old && by_systemd(process))
    })
}

#[test]
fn a_reload_returns_at_the_bake_and_a_roll_back_changes_nothing_for_systemd() {
    // Contract: B1, B2, B3, U8
    let Some((rig, old)) = start("") else { return };
    let probe = pages(&rig);
    let mut before = rig.machine.processes(APP);
    before.sort_unstable_by_key(Process::pid);
    configure(&rig, "1h", ", \"failsAfter\": 0");
    rig.machine.systemctl(["reload", APP]).unwrap();
    is_main(&rig, old);
    let status = wait_status(&rig, "generation 2 has the traffic and bakes until ");
    assert!(status.contains("`psflip rollback` goes back") && status.contains("generation 1, "), "{status}");
    order_until_it_is_broken(&rig);
    let status = wait_status(&rig, "last upgrade rolled back: the health check failed");
    assert!(status.starts_with("generation 1, ") && status.contains("status 503"), "{status}");
    is_main(&rig, old);
    wait_until(Deadline::default(), "the new generation to be gone", || {
        let mut now = rig.machine.processes(APP);
        now.sort_unstable_by_key(Process::pid);
        (now == before).then_some(())
    });
    // An operator, killed processes.
    for cause in ["rollback", "SIGKILL", "SIGTERM"] {
        rig.machine.systemctl(["reload", APP]).unwrap();
        let new = baking(&rig, old);
        if let Ok(signal) = cause.parse::<Signal>() {
            new.signal(signal).unwrap();
        } else {
            let socket = rig.path("psflip.pid.sock");
            let args = [rig.path("bin/psflip"), cause.into(), "--socket".into(), socket];
            let ran = rig.machine.run(args);
            assert!(ran.status.success(), "{ran:?}");
        }
        rig.wait_gone(new);
        wait_status(&rig, "last upgrade rolled back: ");
        is_main(&rig, old);
    }
    probe.wait_requests(10);
    let report = probe.finish();
    // Only the kill may cost what the child had.
    assert!(report.failures.len() <= 4, "{report}");
    rig.stop_well();
}

#[test]
fn a_reload_that_waits_for_the_bake_fails_with_a_roll_back() {
    // Contract: B3, B7, U8
    let Some((rig, old)) = start("--wait baked") else { return };
    let probe = pages(&rig);
    configure(&rig, "1h", ", \"failsAfter\": 0");
    let reload = rig.machine.reload(APP);
    wait_status(&rig, "generation 2 has the traffic and bakes until ");
    order_until_it_is_broken(&rig);
    assert!(!reload.wait_exit().success());
    is_main(&rig, old);
    configure(&rig, "200ms", "");
    rig.machine.systemctl(["reload", APP]).unwrap();
    let new = rig.wait_main();
    assert_ne!(new, old);
    rig.assert_state("active/running/success/0");
    probe.wait_requests(10);
    probe.finish().assert_no_failures();
    rig.wait_gone(old);
    rig.stop_well();
}

#[test]
fn a_stop_in_a_bake_stops_both_generations() {
    // Contract: B5, F11
    let Some((rig, old)) = start("") else { return };
    rig.machine.systemctl(["reload", APP]).unwrap();
    is_main(&rig, old);
    rig.stop_well();
    assert_eq!(rig.said("SIGKILL").len(), 0, "{:#?}", rig.journal());
}

#[test]
fn a_psflip_that_is_killed_in_a_bake_is_restarted_with_the_new_release() {
    // Contract: C7, F8
    // systemd stops the unit with its main process, so the new generation can't go on alone (B4).
    let Some((rig, old)) = start("") else { return };
    rig.machine.systemctl(["reload", APP]).unwrap();
    let all = rig.machine.processes(APP);
    old.signal(Signal::SIGKILL).unwrap();
    rig.machine.wait_property(APP, "NRestarts", 1);
    rig.machine.wait_property(APP, "ActiveState", "active");
    rig.wait_main();
    assert!(all.iter().all(|process| !process.is_alive()), "{all:?}");
    pages(&rig).finish().assert_no_failures();
    rig.stop_well();
}
