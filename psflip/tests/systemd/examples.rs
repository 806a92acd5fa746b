//! The units of `examples/systemd`: systemd accepts them without warnings, they are as restricted as
//! docs/systemd.md says, and they run.

use std::fs;
use std::path::{Path, PathBuf};

use testkit::Sandbox;
use testkit::systemd::Machine;

use crate::rig::{Rig, SERVING};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/systemd")
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

/// The highest allowed score of `systemd-analyze security`, from 0 (restricted) to 10 (unrestricted), as
/// docs/systemd.md states it.
const SCORES: &[(&str, f64)] =
    &[("app.service", 9.2), ("psflip@.service", 1.4), ("psflip-upgrade@.service", 4.5)];

#[test]
fn systemd_analyze_accepts_the_units() {
    let sandbox = Sandbox::new();
    let Some(machine) = Machine::boot_release(&sandbox, crate::RELEASE) else { return };
    let psflip = testkit::psflip_bin();
    assert!(machine.run(["install".into(), psflip, "/usr/bin/psflip".into()]).status.success());
    for entry in fs::read_dir(folder()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        // A template is checked as one of its instances.
        let instance = name.replace("@.", "@app.");
        let path = sandbox.write(&instance, text(&name));
        let verify =
            ["env", "SYSTEMD_UNIT_PATH=/lib/systemd/system", "systemd-analyze", "verify", "--man=no"];
        let ran = machine.run(verify.map(Into::into).into_iter().chain([path]));
        assert!(ran.status.success() && ran.stderr.is_empty(), "{name}: {ran:?}");
    }
    // Proves that this check can fail.
    let path = sandbox.write("bad.service", "[Service]\nExecStart=/usr/bin/psflip\nKilMode=mixed\n");
    let ran = machine.run(["systemd-analyze".into(), "verify".into(), "--man=no".into(), path]);
    assert!(ran.stderr.contains("Unknown key 'KilMode'"), "{ran:?}");
}

#[test]
fn the_units_are_as_restricted_as_documented() {
    let sandbox = Sandbox::new();
    let Some(machine) = Machine::boot_release(&sandbox, crate::RELEASE) else { return };
    let names: Vec<String> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".service"))
        .collect();
    assert_eq!(names.len(), SCORES.len(), "{names:?}");
    let documentation = fs::read_to_string(folder().join("../../docs/systemd.md")).unwrap();
    for (name, most) in SCORES {
        let path = sandbox.write(name, text(name));
        let args = ["systemd-analyze", "security", "--offline=true", "--no-pager"];
        let shown = machine.run(args.map(Into::into).into_iter().chain([path])).stdout;
        let level = shown.rsplit_once("exposure level for ").and_then(|(_, rest)| rest.split(' ').nth(1));
        let level: f64 = level.unwrap_or_else(|| panic!("{shown}")).parse().unwrap();
        assert!(level <= *most, "{name}: {level}\n{shown}");
        assert!(
            documentation.contains(&format!("`{name}` | {most}")),
            "{name} | {most} is not in docs/systemd.md"
        );
    }
}

/// The service starts, is upgraded under load, survives a failed upgrade, is restarted after a crash, and
/// stops.
#[track_caller]
fn runs(rig: &Rig) {
    let probe = {
        rig.start();
        rig.ask()
    };
    for _ in 0..5 {
        rig.flip();
        probe.wait_requests(5);
    }
    rig.configure(&["/usr/bin/crash-on-init", "--code", "3"], SERVING);
    rig.fails_to_reload("exit code 3");
    rig.configure_well();
    rig.flip();
    rig.assert_state("active/running/success/0");
    probe.finish().assert_no_failures();
    rig.stop_well();
}

#[test]
fn the_template_runs_a_service_with_a_user_of_its_own() {
    // Contract: U4, U8, U10
    let Some(rig) = Rig::installed("psflip@app.service", "/run/psflip/app", "/etc/psflip/app.toml") else {
        return;
    };
    rig.machine.unit("psflip@.service", text("psflip@.service"));
    runs(&rig);
}

#[test]
fn all_instances_of_the_template_are_upgraded_by_one_command_although_each_has_its_own_user() {
    // Contract: O6
    let sandbox = Sandbox::new();
    let Some(machine) = Machine::boot_release(&sandbox, crate::RELEASE) else { return };
    let psflip = testkit::psflip_bin();
    assert!(machine.run(["install".into(), psflip, "/usr/bin/psflip".into()]).status.success());
    machine.unit("psflip@.service", text("psflip@.service"));
    let run = |script: &str| machine.run(["sh", "-e", "-c", script]);
    let config = "cmd = [\"/bin/sleep\", \"infinity\"]\n[healthcheck.alive]\ntimeout = \"10ms\"\n";
    let ran = run(&format!(
        "mkdir -p /etc/psflip; for one in api web; do printf '{}' > /etc/psflip/$one.toml; done; systemctl start psflip@api psflip@web",
        config.replace('\n', "\\n")
    ));
    assert!(ran.status.success(), "{ran:?}");
    let ran = run("psflip upgrade 'psflip@*' --wait drained");
    assert!(ran.status.success(), "{ran:?}");
    for part in [
        "[1/2] psflip@api.service: generation 2 is active",
        "[2/2] psflip@web.service: generation 2 is active",
        "2 of 2 services upgraded",
    ] {
        assert!(ran.stdout.contains(part), "{part} is missing: {ran:?}");
    }
    // Other names than those of units are chosen by the services themselves.
    let ran = run("psflip upgrade '*.toml' || test $? = 125");
    assert!(ran.stderr.contains("no service of this user matches `*.toml`"), "{ran:?}");
    assert!(run("systemctl stop psflip@api psflip@web").status.success());
}

#[test]
fn the_plain_unit_runs() {
    // Contract: U4, U8, U10
    let Some(rig) = Rig::installed("plain.service", "/run/app", "/etc/app/psflip.toml") else { return };
    rig.machine.unit("plain.service", text("app.service"));
    runs(&rig);
}

#[test]
fn the_path_unit_upgrades_after_each_deployment() {
    // Contract: U4, U7
    let Some(rig) = Rig::installed("psflip@app.service", "/run/psflip/app", "/etc/psflip/app.toml") else {
        return;
    };
    for name in ["psflip@.service", "psflip-upgrade@.path", "psflip-upgrade@.service"] {
        rig.machine.unit(name, text(name));
    }
    let run = |line: &str| {
        let ran = rig.machine.run(["sh", "-ec", line]);
        assert!(ran.status.success(), "{line}: {ran:?}");
    };
    run("mount -t tmpfs srv /srv && mkdir /srv/app"); // the machine shares the host's files
    let first = rig.start();
    let path = "psflip-upgrade@app.path";
    rig.machine.systemctl(["start", path]).unwrap();
    rig.machine.wait_property(path, "SubState", "waiting");
    run("echo 2 > /srv/app/RELEASE");
    let second = rig.wait_flipped(first);
    rig.machine.wait_property(path, "SubState", "waiting");
    rig.configure_well(); // by rename
    let third = rig.wait_flipped(second);
    rig.machine.wait_property(path, "SubState", "waiting");
    rig.configure(&["/usr/bin/crash-on-init", "--code", "3"], SERVING);
    rig.machine.wait_journal("psflip@app.service", "upgrade failed; the old child keeps running");
    assert_eq!(rig.wait_main(), third);
    rig.machine.systemctl(["stop", path]).unwrap();
    rig.stop_well();
}
