//! Bodies of HTTP requests and answers.

use std::io::Write as _;

use relay::message::Protocol;

use crate::bad::echo;
use crate::support::{Client, Relay, listener, proxy, read_until, refusing, server};

#[test]
fn the_body_of_a_get_request_reaches_the_child() {
    // Contract: T7
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Http, echo()));
    a.accept();
    let mut client = Client::connect(address);
    for body in ["Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "Content-Length: 4\r\n\r\nbody"]
    {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{body}"));
        client.until("[");
        let got = client.until("]");
        assert!(got.contains("body"), "{got}");
    }
}

#[test]
fn transfer_codings_other_than_chunked_are_refused() {
    // Contract: T7
    let (socket, address) = listener();
    let child = server(|mut connection| {
        let head = read_until(&mut connection, b"\r\n\r\n");
        assert!(!head.contains("POST"), "{head}");
        let coding = if head.contains("/both") { "gzip, chunked" } else { "gzip" };
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n");
        connection.write_all(answer.as_bytes()).unwrap();
    });
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    for coding in ["gzip, chunked", "gzip\r\nTransfer-Encoding: chunked", "identity, chunked"] {
        let mut client = Client::connect(address);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n0\r\n\r\n"));
        let head = client.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 501 "), "{coding}: {head}");
    }
    for path in ["/both", "/one"] {
        let mut client = Client::connect(address);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let head = client.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 502 "), "{path}: {head}");
    }
    a.wait_counts("the child's errors", |counts| counts.errors == 2);
}

#[test]
fn a_child_that_answers_and_closes_during_an_upload_is_heard() {
    // Contract: T7
    const LENGTH: usize = 8 * 1024 * 1024;
    let (socket, address) = listener();
    let child = server(|mut connection| {
        read_until(&mut connection, b"\r\n\r\n");
        let answer = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 9\r\n\r\ntoo large";
        connection.write_all(answer).unwrap();
        // Closed with bytes unread, so its kernel sends a reset.
    });
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    for _ in 0..10 {
        let mut client = Client::connect(address);
        client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {LENGTH}\r\n\r\n"));
        client.send(vec![b'x'; LENGTH]);
        let head = client.until("too large");
        assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    }
}

#[test]
fn an_answer_that_switches_protocols_unasked_is_a_502() {
    // Contract: T7
    let (socket, address) = listener();
    let child = server(|mut connection| {
        read_until(&mut connection, b"\r\n\r\n");
        connection
            .write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw")
            .unwrap();
    });
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let mut client = Client::connect(address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    let mut client = Client::connect(address);
    client.send("CONNECT b:80 HTTP/1.1\r\nHost: b:80\r\n\r\n");
    let head = client.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 405 "), "{head}");
    a.wait_counts("the child's error", |counts| counts.errors == 1);
}

#[test]
fn a_broken_upload_is_the_clients_failure_and_a_cut_answer_the_childs() {
    // Contract: T7
    let (socket, address) = listener();
    let child = server(|mut connection| {
        let head = read_until(&mut connection, b"\r\n\r\n");
        if head.starts_with("POST") {
            let _ = std::io::Read::read_to_end(&mut connection, &mut Vec::new());
        } else {
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
        }
    });
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let mut client = Client::connect(address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\nzz\r\n");
    let head = client.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    let mut client = Client::connect(address);
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    client.end();
    let head = client.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
    let counts = a.wait_counts("both requests", |counts| counts.requests == 2 && counts.under_way == 0);
    assert_eq!(counts.errors, 0);
    let mut client = Client::connect(address);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.until("half");
    a.wait_counts("one error", |counts| counts.errors == 1);
}

#[test]
fn the_child_gets_one_host_and_a_path() {
    // Contract: T7
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Http, echo()));
    a.accept();
    let good = [
        ("GET /p HTTP/1.0\r\n\r\n", "get /p http/1.1\r\n", format!("host: {address}\r\n")),
        ("GET http://b/p?q HTTP/1.1\r\nHost: a\r\n\r\n", "get /p?q http/1.1\r\n", "host: b\r\n".to_owned()),
    ];
    for (request, line, host) in good {
        let mut client = Client::connect(address);
        client.send(request);
        let got = client.until("[");
        assert!(got.contains(line) && got.contains(&host) && got.matches("host: ").count() == 1, "{got}");
    }
    for hosts in ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nhost: b\r\n"] {
        let mut client = Client::connect(address);
        client.send(format!("GET / HTTP/1.1\r\n{hosts}\r\n"));
        let head = client.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 400 "), "{hosts}: {head}");
    }
    let counts = a.wait_counts("all requests", |counts| counts.requests == 5);
    assert_eq!(counts.errors, 0);
}

#[test]
fn trailers_that_are_announced_reach_both_sides() {
    // Contract: T7
    let (socket, address) = listener();
    let child = server(|mut connection| {
        let head = read_until(&mut connection, b"\r\n\r\n").to_lowercase();
        assert!(head.contains("trailer: sum"), "{head}");
        let body = read_until(&mut connection, b"\r\n\r\n").to_lowercase();
        assert!(body.contains("0\r\nsum: 1\r\n"), "{body}");
        let answer = "HTTP/1.1 200 OK\r\nTrailer: Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nSum: 2\r\n\r\n";
        connection.write_all(answer.as_bytes()).unwrap();
    });
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let mut client = Client::connect(address);
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\nTrailer: Sum\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nup\r\n0\r\nSum: 1\r\n\r\n",
    );
    client.until("\r\n\r\n");
    let body = client.until("\r\n\r\n").to_lowercase();
    assert!(body.contains("ok") && body.contains("0\r\nsum: 2\r\n"), "{body}");
}

/// hyper sends only trailers that the head announces (RFC 9110, section 6.6.2), and a proxy may discard the
/// others (section 6.5.1). Their answer must end all the same.
#[test]
fn trailers_that_are_not_announced_are_discarded_and_the_answer_is_whole() {
    // Contract: T7
    let (socket, address) = listener();
    let child = server(|mut connection| {
        read_until(&mut connection, b"\r\n\r\n");
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nSum: 2\r\n\r\n";
        connection.write_all(answer.as_bytes()).unwrap();
    });
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let mut client = Client::connect(address);
    for te in ["", "TE: trailers\r\nConnection: TE\r\n"] {
        client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{te}\r\n"));
        client.until("\r\n\r\n");
        assert_eq!(client.until("0\r\n\r\n"), "2\r\nok\r\n0\r\n\r\n");
    }
    assert_eq!(a.wait_counts("both", |counts| counts.under_way == 0).errors, 0);
}

#[test]
fn a_refused_upload_gets_its_answer() {
    // Contract: T7
    const LENGTH: usize = 8 * 1024 * 1024;
    let (socket, address) = listener();
    let (_reserved, nobody) = refusing();
    let a = Relay::start(&socket, proxy(Protocol::Http, nobody));
    a.accept();
    for (fields, status) in [("Host: a\r\n", 502), ("Host: a\r\nConnection: close\r\n", 502), ("", 400)] {
        let mut client = Client::connect(address);
        client.send(format!("POST / HTTP/1.1\r\n{fields}Content-Length: {LENGTH}\r\n\r\n"));
        client.send(vec![b'x'; LENGTH]);
        let head = client.until("\r\n\r\n");
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    }
}
