//! Stop requests while requests are under way.

use std::os::unix::process::ExitStatusExt as _;

use testkit::{Psflip, Sandbox, Signal, Stream};

use super::{CARELESS, HEALTHY, answers, careless, kept, place, proxy, relay, wait_answer, wait_asked};
use crate::service::{kill, psflip};

#[test]
fn a_stop_answers_what_is_under_way_and_then_signals_the_child() {
    // Contract: T5, S5
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let mut slow = kept(&sandbox);
    let mark = psflip.output().mark();
    let answer = std::thread::spawn(move || slow.get("/?delay=1s"));
    wait_asked(&psflip, mark);
    psflip.signal(Signal::SIGINT);
    let answer = answer.join().unwrap().unwrap();
    assert_eq!(answer.tag("name").unwrap(), "gen1");
    psflip.wait_exit();
    // On a signal this child cuts its connections, so the answer shows that it came first.
    place(&psflip, mark, "waited_for=1");
    assert!(
        psflip.output().text(Stream::Stdout).contains("got SIGINT"),
        "the signal that came: {}",
        psflip.log()
    );
    sandbox.assert_no_process_left();
}

#[test]
fn a_second_stop_does_not_wait() {
    // Contract: T5
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let mut slow = kept(&sandbox);
    let mark = psflip.output().mark();
    let answer = std::thread::spawn(move || slow.get("/?delay=60s"));
    wait_asked(&psflip, mark);
    psflip.signal(Signal::SIGTERM);
    psflip.output().wait_after(mark, Stream::Stderr, "stop requested");
    psflip.signal(Signal::SIGTERM);
    psflip.wait_exit();
    assert_eq!(psflip.output().text(Stream::Stdout).matches("got SIGTERM").count(), 1, "{}", psflip.log());
    let answer = answer.join().unwrap();
    assert!(answer.as_ref().map_or(true, |answer| answer.status == 502), "{answer:?}");
    sandbox.assert_no_process_left();
}

#[test]
fn a_stop_waits_for_drain_at_most() {
    // Contract: T5
    let sandbox = Sandbox::new();
    let rest = format!("{HEALTHY}{}", proxy("drain = \"200ms\""));
    let psflip = psflip(&sandbox, CARELESS, &rest).start().wait_ready();
    let mut slow = kept(&sandbox);
    let mark = psflip.output().mark();
    let answer = std::thread::spawn(move || slow.get("/?delay=60s"));
    wait_asked(&psflip, mark);
    psflip.signal(Signal::SIGTERM);
    psflip.wait_exit();
    assert!(psflip.log().contains("no longer waiting for them"), "{}", psflip.log());
    assert!(answer.join().unwrap().map_or(true, |answer| answer.status == 502));
    sandbox.assert_no_process_left();
}

#[test]
fn another_signal_does_not_replace_the_stop_that_waits() {
    // Contract: T5, S1, S8
    let sandbox = Sandbox::new();
    let rest = format!("{HEALTHY}[signals]\nSIGTERM = \"SIGINT\"\n{}", proxy(""));
    let psflip = psflip(&sandbox, CARELESS, &rest).start().wait_ready();
    let mut slow = kept(&sandbox);
    let mark = psflip.output().mark();
    let answer = std::thread::spawn(move || slow.get("/?delay=1s"));
    wait_asked(&psflip, mark);
    psflip.signal(Signal::SIGTERM);
    psflip.signal(Signal::SIGCONT); // as systemd does
    assert_eq!(answer.join().unwrap().unwrap().status, 200);
    psflip.wait_exit();
    let out = psflip.output().text(Stream::Stdout);
    assert!(out.contains("got SIGINT") && !out.contains("got SIGTERM"), "{out}");
    sandbox.assert_no_process_left();
}

/// Ignores SIGTERM, and answers on its socket as `gen1`.
const DEAF: &str = "import http.server, os, signal, socketserver\n\
    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n\
    class Handler(http.server.BaseHTTPRequestHandler):\n\
    \tdef do_GET(self):\n\
    \t\tself.send_response(200)\n\
    \t\tself.send_header('Content-Length', '9')\n\
    \t\tself.end_headers()\n\
    \t\tself.wfile.write(b'name=deaf')\n\
    \tdef address_string(self):\n\
    \t\treturn 'client'\n\
    socketserver.ThreadingUnixStreamServer('blue.sock', Handler).serve_forever()\n";

/// A stop that the child ignores. `meanwhile` happens before psflip finds that out.
#[track_caller]
fn is_ignored(meanwhile: impl FnOnce(&Sandbox, &Psflip)) {
    if testkit::need("python3").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    let deaf = sandbox.write("deaf.py", DEAF);
    let command = ["/usr/bin/env", "python3", deaf.to_str().unwrap()];
    let rest = format!("{HEALTHY}[shutdown]\ntimeout = \"500ms\"\n{}", proxy(""));
    let psflip = psflip(&sandbox, &command, &rest).start().wait_ready();
    assert_eq!(answers(&mut kept(&sandbox)), "deaf");
    let mark = psflip.output().mark();
    psflip.signal(Signal::SIGTERM);
    psflip.output().wait_after(mark, Stream::Stderr, "stop requested");
    meanwhile(&sandbox, &psflip);
    psflip.output().wait_after(mark, Stream::Stderr, "did not exit on the stop request");
    assert_eq!(answers(&mut kept(&sandbox)), "deaf");
    psflip.signal(Signal::SIGKILL);
    assert_eq!(psflip.wait_exit().signal(), Some(9));
    sandbox.assert_no_process_left();
}

#[test]
fn a_child_that_ignores_the_stop_gets_connections_again() {
    // Contract: T5, S5
    is_ignored(|_, _| ());
}

#[test]
fn a_relay_that_is_lost_during_a_stop_is_started_again_if_the_child_ignores_the_stop() {
    // Contract: T5, T9
    is_ignored(|sandbox, psflip| kill(relay(sandbox, psflip)));
}

#[test]
fn a_stop_of_a_draining_generation_does_not_keep_a_service_that_is_down() {
    // Contract: A3, T5
    let sandbox = Sandbox::new();
    let rest = format!("{HEALTHY}{}", proxy("drain = \"10m\""));
    let builder = crate::anchor::anchored(psflip(&sandbox, CARELESS, &rest));
    let psflip = builder.start().wait_ready();
    let mut slow = kept(&sandbox);
    let mark = psflip.output().mark();
    let answer = std::thread::spawn(move || slow.get("/?delay=60s"));
    wait_asked(&psflip, mark);
    let old = psflip.request_flip();
    psflip.wait_successor(old);
    psflip.output().wait_after(mark, Stream::Stderr, "new generation took over");
    wait_answer(&sandbox, "gen2");
    kill(psflip.child());
    psflip.wait_exit(); // long before `drain` is over
    let answer = answer.join().unwrap();
    assert!(answer.as_ref().map_or(true, |answer| answer.status == 502), "{answer:?}");
    sandbox.assert_no_process_left();
}
