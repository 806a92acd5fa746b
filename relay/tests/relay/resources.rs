//! What clients cost that do nothing, or send without end: no other client, and bounded memory. The relay's
//! memory is that of the test's process.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use relay::message::Protocol;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::bad::echo;
use crate::support::{Client, Relay, listener, proxy, server};

/// The resident memory of this process, in kB (proc(5)).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Asserts that memory has not grown by more than `kilobytes` since.
fn assert_grown_by_at_most(kilobytes: u64, before: u64, what: &str) {
    let grown = resident().saturating_sub(before);
    assert!(grown <= kilobytes, "{what}: {grown} kB more; at most {kilobytes}");
}

/// A request of another client is answered.
fn assert_serves(address: SocketAddr) {
    let mut client = Client::connect(address);
    client.send("GET /good HTTP/1.1\r\nHost: a\r\n\r\n");
    client.until("get /good");
}

/// Raises the limit of open files as far as the process may, and returns it.
fn most_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    limit.maximum.unwrap_or(u64::MAX).min(1_000_000) as usize
}

/// 10,000, or as many as there are descriptors for, at `each` descriptors per connection.
fn how_many(each: usize) -> usize {
    let most = 10_000.min((most_descriptors() - 200) / each);
    if most < 10_000 {
        // For whoever reads the test's output.
        let _ = writeln!(std::io::stderr(), "the limit of open files allows {most} of 10,000 connections");
    }
    most
}

/// A child that accepts connections and does nothing with them.
fn idle_child() -> SocketAddr {
    let (listener, address) = listener();
    std::thread::spawn(move || {
        let _kept: Vec<_> = listener.incoming().collect();
    });
    address
}

/// Opens connections no faster than the relay accepts them: a full queue of the kernel would drop some, and
/// the client would try again only after a second.
fn open(number: usize, socket: &TcpListener, relay: &Relay) -> Vec<TcpStream> {
    let address = socket.local_addr().unwrap();
    let mut all = Vec::with_capacity(number);
    while all.len() < number {
        for _ in 0..100.min(number - all.len()) {
            all.push(TcpStream::connect(address).unwrap());
        }
        relay.wait_counts("them", |counts| counts.open == all.len() as u64);
    }
    all
}

#[test]
fn ten_thousand_idle_connections_cost_at_most_3_kb_each() {
    // Contract: T10
    let (socket, address) = listener();
    for (protocol, number) in [(Protocol::Http, how_many(2)), (Protocol::Fastcgi, how_many(2))] {
        let child = if protocol == Protocol::Http { echo() } else { idle_child() };
        let a = Relay::start(&socket, proxy(protocol, child));
        a.accept();
        let before = resident();
        let connections = open(number - 1, &socket, &a);
        assert_grown_by_at_most(3 * number as u64, before, &format!("{protocol:?}"));
        if protocol == Protocol::Http {
            assert_serves(address);
        }
        drop(connections);
        a.wait_counts("closed", |counts| counts.open == 0);
    }
}

#[test]
fn ten_thousand_idle_tcp_connections_cost_at_most_3_kb_each() {
    // Contract: T10
    let (socket, _) = listener();
    let number = how_many(4);
    let a = Relay::start(&socket, proxy(Protocol::Tcp, idle_child()));
    a.accept();
    let before = resident();
    let connections = open(number, &socket, &a);
    assert_grown_by_at_most(3 * number as u64, before, "tcp");
    drop(connections); // the child still has its direction open
}

#[test]
fn idle_connections_after_a_request_keep_no_buffer() {
    // Contract: T10
    const CLIENTS: usize = 500;
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Http, echo()));
    a.accept();
    assert_serves(address);
    let before = resident();
    let _clients: Vec<Client> = (0..CLIENTS)
        .map(|_| {
            let mut client = Client::connect(address);
            client.send("GET /good HTTP/1.1\r\nHost: a\r\n\r\n");
            client.until("get /good");
            client
        })
        .collect();
    assert_grown_by_at_most(24 * CLIENTS as u64, before, "after a request");
}

#[test]
fn clients_that_never_finish_their_heads_cost_no_more_than_their_heads() {
    // Contract: T10
    const CLIENTS: usize = 500;
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Http, echo()));
    a.accept();
    assert_serves(address);
    let before = resident();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(address)).collect();
    for round in 0..40 {
        for client in &mut clients {
            let piece = if round == 0 { "GET / HTTP/1.1\r\nHost: a\r\n" } else { "A: bbbbbbbbbbb\r\n" };
            client.send(piece);
        }
        if round % 10 == 0 {
            assert_serves(address);
        }
    }
    a.wait_counts("none of their requests", |counts| counts.requests == 5 && counts.under_way == 0);
    assert_grown_by_at_most(25 * CLIENTS as u64, before, "slow heads");
    for mut client in clients {
        client.send("\r\n");
        client.until("get / ");
    }
}

#[test]
fn clients_that_never_read_cost_bounded_memory_and_nobody_else() {
    // Contract: T10
    const CLIENTS: usize = 50;
    for protocol in [Protocol::Tcp, Protocol::Http, Protocol::Fastcgi] {
        let (socket, address) = listener();
        let child = server(move |mut connection: TcpStream| {
            connection.read_exact(&mut [0; 16]).unwrap();
            if protocol == Protocol::Http {
                connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            }
            let piece = [&[1, 6, 0, 1, 0xff, 0xff, 0, 0][..], &[b'x'; 0xffff]].concat();
            while connection.write_all(&piece).is_ok() {}
        });
        let a = Relay::start(&socket, proxy(protocol, child));
        a.accept();
        let ask = || {
            let mut client = Client::connect(address);
            match protocol {
                Protocol::Http => client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
                _ => client.send([1, 1, 0, 1, 0, 8, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]),
            }
            client
        };
        ask().until("xxxx");
        a.wait_counts("the first to be gone", |counts| counts.open == 0);
        let before = resident();
        let clients: Vec<Client> = (0..CLIENTS).map(|_| ask()).collect();
        a.wait_counts("them", |counts| counts.under_way == CLIENTS as u64);
        for _ in 0..20 {
            let mut other = ask();
            other.stream.read_exact(&mut vec![0; 4 * 1024 * 1024]).unwrap();
        }
        // The children's threads and pieces are in this process as well.
        assert_grown_by_at_most((512 + 100) * CLIENTS as u64, before, &format!("{protocol:?}"));
        drop(clients);
        a.wait_counts("closed", |counts| counts.open == 0);
    }
}

#[test]
fn a_client_that_pipelines_without_reading_is_not_read_any_further() {
    // Contract: T10
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Http, echo()));
    a.accept();
    assert_serves(address);
    let before = resident();
    let client = Client::connect(address);
    client.stream.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let requests = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(1000)).repeat(1000);
    let mut sent = 0;
    while (&client.stream).write_all(requests.as_bytes()).is_ok() {
        sent += requests.len();
        assert!(sent < 100_000_000, "the relay reads without end");
        assert_serves(address);
    }
    assert_grown_by_at_most(8 * 1024, before, "pipelined");
    drop(client);
    a.wait_counts("closed", |counts| counts.open == 0);
}
