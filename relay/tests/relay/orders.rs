//! psflip's orders, and what the relays exchange.

use std::os::fd::AsFd as _;
use std::time::Duration;

use relay::Link;
use relay::message::{Order, Protocol, Report};

use crate::http::{answer, careless, get};
use crate::support::{Client, Relay, listener, proxy};

#[test]
fn a_stop_closes_idle_connections_at_once_and_answers_requests() {
    // Contract: T3, T11
    let (socket, address) = listener();
    let (child, go, begins) = careless("a");
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let mut fresh = Client::connect(address);
    let mut idle = Client::connect(address);
    idle.send(get("/1"));
    answer(&mut idle);
    let mut half = Client::connect(address);
    half.send("GET /half HT");
    let mut busy = Client::connect(address);
    busy.send(get("/slow"));
    begins.recv().unwrap();
    a.wait_counts("all connections", |counts| counts.open == 4);
    a.stop();
    assert_eq!(fresh.rest().unwrap(), "");
    assert_eq!(idle.rest().unwrap(), "");
    half.send("TP/1.1\r\nHost: a\r\n\r\n");
    let (head, body) = answer(&mut half);
    assert!(
        head.to_lowercase().contains("connection: close") && body.contains("a GET /half"),
        "{head}{body}"
    );
    go.send(()).unwrap();
    let (head, body) = answer(&mut busy);
    assert!(
        head.to_lowercase().contains("connection: close") && body.contains("a GET /slow"),
        "{head}{body}"
    );
    drop((half, busy));
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 1 });
}

#[test]
fn a_stop_closes_idle_fastcgi_connections_at_once() {
    // Contract: T3, T11
    let (socket, address) = listener();
    let (child, ..) = careless("a");
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, child));
    a.accept();
    let mut idle = Client::connect(address);
    a.wait_counts("the connection", |counts| counts.open == 1);
    a.stop();
    assert_eq!(idle.rest().unwrap(), "");
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
}

#[test]
fn a_withdrawn_stop_and_the_end_of_a_hold_are_two_orders() {
    // Contract: T3, T11
    let (socket, address) = listener();
    let (child, ..) = careless("a");
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    a.hold(Duration::from_secs(3600));
    a.stop();
    a.wait_counts("both", |counts| counts.held && counts.leaving);
    a.resume();
    let counts = a.wait_counts("resumed", |counts| !counts.held);
    assert!(counts.leaving && !counts.accepting);
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
    a.hold(Duration::from_secs(3600));
    a.stay();
    let counts = a.wait_counts("stays", |counts| !counts.leaving);
    assert!(counts.held && !counts.accepting);
    a.resume();
    a.wait_counts("accepts", |counts| counts.accepting);
    let mut client = Client::connect(address);
    client.send(get("/1"));
    answer(&mut client);
}

#[test]
fn a_relay_without_clients_is_drained_before_its_predecessor() {
    // Contract: D3, T3
    let (socket, address) = listener();
    let (child_a, go, begins) = careless("a");
    let (child_b, ..) = careless("b");
    let (child_c, ..) = careless("c");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/slow"));
    begins.recv().unwrap();
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.leave_to(&b);
    let c = Relay::start(&socket, proxy(Protocol::Http, child_c));
    b.leave_to(&c);
    // Its predecessor may be at work for an hour, and keeps its client.
    assert_eq!(b.report(), Report::Drained { passed_on: 0, waited_for: 0 });
    go.send(()).unwrap();
    answer(&mut client);
    client.send(get("/next"));
    assert!(answer(&mut client).1.contains("a GET /next"));
    drop(client);
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 1 });
}

#[test]
fn an_unknown_order_and_an_invalid_link_leave_the_relay_running() {
    // Contract: T3, T11
    let (socket, address) = listener();
    let (child, ..) = careless("a");
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    a.send_bytes(br#"{"order":"from_the_future"}"#, &[]);
    a.send_bytes(b"no JSON", &[]);
    let again = serde_json::to_vec(&Order::Start { proxies: Vec::new() }).unwrap();
    a.send_bytes(&again, &[]);
    let accept = serde_json::to_vec(&Order::Accept).unwrap();
    let file = tempfile::tempfile().unwrap();
    a.send_bytes(&accept, &[file.as_fd()]);
    let (ours, theirs) = Link::pair().unwrap();
    a.send_bytes(&accept, &[theirs.as_fd()]);
    rustix::net::send(&ours, b"no connection", rustix::net::SendFlags::NOSIGNAL).unwrap();
    drop((ours, theirs));
    let mut client = Client::connect(address);
    client.send(get("/1"));
    answer(&mut client);
}
