//! psflip's own log lines: one a thing that matters, to standard error, with generation and pid.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::level_filters::LevelFilter;
use tracing::span::EnteredSpan;

use crate::config::{LogFormat, Plan};
use crate::sys::seam::{self, Call};

/// Every line from now on is written as the plan says, until the returned value is dropped.
pub fn start(plan: &Plan, generation: u64) -> EnteredSpan {
    let level = if plan.quiet { LevelFilter::ERROR } else { LevelFilter::from_level(plan.log.level) };
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_target(false)
        .with_ansi(false)
        .with_writer(|| Careful(io::stderr()));
    let set = match plan.log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => {
            builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init()
        }
    };
    drop(set); // it fails only if there is one already, which then stays
    tracing::error_span!("psflip", generation, pid = std::process::id()).entered()
}

/// How long a line waits for room. A terminal has none for a moment whenever somebody else writes to it.
const PATIENCE: u8 = 20; // milliseconds

/// Whether the last line found no room in time: then nothing waits again until there is some.
static READER_HANGS: AtomicBool = AtomicBool::new(false);

/// Standard error, without waiting for whoever reads it, but for a moment once: a reader that hangs must not hang the
/// supervisor. A pipe that is writable takes at least 4096 bytes (PIPE_BUF of pipe(7)), so a longer line is written piece by
/// piece. What can't be written is lost.
struct Careful(io::Stderr);

impl Careful {
    fn has_room(&self) -> bool {
        let wait = if READER_HANGS.load(Ordering::Relaxed) { PollTimeout::ZERO } else { PATIENCE.into() };
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
        let room = poll(&mut fds, wait).is_ok_and(|ready| ready > 0);
        READER_HANGS.store(!room, Ordering::Relaxed);
        room
    }
}

impl Write for Careful {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for piece in bytes.chunks(libc::PIPE_BUF) {
            // Errors (a closed pipe, a full disk) are nobody's to hear.
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
