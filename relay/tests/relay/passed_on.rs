//! HTTP connections are passed on exactly when they are between two requests.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use relay::message::{Protocol, Report};

use crate::http::{answer, careless, get};
use crate::support::{Client, Relay, listener, proxy, read_until, server};

/// Reads and discards until the other side has ended its direction.
fn discard(connection: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while connection.read(&mut buffer).is_ok_and(|length| length > 0) {}
}

#[test]
fn the_rest_of_an_unread_input_is_no_request() {
    // Contract: T6
    let (socket, address) = listener();
    // Answers without reading the input, and closes the connection.
    let child_a = server(|mut connection| {
        read_until(&mut connection, b"\r\n\r\n");
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        connection.shutdown(Shutdown::Write).unwrap();
        discard(&mut connection);
    });
    let (child_b, ..) = careless("b");
    for leaves_first in [false, true] {
        let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
        a.accept();
        let mut client = Client::connect(address);
        client.send("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n");
        client.until("ok");
        let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
        if leaves_first {
            a.leave_to(&b);
            a.wait_counts("leaving", |counts| counts.leaving);
        }
        let _ = client.stream.write_all(get("/rest").as_bytes());
        if !leaves_first {
            a.leave_to(&b);
        }
        assert_eq!(client.rest().unwrap_or_default(), "");
        drop(client);
        assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
        let counts = b.wait_counts("any", |_| true);
        assert_eq!((counts.requests, counts.connections), (0, 0));
    }
}

#[test]
fn an_input_that_comes_after_its_answer_is_read_before_the_connection_is_passed_on() {
    // Contract: T6
    let (socket, address) = listener();
    // Answers at once, and then reads the input.
    let child_a = server(|mut connection| {
        read_until(&mut connection, b"\r\n\r\n");
        connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        discard(&mut connection);
    });
    let (child_b, ..) = careless("b");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut client = Client::connect(address);
    let input = get("/input");
    client.send(format!("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", input.len()));
    client.until("ok");
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.leave_to(&b);
    a.wait_counts("leaving", |counts| counts.leaving);
    client.send(&input[..10]);
    client.send(&input[10..]);
    assert_eq!(a.report(), Report::Drained { passed_on: 1, waited_for: 0 });
    client.send(get("/2"));
    assert!(answer(&mut client).1.contains("b GET /2"));
    let counts = b.wait_counts("one request", |counts| counts.requests > 0);
    assert_eq!(counts.requests, 1);
}

#[test]
fn a_connection_that_ends_with_its_answer_is_not_passed_on() {
    // Contract: T6
    let heads = [
        // A length beside `Transfer-Encoding`: the two could end the request at different bytes.
        "POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /slow HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n",
        "GET /slow HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n",
    ];
    for head in heads {
        let (socket, address) = listener();
        let (came, comes) = std::sync::mpsc::channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = std::sync::Mutex::new(wait);
        let child_a = server(move |mut connection| {
            read_until(&mut connection, b"\r\n\r\n");
            came.send(()).unwrap();
            wait.lock().unwrap().recv().unwrap();
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
            connection.shutdown(Shutdown::Write).unwrap();
            discard(&mut connection);
        });
        let (child_b, ..) = careless("b");
        let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
        a.accept();
        let mut client = Client::connect(address);
        client.send(head);
        comes.recv().unwrap();
        let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
        a.leave_to(&b);
        a.wait_counts("leaving", |counts| counts.leaving);
        client.send(get("/next"));
        go.send(()).unwrap();
        let all = client.rest().unwrap();
        assert!(all.ends_with("\r\n\r\nok"), "{head}\n{all}");
        drop(client);
        assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 1 }, "{head}");
    }
}

#[test]
fn a_half_sent_head_is_passed_on_at_once() {
    // Contract: T6
    let (socket, address) = listener();
    let (child_a, ..) = careless("a");
    let (child_b, ..) = careless("b");
    for warm in [false, true, false, true] {
        let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
        a.accept();
        let mut client = Client::connect(address);
        if warm {
            client.send(get("/0"));
            answer(&mut client);
        }
        client.send("GET / HT");
        a.wait_counts("the connection", |counts| counts.connections == 1);
        let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
        a.leave_to(&b);
        assert_eq!(a.report(), Report::Drained { passed_on: 1, waited_for: 0 });
        client.send("TP/1.1\r\nHost: a\r\n\r\n");
        let (head, body) = answer(&mut client);
        assert!(body.contains("b GET / ") && !head.to_lowercase().contains("close"), "{head}{body}");
    }
}

#[test]
fn all_pipelined_requests_go_along() {
    // Contract: T6
    const REQUESTS: usize = 300;
    let (socket, address) = listener();
    let (child_a, go, begins) = careless("a");
    let (child_b, ..) = careless("b");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut client = Client::connect(address);
    let requests: String = (1..=REQUESTS).map(|number| get(&format!("/{number:03}"))).collect();
    client.send(format!("{}{requests}", get("/slow")));
    begins.recv().unwrap();
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.leave_to(&b);
    a.wait_counts("leaving", |counts| counts.leaving);
    go.send(()).unwrap();
    assert!(answer(&mut client).1.contains("a GET /slow"));
    for number in 1..=REQUESTS {
        let (_, body) = answer(&mut client);
        assert!(body.contains(&format!(" GET /{number:03} ")), "{number}: {body}");
    }
}

#[test]
fn a_large_answer_to_a_slow_client_with_an_unread_input_is_complete() {
    // Contract: T6
    const LENGTH: usize = 16 * 1024 * 1024;
    for head in [
        "POST / HTTP/1.0\r\nContent-Length: 1000000\r\n\r\n",
        "POST / HTTP/1.0\r\nContent-Length: 1000000\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    ] {
        let (socket, address) = listener();
        let child = server(|mut connection| {
            read_until(&mut connection, b"\r\n\r\n");
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\nConnection: close\r\n\r\n");
            connection.write_all(head.as_bytes()).unwrap();
            connection.write_all(&vec![b'x'; LENGTH]).unwrap();
            connection.shutdown(Shutdown::Write).unwrap();
            discard(&mut connection);
        });
        let a = Relay::start(&socket, proxy(Protocol::Http, child));
        a.accept();
        let mut client = Client::connect(address);
        rustix::net::sockopt::set_socket_recv_buffer_size(&client.stream, 32 * 1024).unwrap();
        client.send(head);
        client.send([b'y'; 10_000]);
        client.until("\r\n\r\n");
        let (mut length, mut buffer) = (0, [0; 20_000]);
        loop {
            match client.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(more) => length += more,
                Err(error) => panic!("{error} after {length} bytes; {head}"),
            }
        }
        assert_eq!(length, LENGTH, "{head}");
    }
}

#[test]
fn a_connection_that_could_not_leave_once_leaves_the_next_time() {
    // Contract: T6, B3
    let (socket, address) = listener();
    let (child_a, ..) = careless("a");
    let (child_b, ..) = careless("b");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/1"));
    assert!(answer(&mut client).1.contains("a GET /1"));
    a.stand_by_for_nobody();
    a.wait_counts("leaving", |counts| counts.leaving);
    a.stay();
    client.send(get("/2"));
    let (head, body) = answer(&mut client);
    assert!(body.contains("a GET /2") && !head.to_lowercase().contains("close"), "{head}{body}");
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.leave_to(&b);
    assert_eq!(a.report(), Report::Drained { passed_on: 1, waited_for: 0 });
    client.send(get("/3"));
    assert!(answer(&mut client).1.contains("b GET /3"));
}
