//! Serves one client's connection, by the protocol of its proxy.

use std::io;
use std::rc::Rc;

use crate::addresses::Addresses;
use crate::connect::connect;
use crate::exited::exited;
use crate::message::Protocol;
use crate::proxied::{Counted, Proxied};
use crate::socket::Stream;
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

async fn serve_tcp(mut client: Stream, named: Option<Addresses>, proxied: &Rc<Proxied>) {
    // It was accepted just before the child began to give way, or before another generation's promotion.
    if proxied.control.borrow().parks() && proxied.parked(&client.socket).await.is_err() {
        return;
    }
    let successor = proxied.control.borrow().successor.clone();
    if let Some(successor) = successor {
        match Box::pin(successor.pass_on(&proxied.proxy.listen, client, named.as_ref())).await {
            Ok(()) => return add(&proxied.tally.passed_on, 1),
            Err(back) => client = back,
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
