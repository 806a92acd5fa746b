//! Many flips under load, with children that end their connections as they like.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use relay::message::{Protocol, Report};

use crate::support::{Client, Relay, listener, proxy, read_until, server};

const FLIPS: usize = 60;

/// Answers one request by HTTP/1.0 and closes the connection at once, and after `end` refuses to answer at all.
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

/// Sends requests until told to stop, on one connection or on a new one each. Every request must be answered.
fn load(address: SocketAddr, keeps: bool, stop: &AtomicBool, answered: &AtomicU64) {
    let mut client = Client::connect(address);
    let mut last = 0;
    for number in 0.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        if !keeps {
            client = Client::connect(address);
        }
        let body = format!("request {number}");
        client.send(format!(
            "POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let head = client.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let answer = client.until(&body);
        let generation: usize = answer.split(' ').next().unwrap().parse().unwrap();
        assert!(generation >= last, "generation {generation} answered after {last}");
        last = generation;
        answered.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn load_http_loses_no_request_in_many_flips() {
    let (socket, address) = listener();
    let stop = AtomicBool::new(false);
    let answered = AtomicU64::new(0);
    let mut ended = Arc::new(AtomicBool::new(false));
    let mut old = Relay::start(&socket, proxy(Protocol::Http, child(1, Arc::clone(&ended))));
    old.accept();
    std::thread::scope(|scope| {
        for keeps in [true, true, false, true] {
            let (stop, answered) = (&stop, &answered);
            scope.spawn(move || load(address, keeps, stop, answered));
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
