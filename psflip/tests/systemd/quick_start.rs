//! `docs/quickstart/systemd.md`, pasted into a shell. The other quick starts are pasted in
//! `psflip/tests/e2e/quickstart.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use testkit::systemd::Machine;
use testkit::{Sandbox, psflip_bin};

use crate::ports::Reserved;

#[test]
fn quick_start_of_systemd() {
    // Contract: U4, U8, U10, O1
    if ["curl", "/usr/bin/python3"].iter().any(|program| testkit::need(program).is_none()) {
        return;
    }
    let sandbox = Sandbox::new();
    let Some(machine) = Machine::boot_release(&sandbox, crate::RELEASE) else { return };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    symlink(fs::canonicalize(root.join("examples")).unwrap(), sandbox.path("examples")).unwrap();
    let page = fs::read_to_string(root.join("docs/quickstart/systemd.md")).unwrap();
    let blocks = page.split("```sh\n").skip(1).map(|rest| rest.split("```\n").next().unwrap());
    let port = Reserved::new();
    // The machine has its units in a folder of its own.
    let script = blocks
        .collect::<String>()
        .replace("8080", &port.port().to_string())
        .replace("/etc/systemd/system", "$SYSTEMD_UNIT_PATH");
    let (folder, here) = (psflip_bin().parent().unwrap().display().to_string(), sandbox.dir().display());
    let script = format!("cd {here}\nPATH={folder}:$PATH\n{script}");
    let ran = machine.run(["sh", "-e", "-c", &script]);
    let journal = || machine.journal("psflip@hello.service");
    assert!(ran.status.success(), "{ran:?}\n{:#?}", journal());
    let answers: Vec<&str> = ran.stdout.lines().filter(|line| line.starts_with("version ")).collect();
    // The second may still be the old version's, which accepts until it gets its stop signal.
    assert!(answers.len() == 3 && answers[0] == "version 1", "{ran:?}\n{:#?}", journal());
    for part in ["refused\nversion 2\n", "serving   generation 2"] {
        assert!(ran.stdout.contains(part), "`{part}` is missing: {ran:?}\n{:#?}", journal());
    }
    assert_eq!(machine.property("psflip@hello.service", "ActiveState"), "inactive");
    assert!(machine.processes("psflip@hello.service").is_empty());
}
