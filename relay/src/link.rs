//! Packets with descriptors over a `SOCK_SEQPACKET` socket (unix(7)).

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recv, recvmsg, sendmsg, shutdown,
    socketpair,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use crate::pause::pause;

/// The longest packet: the bytes that a client may have sent ahead of its next answer, and a head.
pub(crate) const LONGEST: usize = 128 * 1024;

/// The most descriptors in one packet (SCM_MAX_FD of the kernel).
const MOST_FDS: usize = 253;

/// How long a packet waits when the process or the host is short of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(20);

/// One end of a socket pair.
#[derive(Debug)]
pub struct Link {
    /// Not of the datagram kind, but waiting for it to be ready is the same.
    socket: UnixDatagram,
    /// Keeps a descriptor free for the one of the next packet. The kernel discards descriptors for which the
    /// process has no room.
    spare: RefCell<Option<OwnedFd>>,
}

/// A packet.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<OwnedFd>,
    /// The kernel has discarded some of its descriptors.
    pub(crate) is_cut: bool,
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
        Ok(Self { socket: UnixDatagram::from_std(socket.into())?, spare: RefCell::default() })
    }

    /// Sends a packet, and waits while the other side's queue is full or the host is short of memory.
    ///
    /// # Errors
    /// EPIPE, ECONNRESET: the other side is gone.
    pub(crate) async fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        loop {
            let sent = self.socket.async_io(Interest::WRITABLE, || send(self.socket.as_fd(), bytes, fds));
            match sent.await {
                Err(error) if may_pass(&error) => pause(PAUSE).await,
                other => return other,
            }
        }
    }

    /// Waits for a packet, and for a descriptor that is free for it. `None`: the other side has closed the
    /// link.
    ///
    /// # Errors
    /// ENOMEM.
    pub(crate) async fn receive(&self) -> io::Result<Option<Packet>> {
        loop {
            self.socket.readable().await?;
            if !self.has_spare() {
                pause(PAUSE).await; // the packet stays in the queue
                continue;
            }
            let received = self.socket.try_io(Interest::READABLE, || {
                drop(self.spare.take());
                let received = receive(self.socket.as_fd());
                self.has_spare();
                received
            });
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    /// Whether a packet has come that is not received yet.
    pub(crate) fn has_packet(&self) -> bool {
        let peeked = recv(self.socket.as_fd(), &mut [0_u8], RecvFlags::PEEK | RecvFlags::DONTWAIT);
        peeked.is_ok_and(|(length, _)| length > 0) // no packet is empty: 0 is the end
    }

    /// From now on sending fails at the other side; what it has sent can still be received.
    pub(crate) fn refuse_more(&self) {
        let _ = shutdown(&self.socket, Shutdown::Read); // it can't fail for a connected socket
    }

    /// Whether a descriptor is kept free.
    fn has_spare(&self) -> bool {
        let mut spare = self.spare.borrow_mut();
        if spare.is_none() {
            *spare = fcntl_dupfd_cloexec(&self.socket, 0).ok(); // EMFILE
        }
        spare.is_some()
    }
}

/// Whether sendmsg(2) can succeed later: ENOBUFS and ENOMEM; ETOOMANYREFS: too many descriptors are under way
/// in sockets (unix(7)).
fn may_pass(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOBUFS | Errno::NOMEM | Errno::TOOMANYREFS))
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
    let (length, is_cut) = match recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags) {
        Ok(received) => (received.bytes, received.flags.contains(ReturnFlags::CTRUNC)),
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
    Ok((length > 0).then_some(Packet { bytes, fds, is_cut }))
}
