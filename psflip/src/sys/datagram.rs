//! A datagram socket for processes that know its address. The kernel adds the sender of
//! each datagram (unix(7)).

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, bind, getsockname, setsockopt, socket, sockopt,
};

use super::cerr;
use super::seam::{self, Call};

/// The sender of a datagram, in this process's namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// The pid. 0: a process that can't be seen from here (another PID namespace).
    pub pid: u32,
    /// The user ID.
    pub uid: u32,
}

/// A received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The number of bytes in the buffer.
    pub length: usize,
    /// It was longer than the buffer.
    pub truncated: bool,
    /// It carried descriptors, which were closed.
    pub had_descriptors: bool,
    /// `None`: the kernel added no sender.
    pub sender: Option<Sender>,
}

/// A receiving socket.
#[derive(Debug)]
pub struct Datagrams {
    socket: OwnedFd,
    name: String,
}

impl Datagrams {
    /// A socket with an abstract name that the kernel chooses and that is unique.
    /// Close-on-exec and non-blocking.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM; ENOSPC: a million such names are in use.
    pub fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        seam::before(Call::Socket)?;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        // Before the socket has a name, so that no datagram can arrive without a sender.
        setsockopt(&socket, sockopt::PassCred, &true)?;
        seam::before(Call::Bind)?;
        bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?; // autobind
        let address: UnixAddr = getsockname(socket.as_raw_fd())?;
        let name =
            address.as_abstract().ok_or_else(|| io::Error::other("the kernel gave no abstract name"))?;
        let name = String::from_utf8_lossy(name).into_owned();
        Ok(Self { socket, name })
    }

    /// Its abstract name, without the leading NUL: five hexadecimal digits.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next datagram, if there is one.
    ///
    /// There is no room for descriptors, so the kernel closes all that arrive, at once.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
        receive(self.socket.as_fd(), buffer)
    }
}

/// The next packet of a socket with SO_PASSCRED (unix(7)), if there is one; see [`Datagrams::receive`]. A
/// connected socket returns an empty packet when its other end is closed.
///
/// # Errors
/// ENOMEM.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<Datagram>> {
    const ROOM: usize = 32; // CMSG_SPACE of a `ucred`, checked below
    #[repr(align(8))]
    struct Control([u8; ROOM]);
    // SAFETY: it only computes with its argument.
    debug_assert_eq!(unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) }, ROOM as u32);
    let mut control = Control([0; ROOM]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all zeros is a valid msghdr: null pointers and no lengths.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = ROOM as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    let length = loop {
        match seam::before(Call::Recvmsg) {
            Err(nix::errno::Errno::EINTR) => continue,
            other => other?,
        }
        // SAFETY: the header points to a live buffer, a live control buffer, and their true lengths.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        match usize::try_from(received) {
            Ok(length) => break length,
            Err(_) => match cerr(-1).unwrap_err() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                error => return Err(error),
            },
        }
    };
    Ok(Some(Datagram {
        length,
        truncated: message.msg_flags & libc::MSG_TRUNC != 0,
        had_descriptors: message.msg_flags & libc::MSG_CTRUNC != 0,
        sender: sender(&message),
    }))
}

/// The credentials in a header that recvmsg(2) has filled in.
fn sender(message: &libc::msghdr) -> Option<Sender> {
    // SAFETY: the control buffer is alive, and its length is what the kernel wrote.
    let first = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: it is null or points into the control buffer, which is aligned for it.
    let header = unsafe { first.as_ref() }?;
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) {
        return None;
    }
    // SAFETY: a message of this type holds one `ucred`, for which there was room.
    let data = unsafe { libc::CMSG_DATA(first) };
    // SAFETY: as above; read without assuming an alignment.
    let sent = unsafe { data.cast::<libc::ucred>().read_unaligned() };
    Some(Sender { pid: sent.pid.cast_unsigned(), uid: sent.uid })
}

impl AsFd for Datagrams {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::io::{IoSlice, Read};
    use std::os::unix::net::UnixDatagram;

    /// Sends as sd_notify(3) does.
    fn send(to: &Datagrams, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
        let socket = UnixDatagram::unbound().unwrap();
        let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights: &[_] = if numbers.is_empty() { &[] } else { &rights };
        let address = UnixAddr::new_abstract(to.name().as_bytes()).unwrap();
        sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], rights, MsgFlags::empty(), Some(&address))
            .unwrap();
    }

    #[test]
    fn the_kernel_reports_the_sender_of_a_datagram() {
        let datagrams = Datagrams::open().unwrap();
        let mut buffer = [0; 16];
        assert_eq!(datagrams.receive(&mut buffer).unwrap(), None);
        send(&datagrams, b"READY=1", &[]);
        let own = Sender { pid: std::process::id(), uid: nix::unistd::geteuid().as_raw() };
        let wanted = Datagram { length: 7, truncated: false, had_descriptors: false, sender: Some(own) };
        assert_eq!(datagrams.receive(&mut buffer).unwrap(), Some(wanted));
        assert_eq!(&buffer[..7], b"READY=1");
    }

    #[test]
    fn too_long_and_empty_datagrams_are_recognized() {
        let datagrams = Datagrams::open().unwrap();
        let mut buffer = [0; 16];
        send(&datagrams, &[b'x'; 17], &[]);
        send(&datagrams, b"", &[]);
        let long = datagrams.receive(&mut buffer).unwrap().unwrap();
        assert_eq!((long.length, long.truncated), (16, true));
        let empty = datagrams.receive(&mut buffer).unwrap().unwrap();
        assert_eq!((empty.length, empty.truncated), (0, false));
        assert_eq!(datagrams.receive(&mut buffer).unwrap(), None);
    }

    #[test]
    fn received_descriptors_are_closed() {
        let datagrams = Datagrams::open().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        let many: Vec<_> = (0..200).map(|_| writer.as_fd()).collect();
        send(&datagrams, b"FDSTORE=1", &many);
        drop(many);
        drop(writer);
        let received = datagrams.receive(&mut [0; 16]).unwrap().unwrap();
        assert!(received.had_descriptors && received.sender.is_some(), "{received:?}");
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0, "a process still holds the pipe");
    }

    #[test]
    fn a_failed_socket_call_is_an_error_and_an_interrupted_one_is_retried() {
        // Contract: F10
        use nix::errno::Errno;
        for (number, call) in [(0, Call::Socket), (1, Call::Bind)] {
            let (opened, calls) = seam::testing::with(Some((number, Errno::EMFILE)), Datagrams::open);
            assert_eq!(opened.unwrap_err().raw_os_error(), Some(libc::EMFILE));
            assert_eq!(calls.last(), Some(&call));
        }
        let datagrams = Datagrams::open().unwrap();
        send(&datagrams, b"READY=1", &[]);
        let look = || datagrams.receive(&mut [0; 16]);
        let (failed, _) = seam::testing::with(Some((0, Errno::ENOMEM)), look);
        assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::ENOMEM));
        let (received, calls) = seam::testing::with(Some((0, Errno::EINTR)), look);
        assert_eq!(received.unwrap().map(|datagram| datagram.length), Some(7), "it was lost");
        assert_eq!(calls, [Call::Recvmsg, Call::Recvmsg]);
    }

    #[test]
    fn socket_names_are_unique() {
        let (one, other) = (Datagrams::open().unwrap(), Datagrams::open().unwrap());
        assert_ne!(one.name(), other.name());
    }
}
