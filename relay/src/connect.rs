//! Connections to the child.

use std::io;
use std::time::{Duration, Instant};

use tokio::net::{TcpStream, UnixStream};

use crate::addresses::Addresses;
use crate::message::{Forward, Proxy};
use crate::pause::pause;
use crate::proxy_protocol;
use crate::socket::Socket;

/// How long a child that refuses connections is tried again: one that opens its socket anew, or whose queue is
/// full. After that the client gets an error.
const REFUSED: Duration = Duration::from_secs(1);

/// The time from the first attempt to the second. Each later one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// Connects to the child, and sends the PROXY protocol's header about `client` if that is configured.
///
/// # Errors
/// Those of connect(2): the child refuses connections, or its address can't be reached.
pub(crate) async fn connect(proxy: &Proxy, client: &Addresses) -> io::Result<Socket> {
    let give_up = Instant::now() + REFUSED;
    let mut next = FIRST_PAUSE;
    let socket = loop {
        match connect_once(&proxy.forward).await {
            Ok(socket) => break socket,
            Err(error) if may_pass(&error) && Instant::now() + next < give_up => {
                pause(next).await;
                next *= 2;
            }
            Err(error) => return Err(error),
        }
    };
    socket.set_nodelay();
    if let Some(version) = proxy.send_proxy_protocol {
        socket.write_all(&proxy_protocol::header(version, client)).await?;
    }
    Ok(socket)
}

async fn connect_once(forward: &Forward) -> io::Result<Socket> {
    Ok(match forward {
        Forward::Tcp(address) => Socket::Tcp(TcpStream::connect(address).await?),
        Forward::Unix(path) => Socket::Unix(UnixStream::connect(path).await?),
    })
}

/// ECONNREFUSED: nothing listens. ENOENT: the Unix socket isn't there. EAGAIN: the queue of the Unix socket is
/// full; connect(2).
fn may_pass(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound, WouldBlock};
    matches!(error.kind(), ConnectionRefused | NotFound | WouldBlock)
}
