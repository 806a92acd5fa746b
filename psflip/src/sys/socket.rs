//! Message sockets: one packet in, the same packet out, descriptors along with it (unix(7), SOCK_SEQPACKET).

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, recvmsg,
    sendmsg, shutdown, socketpair,
};

use super::seam::{self, Call};

/// The longest packet that is read. Longer ones arrive cut off, which their reader notices by the missing end.
pub const LONGEST: usize = 4096;

/// What was read from a [`Socket`].
#[derive(Debug)]
pub enum Packet {
    /// A packet, and the descriptors that came along.
    Data(Vec<u8>, Vec<OwnedFd>),
    /// Nothing is there at the moment.
    Nothing,
    /// The other side is closed, and everything it sent has been read.
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

    /// Takes over an end that came by exec.
    #[must_use]
    pub fn from_owned(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Sends one packet without ever waiting.
    ///
    /// # Errors
    /// EPIPE, ECONNRESET: the other side is closed or reads no more. EAGAIN: it doesn't read, and the queue is full.
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
    /// EMFILE and ENOMEM, as recvmsg(2) says.
    pub fn receive(&self) -> io::Result<Packet> {
        let mut buffer = [0; LONGEST]; // on the stack: the heap of a process that idles for months stays small
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut space = nix::cmsg_space!([RawFd; 4]);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let (length, fds) = loop {
            let result = seam::before(Call::Recvmsg)
                .and_then(|()| recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut space), flags));
            match result {
                Ok(message) => break (message.bytes, take_fds(message.cmsgs()?)),
                // The other side closed without having read everything. That is told once, and before what it sent last: read on.
                Err(nix::Error::EINTR | nix::Error::ECONNRESET) => {}
                Err(nix::Error::EAGAIN) => return Ok(Packet::Nothing),
                Err(error) => return Err(error.into()),
            }
        };
        if length == 0 {
            return Ok(Packet::Closed); // nobody sends empty packets
        }
        Ok(Packet::Data(buffer[..length].to_vec(), fds))
    }

    /// Reads no more from now on: every later [`Socket::send`] of the other side fails, and every earlier one can still be
    /// read here. The kernel decides under one lock which of the two a packet is, so both sides agree on it.
    ///
    /// # Errors
    /// None for a connected socket.
    pub fn refuse_more(&self) -> io::Result<()> {
        seam::before(Call::Shutdown)?;
        shutdown(self.0.as_raw_fd(), Shutdown::Read).map_err(Into::into)
    }
}

fn take_fds<'a>(messages: impl Iterator<Item = ControlMessageOwned> + 'a) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    for message in messages {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            // SAFETY: the kernel has just put these descriptors into our table; nobody else owns them.
            fds.extend(numbers.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
        }
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
    fn packets_keep_their_borders_and_carry_descriptors() {
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
    fn last_words_are_heard_from_a_side_that_did_not_listen_any_more() {
        let (one, other) = Socket::pair().unwrap();
        other.send(b"never read", &[]).unwrap();
        one.send(b"last words", &[]).unwrap();
        drop(one);
        assert_eq!(text(other.receive().unwrap()), "last words");
        assert_eq!(text(other.receive().unwrap()), "closed");
        assert_eq!(text(other.receive().unwrap()), "closed");
    }

    #[test]
    fn a_side_that_refuses_more_still_gets_what_was_sent_before() {
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
