//! Clients that behave badly cost their own connection, and nothing else.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};

use relay::message::Protocol;

use crate::support::{Client, Relay, listener, proxy, read_until, server};

/// Answers with the head and the body that it got.
pub(crate) fn echo() -> SocketAddr {
    server(|mut connection: TcpStream| {
        let head = read_until(&mut connection, b"\r\n\r\n").to_lowercase();
        let body = if let Some(length) = head.lines().find_map(|line| line.strip_prefix("content-length: ")) {
            let mut body = vec![0; length.parse().unwrap()];
            std::io::Read::read_exact(&mut connection, &mut body).unwrap();
            String::from_utf8_lossy(&body).into_owned()
        } else if head.contains("transfer-encoding: chunked") {
            read_until(&mut connection, b"0\r\n\r\n")
        } else {
            String::new()
        };
        let text = format!("{head}[{body}]");
        write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len()).unwrap();
    })
}

#[test]
fn an_endless_head_is_refused_and_other_clients_are_served() {
    // Contract: T10
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Http, echo()));
    a.accept();
    let mut endless = Client::connect(address);
    let _ = endless.stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nA: ");
    for _ in 0..200 {
        if endless.stream.write_all(&[b'a'; 1024]).is_err() {
            break;
        }
    }
    let answer = endless.rest().unwrap();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let mut many = Client::connect(address);
    let _ = many.stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n");
    for number in 0..1000 {
        if many.stream.write_all(format!("A{number}: b\r\n").as_bytes()).is_err() {
            break;
        }
    }
    let _ = many.stream.write_all(b"\r\n");
    let answer = many.rest().unwrap_or_default();
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let mut client = Client::connect(address);
    client.send("GET /good HTTP/1.1\r\nHost: a\r\n\r\n");
    client.until("get /good");
}

#[test]
fn clients_that_reset_their_connections_at_any_point_leave_nothing() {
    // Contract: T10
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Http, echo()));
    a.accept();
    let request = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789";
    for length in 0..=request.len() {
        let mut client = Client::connect(address);
        client.send(&request[..length]);
        rustix::net::sockopt::set_socket_linger(&client.stream, Some(std::time::Duration::ZERO)).unwrap();
    }
    let counts = a.wait_counts("all connections to be closed", |counts| {
        counts.connections > request.len() as u64 && counts.open == 0
    });
    assert_eq!(counts.under_way, 0);
}

#[test]
fn a_client_that_is_gone_can_not_end_the_process_by_sigpipe() {
    // Contract: T10
    let blocked = std::thread::spawn(|| {
        let (ours, theirs) = relay::Link::pair().unwrap();
        drop(ours);
        relay::run(theirs).unwrap();
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:\t")).unwrap();
        u64::from_str_radix(blocked, 16).unwrap()
    });
    assert_ne!(blocked.join().unwrap() & 1 << (13 - 1), 0);
}

#[test]
fn a_reset_while_the_child_is_silent_ends_its_request() {
    // Contract: T10
    for protocol in [Protocol::Http, Protocol::Fastcgi] {
        let (socket, address) = listener();
        let (came, comes) = std::sync::mpsc::channel();
        let child = server(move |mut connection: TcpStream| {
            let mut bytes = [0; 4096];
            while let Ok(length) = std::io::Read::read(&mut connection, &mut bytes) {
                came.send(length).unwrap();
                if length == 0 {
                    return;
                }
            }
        });
        let a = Relay::start(&socket, proxy(protocol, child));
        a.accept();
        let mut client = Client::connect(address);
        match protocol {
            Protocol::Fastcgi => {
                let begin = [1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0];
                let input = [1, 5, 0, 1, 0, 0, 0, 0];
                // The next request waits for the answer.
                client.send([&begin[..], &input[..], &begin[..]].concat());
            }
            _ => client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\n"),
        }
        assert!(comes.recv().unwrap() > 0);
        rustix::net::sockopt::set_socket_linger(&client.stream, Some(std::time::Duration::ZERO)).unwrap();
        drop(client);
        while comes.recv_timeout(crate::support::DEADLINE).unwrap() > 0 {}
        a.wait_counts("closed", |counts| counts.connections == 1 && counts.open == 0);
    }
}
