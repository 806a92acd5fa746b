//! `--pass`: addresses outside that the service needs, a database for example. Inside, a thread listens at the
//! same address and hands every connection to the process outside, by SCM_RIGHTS. That one connects to the
//! address outside and copies.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::{Result, SandboxError};

/// The longest text of an address.
const MOST_ADDRESS: usize = 64;

/// Starts the thread outside. Returns the socket for the process inside.
pub(super) fn relay_outside() -> io::Result<OwnedFd> {
    let (outer, inner) = UnixStream::pair()?;
    thread::Builder::new().name("pass".to_owned()).spawn(move || {
        while let Ok(Some((address, inside))) = receive(&outer) {
            // The service sees a closed connection if the address does not answer.
            let _ = thread::Builder::new().spawn(move || carry(address, inside));
        }
    })?;
    Ok(inner.into())
}

fn carry(address: SocketAddr, inside: TcpStream) -> io::Result<()> {
    let outside = TcpStream::connect(address)?;
    outside.set_nodelay(true)?;
    inside.set_nodelay(true)?;
    let (mut from, mut to) = (inside.try_clone()?, outside.try_clone()?);
    let back = thread::Builder::new().spawn(move || copy(outside, inside))?;
    io::copy(&mut from, &mut to)?;
    to.shutdown(Shutdown::Write)?;
    let _ = back.join();
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

fn receive(outer: &UnixStream) -> io::Result<Option<(SocketAddr, TcpStream)>> {
    let mut text = [0; MOST_ADDRESS];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(outer, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.next().and_then(|mut fds| fds.next());
    let address =
        std::str::from_utf8(&text[..received.bytes]).ok().and_then(|text| text.trim_end().parse().ok());
    Ok(address.zip(fd.map(TcpStream::from)))
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
                if send(&socket, address, &connection).is_err() {
                    return; // the process outside is gone, and this one goes with it
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
