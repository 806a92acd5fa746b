//! Connections to the child.

use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
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
    let proxy = &proxied.proxy;
    let has_exited = proxied.control.borrow().exited;
    let socket = match connect_at_once(&proxy.forward) {
        Ok(Some(socket)) if !has_exited => socket,
        _ => {
            Box::pin(async {
                tokio::select! {
                    biased;
                    () = exited(&proxied.control) => {
                        Err(io::Error::new(io::ErrorKind::NotConnected, "the child has exited"))
                    }
                    connected = connect_patiently(&proxy.forward) => connected,
                }
            })
            .await?
        }
    };
    if let Some(version) = proxy.send_proxy_protocol {
        socket.write_all(&proxy_protocol::header(version, client)).await?;
    }
    Ok(socket)
}

/// Connects if that needs no waiting, and so no epoll(7) for each request. To a TCP address of this host,
/// connect(2) says EINPROGRESS, but it is done then: a second call finds out. `None`: another host.
fn connect_at_once(forward: &Forward) -> io::Result<Option<Socket>> {
    let open = |family| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        socket_with(family, SocketType::STREAM, flags, None)
    };
    let address = match forward {
        Forward::Unix(path) => {
            let socket = open(AddressFamily::UNIX)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            return Ok(Some(Socket::Unix(UnixStream::from_std(socket.into())?)));
        }
        Forward::Tcp(address) => address,
    };
    let socket = open(if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 })?;
    let connected = match rustix::net::connect(&socket, address) {
        Err(Errno::INPROGRESS) => rustix::net::connect(&socket, address),
        other => other,
    };
    match connected {
        Ok(()) => Ok(Some(Socket::Tcp(TcpStream::from_std(socket.into())?))),
        Err(Errno::ALREADY) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn connect_patiently(forward: &Forward) -> io::Result<Socket> {
    let give_up = Instant::now() + REFUSED;
    let mut next = FIRST_PAUSE;
    loop {
        match connect_once(forward).await {
            Ok(socket) => return Ok(socket),
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
    }
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
