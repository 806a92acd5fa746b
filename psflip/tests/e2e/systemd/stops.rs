//! Stop requests in every phase. `STOPPING=1` is sent once the stop is certain, and not before.

use testkit::{Signal, Stream};

use super::*;
use crate::service::{UNTIL_FILE, wait_coming};

#[test]
fn a_stop_while_serving_is_reported_when_the_child_has_exited() {
    // Contract: S5, F11
    let managed = Managed::start(&["never-ready", "--graceful", "60m"], AT_ONCE);
    managed.psflip.wait_for_line(Stream::Stdout, "starting");
    let child = managed.psflip.child();
    managed.psflip.signal(Signal::SIGTERM);
    let notice = managed.manager.wait("STATUS=stop requested, waiting for the child to exit; generation 1");
    let patience: u64 = notice.value("EXTEND_TIMEOUT_USEC").unwrap().parse().unwrap();
    assert!(patience > 20_000_000, "as long as its shutdown and that of its orphans may take: {patience}");
    assert!(!managed.believed().stopping);
    crate::service::kill(child);
    managed.psflip.wait_exit();
    let seen = managed.wait_believed("the service to be stopping", |seen| seen.stopping);
    assert_eq!(seen.status, "the child has exited: SIGKILL");
}

#[test]
fn a_stop_that_the_child_ignores_is_reported_but_not_as_stopping() {
    // Contract: S5
    let config = format!("{AT_ONCE}[shutdown]\ntimeout = \"50ms\"\n");
    let managed = Managed::start(&["ignore-sigterm"], &config);
    managed.psflip.wait_for_line(Stream::Stdout, "ready pid=");
    managed.psflip.signal(Signal::SIGTERM);
    managed.manager.wait("the child ignored a stop request");
    let seen = managed.believed();
    assert!(seen.ready && !seen.stopping && !seen.reloading, "{seen:?}");
    managed.configure(&["signal-logger"], AT_ONCE);
    managed.flip();
    managed.ends();
}

#[test]
fn a_stop_before_the_first_child_is_healthy_is_reported() {
    // Contract: S5, F11
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let psflip = told(&sandbox, &["never-ready"], UNTIL_FILE).start();
    psflip.wait_for_line(Stream::Stdout, "starting");
    psflip.program().signal(Signal::SIGTERM);
    assert_eq!(psflip.wait_exit().code(), Some(0));
    manager.wait("EXIT_STATUS=0");
    let seen = Systemd::follow(psflip.first_pid(), &manager.notices());
    assert!(seen.stopping && !seen.ready, "{seen:?}");
}

#[test]
fn a_stop_during_an_upgrade_is_reported_by_the_old_generation_alone() {
    // Contract: S5, F11
    let managed = Managed::start(&["signal-logger"], AT_ONCE);
    let old = managed.psflip.active();
    managed.configure(&["never-ready"], UNTIL_FILE);
    managed.psflip.request_flip();
    wait_coming(&managed.sandbox, old);
    managed.psflip.wait_for_line(Stream::Stdout, "starting pid=");
    managed.psflip.signal(Signal::SIGTERM);
    managed.psflip.wait_exit();
    managed.sandbox.assert_no_process_left();
    let seen = managed.wait_believed("the service to be stopping", |seen| seen.stopping);
    assert_eq!(seen.main, old.pid());
}

#[test]
fn a_stop_while_the_old_generation_drains_is_reported_by_the_new_one() {
    // Contract: S5, F11
    let managed = Managed::start(&["signal-logger"], &format!("{AT_ONCE}[shutdown]\ndelay = \"1h\"\n"));
    let old = managed.psflip.active();
    managed.psflip.request_flip();
    let new = managed.psflip.wait_successor(old);
    managed.wait_believed("the old one to drain", |seen| seen.status.contains("still drains"));
    for process in [new, old] {
        process.signal(Signal::SIGTERM).unwrap(); // as KillMode=control-group does
    }
    managed.psflip.wait_gone(new);
    managed.psflip.wait_gone(old);
    let seen = managed.wait_believed("the service to be stopping", |seen| seen.stopping);
    assert_eq!(seen.main, new.pid());
    managed.sandbox.assert_no_process_left();
}
