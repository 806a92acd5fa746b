//! Requests that two servers might read in two ways, so that a second request passes the first server unseen:
//! the classes of RFC 9112, section 11.2, and of the public lists of this attack (CL.TE, TE.CL, TE.TE, bytes
//! around field names and values, chunk framing, trailers, upgrades).
//!
//! Each case ends in `GET /smuggled`. What counts is what the child gets: each of its connections must carry
//! one request that has one meaning only.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

use relay::message::Protocol;

use crate::support::{Client, DEADLINE, Relay, listener, proxy};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// A child that keeps all bytes of each connection.
#[derive(Default)]
struct Recorder {
    /// Connections that were accepted, and what the closed ones carried.
    state: Mutex<(usize, Vec<Vec<u8>>)>,
    changed: Condvar,
}

impl Recorder {
    fn start() -> (Arc<Self>, SocketAddr) {
        let this = Arc::new(Self::default());
        let (listener, address) = listener();
        let recorder = Arc::clone(&this);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                recorder.state.lock().unwrap().0 += 1;
                let recorder = Arc::clone(&recorder);
                std::thread::spawn(move || recorder.record(connection.unwrap()));
            }
        });
        (this, address)
    }

    fn record(&self, mut connection: TcpStream) {
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
        let mut is_answered = false;
        while let Ok(length @ 1..) = connection.read(&mut buffer) {
            got.extend_from_slice(&buffer[..length]);
            if !is_answered && let Ok(Some(_)) = understood(&got) {
                is_answered = true;
                let _ = connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
                let _ = connection.shutdown(Shutdown::Write);
            }
        }
        self.state.lock().unwrap().1.push(got);
        self.changed.notify_all();
    }

    /// What came since the last call. All connections that are accepted must be closed first.
    fn take(&self) -> Vec<Vec<u8>> {
        let mut state = self.state.lock().unwrap();
        while state.0 != state.1.len() {
            let (next, timeout) = self.changed.wait_timeout(state, DEADLINE).unwrap();
            assert!(!timeout.timed_out(), "waited for the relay to close its connections to the child");
            state = next;
        }
        state.0 = 0;
        std::mem::take(&mut state.1)
    }
}

/// A request as a strict server reads it.
#[derive(Debug)]
struct Request {
    line: String,
    body: Vec<u8>,
    /// What follows.
    rest: Vec<u8>,
}

/// `None`: it is not complete.
///
/// # Errors
/// It can be read in more than one way, or in none.
fn understood(bytes: &[u8]) -> Result<Option<Request>, String> {
    let Some(end) = find(bytes, b"\r\n\r\n") else { return Ok(None) };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let mut framing = Vec::new();
    for field in lines {
        let Some((name, value)) = field.split_once(':') else { return Err(format!("no field: {field:?}")) };
        if name.is_empty()
            || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.!".contains(&byte))
        {
            return Err(format!("no name: {name:?}"));
        }
        if value.chars().any(|character| character.is_control() && character != '\t') {
            return Err(format!("no value: {value:?}"));
        }
        if ["content-length", "transfer-encoding"].contains(&&*name.to_lowercase()) {
            framing.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }
    if line.bytes().any(|byte| byte.is_ascii_control()) || line.split(' ').count() != 3 {
        return Err(format!("no request line: {line:?}"));
    }
    let mut rest = bytes[end + 4..].to_vec();
    let mut body = Vec::new();
    match &*framing {
        [] => {}
        [(name, value)] if name == "content-length" => {
            if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(format!("no length: {value:?}"));
            }
            let length = value.parse::<usize>().map_err(|error| error.to_string())?;
            if rest.len() < length {
                return Ok(None);
            }
            body = rest.drain(..length).collect();
        }
        [(_, value)] if value == "chunked" => loop {
            let Some(end) = find(&rest, b"\r\n") else { return Ok(None) };
            let size = String::from_utf8_lossy(&rest[..end]).into_owned();
            if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(format!("no chunk size: {size:?}"));
            }
            let size = usize::from_str_radix(&size, 16).map_err(|error| error.to_string())?;
            if size == 0 {
                let Some(end) = find(&rest[end..], b"\r\n\r\n").map(|at| end + at + 4) else {
                    return Ok(None);
                };
                let trailers = String::from_utf8_lossy(&rest[..end]).to_lowercase();
                if ["content-length", "transfer-encoding", "host"].iter().any(|name| trailers.contains(name))
                {
                    return Err(format!("trailers: {trailers:?}"));
                }
                rest.drain(..end);
                break;
            }
            if rest.len() < end + 2 + size + 2 {
                return Ok(None);
            }
            body.extend_from_slice(&rest[end + 2..end + 2 + size]);
            if rest[end + 2 + size..][..2] != *b"\r\n" {
                return Err("no end of the chunk".to_owned());
            }
            rest.drain(..end + 2 + size + 2);
        },
        other => return Err(format!("framing: {other:?}")),
    }
    Ok(Some(Request { line, body, rest }))
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

/// Sends a case on a connection of its own. Returns the lines of the requests that the child got, each with
/// its body.
fn carried(address: SocketAddr, recorder: &Recorder, case: &[u8]) -> Vec<(String, Vec<u8>)> {
    let shown = String::from_utf8_lossy(case).into_owned();
    let mut client = Client::connect(address);
    // The relay may have refused the request and closed the connection already.
    let _ = client.stream.write_all(case);
    let _ = client.stream.shutdown(Shutdown::Write);
    let answers = client.rest().unwrap_or_default();
    let mut sentinel = Client::connect(address);
    sentinel.send("GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(sentinel.rest().unwrap().starts_with("HTTP/1.1 200 "));
    let mut requests = Vec::new();
    for got in recorder.take() {
        let text = String::from_utf8_lossy(&got).into_owned();
        match understood(&got) {
            Ok(Some(request)) => {
                assert!(request.rest.is_empty(), "{shown:?}: more than one request:\n{text:?}");
                requests.push((request.line, request.body));
            }
            // Never complete: all that came belongs to this one request.
            Ok(None) => {}
            Err(why) => panic!("{shown:?}: the child got {why}\n{text:?}"),
        }
    }
    let last = requests.iter().position(|(line, _)| line.starts_with("GET /last ")).unwrap();
    requests.remove(last);
    let count = answers.matches("HTTP/1.1 200 ").count();
    assert!(count <= requests.len(), "{shown:?}: {} requests, and {answers:?}", requests.len());
    requests
}

/// Checks cases of which the child may get the first request or none, but never the second.
fn never_two(cases: impl IntoIterator<Item = Vec<u8>>) {
    let (socket, address) = listener();
    let (recorder, child) = Recorder::start();
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    for case in cases {
        let requests = carried(address, &recorder, &case);
        let shown = String::from_utf8_lossy(&case).into_owned();
        assert!(requests.len() <= 1, "{shown:?}: {requests:?}");
        assert!(requests.iter().all(|(line, _)| !line.contains("/smuggled")), "{shown:?}: {requests:?}");
    }
}

/// A request whose `fields` may hide `Transfer-Encoding`. By its length all the rest is its body; read as
/// chunks, its body is empty and the rest is a request.
fn hidden_chunked(fields: &[u8]) -> Vec<u8> {
    let body = format!("0\r\n\r\n{SMUGGLED}");
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n", body.len());
    [head.as_bytes(), fields, b"\r\n\r\n", body.as_bytes()].concat()
}

/// The same request, for a server that ignores a length that it does not understand.
fn hidden_length(field: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{field}\r\n\r\n{SMUGGLED}").into()
}

#[test]
fn a_length_beside_chunks_never_smuggles() {
    // Contract: T10
    let plain = |fields: &str| hidden_chunked(fields.as_bytes());
    let chunk = format!("{:x}\r\n{SMUGGLED}\r\n0\r\n\r\n", SMUGGLED.len());
    never_two([
        plain("Transfer-Encoding: chunked"),
        plain("transfer-encoding: CHUNKED"),
        plain("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        plain("Transfer-Encoding: chunked\r\nTransfer-Encoding: x"),
        plain("Transfer-Encoding: x\r\nTransfer-Encoding: chunked"),
        plain("Transfer-Encoding: identity"),
        plain("Transfer-Encoding: identity, chunked"),
        plain("Transfer-Encoding: chunked, identity"),
        plain("Transfer-Encoding: gzip, chunked"),
        plain("Transfer-Encoding: chunked;q=1"),
        plain("Transfer-Encoding: \"chunked\""),
        plain("Transfer-Encoding: xchunked"),
        plain("Transfer-Encoding: chunkedx"),
        plain("Transfer-Encoding:"),
        plain("Transfer-Encoding: ,chunked"),
        plain("Transfer-Encoding: chunked,"),
        plain("Transfer-Encoding:\r\n chunked"),
        plain("Transfer-Encoding\r\n: chunked"),
        plain("Transfer_Encoding: chunked"),
        plain("X: x\r\n Transfer-Encoding: chunked"),
        plain("Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked"),
        plain("Connection: Content-Length\r\nTransfer-Encoding: chunked"),
        // Read by its length, the body ends within the first chunk, and a request follows.
        format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}").into(),
        // HTTP/1.0 has no chunks.
        format!("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}").into(),
        format!("POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}").into(),
    ]);
}

#[test]
fn a_byte_around_transfer_encoding_never_smuggles() {
    // Contract: T10
    let mut cases = Vec::new();
    for byte in [0, 1, 4, 8, 9, 0xa, 0xb, 0xc, 0xd, 0x1f, b' ', 0x7f, 0x85, 0xa0, 0xff] {
        let b = &[byte][..];
        for fields in [
            [b"Transfer-Encoding:", b, b"chunked"].concat(),
            [b"Transfer-Encoding", b, b": chunked"].concat(),
            [b, b"Transfer-Encoding: chunked"].concat(),
            [b"Transfer-Encoding: chunked", b].concat(),
            [b"X: X", b, b"Transfer-Encoding: chunked"].concat(),
            [b"Transfer-Encoding: chunked", b, b"X: X"].concat(),
            [b"X: X\r", b, b"Transfer-Encoding: chunked"].concat(),
            [b"X: X", b, b"\nTransfer-Encoding: chunked"].concat(),
            [b"Transfer-Encoding: chunked\r", b, b"X: X"].concat(),
            [b"Transfer-Encoding: chunked", b, b"\nX: X"].concat(),
            [b"Transfer", b, b"Encoding: chunked"].concat(),
            [b"Transfer-Encoding: chun", b, b"ked"].concat(),
        ] {
            cases.push(hidden_chunked(&fields));
        }
    }
    never_two(cases);
}

#[test]
fn a_length_that_is_doubled_or_no_number_never_smuggles() {
    // Contract: T10
    let length = SMUGGLED.len();
    let lengths = [
        "Content-Length: 0\r\nContent-Length: LEN",
        "Content-Length: LEN\r\nContent-Length: 0",
        "Content-Length: LEN\r\nContent-Length: LEN",
        "Content-Length: LEN\r\ncontent-length: LEN",
        "Content-Length: 0, LEN",
        "Content-Length: LEN, LEN",
        "Content-Length: LEN,",
        "Content-Length: +LEN",
        "Content-Length: -0",
        "Content-Length: 0xLEN",
        "Content-Length: 0LEN",
        "Content-Length: LEN.0",
        "Content-Length: LENe0",
        "Content-Length: LEN;",
        "Content-Length: \"LEN\"",
        "Content-Length : LEN",
        "Content-Length\t: LEN",
        " Content-Length: LEN",
        "Content-Length: LEN\x0b",
        "Content-Length: LEN\x00",
        "Content-Length: L E N",
        "Content-Length:\r\n LEN",
        "X: x\r\n Content-Length: LEN",
        "X: x\rContent-Length: LEN",
        "Content-Length: 18446744073709551616",
        "Content-Length: 18446744073709551615",
        "Content-Length: 99999999999999999999999999",
        "Content-Length:",
    ];
    never_two(
        lengths
            .iter()
            .filter(|field| !field.contains("-0"))
            .map(|field| hidden_length(&field.replace("LEN", &length.to_string()))),
    );
}

#[test]
fn broken_chunks_never_smuggle() {
    // Contract: T10
    let chunked = |body: &str| -> Vec<u8> {
        format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}{SMUGGLED}").into()
    };
    never_two([
        chunked("zz\r\n\r\n"),
        chunked("-1\r\n\r\n"),
        chunked("+0\r\n\r\n"),
        chunked("0x0\r\n\r\n"),
        chunked("\r\n0\r\n\r\n"),
        chunked("\r\n\r\n"),
        chunked(" \r\n\r\n"),
        chunked("ffffffffffffffff\r\nab\r\n0\r\n\r\n"),
        chunked("10000000000000000\r\nab\r\n0\r\n\r\n"),
        chunked("100000002\r\nab\r\n0\r\n\r\n"),
        chunked("2\r\nabc\r\n0\r\n\r\n"),
        chunked("2\r\nab0\r\n\r\n"),
        chunked("2\r\nab\n0\r\n\r\n"),
        chunked("2\r\nabXX0\r\n\r\n"),
        chunked("2\nab\r\n0\r\n\r\n"),
        chunked("2\rab\r\n0\r\n\r\n"),
        chunked("2;\nab\r\n0\r\n\r\n"),
        chunked("2;x\nab\r\n0\r\n\r\n"),
        chunked("2;x=\"\r\n\r\n\"\r\nab\r\n0\r\n\r\n"),
        chunked("2;x\r\x0bab\r\n0\r\n\r\n"),
        chunked("2\0\r\nab\r\n0\r\n\r\n"),
        chunked("2 0\r\nab\r\n0\r\n\r\n"),
        chunked("2,0\r\nab\r\n0\r\n\r\n"),
        chunked("0\n\n"),
        chunked("0\r\n\n"),
        chunked("0\r\r\n"),
        chunked("0\r\nbad trailer\r\n\r\n"),
        chunked("0\r\nA\0: b\r\n\r\n"),
        chunked("0\r\nA : b\r\n\r\n"),
    ]);
}

#[test]
fn heads_that_are_no_requests_never_smuggle() {
    // Contract: T10
    let with = |head: &[u8]| [head, SMUGGLED.as_bytes()].concat();
    never_two([
        with(b"GET /\r\n\r\n"),
        with(b"GET /\r\n"),
        with(b"GET / HTTP/0.9\r\nHost: a\r\n\r\n"),
        with(b"GET / HTTP/9.9\r\nHost: a\r\n\r\n"),
        with(b"GET / HTTP/1.1x\r\nHost: a\r\n\r\n"),
        with(b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
        with(b"GET / http/1.1\r\nHost: a\r\n\r\n"),
        with(b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        with(b"GET / x HTTP/1.1\r\nHost: a\r\n\r\n"),
        with(b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n"),
        with(b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n"),
        with(b"GET /\rGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"),
        with(b"GET\0 / HTTP/1.1\r\nHost: a\r\n\r\n"),
        with(b"G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        with(b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        with(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        with(b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
        with(b"GET / HTTP/1.1\r\nHost: a\r\nno field\r\n\r\n"),
        with(b"GET / HTTP/1.1\r\nHost: a\r\n: empty\r\n\r\n"),
        with(b"GET / HTTP/1.1\r\nHost: a\r\nA\0: b\r\n\r\n"),
        with(b"GET / HTTP/1.1\r\nHost: a\r\nA: b\0\r\n\r\n"),
        with(b"GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n"),
        with(b"GET / HTTP/1.1\r\nHost: a\r\nA: b\r\r\n\r\n"),
        with(b"GET / HTTP/1.1\r\rHost: a\r\r"),
        with(b"GET http:// HTTP/1.1\r\nHost: a\r\n\r\n"),
    ]);
}

#[test]
fn what_has_one_meaning_is_carried_with_it() {
    // Contract: T10
    let (socket, address) = listener();
    let (recorder, child) = Recorder::start();
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    let h2c = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    let length = SMUGGLED.len();
    let cases: &[(String, &str, &str)] = &[
        // All of it is the body.
        (format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"), "POST / HTTP/1.1", SMUGGLED),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"), "GET / HTTP/1.1", SMUGGLED),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}Content-Length: {length}\r\n\r\n{SMUGGLED}"), "GET / HTTP/1.1", SMUGGLED),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{h2c}Content-Length: {length}\r\n\r\n{SMUGGLED}"), "GET / HTTP/1.1", SMUGGLED),
        // Extensions and trailers are the connection's own, and framing fields are no trailers.
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nab\r\n0;z\r\n\r\n".to_owned(), "POST / HTTP/1.1", "ab"),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length, Transfer-Encoding, Host\r\n\r\n\
          2\r\nab\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\nHost: b\r\n\r\n".to_owned(), "POST / HTTP/1.1", "ab"),
        // Lines that end in LF alone, and empty lines before the request (RFC 9112, section 2.2).
        ("\r\n\r\nPOST / HTTP/1.1\nHost: a\nContent-Length: 2\n\nab".to_owned(), "POST / HTTP/1.1", "ab"),
        ("POST http://b/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab".to_owned(), "POST /x HTTP/1.1", "ab"),
    ];
    for (case, line, body) in cases {
        let wanted = vec![((*line).to_owned(), body.as_bytes().to_vec())];
        assert_eq!(carried(address, &recorder, case.as_bytes()), wanted, "{case:?}");
    }
}

#[test]
fn a_childs_ambiguous_answer_ends_its_connection() {
    // Contract: T10
    let next = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";
    for (answer, is_refused) in [
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok{next}"), true),
        (format!("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok{next}"), true),
        (
            format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n Transfer-Encoding: chunked\r\n\r\nok{next}"),
            true,
        ),
        (
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 90\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{next}"
            ),
            false,
        ),
        (format!("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok{next}"), false),
        (format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok{next}"), false),
        (format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{next}"), false),
    ] {
        let (socket, address) = listener();
        let bytes = answer.clone();
        let child = crate::support::server(move |mut connection| {
            let head = crate::support::read_until(&mut connection, b"\r\n\r\n");
            let answer = if head.starts_with("GET /1 ") {
                &*bytes
            } else {
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood"
            };
            connection.write_all(answer.as_bytes()).unwrap();
        });
        let a = Relay::start(&socket, proxy(Protocol::Http, child));
        a.accept();
        let mut client = Client::connect(address);
        client.send(
            "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        );
        let all = client.rest().unwrap();
        assert_eq!(all.contains("502 Bad Gateway"), is_refused, "{answer:?}\n{all}");
        assert!(!all.contains("smuggled") && all.ends_with("good"), "{answer:?}\n{all}");
        assert_eq!(all.matches("HTTP/1.1 ").count(), 2, "{answer:?}\n{all}");
    }
}
