//! A child that gives way: its requests are answered, and what comes meanwhile waits for the next child.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use relay::message::{Protocol, Report};

use crate::fcgi;
use crate::http::{answer, careless, get};
use crate::support::{Client, Relay, listener, proxy, read_until, requests, server};

#[test]
fn requests_that_come_in_a_pause_are_answered_by_the_next_child() {
    // Contract: E2, E5
    let (socket, address) = listener();
    let (child_a, go, begins) = careless("a");
    let (child_b, ..) = careless("b");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut idle = Client::connect(address);
    idle.send(get("/1"));
    assert!(answer(&mut idle).1.contains("a GET /1"));
    let mut half = Client::connect(address);
    half.send("POST /half HT");
    let mut busy = Client::connect(address);
    busy.send(get("/slow"));
    begins.recv().unwrap();
    a.wait_counts("all connections", |counts| counts.open == 3);
    a.pause();
    a.wait_counts("the pause", |counts| counts.held && !counts.accepting && !counts.leaving);
    idle.send(get("/2"));
    half.send("TP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok");
    let mut fresh = Client::connect(address);
    fresh.send(get("/3"));
    go.send(()).unwrap();
    assert!(answer(&mut busy).1.contains("a GET /slow"));
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 1 });
    busy.send(get("/4"));
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.leave_to(&b);
    assert!(answer(&mut idle).1.contains("b GET /2"));
    assert!(answer(&mut half).1.contains("b POST /half"));
    assert!(answer(&mut fresh).1.contains("b GET /3"));
    assert!(answer(&mut busy).1.contains("b GET /4"));
    assert_eq!(a.report(), Report::Drained { passed_on: 3, waited_for: 0 });
    assert_eq!(requests(&a), 2);
}

#[test]
fn what_waits_goes_on_when_the_child_need_not_give_way_or_runs_again() {
    // Contract: E3, E5
    let (socket, address) = listener();
    let (child, ..) = careless("a");
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let mut idle = Client::connect(address);
    idle.send(get("/1"));
    answer(&mut idle);
    for path in ["/2", "/3"] {
        a.pause();
        assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
        idle.send(get(path));
        let mut fresh = Client::connect(address);
        fresh.send(get(path));
        a.stay();
        assert!(answer(&mut idle).1.contains(&format!("a GET {path}")));
        assert!(answer(&mut fresh).1.contains(&format!("a GET {path}")));
    }
    a.wait_counts("accepts", |counts| counts.accepting && !counts.held);
}

/// Answers one request at a child's socket, which nobody else accepts from.
fn answer_one(child: &TcpListener, name: &str) {
    let (mut connection, _) = child.accept().unwrap();
    let mut request = read_until(&mut connection, b"\r\n\r\n");
    if request.starts_with("POST") {
        request += &read_until(&mut connection, b"ok");
    }
    let line = request.lines().next().unwrap();
    let answer = format!("HTTP/1.0 200 OK\r\n\r\n{name} {line}!"); // one piece is one chunk
    connection.write_all(answer.as_bytes()).unwrap();
}

#[test]
fn an_operators_hold_outlives_a_pause_and_is_not_waited_for() {
    // Contract: E5, T11
    let (socket, address) = listener();
    let (child_a, address_a) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Http, address_a));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/1"));
    answer_one(&child_a, "a");
    answer(&mut client);
    a.hold(Duration::from_secs(3600));
    a.wait_counts("the hold", |counts| counts.held);
    client.send(get("/2"));
    a.wait_counts("the request", |counts| counts.under_way == 1);
    for _ in 0..2 {
        a.pause();
        assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
        a.stay();
        a.wait_counts("the hold", |counts| counts.held && !counts.accepting && counts.under_way == 1);
    }
    a.resume();
    answer_one(&child_a, "a");
    assert!(answer(&mut client).1.contains("a GET /2"));
    a.wait_counts("both requests, each once", |counts| counts.requests == 2);
}

#[test]
fn a_request_that_is_held_when_the_child_gives_way_is_answered_by_the_next_one_after_its_promotion() {
    // Contract: E5, T3, T11
    for resumed_before_promotion in [true, false] {
        let (socket, address) = listener();
        let (child, child_address) = listener(); // one address for all generations
        let a = Relay::start(&socket, proxy(Protocol::Http, child_address));
        a.accept();
        let mut client = Client::connect(address);
        client.send(get("/1"));
        answer_one(&child, "a");
        answer(&mut client);
        a.hold(Duration::from_secs(3600));
        a.wait_counts("the hold", |counts| counts.held);
        client.send("POST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\no");
        a.wait_counts("the request", |counts| counts.under_way == 1);
        a.pause();
        assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
        a.wait_counts("the request is unread again", |counts| counts.under_way == 0);
        let b = Relay::start(&socket, proxy(Protocol::Http, child_address));
        if resumed_before_promotion {
            a.resume();
        } else {
            b.hold(Duration::from_secs(3600));
        }
        client.send("k");
        a.leave_to(&b);
        assert_eq!(a.report(), Report::Drained { passed_on: 1, waited_for: 0 });
        if !resumed_before_promotion {
            b.wait_counts("the request", |counts| counts.under_way == 1);
            a.resume();
            b.resume();
        }
        answer_one(&child, "b");
        assert!(answer(&mut client).1.contains("b POST /2"));
        b.wait_counts("the request", |counts| counts.requests == 1);
        assert_eq!(requests(&a), 1);
    }
}

#[test]
fn a_held_request_that_cant_be_passed_on_is_refused_when_the_child_is_gone() {
    // Contract: E5, T3, T11
    let (socket, address) = listener();
    let (child_a, go, begins) = careless("a");
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    a.accept();
    let mut client = Client::connect(address);
    client.send(get("/slow") + &get("/2")); // the relay has read the second one with the first one
    begins.recv().unwrap();
    a.hold(Duration::from_secs(3600));
    a.wait_counts("the hold", |counts| counts.held);
    go.send(()).unwrap();
    assert!(answer(&mut client).1.contains("a GET /slow"));
    a.wait_counts("the second request", |counts| counts.under_way == 1 && counts.requests == 1);
    a.pause();
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
    a.resume();
    let (child_b, ..) = careless("b");
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.leave_to(&b);
    let head = client.until("\r\n\r\n").to_lowercase();
    assert!(head.starts_with("http/1.1 503 ") && head.contains("retry-after: 1"), "{head}");
    client.until("try again\n");
    client.send(get("/3"));
    assert!(answer(&mut client).1.contains("b GET /3"));
    assert_eq!(a.wait_counts("no error", |_| true).errors, 0);
}

#[test]
fn a_held_fastcgi_request_is_answered_by_the_next_child() {
    // Contract: E5, T3, T11
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, fcgi::application("a")));
    a.accept();
    let mut client = Client::connect(address);
    client.send(fcgi::request(true, b"1"));
    assert!(fcgi::answer(&mut client).contains("a 1"));
    a.hold(Duration::from_secs(3600));
    a.wait_counts("the hold", |counts| counts.held);
    client.send(fcgi::request(true, b"2"));
    a.wait_counts("the request", |counts| counts.under_way == 1);
    a.pause();
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
    a.wait_counts("the request is unread again", |counts| counts.under_way == 0);
    a.resume();
    let b = Relay::start(&socket, proxy(Protocol::Fastcgi, fcgi::application("b")));
    a.leave_to(&b);
    assert!(fcgi::answer(&mut client).contains("b 2"));
    assert_eq!(a.report(), Report::Drained { passed_on: 1, waited_for: 0 });
    assert_eq!(requests(&a), 1);
}

#[test]
fn fastcgi_requests_that_come_in_a_pause_are_answered_by_the_next_child() {
    // Contract: E2, E5
    let (socket, address) = listener();
    let a = Relay::start(&socket, proxy(Protocol::Fastcgi, fcgi::application("a")));
    a.accept();
    let mut idle = Client::connect(address);
    idle.send(fcgi::request(true, b"1"));
    assert!(fcgi::answer(&mut idle).contains("a 1"));
    a.pause();
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
    idle.send(fcgi::request(true, b"2"));
    let mut fresh = Client::connect(address);
    fresh.send(fcgi::request(true, b"3"));
    let b = Relay::start(&socket, proxy(Protocol::Fastcgi, fcgi::application("b")));
    a.leave_to(&b);
    assert!(fcgi::answer(&mut idle).contains("b 2"));
    assert!(fcgi::answer(&mut fresh).contains("b 3"));
    assert_eq!(a.report(), Report::Drained { passed_on: 1, waited_for: 0 });
}

#[test]
fn a_tcp_connection_is_under_way_until_it_ends_and_a_new_one_waits() {
    // Contract: E5
    let (socket, address) = listener();
    let echo = |name: &'static str| {
        server(move |mut connection| {
            let mut all = String::new();
            connection.read_to_string(&mut all).unwrap();
            write!(connection, "{name} got {all}").unwrap();
        })
    };
    let a = Relay::start(&socket, proxy(Protocol::Tcp, echo("a")));
    a.accept();
    let mut old = Client::connect(address);
    old.send("1");
    a.wait_counts("the connection", |counts| counts.under_way == 1);
    a.pause();
    let mut new = Client::connect(address);
    new.send("2");
    new.end();
    old.end();
    assert_eq!(old.rest().unwrap(), "a got 1");
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 1 });
    let b = Relay::start(&socket, proxy(Protocol::Tcp, echo("b")));
    a.leave_to(&b);
    assert_eq!(new.rest().unwrap(), "b got 2");
}

#[test]
fn a_child_that_is_gone_for_good_ends_what_waits() {
    // Contract: E3
    let (socket, address) = listener();
    let (child, ..) = careless("a");
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    let mut idle = Client::connect(address);
    idle.send(get("/1"));
    answer(&mut idle);
    a.pause();
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
    idle.send(get("/2"));
    a.close();
    assert_eq!(idle.rest().unwrap_or_default(), "");
    assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
}
