//! The two addresses of a client's connection.

use std::net::SocketAddr;

use crate::socket::Socket;

/// Both addresses of a client's connection; `None`: it is a Unix socket, or the header that the client's
/// proxy sent names none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// The client's.
    pub(crate) source: Option<SocketAddr>,
    /// The one that the client connected to.
    pub(crate) destination: Option<SocketAddr>,
}

impl Addresses {
    pub(crate) fn of(client: &Socket) -> Self {
        Self { source: client.peer(), destination: client.local() }
    }
}
