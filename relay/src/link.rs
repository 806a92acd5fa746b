//! Packets with descriptors over a `SOCK_SEQPACKET` socket (unix(7)).

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

/// The longest packet: the bytes that a client may have sent ahead of its next answer, and a head.
pub(crate) const LONGEST: usize = 128 * 1024;

/// The most descriptors in one packet (SCM_MAX_FD of the kernel).
const MOST_FDS: usize = 253;

/// One end of a socket pair.
#[derive(Debug)]
pub struct Link {
    /// Not of the datagram kind, but waiting for it to be ready is the same.
    socket: UnixDatagram,
}

/// A packet.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Link {
    /// Two connected ends that are not inherited by programs.
    ///
    /// # Errors
    /// socketpair(2)'s: EMFILE, ENFILE, ENOMEM.
    pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
    }

    /// # Errors
    /// ENOMEM, ENOSPC: it can't be watched.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&socket, fcntl_getfl(&socket)? | OFlags::NONBLOCK)?;
        Ok(Self { socket: UnixDatagram::from_std(socket.into())? })
    }

    /// Sends a packet, and waits while the other side's queue is full.
    ///
    /// # Errors
    /// EPIPE, ECONNRESET: the other side is gone.
    pub(crate) async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.socket.async_io(Interest::WRITABLE, || send(self.socket.as_fd(), bytes, fds)).await
    }

    /// Waits for a packet. `None`: the other side has closed the link.
    ///
    /// # Errors
    /// ENOMEM; EMFILE: its descriptors are lost.
    pub(crate) async fn receive(&self) -> io::Result<Option<Packet>> {
        self.socket.async_io(Interest::READABLE, || receive(self.socket.as_fd())).await
    }
}

/// # Errors
/// EAGAIN: the queue of the other side is full. EPIPE, ECONNRESET: it is gone.
pub(crate) fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; LONGEST];
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let length = match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(received) => received.bytes,
        Err(Errno::CONNRESET) => return Ok(None), // closed with a packet of ours unread
        Err(error) => return Err(error.into()),
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    bytes.truncate(length);
    // No packet of this protocol is empty, so this is the end.
    Ok((length > 0).then_some(Packet { bytes, fds }))
}
