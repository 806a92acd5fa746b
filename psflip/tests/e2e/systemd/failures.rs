//! Starts and upgrades that fail: the service manager gets the reason, and the service is `ready` again.

use testkit::{Stream, wait_until};

use super::*;
use crate::service::{UNTIL_FILE, freeze, kill, wait_coming};

/// An upgrade that fails. `cause` gets the old and the new psflip.
#[track_caller]
fn fails_by(managed: &Managed, reason: &str, cause: impl FnOnce(Process)) {
    let old = managed.psflip.active();
    let mark = managed.psflip.output().mark();
    managed.psflip.request_flip();
    cause(old);
    managed.psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed; the old child keeps running");
    let seen = managed.wait_believed("the reason", |seen| !seen.reloading && seen.status.contains(reason));
    assert_eq!(seen.main, old.pid(), "{seen:?}");
    assert!(seen.status.starts_with("generation 1, healthy since 20"), "{seen:?}");
    wait_until(testkit::Deadline::default(), "the old generation to be alone", || {
        (managed.sandbox.processes().len() == 3).then_some(())
    });
}

#[test]
fn every_failed_upgrade_sends_ready_and_the_reason() {
    // Contract: U8, F1, F2, F3, F4, F6
    let link = |managed: &Managed, target: &str| {
        let _ = std::fs::remove_file(managed.sandbox.path("psflip"));
        std::os::unix::fs::symlink(target, managed.sandbox.path("psflip")).unwrap();
    };
    let psflip = testkit::psflip_bin();
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    std::os::unix::fs::symlink(&psflip, sandbox.path("psflip")).unwrap();
    let exe = sandbox.path("psflip");
    let started = told(&sandbox, &["signal-logger"], AT_ONCE).exe(exe).start().wait_ready();
    manager.wait("READY=1");
    let managed = Managed { manager, psflip: started, sandbox };

    managed.sandbox.write("psflip.toml", "cmd = 7\n");
    fails_by(&managed, "last upgrade failed: the configuration is invalid", |_| {});

    managed.configure(&["crash-on-init", "--code", "7"], UNTIL_FILE);
    fails_by(&managed, "last upgrade failed: the child exited before it was healthy: exit code 7", |_| {});

    managed.configure(&["/nowhere/program"], AT_ONCE);
    fails_by(&managed, "can't execute `/nowhere/program`", |_| {});

    managed.configure(&["never-ready"], &format!("{UNTIL_FILE}[upgrade]\ntimeout = \"50ms\"\n"));
    fails_by(&managed, "the child was not healthy within 50ms", |_| {});

    managed.configure(&["never-ready"], UNTIL_FILE);
    fails_by(&managed, "killed, crashed, or not a psflip", |old| kill(wait_coming(&managed.sandbox, old)));

    managed.configure(&["signal-logger"], &format!("{AT_ONCE}[hooks]\npromote = [\"false\"]\n"));
    fails_by(&managed, "`hooks.promote` failed", |_| {});

    link(&managed, "/nowhere/psflip");
    managed.configure(&["signal-logger"], AT_ONCE);
    fails_by(&managed, "can't execute psflip again", |_| {});

    link(&managed, &psflip.to_string_lossy());
    managed.flip();
    let seen = managed.ends();
    assert!(!seen.status.contains("failed"), "{seen:?}");
}

#[test]
fn a_hanging_new_psflip_is_reported_when_it_is_killed() {
    // Contract: F5, U8
    let times = "[upgrade]\ntimeout = \"3s\"\n[shutdown]\ntimeout = \"100ms\"\n";
    let managed = Managed::start(&["signal-logger"], &format!("{AT_ONCE}{times}"));
    managed.configure(&["never-ready"], &format!("{UNTIL_FILE}{times}"));
    fails_by(&managed, "so it is killed", |old| freeze(wait_coming(&managed.sandbox, old)));
    managed.configure(&["signal-logger"], AT_ONCE);
    managed.flip();
    managed.ends();
}

#[test]
fn a_failed_first_child_is_reported_with_its_exit_code() {
    // Contract: C6
    for (argv, rest, code, told_error) in [
        (&["crash-on-init", "--code", "7"] as &[&str], UNTIL_FILE, 7, None),
        (&["/nowhere/program"], AT_ONCE, 127, Some("ERRNO=2")),
        (&["/etc/passwd"], AT_ONCE, 126, Some("ERRNO=13")),
    ] {
        let sandbox = Sandbox::new();
        let manager = NotifyManager::bind(&sandbox.path("notify"));
        let psflip = told(&sandbox, argv, rest).start();
        assert_eq!(psflip.wait_exit().code(), Some(code));
        let end = manager.wait(&format!("EXIT_STATUS={code}"));
        assert_eq!(told_error.is_some(), end.value("ERRNO").is_some(), "{end:?}");
        assert!(told_error.is_none_or(|line| end.has(line)), "{end:?}");
        let seen = Systemd::follow(psflip.first_pid(), &manager.notices());
        assert!(!seen.ready && seen.status.starts_with("failed: "), "{seen:?}");
    }
}

#[test]
fn an_invalid_configuration_at_the_start_is_reported() {
    // Contract: C6
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let psflip = told(&sandbox, &["signal-logger"], "[healthcheck\n").start();
    assert_eq!(psflip.wait_exit().code(), Some(78));
    let notice = manager.wait("STATUS=failed: the configuration is invalid");
    assert!(notice.has("EXIT_STATUS=78"), "{notice:?}");
}

#[test]
fn a_child_that_exits_by_itself_is_reported() {
    // Contract: C5
    let managed = Managed::start(&["dies-later", "--on-file", "die", "--code", "3"], AT_ONCE);
    managed.sandbox.write("die", "");
    assert_eq!(managed.psflip.wait_exit().code(), Some(3));
    managed.manager.wait("EXIT_STATUS=3");
    let seen = managed.believed();
    assert!(!seen.stopping && seen.status == "the child has exited: exit code 3", "{seen:?}");
}

#[test]
fn an_upgrade_that_fails_after_the_old_child_has_exited_stops_psflip() {
    // Contract: F7, U8
    let managed = Managed::start(&["dies-later", "--on-file", "die", "--code", "3"], AT_ONCE);
    managed.configure(&["never-ready"], &format!("{UNTIL_FILE}[upgrade]\ntimeout = \"200ms\"\n"));
    managed.psflip.request_flip();
    managed.psflip.wait_for_line(Stream::Stdout, "starting pid=");
    managed.sandbox.write("die", "");
    assert_eq!(managed.psflip.wait_exit().code(), Some(3));
    managed.manager.wait("EXIT_STATUS=3");
    let seen = managed.believed();
    assert!(seen.status.contains("failed: the child was not healthy"), "{seen:?}");
}
