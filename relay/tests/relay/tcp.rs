//! TCP.

use std::io::{Read, Write};
use std::net::Shutdown;

use relay::message::{Protocol, ProxyProtocol, Report};

use crate::support::{Client, Relay, listener, proxy, read_until, refusing, server};

#[test]
fn bytes_go_both_ways_and_each_side_ends_its_own_direction() {
    // Contract: T7
    let (socket, address) = listener();
    let child = server(|mut connection| {
        let mut all = String::new();
        connection.read_to_string(&mut all).unwrap(); // until the client's direction has ended
        write!(connection, "got {all}").unwrap();
    });
    let a = Relay::start(&socket, proxy(Protocol::Tcp, child));
    a.accept();
    let mut client = Client::connect(address);
    client.send("hello");
    client.end();
    assert_eq!(client.rest().unwrap(), "got hello");
    a.leave();
    let Report::Drained { passed_on: 0, .. } = a.report() else { panic!() };
}

#[test]
fn much_data_arrives_whole_in_both_directions() {
    // Contract: T7
    const LENGTH: usize = 48 * 1024 * 1024 + 7;
    let (socket, address) = listener();
    let child = server(|mut connection| {
        let mut buffer = vec![0; 100_000];
        loop {
            match connection.read(&mut buffer).unwrap() {
                0 => break,
                length => connection.write_all(&buffer[..length]).unwrap(),
            }
        }
    });
    let a = Relay::start(&socket, proxy(Protocol::Tcp, child));
    a.accept();
    let client = Client::connect(address);
    let mut writer = client.stream.try_clone().unwrap();
    let pattern = |at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8;
    let thread = std::thread::spawn(move || {
        let mut at = 0;
        while at < LENGTH {
            let bytes: Vec<u8> = (at..LENGTH.min(at + 333_333)).map(pattern).collect();
            writer.write_all(&bytes).unwrap();
            at += bytes.len();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut reader = client.stream;
    let (mut at, mut buffer) = (0, vec![0; 250_000]);
    loop {
        let length = reader.read(&mut buffer).unwrap();
        if length == 0 {
            break;
        }
        for byte in &buffer[..length] {
            assert_eq!(*byte, pattern(at), "byte {at}");
            at += 1;
        }
    }
    thread.join().unwrap();
    assert_eq!(at, LENGTH);
}

#[test]
fn a_reset_of_the_child_is_a_reset_for_the_client() {
    // Contract: T7
    let (socket, address) = listener();
    let child = server(|mut connection| {
        read_until(&mut connection, b"\n");
        connection.write_all(b"half an answer").unwrap();
        rustix::net::sockopt::set_socket_linger(&connection, Some(std::time::Duration::ZERO)).unwrap();
    });
    let a = Relay::start(&socket, proxy(Protocol::Tcp, child));
    a.accept();
    let mut client = Client::connect(address);
    client.send("go\n");
    let error = client.rest().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[test]
fn a_child_that_does_not_listen_is_counted_and_the_client_is_reset() {
    // Contract: T7
    let (socket, address) = listener();
    let (_reserved, nobody) = refusing();
    let a = Relay::start(&socket, proxy(Protocol::Tcp, nobody));
    a.accept();
    let mut client = Client::connect(address);
    client.rest().unwrap_err();
    a.wait_counts("one error", |counts| counts.errors == 1 && counts.open == 0);
}

#[test]
fn the_clients_address_is_passed_on_in_both_versions_of_the_proxy_protocol() {
    // Contract: T7
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let (outer_socket, outer) = listener();
        let (inner_socket, inner) = listener();
        let child = server(|mut connection| {
            let line = read_until(&mut connection, b"\r\n");
            connection.write_all(line.as_bytes()).unwrap();
        });
        let mut to_inner = proxy(Protocol::Tcp, inner);
        to_inner.send_proxy_protocol = Some(version);
        let first = Relay::start(&outer_socket, to_inner);
        let mut to_child = proxy(Protocol::Tcp, child);
        (to_child.accept_proxy_protocol, to_child.send_proxy_protocol) = (true, Some(ProxyProtocol::V1));
        let second = Relay::start(&inner_socket, to_child);
        first.accept();
        second.accept();
        let mut client = Client::connect(outer);
        let from = client.stream.local_addr().unwrap();
        let line = client.rest().unwrap();
        let wanted = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", from.port(), outer.port());
        assert_eq!(line, wanted, "{version:?}");
    }
}
