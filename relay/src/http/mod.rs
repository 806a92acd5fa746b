//! HTTP/1.0 and 1.1: each request goes to the child over a connection of its own, so a connection that the
//! child closes can't lose the next request. With a pool, requests that may be repeated are sent on idle ones
//! ([`upstream`]).
//!
//! A client's connection has no state between two requests. So when this relay is to leave, it takes the
//! socket back from hyper after the answer that is under way, and passes it on to the successor's relay.

mod body;
mod child;
mod headers;
mod heads;
mod http2;
#[cfg(test)]
mod tests;
mod upstream;

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue, RETRY_AFTER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use self::body::{Answer, Input, Sent};
use self::heads::Heads;
pub(crate) use self::upstream::Connection;
use self::upstream::Kept;
use crate::addresses::Addresses;
use crate::exited::exited;
use crate::pause::{self, elapsed, pause};
use crate::proxied::{Control, Counted, Proxied};
use crate::socket::Stream;
use crate::tally::add;
use crate::tcp::{self, Until};

/// The longest head of a request or an answer, in bytes. It is also the most that is read ahead.
const LONGEST_HEAD: usize = 64 * 1024;

/// The most header fields of a request or an answer.
const MOST_FIELDS: usize = 200;

/// How long a client may take for the head of a request, from its first byte.
const HEAD: Duration = Duration::from_secs(60);

/// After how much time without a request a connection is taken from hyper, whose buffers are larger than
/// everything else that an idle connection costs. Soon, because an allocator keeps what it once had.
const IDLE: Duration = Duration::from_millis(250);

/// What is known of a connection while hyper has it.
#[derive(Debug)]
struct Shared {
    /// A request is under way: hyper has not taken all of its answer.
    is_busy: Cell<bool>,
    /// Of the last request.
    number: Cell<u64>,
    /// The input of the last request has ended, or nobody reads it any more.
    input_ended: Cell<bool>,
    /// The client has not sent the whole input of the last request.
    input_failed: Cell<bool>,
    /// hyper has asked for the next head.
    wants_head: Cell<bool>,
    /// The next head is for the successor.
    leaves: Cell<bool>,
    /// The request waits for the end of a hold.
    is_held: Cell<bool>,
    /// During a hold: all that hyper has read, until its first request goes to the child. With that the
    /// request can be taken back. It is bounded: hyper reads no more than a part of the input ahead.
    recorded: RefCell<Option<BytesMut>>,
    /// Bytes of hyper wait until the client reads.
    write_blocked: Cell<bool>,
    /// When the first byte of a request came whose head is not complete.
    head_since: Cell<Option<Instant>>,
    /// `input_ended` has changed.
    changed: Notify,
    /// The child's connection, after an answer that switches protocols (RFC 9110, section 7.8).
    switched: RefCell<Option<JoinHandle<io::Result<Stream>>>>,
}

impl Shared {
    fn new() -> Self {
        Self {
            is_busy: Cell::new(false),
            number: Cell::new(0),
            input_ended: Cell::new(true),
            input_failed: Cell::new(false),
            wants_head: Cell::new(false),
            leaves: Cell::new(false),
            is_held: Cell::new(false),
            recorded: RefCell::new(None),
            write_blocked: Cell::new(false),
            head_since: Cell::new(None),
            changed: Notify::new(),
            switched: RefCell::new(None),
        }
    }

    /// Whether the connection has no state but the bytes that were read ahead: they begin with the next head.
    fn is_between_requests(&self) -> bool {
        self.wants_head.get() && !self.write_blocked.get()
    }

    /// Whether the next request's bytes are recorded from its first one on.
    fn records_next(&self) -> bool {
        self.number.get() == 0 && self.recorded.borrow().is_some()
    }

    /// Whether the request that waits for the end of a hold can be taken back: hyper has sent nothing.
    fn can_be_taken_back(&self) -> bool {
        self.is_held.get() && self.recorded.borrow().is_some()
    }
}

/// How hyper's part of a connection has ended.
#[derive(Debug)]
enum Left {
    /// Between two requests, or with one that was held, because this relay is to leave: it goes to the
    /// successor, or is closed at a stop.
    Idle(Stream),
    /// Between two requests for a while: hyper gets it again with the next one.
    Resting(Stream),
    /// Both sides speak another protocol now.
    Switched(Stream, JoinHandle<io::Result<Stream>>),
    /// It is closed.
    Closed,
}

/// Serves a client's connection until it is closed or passed on.
///
/// # Errors
/// The client is gone.
pub(crate) async fn serve(
    mut stream: Stream,
    named: Option<Addresses>,
    proxied: &Rc<Proxied>,
) -> io::Result<()> {
    stream.socket.set_nodelay();
    let addresses = Rc::new(named.clone().unwrap_or_else(|| Addresses::of(&stream.socket)));
    let mut control = proxied.control.clone();
    let mut stayed = None;
    loop {
        let left = match first_bytes(stream, &mut control, stayed).await? {
            First::Http2(stream) => {
                Box::pin(http2::serve(stream, addresses, proxied, &mut control)).await;
                return Ok(());
            }
            First::Http1(stream) => {
                Box::pin(requests(stream, &addresses, proxied, &mut control, stayed)).await
            }
            First::Leave(stream) => Left::Idle(stream),
            First::Closed => Left::Closed,
        };
        match left {
            Left::Closed => return Ok(()),
            Left::Resting(resting) => stream = resting,
            Left::Switched(client, child) => {
                let _under_way = Counted::new(proxied, |tally| &tally.under_way);
                if let Ok(Ok(child)) = child.await {
                    Box::pin(tcp::carry(client, child, Until::OneEnds, proxied)).await;
                }
                return Ok(());
            }
            Left::Idle(idle) if control.borrow().parks() => {
                proxied.parked(&idle.socket).await?;
                stream = idle;
            }
            Left::Idle(idle) => {
                let (successor, exited, departure) = {
                    let control = control.borrow();
                    let successor = control.successor.clone().filter(|_| control.may_leave(stayed));
                    (successor, control.exited, control.departure)
                };
                let Some(successor) = successor else {
                    if exited {
                        Box::pin(idle.socket.close_gracefully(&control)).await; // no child would answer what has come
                        return Ok(());
                    }
                    let is_empty = idle.first.iter().all(|byte| matches!(byte, b'\r' | b'\n'));
                    if is_empty && idle.socket.has_nothing_to_read() {
                        return Ok(());
                    }
                    (stream, stayed) = (idle, Some(departure)); // a request has come
                    continue;
                };
                let passed_on = Box::pin(successor.pass_on(&proxied.proxy.listen, idle, named.as_ref()));
                match passed_on.await {
                    Ok(()) => {
                        add(&proxied.tally.passed_on, 1);
                        return Ok(());
                    }
                    // The successor's relay is gone: the client is served here, as long as this relay lives.
                    Err(back) => (stream, stayed) = (back, Some(departure)),
                }
            }
        }
    }
}

/// What a connection begins with.
enum First {
    Http1(Stream),
    Http2(Stream),
    /// Nothing has come, and this relay is to leave.
    Leave(Stream),
    /// The client has closed it.
    Closed,
}

/// Waits for the first bytes, which tell HTTP/1 from HTTP/2. A connection on which nothing has come costs no
/// more than its socket, and can be passed on.
async fn first_bytes(
    stream: Stream,
    control: &mut watch::Receiver<Control>,
    stayed: Option<u64>,
) -> io::Result<First> {
    let Stream { socket, first } = stream;
    let mut read = BytesMut::from(first);
    let mut late: Option<Pin<Box<Sleep>>> = None;
    loop {
        // Empty lines before a head mean nothing (RFC 9112, 2.2), and would keep hyper from resting.
        let blank = read.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        read.advance(blank);
        if control.borrow().parks() {
            return Ok(First::Leave(Stream { socket, first: read.freeze() }));
        }
        match http2::begins(&read) {
            Some(true) => return Ok(First::Http2(Stream { socket, first: read.freeze() })),
            Some(false) => return Ok(First::Http1(Stream { socket, first: read.freeze() })),
            None => {}
        }
        if control.borrow_and_update().dismisses_idle(stayed) {
            return Ok(First::Leave(Stream { socket, first: read.freeze() }));
        }
        if !read.is_empty() {
            late.get_or_insert_with(|| Box::pin(tokio::time::sleep_until((Instant::now() + HEAD).into())));
        }
        tokio::select! {
            more = socket.read_more(&mut read) => if !more? {
                return Ok(First::Closed);
            },
            () = elapsed(&mut late) => return Ok(First::Closed),
            changed = control.changed() => if changed.is_err() {
                return Ok(First::Closed); // the relay exits
            },
        }
    }
}

/// Why a turn of hyper's part of a connection has ended.
enum Turn {
    /// hyper is done with it.
    Done(hyper::Result<()>),
    /// It is between two requests, and this relay is to leave.
    Leave,
    /// Its request is held, and the child is to give way: the next one gets it.
    TakeBack,
    /// It is between two requests since [`IDLE`].
    Rest,
    /// The client took too long for a head.
    Late,
}

/// Answers requests until the connection is closed or is to be passed on.
async fn requests(
    stream: Stream,
    addresses: &Rc<Addresses>,
    proxied: &Rc<Proxied>,
    control: &mut watch::Receiver<Control>,
    stayed: Option<u64>,
) -> Left {
    let shared = Rc::new(Shared::new());
    if control.borrow().hold.is_some() {
        shared.recorded.replace(Some(BytesMut::new()));
    }
    let socket = Rc::new(stream.socket);
    let heads = Heads { socket: Rc::clone(&socket), first: stream.first, shared: Rc::clone(&shared) };
    let service = service_fn(|request| {
        Box::pin(answer(request, Rc::clone(addresses), Rc::clone(proxied), Rc::clone(&shared), stayed))
    });
    let mut connection = http1::Builder::new()
        .half_close(true) // a client may end its direction when it has sent its last request
        .preserve_header_case(true)
        .max_headers(MOST_FIELDS)
        .max_buf_size(LONGEST_HEAD)
        // Without `pipeline_flush`: it keeps an answer back while bytes of the next request are there, and
        // the connection may be taken from hyper just then.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(heads), service);
    let mut timer: Option<Pin<Box<Sleep>>> = None;
    let mut rest: Option<(Pin<Box<Sleep>>, u64)> = None;
    let mut is_done = false;
    let mut reset = Box::pin(socket.reset());
    let ended = loop {
        control.borrow_and_update();
        let changed = shared.changed.notified();
        let turn = std::future::poll_fn(|context| {
            // Also if the order has come while this connection was not polled: no request begins after it.
            let (leaves, takes_back, holds) = {
                let control = proxied.control.borrow();
                (control.dismisses_idle(stayed), control.takes_held_back(stayed), control.hold.is_some())
            };
            shared.leaves.set(leaves);
            if let Poll::Ready(done) = Pin::new(&mut connection).poll(context) {
                // An upgrade that a request offered lets hyper return before it has written everything. It
                // does so once.
                if done.is_err() || std::mem::replace(&mut is_done, true) {
                    return Poll::Ready(Turn::Done(done));
                }
                return Pin::new(&mut connection).poll(context).map(Turn::Done);
            }
            // No `graceful_shutdown`: it would add `Connection: close` to an answer, or lose a part of a
            // head.
            if leaves && !is_done && shared.is_between_requests() {
                return Poll::Ready(Turn::Leave);
            }
            if takes_back && !is_done && shared.can_be_taken_back() {
                return Poll::Ready(Turn::TakeBack);
            }
            // Also with a part of a head: hyper gets the connection again, and the request is recorded.
            if holds && !is_done && shared.is_between_requests() && !shared.records_next() {
                return Poll::Ready(Turn::Rest);
            }
            let Some(since) = shared.head_since.get() else {
                timer = None;
                if is_done || !shared.is_between_requests() {
                    return Poll::Pending;
                }
                // One timer for many requests: whether there was one meanwhile counts when it fires.
                let start = || (pause::timer(IDLE), shared.number.get());
                loop {
                    ready!(rest.get_or_insert_with(start).0.as_mut().poll(context));
                    if rest.take().is_some_and(|(_, number)| number == shared.number.get()) {
                        return Poll::Ready(Turn::Rest);
                    }
                }
            };
            let timer =
                timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until((since + HEAD).into())));
            timer.as_mut().poll(context).map(|()| Turn::Late)
        });
        tokio::select! {
            biased;
            turn = turn => break turn,
            () = changed => {}
            () = &mut reset => return Left::Closed,
            changed = control.changed() => if changed.is_err() {
                return Left::Closed; // the relay exits
            },
        }
    };
    drop(reset);
    let parts = connection.into_parts();
    let read = match ended {
        Turn::TakeBack => shared.recorded.take().unwrap_or_default().freeze(),
        _ => parts.read_buf,
    };
    let first = joined(read, parts.io.into_inner().first);
    let Some(socket) = Rc::into_inner(socket) else { return Left::Closed };
    let stream = Stream { socket, first };
    let switched = shared.switched.borrow_mut().take();
    match (ended, switched) {
        (Turn::Leave | Turn::TakeBack, _) => Left::Idle(stream),
        (Turn::Rest, _) => Left::Resting(stream),
        (Turn::Late, _) => Left::Closed,
        (Turn::Done(Ok(())), Some(child)) => Left::Switched(stream, child),
        (Turn::Done(Ok(())), None) => {
            stream.socket.close_gracefully(control).await;
            Left::Closed
        }
        // hyper has answered that the request is invalid.
        (Turn::Done(Err(error)), _) if error.is_parse() => {
            stream.socket.close_gracefully(control).await;
            Left::Closed
        }
        (Turn::Done(Err(_)), _) => {
            // The answer is not complete, and must not look as if it were: an answer without a length ends
            // with the connection.
            stream.socket.reset_at_close();
            Left::Closed
        }
    }
}

/// The bytes that hyper has read, and those after them.
fn joined(earlier: Bytes, later: Bytes) -> Bytes {
    if earlier.is_empty() {
        return later;
    }
    if later.is_empty() {
        return earlier;
    }
    [earlier, later].concat().into()
}

/// Carries one request to the child, and returns its answer.
fn answer(
    request: Request<Incoming>,
    addresses: Rc<Addresses>,
    proxied: Rc<Proxied>,
    shared: Rc<Shared>,
    stayed: Option<u64>,
) -> impl Future<Output = Result<Response<Answer>, std::convert::Infallible>> {
    // Not in the future's first turn: from now on hyper has a whole head, and the connection has state.
    shared.head_since.set(None);
    shared.wants_head.set(false);
    let sent = Sent::new(Rc::clone(&shared), &proxied);
    let request = request.map(|body| Input::new(body, Rc::clone(&shared)));
    async move {
        shared.is_held.set(true);
        let may_go = waits_for_resume(&proxied).await;
        shared.is_held.set(false);
        shared.recorded.take();
        add(&proxied.tally.requests, 1);
        let mut response = match may_go {
            Err(refused) => refused,
            Ok(()) => match forward(request, &addresses, &proxied, &shared).await {
                Ok(response) => response,
                Err(failure) => {
                    if failure.is_of_child() {
                        proxied.failed(&failure);
                    }
                    refused(&failure)
                }
            },
        };
        // Without a successor's relay the client has to connect anew after this answer.
        let is_last = {
            let control = proxied.control.borrow();
            control.closes_after_answers() || control.ends() && !control.may_leave(stayed)
        };
        if is_last && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response.map(|body| body.tracked(sent)))
    }
}

/// Waits while requests are held back, also when another generation accepts connections meanwhile. If the child
/// is to give way, a request that was held waits until that is decided, and is not waited for (contract E5).
///
/// # Errors
/// The answer to a request that waited too long, or whose child has exited or given way.
async fn waits_for_resume(proxied: &Rc<Proxied>) -> Result<(), Response<Answer>> {
    let mut control = proxied.control.clone();
    let (hold, gave_way) = {
        let control = control.borrow();
        (control.hold, control.gave_way)
    };
    let superseded =
        || unavailable("another version took over; please try again\n".to_owned(), Duration::ZERO);
    if gave_way {
        return Err(superseded());
    }
    let Some(max) = hold else { return Ok(()) };
    let _held = Counted::new(proxied, |tally| &tally.held);
    let may_go = |control: &Control| control.gave_way || control.hold.is_none() && !control.parks();
    tokio::select! {
        control = control.wait_for(may_go) => {
            if control.is_ok_and(|control| control.gave_way) { Err(superseded()) } else { Ok(()) }
        }
        () = pause(max) => {
            Err(unavailable(format!("requests are held back at the moment; this one waited {max:?}\n"), max))
        }
        () = exited(&proxied.control) => {
            Err(unavailable("requests were held back until the child exited\n".to_owned(), Duration::ZERO))
        }
    }
}

/// Why a request has no answer of the child.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("can't connect to the child: {0}")]
    Connect(#[source] io::Error),
    #[error("the child's answer is invalid or cut short: {0}")]
    Answer(#[source] hyper::Error),
    #[error("the child's answer has a transfer coding that is not supported")]
    AnswerCoding,
    #[error("the child switched to another protocol without being asked")]
    AnswerProtocol,
    #[error("the request has a transfer coding that is not supported")]
    RequestCoding,
    #[error("the method CONNECT is not supported")]
    Method,
    #[error("the request must have one Host field")]
    Host,
    #[error("the request was cut short")]
    Request,
}

impl Failure {
    fn is_of_child(&self) -> bool {
        !matches!(self, Self::RequestCoding | Self::Method | Self::Host | Self::Request)
    }

    fn status(&self) -> StatusCode {
        match self {
            Self::Connect(_) | Self::Answer(_) | Self::AnswerCoding | Self::AnswerProtocol => {
                StatusCode::BAD_GATEWAY
            }
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Host | Self::Request => StatusCode::BAD_REQUEST,
            Self::RequestCoding => StatusCode::NOT_IMPLEMENTED,
        }
    }
}

async fn forward(
    mut request: Request<Input>,
    addresses: &Addresses,
    proxied: &Rc<Proxied>,
    shared: &Rc<Shared>,
) -> Result<Response<Answer>, Failure> {
    if request.method() == Method::CONNECT {
        return Err(Failure::Method);
    }
    if !headers::prepare_host(&mut request, addresses) {
        return Err(Failure::Host);
    }
    if headers::has_unknown_coding(request.headers()) {
        return Err(Failure::RequestCoding);
    }
    let keeps =
        proxied.http.is_on() && request.method() != Method::HEAD && proxied.control.borrow().keeps_child();
    let switches = headers::prepare_request(&mut request, addresses, proxied.proxy.forwarded, keeps);
    let keeps = keeps && !switches;
    let may_reuse = !switches && upstream::may_be_repeated(&request);
    let (mut response, connection) =
        match upstream::exchange(request, addresses, proxied, keeps, may_reuse).await {
            Ok(exchanged) => exchanged,
            Err(Failure::Answer(_)) if shared.input_failed.get() => return Err(Failure::Request),
            Err(failure) => return Err(failure),
        };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        if !switches {
            return Err(Failure::AnswerProtocol);
        }
        shared.switched.replace(Some(connection.driven));
        return Ok(response.map(|_| Answer::empty()));
    }
    if headers::has_unknown_coding(response.headers()) {
        return Err(Failure::AnswerCoding);
    }
    let keeps = keeps && headers::has_certain_end(&response);
    let kept = keeps.then(|| Kept { connection, proxied: Rc::clone(proxied) });
    headers::prepare_response(&mut response);
    Ok(response.map(|body| Answer::of_child(body, kept)))
}

/// The answer if the child has none.
fn refused(failure: &Failure) -> Response<Answer> {
    let text = format!("{failure}\n");
    let mut response = Response::new(Answer::text(text));
    *response.status_mut() = failure.status();
    response
}

/// The answer to a request that was held back and can't be carried. The client may try again after `wait`.
fn unavailable(text: String, wait: Duration) -> Response<Answer> {
    let mut response = Response::new(Answer::text(text));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    response
}
