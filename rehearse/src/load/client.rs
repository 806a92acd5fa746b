//! One client: a state machine around one connection. It never blocks; the engine calls it when its socket or
//! its timer is ready.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use super::extra::Extra;
use super::fcgi::Fcgi;
use super::http::{Accepted, Http, Progress};
use super::record::{Connection, Failed, Record, Stage};
use super::target::{Address, Kind, Load, Protocol};
use super::websocket::{self, Websocket};

/// A client this far away can't have seen that the server has closed an idle connection: it sends its next
/// request all the same. The load sends within microseconds, so it looks only after this time.
const ROUND_TRIP: Duration = Duration::from_millis(100);
/// The pause between the halves of a POST.
const HALF_PAUSE: Duration = Duration::from_millis(100);
/// The pause between two pings of a WebSocket.
const PING_PAUSE: Duration = Duration::from_millis(50);
/// The pause after a loss. A refused connection fails at once: without it, the attempts would take a whole core
/// from the service.
const AFTER_LOSS: Duration = Duration::from_millis(10);
/// The pause until the next attempt while the queue of a Unix socket is full: connect(2) blocks then, or fails
/// with EAGAIN on a non-blocking socket.
const QUEUE_FULL: Duration = Duration::from_millis(1);

/// Errors that are the load's own: no more descriptors, ports or memory.
const OWN_ERRORS: [Errno; 5] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
/// How often a client reads or writes in a row before others have their turn.
const MOST_STEPS: usize = 32;

/// The requests of a client, as its protocol writes them.
#[derive(Debug)]
enum Exchange {
    Http(Http),
    Fcgi(Fcgi),
    Websocket(Websocket),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Between two requests; the next may begin at this time.
    Idle(Instant),
    /// The queue of the Unix socket is full.
    QueueFull(Instant),
    Connecting,
    Sending,
    /// Between the halves of a body.
    Paused(Instant),
    Receiving,
}

#[derive(Debug)]
pub(crate) struct Client {
    number: usize,
    address: Address,
    pub(crate) kind: Kind,
    exchange: Exchange,
    state: State,
    socket: Option<OwnedFd>,
    out: Vec<u8>,
    sent: usize,
    pause_at: Option<usize>,
    input: Vec<u8>,
    /// The requests that this connection has served.
    served: u64,
    began: Instant,
    /// When the last byte was sent or received.
    progress: Instant,
    /// When the server was seen to have closed the idle connection.
    closed: Option<Instant>,
    /// Whether there is more to read: others have their turn in between.
    has_more: bool,
    /// Whether the present answer of a stream has been counted as begun.
    has_begun: bool,
}

/// What a client needs of the engine.
pub(crate) struct Context<'a> {
    pub(crate) record: &'a Record,
    pub(crate) epoll: &'a OwnedFd,
    pub(crate) buffer: &'a mut [u8],
    /// How long a request may make no progress.
    pub(crate) timeout: Duration,
}

/// Whether a step of a state machine goes on at once.
enum Step {
    Again,
    Wait,
}

impl Client {
    /// Its first request is due now.
    pub(crate) fn new(number: usize, load: &Load, kind: Kind, accepted: Accepted, extra: &Extra) -> Self {
        let exchange = match &load.protocol {
            Protocol::Fcgi { script } => {
                Exchange::Fcgi(Fcgi::new(script, kind == Kind::KeepAlive, accepted, extra))
            }
            Protocol::Http { host, path } if kind == Kind::Websocket => {
                Exchange::Websocket(Websocket::new(host, path, extra))
            }
            Protocol::Http { host, path } => Exchange::Http(Http::new(kind, host, path, accepted, extra)),
        };
        let now = Instant::now();
        Self {
            number,
            address: load.address.clone(),
            kind,
            exchange,
            state: State::Idle(now),
            socket: None,
            out: Vec::new(),
            sent: 0,
            pause_at: None,
            input: Vec::new(),
            served: 0,
            began: now,
            progress: now,
            closed: None,
            has_more: false,
            has_begun: false,
        }
    }

    /// Whether the next request may begin.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        matches!(self.state, State::Idle(at) if at <= now)
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle(_))
    }

    /// Whether the client has stopped reading to let others have their turn.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Begins a request that was due at `due`.
    pub(crate) fn begin(&mut self, due: Instant, now: Instant, context: &mut Context<'_>) {
        (self.began, self.progress, self.has_begun) = (due, now, false);
        if self.closed.is_some_and(|at| now.saturating_duration_since(at) >= ROUND_TRIP) {
            self.close();
        }
        (self.sent, self.pause_at) = (0, None);
        self.out.clear();
        if self.socket.is_some() {
            self.write_request();
            self.drive(now, context);
        } else {
            self.connect(now, context);
        }
    }

    fn write_request(&mut self) {
        let is_first = self.served == 0;
        match &mut self.exchange {
            Exchange::Http(http) => self.pause_at = http.request(&mut self.out),
            Exchange::Fcgi(fcgi) => fcgi.request(&mut self.out),
            Exchange::Websocket(socket) => socket.request(is_first, &mut self.out),
        }
        self.state = State::Sending;
    }

    /// Something has arrived while no request is under way: the end, or a frame of a WebSocket.
    fn on_idle_event(&mut self, now: Instant, context: &mut Context<'_>) {
        if self.kind == Kind::Websocket && self.read_rest(context) {
            match self.take(false) {
                Progress::ClosedPolitely => {
                    context.record.polite_close();
                    return self.close();
                }
                _ => self.answer_pings(),
            }
        }
        let mut byte = [0];
        let peek = |socket| net::recv(socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        let is_open = matches!(self.socket.as_ref().map(peek), None | Some(Err(Errno::AGAIN)));
        if !is_open && self.closed.is_none() {
            self.closed = Some(now);
        }
    }

    /// RFC 6455, section 5.5.2: an endpoint must answer a ping.
    fn answer_pings(&mut self) {
        if let (Exchange::Websocket(websocket), Some(socket)) = (&mut self.exchange, &self.socket) {
            let pongs = websocket.take_pongs();
            if !pongs.is_empty() {
                // A few bytes: if there is no room for them, the connection is stuck anyway.
                let _ = net::send(socket, &pongs, SendFlags::NOSIGNAL);
            }
        }
    }

    /// The socket is ready.
    pub(crate) fn on_event(&mut self, now: Instant, context: &mut Context<'_>) {
        if self.is_idle() {
            return self.on_idle_event(now, context);
        }
        if self.state == State::Connecting
            && let Some(socket) = &self.socket
        {
            match sockopt::socket_error(socket) {
                Ok(Ok(())) => self.write_request(),
                Ok(Err(error)) | Err(error) => {
                    return self.lose(now, context, failed(Stage::Connect, error));
                }
            }
        }
        self.drive(now, context);
    }

    /// Time has passed.
    pub(crate) fn on_tick(&mut self, now: Instant, context: &mut Context<'_>) {
        match self.state {
            State::Idle(_) => {}
            State::QueueFull(at) if at <= now && !self.is_overdue(now, context) => self.connect(now, context),
            State::Paused(at) if at <= now => {
                self.state = State::Sending;
                self.drive(now, context);
            }
            State::Paused(_) => {}
            _ if self.is_overdue(now, context) => {
                let stage = match self.state {
                    State::Connecting | State::QueueFull(_) => Stage::Connect,
                    State::Sending => Stage::Send,
                    _ => self.stage(),
                };
                let cause = format!("no progress for {} s", context.timeout.as_secs());
                self.lose(now, context, Failed::new(stage, cause));
            }
            _ => {}
        }
    }

    fn is_overdue(&self, now: Instant, context: &Context<'_>) -> bool {
        now.saturating_duration_since(self.progress) >= context.timeout
    }

    fn connect(&mut self, now: Instant, context: &mut Context<'_>) {
        match open(&self.address) {
            Ok((socket, is_connected)) => {
                use rustix::event::epoll::{EventData, EventFlags, add};
                let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
                if let Err(error) = add(context.epoll, &socket, EventData::new_u64(self.number as u64), flags)
                {
                    return self.lose(now, context, failed(Stage::Connect, error));
                }
                (self.socket, self.served) = (Some(socket), 0);
                self.input.clear();
                if is_connected {
                    self.write_request();
                    self.drive(now, context);
                } else {
                    self.state = State::Connecting;
                }
            }
            Err(Errno::AGAIN) => self.state = State::QueueFull(now + QUEUE_FULL),
            Err(error) if OWN_ERRORS.contains(&error) => {
                context.record.own_error(text(error));
                self.state = State::Idle(now + AFTER_LOSS);
            }
            Err(error) => self.lose(now, context, failed(Stage::Connect, error)),
        }
    }

    /// Goes on as far as the socket allows, but not for ever: others wait.
    pub(crate) fn drive(&mut self, now: Instant, context: &mut Context<'_>) {
        self.has_more = false;
        for _ in 0..MOST_STEPS {
            let step = match self.state {
                State::Sending => self.send(now, context),
                State::Receiving | State::Paused(_) => self.receive(now, context),
                State::Idle(_) | State::Connecting | State::QueueFull(_) => Step::Wait,
            };
            if matches!(step, Step::Wait) {
                return;
            }
        }
        self.has_more = true;
    }

    fn send(&mut self, now: Instant, context: &mut Context<'_>) -> Step {
        let Some(socket) = &self.socket else { return Step::Wait };
        let end = self.pause_at.unwrap_or(self.out.len());
        match net::send(socket, &self.out[self.sent..end], SendFlags::NOSIGNAL) {
            Ok(count) => {
                self.progress = now;
                self.sent += count;
                if self.sent < end {
                    return Step::Again;
                }
                if self.pause_at.take().is_some() {
                    self.state = State::Paused(now + HALF_PAUSE);
                    return Step::Wait;
                }
                self.state = State::Receiving;
                Step::Again
            }
            Err(error) => {
                self.on_unsent(now, context, error);
                Step::Wait
            }
        }
    }

    /// The socket takes no more of the request, or is closed. The server may have answered all the same: it can refuse
    /// a body without reading it.
    fn on_unsent(&mut self, now: Instant, context: &mut Context<'_>, error: Errno) {
        let answer = if self.read_rest(context) { self.take(false) } else { Progress::More(Stage::Send) };
        match answer {
            Progress::Done { .. } => self.succeed(now, context, false),
            Progress::ClosedPolitely => self.close_politely(now, context),
            Progress::Failed(failed) => self.lose(now, context, failed),
            Progress::More(_) if matches!(error, Errno::AGAIN | Errno::INTR) => {}
            Progress::More(_) => self.lose(now, context, failed(Stage::Send, error)),
        }
    }

    /// Reads what is there already. Returns whether anything was.
    fn read_rest(&mut self, context: &mut Context<'_>) -> bool {
        let Some(socket) = &self.socket else { return false };
        while let Ok((count, _)) = net::recv(socket, &mut *context.buffer, RecvFlags::empty())
            && count > 0
        {
            self.input.extend_from_slice(&context.buffer[..count]);
        }
        !self.input.is_empty()
    }

    fn receive(&mut self, now: Instant, context: &mut Context<'_>) -> Step {
        let Some(socket) = &self.socket else { return Step::Wait };
        let (count, end) = match net::recv(socket, &mut *context.buffer, RecvFlags::empty()) {
            Ok((count, _)) => (count, (count == 0).then(|| "closed by the server".to_owned())),
            Err(Errno::AGAIN | Errno::INTR) => return Step::Wait,
            Err(error) => (0, Some(text(error))),
        };
        if count > 0 {
            self.progress = now;
            self.input.extend_from_slice(&context.buffer[..count]);
        }
        // A reset is no end that could complete an answer.
        let is_reset = count == 0 && end.as_deref() != Some("closed by the server");
        let progress = self.take(end.is_some() && !is_reset);
        self.answer_pings();
        match progress {
            Progress::Done { reusable } => self.succeed(now, context, reusable && end.is_none()),
            Progress::ClosedPolitely => self.close_politely(now, context),
            Progress::Failed(failed) => self.lose(now, context, failed),
            Progress::More(stage) => match end {
                Some(cause) => self.lose(now, context, Failed::new(stage, cause)),
                None => {
                    if self.kind == Kind::Stream
                        && stage == Stage::Body
                        && !std::mem::replace(&mut self.has_begun, true)
                    {
                        context.record.stream_began(self.number);
                    }
                    // Edge-triggered: data and the end may have caused one event.
                    return Step::Again;
                }
            },
        }
        Step::Wait
    }

    fn close_politely(&mut self, now: Instant, context: &Context<'_>) {
        context.record.polite_close();
        self.close();
        self.state = State::Idle(now);
    }

    fn take(&mut self, is_end: bool) -> Progress {
        match &mut self.exchange {
            Exchange::Http(http) => http.receive(&mut self.input, is_end),
            Exchange::Fcgi(fcgi) => fcgi.receive(&mut self.input),
            Exchange::Websocket(socket) => socket.receive(&mut self.input),
        }
    }

    fn stage(&mut self) -> Stage {
        match self.take(false) {
            Progress::More(stage) => stage,
            Progress::Failed(failed) => failed.stage,
            Progress::Done { .. } | Progress::ClosedPolitely => Stage::Body,
        }
    }

    fn succeed(&mut self, now: Instant, context: &Context<'_>, reusable: bool) {
        // After half a request, the answer came too early: the server won't read the rest.
        let is_whole = self.sent == self.out.len();
        context.record.success(self.number, self.began, Instant::now());
        self.served += 1;
        let keeps = matches!(self.kind, Kind::KeepAlive | Kind::Post | Kind::Websocket);
        if !(keeps && reusable && is_whole) {
            self.close();
        }
        let pause = if self.kind == Kind::Websocket { PING_PAUSE } else { Duration::ZERO };
        self.state = State::Idle(now + pause);
    }

    fn lose(&mut self, now: Instant, context: &Context<'_>, failed: Failed) {
        let connection = match self.kind {
            Kind::New | Kind::PostHalf | Kind::Stream => Connection::Own,
            _ if self.served == 0 => Connection::First,
            _ => Connection::Reused,
        };
        context.record.loss(self.number, self.began, Instant::now(), connection, failed);
        self.close();
        self.state = State::Idle(now + AFTER_LOSS);
    }

    /// Ends the client: a request under way is lost, unless it is a stream, which may have no end. A WebSocket
    /// says goodbye.
    pub(crate) fn finish(&mut self, now: Instant, context: &mut Context<'_>) {
        if !self.is_idle() && self.kind != Kind::Stream {
            let stage = self.stage();
            self.lose(now, context, Failed::new(stage, "no answer when the load ended"));
        }
        if let (Exchange::Websocket(_), Some(socket)) = (&self.exchange, &self.socket) {
            // The connection is closed next, whether this arrives or not.
            let _ = net::send(socket, &websocket::goodbye(), SendFlags::NOSIGNAL);
        }
        self.close();
    }

    fn close(&mut self) {
        (self.socket, self.closed, self.has_more) = (None, None, false);
        self.input.clear();
        self.served = 0;
    }
}

fn text(error: Errno) -> String {
    std::io::Error::from(error).to_string()
}

fn failed(stage: Stage, error: Errno) -> Failed {
    Failed::new(stage, text(error))
}

/// A non-blocking socket, and whether it is connected already.
fn open(address: &Address) -> Result<(OwnedFd, bool), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = |family| net::socket_with(family, SocketType::STREAM, flags, None);
    let (socket, result) = match address {
        Address::Tcp(address) => {
            let socket = socket(if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
            sockopt::set_tcp_nodelay(&socket, true)?;
            let result = net::connect(&socket, address);
            (socket, result)
        }
        Address::Unix(path) => {
            let socket = socket(AddressFamily::UNIX)?;
            let result = SocketAddrUnix::new(path).and_then(|name| net::connect(&socket, &name));
            (socket, result)
        }
    };
    match result {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}
