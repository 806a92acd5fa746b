//! The process that appends the child's output to a file.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::LogFile;
use crate::control::protocol::Event;
use crate::sys::process;
use crate::sys::seam::{self, Call};
use crate::sys::socket::{Packet, Socket};
use crate::text;

/// The command to open the file again. A client of the control socket is attached.
pub(super) const REOPEN: &[u8] = b"reopen";

/// How much is read at once, in bytes: as much as a pipe holds by default (pipe(7)).
const ROOM: usize = 64 * 1024;

/// Runs until no process can write to the pipe any more.
pub(super) fn run(reader: BorrowedFd<'_>, commands: &Socket, file: LogFile, generation: u64) -> ! {
    let copied = Copying { reader, commands: Some(commands), file, generation }.run();
    process::exit_now(u8::from(copied.is_err()))
}

struct Copying<'a> {
    reader: BorrowedFd<'a>,
    /// `None`: no psflip is left that could send any.
    commands: Option<&'a Socket>,
    file: LogFile,
    generation: u64,
}

impl Copying<'_> {
    fn run(mut self) -> io::Result<()> {
        let mut input = File::from(self.reader.try_clone_to_owned()?);
        let mut lines = Lines::default();
        loop {
            let (has_command, has_data) = self.wait(lines.rest().is_empty());
            if has_command {
                self.obey();
            }
            if has_data {
                match input.read(lines.room()) {
                    Ok(0) => {
                        self.file.end(lines.rest());
                        return Ok(());
                    }
                    Ok(length) => self.file.append(lines.take(length)),
                    Err(_) => {} // it is tried again
                }
            } else if !has_command {
                self.file.append(lines.rest());
                lines = Lines::default();
            }
        }
    }

    /// Waits for a command or data; if `waits` is false, only looks for them.
    fn wait(&self, waits: bool) -> (bool, bool) {
        let commands = self.commands.map(|commands| PollFd::new(commands.as_fd(), PollFlags::POLLIN));
        let mut fds: Vec<PollFd<'_>> =
            [PollFd::new(self.reader, PollFlags::POLLIN)].into_iter().chain(commands).collect();
        let timeout = if waits { PollTimeout::NONE } else { PollTimeout::ZERO };
        // A test can make poll fail; then it is called again.
        let _ = seam::before(Call::Poll).and_then(|()| poll(&mut fds, timeout));
        let is_ready = |index: usize| fds.get(index).and_then(PollFd::any).unwrap_or_default();
        (is_ready(1), is_ready(0))
    }

    fn obey(&mut self) {
        let Some(commands) = self.commands else { return };
        match commands.receive() {
            Ok(Packet::Data(command, fds)) if command == REOPEN => {
                let error = self.file.reopen().err();
                if let Some(error) = &error {
                    tracing::error!(error, "the file stays open as it was");
                }
                let (file, generation) = (text::lossy(self.file.path()), self.generation);
                let line = Event::Reopened { file, generation, error }.line();
                for client in fds {
                    answer(client, &line);
                }
            }
            Ok(Packet::Data(..) | Packet::Nothing) | Err(_) => {}
            Ok(Packet::Closed) => self.commands = None,
        }
    }
}

/// A client that is gone, or does not read, gets no answer.
fn answer(client: OwnedFd, line: &[u8]) {
    let _ = File::from(client).write_all(line); // the socket does not block
}

/// What was read. Lines of up to PIPE_BUF bytes are never torn: the kernel puts each into the pipe as a
/// whole, and what is read at once is written at once (contract N4). Only if there is more than fits, the
/// rest of the last line waits for the next read.
#[derive(Debug)]
struct Lines {
    bytes: Vec<u8>,
    /// The range that was not written yet.
    start: usize,
    end: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self { bytes: vec![0; ROOM], start: 0, end: 0 }
    }
}

impl Lines {
    /// Where to read to.
    fn room(&mut self) -> &mut [u8] {
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        &mut self.bytes[self.end..]
    }

    /// What is to be written after so many bytes were read.
    fn take(&mut self, length: usize) -> &[u8] {
        self.end += length;
        let is_full = self.end == self.bytes.len();
        let whole = if is_full { self.bytes.iter().rposition(|byte| *byte == b'\n') } else { None };
        let from = self.start;
        self.start = whole.map_or(self.end, |last| last + 1);
        &self.bytes[from..self.start]
    }

    /// What is left.
    fn rest(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads `parts` one by one, and returns what is written after each, and what is left at last.
    fn written(parts: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut lines = Lines::default();
        let mut written = Vec::new();
        for part in parts {
            lines.room()[..part.len()].copy_from_slice(part);
            written.push(lines.take(part.len()).to_vec());
        }
        written.push(lines.rest().to_vec());
        written
    }

    #[test]
    fn what_was_read_is_written_at_once_and_only_a_full_buffer_is_cut_at_a_line() {
        // Contract: N4
        assert_eq!(written(&[b"one\ntw", b"o\n"]), [b"one\ntw".to_vec(), b"o\n".to_vec(), vec![]]);
        let full = [b"a\n".repeat(ROOM / 2 - 1), b"bc".to_vec()].concat();
        let rest = [b"d\n".to_vec()];
        assert_eq!(
            written(&[&full, &rest[0]]),
            [full[..ROOM - 2].to_vec(), b"bcd\n".to_vec(), vec![]],
            "the last line waits for its end"
        );
        let endless = b"x".repeat(ROOM);
        assert_eq!(written(&[&endless]), [endless.clone(), vec![]], "a line that does not fit is cut");
    }
}
