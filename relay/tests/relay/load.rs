//! Many flips under load, with children that end their connections as they like.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use relay::message::{Protocol, Report};

use crate::support::{Client, Relay, listener, proxy, read_until, server};

const FLIPS: usize = 60;

/// Answers one request by HTTP/1.0 and closes the connection at once, and after `end` refuses to answer at
/// all.
fn child(generation: usize, ended: Arc<AtomicBool>) -> SocketAddr {
    server(move |mut connection: TcpStream| {
        let head = read_until(&mut connection, b"\r\n\r\n");
        if ended.load(Ordering::SeqCst) {
            return; // as a server that was killed
        }
        let length: Option<usize> =
            head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        std::io::Read::read_exact(&mut connection, &mut body).unwrap();
        let text = format!("{generation} {}", String::from_utf8(body).unwrap());
        let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
        connection.write_all(answer.as_bytes()).unwrap();
    })
}

/// How a client sends its requests.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Each on a connection of its own.
    Fresh,
    /// All on one connection.
    Kept,
    /// On one connection, several ahead of their answers.
    Pipelined,
    /// On one connection, in small pieces.
    InPieces,
}

/// Sends requests until told to stop. Every request must be answered.
fn load(address: SocketAddr, way: Way, stop: &AtomicBool, answered: &AtomicU64) {
    let mut client = Client::connect(address);
    let mut last = 0;
    let at_once = if way == Way::Pipelined { 7 } else { 1 };
    for round in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        if way == Way::Fresh {
            client = Client::connect(address);
        }
        let bodies: Vec<String> = (0..at_once).map(|number| format!("request {round}-{number}")).collect();
        let request = |body: &String| {
            let length = body.len();
            format!("POST /{round} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}")
        };
        let bytes: String = bodies.iter().map(request).collect();
        let size = if way == Way::InPieces { 1 + round % 40 } else { bytes.len() };
        bytes.as_bytes().chunks(size).for_each(|piece| client.send(piece));
        for body in bodies {
            let head = client.until("\r\n\r\n");
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
            let answer = client.until(&body);
            let generation: usize = answer.split(' ').next().unwrap().parse().unwrap();
            assert!(generation >= last, "generation {generation} answered after {last}");
            last = generation;
            answered.fetch_add(1, Ordering::SeqCst);
        }
    }
}

#[test]
fn load_http_loses_no_request_in_many_flips() {
    // Contract: T4, T6
    let (socket, address) = listener();
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let mut ended = Arc::new(AtomicBool::new(false));
    let mut old = Relay::start(&socket, proxy(Protocol::Http, child(1, Arc::clone(&ended))));
    old.accept();
    std::thread::scope(|scope| {
        for way in [Way::Fresh, Way::Kept, Way::Pipelined, Way::InPieces] {
            let (stop, answered) = (&stop, &answered);
            scope.spawn(move || load(address, way, stop, answered));
        }
        for generation in 2..2 + FLIPS {
            let before = answered.load(Ordering::SeqCst);
            let new_ended = Arc::new(AtomicBool::new(false));
            let new = Relay::start(&socket, proxy(Protocol::Http, child(generation, Arc::clone(&new_ended))));
            old.leave_to(&new);
            assert!(matches!(old.report(), Report::Drained { .. }));
            // The old child may go as it likes: it has nothing left to answer.
            ended.store(true, Ordering::SeqCst);
            new.wait_counts("some requests", |counts| counts.requests > 4);
            assert!(answered.load(Ordering::SeqCst) > before);
            (old, ended) = (new, new_ended);
        }
        stop.store(true, Ordering::SeqCst);
    });
    let counts = old.wait_counts("the end", |counts| counts.open == 0);
    assert_eq!(counts.errors, 0);
}
