//! A service manager that is unreachable, or does not read. The service is not affected, and the essential
//! notifications arrive in the end.

use testkit::{Deadline, Stream, wait_until};

use super::*;

#[test]
fn an_unreachable_notify_socket_costs_one_log_line() {
    // Contract: F10
    for address in ["/nowhere/notify", "@psflip-test-nobody", "vsock:2:7", "relative", ""] {
        let sandbox = Sandbox::new();
        let builder = psflip(&sandbox, &["signal-logger"], AT_ONCE).env("NOTIFY_SOCKET", address);
        let psflip = builder.start().wait_ready();
        psflip.flip();
        psflip.flip();
        stop(&psflip);
        let log = psflip.log();
        let lines = log.lines().filter(|line| line.contains("NOTIFY_SOCKET")).count();
        let most = usize::from(!address.is_empty()) * 3; // one for each generation
        assert!((most.min(1)..=most).contains(&lines), "`{address}`: {lines} lines\n{log}");
        sandbox.assert_no_process_left();
    }
}

#[test]
fn a_service_manager_that_comes_back_is_notified_again() {
    // Contract: F10
    let sandbox = Sandbox::new();
    let psflip = told(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.flip();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    psflip.flip();
    let seen = Systemd::follow(manager.wait("RELOADING=1").pid, &[]);
    assert_eq!(manager.wait("MAINPID=").pid, seen.main);
    manager.wait("STATUS=generation 3, healthy since");
    stop(&psflip);
}

/// A service whose manager no longer reads, with a full queue.
fn deaf() -> (Managed, usize) {
    let sandbox = Sandbox::new();
    let path = sandbox.path("notify");
    let manager = NotifyManager::bind_deaf(&path);
    let psflip = told(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stderr, "healthy, active");
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let filled = manager.fill(&path);
    assert!(filled > 0);
    (Managed { manager, psflip, sandbox }, filled)
}

/// All notifications but those that filled the queue.
fn own(notices: &[Notice]) -> Vec<Notice> {
    notices.iter().filter(|notice| !notice.has("X_FILL=1")).cloned().collect()
}

#[test]
fn notifications_for_a_full_socket_are_sent_later_in_order() {
    // Contract: U4, F10
    let (mut managed, _) = deaf();
    let old = managed.psflip.active();
    managed.psflip.request_flip();
    let new = managed.psflip.wait_successor(old);
    managed.psflip.output().wait_count(2, Stream::Stderr, "healthy, active");
    managed.psflip.wait_for_line(Stream::Stderr, "the child has exited");
    // It has drained, but stays: systemd would take its exit for the service's.
    assert!(old.is_alive(), "{}", managed.sandbox.report());
    managed.manager.start_reading();
    managed.psflip.wait_gone(old);
    managed.manager.wait_for("all of it, in order", |notices| {
        let own = own(notices);
        let seen = Systemd::follow(managed.psflip.first_pid(), &own);
        (seen.main == new.pid() && !seen.reloading && seen.status.starts_with("generation 2")).then_some(())
    });
    let kinds = kinds(&own(&managed.manager.notices()));
    assert_eq!(
        kinds[..4],
        ["1 -", "1 READY", "1 RELOADING", "1 MAINPID+READY"],
        "{}",
        managed.manager.describe()
    );
    stop(&managed.psflip);
}

#[test]
fn a_service_manager_that_never_reads_blocks_nothing() {
    // Contract: F10, U8
    let (managed, _) = deaf();
    managed.configure(&["crash-on-init", "--code", "7"], "[healthcheck.tcp]\nport = 1\n");
    for count in 1..=3 {
        managed.psflip.request_flip();
        managed.psflip.output().wait_count(count, Stream::Stderr, "upgrade failed");
    }
    let old = managed.psflip.active();
    stop(&managed.psflip);
    wait_until(Deadline::default(), "the old generation to exit", || (!old.is_alive()).then_some(()));
    managed.sandbox.assert_no_process_left();
}
