//! `--pass`: addresses outside that the service needs, a database for example. Inside, a thread listens at the
//! same address and hands every connection to the process outside, by SCM_RIGHTS. That one connects to the
//! address outside and copies.

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Result, SandboxError};

/// The longest text of an address.
const MOST_ADDRESS: usize = 64;

/// Starts the thread outside. Returns the socket for the process inside.
pub(super) fn relay_outside() -> io::Result<OwnedFd> {
    let (outer, inner) = UnixStream::pair()?;
    thread::Builder::new().name("pass".to_owned()).spawn(move || {
        let mut has_complained = false;
        loop {
            match receive(&outer) {
                // The service sees a closed connection if the address does not answer.
                Ok(Received::Connection(address, inside)) => {
                    let _ = thread::Builder::new().spawn(move || carry(address, &inside));
                }
                Ok(Received::Lost) if !std::mem::replace(&mut has_complained, true) => {
                    let text = "psflip rehearse: --pass: connections of the service were closed, because this \
                                process can't open as many files: raise `ulimit -n`";
                    let _ = writeln!(io::stderr(), "{text}"); // standard error may be closed
                }
                Ok(Received::Lost) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(Received::End) | Err(_) => return,
            }
        }
    })?;
    Ok(inner.into())
}

/// Lets this process have as many connections as it may. Only once the sandbox is started: the service inherits the
/// limits of the user.
pub(super) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }); // it is at most the hard limit
}

fn carry(address: SocketAddr, inside: &TcpStream) -> io::Result<()> {
    let outside = TcpStream::connect(address)?;
    outside.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    let outside = &outside;
    thread::scope(|both| {
        thread::Builder::new().spawn_scoped(both, || copy(outside, inside))?;
        copy(inside, outside);
        Ok(())
    })
}

/// Copies one direction to its end. After a reset, nothing may keep the other side open.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    let copied = io::copy(&mut from, &mut to);
    let _ = to.shutdown(if copied.is_ok() { Shutdown::Write } else { Shutdown::Both });
    if copied.is_err() {
        let _ = from.shutdown(Shutdown::Both);
    }
}

/// What the process inside has sent.
enum Received {
    Connection(SocketAddr, TcpStream),
    /// A connection for which this process has no descriptor (MSG_CTRUNC).
    Lost,
    /// It is gone.
    End,
}

fn receive(outer: &UnixStream) -> io::Result<Received> {
    let mut text = [0; MOST_ADDRESS];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(outer, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Ok(Received::End);
    }
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.next().and_then(|mut fds| fds.next());
    let address =
        std::str::from_utf8(&text[..received.bytes]).ok().and_then(|text| text.trim_end().parse().ok());
    let connection = address.zip(fd.map(TcpStream::from));
    Ok(connection.map_or(Received::Lost, |(address, inside)| Received::Connection(address, inside)))
}

/// Listens inside at every address.
///
/// # Errors
/// An address is in use inside.
pub(super) fn listen(passed: &[SocketAddr]) -> Result<()> {
    for address in passed {
        let error = |error| SandboxError::new(format!("--pass {address}"), error);
        let listener = TcpListener::bind(address).map_err(error)?;
        let socket = io::stdin().as_fd().try_clone_to_owned().map_err(error)?;
        let address = *address;
        let hand = move || {
            for connection in listener.incoming().flatten() {
                match send(&socket, address, &connection) {
                    // The process outside is gone, and this one goes with it.
                    Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return,
                    // ETOOMANYREFS, for example: it costs this connection.
                    Ok(()) | Err(_) => {}
                }
            }
        };
        thread::Builder::new().name("pass".to_owned()).spawn(hand).map_err(error)?;
    }
    Ok(())
}

fn send(socket: &OwnedFd, address: SocketAddr, connection: &TcpStream) -> io::Result<()> {
    // Of one length, so that messages of a stream socket stay apart.
    let text = format!("{:MOST_ADDRESS$}", address.to_string());
    let fds = [connection.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::empty())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::time::Duration;

    use rustix::net::sockopt::set_socket_linger;

    /// How long a test waits for anything.
    const DEADLINE: Duration = Duration::from_secs(30);

    /// A service's connection, as the service has it, and what is handed out for it.
    fn inside() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (service, listener.accept().unwrap().0)
    }

    fn accept(database: &TcpListener) -> TcpStream {
        let connection = database.accept().unwrap().0;
        connection.set_read_timeout(Some(DEADLINE)).unwrap();
        connection
    }

    #[test]
    fn a_connection_without_a_descriptor_costs_no_later_one() {
        let socket = relay_outside().unwrap();
        let database = TcpListener::bind("127.0.0.1:0").unwrap();
        // As the kernel delivers it to a process that can't open one more file.
        rustix::io::write(&socket, &[b' '; MOST_ADDRESS]).unwrap();
        let (mut service, passed) = inside();
        send(&socket, database.local_addr().unwrap(), &passed).unwrap();
        drop(passed);
        service.write_all(b"query").unwrap();
        service.shutdown(Shutdown::Write).unwrap();
        let mut query = String::new();
        accept(&database).read_to_string(&mut query).unwrap();
        assert_eq!(query, "query");
    }

    #[test]
    fn a_reset_of_either_side_ends_the_other() {
        let socket = relay_outside().unwrap();
        let database = TcpListener::bind("127.0.0.1:0").unwrap();
        for service_resets in [true, false] {
            let (service, passed) = inside();
            service.set_read_timeout(Some(DEADLINE)).unwrap();
            send(&socket, database.local_addr().unwrap(), &passed).unwrap();
            drop(passed);
            let connection = accept(&database);
            let (reset, mut other) =
                if service_resets { (service, connection) } else { (connection, service) };
            set_socket_linger(&reset, Some(Duration::ZERO)).unwrap();
            drop(reset);
            let end = other.read(&mut [0]);
            assert!(
                matches!(&end, Ok(0))
                    || end.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::ConnectionReset),
                "{end:?}"
            );
        }
    }

    #[test]
    fn this_process_may_have_as_many_connections_as_the_hard_limit_says() {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..limit }).unwrap();
        raise_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, limit.maximum);
    }
}
