//! The load against servers that answer in unusual ways.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Engine, Extra, Kind, Load, Pace, Record, Settings, Stage};

/// Answers every connection with `answer`, then ends it as `end` does.
fn server(answer: &'static [u8], end: fn(TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer);
            end(stream);
        }
    });
    address
}

/// Runs a load until each client has completed three requests.
fn load(address: SocketAddr, kinds: &[Kind], pace: Pace) -> Arc<Record> {
    load_with(address, kinds, pace, Arc::default())
}

/// As [`load`], with requests as `--header` and `--body` have them.
fn load_with(address: SocketAddr, kinds: &[Kind], pace: Pace, extra: Arc<Extra>) -> Arc<Record> {
    let load: Load = format!("http://{address}/").parse().unwrap();
    let clients: Vec<(Load, Kind)> = kinds.iter().map(|kind| (load.clone(), *kind)).collect();
    let record = Record::new(Instant::now(), (0..clients.len()).collect());
    let settings = Settings { pace, timeout: Duration::from_secs(10), accepted: (200, 399), extra };
    let engine = Engine::start(&clients, &settings, &record).unwrap();
    let missing = record.wait_each(3, Duration::from_secs(30));
    engine.finish();
    assert_eq!(missing, Vec::<usize>::new(), "clients without three requests: {:?}", record.lock().losses);
    record
}

/// Sends a reset instead of the end.
fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

#[test]
fn an_answer_that_ends_with_its_connection_is_complete() {
    // Data and the end arrive together: one event for both.
    let record = load(server(b"HTTP/1.1 200 OK\r\n\r\nall of it", drop), &[Kind::New], Pace::Closed);
    assert_eq!(record.lock().losses, []);
}

#[test]
fn an_answer_that_is_cut_short_is_lost_at_once() {
    let cut = server(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nnot all", drop);
    let record = load(cut, &[Kind::New], Pace::Closed);
    let seen = record.lock();
    let first = &seen.losses[0];
    assert_eq!((first.stage, first.cause.as_str()), (Stage::Body, "closed by the server"));
    assert!(first.took < Duration::from_secs(5), "{first:?}");
}

#[test]
fn a_reset_completes_no_answer() {
    let record = load(server(b"HTTP/1.1 200 OK\r\n\r\nperhaps all", reset), &[Kind::New], Pace::Closed);
    let seen = record.lock();
    assert_eq!(seen.tally.all.lost, seen.tally.all.requests, "{:?}", seen.losses.first());
}

#[test]
fn a_body_that_is_refused_while_it_is_sent_is_lost_at_once_with_its_status() {
    // The server reads no more, and holds the connections open: the socket takes no more of the body.
    let refusing = server(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n", std::mem::forget);
    let extra = Extra { body: vec![0; 16 << 20], ..Extra::default() };
    let record = load_with(refusing, &[Kind::Post], Pace::Closed, Arc::new(extra));
    let seen = record.lock();
    let first = &seen.losses[0];
    assert_eq!((first.stage, first.status), (Stage::Status, Some(413)));
    assert!(first.took < Duration::from_secs(5), "{first:?}");
}

#[test]
fn every_client_gets_its_turn_at_a_low_rate() {
    let answer = server(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", drop);
    let record = load(answer, &[Kind::New, Kind::KeepAlive, Kind::New, Kind::KeepAlive], Pace::Rate(100.0));
    let seen = record.lock();
    assert_eq!(seen.tally.all.lost, 0, "{:?}", seen.losses);
    let counts: Vec<u64> = seen.tally.loads.iter().map(|client| client.requests).collect();
    let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
    // On a busy host some wait while others have their turn.
    assert!(*most <= 3 * least, "{counts:?}");
    // A time that is measured: no answer takes no time at all.
    assert!(seen.tally.all.times.at(0.0) > Some(0), "{:?}", seen.tally.all.times);
}
