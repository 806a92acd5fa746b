//! A machine is a real systemd, and nothing of it stays.

use std::collections::BTreeMap;
use std::process::Command;

use psflip_testkit::systemd::{Machine, Release, cgroup, inner_pid_of};
use psflip_testkit::{Deadline, Process, Sandbox, Signal, wait_until};

const SLEEPER: &str = "[Service]\nExecStart=sleep 1000\nExecStartPre=echo about to sleep\n";

#[test]
fn a_unit_starts_is_visible_from_outside_and_stops() {
    let sandbox = Sandbox::new();
    let Some(machine) = Machine::boot(&sandbox) else { return };
    machine.unit("sleeper.service", SLEEPER);
    machine.systemctl(["start", "sleeper"]).unwrap();
    let state = machine.properties("sleeper", &["ActiveState", "SubState"]);
    let wanted =
        [("ActiveState", "active"), ("SubState", "running")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(state, BTreeMap::from(wanted));

    let main = machine.main_process("sleeper").unwrap();
    assert_eq!(main.cmdline().unwrap(), ["sleep", "1000"]);
    assert_eq!(machine.property("sleeper", "MainPID"), inner_pid_of(main).unwrap().to_string());
    assert_eq!(machine.processes("sleeper"), [main]);
    assert_eq!(machine.wait_journal("sleeper", "about to sleep").identifier, "echo");

    machine.systemctl(["stop", "sleeper"]).unwrap();
    machine.wait_property("sleeper", "ActiveState", "inactive");
    assert!(!main.is_alive());
    assert_eq!(machine.processes("sleeper"), []);
    let error = machine.systemctl(["start", "nobody"]).unwrap_err();
    assert!(error.contains("Unit nobody.service not found"), "{error}");
}

#[test]
fn writes_of_a_machine_do_not_reach_the_host() {
    let sandbox = Sandbox::new();
    let Some(machine) = Machine::boot(&sandbox) else { return };
    let name = sandbox.id();
    for folder in ["/etc", "/usr/bin", "/var/lib", "/run"] {
        let path = format!("{folder}/{name}");
        assert!(machine.run(["touch", &path]).status.success());
        assert!(machine.run(["test", "-e", &path]).status.success());
        assert!(!std::path::Path::new(&path).exists(), "{path} is seen from outside");
    }
    let shared = sandbox.path("shared");
    assert!(machine.run(["touch", shared.to_str().unwrap()]).status.success());
    assert!(shared.exists());
    assert!(!machine.run(["touch", "/proc/sys/kernel/panic"]).status.success());
    assert_eq!(machine.run(["hostname"]).stdout, "testkit\n");
    assert_ne!(Command::new("hostname").output().unwrap().stdout, b"testkit\n");
}

#[test]
fn two_machines_are_isolated_and_leave_nothing() {
    let sandboxes = [Sandbox::new(), Sandbox::new()];
    let machines: Vec<_> = sandboxes.iter().filter_map(Machine::boot).collect();
    let [one, two] = machines.as_slice() else { return };
    one.unit("sleeper.service", SLEEPER);
    one.systemctl(["start", "sleeper"]).unwrap();
    assert!(two.systemctl(["status", "sleeper"]).is_err());
    let (main, inits) = (one.main_process("sleeper").unwrap(), [one.init(), two.init()]);
    let groups = machines_of_this_test();
    assert_eq!(groups.len(), 2);
    drop(machines);
    assert!(!main.is_alive() && inits.iter().all(|init| !init.is_alive()));
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
}

/// The control groups of machines whose supervisor is this process's child.
fn machines_of_this_test() -> Vec<std::path::PathBuf> {
    let children: Vec<_> =
        Process::current().children().iter().map(|child| format!("-{}-", child.pid())).collect();
    let entries = std::fs::read_dir(cgroup::hierarchy().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let is_ours = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with("testkit-systemd-") && children.iter().any(|child| name.contains(child))
    };
    entries.filter(is_ours).collect()
}

#[test]
fn nothing_is_left_if_the_supervisor_or_the_sandbox_exits_first() {
    let sandbox = Sandbox::new();
    let Some(machine) = Machine::boot(&sandbox) else { return };
    let (init, groups) = (machine.init(), machines_of_this_test());
    drop(sandbox);
    assert!(!init.is_alive());
    drop(machine);
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");

    // Killed by force: the kernel ends the machine, and the next one removes the group.
    let sandbox = Sandbox::new();
    let machine = Machine::boot(&sandbox).unwrap();
    let (init, groups) = (machine.init(), machines_of_this_test());
    let supervisor = init.parent().unwrap();
    supervisor.signal(Signal::SIGKILL).unwrap();
    wait_until(Deadline::default(), "the machine to stop", || (!init.is_alive()).then_some(()));
    let complaint = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(machine))).unwrap_err();
    assert!(complaint.downcast::<String>().unwrap().contains("could not be removed"));
    drop(Machine::boot(&sandbox));
    assert!(groups.iter().all(|group| !group.exists()), "{groups:?}");
}

#[test]
fn a_newer_systemd_runs_beside_the_files_of_the_host() {
    let sandbox = Sandbox::new();
    let Some(machine) = Machine::boot_release(&sandbox, Release::Newer) else { return };
    let other = Sandbox::new();
    let Some(installed) = Machine::boot(&other) else { return };
    let version = |machine: &Machine| -> u32 {
        let text = machine.systemctl(["show", "--property=Version", "--value"]).unwrap();
        text.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    // What the tests of psflip that ask for it want: `Type=notify-reload` came with 253, and 257 with what they look at.
    assert!(version(&machine) >= 257 && version(&machine) > version(&installed));
    machine.unit("hello.service", "[Service]\nType=oneshot\nExecStart=/bin/echo hello\n");
    machine.systemctl(["start", "hello"]).unwrap();
    machine.wait_journal("hello.service", "hello");
}
