//! What ends a bake without being killed: its time, the new child, its health check, stops.

use std::time::{Duration, Instant};

use testkit::client::http::HttpClient;
use testkit::{Sandbox, Signal, Stream};

use super::{Baked, CARELESS, LONG, config};
use crate::health::notify::SAY;
use crate::service::{configure, psflip, stop};

#[test]
fn after_its_bake_the_new_generation_is_the_service() {
    // Contract: B1, U4, U6
    let service = Baked::start_with("bake = \"300ms\"\n", "");
    let old = service.psflip.active();
    let mark = service.psflip.output().mark();
    service.psflip.request_flip();
    service.psflip.output().wait_after(mark, Stream::Stderr, "has the traffic and bakes");
    let began = Instant::now();
    service.probe.wait_tag("gen2");
    service.psflip.wait_successor(old);
    assert!(began.elapsed() > Duration::from_millis(200), "{:?}", began.elapsed());
    service.psflip.wait_for_line(Stream::Stderr, "the old generation is gone");
    service.probe.wait_requests(20);
    let Baked { probe, psflip, sandbox } = service;
    probe.finish().assert_no_failures();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn in_a_bake_the_old_generation_is_the_service_but_for_the_traffic() {
    // Contract: B1, T3, T6
    let service = Baked::start();
    let mut idle = HttpClient::new(service.sandbox.path("web.sock").as_path()).keep_alive();
    assert_eq!(idle.get("/").unwrap().tag("name").unwrap(), "gen1");
    let bake = service.bake();
    service.serves("gen2");
    let answer = idle.get("/").unwrap();
    assert!(answer.reused, "the connection was passed on");
    assert_eq!(answer.tag("name").unwrap(), "gen2");
    assert_eq!((service.psflip.active(), service.psflip.child()), (bake.old, bake.old_child));
    bake.new_child.signal(Signal::SIGKILL).unwrap();
    service.is_rolled_back(bake);
}

#[test]
fn a_child_that_exits_in_its_bake_loses_the_traffic_at_once() {
    // Contract: B2, B3, U6, U8
    let service = Baked::start();
    let bake = service.bake();
    service.probe.wait_tag("gen2");
    bake.new_child.signal(Signal::SIGKILL).unwrap();
    service.serves("gen1");
    let line = service.is_rolled_back(bake);
    assert!(line.text.contains("SIGKILL"), "{line}");
    // Lost are the requests that the killed child had, one for each client, and at most one more that comes
    // before psflip knows.
    let Baked { probe, psflip, sandbox } = service;
    let report = probe.finish();
    assert!(report.failures.len() <= 8, "{report}");
    configure(&sandbox, CARELESS, &config(""));
    psflip.flip();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_failing_health_check_in_the_bake_loses_no_request() {
    // Contract: B2, B3, T6
    let service = Baked::start();
    for _ in 0..3 {
        let bake = service.bake();
        service.serves("gen2");
        service.sandbox.write("sick", "");
        let line = service.is_rolled_back(bake);
        assert!(line.text.contains("the health check failed"), "{line}");
        std::fs::remove_file(service.sandbox.path("sick")).unwrap();
        service.serves("gen1");
    }
    service.goes_on_and_ends();
}

#[test]
fn idle_connections_go_back_to_the_old_generation() {
    // Contract: B3, T6
    let service = Baked::start();
    let bake = service.bake();
    let mut idle = HttpClient::new(service.sandbox.path("web.sock").as_path()).keep_alive();
    assert_eq!(idle.get("/").unwrap().tag("name").unwrap(), "gen2");
    service.sandbox.write("sick", "");
    service.is_rolled_back(bake);
    let answer = idle.get("/").unwrap();
    assert!(answer.reused, "the connection was passed back");
    assert_eq!(answer.tag("name").unwrap(), "gen1");
    std::fs::remove_file(service.sandbox.path("sick")).unwrap();
    service.goes_on_and_ends();
}

#[test]
fn what_is_under_way_at_a_roll_back_is_answered() {
    // Contract: B3, T4
    let mut service = Baked::start();
    let bake = service.bake();
    service.serves("gen2");
    service.stop_clients();
    let path = service.sandbox.path("web.sock");
    let mark = service.psflip.output().mark();
    let slow = std::thread::spawn(move || HttpClient::new(path.as_path()).get("/?delay=700ms"));
    service.psflip.output().wait_after(mark, Stream::Stdout, "request ");
    service.sandbox.write("sick", "");
    service.serves("gen1");
    assert_eq!(slow.join().unwrap().unwrap().tag("name").unwrap(), "gen2");
    service.is_rolled_back(bake);
    service.psflip.stop();
    service.sandbox.assert_no_process_left();
}

#[test]
fn a_stop_of_the_new_psflip_rolls_back() {
    // Contract: B2, B3
    let service = Baked::start();
    let bake = service.bake();
    service.serves("gen2");
    bake.new.signal(Signal::SIGTERM).unwrap();
    service.is_rolled_back(bake);
    service.serves("gen1");
    service.goes_on_and_ends();
}

#[test]
fn a_stop_in_a_bake_stops_both_generations() {
    // Contract: B5, F11, T5
    let mut service = Baked::start();
    service.bake();
    service.serves("gen2");
    service.stop_clients();
    let path = service.sandbox.path("web.sock");
    let mark = service.psflip.output().mark();
    let slow = std::thread::spawn(move || HttpClient::new(path.as_path()).get("/?delay=700ms"));
    service.psflip.output().wait_after(mark, Stream::Stdout, "request ");
    let Baked { psflip, sandbox, .. } = service;
    psflip.stop();
    assert_eq!(slow.join().unwrap().unwrap().status, 200);
    // Until then idle connections, and requests on them, may come back to the old relay, so the old child gets no
    // signal: its relay reports a second time that it has answered everything.
    let log = psflip.log();
    let old: Vec<&str> = log.lines().filter(|line| line.contains("generation=1 ")).collect();
    let position = |text: &str| old.iter().rposition(|line| line.contains(text)).unwrap_or_default();
    let (stop, answered) = (position("stop requested"), position("the proxy has answered all requests"));
    assert!(0 < stop && stop < answered && answered < position("the child has exited"), "{log}");
    assert!(!psflip.pidfile_path().exists());
    sandbox.assert_no_process_left();
}

/// Two generations that log signals, each with its own configuration of signals.
#[track_caller]
fn signal_loggers(of_old: &str, of_new: &str) -> (Sandbox, testkit::Psflip) {
    let sandbox = Sandbox::new();
    let both = format!(
        "[upgrade]\n{LONG}[healthcheck.alive]\ntimeout = \"0s\"\n[log]\nlevel = \"debug\"\n\
         [[listen]]\naddress = \"tcp://127.0.0.1:0\"\n[signals]\n"
    );
    let psflip = psflip(&sandbox, &["signal-logger"], &format!("{both}{of_old}")).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    configure(&sandbox, &["signal-logger"], &format!("{both}{of_new}"));
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stderr, "has the traffic and bakes");
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    (sandbox, psflip)
}

#[test]
fn a_second_stop_in_a_bake_does_not_wait_for_the_new_relay() {
    // Contract: B5, T5
    let mut service = Baked::start_with(LONG, "drain = \"1h\"\n");
    service.bake();
    service.serves("gen2");
    service.stop_clients();
    let path = service.sandbox.path("web.sock");
    let mark = service.psflip.output().mark();
    let slow = std::thread::spawn(move || HttpClient::new(path.as_path()).get("/?delay=1h"));
    service.psflip.output().wait_after(mark, Stream::Stdout, "request ");
    let Baked { psflip, sandbox, .. } = service;
    let old = psflip.active();
    let mark = psflip.output().mark();
    old.signal(Signal::SIGTERM).unwrap();
    psflip.output().wait_after(mark, Stream::Stderr, "this generation gives up");
    let mark = psflip.output().mark();
    old.signal(Signal::SIGTERM).unwrap();
    psflip.output().wait_after(mark, Stream::Stderr, "stop requested");
    psflip.wait_exit();
    drop(slow.join().unwrap()); // its child has exited
    sandbox.assert_no_process_left();
}

#[test]
fn a_forwarded_signal_reaches_both_children() {
    // Contract: B5, S1, S8
    let (sandbox, psflip) = signal_loggers("", "SIGUSR1 = \"SIGUSR2\"\n");
    let mark = psflip.output().mark();
    psflip.active().signal(Signal::SIGUSR1).unwrap();
    psflip.output().wait_after(mark, Stream::Stdout, "USR1");
    psflip.output().wait_after(mark, Stream::Stdout, "USR2");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_child_that_reports_its_end_is_rolled_back() {
    // Contract: B2, H6
    let sandbox = Sandbox::new();
    let script =
        "say READY=1; until test -e ill$PSFLIP_GENERATION; do sleep 0.02; done; say STOPPING=1; sleep 60";
    let rest = format!(
        "[upgrade]\n{LONG}[healthcheck.notify]\n[log]\nlevel = \"debug\"\n[[listen]]\naddress = \"unix://web.sock\"\n"
    );
    let argv = ["/bin/sh", "-c", &format!("{SAY}{script}")].map(str::to_owned);
    let psflip = sandbox.psflip().cmd(argv).config(rest).start().wait_ready();
    let child = psflip.child();
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stderr, "has the traffic and bakes");
    sandbox.write("ill2", "");
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade rolled back");
    assert!(line.text.contains("it reported STOPPING=1"), "{line}");
    assert_eq!(psflip.child(), child);
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_signal_that_only_the_new_child_is_to_get_reaches_it() {
    // Contract: B5, S8
    let (sandbox, psflip) = signal_loggers("SIGUSR1 = false\n", "SIGUSR1 = \"SIGUSR2\"\n");
    let mark = psflip.output().mark();
    psflip.active().signal(Signal::SIGUSR1).unwrap();
    psflip.output().wait_after(mark, Stream::Stdout, "USR2");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn the_hook_of_a_roll_back_runs_in_its_place() {
    // Contract: B3
    let hooks = "[hooks]\nfailed = [\"sh\", \"-c\", \"echo failed > failed\"]\n\
        rolled_back = [\"sh\", \"-c\", \"echo $PSFLIP_HOOK $PSFLIP_PID: $PSFLIP_REASON > rolled.new; mv rolled.new rolled\"]\n";
    let service = Baked::start_with(LONG, hooks);
    let bake = service.bake();
    service.sandbox.write("sick", "");
    service.is_rolled_back(bake);
    let text = testkit::wait_until(testkit::Deadline::default(), "the hook to have run", || {
        std::fs::read_to_string(service.sandbox.path("rolled")).ok()
    });
    let expected = format!("rolled_back {}: the health check failed in the bake", bake.old.pid());
    assert!(text.starts_with(&expected), "{text}");
    assert!(!service.sandbox.path("failed").exists());
}

#[test]
fn a_bake_without_a_way_back_is_refused() {
    // Contract: B9
    let sandbox = Sandbox::new();
    let text = format!("cmd = [\"true\"]\n[upgrade]\n{LONG}");
    sandbox.write("psflip.toml", text);
    let check = sandbox.command([testkit::psflip_bin()]).args(["check"]).start();
    assert_eq!(check.wait_exit().code(), Some(78));
    check.output().wait_closed();
    let errors = check.stderr();
    assert!(errors.contains("`upgrade.bake` needs `[[proxy]]`, `[[listen]]` or `[switch]`"), "{errors}");
}
