//! `http`, with servers that send the answers of the test, byte by byte.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::super::Checker;
use super::*;
use crate::config::{Endpoint, HttpMethod, HttpRequest};

fn http(target: Endpoint) -> Checker {
    with(request(target))
}

fn request(target: Endpoint) -> HttpRequest {
    HttpRequest {
        url: "http://app/up".into(),
        target,
        method: HttpMethod::Get,
        host: "app".into(),
        headers: Vec::new(),
        path: "/up?deep=1".into(),
    }
}

fn with(request: HttpRequest) -> Checker {
    checker(&Health::Http { request, status: vec![200..=399, 401..=401], pace: PACE })
}

/// A server that has received the request of a check, and has not answered yet.
struct PendingProbe {
    checker: Checker,
    connection: TcpStream,
    request: String,
}

fn pending_probe() -> PendingProbe {
    pending_probe_with(|_| {})
}

fn pending_probe_with(change: impl FnOnce(&mut HttpRequest)) -> PendingProbe {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut request = request(Endpoint::Tcp(vec![listener.local_addr().unwrap()]));
    change(&mut request);
    let mut checker = with(request);
    assert_eq!(checker.start(), BEGUN);
    while checker.watch().is_some_and(|(_, interest)| interest == Interest::Write) {
        assert_eq!(turn(&mut checker), CheckResult::NOTHING);
    }
    wait_for_input(&listener);
    let (mut connection, _) = listener.accept().unwrap();
    let request = read_request(&mut connection);
    PendingProbe { checker, connection, request }
}

fn read_request(connection: &mut (impl Read + AsFd)) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        wait_for_input(&*connection);
        let mut buffer = [0; 512];
        let length = connection.read(&mut buffer).unwrap();
        assert_ne!(length, 0, "the request has no end: {}", request.escape_ascii());
        request.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(request).unwrap()
}

impl PendingProbe {
    /// The result of the probe after this answer.
    #[track_caller]
    fn after(&mut self, answer: &[u8]) -> CheckResult {
        self.connection.write_all(answer).unwrap();
        settle(&mut self.checker, CheckResult::NOTHING)
    }

    /// The error message of the probe after this answer.
    #[track_caller]
    fn failure_after(mut self, answer: &[u8]) -> String {
        assert_eq!(self.after(answer), SOON);
        self.checker.last_failure().unwrap().to_owned()
    }
}

#[test]
fn the_request_is_a_plain_get() {
    // Contract: H1
    let version = env!("CARGO_PKG_VERSION");
    let wanted = [
        "GET /up?deep=1 HTTP/1.1",
        "Host: app",
        &format!("User-Agent: psflip/{version}"),
        "Accept: */*",
        "Connection: close",
        "\r\n",
    ];
    assert_eq!(pending_probe().request, wanted.join("\r\n"));
}

#[test]
fn the_request_has_the_method_the_host_and_the_headers_of_the_configuration() {
    // Contract: H1
    let pending = pending_probe_with(|request| {
        request.method = HttpMethod::Head;
        request.host = "app.example:8080".into();
        request.headers = vec![
            ("Authorization".into(), "Bearer t0ken".into()),
            ("user-agent".into(), "probe".into()),
            ("X-Empty".into(), String::new()),
        ];
    });
    let wanted = [
        "HEAD /up?deep=1 HTTP/1.1",
        "Host: app.example:8080",
        "Accept: */*",
        "Authorization: Bearer t0ken",
        "user-agent: probe",
        "X-Empty: ",
        "Connection: close",
        "\r\n",
    ];
    assert_eq!(pending.request, wanted.join("\r\n"));
    let failure = pending.failure_after(b"HTTP/1.1 401x\r\n\r\n");
    assert!(!failure.contains("t0ken"), "{failure}");
}

#[test]
fn an_expected_status_is_healthy() {
    // Contract: H1
    for status in ["200 OK", "302 Found", "399", "401 Unauthorized"] {
        let answer = format!("HTTP/1.1 {status}\r\n");
        assert_eq!(pending_probe().after(answer.as_bytes()), HEALTHY, "{status}");
    }
}

#[test]
fn an_unexpected_status_fails_and_is_named() {
    // Contract: H1, H4
    let failure = pending_probe().failure_after(b"HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\n");
    assert_eq!(failure, "probe 1 failed: `http://app/up`: HTTP status 503, wanted 200-399,401");
}

#[test]
fn a_status_line_may_come_in_pieces() {
    // Contract: H1
    let mut pending = pending_probe();
    for piece in [&b"HT"[..], b"TP/1.1 2", b"00", b" O"] {
        pending.connection.write_all(piece).unwrap();
        assert_eq!(turn(&mut pending.checker), CheckResult::NOTHING);
    }
    assert_eq!(pending.after(b"K\r\n"), HEALTHY);
}

#[test]
fn a_hanging_server_fails_at_the_timeout_and_is_disconnected() {
    // Contract: H2, H4
    let mut pending = pending_probe();
    assert_eq!(pending.checker.on_timer(), SOON);
    let failure = pending.checker.last_failure().unwrap();
    assert_eq!(failure, "probe 1 failed: `http://app/up`: no answer within 5s");
    wait_for_input(&pending.connection);
    assert_eq!(pending.connection.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn an_answer_that_arrived_by_the_timeout_counts() {
    // Contract: F12
    let mut pending = pending_probe();
    pending.connection.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
    wait_for_input(pending.checker.watch().unwrap().0);
    assert_eq!(pending.checker.on_timer(), HEALTHY);
}

#[test]
fn an_invalid_answer_is_quoted() {
    // Contract: H4, X2
    let failure = pending_probe().failure_after(b"SSH-2.0-x\r\n");
    assert_eq!(
        failure,
        r"probe 1 failed: `http://app/up`: the answer is not HTTP/1: it began with `SSH-2.0-x\r\n`"
    );
    let endless = [b"HTTP/1.1 200 ".as_slice(), &[b'x'; 9000]].concat();
    let failure = pending_probe().failure_after(&endless);
    assert!(failure.contains("no end of a status line within 8 KiB: it began with `HTTP/1.1 200 xxx"));
    assert!(failure.len() < 200, "{failure}");
}

#[test]
fn a_server_that_closes_the_connection_has_not_answered() {
    // Contract: H4
    let pending = pending_probe();
    pending.connection.shutdown(std::net::Shutdown::Write).unwrap();
    let failure = pending.failure_after(b"");
    let wanted = "`http://app/up`: the connection was closed before the end of a status line";
    assert_eq!(failure, format!("probe 1 failed: {wanted}"));
}

#[test]
fn http_works_over_a_unix_socket() {
    // Contract: H1, H4
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let mut checker = http(Endpoint::Unix(path.clone()));
    assert!(first_failure(&mut checker).ends_with("No such file or directory (os error 2)"));
    let mut connection = accept_probe(&mut checker, &path);
    connection.write_all(b"HTTP/1.1 204 No Content\r\n").unwrap();
    assert_eq!(settle(&mut checker, CheckResult::NOTHING), HEALTHY);
}

fn accept_probe(checker: &mut Checker, path: &Path) -> std::os::unix::net::UnixStream {
    let listener = UnixListener::bind(path).unwrap();
    assert_eq!(checker.on_timer(), BEGUN);
    wait_for_input(&listener);
    let (mut connection, _) = listener.accept().unwrap();
    read_request(&mut connection);
    connection
}
