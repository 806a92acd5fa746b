//! A relay that is short of descriptors. They are those of the whole process, so no other test may run in it
//! at the same time.

use std::io::Write as _;
use std::os::fd::AsFd as _;

use relay::Link;
use relay::message::{Forward, Order, Protocol, Report};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::http::{answer, careless, get};
use crate::support::{Client, Relay, listener, proxy};

/// The limit of descriptors, which is restored at the end.
struct Limit(Rlimit);

fn limited(descriptors: u64) -> Limit {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(descriptors), ..limit }).unwrap();
    Limit(limit)
}

impl Drop for Limit {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).unwrap();
    }
}

/// Holds every descriptor that the process has free. No other test may run in this process at the same time.
struct NoDescriptors {
    _held: Vec<std::fs::File>,
    _limit: Limit,
}

impl NoDescriptors {
    fn new() -> Self {
        let (limit, source) = (limited(400), tempfile::tempfile().unwrap());
        let mut held = Vec::new();
        while let Ok(file) = source.try_clone() {
            held.push(file);
        }
        Self { _held: held, _limit: limit }
    }
}

#[test]
fn connections_wait_while_the_successor_has_no_descriptor_for_them() {
    // Contract: T10
    const CLIENTS: usize = 20;
    let (socket, address) = listener();
    let (child_a, ..) = careless("a");
    let (child_b, ..) = careless("b");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(address)).collect();
    for client in &mut clients {
        client.send(get("/1"));
        answer(client);
    }
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    let (old_end, new_end) = Link::pair().unwrap();
    let accept = serde_json::to_vec(&Order::Accept).unwrap();
    let leave = serde_json::to_vec(&Order::Leave { stops: false, may_return: false }).unwrap();
    b.send_bytes(&accept, &[new_end.as_fd()]);
    b.wait_counts("accepts", |counts| counts.accepting);
    let none = NoDescriptors::new();
    a.send_bytes(&leave, &[old_end.as_fd()]);
    drop((old_end, new_end)); // two descriptors for 20 connections
    let report = a.report();
    drop(none);
    let counts = b.wait_counts("all connections", |counts| counts.open == CLIENTS as u64);
    assert_eq!(report, Report::Drained { passed_on: CLIENTS as u64, waited_for: 0 }, "{counts:?}");
    for client in &mut clients {
        let _ = client.stream.write_all(get("/2").as_bytes());
        assert!(answer(client).1.contains("b GET /2"));
    }
}

#[test]
fn no_more_clients_are_accepted_than_can_have_a_connection_to_the_child() {
    // Contract: T10
    let (socket, address) = listener();
    let (child, ..) = careless("a");
    let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let descriptors = 101.max(used + 40); // earlier tests may have left some open
    let room = (descriptors as usize - 64 - 1) / 2;
    let limit = limited(descriptors);
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    drop(limit);
    a.accept();
    let mut clients: Vec<Client> = (0..3 * room).map(|_| Client::connect(address)).collect();
    a.wait_counts("as many as have room", |counts| counts.open == room as u64);
    while !clients.is_empty() {
        let mut client = clients.remove(0);
        client.send(get("/1"));
        answer(&mut client);
        let counts = a.wait_counts("any", |_| true);
        assert!(counts.open <= room as u64, "{counts:?}");
    }
    let counts = a.wait_counts("the end", |counts| counts.open == 0);
    assert_eq!((counts.connections, counts.errors), (3 * room as u64, 0));
}

#[test]
fn a_request_waits_for_a_descriptor_of_its_own() {
    // Contract: T10
    let (socket, address) = listener();
    let (child, child_address) = listener(); // accept(2) of a thread would need a descriptor as well
    let a = Relay::start(&socket, proxy(Protocol::Http, child_address));
    a.accept();
    let mut client = Client::connect(address);
    a.wait_counts("the client", |counts| counts.open == 1);
    let none = NoDescriptors::new();
    client.send(get("/1"));
    a.wait_counts("its request", |counts| counts.under_way == 1);
    drop(none);
    let (mut connection, _) = child.accept().unwrap();
    crate::support::read_until(&mut connection, b"\r\n\r\n");
    connection.write_all(b"HTTP/1.0 200 OK\r\n\r\nserved").unwrap();
    drop(connection);
    client.until("served");
}

#[test]
fn a_request_waits_while_the_queue_of_the_childs_unix_socket_is_full() {
    // Contract: T10
    use std::os::unix::net::{UnixListener, UnixStream};
    let (socket, address) = listener();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("child.sock");
    let child = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&child, 0).unwrap(); // a queue of one
    let mut proxy = proxy(Protocol::Http, address);
    proxy.forward = Forward::Unix(path.clone());
    let a = Relay::start(&socket, proxy);
    a.accept();
    let full = UnixStream::connect(&path).unwrap();
    let mut client = Client::connect(address);
    client.send(get("/1"));
    a.wait_counts("the request", |counts| counts.under_way == 1);
    // Longer than a child that refuses is tried again.
    let wait = std::time::Duration::from_millis(1500);
    client.stream.set_read_timeout(Some(wait)).unwrap();
    client.rest().unwrap_err();
    client.stream.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
    drop((child.accept().unwrap(), full));
    let (mut connection, _) = child.accept().unwrap();
    crate::support::read_until(&mut connection, b"\r\n\r\n");
    connection.write_all(b"HTTP/1.0 200 OK\r\n\r\nserved").unwrap();
    drop(connection);
    client.until("served");
}
