//! Connections that stay with their child: WebSocket, server-sent events, Redis. An upgrade leaves them open
//! for `drain`, and no connection may end earlier. Every client sends or receives one message after the other;
//! every second one begins a new connection after some of them.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use testkit::client::control::Asking;
use testkit::client::{ClientError, Connection, Stage, TIMEOUT, Target};
use testkit::{AvailabilityProbe, Deadline, Stream};

use super::super::load::CLIENTS;
use super::{HTTP, PYTHON, Proxied, Server, TCP_CHECK};

/// How long the old child may keep its connections. Each upgrade takes that long.
const DRAIN: Duration = Duration::from_millis(700);
/// The messages of a connection that its client ends.
const MESSAGES: usize = 40;

/// When the upgrades were requested: the first ends generation 1.
#[derive(Clone, Default)]
struct Requested(Arc<Mutex<Vec<Instant>>>);

impl Requested {
    fn now(&self) {
        self.0.lock().unwrap().push(Instant::now());
    }

    /// Whether `drain` may be over for a generation.
    fn is_drained(&self, generation: usize) -> bool {
        self.0.lock().unwrap().get(generation - 1).is_some_and(|at| at.elapsed() >= DRAIN)
    }
}

/// A connection, and the number of the generation that serves it.
type Opened = Result<(Connection, usize), ClientError>;

/// What a client does.
#[derive(Clone, Copy)]
struct Protocol {
    /// Opens a connection for so many messages, or for any number.
    open: fn(&Target, Option<usize>) -> Opened,
    /// Exchanges a message. It is the number `count` of the connection, from 1.
    exchange: fn(&mut Connection, usize, usize) -> Result<(), ClientError>,
    /// Ends the connection after the last message, and checks how the server does.
    close: fn(Connection) -> Result<(), ClientError>,
}

struct Open {
    connection: Connection,
    generation: usize,
    count: usize,
}

#[track_caller]
fn ends_nothing_before_drain(server: Server, protocol: Protocol) {
    let Some(proxied) = Proxied::start(Server { drain: DRAIN, ..server }) else { return };
    let (requested, target) = (Requested::default(), proxied.target());
    let probe = AvailabilityProbe::start(CLIENTS, |number| {
        let (requested, target) = (requested.clone(), target.clone());
        let most = (!number.is_multiple_of(2)).then_some(MESSAGES);
        let mut current: Option<Open> = None;
        move || {
            loop {
                let mut open = match current.take() {
                    Some(open) => open,
                    None => {
                        let (connection, generation) = (protocol.open)(&target, most)?;
                        Open { connection, generation, count: 0 }
                    }
                };
                open.count += 1;
                open.connection.begin();
                match (protocol.exchange)(&mut open.connection, number, open.count) {
                    // The child has exited, or psflip has cut the connection: `drain` is over.
                    Err(error) if is_end(&error) && requested.is_drained(open.generation) => continue,
                    Err(error) => {
                        let (generation, count) = (open.generation, open.count);
                        let cause = format!("{}, at message {count} of generation {generation}", error.cause);
                        return Err(ClientError { cause, ..error });
                    }
                    Ok(()) => {}
                }
                let tag = format!("gen{}", open.generation);
                if most == Some(open.count) {
                    (protocol.close)(open.connection)?;
                } else {
                    current = Some(open);
                }
                return Ok(tag);
            }
        }
    });
    let report = proxied.flip(probe, || requested.now());
    proxied.stop();
    report.assert_no_failures();
}

/// Whether the connection has ended between two messages.
fn is_end(error: &ClientError) -> bool {
    matches!(error.stage, Stage::Write | Stage::Read) && error.received == 0 && error.cause != "time-out"
}

fn expect(answer: &[u8], expected: &[u8]) -> Result<(), ClientError> {
    let cause = || format!("`{}` instead of `{}`", answer.escape_ascii(), expected.escape_ascii());
    if answer == expected { Ok(()) } else { Err(ClientError::content(cause())) }
}

fn generation(name: &str) -> Result<usize, ClientError> {
    let number = name.strip_prefix("gen").and_then(|number| number.parse().ok());
    number.ok_or_else(|| ClientError::content(format!("`{name}` is no generation")))
}

/// A text or close frame (RFC 6455, section 5.2). A client masks its frames.
fn frame(first: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0xc3, 0x0f, 0x91];
    let mut frame = vec![first, payload.len() as u8 | if masked { 0x80 } else { 0 }];
    if masked {
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    } else {
        frame.extend(payload);
    }
    frame
}

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

const WEBSOCKET: Protocol = Protocol {
    open: |target, _| {
        let mut connection = Connection::open(target, TIMEOUT)?;
        connection.begin();
        connection.send(
            b"GET / HTTP/1.1\r\nHost: testkit\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )?;
        let head = connection.read_until(b"\r\n\r\n", 4096)?;
        // The answer to the key of RFC 6455, section 1.3.
        if !head.starts_with(b"HTTP/1.1 101 ")
            || !String::from_utf8_lossy(&head).contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        {
            return Err(ClientError::content(head.escape_ascii().to_string()));
        }
        let header = connection.read_exact(2)?;
        let name = connection.read_exact(header[1].into())?;
        let generation = generation(&String::from_utf8_lossy(&name))?;
        Ok((connection, generation))
    },
    exchange: |connection, number, count| {
        let payload = format!("message {count} of client {number}");
        connection.send(&frame(TEXT, payload.as_bytes(), true))?;
        let expected = frame(TEXT, payload.as_bytes(), false);
        expect(&connection.read_exact(expected.len())?, &expected)
    },
    close: |mut connection| {
        let status = [0x03, 0xe8]; // 1000: normal closure
        connection.send(&frame(CLOSE, &status, true))?;
        expect(&connection.read_to_end()?, &frame(CLOSE, &status, false))
    },
};

const EVENTS: Protocol = Protocol {
    open: |target, most| {
        let mut connection = Connection::open(target, TIMEOUT)?;
        connection.begin();
        let query = most.map(|count| format!("?count={}", count + 1)).unwrap_or_default();
        connection.send(format!("GET /{query} HTTP/1.1\r\nHost: testkit\r\n\r\n").as_bytes())?;
        let head = connection.read_until(b"\r\n\r\n", 4096)?;
        if !head.starts_with(b"HTTP/1.1 200 ") {
            return Err(ClientError::content(head.escape_ascii().to_string()));
        }
        let (name, number) = event(&mut connection)?;
        expect(number.as_bytes(), b"1")?;
        Ok((connection, generation(&name)?))
    },
    // The first event came with the answer's head.
    exchange: |connection, _, count| {
        let (_, number) = event(connection)?;
        expect(number.as_bytes(), (count + 1).to_string().as_bytes())
    },
    close: |mut connection| expect(&connection.read_exact(5)?, b"0\r\n\r\n"),
};

/// The next event: a chunk `data: gen1 17`.
fn event(connection: &mut Connection) -> Result<(String, String), ClientError> {
    let size = connection.read_until(b"\r\n", 16)?;
    let chunk = connection.read_until(b"\n\n\r\n", 4096)?;
    let size = usize::from_str_radix(String::from_utf8_lossy(&size).trim_end(), 16);
    let text = String::from_utf8_lossy(&chunk).into_owned();
    let data = text.strip_prefix("data: ").filter(|_| size == Ok(chunk.len() - 2));
    let words = data.and_then(|data| data.trim_end().split_once(' '));
    words
        .map(|(name, number)| (name.to_owned(), number.to_owned()))
        .ok_or_else(|| ClientError::content(text.clone()))
}

const REDIS: Protocol = Protocol {
    open: |target, _| {
        let mut connection = Connection::open(target, TIMEOUT)?;
        connection.begin();
        connection.send(b"CONFIG GET dbfilename\r\n")?;
        let answer = connection.read_until(b".rdb\r\n", 4096)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let name = answer.rsplit("\r\n").nth(1).and_then(|name| name.strip_suffix(".rdb"));
        let generation = generation(name.unwrap_or(&answer))?;
        Ok((connection, generation))
    },
    exchange: |connection, number, count| {
        connection.send(format!("SET client{number} {count}\r\nGET client{number}\r\n").as_bytes())?;
        let value = count.to_string();
        let expected = format!("+OK\r\n${}\r\n{value}\r\n", value.len());
        expect(&connection.read_exact(expected.len())?, expected.as_bytes())
    },
    close: |mut connection| {
        connection.send(b"QUIT\r\n")?;
        expect(&connection.read_to_end()?, b"+OK\r\n")
    },
};

const WEBSOCKETS: Server = Server {
    name: "WebSocket",
    needs: &["/usr/lib/python3/dist-packages/websockets/__init__.py"],
    files: &["websocket.py"],
    cmd: &[PYTHON, "websocket.py"],
    config: TCP_CHECK,
    ..HTTP
};

#[test]
fn load_proxied_websockets_end_only_when_drain_is_over() {
    // Contract: T3, T4
    ends_nothing_before_drain(WEBSOCKETS, WEBSOCKET);
}

/// Opens a connection to a generation that the pidfile already names. The one before it may still accept: it
/// does so until it acknowledges (T3).
fn open_to(target: &Target, number: usize) -> Result<Connection, ClientError> {
    let deadline = Deadline::default();
    loop {
        let (connection, generation) = (WEBSOCKET.open)(target, None)?;
        if generation + 1 == number && !deadline.has_expired() {
            continue;
        }
        expect(generation.to_string().as_bytes(), number.to_string().as_bytes())?;
        return Ok(connection);
    }
}

/// Clients whose connections, opened now, stay open. Each must keep its generation.
fn stay(target: &Target, number: usize) -> AvailabilityProbe {
    AvailabilityProbe::start(2, |client| {
        let (target, mut current, mut count) = (target.clone(), None, 0);
        move || {
            let mut connection = match current.take() {
                Some(connection) => connection,
                None => open_to(&target, number)?,
            };
            count += 1;
            connection.begin();
            (WEBSOCKET.exchange)(&mut connection, client, count)?;
            current = Some(connection);
            Ok(format!("gen{number}"))
        }
    })
}

#[test]
fn proxied_websockets_of_an_hour_outlive_five_upgrades_in_a_row() {
    // Contract: D3, T4, U7
    const HOUR: Duration = Duration::from_secs(3600);
    let config = format!("[upgrade]\ndraining = 5\n[shutdown]\ntimeout = \"1h\"\n{TCP_CHECK}");
    let config: &'static str = config.leak();
    let Some(proxied) = Proxied::start(Server { drain: HOUR, config, ..WEBSOCKETS }) else { return };
    let target = proxied.target();
    let mut all = vec![stay(&target, 1)];
    for number in 2..=6 {
        let old = proxied.psflip.request_flip();
        proxied.psflip.wait_successor(old);
        all.push(stay(&target, number));
        // No upgrade has ended a connection of any generation.
        all.iter().for_each(|probe| probe.wait_requests(5));
    }
    // One more than may drain: the oldest generation is ended, and no other.
    all.remove(0).finish().assert_no_failures();
    let old = proxied.psflip.request_flip();
    proxied.psflip.wait_successor(old);
    let line = proxied.psflip.wait_for_line(Stream::Stderr, "killing the old generation, which still drains");
    assert!(line.text.contains("old_generation=1"), "{line}");
    all.push(stay(&target, 7));
    for probe in all {
        probe.wait_requests(5);
        probe.finish().assert_no_failures();
    }
    let end = r#"{"psflip":1,"request":"upgrade","end_draining":true}"#;
    Asking::ask(&proxied.psflip.control_path(), end).wait_event("promoted");
    proxied.psflip.stop();
    proxied.sandbox.assert_no_process_left();
}

#[test]
fn load_proxied_event_streams_end_only_when_drain_is_over() {
    // Contract: T3, T4
    let (files, cmd) = (&["events.js"], &["node", "events.js"]);
    ends_nothing_before_drain(
        Server { name: "server-sent events, Node", files, cmd, config: TCP_CHECK, ..HTTP },
        EVENTS,
    );
}

#[test]
fn load_proxied_redis_connections_end_only_when_drain_is_over() {
    // Contract: T3, T4
    let cmd = &[
        "redis-server",
        "--port",
        "{{ local('port') }}",
        "--save",
        "",
        "--dbfilename",
        "gen{{ generation() }}.rdb",
    ];
    let server = Server { name: "Redis", cmd, protocol: "tcp", config: TCP_CHECK, ..HTTP };
    ends_nothing_before_drain(server, REDIS);
}
