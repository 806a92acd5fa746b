//! The clients and the probe against servers that answer, and servers that fail on purpose, each in its own way.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use psflip_testkit::client::fcgi::FcgiClient;
use psflip_testkit::client::http::HttpClient;
use psflip_testkit::client::{ClientError, Stage, field};
use psflip_testkit::{AvailabilityProbe, Sandbox};

/// Reads the head of a request; false when the client has closed.
fn read_head(stream: &mut UnixStream) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return false,
        }
    }
    true
}

/// A server in a thread: the n-th connection is handled by the n-th of `connections`, which answer their requests in order. It
/// ends after the last.
fn serve(sandbox: &Sandbox, connections: Vec<Vec<&'static str>>) -> PathBuf {
    let path = sandbox.path("http.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for answers in connections {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                if !read_head(&mut stream) || stream.write_all(answer.as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    path
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nname=a\n";

#[test]
fn bodies_are_delimited_by_length_chunks_or_connection_close() {
    let sandbox = Sandbox::new();
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nTrailer: z\r\n\r\n";
    let until_end = "HTTP/1.1 404 Not Found\r\nX-Odd:  v \r\n\r\nrest";
    let mut client = HttpClient::unix(serve(&sandbox, vec![vec![OK, chunked, until_end]])).keep_alive();
    let first = client.get("/").unwrap();
    assert_eq!((first.status, first.text().as_str(), first.reused), (200, "name=a\n", false));
    assert_eq!(first.tag("name"), Ok("a".to_owned()));
    let second = client.get("/").unwrap();
    assert_eq!((second.text().as_str(), second.reused), ("abcde", true));
    let third = client.post("/", b"").unwrap();
    assert_eq!((third.status, third.text().as_str(), third.header("x-ODD")), (404, "rest", Some("v")));
    assert_eq!(third.tag("name").unwrap_err().stage, Stage::Content);
}

#[test]
fn one_connection_per_request_is_the_default() {
    let sandbox = Sandbox::new();
    let mut client = HttpClient::unix(serve(&sandbox, vec![vec![OK, OK], vec![OK]]));
    assert!(!client.get("/").unwrap().reused);
    assert!(!client.get("/").unwrap().reused);
}

#[test]
fn a_failure_reports_its_stage_and_cause() {
    let sandbox = Sandbox::new();
    let refused = HttpClient::unix(sandbox.path("nobody")).get("/").unwrap_err();
    assert_eq!((refused.stage, refused.kind), (Stage::Connect, Some(std::io::ErrorKind::NotFound)));
    let answers =
        vec![vec![""], vec!["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"], vec!["SMTP ready\r\n\r\n"]];
    let mut client = HttpClient::unix(serve(&sandbox, answers));
    let mut next = || client.get("/").unwrap_err();
    let (nothing, half, other) = (next(), next(), next());
    assert_eq!((nothing.stage, nothing.received), (Stage::Read, 0));
    assert!(half.stage == Stage::Read && half.cause.contains("5 bytes too early"), "{half}");
    assert_eq!(other.stage, Stage::Protocol);
}

#[test]
fn an_unanswered_request_fails_at_the_timeout() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("silent.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let error = HttpClient::unix(&path).timeout(Duration::from_millis(50)).get("/").unwrap_err();
    assert_eq!((error.stage, error.cause.as_str()), (Stage::Read, "time-out"));
}

#[test]
fn a_closed_keep_alive_connection_is_retried_only_on_request() {
    let sandbox = Sandbox::new();
    let path = serve(&sandbox, vec![vec![OK], vec![OK]]);
    let mut strict = HttpClient::unix(path).keep_alive();
    strict.get("/").unwrap();
    let error = strict.get("/").unwrap_err();
    assert!(error.is_stale_connection(), "{error}");
    drop(sandbox);
    let sandbox = Sandbox::new();
    let mut lenient = HttpClient::unix(serve(&sandbox, vec![vec![OK], vec![OK]])).keep_alive().retry_stale();
    lenient.get("/").unwrap();
    assert_eq!((lenient.get("/").unwrap().reused, lenient.retries()), (false, 1));
}

/// Sends the same bytes to every connection and closes it; they must end with the request's own end.
fn serve_bytes(sandbox: &Sandbox, answer: Vec<u8>) -> PathBuf {
    let path = sandbox.path("fcgi.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 65536];
        let _ = stream.read(&mut request);
        let _ = stream.write_all(&answer);
    });
    path
}

fn record(kind: u8, content: &[u8], padding: u8) -> Vec<u8> {
    let mut bytes = vec![1, kind, 0, 1, 0, content.len() as u8, padding, 0];
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len() + usize::from(padding), 0xee);
    bytes
}

#[test]
fn a_fastcgi_answer_is_assembled_from_its_records() {
    let sandbox = Sandbox::new();
    let records = [
        record(6, b"Status: 503 Busy\r\nContent-", 3),
        record(7, b"warning", 1),
        record(6, b"Type: text/plain\r\n\r\nname=x\n", 0),
        record(6, b"", 0),
        record(3, &[0, 0, 0, 9, 0, 0, 0, 0], 0),
    ];
    let answer = FcgiClient::unix(serve_bytes(&sandbox, records.concat())).get("/a?b=c").unwrap();
    assert_eq!((answer.status, answer.app_status, answer.text().as_str()), (503, 9, "name=x\n"));
    assert_eq!(answer.stderr, b"warning");
}

#[test]
fn a_fastcgi_refusal_is_a_protocol_failure() {
    let sandbox = Sandbox::new();
    let refusal = record(3, &[0, 0, 0, 0, 1, 0, 0, 0], 0);
    let error = FcgiClient::unix(serve_bytes(&sandbox, refusal)).get("/").unwrap_err();
    assert!(error.stage == Stage::Protocol && error.cause.contains("status 1"), "{error}");
}

#[test]
fn a_probe_counts_by_tag_and_reports_failures_with_details() {
    let sent = Arc::new(AtomicU64::new(0));
    let probe = AvailabilityProbe::start(3, |_| {
        let sent = Arc::clone(&sent);
        move || match sent.fetch_add(1, Ordering::Relaxed) {
            5 => Err(ClientError::content("odd one")),
            number => Ok(format!("gen{}", (number / 50).min(2))),
        }
    });
    probe.wait_tag("gen2");
    probe.wait_requests(10);
    let report = probe.finish();
    assert_eq!((report.failed, report.failures.len()), (1, 1));
    assert!(report.failures[0].client < 3 && report.failures[0].error.stage == Stage::Content);
    assert_eq!(
        report.requests,
        report.failed + report.by_tag.values().map(|answers| answers.count).sum::<u64>()
    );
    let failed = catch_unwind(AssertUnwindSafe(|| report.assert_no_failures())).unwrap_err();
    let text = failed.downcast_ref::<String>().unwrap();
    assert!(
        text.contains("1 of ") && text.contains(" client ") && text.contains("Content: odd one"),
        "{text}"
    );
    assert!(text.find("`gen0`").unwrap() < text.find("`gen1`").unwrap(), "a timeline is in order: {text}");
}

#[test]
fn a_probe_without_a_request_proves_nothing() {
    let probe = AvailabilityProbe::start(0, |_| || Ok(String::new()));
    let report = probe.finish();
    assert!(catch_unwind(AssertUnwindSafe(|| report.assert_no_failures())).is_err());
}

#[test]
fn a_field_of_an_answer_is_found_by_its_exact_key() {
    assert_eq!(field("surname=b name=a pid=7", "name"), Some("a"));
    assert_eq!(field("names=a", "name"), None);
}
