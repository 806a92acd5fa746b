//! The hand-over between two generations: what they tell each other, and the two ends of the conversation.
//! `docs/handover.md` tells it step by step, with what happens if either side dies there.

pub mod message;
pub mod predecessor;
pub mod successor;
mod text;

pub use message::{Begun, Hello, Message, ToPredecessor, ToSuccessor};

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::seam::{self, Moment};
use crate::sys::socket::Socket;

fn send(socket: &Socket, message: &impl Message, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = message.encode();
    step(Moment::Sending, text.as_bytes());
    socket.send(text.as_bytes(), fds)?;
    step(Moment::Sent, text.as_bytes());
    Ok(())
}

/// Whether a message could not be sent because the other side is gone, which shows by its process as well.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET))
}

/// Tells of a message by its verb.
fn step(moment: Moment, packet: &[u8]) {
    let verb = packet.split(|byte| *byte == b'\n').next().unwrap_or_default();
    seam::step(moment, format_args!("{}", verb.escape_ascii()));
}
