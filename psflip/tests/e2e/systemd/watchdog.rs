//! Watchdog messages: from the main process, at half the interval, as long as its loop runs; and none unless
//! requested.

use testkit::wait_until;

use super::*;
use crate::service::{freeze, thaw};

/// The manager's watchdog, addressed to psflip's own pid: a shell sets WATCHDOG_PID and then executes psflip.
fn watched(usec: u64, argv: &[&str], rest: &str) -> Managed {
    let sh = ["sh", "-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"];
    Managed::start_as(argv, rest, |builder| builder.env("WATCHDOG_USEC", usec.to_string()).wrapper(sh))
}

/// Waits until this process has sent that many watchdog messages.
#[track_caller]
fn wait_signs(managed: &Managed, process: Process, count: usize) {
    managed.manager.wait_for(&format!("{count} signs of life of {process}"), |notices| {
        let signs =
            notices.iter().filter(|notice| notice.pid == process.pid() && notice.text == "WATCHDOG=1");
        (signs.count() >= count).then_some(())
    });
}

#[test]
fn only_the_main_process_pings_the_watchdog() {
    // Contract: U4
    let managed = watched(100_000, &["signal-logger"], AT_ONCE);
    wait_signs(&managed, managed.psflip.active(), 3);
    for _ in 0..3 {
        let old = managed.psflip.active();
        let new = managed.flip();
        // The time since the old process's last watchdog message must not run out before the new one's first.
        assert!(managed.manager.wait(&format!("MAINPID={}\n", new.pid())).has("WATCHDOG=1"));
        assert!(managed.manager.wait("generation 1 still drains").has("WATCHDOG=1"));
        wait_signs(&managed, new, 3);
        assert!(!old.is_alive());
    }
    managed.believed(); // each came from the main process at that time
    managed.ends();
}

#[test]
fn the_old_psflip_pings_the_watchdog_during_and_after_a_failed_upgrade() {
    // Contract: U8
    let until = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"healthy\"]\ninterval = \"5ms\"\n";
    let managed = watched(50_000, &["signal-logger"], AT_ONCE);
    let old = managed.psflip.active();
    managed.configure(&["never-ready"], &format!("{until}[upgrade]\ntimeout = \"300ms\"\n"));
    managed.psflip.request_flip();
    managed.manager.wait("RELOADING=1");
    let during = managed.manager.mark();
    managed.manager.wait("last upgrade failed");
    let signs = managed.manager.notices()[during..].iter().filter(|notice| notice.has("WATCHDOG=1")).count();
    assert!(signs > 0, "{}", managed.manager.describe());
    wait_signs(&managed, old, 10);
    managed.ends();
}

#[test]
fn a_suspended_psflip_does_not_ping_the_watchdog() {
    // Contract: F12
    let managed = watched(20_000, &["signal-logger"], AT_ONCE);
    let active = managed.psflip.active();
    wait_signs(&managed, active, 1);
    freeze(active);
    let silent = managed.manager.mark();
    // Long enough for ten of them.
    let since = std::time::Instant::now();
    wait_until(testkit::Deadline::default(), "some time to pass", || {
        (since.elapsed() > std::time::Duration::from_millis(200)).then_some(())
    });
    assert!(managed.manager.mark() <= silent + 1, "{}", managed.manager.describe());
    thaw(active);
    wait_signs(&managed, active, 5);
    managed.ends();
}

#[test]
fn a_watchdog_for_another_pid_gets_no_ping() {
    // Contract: C3
    for (name, value) in [("WATCHDOG_PID", "1"), ("WATCHDOG_USEC", "0"), ("WATCHDOG_USEC", "soon")] {
        let managed = Managed::start_as(&["signal-logger"], AT_ONCE, |builder| {
            builder.env("WATCHDOG_USEC", "1000").env(name, value)
        });
        managed.flip();
        managed.ends();
        assert!(!managed.manager.describe().contains("WATCHDOG"), "{}", managed.manager.describe());
    }
}
