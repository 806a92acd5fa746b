//! A generation's side of the anchor's socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::sys::socket::{getsockopt, sockopt};

use super::message::Message;
use super::relay;
use crate::process::environment::ANCHOR_VARIABLE;
use crate::sys::fd;
use crate::sys::process;
use crate::sys::signal::Received;
use crate::sys::socket::Socket;

/// The connection to the anchor. Its descriptor becomes readable when the anchor is dead; nothing is ever read from it.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    anchor: u32,
}

impl Link {
    pub(super) fn new(socket: Socket, anchor: u32) -> Self {
        Self { socket, anchor }
    }

    /// Takes over the socket that the predecessor left open, by the value of [`ANCHOR_VARIABLE`].
    ///
    /// # Errors
    /// There is no such socket.
    pub fn inherited(value: &str) -> io::Result<Self> {
        let wrong = |why: String| {
            io::Error::other(format!(
                "`{ANCHOR_VARIABLE}={value}` is set but there is no anchor behind it ({why})"
            ))
        };
        let number: RawFd = value.parse().map_err(|_| wrong("not a descriptor number".to_owned()))?;
        if number < 3 {
            return Err(wrong("not a descriptor of an anchor".to_owned()));
        }
        let owned = fd::adopt(number).map_err(|error| wrong(error.to_string()))?;
        fd::set_close_on_exec(owned.as_fd(), true)?;
        // The pair was made by the anchor, and the kernel remembers that.
        let anchor =
            getsockopt(&owned, sockopt::PeerCredentials).map_err(|error| wrong(error.to_string()))?.pid();
        let link = Self { socket: Socket::from_owned(owned), anchor: anchor.cast_unsigned() };
        link.die_with_anchor()?;
        Ok(link)
    }

    /// The anchor's pid.
    #[must_use]
    pub fn anchor(&self) -> u32 {
        self.anchor
    }

    /// Asks the kernel to end this process when the anchor dies, if the anchor is its parent by now. Until then the end of the socket
    /// has to do, which a process that is stopped does not see.
    ///
    /// # Errors
    /// ESRCH: the anchor has just died.
    pub fn die_with_anchor(&self) -> io::Result<()> {
        // Armed under another parent, it would be that one's end that counts.
        if std::os::unix::process::parent_id() == self.anchor {
            process::die_with_parent(self.anchor)?;
        }
        Ok(())
    }

    /// Tells the anchor something.
    ///
    /// # Errors
    /// EPIPE: it is dead, and so is this process in a moment. EAGAIN: it is stopped, and hundreds of messages wait.
    pub fn tell(&self, message: Message) -> io::Result<()> {
        self.socket.send(message.encode().as_bytes(), &[])
    }

    /// For a process that is about to become a successor: introduces itself, and lets the socket pass the exec. Returns the value of
    /// [`ANCHOR_VARIABLE`].
    ///
    /// # Errors
    /// As [`Link::tell`], and what fcntl(2) says.
    pub fn introduce(&self) -> io::Result<String> {
        self.tell(Message::Coming)?;
        fd::set_close_on_exec(self.socket.as_fd(), false)?;
        Ok(self.socket.as_fd().as_raw_fd().to_string())
    }

    /// The signal as the anchor got it; `None`: this signal was not forwarded by the anchor.
    #[must_use]
    pub fn original(received: &Received) -> Option<Received> {
        relay::unwrap(received)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
