//! HTTP.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use relay::message::{Protocol, Report};

use crate::support::{Client, Relay, listener, proxy, read_until, refusing, server};

/// A server that answers each connection's one request with its name and the request's first line, by
/// HTTP/1.0 and without a length, and closes the connection. `/slow`: once `go` says so.
pub(crate) fn careless(name: &'static str) -> (SocketAddr, mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (go, wait) = mpsc::channel::<()>();
    let (began, begins) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let address = server(move |mut connection: TcpStream| {
        let head = read_until(&mut connection, b"\r\n\r\n");
        let line = head.lines().next().unwrap().to_owned();
        let length =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        std::io::Read::read_exact(&mut connection, &mut body).unwrap();
        if line.contains("/slow") {
            began.send(()).unwrap();
            wait.lock().unwrap().recv().unwrap();
        }
        let body = String::from_utf8(body).unwrap();
        let answer = format!("HTTP/1.0 200 OK\r\n\r\n{name} {line} {body}!"); // one piece is one chunk
        connection.write_all(answer.as_bytes()).unwrap();
    });
    (address, go, begins)
}

pub(crate) fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

/// Reads an answer that is chunked, since the child gives no length.
pub(crate) fn answer(client: &mut Client) -> (String, String) {
    let head = client.until("\r\n\r\n");
    (head, client.until("0\r\n\r\n"))
}

#[test]
fn a_keep_alive_connection_outlives_the_generation() {
    // Contract: T7
    let (socket, address) = listener();
    let (child_a, ..) = careless("a");
    let (child_b, ..) = careless("b");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/1"));
    let (head, body) = answer(&mut client);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && !head.to_lowercase().contains("close"), "{head}");
    assert!(body.contains("a GET /1 HTTP/1.1 !"), "{body}");

    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.leave_to(&b);
    assert_eq!(a.report(), Report::Drained { passed_on: 1, waited_for: 0 });
    client.send("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody");
    let (_, body) = answer(&mut client);
    assert!(body.contains("b POST /2 HTTP/1.1 body!"), "{body}");
    let counts = b.wait_counts("one request", |counts| counts.requests == 1 && counts.under_way == 0);
    assert_eq!((counts.open, counts.errors), (1, 0));
}

#[test]
fn a_request_under_way_is_answered_by_the_old_child_and_the_next_by_the_new_one() {
    // Contract: T7
    let (socket, address) = listener();
    let (child_a, go, begins) = careless("a");
    let (child_b, ..) = careless("b");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/slow"));
    begins.recv().unwrap();
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.leave_to(&b);
    // A new client is served at once by the new child.
    let mut other = Client::connect(address);
    other.send(get("/other"));
    assert!(answer(&mut other).1.contains("b GET /other"));
    go.send(()).unwrap();
    let (head, body) = answer(&mut client);
    assert!(body.contains("a GET /slow") && !head.to_lowercase().contains("close"), "{head}{body}");
    assert_eq!(a.report(), Report::Drained { passed_on: 1, waited_for: 1 });
    client.send(get("/next"));
    assert!(answer(&mut client).1.contains("b GET /next"));
}

#[test]
fn bytes_that_were_read_ahead_go_along() {
    // Contract: T7
    let (socket, address) = listener();
    let (child_a, go, begins) = careless("a");
    let (child_b, ..) = careless("b");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut client = Client::connect(address);
    // Pipelined: two whole requests, and the beginning of a third.
    client.send(format!("{}{}GET /3 HT", get("/slow"), get("/2")));
    begins.recv().unwrap();
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.leave_to(&b);
    go.send(()).unwrap();
    assert!(answer(&mut client).1.contains("a GET /slow"));
    assert!(answer(&mut client).1.contains(" GET /2"));
    client.send("TP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer(&mut client).1.contains("b GET /3"));
}

#[test]
fn without_a_successor_each_client_must_reconnect() {
    // Contract: T7
    let (socket, address) = listener();
    let (child, ..) = careless("a");
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/1"));
    answer(&mut client);
    a.leave();
    a.wait_counts("leaving", |counts| counts.leaving);
    client.send(get("/2"));
    let (head, body) = answer(&mut client);
    assert!(head.to_lowercase().contains("connection: close") && body.contains("a GET /2"), "{head}{body}");
    assert_eq!(client.rest().unwrap(), "");
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
}

#[test]
fn an_old_client_whose_connection_ends_with_the_answer_is_not_passed_on() {
    // Contract: T7
    let (socket, address) = listener();
    let (child_a, go, begins) = careless("a");
    let (child_b, ..) = careless("b");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut client = Client::connect(address);
    client.send("GET /slow HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    begins.recv().unwrap();
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.leave_to(&b);
    go.send(()).unwrap();
    let all = client.rest().unwrap();
    assert!(all.ends_with("a GET /slow HTTP/1.1 !"), "{all}");
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 1 });
}

#[test]
fn requests_wait_during_a_hold_and_are_refused_after_its_time() {
    // Contract: T7
    let (socket, address) = listener();
    let (child, ..) = careless("a");
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/1"));
    answer(&mut client);
    a.hold(Duration::from_secs(3600));
    a.wait_counts("held", |counts| counts.held);
    client.send(get("/2"));
    let mut fresh = Client::connect(address);
    fresh.send(get("/3"));
    let counts = a.wait_counts("a request that waits", |counts| counts.under_way == 1);
    assert_eq!(counts.connections, 1, "the new connection is not accepted");
    a.resume();
    assert!(answer(&mut client).1.contains("a GET /2"));
    assert!(answer(&mut fresh).1.contains("a GET /3"));
    a.hold(Duration::ZERO);
    a.wait_counts("held", |counts| counts.held);
    client.send(get("/4"));
    let head = client.until("\r\n\r\n").to_lowercase();
    assert!(head.starts_with("http/1.1 503 ") && head.contains("retry-after: 1"), "{head}");
}

#[test]
fn a_child_that_refuses_or_cuts_its_answer_short_is_an_error_that_the_client_sees() {
    // Contract: T7
    let (socket, address) = listener();
    let (_reserved, nobody) = refusing();
    let a = Relay::start(&socket, proxy(Protocol::Http, nobody));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/"));
    let head = client.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    a.wait_counts("one error", |counts| counts.errors == 1);
    drop(a);

    let child = server(|mut connection| {
        read_until(&mut connection, b"\r\n\r\n");
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
    });
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/"));
    client.until("half");
    assert!(client.rest().is_err() || client.rest().unwrap().is_empty());
}

#[test]
fn a_websocket_is_carried_until_one_side_closes_it() {
    // Contract: T7
    let (socket, address) = listener();
    let child = server(|mut connection| {
        let head = read_until(&mut connection, b"\r\n\r\n").to_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        // The first frame comes together with the head.
        let answer =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nhello ";
        connection.write_all(answer.as_bytes()).unwrap();
        let line = read_until(&mut connection, b"\n");
        connection.write_all(line.as_bytes()).unwrap();
    });
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let mut client = Client::connect(address);
    client.send(
        "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\nthe",
    );
    let head = client.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    client.until("hello ");
    a.leave();
    a.wait_counts("leaving", |counts| counts.leaving);
    client.send("re\n");
    assert_eq!(client.rest().unwrap(), "there\n");
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 1 });
}

#[test]
fn early_data_of_a_websocket_arrives_whole() {
    // Contract: T7
    let (socket, address) = listener();
    let child = server(|mut connection| {
        read_until(&mut connection, b"\r\n\r\n");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
        connection.write_all(answer.as_bytes()).unwrap();
        let line = read_until(&mut connection, b"\n");
        connection.write_all(line.as_bytes()).unwrap();
    });
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let early: String = (0..3000).map(|number| format!("{number:04} ")).collect();
    let mut client = Client::connect(address);
    client.send(format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n{early}\n"
    ));
    client.until("\r\n\r\n");
    assert_eq!(client.rest().unwrap(), format!("{early}\n"));
}

#[test]
fn a_connection_without_a_request_is_passed_on() {
    // Contract: T7
    let (socket, address) = listener();
    let (child_a, ..) = careless("a");
    let (child_b, ..) = careless("b");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut fresh = Client::connect(address);
    let mut begun = Client::connect(address);
    begun.send("P"); // of POST, or of HTTP/2's preface
    a.wait_counts("both connections", |counts| counts.connections == 2);
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.leave_to(&b);
    assert_eq!(a.report(), Report::Drained { passed_on: 2, waited_for: 0 });
    fresh.send(get("/1"));
    assert!(answer(&mut fresh).1.contains("b GET /1"));
    begun.send("OST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert!(answer(&mut begun).1.contains("b POST /2 HTTP/1.1 x!"));
}
