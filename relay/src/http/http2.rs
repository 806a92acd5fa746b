//! HTTP/2 with prior knowledge (RFC 9113, section 3.3), which gRPC speaks: each client's connection has one
//! to the child. Its end without loss is part of the protocol (GOAWAY, section 6.8), so it is not passed on:
//! a client whose generation leaves has to open a new connection, and every stream that has begun is
//! carried to its end.

use std::cell::Cell;
use std::error::Error;
use std::pin::pin;
use std::rc::Rc;

use bytes::Bytes;
use h2::Reason;
use hyper::body::Incoming;
use hyper::header::{HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, client, server};
use hyper_util::rt::TokioIo;
use tokio::sync::{Notify, watch};
use tokio::task::spawn_local;

use super::body::{Answer, Input, Sent};
use super::{Failure, LONGEST_HEAD, Shared, headers, refused, waits_for_resume};
use crate::addresses::Addresses;
use crate::connect::connect;
use crate::exited::overdue;
use crate::proxied::{Control, Counted, Proxied};
use crate::socket::Stream;
use crate::tally::add;

/// What a client's connection begins with (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The most streams of one connection at a time.
const STREAMS: u32 = 128;

/// Runs hyper's tasks on this thread.
#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// Serves a client's connection until it is closed.
pub(super) async fn serve(
    stream: Stream,
    addresses: Rc<Addresses>,
    proxied: &Rc<Proxied>,
    control: &mut watch::Receiver<Control>,
) {
    let _open = Counted::new(proxied, |tally| &tally.http2);
    let connected = tokio::select! {
        connected = connect_to_child(&addresses, proxied) => connected,
        () = stream.socket.reset() => return,
    };
    let (sender, child) = match connected {
        Ok(both) => both,
        Err(failure) => {
            proxied.failed(&failure);
            return stream.socket.reset_at_close();
        }
    };
    // Both ends of the way to the child: no stream can begin any more.
    let child_has_ended = Rc::new((Cell::new(false), Notify::new()));
    let ended = Rc::clone(&child_has_ended);
    spawn_local(async move {
        let _ = child.await; // the streams have their own errors
        ended.0.set(true);
        ended.1.notify_one();
    });
    let service = service_fn(|request| {
        let (sender, addresses, proxied) = (sender.clone(), Rc::clone(&addresses), Rc::clone(proxied));
        async move { answer(request, sender, &addresses, proxied).await }
    });
    let mut builder = server::conn::http2::Builder::new(Local);
    builder.max_concurrent_streams(STREAMS).max_header_list_size(LONGEST_HEAD as u32).auto_date_header(false);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut leaves = false;
    loop {
        let ends = {
            let control = control.borrow_and_update();
            control.ends() || control.is_paused
        };
        if (ends || child_has_ended.0.get()) && !leaves {
            leaves = true;
            connection.as_mut().graceful_shutdown();
        }
        tokio::select! {
            _ = connection.as_mut() => return, // an error is the client's own
            changed = control.changed() => if changed.is_err() {
                return; // the relay exits
            },
            () = child_has_ended.1.notified() => {}
            () = overdue(&proxied.control) => return, // what the client has not read by now, it won't
        }
    }
}

type Sender = client::conn::http2::SendRequest<Input>;

async fn connect_to_child(
    addresses: &Addresses,
    proxied: &Proxied,
) -> Result<(Sender, impl Future<Output = hyper::Result<()>> + use<>), Failure> {
    let socket = connect(proxied, addresses).await.map_err(Failure::Connect)?;
    socket.set_nodelay();
    let io = TokioIo::new(Stream { socket, first: Bytes::new() });
    let handshake = client::conn::http2::handshake::<_, _, Input>(Local, io).await;
    handshake.map_err(Failure::Answer)
}

async fn answer(
    mut request: Request<Incoming>,
    mut sender: Sender,
    addresses: &Addresses,
    proxied: Rc<Proxied>,
) -> Result<Response<Answer>, Box<dyn Error + Send + Sync>> {
    let shared = Rc::new(Shared::new());
    let sent = Sent::new(Rc::clone(&shared), &proxied);
    let is_held = proxied.control.borrow().hold.is_some();
    let may_go = tokio::select! {
        biased;
        // The client sends it again, over a connection to the next child's relay (RFC 9113, section 8.7).
        () = gives_way(&proxied.control), if is_held => return Err(h2::Error::from(Reason::REFUSED_STREAM).into()),
        may_go = waits_for_resume(&proxied) => may_go,
    };
    add(&proxied.tally.requests, 1);
    let response = match may_go {
        Err(refused) => refused,
        Ok(()) if request.method() == Method::CONNECT => refused(&Failure::Method),
        Ok(()) => {
            let host = request.uri().authority();
            let host = host.and_then(|host| HeaderValue::from_str(host.as_str()).ok());
            let host = host.or_else(|| request.headers().get(HOST).cloned());
            headers::name_client(request.headers_mut(), addresses, host, proxied.proxy.forwarded);
            match sender.send_request(request.map(|body| Input::new(body, Rc::clone(&shared)))).await {
                Ok(response) => response.map(|body| Answer::of_child(body, None)),
                Err(_) if shared.input_failed.get() => refused(&Failure::Request),
                Err(error) if is_reset_of_stream(&error) => return Err(error.into()),
                Err(error) => {
                    let failure = Failure::Answer(error);
                    proxied.failed(&failure);
                    refused(&failure)
                }
            }
        }
    };
    Ok(response.map(|body| body.tracked(sent)))
}

/// Returns when the child is to give way, or has.
async fn gives_way(control: &watch::Receiver<Control>) {
    if control.clone().wait_for(|control| control.parks() || control.gave_way).await.is_err() {
        std::future::pending::<()>().await; // the relay exits
    }
}

/// Whether the child has reset this one stream. hyper resets the client's with the same code, for example
/// `REFUSED_STREAM`, after which a client may send any request again.
fn is_reset_of_stream(error: &hyper::Error) -> bool {
    // The type of the source belongs to a crate that hyper doesn't export.
    error.source().is_some_and(|source| source.to_string().starts_with("stream error received"))
}

/// Whether the connection begins with the preface; `None`: more bytes are needed.
pub(super) fn begins(bytes: &[u8]) -> Option<bool> {
    let length = bytes.len().min(PREFACE.len());
    match bytes[..length] == PREFACE[..length] {
        true if length == PREFACE.len() => Some(true),
        true => None,
        false => Some(false),
    }
}
