//! Connections to the child.

use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::net::{TcpStream, UnixStream};

use crate::addresses::Addresses;
use crate::exited::exited;
use crate::message::Forward;
use crate::pause::pause;
use crate::proxied::Proxied;
use crate::proxy_protocol;
use crate::socket::Socket;

/// How long a child that refuses connections is tried again, for example because it opens its socket anew.
/// After that the client gets an error.
const REFUSED: Duration = Duration::from_secs(1);

/// The time from the first attempt to the second. Each later one waits twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(2);

/// The longest time between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// Connects to the child, and sends the PROXY protocol's header about `client` if that is configured.
///
/// # Errors
/// Those of connect(2): the child refuses connections, or its address can't be reached. `NotConnected`: the
/// child has exited.
pub(crate) async fn connect(proxied: &Proxied, client: &Addresses) -> io::Result<Socket> {
    tokio::select! {
        biased;
        () = exited(&proxied.control) => {
            Err(io::Error::new(io::ErrorKind::NotConnected, "the child has exited"))
        }
        connected = connect_patiently(proxied, client) => connected,
    }
}

async fn connect_patiently(proxied: &Proxied, client: &Addresses) -> io::Result<Socket> {
    let proxy = &proxied.proxy;
    let give_up = Instant::now() + REFUSED;
    let mut next = FIRST_PAUSE;
    let socket = loop {
        match connect_once(&proxy.forward).await {
            Ok(socket) => break socket,
            // The queue of a Unix socket is full (connect(2)): its child lives, and the client may wait as it
            // would in the queue of a TCP socket.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                pause(next).await;
                next = (next * 2).min(LONGEST_PAUSE);
            }
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

/// ECONNREFUSED: nothing listens. ENOENT: the Unix socket isn't there. The others: this process or the host
/// is short of descriptors, memory or ports; connect(2), socket(2).
fn may_pass(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(
            Errno::CONNREFUSED
                | Errno::NOENT
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOMEM
                | Errno::NOBUFS
                | Errno::ADDRNOTAVAIL
        )
    )
}
