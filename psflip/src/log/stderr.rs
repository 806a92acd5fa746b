//! Standard error for log lines, so that a slow reader can't delay psflip.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::secrets;
use crate::sys::seam::{self, Call};

/// How long a line waits for room. A terminal has none for a moment whenever another process writes to it.
const WRITE_TIMEOUT_MS: u8 = 20; // milliseconds

/// Whether the last line found no room in time. Then no line waits again until there is room.
static READER_HANGS: AtomicBool = AtomicBool::new(false);

/// Standard error, with a short wait at most: a reader that hangs must not hang the supervisor.
///
/// A writable pipe takes at least 4096 bytes (PIPE_BUF of pipe(7)), so a longer line is written piece by
/// piece. What can't be written is lost.
pub(super) struct Careful(pub(super) io::Stderr);

impl Careful {
    fn has_room(&self) -> bool {
        has_room(&self.0, &READER_HANGS)
    }
}

/// Whether `writer` accepts data now, or within a moment unless it `hangs` already.
pub(super) fn has_room(writer: &impl AsFd, hangs: &AtomicBool) -> bool {
    let wait = if hangs.load(Ordering::Relaxed) { PollTimeout::ZERO } else { WRITE_TIMEOUT_MS.into() };
    let mut fds = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
    let room = poll(&mut fds, wait).is_ok_and(|ready| ready > 0);
    hangs.store(!room, Ordering::Relaxed);
    room
}

impl Write for Careful {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        let line = secrets::hide(&line);
        for piece in line.as_bytes().chunks(libc::PIPE_BUF) {
            // Errors (a closed pipe, a full disk) can't be reported anywhere.
            if !self.has_room()
                || seam::before(Call::WriteLog).is_err()
                || self.0.lock().write_all(piece).is_err()
            {
                break;
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
