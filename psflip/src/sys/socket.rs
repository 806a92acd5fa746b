//! Message sockets: each packet arrives as it was sent, with its descriptors (unix(7), SOCK_SEQPACKET).

use std::io;
use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, sendmsg, setsockopt, shutdown,
    socketpair, sockopt,
};

use super::seam::{self, Call};

/// The longest packet that is read, in bytes. Longer ones are truncated, which the reader
/// notices because the end is missing.
pub const LONGEST: usize = 4096;
/// Room for as many descriptors as the kernel lets a packet have: `SCM_MAX_FD`, 253 (unix(7)). In words of 8
/// bytes, because a header must be aligned.
const CONTROL: usize = (16 + 253 * 4) / 8 + 1;

/// The result of reading from a [`Socket`].
#[derive(Debug)]
pub enum Packet {
    /// A packet with its descriptors.
    Data(Vec<u8>, Vec<OwnedFd>),
    /// There is no packet at the moment.
    Nothing,
    /// The other end is closed, and everything that it sent has been read.
    Closed,
}

/// One end of a pair of connected sockets.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// Two connected ends, both close-on-exec.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn pair() -> io::Result<(Self, Self)> {
        seam::before(Call::Socketpair)?;
        let (one, other) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        Ok((Self(one), Self(other)))
    }

    /// Takes over an end that was inherited across an exec.
    #[must_use]
    pub fn from_owned(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// From now on the kernel adds the sender to each packet that is read here (see
    /// [`super::datagram::receive`]).
    ///
    /// # Errors
    /// None for a Unix socket.
    pub fn request_senders(&self) -> io::Result<()> {
        seam::before(Call::Socketpair)?;
        setsockopt(&self.0, sockopt::PassCred, &true).map_err(Into::into)
    }

    /// Sends one packet without waiting.
    ///
    /// # Errors
    /// EPIPE, ECONNRESET: the other end is closed or shut down for reading. EAGAIN: it
    /// doesn't read, and the queue is full.
    pub fn send(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights: &[_] = if raw.is_empty() { &[] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            let result = seam::before(Call::Sendmsg).and_then(|()| {
                sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(bytes)], rights, flags, None)
            });
            match result {
                Err(nix::Error::EINTR) => {}
                other => return other.map(drop).map_err(Into::into),
            }
        }
    }

    /// Reads one packet without waiting.
    ///
    /// # Errors
    /// EMFILE: there was no room for a descriptor, so the packet is lost. ENOMEM, as for recvmsg(2).
    pub fn receive(&self) -> io::Result<Packet> {
        let mut buffer = [0; LONGEST]; // on the stack, to keep the heap of an idle process small
        let (length, fds) = loop {
            match seam::before(Call::Recvmsg).and_then(|()| receive(self.0.as_fd(), &mut buffer)) {
                Ok(received) => break received,
                // The other end was closed with unread packets. The kernel reports that once,
                // before its last packets: read on.
                Err(Errno::EINTR | Errno::ECONNRESET) => {}
                Err(Errno::EAGAIN) => return Ok(Packet::Nothing),
                Err(error) => return Err(error.into()),
            }
        };
        if length == 0 {
            return Ok(Packet::Closed); // psflip never sends empty packets
        }
        Ok(Packet::Data(buffer[..length].to_vec(), fds))
    }

    /// Shuts this end down for reading. Every later [`Socket::send`] of the other end fails,
    /// and every earlier packet can still be read here. The kernel decides each case under
    /// one lock, so both ends agree on it.
    ///
    /// # Errors
    /// None for a connected socket.
    pub fn refuse_more(&self) -> io::Result<()> {
        seam::before(Call::Shutdown)?;
        shutdown(self.0.as_raw_fd(), Shutdown::Read).map_err(Into::into)
    }
}

/// listen(2). If the socket listens already, its queue gets this new length. The kernel
/// lowers it to net.core.somaxconn.
///
/// # Errors
/// EADDRINUSE: another socket listens on the same port. EINVAL, EOPNOTSUPP: the socket can't listen.
pub fn listen(socket: BorrowedFd<'_>, backlog: u32) -> io::Result<()> {
    seam::before(Call::Listen)?;
    let backlog = i32::try_from(backlog).unwrap_or(i32::MAX);
    // SAFETY: listen(2) takes two integers.
    super::cerr(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(drop)
}

/// One recvmsg(2). Every descriptor that arrived is owned or closed, even if the kernel
/// had to leave some out.
fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut control = [0_u64; CONTROL];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid msghdr: null pointers with lengths of 0.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _; // its type depends on the C library
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message points to buffers that live through the call, with their lengths.
    let length = Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) })?;
    let fds = take_fds(&message);
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Errno::EMFILE); // the buffer has room for all, so the process has no descriptor left
    }
    Ok((length.cast_unsigned(), fds))
}

/// The descriptors of a message that recvmsg(2) has just filled in. Call it once for each message.
fn take_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel has filled in the message, and its buffer for control messages still lives.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: null, or a whole aligned header within that buffer.
    while let Some(header) = unsafe { next.as_ref() } {
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: only computes an address within the buffer.
            let data = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            // SAFETY: only computes the length of a header.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            let length: usize = header.cmsg_len as _;
            let count = length.saturating_sub(head) / size_of::<RawFd>();
            for index in 0..count {
                // SAFETY: the header says that so many numbers follow it, so this is the
                // address of one of them.
                let place = unsafe { data.add(index) };
                // SAFETY: as above.
                let number = unsafe { place.read_unaligned() };
                // SAFETY: the kernel has just put this descriptor into our table; nobody else owns it.
                fds.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
        // SAFETY: the message and a header of it.
        next = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    fds
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(packet: Packet) -> String {
        match packet {
            Packet::Data(bytes, _) => String::from_utf8(bytes).unwrap(),
            Packet::Nothing => "nothing".to_owned(),
            Packet::Closed => "closed".to_owned(),
        }
    }

    #[test]
    fn packets_keep_their_boundaries_and_carry_descriptors() {
        let (one, other) = Socket::pair().unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        one.send(b"first", &[]).unwrap();
        one.send(b"second", &[writer.as_fd()]).unwrap();
        drop(writer);
        assert_eq!(text(other.receive().unwrap()), "first");
        let Packet::Data(bytes, mut fds) = other.receive().unwrap() else { panic!("no packet") };
        assert_eq!(bytes, b"second");
        std::io::Write::write_all(&mut std::fs::File::from(fds.remove(0)), b"x").unwrap();
        assert_eq!(std::io::read_to_string(reader).unwrap(), "x");
        assert_eq!(text(other.receive().unwrap()), "nothing");
        drop(one);
        assert_eq!(text(other.receive().unwrap()), "closed");
    }

    #[test]
    fn every_descriptor_that_arrives_has_an_owner() {
        // Contract: F10, V1
        let (one, other) = Socket::pair().unwrap();
        for count in [1, 4, 5, 253] {
            let (reader, writer) = std::io::pipe().unwrap();
            one.send(b"many", &vec![writer.as_fd(); count]).unwrap();
            let Packet::Data(_, fds) = other.receive().unwrap() else { panic!("no packet") };
            assert_eq!(fds.len(), count);
            drop((writer, fds));
            // No writer exists any more: none of the descriptors was left open.
            assert_eq!(std::io::read_to_string(reader).unwrap(), "");
        }
    }

    #[test]
    fn messages_of_a_closed_peer_are_still_received() {
        let (one, other) = Socket::pair().unwrap();
        other.send(b"never read", &[]).unwrap();
        one.send(b"last words", &[]).unwrap();
        drop(one);
        assert_eq!(text(other.receive().unwrap()), "last words");
        assert_eq!(text(other.receive().unwrap()), "closed");
        assert_eq!(text(other.receive().unwrap()), "closed");
    }

    #[test]
    fn earlier_messages_are_received_after_refusing_more() {
        let (one, other) = Socket::pair().unwrap();
        one.send(b"in time", &[]).unwrap();
        other.refuse_more().unwrap();
        assert_eq!(one.send(b"too late", &[]).unwrap_err().raw_os_error(), Some(libc::EPIPE));
        assert_eq!(text(other.receive().unwrap()), "in time");
        assert_eq!(text(other.receive().unwrap()), "closed");
        other.send(b"the other way is open", &[]).unwrap();
        assert_eq!(text(one.receive().unwrap()), "the other way is open");
    }
}
