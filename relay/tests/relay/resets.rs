//! Connections that are reset at every step, by the client or by the child.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use relay::message::Protocol;
use rustix::net::sockopt::set_socket_linger;

use crate::support::{Client, DEADLINE, Relay, listener, proxy, read_until, server};

/// Resets the connection.
fn reset(connection: TcpStream) {
    set_socket_linger(&connection, Some(Duration::ZERO)).unwrap();
    drop(connection);
}

/// A child that does what the path of the request says: sends a part of an answer, and then resets the
/// connection. `/good`: a whole answer.
fn child(parts: &'static [&'static str]) -> SocketAddr {
    server(move |mut connection: TcpStream| {
        // The number is a path, so that the child knows it before it reads any more.
        let line = read_until(&mut connection, b" HTTP/1.1\r\n");
        let path = line.split(' ').nth(1).unwrap();
        if path == "/unread" {
            return reset(connection); // with the rest of the request unread
        }
        read_until(&mut connection, b"\r\n\r\n");
        let Some(number) = path.strip_prefix("/part") else {
            connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood").unwrap();
            return;
        };
        connection.write_all(parts[number.parse::<usize>().unwrap()].as_bytes()).unwrap();
        // The relay has read it all: a reset would discard what is under way.
        while rustix::io::ioctl_fionread(&connection).is_err() {}
        reset(connection);
    })
}

#[test]
fn a_child_that_resets_costs_its_request_only() {
    // Contract: T7, T10
    const PARTS: &[&str] = &[
        "",
        "HTTP/1.1 2",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nha",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\n\r\nto the end",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ];
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Http, child(PARTS)));
    a.accept();
    let mut kept = Client::connect(address);
    let paths: Vec<String> =
        (0..PARTS.len()).map(|number| format!("/part{number}")).chain(["/unread".to_owned()]).collect();
    for (number, path) in paths.iter().enumerate() {
        let mut client = Client::connect(address);
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nin"));
        // The answer may have come already, and the connection may be cut. The kernel reports that once: to
        // a write, or else to the read.
        let rest = client.stream.write_all(b"put").and_then(|()| {
            client.stream.write_all(b"GET /good HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        });
        let mut all = Vec::new();
        let end = rest.and(client.stream.read_to_end(&mut all).map(drop));
        let all = String::from_utf8_lossy(&all).into_owned();
        // Either an answer that is refused, and the connection goes on or ends; or one that is cut.
        let is_refused = all.starts_with("HTTP/1.1 502 ");
        assert!(is_refused || end.is_err() && !all.contains("good"), "{path}: {end:?} {all}");
        kept.send("GET /good HTTP/1.1\r\nHost: a\r\n\r\n");
        kept.until("good");
        a.wait_counts("the child's failures", |counts| counts.errors == number as u64 + 1);
    }
    a.wait_counts("one connection", |counts| counts.open == 1 && counts.under_way == 0);
}

#[test]
fn a_client_that_resets_during_its_answer_frees_the_child() {
    // Contract: T7, T10
    for protocol in [Protocol::Tcp, Protocol::Http, Protocol::Fastcgi] {
        let (socket, address) = listener();
        let (ended, ends) = mpsc::channel();
        let ended = std::sync::Mutex::new(ended);
        let child = server(move |mut connection: TcpStream| {
            connection.read_exact(&mut [0; 16]).unwrap();
            let head: &[u8] = match protocol {
                Protocol::Http => b"HTTP/1.1 200 OK\r\n\r\n",
                _ => b"",
            };
            connection.write_all(head).unwrap();
            let piece = [&[1, 6, 0, 1, 0xff, 0xff, 0, 0][..], &[b'x'; 0xffff]].concat();
            while connection.write_all(&piece).is_ok() {}
            ended.lock().unwrap().send(()).unwrap();
        });
        let a = Relay::start(&socket, proxy(protocol, child));
        a.accept();
        let mut client = Client::connect(address);
        match protocol {
            Protocol::Http => client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
            _ => client.send([1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]),
        }
        client.until("xxxx");
        reset(client.stream);
        ends.recv_timeout(DEADLINE).expect("an error for the child");
        let counts = a.wait_counts("closed", |counts| counts.open == 0);
        assert_eq!((counts.under_way, counts.errors), (0, 0), "{protocol:?}");
    }
}

#[test]
fn a_fastcgi_child_that_resets_costs_its_request_only() {
    // Contract: T7, T10
    const ANSWER: &[u8] = b"\x01\x06\0\x01\0\x04\0\0half\x01\x03\0\x01\0\x08\0\0\0\0\0\0\0\0\0\0";
    const REQUEST: &[u8] = &[1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 5, 0, 1, 0, 0, 0, 0];
    for length in 0..ANSWER.len() {
        let (socket, address) = listener();
        let child = server(move |mut connection: TcpStream| {
            connection.read_exact(&mut [0; REQUEST.len()]).unwrap();
            connection.write_all(&ANSWER[..length]).unwrap();
            reset(connection);
        });
        let a = Relay::start(&socket, proxy(Protocol::Fastcgi, child));
        a.accept();
        let mut client = Client::connect(address);
        client.send(REQUEST);
        let mut answer = Vec::new();
        let mut buffer = [0; 100];
        let is_cut = loop {
            match client.stream.read(&mut buffer) {
                Ok(0) | Err(_) => break true,
                Ok(more) => answer.extend_from_slice(&buffer[..more]),
            }
            if answer.ends_with(&ANSWER[12..]) {
                break false; // the relay's own answer is whole
            }
        };
        let is_refused = String::from_utf8_lossy(&answer).contains("502 Bad Gateway");
        assert!(is_cut != is_refused, "{length}: {answer:?}");
        a.wait_counts("one error", |counts| counts.errors == 1 && counts.under_way == 0);
    }
}
