//! The child has exited: the relay delivers what it sent, and nothing waits for clients.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use relay::message::{Protocol, Report};

use crate::http::{answer, careless, get};
use crate::support::{Client, Relay, listener, proxy, server};

/// A child that hands its connections to the test, which stands for a process that outlives the child.
fn open_connections() -> (SocketAddr, mpsc::Receiver<TcpStream>) {
    let (open, opened) = mpsc::channel();
    let open = Mutex::new(open);
    (server(move |connection| open.lock().unwrap().send(connection).unwrap()), opened)
}

#[test]
fn a_tcp_connection_is_closed_after_the_childs_last_byte_while_its_client_waits() {
    // Contract: T8
    let (socket, address) = listener();
    let (child, connections) = open_connections();
    for leaves_first in [false, true] {
        let a = Relay::start(&socket, proxy(Protocol::Tcp, child));
        a.accept();
        let mut client = Client::connect(address);
        client.send("never ended");
        let mut connection = connections.recv().unwrap();
        connection.read_exact(&mut [0; 11]).unwrap();
        if leaves_first {
            a.leave();
            a.wait_counts("leaving", |counts| counts.leaving);
        }
        connection.write_all(b"the last bytes").unwrap();
        drop(connection);
        a.close();
        assert_eq!(client.rest().unwrap(), "the last bytes");
        assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 1 });
        let counts = a.wait_counts("closed", |counts| counts.open == 0);
        assert!(counts.leaving && !counts.accepting && counts.errors == 0, "{counts:?}");
    }
}

#[test]
fn a_slow_client_gets_all_that_the_child_had_sent() {
    // Contract: T8
    const LENGTH: usize = 1024 * 1024;
    let (socket, address) = listener();
    let (child, connections) = open_connections();
    let a = Relay::start(&socket, proxy(Protocol::Tcp, child));
    a.accept();
    let client = TcpStream::connect(address).unwrap();
    rustix::net::sockopt::set_socket_recv_buffer_size(&client, 16 * 1024).unwrap();
    connections.recv().unwrap().write_all(&vec![b'x'; LENGTH]).unwrap();
    a.close();
    a.wait_counts("the order", |counts| counts.leaving);
    let mut all = Vec::new();
    (&client).read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), LENGTH);
    a.report();
}

#[test]
fn a_connection_that_outlives_the_child_is_cut() {
    // Contract: T8
    for protocol in [Protocol::Tcp, Protocol::Http, Protocol::Fastcgi] {
        let (socket, address) = listener();
        let (child, connections) = open_connections();
        let a = Relay::start(&socket, proxy(protocol, child));
        a.accept();
        let mut client = Client::connect(address);
        let (request, part): (&[u8], &[u8]) = match protocol {
            Protocol::Tcp => (b"bytes", b"half"),
            Protocol::Http => {
                (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            }
            Protocol::Fastcgi => {
                (&[1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0], b"\x01\x06\0\x01\0\x09\0\0half")
            }
        };
        client.send(request);
        let mut open = connections.recv().unwrap();
        open.read_exact(&mut vec![0; request.len().min(16)]).unwrap();
        open.write_all(part).unwrap();
        client.until("half");
        a.close();
        let error = client.rest().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{protocol:?}");
        assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 1 }, "{protocol:?}");
        drop(open);
    }
}

#[test]
fn connections_without_a_child_to_connect_to_are_closed_at_once() {
    // Contract: T8
    let (socket, address) = listener();
    // Accepts nothing, so a Unix socket's queue would be full for ever.
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("child.sock");
    let child = std::os::unix::net::UnixListener::bind(&path).unwrap();
    rustix::net::listen(&child, 0).unwrap();
    let _full = std::os::unix::net::UnixStream::connect(&path).unwrap();
    for protocol in [Protocol::Tcp, Protocol::Http] {
        let mut proxy = proxy(protocol, address);
        proxy.forward = relay::message::Forward::Unix(path.clone());
        let a = Relay::start(&socket, proxy);
        a.accept();
        let mut client = Client::connect(address);
        client.send(get("/"));
        a.wait_counts("its request", |counts| counts.under_way == 1);
        a.close();
        match protocol {
            Protocol::Http => {
                let head = client.until("\r\n\r\n").to_lowercase();
                assert!(head.starts_with("http/1.1 502 ") && head.contains("connection: close"), "{head}");
            }
            _ => assert_eq!(client.rest().unwrap_err().kind(), ErrorKind::ConnectionReset),
        }
        a.report();
    }
}

#[test]
fn idle_connections_go_to_the_successor_or_are_closed() {
    // Contract: T8
    for protocol in [Protocol::Http, Protocol::Fastcgi] {
        for has_successor in [false, true] {
            let (socket, address) = listener();
            let (child_a, ..) = careless("a");
            let (child_b, ..) = careless("b");
            let a = Relay::start(&socket, proxy(protocol, child_a));
            a.accept();
            let mut idle = Client::connect(address);
            // A part of a head: HTTP's, or a record's header.
            let mut begun = Client::connect(address);
            begun.send(if protocol == Protocol::Http { "GET / HT" } else { "\x01\x01\0" });
            a.wait_counts("both connections", |counts| counts.open == 2);
            let b = Relay::start(&socket, proxy(protocol, child_b));
            if has_successor {
                a.leave_to(&b);
            }
            a.close();
            let passed_on = if has_successor { 2 } else { 0 };
            assert_eq!(a.report(), Report::Drained { passed_on, waited_for: 0 }, "{protocol:?}");
            if !has_successor {
                assert_eq!(idle.rest().unwrap() + &begun.rest().unwrap(), "");
            } else if protocol == Protocol::Http {
                begun.send("TP/1.1\r\nHost: a\r\n\r\n");
                assert!(answer(&mut begun).1.contains("b GET / "));
                idle.send(get("/2"));
                assert!(answer(&mut idle).1.contains("b GET /2"));
            }
        }
    }
}

#[test]
fn an_answer_of_a_child_that_has_exited_is_whole_before_its_connection_is_passed_on() {
    // Contract: T8
    let (socket, address) = listener();
    let (child_a, connections) = open_connections();
    let (child_b, ..) = careless("b");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/1"));
    let mut connection = connections.recv().unwrap();
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.leave_to(&b);
    crate::support::read_until(&mut connection, b"\r\n\r\n");
    connection.write_all(b"HTTP/1.1 200 OK\r\n\r\nthe last answer").unwrap();
    drop(connection);
    a.close();
    assert!(answer(&mut client).1.contains("the last answer\r\n0\r\n\r\n"));
    assert_eq!(a.report(), Report::Drained { passed_on: 1, waited_for: 1 });
    client.send(get("/2"));
    assert!(answer(&mut client).1.contains("b GET /2"));
}

#[test]
fn held_requests_wait_in_the_old_relay_until_they_are_resumed() {
    // Contract: T8
    let (socket, address) = listener();
    let (child_a, go, begins) = careless("a");
    let (child_b, ..) = careless("b");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/1"));
    answer(&mut client);
    a.hold(Duration::from_secs(3600));
    a.wait_counts("held", |counts| counts.held);
    client.send(get("/slow"));
    a.wait_counts("the request", |counts| counts.under_way == 1);
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    b.hold(Duration::from_secs(3600));
    a.leave_to(&b);
    let counts = a.wait_counts("leaving", |counts| counts.leaving);
    assert!(counts.held && counts.under_way == 1, "{counts:?}");
    begins.try_recv().unwrap_err(); // the child has not got it
    a.resume();
    begins.recv().unwrap();
    go.send(()).unwrap();
    assert!(answer(&mut client).1.contains("a GET /slow"));
    assert_eq!(a.report(), Report::Drained { passed_on: 1, waited_for: 1 });
    b.wait_counts("held", |counts| counts.held && counts.open == 1);
}

#[test]
fn held_requests_are_refused_after_the_holds_time_or_the_childs_exit() {
    // Contract: T8
    for exits in [false, true] {
        let (socket, address) = listener();
        let (child, ..) = careless("a");
        let a = Relay::start(&socket, proxy(Protocol::Http, child));
        a.accept();
        let mut client = Client::connect(address);
        a.wait_counts("the connection", |counts| counts.open == 1);
        a.hold(if exits { Duration::from_secs(3600) } else { Duration::from_millis(300) });
        a.wait_counts("held", |counts| counts.held);
        client.send(get("/1"));
        a.wait_counts("the request", |counts| counts.under_way == 1);
        a.leave();
        if exits {
            a.close();
        }
        let head = client.until("\r\n\r\n").to_lowercase();
        assert!(head.starts_with("http/1.1 503 ") && head.contains("connection: close"), "{head}");
        drop(client);
        assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 1 });
    }
}
