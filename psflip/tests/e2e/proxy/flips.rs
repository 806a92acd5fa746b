//! Upgrades under load and while requests are under way.

use std::time::Duration;

use testkit::client::control::{Asking, status};
use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Deadline, Sandbox, Stream, wait_until};

use super::{
    CARELESS, HEALTHY, answers, careless, kept, next_waits, place, proxy, relays, wait_answer, wait_asked,
    web,
};
use crate::service::{configure, psflip, wait_coming};

/// Clients without pause, every second one on a connection that it keeps.
fn clients(sandbox: &Sandbox) -> AvailabilityProbe {
    let path = web(sandbox);
    AvailabilityProbe::start(4, |number| {
        let client = HttpClient::new(path.as_path());
        let mut client = if number.is_multiple_of(2) { client.keep_alive() } else { client };
        move || {
            let answer = if number < 2 { client.get("/") } else { client.post("/", &[b'x'; 3000]) };
            answer?.tag("name")
        }
    })
}

#[test]
fn a_careless_child_loses_no_request() {
    // Contract: T2, T3, T4, T6, U4
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let probe = clients(&sandbox);
    for generation in 1..=15 {
        probe.wait_tag(&format!("gen{generation}"));
        psflip.flip();
    }
    probe.wait_tag("gen16");
    probe.finish().assert_no_failures();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_kept_connection_outlives_its_generation() {
    // Contract: T6
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let mut client = kept(&sandbox);
    assert_eq!(answers(&mut client), "gen1");
    for generation in 2..=4 {
        psflip.flip();
        let answer = client.get("/").unwrap();
        assert_eq!(answer.tag("name").unwrap(), format!("gen{generation}"));
        assert!(answer.reused, "it was asked on the connection of before");
        assert_eq!(answer.header("connection"), None);
    }
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn no_client_reaches_a_child_before_its_generation_is_promoted() {
    // Contract: T3
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let old = psflip.active();
    next_waits(&sandbox);
    let mark = psflip.output().mark();
    psflip.request_flip();
    psflip.output().wait_after(mark, Stream::Stdout, "ready");
    let probe = clients(&sandbox);
    probe.wait_requests(200);
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.keys().collect::<Vec<_>>(), ["gen1"], "{report}");
    sandbox.write("healthy", "");
    psflip.wait_successor(old);
    wait_answer(&sandbox, "gen2");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn the_old_generation_accepts_all_through_an_upgrade_that_fails() {
    // Contract: T3, U8
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let probe = clients(&sandbox);
    probe.wait_requests(50);
    next_waits(&sandbox);
    for _ in 0..3 {
        let mark = psflip.output().mark();
        let old = psflip.request_flip();
        let new = wait_coming(&sandbox, old);
        psflip.output().wait_after(mark, Stream::Stdout, "ready");
        crate::service::kill(new);
        psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
    }
    probe.wait_requests(50);
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.keys().collect::<Vec<_>>(), ["gen1"], "{report}");
    assert_eq!(relays(&sandbox).len(), 1);
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn the_old_child_is_spared_until_its_last_answer() {
    // Contract: T4, U5
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let mut slow = kept(&sandbox);
    answers(&mut slow);
    let mark = psflip.output().mark();
    let answer = std::thread::spawn(move || (slow.get("/?delay=4s"), slow));
    wait_asked(&psflip, mark);
    let child = psflip.child();
    let old = psflip.request_flip();
    psflip.wait_successor(old);
    assert!(child.is_alive(), "it has a request to answer");
    let (answer, mut slow) = answer.join().unwrap();
    assert_eq!(answer.unwrap().tag("name").unwrap(), "gen1");
    assert_eq!(answers(&mut slow), "gen2", "the connection was passed on after its answer");
    psflip.output().wait_after(mark, Stream::Stderr, "the old generation is gone");
    let answered = place(&psflip, mark, "waited_for=1");
    assert!(answered < place(&psflip, mark, "signal sent to the child"), "{}", psflip.log());
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn the_old_child_is_spared_for_drain_at_most() {
    // Contract: T4, U5
    let sandbox = Sandbox::new();
    let rest = format!("{HEALTHY}{}", proxy("drain = \"300ms\""));
    let psflip = psflip(&sandbox, CARELESS, &rest).start().wait_ready();
    let mut slow = kept(&sandbox);
    let mark = psflip.output().mark();
    let answer = std::thread::spawn(move || slow.get("/?delay=60s"));
    wait_asked(&psflip, mark);
    psflip.flip();
    psflip.output().wait_after(mark, Stream::Stderr, "no longer waiting for them");
    psflip.output().wait_after(mark, Stream::Stderr, "the old generation is gone");
    let answer = answer.join().unwrap();
    // The child closed the connection without an answer.
    assert!(answer.as_ref().map_or(true, |answer| answer.status == 502), "{answer:?}");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn an_old_generation_that_is_ended_cuts_its_requests_and_no_other() {
    // Contract: D1, T4
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let (old, old_child) = (psflip.active(), psflip.child());
    let mut slow = kept(&sandbox).timeout(Duration::from_secs(60));
    let answer = std::thread::spawn(move || slow.get("/?delay=50s"));
    wait_until(Deadline::default(), "the relay to have counted the request", || {
        (status(&psflip.control_path())["proxies"][0]["under_way"] == 1).then_some(())
    });
    psflip.request_flip();
    psflip.wait_successor(old);
    let probe = clients(&sandbox);
    probe.wait_tag("gen2");
    let end = r#"{"psflip":1,"request":"upgrade","end_draining":true}"#;
    Asking::ask(&psflip.control_path(), end).wait_event("promoted");
    probe.wait_tag("gen3");
    let answer = answer.join().unwrap();
    assert!(answer.as_ref().map_or(true, |answer| answer.status == 502), "{answer:?}");
    assert!(!old.is_alive() && !old_child.is_alive(), "{}", sandbox.report());
    let line =
        psflip.output().wait(Stream::Stderr, "the active generation does not wait for this one any more");
    assert!(line.text.contains("requests_cut=1") && line.text.contains("generation=1"), "{line}");
    probe.finish().assert_no_failures();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_socket_may_move_from_the_child_to_the_proxy_and_back() {
    // Contract: T2, U2
    let sandbox = Sandbox::new();
    let listen = "[[listen]]\naddress = \"unix://web.sock\"\n[healthcheck.alive]\ntimeout = \"0s\"\n";
    // It answers every connection that it has accepted; with `--keep-idle 0s` it would not.
    let own: &[&str] = &["http-server", "--inherit", "listen_fds"];
    let psflip = psflip(&sandbox, own, listen).start().wait_ready();
    let path = web(&sandbox);
    let probe = AvailabilityProbe::start(2, |_| {
        let mut client = HttpClient::new(path.as_path());
        move || client.get("/")?.tag("name")
    });
    probe.wait_tag("gen1");
    for generation in [2, 4] {
        configure(&sandbox, CARELESS, &format!("{HEALTHY}{}", proxy("")));
        psflip.flip();
        probe.wait_tag(&format!("gen{generation}"));
        configure(&sandbox, own, listen);
        psflip.flip();
        probe.wait_tag(&format!("gen{}", generation + 1));
    }
    probe.finish().assert_no_failures();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_generation_without_a_proxy_ends_kept_connections_with_an_announcement() {
    // Contract: T6
    let sandbox = Sandbox::new();
    let rest = format!("{HEALTHY}{}", proxy("drain = \"20s\""));
    let psflip = psflip(&sandbox, CARELESS, &rest).start().wait_ready();
    let mut client = kept(&sandbox);
    assert_eq!(answers(&mut client), "gen1");
    configure(&sandbox, CARELESS, HEALTHY);
    let mark = psflip.output().mark();
    let old = psflip.request_flip();
    psflip.wait_successor(old);
    let closes = || {
        let answer = client.get("/").unwrap();
        assert_eq!((answer.tag("name").unwrap().as_str(), answer.reused), ("gen1", true));
        (answer.header("connection") == Some("close")).then_some(())
    };
    wait_until(Deadline::default(), "the connection's last answer", closes);
    psflip.output().wait_after(mark, Stream::Stderr, "the old generation is gone");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_request_and_its_long_answer_pass_through_byte_by_byte() {
    // Contract: T7
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let mut client = kept(&sandbox).timeout(Duration::from_secs(30));
    let body: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let answer = client.post("/?size=5000000", &body).unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 5_000_000));
    let answer = client.post("/", &body).unwrap();
    assert!(answer.text().contains("body=3000000"), "{}", answer.text());
    psflip.stop();
    sandbox.assert_no_process_left();
}
