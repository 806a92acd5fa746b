//! `fcgi`, with servers that send the answers of the test, record by record.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::super::Checker;
use super::*;
use crate::config::{Endpoint, FcgiRequest};

const STDOUT: u8 = 6;
const STDERR: u8 = 7;
const END_REQUEST: u8 = 3;

fn fcgi(target: Endpoint, child: ChildInfo) -> Checker {
    let request = FcgiRequest {
        address: "unix:app.sock".into(),
        target,
        script: "/ping".into(),
        query: "full".into(),
        params: vec![("EXTRA".into(), "x".repeat(200))],
    };
    checker_of(&Health::Fcgi { request, status: vec![200..=399], pace: PACE }, child)
}

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let [high, low] = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[1, kind, 0, 1, high, low, 3, 0], content, b"pad"].concat()
}

/// A server that has received the request of a check, and has not answered yet.
struct PendingProbe {
    checker: Checker,
    peer: UnixStream,
    request: Vec<u8>,
    _directory: tempfile::TempDir,
}

/// Reads up to the record that ends STDIN, which is the last one.
fn read_request(peer: &mut (impl Read + AsFd)) -> Vec<u8> {
    let mut request = Vec::new();
    while !request.ends_with(&[1, 5, 0, 1, 0, 0, 0, 0]) {
        wait_for_input(&*peer);
        let mut buffer = [0; 512];
        let length = peer.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "the request has no end: {}", request.escape_ascii());
        request.extend_from_slice(&buffer[..length]);
    }
    request
}

/// Lets the checker send everything.
fn send_all(checker: &mut Checker) {
    while checker.watch().is_some_and(|(_, interest)| interest == Interest::Write) {
        assert_eq!(turn(checker), CheckResult::NOTHING);
    }
}

fn pending_probe() -> PendingProbe {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut checker = fcgi(Endpoint::Unix(path), child());
    assert_eq!(checker.start(), BEGUN);
    send_all(&mut checker);
    let (mut peer, _) = listener.accept().unwrap();
    let request = read_request(&mut peer);
    PendingProbe { checker, peer, request, _directory: directory }
}

impl PendingProbe {
    /// The result of the probe after this answer.
    #[track_caller]
    fn after(&mut self, records: &[(u8, &[u8])]) -> CheckResult {
        for (kind, content) in records {
            self.peer.write_all(&record(*kind, content)).unwrap();
        }
        settle(&mut self.checker, CheckResult::NOTHING)
    }

    /// The error message of the probe after this answer.
    #[track_caller]
    fn failure_after(mut self, records: &[(u8, &[u8])]) -> String {
        assert_eq!(self.after(records), SOON);
        let failure = self.checker.last_failure().unwrap();
        failure.strip_prefix("probe 1 failed: `unix:app.sock /ping`: ").expect(failure).to_owned()
    }
}

const END: (u8, &[u8]) = (END_REQUEST, &[0; 8]);

#[test]
fn the_request_is_for_a_responder_without_keep_alive() {
    // Contract: H1
    let PendingProbe { request, .. } = pending_probe();
    assert!(request.starts_with(&[1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 4, 0, 1]));
    let has = |pair: &[u8]| request.windows(pair.len()).any(|part| part == pair);
    assert!(has(b"\x0f\x05SCRIPT_FILENAME/ping") && has(b"\x0b\x05SCRIPT_NAME/ping"));
    assert!(has(b"\x0c\x04QUERY_STRINGfull") && has(b"\x0b\x0aREQUEST_URI/ping?full"));
    assert!(has(&[b"\x05\x80\0\0\xc8EXTRA".as_slice(), &[b'x'; 200]].concat()));
}

#[test]
fn an_expected_status_is_healthy_once_the_request_is_complete() {
    // Contract: H1
    for header in
        ["Status: 204 No Content\r\n\r\n", "Content-type: text/plain\r\n\r\npong", "Location: /x\n\n"]
    {
        let mut pending = pending_probe();
        pending.peer.write_all(&record(STDOUT, header.as_bytes())).unwrap();
        assert_eq!(turn(&mut pending.checker), CheckResult::NOTHING, "{header}");
        assert_eq!(pending.after(&[(STDOUT, b""), END]), HEALTHY, "{header}");
    }
}

#[test]
fn an_unexpected_status_fails_with_the_applications_stderr() {
    // Contract: H1, H4
    let failure = pending_probe().failure_after(&[
        (STDERR, b"Primary script unknown\n"),
        (STDOUT, b"Status: 404 Not Found\r\nContent-type: text/html\r\n\r\nFile not found.\n"),
        END,
    ]);
    assert_eq!(failure, "FastCGI status 404, wanted 200-399; its STDERR: Primary script unknown");
}

#[test]
fn a_truncated_answer_fails_and_reports_where() {
    // Contract: H4
    for (records, wanted) in [
        (&[][..], "the connection was closed without an answer"),
        (&[(STDERR, &b"Segmentation fault"[..])], "closed before a header; its STDERR: Segmentation fault"),
        (&[(STDOUT, b"Status: 200\r\n")], "closed in the middle of the header"),
        (&[(STDOUT, b"Status: 200\r\n\r\nbody")], "closed before the end of the request (FCGI_END_REQUEST)"),
    ] {
        let pending = pending_probe();
        for (kind, content) in records {
            (&pending.peer).write_all(&record(*kind, content)).unwrap();
        }
        pending.peer.shutdown(Shutdown::Write).unwrap();
        let failure = pending.failure_after(&[]);
        assert!(failure.ends_with(wanted), "{failure}");
    }
}

#[test]
fn invalid_fastcgi_fails_at_once() {
    // Contract: H4, X2
    let mut other = pending_probe();
    other.peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    let failure = other.failure_after(&[]);
    assert!(failure.starts_with("the answer is not FastCGI 1: a record began with `HTTP/1.1`"), "{failure}");
    let failure = pending_probe().failure_after(&[(END_REQUEST, &[0, 0, 0, 0, 2, 0, 0, 0])]);
    assert_eq!(failure, "the application is overloaded (FCGI_OVERLOADED)");
}

#[test]
fn an_endless_answer_fails_with_bounded_memory() {
    // Contract: H4, X2
    let mut pending = pending_probe();
    let block = [record(STDOUT, b"A: b\r\n\r\n"), record(STDOUT, &[b'x'; 30_000])].concat();
    let mut sent = 0;
    let step = loop {
        sent += block.len();
        assert!(sent < 2 * 1024 * 1024, "it reads on and on");
        pending.peer.write_all(&block).unwrap(); // less than a socket holds
        match turn(&mut pending.checker) {
            CheckResult::NOTHING => {}
            step => break step,
        }
    };
    assert_eq!(step, SOON);
    let failure = pending.checker.last_failure().unwrap();
    assert!(failure.ends_with("no end of the answer within 1 MiB"), "{failure}");
}

#[test]
fn a_slow_answer_fails_at_the_timeout_and_the_connection_is_closed() {
    // Contract: H2, H4
    let mut silent = pending_probe();
    assert_eq!(silent.checker.on_timer(), SOON);
    let wanted = "probe 1 failed: `unix:app.sock /ping`: no answer within 5s";
    assert_eq!(silent.checker.last_failure(), Some(wanted));
    assert_eq!(silent.peer.read(&mut [0; 1]).unwrap(), 0);

    let mut slow = pending_probe();
    slow.peer.write_all(&record(STDERR, b"waiting for the database")).unwrap();
    assert_eq!(turn(&mut slow.checker), CheckResult::NOTHING);
    assert_eq!(slow.checker.on_timer(), SOON);
    let failure = slow.checker.last_failure().unwrap();
    assert!(
        failure.ends_with("no end of the answer within 5s; its STDERR: waiting for the database"),
        "{failure}"
    );
}

#[test]
fn a_complete_answer_at_the_timeout_counts() {
    // Contract: F12
    let mut pending = pending_probe();
    pending
        .peer
        .write_all(&[record(STDOUT, b"A: b\r\n\r\n"), record(END_REQUEST, &[0; 8])].concat())
        .unwrap();
    wait_for_input(pending.checker.watch().unwrap().0);
    assert_eq!(pending.checker.on_timer(), HEALTHY);
}

#[test]
fn a_missing_fastcgi_socket_is_reported() {
    // Contract: H1, H4
    let mut checker = fcgi(Endpoint::Unix("/nonexistent/app.sock".into()), child());
    let failure = first_failure(&mut checker);
    assert_eq!(failure, "connect to /nonexistent/app.sock: No such file or directory (os error 2)");
}

#[test]
fn a_fastcgi_answer_of_the_old_child_does_not_count() {
    // Contract: U3, H4
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let old_psflips = vec![std::os::unix::process::parent_id()];
    let mut checker = fcgi(Endpoint::Unix(path), ChildInfo { old_psflips, ..child() });
    assert_eq!(checker.start(), SOON);
    assert!(checker.last_failure().unwrap().contains("still listens there"));
}

#[test]
fn fastcgi_works_over_tcp_and_in_the_childs_directory() {
    // Contract: H1
    let directory = tempfile::tempdir().unwrap();
    let unix = UnixListener::bind(directory.path().join("app.sock")).unwrap();
    let workdir = Some(directory.path().to_path_buf());
    let mut checker = fcgi(Endpoint::Unix(Path::new("app.sock").into()), ChildInfo { workdir, ..child() });
    assert_eq!(checker.start(), BEGUN);
    send_all(&mut checker);
    wait_for_input(&unix);

    let tcp = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let mut checker = fcgi(Endpoint::Tcp(vec![tcp.local_addr().unwrap()]), child());
    assert_eq!(checker.start(), BEGUN);
    send_all(&mut checker);
    let (mut peer, _) = tcp.accept().unwrap();
    read_request(&mut peer);
    peer.write_all(&[record(STDOUT, b"A: b\r\n\r\n"), record(END_REQUEST, &[0; 8])].concat()).unwrap();
    assert_eq!(settle(&mut checker, CheckResult::NOTHING), HEALTHY);
}
