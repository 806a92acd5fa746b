//! The hand-over between two generations: the messages, and both ends of the conversation. `docs/handover.md`
//! describes it step by step, including what happens if either side dies at a step.

pub mod message;
pub mod predecessor;
pub mod successor;
mod text;

pub use message::{Begun, Hello, ToPredecessor, ToSuccessor, WireMessage};

use std::io;
use std::os::fd::BorrowedFd;

use crate::sys::seam::{self, Moment};
use crate::sys::socket::Socket;

fn send(socket: &Socket, message: &impl WireMessage, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let text = message.encode();
    step(Moment::Sending, text.as_bytes());
    socket.send(text.as_bytes(), fds)?;
    step(Moment::Sent, text.as_bytes());
    Ok(())
}

/// Whether sending failed because the other side is gone. The other side's pidfd shows that as well.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET))
}

/// Test hook: reports a message by its verb.
fn step(moment: Moment, packet: &[u8]) {
    let verb = packet.split(|byte| *byte == b'\n').next().unwrap_or_default();
    seam::step(moment, format_args!("{}", verb.escape_ascii()));
}
