//! The exchange with the child: one request and its answer, on a connection of its own, or on one that is
//! kept from an earlier request (`pool`).
//!
//! A request that is sent on an idle connection may meet a child that closes it at that very moment. So only
//! requests that may be repeated are sent there, and they are repeated on a new connection if no byte of an
//! answer came.
//!
//! A connection is kept only if it is certain where the answer has ended. Otherwise the rest of one answer
//! would be read as the answer to the next request, of another client.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::task::{JoinHandle, spawn_local};

use super::body::Input;
use super::child::Child;
use super::{Failure, LONGEST_HEAD, MOST_FIELDS};
use crate::addresses::Addresses;
use crate::connect::connect;
use crate::exited::overdue;
use crate::proxied::{Counted, Proxied};
use crate::socket::Stream;
use crate::tally::add;

/// A connection to the child. It is closed when this is dropped, or after the answer that is under way.
#[derive(Debug)]
pub(crate) struct Connection {
    sender: SendRequest<Input>,
    /// What drives it; after a switch of protocols it returns the socket.
    pub(super) driven: JoinHandle<io::Result<Stream>>,
    /// `None`: it is for one request.
    state: Option<Rc<State>>,
}

/// What is known of a connection that may be kept.
#[derive(Debug, Default)]
pub(super) struct State {
    /// It was idle, and the next request is not written yet.
    pub(super) was_idle: Cell<bool>,
    /// A byte of the answer to the last request has come.
    pub(super) answered: Cell<bool>,
    /// A part of a request could not be written.
    pub(super) write_failed: Cell<bool>,
    /// While it is idle. The connection is closed before this is dropped.
    idle: RefCell<Option<Counted>>,
}

/// Whether a request may be sent a second time if its connection ends without an answer: its method is one of
/// those that RFC 9110, section 9.2.2, calls idempotent, and it has no body, which would have to be stored.
pub(super) fn may_be_repeated(request: &Request<Input>) -> bool {
    let method = request.method();
    let methods = [Method::GET, Method::HEAD, Method::OPTIONS, Method::PUT, Method::DELETE, Method::TRACE];
    methods.contains(method) && request.body().is_end_stream()
}

/// Sends a request. `keeps`: the connection may be kept afterwards. `may_reuse`: it may be one that was kept.
pub(super) async fn exchange(
    request: Request<Input>,
    addresses: &Addresses,
    proxied: &Rc<Proxied>,
    keeps: bool,
    may_reuse: bool,
) -> Result<(Response<Incoming>, Connection), Failure> {
    let kept = if may_reuse { Connection::take(proxied) } else { None };
    let Some(mut connection) = kept else {
        return exchange_anew(request, addresses, proxied, keeps).await;
    };
    let (parts, body) = request.into_parts();
    let first = Request::from_parts(parts.clone(), body.of_repeated());
    match connection.sender.send_request(first).await {
        Ok(response) => Ok((response, connection)),
        Err(_) if connection.is_unanswered() => {
            drop(connection);
            exchange_anew(Request::from_parts(parts, body), addresses, proxied, keeps).await
        }
        Err(error) => Err(Failure::Answer(error)),
    }
}

async fn exchange_anew(
    request: Request<Input>,
    addresses: &Addresses,
    proxied: &Rc<Proxied>,
    keeps: bool,
) -> Result<(Response<Incoming>, Connection), Failure> {
    // The child never has more connections than it had requests at a time: idle ones may occupy a thread or
    // a process of it, which this request would wait for.
    proxied.http.close_oldest();
    let mut connection = Connection::open(addresses, proxied, keeps).await?;
    let response = connection.sender.send_request(request).await.map_err(Failure::Answer)?;
    Ok((response, connection))
}

impl Connection {
    async fn open(addresses: &Addresses, proxied: &Rc<Proxied>, keeps: bool) -> Result<Self, Failure> {
        let socket = connect(proxied, addresses).await.map_err(Failure::Connect)?;
        let state = keeps.then(Rc::<State>::default);
        let child = Child::new(Stream { socket, first: Bytes::new() }, Rc::clone(proxied), state.clone());
        let handshake = Builder::new()
            .preserve_header_case(true)
            .max_headers(MOST_FIELDS)
            .max_buf_size(LONGEST_HEAD)
            .handshake::<_, Input>(TokioIo::new(child))
            .await;
        let (sender, connection) = handshake.map_err(Failure::Answer)?;
        let control = proxied.control.clone();
        let driven = spawn_local(async move {
            let mut connection = pin!(connection.without_shutdown());
            let parts = tokio::select! {
                biased;
                parts = &mut connection => parts,
                () = overdue(&control) => connection.await, // `Child` reports an error then
            };
            let parts = parts.map_err(io::Error::other)?;
            Ok(Stream { socket: parts.io.into_inner().stream.socket, first: parts.read_buf })
        });
        Ok(Self { sender, driven, state })
    }

    /// A connection that was kept and is still open.
    fn take(proxied: &Proxied) -> Option<Self> {
        loop {
            let connection = proxied.http.take()?;
            let Some(state) = connection.state.as_ref().filter(|_| connection.sender.is_ready()) else {
                continue;
            };
            state.was_idle.set(true);
            state.answered.set(false);
            state.idle.take();
            add(&proxied.tally.reused, 1);
            return Some(connection);
        }
    }

    fn is_unanswered(&self) -> bool {
        self.state.as_ref().is_some_and(|state| !state.answered.get())
    }
}

/// A connection that is kept when its answer has ended.
pub(super) struct Kept {
    pub(super) connection: Connection,
    pub(super) proxied: Rc<Proxied>,
}

impl Kept {
    /// The whole answer was read. hyper is not ready for another request if the child has closed the
    /// connection, sent more than the answer, or not read all of the request.
    pub(super) fn put_back(self) {
        let Self { connection, proxied } = self;
        let Some(state) = &connection.state else { return };
        if !connection.sender.is_ready()
            || state.write_failed.get()
            || !proxied.control.borrow().keeps_child()
        {
            return;
        }
        state.idle.replace(Some(Counted::new(&proxied, |tally| &tally.idle)));
        proxied.http.put(connection);
    }
}
