//! FastCGI clients and children that send what is no FastCGI, or more than a relay should keep.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use relay::message::Protocol;

use crate::fcgi::{answer, application, read_record, record, record_of, request};
use crate::support::{Client, Relay, listener, proxy, server};

/// A relay with an application, and the relay's address.
fn relay(child: SocketAddr) -> (Relay, SocketAddr) {
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, child));
    a.accept();
    (a, address)
}

fn assert_serves(address: SocketAddr) {
    let mut client = Client::connect(address);
    client.send(request(false, b"good"));
    assert!(answer(&mut client).ends_with("a good"));
}

#[test]
fn bytes_that_are_no_records_close_their_connection() {
    // Contract: T10
    let (a, address) = relay(application("a"));
    let begin = record(1, &[0, 1, 1, 0, 0, 0, 0, 0]);
    let cases: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 64],
        [&[2][..], &begin[1..]].concat(), // another version
        [&*begin, &[0; 16]].concat(),     // within a request
        [&*begin, &*record(5, b"input"), b"GET / HTTP/1.1\r\n"].concat(),
    ];
    for case in cases {
        let mut client = Client::connect(address);
        client.send(&case);
        let got = client.rest();
        assert!(got.as_ref().is_err() || got.as_ref().is_ok_and(String::is_empty), "{case:?}: {got:?}");
        assert_serves(address);
    }
    a.wait_counts("closed", |counts| counts.open == 0 && counts.under_way == 0);
}

#[test]
fn records_of_no_request_are_ignored_and_unknown_ones_are_answered() {
    // Contract: T10
    let (_a, address) = relay(application("a"));
    let mut client = Client::connect(address);
    // Of no active request (section 3.3), and a begin that is too short to be one.
    for kind in [2, 3, 4, 5, 6, 7, 8, 200] {
        client.send(record(kind, b"some content"));
    }
    client.send(record(1, &[0, 1]));
    client.send(record_of(0, 99, b"unknown"));
    assert_eq!(read_record(&mut client.stream).unwrap(), (11, vec![99, 0, 0, 0, 0, 0, 0, 0]));
    client.send(request(true, b"then"));
    assert!(answer(&mut client).ends_with("a then"));
}

#[test]
fn an_unknown_role_is_the_applications_to_refuse() {
    // Contract: T10
    let child = server(|mut connection: TcpStream| {
        let (kind, content) = read_record(&mut connection).unwrap();
        assert_eq!((kind, content[1]), (1, 77));
        let unknown_role = [0, 0, 0, 0, 3, 0, 0, 0]; // FCGI_UNKNOWN_ROLE, section 5.5
        connection.write_all(&record(3, &unknown_role)).unwrap();
    });
    let (_a, address) = relay(child);
    let mut client = Client::connect(address);
    client.send(record(1, &[0, 77, 1, 0, 0, 0, 0, 0]));
    assert_eq!(read_record(&mut client.stream).unwrap(), (3, vec![0, 0, 0, 0, 3, 0, 0, 0]));
}

#[test]
fn largest_records_and_paddings_arrive_whole() {
    // Contract: T10
    let child = server(|mut connection: TcpStream| {
        let mut all = 0;
        loop {
            match read_record(&mut connection).unwrap() {
                (5, content) if content.is_empty() => break,
                (5, content) => all += content.len(),
                _ => {}
            }
        }
        let mut output = vec![1, 6, 0, 1, 0xff, 0xff, 255, 0];
        output.extend(vec![b'y'; all]);
        output.extend([0; 255]);
        connection.write_all(&[output, record(3, &[0; 8])].concat()).unwrap();
    });
    let (_a, address) = relay(child);
    let mut client = Client::connect(address);
    let large = vec![b'x'; 65_535];
    for _ in 0..2 {
        let mut padded = vec![1, 5, 0, 1, 0xff, 0xff, 255, 0];
        padded.extend(&large);
        padded.extend([0; 255]);
        let begin = record(1, &[0, 1, 1, 0, 0, 0, 0, 0]);
        client.send([begin, padded, record(5, b"")].concat());
        assert_eq!(answer(&mut client), "y".repeat(65_535));
    }
}

/// A client that uses one connection for several requests at a time, although the relay says that it does not
/// support that (`FCGI_MPXS_CONNS`): their records interleave.
#[test]
fn multiplexed_requests_are_answered_or_refused_but_never_mixed() {
    // Contract: T10
    let (a, address) = relay(application("a"));
    let mut client = Client::connect(address);
    let begin = |id| record_of(id, 1, &[0, 1, 1, 0, 0, 0, 0, 0]);
    client.send([begin(1), begin(2), record_of(1, 5, b"one"), record_of(2, 5, b"two")].concat());
    client.send([record_of(1, 5, b""), record_of(2, 5, b"")].concat());
    // The first request is answered with its own input, or the connection ends.
    let mut output = Vec::new();
    let mut header = [0; 8];
    while client.stream.read_exact(&mut header).is_ok() {
        let mut content =
            vec![0; usize::from(u16::from_be_bytes([header[4], header[5]])) + usize::from(header[6])];
        if client.stream.read_exact(&mut content).is_err() || header[1] == 3 {
            break;
        }
        output.extend_from_slice(&content);
    }
    let output = String::from_utf8_lossy(&output).into_owned();
    assert!(!output.contains("onetwo") && !output.contains("twoone"), "{output:?}");
    drop(client);
    assert_serves(address);
    a.wait_counts("closed", |counts| counts.open == 0 && counts.under_way == 0);
}

#[test]
fn an_abort_reaches_the_application() {
    // Contract: T10
    let child = server(|mut connection: TcpStream| {
        while read_record(&mut connection).unwrap().0 != 2 {}
        connection.write_all(&[record(6, b""), record(3, &[0; 8])].concat()).unwrap();
    });
    let (_a, address) = relay(child);
    let mut client = Client::connect(address);
    client.send([record(1, &[0, 1, 1, 0, 0, 0, 0, 0]), record(5, b"in"), record(2, b"")].concat());
    while read_record(&mut client.stream).unwrap().0 != 3 {}
}

#[test]
fn an_application_that_sends_no_records_is_a_502() {
    // Contract: T10
    for answer_bytes in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &[0; 100], &[1, 6, 0]] {
        let child = server(move |mut connection: TcpStream| {
            while read_record(&mut connection).unwrap() != (5, Vec::new()) {}
            connection.write_all(answer_bytes).unwrap();
        });
        let (a, address) = relay(child);
        let mut client = Client::connect(address);
        client.send(request(false, b"in"));
        let mut got = Vec::new();
        let _ = client.stream.read_to_end(&mut got);
        let text = String::from_utf8_lossy(&got).into_owned();
        assert!(text.contains("502 Bad Gateway") || text.is_empty() || got == answer_bytes, "{text:?}");
        a.wait_counts("one error", |counts| counts.errors == 1 && counts.under_way == 0);
    }
}
