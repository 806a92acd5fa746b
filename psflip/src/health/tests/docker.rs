//! `docker`, with an engine that sends the answers of the test.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::super::Checker;
use super::*;

/// The step after which nothing is waited for any more.
const NEVER: CheckResult = CheckResult { verdict: Verdict::Never, timer: Timer::Off };

fn docker(socket: &Path) -> Checker {
    checker(&Health::Docker { container: "web-blue".into(), socket: socket.into(), pace: PACE })
}

struct Engine {
    directory: tempfile::TempDir,
    listener: UnixListener,
}

impl Engine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("d.sock")).unwrap();
        Self { directory, listener }
    }

    fn check(&self) -> Checker {
        docker(&self.directory.path().join("d.sock"))
    }

    /// Receives the request of a probe.
    fn request(&self, checker: &mut Checker) -> (UnixStream, String) {
        while checker.watch().is_some_and(|(_, interest)| interest == Interest::Write) {
            assert_eq!(turn(checker), CheckResult::NOTHING);
        }
        let (mut peer, _) = self.listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            wait_for_input(&peer);
            let mut buffer = [0; 512];
            let length = peer.read(&mut buffer).unwrap();
            assert_ne!(length, 0, "the request has no end: {}", request.escape_ascii());
            request.extend_from_slice(&buffer[..length]);
        }
        (peer, String::from_utf8(request).unwrap())
    }

    /// The result of a first probe with this answer; the connection stays open.
    fn answer(&self, answer: &[u8]) -> (CheckResult, String) {
        let mut checker = self.check();
        assert_eq!(checker.start(), BEGUN);
        let (mut peer, _) = self.request(&mut checker);
        peer.write_all(answer).unwrap();
        let step = settle(&mut checker, CheckResult::NOTHING);
        (step, checker.last_failure().unwrap_or_default().to_owned())
    }
}

fn sized(status: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[test]
fn the_engine_gets_a_request_for_the_container() {
    // Contract: H1
    let engine = Engine::new();
    let mut checker = engine.check();
    assert_eq!(checker.start(), BEGUN);
    let (_, request) = engine.request(&mut checker);
    assert!(request.starts_with("GET /containers/web-blue/json HTTP/1.1\r\nHost: docker\r\n"), "{request}");
    assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
}

#[test]
fn a_healthy_container_is_healthy_however_the_answer_is_framed() {
    // Contract: H1
    let body = r#"{"State":{"Status":"running","Health":{"Status":"healthy"}}}"#;
    let (head, tail) = body.split_at(20);
    let chunked = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{head}\r\n{:x}\r\n{tail}\r\n0\r\n\r\n",
        head.len(),
        tail.len()
    );
    let engine = Engine::new();
    for answer in [sized("200 OK", body), chunked.into_bytes()] {
        assert_eq!(engine.answer(&answer), (HEALTHY, String::new()));
    }
}

#[test]
fn a_container_that_is_not_healthy_yet_is_probed_again() {
    // Contract: H1, H4
    let engine = Engine::new();
    let mut checker = engine.check();
    let mut step = checker.start();
    for (status, body, wanted) in [
        (
            "404 Not Found",
            r#"{"message":"No such container: web-blue"}"#,
            "probe 1 failed: there is no container `web-blue` (yet): No such container: web-blue",
        ),
        (
            "200 OK",
            r#"{"State":{"Status":"running","Health":{"Status":"unhealthy","Log":[{"ExitCode":1,"Output":"refused"}]}}}"#,
            "probe 2 failed: the container `web-blue` is `unhealthy`; its check exited with code 1: refused",
        ),
    ] {
        assert_eq!(step, BEGUN);
        let (mut peer, _) = engine.request(&mut checker);
        peer.write_all(&sized(status, body)).unwrap();
        assert_eq!(settle(&mut checker, CheckResult::NOTHING), AGAIN);
        assert_eq!(checker.last_failure(), Some(wanted));
        step = checker.on_timer();
    }
}

#[test]
fn a_hopeless_container_stops_the_wait() {
    // Contract: H3, H4
    let engine = Engine::new();
    for (body, wanted) in [
        (r#"{"State":{"Status":"exited","ExitCode":3}}"#, "the container `web-blue` has exited with code 3"),
        (
            r#"{"State":{"Status":"dead"}}"#,
            "the container `web-blue` is dead: the engine could not remove it",
        ),
        (
            r#"{"State":{"Status":"running"}}"#,
            "the container `web-blue` has no health check, so it will never be healthy",
        ),
    ] {
        let (step, why) = engine.answer(&sized("200 OK", body));
        assert_eq!(step, NEVER, "{body}");
        assert!(why.starts_with(wanted), "{why}");
    }
    let mut checker = engine.check();
    assert_eq!(checker.start(), BEGUN);
    let (mut peer, _) = engine.request(&mut checker);
    peer.write_all(&sized("200 OK", r#"{"State":{"Status":"dead"}}"#)).unwrap();
    wait_for_input(checker.watch().unwrap().0);
    assert_eq!(checker.on_timer(), NEVER, "also when time is up at the same moment");
    assert!(checker.watch().is_none());
    assert_eq!(checker.on_timer(), CheckResult::NOTHING);
}

#[test]
fn a_missing_engine_and_a_missing_permission_are_reported() {
    // Contract: H4
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("d.sock");
    let missing = first_failure(&mut docker(&socket));
    assert_eq!(missing, format!("connect to {}: No such file or directory (os error 2)", socket.display()));
    std::fs::write(&socket, "").unwrap();
    let refused = first_failure(&mut docker(&socket));
    assert!(refused.ends_with("Connection refused (os error 111)"), "{refused}");
}

#[test]
fn an_invalid_engine_answer_is_reported_with_bounded_memory() {
    // Contract: H4, X2
    let engine = Engine::new();
    let (step, why) = engine.answer(b"SSH-2.0-x\r\n");
    assert_eq!(step, AGAIN);
    assert!(why.ends_with(r"the answer is not HTTP/1: it began with `SSH-2.0-x\r\n`"), "{why}");
    let (step, why) = engine.answer(&sized("200 OK", "hello"));
    assert_eq!((step, why.contains("the engine's answer can't be read")), (AGAIN, true), "{why}");

    let mut checker = engine.check();
    assert_eq!(checker.start(), BEGUN);
    let (peer, _) = engine.request(&mut checker);
    (&peer).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    assert_eq!(settle(&mut checker, CheckResult::NOTHING), AGAIN);
    assert!(checker.last_failure().unwrap().contains("closed in the middle of the answer"));

    let mut checker = engine.check();
    assert_eq!(checker.start(), BEGUN);
    let (mut peer, _) = engine.request(&mut checker);
    peer.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let mut sent = 0;
    let step = loop {
        sent += 60_000;
        assert!(sent < 2 * 1024 * 1024, "it reads on and on");
        peer.write_all(&[b' '; 60_000]).unwrap(); // less than a socket holds
        match turn(&mut checker) {
            CheckResult::NOTHING => {}
            step => break step,
        }
    };
    assert_eq!(step, AGAIN);
    assert!(checker.last_failure().unwrap().ends_with("no end of the answer within 1 MiB"));
}

#[test]
fn an_engine_that_hangs_fails_at_the_probes_timeout() {
    // Contract: H2, H4
    let engine = Engine::new();
    let mut checker = engine.check();
    assert_eq!(checker.start(), BEGUN);
    let _peer = engine.request(&mut checker);
    assert_eq!(checker.on_timer(), AGAIN);
    assert!(checker.last_failure().unwrap().ends_with("d.sock`: no answer within 5s"));
}
