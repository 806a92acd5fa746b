//! FastCGI.

use std::io::{Read, Write};
use std::net::SocketAddr;

use relay::message::{Protocol, Report};

use crate::support::{Client, Relay, listener, proxy, refusing, server};

pub(crate) fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    record_of(1, kind, content)
}

pub(crate) fn record_of(id: u8, kind: u8, content: &[u8]) -> Vec<u8> {
    let mut record = vec![1, kind, 0, id];
    record.extend((content.len() as u16).to_be_bytes());
    record.extend([5, 0]);
    record.extend(content);
    record.extend([0; 5]);
    record
}

/// A whole request.
pub(crate) fn request(keeps: bool, body: &[u8]) -> Vec<u8> {
    let begin = record(1, &[0, 1, u8::from(keeps), 0, 0, 0, 0, 0]);
    [begin, record(4, b"\x01\x01ab"), record(4, b""), record(5, body), record(5, b"")].concat()
}

pub(crate) fn read_record(stream: &mut impl Read) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 8];
    stream.read_exact(&mut header).ok()?;
    let mut content = vec![0; usize::from(u16::from_be_bytes([header[4], header[5]]))];
    stream.read_exact(&mut content).ok()?;
    let mut padding = vec![0; header[6].into()];
    stream.read_exact(&mut padding).ok()?;
    Some((header[1], content))
}

/// An application that answers with its name and the input, and closes the connection, unless asked to keep
/// it.
pub(crate) fn application(name: &'static str) -> SocketAddr {
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
pub(crate) fn answer(client: &mut Client) -> String {
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
    // Contract: T7
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
    // Contract: T7
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
    // Contract: T7
    let (socket, address) = listener();
    let (_reserved, nobody) = refusing();
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
    // Contract: T7
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

/// An application that reads all records until `until` says that it was the last, answers with what it got,
/// and closes the connection.
fn recorder(until: fn(u8, &[u8]) -> bool) -> SocketAddr {
    server(move |mut connection| {
        let mut all = String::new();
        loop {
            let (kind, content) = read_record(&mut connection).unwrap();
            all.push_str(&format!("{kind}:{} ", String::from_utf8_lossy(&content)));
            if until(kind, &content) {
                break;
            }
        }
        let bytes = [record(6, all.as_bytes()), record(6, b""), record(3, &[0; 8])].concat();
        connection.write_all(&bytes).unwrap();
    })
}

#[test]
fn a_part_of_the_next_requests_header_stays_with_the_relay() {
    // Contract: T7
    let (socket, address) = listener();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let child = server(move |mut connection| {
        while read_record(&mut connection).unwrap() != (5, Vec::new()) {}
        wait.lock().unwrap().recv().unwrap();
        // Nothing but the request has come.
        connection.set_nonblocking(true).unwrap();
        let more = connection.read(&mut [0; 100]).is_ok_and(|length| length > 0);
        connection.set_nonblocking(false).unwrap();
        let text = if more { "more" } else { "nothing" };
        let bytes = [record(6, text.as_bytes()), record(6, b""), record(3, &[0; 8])].concat();
        connection.write_all(&bytes).unwrap();
    });
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, child));
    a.accept();
    let mut client = Client::connect(address);
    let (first, second) = (request(true, b"one"), request(true, b"two"));
    client.send([&*first, &second[..7]].concat());
    go.send(()).unwrap();
    assert_eq!(answer(&mut client), "nothing");
    client.send(&second[7..]);
    go.send(()).unwrap();
    assert_eq!(answer(&mut client), "nothing");
}

#[test]
fn a_failed_request_does_not_take_the_next_one_along() {
    // Contract: T7
    let (socket, address) = listener();
    let child = server(|mut connection| {
        let mut input = Vec::new();
        loop {
            match read_record(&mut connection).unwrap() {
                (5, content) if content.is_empty() => break,
                (5, content) => input = content,
                _ => {}
            }
        }
        if input == b"two" {
            connection.write_all(&[record(6, b"good"), record(3, &[0; 8])].concat()).unwrap();
        }
    });
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, child));
    a.accept();
    let mut client = Client::connect(address);
    client.send([request(true, b"one"), request(true, b"two")].concat());
    assert!(answer(&mut client).starts_with("Status: 502 "));
    assert_eq!(answer(&mut client), "good");
}

#[test]
fn a_client_that_half_closes_after_its_request_gets_the_answer() {
    // Contract: T7
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, application("a")));
    a.accept();
    for keeps in [true, false] {
        let mut client = Client::connect(address);
        client.send(request(keeps, b"one"));
        client.end();
        assert!(answer(&mut client).ends_with("a one"));
    }
}

#[test]
fn the_input_ends_with_its_own_request_and_a_filters_data_follow() {
    // Contract: T7
    let (socket, address) = listener();
    let child = recorder(|kind, content| kind == 8 && content.is_empty());
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, child));
    a.accept();
    let mut client = Client::connect(address);
    let begin = record(1, &[0, 3, 1, 0, 0, 0, 0, 0]);
    client.send([begin, record_of(2, 5, b""), record(5, b"in"), record(5, b"")].concat());
    client.send(record(8, b"data"));
    client.send(record(8, b""));
    assert!(answer(&mut client).ends_with("5: 5:in 5: 8:data 8: "));
}

#[test]
fn an_answer_before_the_end_of_the_input_is_not_lost_by_a_reset() {
    // Contract: T7
    let (socket, address) = listener();
    let child = server(|mut connection| {
        read_record(&mut connection).unwrap();
        connection.write_all(&[record(6, b"early"), record(3, &[0; 8])].concat()).unwrap();
    });
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, child));
    a.accept();
    for _ in 0..10 {
        let mut client = Client::connect(address);
        client.send(record(1, &[0, 1, 0, 0, 0, 0, 0, 0]));
        for _ in 0..100 {
            client.send(record(5, &[b'x'; 60_000]));
        }
        assert_eq!(answer(&mut client), "early");
    }
}
