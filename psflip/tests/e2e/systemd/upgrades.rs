//! A start and upgrades that succeed.

use testkit::Stream;

use crate::health::notify::SAY;

use super::*;

#[test]
fn the_first_generation_sends_ready_only_once_it_is_healthy() {
    // Contract: U4, P1
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let until = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"healthy\"]\ninterval = \"5ms\"\n[upgrade]\ntimeout = \"100s\"\n";
    let psflip = told(&sandbox, &["never-ready"], until).start();
    psflip.wait_for_line(Stream::Stdout, "starting");
    let first = manager.wait("STATUS=starting generation 1");
    let patience: u64 = first.value("EXTEND_TIMEOUT_USEC").unwrap().parse().unwrap();
    assert!(patience > 100_000_000, "as long as it may take: {patience}");
    assert_eq!(kinds(&manager.notices()), ["1 -"]);
    assert!(!psflip.pidfile_path().exists());
    sandbox.write("healthy", "");
    manager.wait("READY=1");
    let (named, child) = (sandbox.read("psflip.pid"), psflip.child_pid());
    let seen = Systemd::follow(psflip.first_pid(), &manager.notices());
    assert_eq!(named, format!("{}\n", seen.main));
    assert!(seen.status.starts_with("generation 1, healthy since 20"), "{seen:?}");
    assert!(seen.status.ends_with(&format!(", child {child}")), "{seen:?}");
    stop(&psflip);
}

#[test]
fn every_upgrade_sends_mainpid_and_ready_in_one_datagram() {
    // Contract: U4, U7
    let managed = Managed::start(&["signal-logger"], AT_ONCE);
    let mut expected = vec!["1 -".to_owned(), "1 READY".to_owned()];
    for number in 1..=3 {
        let old = managed.psflip.active();
        let new = managed.flip();
        let moved = managed.manager.wait(&format!("MAINPID={}\n", new.pid()));
        assert_eq!(moved.pid, old.pid());
        let next = number + 1;
        assert!(moved.text.contains(&format!("STATUS=generation {next} took over")), "{moved:?}");
        expected.push(format!("{number} RELOADING"));
        expected.push(format!("{number} MAINPID+READY"));
        expected.push(format!("{next} -")); // the old one drains
        expected.push(format!("{next} -")); // the old one is gone
    }
    assert_eq!(kinds(&managed.manager.notices()), expected, "{}", managed.manager.describe());
    let seen = managed.believed();
    assert!(seen.status.starts_with("generation 4, healthy since 20"), "{seen:?}");
    managed.ends();
    let own = managed.manager.notices().iter().filter(|notice| notice.has("STOPPING=1")).count();
    assert_eq!(own, 1, "a generation that hands over does not stop the service");
}

#[test]
fn a_queued_request_is_reported_as_an_upgrade_of_its_own() {
    // Contract: U7
    let managed = Managed::start(&["signal-logger"], &format!("{AT_ONCE}[shutdown]\ndelay = \"1h\"\n"));
    let old = managed.psflip.active();
    managed.psflip.request_flip();
    let new = managed.psflip.wait_successor(old);
    managed.wait_believed("the old one to drain", |seen| seen.status.contains("generation 1 still drains"));
    managed.configure(&["signal-logger"], AT_ONCE);
    managed.psflip.request_flip();
    managed.psflip.wait_for_line(Stream::Stderr, "upgrade queued");
    assert!(!managed.believed().reloading);
    let end_delay = |process: Process| process.signal(testkit::Signal::SIGTERM).unwrap();
    end_delay(old);
    let third = managed.psflip.wait_successor(new);
    managed.wait_believed("the third one", |seen| seen.main == third.pid() && !seen.reloading);
    end_delay(new);
    managed.psflip.wait_gone(new);
    managed.ends();
}

#[test]
fn the_child_gets_neither_notify_socket_nor_watchdog_of_psflip() {
    // Contract: C3
    let sh = ["sh", "-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"];
    let managed = Managed::start_as(&["introspect", "--hold"], AT_ONCE, |builder| {
        builder.env("WATCHDOG_USEC", "60000000").wrapper(sh)
    });
    for generation in 1..=3 {
        managed.psflip.output().wait_count(generation, Stream::Stdout, "ready pid=");
        managed.flip();
    }
    managed.psflip.output().wait_count(4, Stream::Stdout, "ready pid=");
    let seen = managed.psflip.output().text(Stream::Stdout);
    assert!(seen.contains("=PSFLIP_GENERATION=4"), "{seen}");
    for name in ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"] {
        assert!(!seen.contains(name), "{name}\n{seen}");
    }
    managed.ends();
}

#[test]
fn notifications_of_the_child_go_to_psflip() {
    // Contract: C3
    let managed = Managed::start(&["http-server", "--unix", "app.sock"], "[healthcheck.notify]\n");
    managed.flip();
    managed.ends();
    assert!(
        managed.manager.notices().iter().all(|notice| !notice.has("STATUS=")),
        "{}",
        managed.manager.describe()
    );
}

#[test]
fn a_childs_request_for_more_time_is_passed_to_the_service_manager() {
    // Contract: U3
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let script = &format!("{SAY}say EXTEND_TIMEOUT_USEC=3000000000; exec sleep infinity");
    let rest = "[healthcheck.notify]\nextend = \"1h\"\n[upgrade]\ntimeout = \"10s\"\n";
    let psflip = told(&sandbox, &["/bin/sh", "-c", script], rest).start();
    manager.wait_for("more than 3000 s", |notices| {
        let time = |notice: &Notice| notice.value("EXTEND_TIMEOUT_USEC")?.parse::<u64>().ok();
        notices.iter().filter_map(time).find(|time| *time > 3_000_000_000)
    });
    psflip.program().signal(testkit::Signal::SIGTERM);
    psflip.wait_exit();
}
