//! Serves one client's connection, by the protocol of its proxy.

use std::io;
use std::rc::Rc;

use crate::addresses::Addresses;
use crate::connect::connect;
use crate::exited::exited;
use crate::message::Protocol;
use crate::proxied::{Control, Counted, Proxied};
use crate::socket::{Socket, Stream};
use crate::successor::Successor;
use crate::tally::add;
use crate::tcp::{self, Until};
use crate::{fcgi, http, proxy_protocol};

/// Serves a client's connection until it is closed or passed on. It counts as open from this call on, not
/// from the future's first turn. `addresses`: `None`, if the connection is new; else those that the PROXY
/// protocol named.
pub(crate) fn serve(
    stream: Stream,
    addresses: Option<Option<Addresses>>,
    proxied: Rc<Proxied>,
) -> impl Future<Output = ()> {
    add(&proxied.tally.connections, 1);
    let open = Counted::new(&proxied, |tally| &tally.open);
    let reserved = proxied.descriptors.reserve();
    async move {
        let _open = (reserved, open);
        let _ = serve_open(stream, addresses, &proxied).await;
    }
}

/// # Errors
/// An error of the client, which is not logged.
async fn serve_open(
    mut stream: Stream,
    addresses: Option<Option<Addresses>>,
    proxied: &Rc<Proxied>,
) -> io::Result<()> {
    let named = match addresses {
        Some(named) => named,
        None if proxied.proxy.accept_proxy_protocol => {
            let header = Box::pin(async {
                tokio::select! {
                    header = proxy_protocol::read(&stream.socket) => header,
                    () = exited(&proxied.control) => Err(io::ErrorKind::NotConnected.into()),
                }
            });
            let (named, rest) = header.await?;
            stream.first = rest;
            named
        }
        None => None,
    };
    // In boxes, so that an idle connection is as large as its own state, and not as the largest one.
    match proxied.proxy.protocol {
        Protocol::Tcp => Box::pin(serve_tcp(stream, named, proxied)).await,
        Protocol::Http => Box::pin(http::serve(stream, named, proxied)).await?,
        Protocol::Fastcgi => Box::pin(fcgi::serve(stream, named, proxied)).await?,
    }
    Ok(())
}

/// Where a new connection by `tcp` goes.
enum Goes {
    ToChild,
    ToSuccessor(Rc<Successor>),
    /// psflip stops during a hold, or the child is gone.
    Nowhere,
}

/// Waits until it is known where a new connection goes. `may_leave`: the successor's relay has not failed to take
/// it.
///
/// # Errors
/// The client is gone, or the relay exits.
async fn goes(proxied: &Proxied, socket: &Socket, may_leave: bool) -> io::Result<Goes> {
    let successor = |control: &Control| control.successor.clone().filter(|_| may_leave);
    let is_known = |control: &Control| {
        let ends = control.stops || control.exited || successor(control).is_some();
        !control.parks() && (control.hold.is_none() || ends)
    };
    let mut control = proxied.control.clone();
    tokio::select! {
        known = control.wait_for(is_known) => {
            let control = known.map_err(|_| io::Error::from(io::ErrorKind::NotConnected))?;
            Ok(match successor(&control) {
                Some(successor) => Goes::ToSuccessor(successor),
                None if control.hold.is_some() || control.gave_way => Goes::Nowhere,
                None => Goes::ToChild,
            })
        }
        () = socket.reset() => Err(io::ErrorKind::ConnectionReset.into()),
    }
}

async fn serve_tcp(mut client: Stream, named: Option<Addresses>, proxied: &Rc<Proxied>) {
    // It was accepted just before the child began to give way, before a hold, or before another generation's
    // promotion.
    let mut may_leave = true;
    loop {
        let successor = match goes(proxied, &client.socket, may_leave).await {
            Ok(Goes::ToChild) => break,
            Ok(Goes::ToSuccessor(successor)) => successor,
            Ok(Goes::Nowhere) | Err(_) => return client.socket.reset_at_close(), // as if nobody had accepted it
        };
        match Box::pin(successor.pass_on(&proxied.proxy.listen, client, named.as_ref())).await {
            Ok(()) => return add(&proxied.tally.passed_on, 1),
            Err(back) => (client, may_leave) = (back, false),
        }
    }
    let _under_way = Counted::new(proxied, |tally| &tally.under_way);
    let names_client = proxied.proxy.send_proxy_protocol.is_some();
    let addresses = match named {
        Some(named) => named,
        None if names_client => Addresses::of(&client.socket),
        None => Addresses::default(),
    };
    let connected = Box::pin(async {
        tokio::select! {
            connected = connect(proxied, &addresses) => Some(connected),
            () = client.socket.reset() => None,
        }
    });
    let Some(connected) = connected.await else { return };
    match connected {
        Ok(socket) => {
            let child = Stream { socket, first: bytes::Bytes::new() };
            tcp::carry(client, child, Until::BothEnd, proxied).await;
        }
        Err(error) => {
            proxied.failed(&error);
            client.socket.reset_at_close(); // the client must not take it for an answer that is empty
        }
    }
}
