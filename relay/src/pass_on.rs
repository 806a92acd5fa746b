//! Passes clients' idle connections on to the relay of the next generation (unix(7), SCM_RIGHTS), with the
//! bytes that were read from them and belong to the next request.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::task::spawn_local;

use crate::connect::Addresses;
use crate::link::{LONGEST, Link};
use crate::relay::{Proxied, serve};
use crate::socket::{Socket, Stream};

/// The most bytes that are passed on with a connection.
const MOST: usize = LONGEST - 4096;

/// What is said of a connection. The bytes that were read follow in the packet.
#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// As `Proxy::listen`.
    listen: String,
    /// The addresses that the PROXY protocol named, if it did.
    source: Option<std::net::SocketAddr>,
    destination: Option<std::net::SocketAddr>,
}

/// The relay of the successor.
#[derive(Debug)]
pub(crate) struct Successor {
    link: Link,
}

impl Successor {
    /// # Errors
    /// ENOMEM, ENOSPC.
    pub(crate) fn new(link: OwnedFd) -> io::Result<Self> {
        Ok(Self { link: Link::new(link)? })
    }

    /// Passes a connection on.
    ///
    /// # Errors
    /// The connection: the successor is gone, or too much was read ahead.
    pub(crate) async fn pass_on(
        &self,
        listen: &str,
        stream: Stream,
        addresses: Option<&Addresses>,
    ) -> Result<(), Stream> {
        let head = Head {
            listen: listen.to_owned(),
            source: addresses.and_then(|addresses| addresses.source),
            destination: addresses.and_then(|addresses| addresses.destination),
        };
        let Ok(mut packet) = serde_json::to_vec(&head) else { return Err(stream) };
        packet.push(b'\n');
        if stream.first.len() > MOST {
            return Err(stream);
        }
        packet.extend_from_slice(&stream.first);
        match self.link.send(&packet, &[stream.socket.as_fd()]).await {
            Ok(()) => Ok(()),
            Err(_) => Err(stream),
        }
    }
}

/// Serves the connections that the predecessor's relay passes on, until it closes the link.
pub(crate) async fn receive(link: Link, all: Rc<[Rc<Proxied>]>) {
    loop {
        let packet = match link.receive().await {
            Ok(Some(packet)) => packet,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "a client's connection was lost on its way from the old relay");
                continue;
            }
        };
        let mut parts = packet.bytes.splitn(2, |byte| *byte == b'\n');
        let head = parts.next().and_then(|head| serde_json::from_slice::<Head>(head).ok());
        let first = Bytes::copy_from_slice(parts.next().unwrap_or_default());
        let (Some(head), Some(fd)) = (head, packet.fds.into_iter().next()) else { continue };
        // A proxy that this generation no longer has: the connection is closed between two requests.
        let Some(proxied) = all.iter().find(|proxied| proxied.proxy.listen == head.listen) else { continue };
        match Socket::adopt(fd) {
            Ok(socket) => {
                let Head { source, destination, .. } = head;
                let named = source.is_some() || destination.is_some();
                let addresses = named.then_some(Addresses { source, destination });
                spawn_local(serve(Stream { socket, first }, Some(addresses), Rc::clone(proxied)));
            }
            Err(error) => tracing::warn!(%error, "can't go on with a client's connection"),
        }
    }
}
