//! FastCGI.

use std::io::{Read, Write};
use std::net::SocketAddr;

use relay::message::{Protocol, Report};

use crate::support::{Client, Relay, listener, proxy, server};

fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let mut record = vec![1, kind, 0, 1];
    record.extend((content.len() as u16).to_be_bytes());
    record.extend([5, 0]);
    record.extend(content);
    record.extend([0; 5]);
    record
}

/// A whole request.
fn request(keeps: bool, body: &[u8]) -> Vec<u8> {
    let begin = record(1, &[0, 1, u8::from(keeps), 0, 0, 0, 0, 0]);
    [begin, record(4, b"\x01\x01ab"), record(4, b""), record(5, body), record(5, b"")].concat()
}

fn read_record(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 8];
    stream.read_exact(&mut header).ok()?;
    let mut content = vec![0; usize::from(u16::from_be_bytes([header[4], header[5]]))];
    stream.read_exact(&mut content).ok()?;
    let mut padding = vec![0; header[6].into()];
    stream.read_exact(&mut padding).ok()?;
    Some((header[1], content))
}

/// An application that answers with its name and the input, and exits the connection, unless asked to keep it.
fn application(name: &'static str) -> SocketAddr {
    server(move |mut connection| {
        let mut input = Vec::new();
        loop {
            let (kind, content) = read_record(&mut connection).unwrap();
            match kind {
                1 => assert_eq!(content[2] & 1, 0, "the child is not asked to keep its connection"),
                5 if content.is_empty() => break,
                5 => input.extend(content),
                _ => {}
            }
        }
        let answer = format!("Content-Type: text/plain\r\n\r\n{name} {}", String::from_utf8_lossy(&input));
        let bytes = [record(6, answer.as_bytes()), record(6, b""), record(3, &[0; 8])].concat();
        connection.write_all(&bytes).unwrap();
    })
}

/// The body of an answer.
fn answer(client: &mut Client) -> String {
    let mut output = Vec::new();
    loop {
        let (kind, content) = read_record(&mut client.stream).expect("an answer");
        match kind {
            6 => output.extend(content),
            3 => return String::from_utf8(output).unwrap(),
            _ => {}
        }
    }
}

#[test]
fn a_keep_alive_connection_outlives_the_generation() {
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, application("a")));
    a.accept();
    let mut client = Client::connect(address);
    for body in ["one", "two"] {
        client.send(request(true, body.as_bytes()));
        assert!(answer(&mut client).ends_with(&format!("a {body}")));
    }
    let b = Relay::start(&socket, proxy(Protocol::Fastcgi, application("b")));
    // A part of the next request is read by the old relay already.
    let next = request(true, b"three");
    client.send(&next[..20]);
    a.leave_to(&b);
    assert_eq!(a.report(), Report::Drained { passed_on: 1, waited_for: 0 });
    client.send(&next[20..]);
    assert!(answer(&mut client).ends_with("b three"));
    client.send(request(false, b"four"));
    assert!(answer(&mut client).ends_with("b four"));
    assert_eq!(client.rest().unwrap(), "", "the client did not ask to keep it");
}

#[test]
fn a_large_input_and_pipelined_requests_arrive_whole() {
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, application("a")));
    a.accept();
    let mut client = Client::connect(address);
    let large = "x".repeat(60_000);
    client.send([request(true, large.as_bytes()), request(true, b"second")].concat());
    assert!(answer(&mut client).ends_with(&format!("a {large}")));
    assert!(answer(&mut client).ends_with("a second"));
}

#[test]
fn a_child_that_refuses_is_a_502() {
    let (socket, address) = listener();
    let (refuses, nobody) = listener();
    drop(refuses);
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, nobody));
    a.accept();
    let mut client = Client::connect(address);
    for _ in 0..2 {
        client.send(request(true, b"input"));
        assert!(answer(&mut client).starts_with("Status: 502 Bad Gateway\r\n"));
    }
    a.wait_counts("two errors", |counts| counts.errors == 2);
}

#[test]
fn questions_about_the_connection_are_answered_by_the_relay() {
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, application("a")));
    a.accept();
    let mut client = Client::connect(address);
    let mut get_values = record(9, b"\x0f\x00FCGI_MPXS_CONNS");
    get_values[3] = 0;
    client.send(get_values);
    assert_eq!(read_record(&mut client.stream).unwrap(), (10, b"\x0f\x01FCGI_MPXS_CONNS0".to_vec()));
    client.send(request(true, b"then"));
    assert!(answer(&mut client).ends_with("a then"));
}
