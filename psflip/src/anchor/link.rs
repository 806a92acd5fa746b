//! A generation's end of the anchor's socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::parent_id;

use nix::sys::socket::{getsockopt, sockopt};

use super::message::AnchorMessage;
use super::relay;
use crate::process::environment::ANCHOR_VARIABLE;
use crate::sys::fd;
use crate::sys::pidfd::PidFd;
use crate::sys::process;
use crate::sys::signal::Received;
use crate::sys::socket::Socket;

/// The connection to the anchor. Its descriptor becomes readable when the anchor is dead;
/// nothing is ever read from it.
#[derive(Debug)]
pub struct AnchorLink {
    socket: Socket,
    anchor: u32,
    /// The process that forked this one, until it has exited. Until then the anchor is not the parent.
    former_parent: Option<PidFd>,
}

impl AnchorLink {
    pub(super) fn new(socket: Socket, anchor: u32) -> Self {
        Self { socket, anchor, former_parent: None }
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
        // The anchor made the socket pair, and the kernel has recorded its credentials.
        let anchor =
            getsockopt(&owned, sockopt::PeerCredentials).map_err(|error| wrong(error.to_string()))?.pid();
        let mut link = Self::new(Socket::from_owned(owned), anchor.cast_unsigned());
        // Without a descriptor for it, this process asks to die with the anchor at its promotion.
        link.former_parent = link.parent_before_the_anchor().unwrap_or(None);
        link.die_with_anchor()?;
        Ok(link)
    }

    /// The present parent, if it is not the anchor.
    fn parent_before_the_anchor(&self) -> io::Result<Option<PidFd>> {
        loop {
            let parent = parent_id();
            if parent == self.anchor {
                return Ok(None);
            }
            match PidFd::open(parent) {
                // It was the parent all the time, so the descriptor is not of a later process with its pid.
                Ok(process) if parent_id() == parent => return Ok(Some(process)),
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) && parent_id() != parent => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The process that forked this one. When it has exited, the anchor is the parent, and
    /// [`AnchorLink::die_with_anchor`] takes effect.
    #[must_use]
    pub fn former_parent(&self) -> Option<&PidFd> {
        self.former_parent.as_ref()
    }

    /// The process that forked this one has exited.
    ///
    /// # Errors
    /// As [`AnchorLink::die_with_anchor`].
    pub fn former_parent_is_gone(&mut self) -> io::Result<()> {
        self.former_parent = None;
        self.die_with_anchor()
    }

    /// The anchor's pid.
    #[must_use]
    pub fn anchor(&self) -> u32 {
        self.anchor
    }

    /// Makes the kernel kill this process when the anchor dies, if the anchor is its parent by now. Until
    /// then this process notices only that the socket is closed, and a stopped process does not notice that.
    ///
    /// # Errors
    /// ESRCH: the anchor has just died.
    pub fn die_with_anchor(&self) -> io::Result<()> {
        // Under another parent, the signal would come when that parent exits.
        if parent_id() == self.anchor {
            process::die_with_parent(self.anchor)?;
        }
        Ok(())
    }

    /// Sends a message to the anchor.
    ///
    /// # Errors
    /// EPIPE: the anchor is dead, and this process will be killed in a moment. EAGAIN: the anchor is stopped,
    /// and hundreds of messages are queued.
    pub fn send(&self, message: AnchorMessage) -> io::Result<()> {
        self.socket.send(message.encode().as_bytes(), &[])
    }

    /// For a process that is about to execute a successor: announces it to the anchor, and keeps the socket
    /// open across the exec. Returns the value of [`ANCHOR_VARIABLE`].
    ///
    /// # Errors
    /// As [`AnchorLink::send`], and the errors of fcntl(2).
    pub fn introduce(&self) -> io::Result<String> {
        self.send(AnchorMessage::Coming)?;
        fd::set_close_on_exec(self.socket.as_fd(), false)?;
        Ok(self.socket.as_fd().as_raw_fd().to_string())
    }

    /// The signal as the anchor received it. `None`: the anchor did not forward this signal.
    #[must_use]
    pub fn original(received: &Received) -> Option<Received> {
        relay::unwrap(received)
    }
}

impl AsFd for AnchorLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
