//! Connections to the child that are kept for later requests: which requests use them, and which answers leave
//! them open. If the relay and the child disagree about where an answer ends, a client gets an answer that is
//! not its own.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use relay::message::{Forward, Protocol, Proxy, Report};
use rustix::net::sockopt::set_socket_linger;

use crate::http::get;
use crate::support::{Client, DEADLINE, Relay, listener, proxy, read_until, server};

const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";

fn pooled(forward: SocketAddr) -> Proxy {
    Proxy { pool: 4, ..proxy(Protocol::Http, forward) }
}

/// A request as the child got it.
struct Request {
    /// The number of its connection.
    connection: usize,
    /// Its number on this connection.
    number: usize,
    head: String,
}

impl Request {
    fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }
}

/// What the child does with a request.
enum Then {
    /// It answers.
    Answer(String),
    /// It answers, and closes the connection.
    Close(String),
    /// It resets the connection.
    Reset,
}

/// The usual answer: on which connection the request came, and as which one.
fn usual(request: &Request) -> String {
    let text = format!("c{} r{} {}", request.connection, request.number, request.path());
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

/// A child that keeps its connections.
fn child(answer: impl Fn(&Request, &mut TcpStream) -> Then + Send + Sync + 'static) -> SocketAddr {
    let connections = AtomicUsize::new(0);
    server(move |mut stream| {
        let connection = connections.fetch_add(1, Ordering::Relaxed) + 1;
        let mut number = 0;
        // Until the relay closes it.
        while !matches!(stream.peek(&mut [0]), Ok(0) | Err(_)) {
            number += 1;
            let request = Request { connection, number, head: read_until(&mut stream, b"\r\n\r\n") };
            let bytes = match answer(&request, &mut stream) {
                Then::Answer(bytes) => bytes,
                Then::Close(bytes) => {
                    stream.write_all(bytes.as_bytes()).unwrap();
                    return;
                }
                Then::Reset => return set_socket_linger(&stream, Some(Duration::ZERO)).unwrap(),
            };
            if stream.write_all(bytes.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// Reads an answer whose length is in its head: the status, and the body.
fn answer(client: &mut Client) -> (String, String) {
    let head = client.until("\r\n\r\n");
    let status = head.split(' ').nth(1).unwrap().to_owned();
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    client.stream.read_exact(&mut body).unwrap();
    (status, String::from_utf8(body).unwrap())
}

/// Sends a request on a connection of its own, and returns the body.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut client = Client::connect(address);
    client.send(request);
    let (status, body) = answer(&mut client);
    assert_eq!(status, "200", "{body}");
    body
}

#[test]
fn requests_of_all_clients_share_the_connections_to_the_child() {
    // Contract: T7
    let (socket, address) = listener();
    let child = child(|request, _| {
        assert!(!request.head.to_lowercase().contains("connection:"), "{}", request.head);
        Then::Answer(usual(request))
    });
    let a = Relay::start(&socket, pooled(child));
    a.accept();
    let mut client = Client::connect(address);
    for number in 1..=3 {
        client.send(get("/"));
        assert_eq!(answer(&mut client).1, format!("c1 r{number} /"));
    }
    assert_eq!(ask(address, &get("/other")), "c1 r4 /other");
    let counts = a.wait_counts("all requests", |counts| counts.reused == 3 && counts.under_way == 0);
    assert_eq!((counts.requests, counts.errors), (4, 0));
}

#[test]
fn requests_that_must_not_be_repeated_have_connections_of_their_own() {
    // Contract: T7
    let (socket, address) = listener();
    let child = child(|request, stream| {
        if request.head.contains("chunked") {
            read_until(stream, b"0\r\n\r\n");
        } else if request.head.contains("Content-Length: 4") {
            read_until(stream, b"body");
        }
        Then::Answer(usual(request))
    });
    let a = Relay::start(&socket, pooled(child));
    a.accept();
    assert_eq!(ask(address, &get("/")), "c1 r1 /");
    for (number, request) in [
        POST,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
        "PATCH / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "QUERY / HTTP/1.1\r\nHost: a\r\n\r\n",
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(ask(address, request), format!("c{} r1 /", number + 2), "{request}");
    }
    // The last of them has left its connection for one that may be repeated.
    for (number, method) in ["GET", "OPTIONS", "DELETE", "PUT", "TRACE"].into_iter().enumerate() {
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(ask(address, &request), format!("c7 r{} /", number + 2), "{request}");
    }
}

#[test]
fn a_fresh_connection_takes_the_place_of_an_idle_one() {
    // Contract: T7
    // A child with as many processes as connections could not serve both.
    let (socket, address) = listener();
    let (closed, closes) = mpsc::channel();
    let closed = Mutex::new(closed);
    let connections = AtomicUsize::new(0);
    let child = server(move |mut stream| {
        let connection = connections.fetch_add(1, Ordering::Relaxed) + 1;
        while !matches!(stream.peek(&mut [0]), Ok(0) | Err(_)) {
            let head = read_until(&mut stream, b"\r\n\r\n");
            if head.starts_with("POST") {
                read_until(&mut stream, b"body");
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
        closed.lock().unwrap().send(connection).unwrap();
    });
    let a = Relay::start(&socket, pooled(child));
    a.accept();
    ask(address, &get("/"));
    for number in 1..=3 {
        ask(address, POST);
        assert_eq!(closes.recv_timeout(DEADLINE), Ok(number));
    }
}

/// What a child does with the second request on a connection, and with all of later ones. Returns what the
/// client got, and which requests the child got.
fn second_request(first: fn() -> Then, later: fn(&Request) -> Then, request: &str) -> (String, String) {
    let (socket, address) = listener();
    let got = Arc::new(Mutex::new(String::new()));
    let gets = Arc::clone(&got);
    let child = child(move |request, _| {
        *gets.lock().unwrap() += &format!("c{} r{}, ", request.connection, request.number);
        match (request.connection, request.number) {
            (1, 1) => Then::Answer(usual(request)),
            (1, _) => first(),
            _ => later(request),
        }
    });
    let a = Relay::start(&socket, pooled(child));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/"));
    answer(&mut client);
    client.send(request);
    let head = client.until("\r\n\r\n");
    let status = head.split(' ').nth(1).unwrap().to_owned();
    let got = got.lock().unwrap().clone();
    (status, got)
}

#[test]
fn a_request_is_sent_again_if_its_connection_ends_without_a_byte_of_an_answer() {
    // Contract: T7
    for end in [|| Then::Close(String::new()), || Then::Reset] {
        for method in ["GET", "HEAD", "OPTIONS", "DELETE"] {
            let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            let (status, got) = second_request(end, |request| Then::Answer(usual(request)), &request);
            assert_eq!((&*status, &*got), ("200", "c1 r1, c1 r2, c2 r1, "), "{method}");
        }
    }
}

#[test]
fn a_request_is_sent_again_once() {
    // Contract: T7
    let (status, got) = second_request(|| Then::Reset, |_| Then::Reset, &get("/"));
    assert_eq!((&*status, &*got), ("502", "c1 r1, c1 r2, c2 r1, "));
}

#[test]
fn a_request_is_not_sent_again_after_a_byte_of_an_answer() {
    // Contract: T7
    let answer = |request: &Request| Then::Answer(usual(request));
    let (status, got) = second_request(|| Then::Close("H".to_owned()), answer, &get("/"));
    assert_eq!((&*status, &*got), ("502", "c1 r1, c1 r2, "));
    let continues = || Then::Close("HTTP/1.1 100 Continue\r\n\r\n".to_owned());
    let (status, got) = second_request(continues, answer, &get("/"));
    assert_eq!((&*status, &*got), ("502", "c1 r1, c1 r2, "));
}

#[test]
fn a_request_on_a_fresh_connection_is_never_sent_again() {
    // Contract: T7
    let (socket, address) = listener();
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let child = child(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
        Then::Reset
    });
    let a = Relay::start(&socket, pooled(child));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/"));
    assert_eq!(answer(&mut client).0, "502");
    assert_eq!(requests.load(Ordering::Relaxed), 1);
    a.wait_counts("the error", |counts| counts.errors == 1 && counts.reused == 0);
}

/// A second answer, which no client has asked for.
const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// Whether the connection of a request with this answer is used again. The client of the next request gets
/// the answer to its own in any case.
fn is_kept(request: &str, answer: impl Into<String>, late: &'static str) -> bool {
    let answer = answer.into();
    let (socket, address) = listener();
    let (go, wait) = mpsc::channel::<()>();
    let (sent, is_sent) = mpsc::channel::<()>();
    let (wait, sent) = (Mutex::new(wait), Mutex::new(sent));
    let of_child = answer.clone();
    let child = child(move |request, stream| {
        if request.path() == "/next" {
            return Then::Answer(usual(request));
        }
        if request.head.contains("Content-Length: 4") && request.path() != "/early" {
            read_until(stream, b"body");
        }
        stream.write_all(of_child.as_bytes()).unwrap();
        if !late.is_empty() {
            // The relay may have closed the connection.
            wait.lock().unwrap().recv().unwrap();
            let _ = stream.write_all(late.as_bytes());
            sent.lock().unwrap().send(()).unwrap();
        }
        if request.head.contains("/end") {
            stream.shutdown(Shutdown::Write).unwrap();
        }
        Then::Answer(String::new())
    });
    let a = Relay::start(&socket, pooled(child));
    a.accept();
    let mut client = Client::connect(address);
    client.send(request.replace("Host: a", "Host: a\r\nConnection: close"));
    if request.contains("/early") {
        client.until("ok"); // the client goes on sending
    } else {
        client.rest().unwrap();
    }
    if !late.is_empty() {
        go.send(()).unwrap();
        is_sent.recv_timeout(DEADLINE).unwrap();
    }
    let next = ask(address, &get("/next"));
    let is_kept = next.starts_with("c1 ");
    assert!(next.starts_with(if is_kept { "c1 r2 /next" } else { "c2 r1 /next" }), "{answer:?}: {next}");
    is_kept
}

#[test]
fn an_answer_whose_end_is_certain_leaves_its_connection_open() {
    // Contract: T7
    for answer in [
        "200 OK\r\nContent-Length: 2\r\n\r\nok",
        "200 OK\r\nContent-Length: 0\r\n\r\n",
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nok\r\n0\r\nX: 1\r\n\r\n",
        "404 Not Found\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        "204 No Content\r\n\r\n",
        "304 Not Modified\r\n\r\n",
    ] {
        for request in [&*get("/"), POST] {
            assert!(is_kept(request, format!("HTTP/1.1 {answer}"), ""), "{request} {answer}");
        }
    }
}

#[test]
fn an_answer_whose_end_is_not_certain_closes_its_connection() {
    // Contract: T7
    for answer in [
        "1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        "1.1 200 OK\r\nContent-Length: 2\r\nConnection: x, Close\r\n\r\nok",
        "1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
        "1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "1.1 204 No Content\r\nContent-Length: 4\r\n\r\n",
        "1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
        "1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
    ] {
        assert!(!is_kept(&get("/"), format!("HTTP/{answer}"), ""), "{answer}");
    }
    let close_delimited = "HTTP/1.1 200 OK\r\n\r\nall that comes until the end";
    assert!(!is_kept(&get("/end"), close_delimited, ""));
    // Its length is that of a body which does not follow, unless the child is wrong.
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    assert!(!is_kept(head, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n", ""));
    assert!(!is_kept(head, "HTTP/1.1 200 OK\r\n\r\n", ""));
}

#[test]
fn what_follows_an_answer_is_for_no_client() {
    // Contract: T7
    let head = "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    for (request, answer) in [
        (&*get("/"), "200 OK\r\nContent-Length: 2\r\n\r\nok"),
        (POST, "200 OK\r\nContent-Length: 2\r\n\r\nok"),
        (&*get("/"), "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        (&*get("/"), "204 No Content\r\n\r\n"),
        (&*get("/"), "204 No Content\r\nContent-Length: 4\r\n\r\n"),
        (&*get("/"), "304 Not Modified\r\n\r\n"),
        (head, "200 OK\r\nContent-Length: 42\r\n\r\n"),
        (head, "200 OK\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let answer = format!("HTTP/1.1 {answer}");
        for evil in [EVIL, "x", "\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
            assert!(!is_kept(request, format!("{answer}{evil}"), ""), "{request} {answer} {evil}");
            assert!(!is_kept(request, &*answer, evil), "{request} {answer}, later {evil}");
        }
    }
}

#[test]
fn an_answer_before_the_request_was_read_closes_its_connection() {
    // Contract: T7
    // The child would read the rest of the body as the next request.
    let early = "POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo";
    assert!(!is_kept(early, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", ""));
}

#[test]
fn a_connection_that_could_not_be_written_to_is_not_kept() {
    // Contract: T7
    let (socket, address) = listener();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("child.sock");
    let child = UnixListener::bind(&path).unwrap();
    let (open, opened) = mpsc::channel();
    std::thread::spawn(move || child.incoming().try_for_each(|connection| open.send(connection.unwrap())));
    let forward = Forward::Unix(path);
    let a = Relay::start(&socket, Proxy { forward, pool: 4, ..proxy(Protocol::Http, address) });
    a.accept();
    let mut client = Client::connect(address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbo");
    let mut first = opened.recv_timeout(DEADLINE).unwrap();
    read_until(&mut first, b"bo");
    first.shutdown(Shutdown::Read).unwrap();
    client.send("dy");
    first.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    client.until("ok");
    client.send(get("/next"));
    let mut second = opened.recv_timeout(DEADLINE).expect("a fresh connection");
    assert!(read_until(&mut second, b"\r\n\r\n").starts_with("GET /next "));
}

#[test]
fn an_answer_that_its_client_has_not_read_closes_its_connection() {
    // Contract: T7
    let (socket, address) = listener();
    let child = child(|request, stream| {
        if request.path() == "/next" {
            return Then::Answer(usual(request));
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n");
        let _ = stream.write_all(&vec![b'x'; 9_999_999]);
        Then::Answer(String::new())
    });
    let a = Relay::start(&socket, pooled(child));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/"));
    client.until("xxx");
    drop(client);
    a.wait_counts("the client's end", |counts| counts.open == 0);
    assert_eq!(ask(address, &get("/next")), "c2 r1 /next");
}

#[test]
fn a_switch_of_protocols_has_a_connection_of_its_own() {
    // Contract: T7
    let (socket, address) = listener();
    let child = child(|request, stream| {
        if request.path() != "/chat" {
            return Then::Answer(usual(request));
        }
        assert!(request.head.to_lowercase().contains("connection: upgrade"), "{}", request.head);
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
        stream.write_all(head.as_bytes()).unwrap();
        Then::Close(format!("c{} {}", request.connection, read_until(stream, b"\n")))
    });
    let a = Relay::start(&socket, pooled(child));
    a.accept();
    ask(address, &get("/"));
    let mut client = Client::connect(address);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello\n";
    client.send(format!("GET /chat HTTP/1.1\r\nHost: a\r\n{upgrade}"));
    client.until("\r\n\r\n");
    assert_eq!(client.rest().unwrap(), "c2 hello\n");
    // Refused, it leaves no connection that might be kept.
    let refused = ask(address, &format!("GET / HTTP/1.1\r\nHost: a\r\n{upgrade}"));
    assert_eq!(refused, "c3 r1 /");
    assert_eq!(ask(address, &get("/next")), "c4 r1 /next");
}

/// A relay with idle connections to a child that is the test itself, and what comes later: the relay's
/// address, and new connections.
fn idle(number: usize, pool: usize) -> (Relay, Vec<TcpStream>, (SocketAddr, mpsc::Receiver<TcpStream>)) {
    let (socket, address) = listener();
    let (open, opened) = mpsc::channel();
    let open = Mutex::new(open);
    let child = server(move |connection| open.lock().unwrap().send(connection).unwrap());
    let a = Relay::start(&socket, Proxy { pool, ..proxy(Protocol::Http, child) });
    a.accept();
    let mut clients: Vec<Client> = (0..number).map(|_| Client::connect(address)).collect();
    let mut connections: Vec<TcpStream> = clients
        .iter_mut()
        .map(|client| {
            client.send(get("/"));
            opened.recv_timeout(DEADLINE).unwrap()
        })
        .collect();
    for (client, connection) in clients.iter_mut().zip(&mut connections) {
        read_until(connection, b"\r\n\r\n");
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        client.until("ok");
    }
    drop(clients);
    a.wait_counts("no client", |counts| counts.open == 0);
    (a, connections, (address, opened))
}

/// Whether the relay has closed a connection.
fn is_closed(connection: &TcpStream) -> bool {
    connection.set_nonblocking(true).unwrap();
    let got = connection.peek(&mut [0]);
    connection.set_nonblocking(false).unwrap();
    matches!(got, Ok(0))
}

#[test]
fn idle_connections_are_closed_before_the_child_is_told_to_exit() {
    // Contract: T4, T5
    for stops in [false, true] {
        let (a, connections, _) = idle(3, 4);
        assert!(!connections.iter().any(is_closed));
        if stops {
            a.stop();
        } else {
            a.leave();
        }
        // psflip sends the signal after this report.
        assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
        assert!(connections.iter().all(is_closed), "stops: {stops}");
    }
}

#[test]
fn the_last_answer_of_a_generation_closes_its_connection() {
    // Contract: T4
    let (socket, address) = listener();
    let (began, begins) = mpsc::channel();
    let began = Mutex::new(began);
    let child = server(move |connection| began.lock().unwrap().send(connection).unwrap());
    let a = Relay::start(&socket, pooled(child));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/"));
    let mut connection = begins.recv_timeout(DEADLINE).unwrap();
    read_until(&mut connection, b"\r\n\r\n");
    a.leave();
    a.wait_counts("leaving", |counts| counts.leaving);
    connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    client.until("ok");
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 1 });
    assert_eq!(connection.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_pool_is_bounded_and_keeps_the_connections_that_were_used_last() {
    // Contract: T7, T10
    let (_a, mut connections, _) = idle(5, 2);
    for connection in &mut connections[..3] {
        assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    }
    assert!(!connections[3..].iter().any(is_closed));
}

#[test]
fn an_idle_connection_is_closed_after_a_while() {
    // Contract: T7
    let start = Instant::now();
    let (_a, mut connections, _) = idle(2, 4);
    for connection in &mut connections {
        assert_eq!(connection.read(&mut [0]).unwrap(), 0);
    }
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
}

#[test]
fn a_connection_that_the_child_closes_while_it_is_idle_is_not_used() {
    // Contract: T7
    for resets in [false, true] {
        let (a, connections, (address, opened)) = idle(1, 4);
        for connection in connections {
            if resets {
                set_socket_linger(&connection, Some(Duration::ZERO)).unwrap();
            }
            drop(connection);
        }
        let mut client = Client::connect(address);
        client.send(get("/next"));
        let mut fresh = opened.recv_timeout(DEADLINE).unwrap();
        assert!(read_until(&mut fresh, b"\r\n\r\n").starts_with("GET /next "));
        let counts = a.wait_counts("its request", |counts| counts.under_way == 1);
        assert_eq!((counts.errors, counts.reused), (0, 0));
    }
}
