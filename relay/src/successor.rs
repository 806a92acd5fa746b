//! The relay of the next generation, to which this one passes its clients' idle connections (unix(7),
//! SCM_RIGHTS), with the bytes that were read from them and belong to the next request.

use std::os::fd::AsFd as _;

use serde::{Deserialize, Serialize};

use crate::addresses::Addresses;
use crate::link::{LONGEST, Link};
use crate::socket::Stream;

/// The most bytes that are passed on with a connection.
const MOST: usize = LONGEST - 4096;

/// What is said of a connection. The bytes that were read follow in the packet.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Head {
    /// As `Proxy::listen`.
    pub(crate) listen: String,
    /// The addresses that the PROXY protocol named, if it did.
    pub(crate) source: Option<std::net::SocketAddr>,
    pub(crate) destination: Option<std::net::SocketAddr>,
}

/// The relay of the successor.
#[derive(Debug)]
pub(crate) struct Successor {
    link: Link,
}

impl Successor {
    pub(crate) fn new(link: Link) -> Self {
        Self { link }
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
