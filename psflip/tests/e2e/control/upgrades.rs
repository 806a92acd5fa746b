//! One socket path across upgrades. The active generation always answers.

use serde_json::json;
use testkit::client::control::Asking;
use testkit::{Deadline, Process, Psflip, Sandbox, Stream, wait_until};

use super::{UNTIL_FILE, ask, follow_until, status, upgrade_that_waits};
use crate::service::{AT_ONCE, configure, kill, own_name, psflip, stop, wait_coming};

#[test]
fn the_control_socket_answers_throughout_many_upgrades() {
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let socket = psflip.control_path();
    let done = std::sync::atomic::AtomicBool::new(false);
    let asked = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut generation = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let now = testkit::client::control::status(&socket)["generation"].as_u64().unwrap();
                assert!(now >= generation, "generation {now} answered after generation {generation}");
                generation = now;
                asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        for generation in 2..=20 {
            let promoted = ask(&psflip, "upgrade").wait_event("promoted");
            assert_eq!(promoted["generation"], generation);
            psflip.wait_for_line(Stream::Stdout, &format!("name=gen{generation}"));
            // On a busy host, too, at least one client got an answer in between.
            let before = asked.load(std::sync::atomic::Ordering::Relaxed);
            wait_until(Deadline::default(), "an answer", || {
                (asking.is_finished() || asked.load(std::sync::atomic::Ordering::Relaxed) > before + 1)
                    .then_some(())
            });
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        asking.join().unwrap();
    });
    let status = status(&psflip);
    assert_eq!(status["generation"], 20);
    // The last 16 upgrades, the newest last.
    let upgrades: Vec<u64> = status["history"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|record| record["upgrade"].as_u64())
        .collect();
    assert_eq!(upgrades, (4..20).collect::<Vec<u64>>());
    stop(&psflip);
}

#[test]
fn a_request_during_an_upgrade_waits_for_an_upgrade_of_its_own() {
    // Contract: U7
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let mut first = upgrade_that_waits(&sandbox, &psflip);
    let mut others = [ask(&psflip, "upgrade"), ask(&psflip, "upgrade")];
    for other in &mut others {
        let accepted = other.wait_event("accepted");
        // Two requests, one upgrade.
        assert_eq!(
            (&accepted["upgrade"], &accepted["because"]),
            (&json!(2), &json!("an upgrade is under way"))
        );
    }
    sandbox.write("healthy", "");
    assert_eq!(first.wait_event("promoted")["upgrade"], 1);
    for mut other in others {
        // The generation that took the request exits, and the active one continues to report.
        let moved = other.wait_event("moved");
        assert_eq!(moved["upgrade"], 2);
        let promoted = follow_until(&psflip, 2, "promoted");
        assert_eq!((&promoted["upgrade"], &promoted["generation"]), (&json!(2), &json!(3)));
    }
    stop(&psflip);
}

/// A generation that drains until its child gets SIGUSR2. Returns the service, both processes of that
/// generation, and the client that requested the upgrade.
#[track_caller]
fn draining(sandbox: &Sandbox) -> (Psflip, [Process; 2], Asking) {
    let rest = format!("{AT_ONCE}[shutdown]\ntimeout = \"1h\"\n");
    let psflip = psflip(sandbox, &["ignore-sigterm", "--exit-on", "USR2"], &rest).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let old = [psflip.active(), psflip.child()];
    configure(sandbox, &["signal-logger"], AT_ONCE);
    let mut upgrade = ask(&psflip, "upgrade");
    upgrade.wait_event("promoted");
    (psflip, old, upgrade)
}

/// The requester of the last upgrade, once this generation serves.
#[track_caller]
fn who_asked_for(psflip: &Psflip, generation: u64) -> String {
    let status = wait_until(Deadline::default(), format!("generation {generation} to serve"), || {
        // During the hand-over the answer may be `moved`.
        let answer = ask(psflip, "status").next_event()?;
        (answer["status"]["generation"] == generation && !answer["status"]["active_since"].is_null())
            .then(|| answer["status"].clone())
    });
    let last = status["history"].as_array().and_then(|history| history.last()).expect("a record");
    assert_eq!(last["to"], generation, "{status}");
    last["by"].as_str().unwrap_or("nobody").to_owned()
}

/// The status text for a SIGHUP that this test sent.
fn this_test() -> String {
    format!("SIGHUP from {}", own_name())
}

#[test]
fn a_requester_during_an_upgrade_is_known_to_the_next_generation() {
    // Contract: U7
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let _first = upgrade_that_waits(&sandbox, &psflip);
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stderr, "upgrade queued");
    sandbox.write("healthy", "");
    assert_eq!(who_asked_for(&psflip, 3), this_test(), "it came with the acknowledgement");
    stop(&psflip);
}

#[test]
fn a_requester_of_a_draining_generation_is_known_to_its_successor() {
    // Contract: U7
    let sandbox = Sandbox::new();
    let (psflip, [old, child], _) = draining(&sandbox);
    // A late signal, from a sender that read the pidfile before the upgrade.
    old.signal(testkit::Signal::SIGHUP).unwrap();
    psflip.wait_for_line(Stream::Stderr, "upgrade queued");
    child.signal(testkit::Signal::SIGUSR2).unwrap();
    assert_eq!(who_asked_for(&psflip, 3), this_test());
    stop(&psflip);
}

#[test]
fn a_requester_of_a_failing_generation_is_known_to_the_old_one() {
    // Contract: U7, U8
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let old = psflip.active();
    configure(&sandbox, &["dies-later", "--on-file", "die"], "");
    let mut first = ask(&psflip, "upgrade");
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    wait_coming(&sandbox, old).signal(testkit::Signal::SIGHUP).unwrap();
    psflip.wait_for_line(Stream::Stderr, "upgrade queued");
    configure(&sandbox, &["signal-logger"], AT_ONCE);
    sandbox.write("die", "");
    first.wait_event("failed");
    assert_eq!(who_asked_for(&psflip, 2), this_test());
    stop(&psflip);
}

#[test]
fn a_client_without_a_request_yet_is_referred_to_the_new_generation() {
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let old = psflip.active();
    let silent = Asking::connect(&psflip.control_path());
    assert_eq!(status(&psflip)["generation"], 1, "earlier clients are accepted by then");
    psflip.flip();
    psflip.wait_gone(old);
    assert_eq!(super::names(&silent.rest()), ["moved"]);
    stop(&psflip);
}

#[test]
fn a_finished_upgrade_can_still_be_followed() {
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    ask(&psflip, "upgrade").wait_event("drained");
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    configure(&sandbox, &["exit-with", "3"], UNTIL_FILE);
    ask(&psflip, "upgrade").wait_event("failed");
    let follow = |upgrade: u64| {
        let request = format!(r#"{{"psflip":1,"request":"follow","upgrade":{upgrade}}}"#);
        super::names(&Asking::ask(&psflip.control_path(), request).rest())
    };
    assert_eq!(follow(0), ["promoted"]);
    assert_eq!(follow(1), ["promoted", "drained"]);
    assert_eq!(follow(2), ["failed"]);
    assert_eq!(follow(3), ["error"]);
    stop(&psflip);
}

#[test]
fn a_draining_predecessor_is_reported_with_its_remaining_time() {
    // Contract: U5
    let sandbox = Sandbox::new();
    let (psflip, [old, child], mut upgrade) = draining(&sandbox);
    let predecessor =
        wait_until(Deadline::default(), "the predecessor to report that it waits for its child", || {
            let predecessor = status(&psflip)["predecessor"].clone();
            (predecessor["step"] == "asked").then_some(predecessor)
        });
    assert_eq!(predecessor["pid"], old.pid());
    let left = predecessor["left_ms"].as_u64().unwrap();
    assert!((3_000_000..=3_600_000).contains(&left), "{left}");
    child.signal(testkit::Signal::SIGUSR2).unwrap();
    upgrade.wait_event("drained");
    psflip.wait_gone(old);
    wait_until(Deadline::default(), "the predecessor to be forgotten", || {
        status(&psflip)["predecessor"].is_null().then_some(())
    });
    stop(&psflip);
}

#[test]
fn a_generation_that_lost_its_predecessor_answers_requests() {
    // Contract: F8
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let old = psflip.active();
    let mut upgrade = upgrade_that_waits(&sandbox, &psflip);
    let new = wait_coming(&sandbox, old);
    kill(old);
    while upgrade.next_event().is_some() {}
    // A client that got no event asks for the upgrade by its number.
    let mut there = Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"follow","upgrade":1}"#);
    there.wait_event("accepted");
    assert_eq!(status(&psflip)["pid"], new.pid());
    sandbox.write("healthy", "");
    assert_eq!(there.wait_event("promoted")["pid"], new.pid());
    psflip.wait_successor(old);
    stop(&psflip);
}

#[test]
fn a_stop_of_the_process_in_the_pidfile_stops_the_service() {
    // Contract: F11, U8
    // The new psflip is paused: the pidfile names it, but the old one has not acknowledged yet.
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let old = psflip.active();
    configure(&sandbox, &["signal-logger"], UNTIL_FILE);
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    crate::service::freeze(old);
    sandbox.write("healthy", "");
    let new = psflip.wait_successor(old);
    new.signal(testkit::Signal::SIGTERM).unwrap();
    psflip.wait_for_line(Stream::Stderr, &format!("pid={new}}}: this generation gives up"));
    crate::service::thaw(old);
    psflip.wait_exit();
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade aborted by a stop request").text;
    assert!(line.contains("reason=\"it was aborted by a stop request\""), "{line}");
    assert!(!psflip.log().contains(" ERROR "), "{}", psflip.log());
    assert!(!psflip.pidfile_path().exists());
    sandbox.assert_no_process_left();
}
