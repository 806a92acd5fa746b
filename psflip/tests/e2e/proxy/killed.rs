//! Relays, children and psflips that are killed.

use testkit::client::http::HttpClient;
use testkit::process::ProcessState;
use testkit::{AvailabilityProbe, Deadline, Sandbox, Signal, Stream, wait_until};

use super::{answers, careless, kept, next_waits, relay, relay_of, web};
use crate::operations::hold::wait_status;
use crate::service::{kill, wait_coming};

#[test]
fn a_relay_that_dies_is_started_again_and_the_child_goes_on() {
    // Contract: T9
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let child = psflip.child();
    let mut client = kept(&sandbox);
    answers(&mut client);
    wait_status(&sandbox, "/proxies/0/connections", 1);
    for _ in 0..3 {
        let mark = psflip.output().mark();
        let lost = relay(&sandbox, &psflip);
        kill(lost);
        psflip.output().wait_after(mark, Stream::Stderr, "the relay is started again");
        assert_ne!(relay(&sandbox, &psflip), lost);
        assert_eq!(answers(&mut kept(&sandbox)), "gen1");
    }
    assert!(client.get("/").is_err(), "its connection was the first relay's");
    assert!(psflip.log().contains("lost_connections=1"), "{}", psflip.log());
    assert_eq!(psflip.child(), child);
    psflip.flip();
    assert_eq!(answers(&mut kept(&sandbox)), "gen2");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_relay_that_dies_before_its_generation_is_healthy_fails_the_upgrade() {
    // Contract: T9, U8
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    next_waits(&sandbox);
    let mark = psflip.output().mark();
    let old = psflip.request_flip();
    let new = wait_coming(&sandbox, old);
    kill(relay_of(&sandbox, new));
    let line = psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
    assert!(line.text.contains("the relay"), "{}", line.text);
    assert_eq!(answers(&mut kept(&sandbox)), "gen1");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_relay_dies_with_its_psflip_and_ignores_signals_that_are_for_others() {
    // Contract: T1, C7
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let relay = relay(&sandbox, &psflip);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGPIPE] {
        relay.signal(signal).unwrap();
    }
    assert_eq!(answers(&mut kept(&sandbox)), "gen1");
    assert!(relay.is_alive());
    kill(psflip.active());
    wait_until(Deadline::default(), "the relay to die with its psflip", || {
        (!relay.is_alive() || relay.state() == ProcessState::Zombie).then_some(())
    });
    psflip.wait_exit();
    sandbox.assert_no_process_left();
}

#[test]
fn the_child_inherits_nothing_of_the_relay() {
    // Contract: T1, C3
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let web = psflip.child().open_fds().unwrap();
    // Standard streams, its own listening socket, and what its runtime opened.
    let sockets: Vec<_> = web.iter().filter(|(_, target)| target.starts_with("socket:")).collect();
    let relays = relay(&sandbox, &psflip).open_fds().unwrap();
    assert!(
        sockets.iter().all(|(_, target)| !relays.values().any(|other| other == *target)),
        "{web:?}\n{relays:?}"
    );
    assert!(!web.values().any(|target| target.contains("counts")), "{web:?}");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn clients_wait_for_the_new_generation_while_no_child_is_there() {
    // Contract: T8, F7
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let mut idle = kept(&sandbox);
    answers(&mut idle);
    next_waits(&sandbox);
    let mark = psflip.output().mark();
    let old = psflip.request_flip();
    psflip.output().wait_after(mark, Stream::Stdout, "ready");
    kill(psflip.child());
    psflip.output().wait_after(mark, Stream::Stderr, "the child exited during an upgrade");
    let path = web(&sandbox);
    let waiting = std::thread::spawn(move || {
        let answer = HttpClient::new(path.as_path()).get("/").and_then(|answer| answer.tag("name"));
        (answer, idle.get("/"))
    });
    sandbox.write("healthy", "");
    psflip.wait_successor(old);
    let (answer, idle) = waiting.join().unwrap();
    assert_eq!(answer.unwrap(), "gen2");
    let idle = idle.unwrap();
    assert!(idle.reused && idle.tag("name").unwrap() == "gen2", "{idle:?}");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn the_new_generation_accepts_when_the_old_psflip_is_killed() {
    // Contract: T3, F8
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    next_waits(&sandbox);
    let mark = psflip.output().mark();
    let old = psflip.request_flip();
    psflip.output().wait_after(mark, Stream::Stdout, "ready");
    kill(old);
    let path = web(&sandbox);
    psflip.output().wait_after(mark, Stream::Stderr, "the old psflip was killed");
    let probe = AvailabilityProbe::start(2, |_| {
        let mut client = HttpClient::new(path.as_path());
        move || client.get("/")?.tag("name")
    });
    sandbox.write("healthy", "");
    probe.wait_tag("gen2");
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.keys().collect::<Vec<_>>(), ["gen2"], "{report}");
    psflip.stop();
    sandbox.assert_no_process_left();
}
