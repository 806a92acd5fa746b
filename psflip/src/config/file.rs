//! Reads files within limits: never blocks on a FIFO without a writer, never reads without an end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::sys::seam::{self, Call};

/// The largest configuration.
const LARGEST: u64 = 1024 * 1024;
/// How long a pipe may take to deliver a configuration.
const PIPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a configuration from a regular file, or from a pipe that psflip inherited (`/dev/stdin`,
/// `/dev/fd/63`).
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut file = open(path)?;
    let metadata = file.metadata().map_err(|error| reason(&error))?;
    let kind = metadata.file_type();
    let too_large = || format!("it is larger than {LARGEST} bytes");
    if kind.is_file() {
        if metadata.len() > LARGEST {
            return Err(too_large());
        }
    } else if !(kind.is_fifo() && is_inherited(path)) {
        return Err(format!("it is {}, not a regular file", what(kind)));
    }
    let mut bytes = Vec::new();
    let deadline = Instant::now() + PIPE_TIMEOUT;
    loop {
        let mut rest = file.by_ref().take(LARGEST + 1 - bytes.len() as u64);
        let read = seam::before(Call::ReadConfig).map_err(io::Error::from);
        match read.and_then(|()| rest.read_to_end(&mut bytes)) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(&file, deadline)?,
            Err(error) => return Err(reason(&error)),
        }
    }
    if bytes.len() as u64 > LARGEST { Err(too_large()) } else { Ok(bytes) }
}

/// Waits until the file is readable.
fn wait(file: &File, deadline: Instant) -> Result<(), String> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut [PollFd::new(file.as_fd(), PollFlags::POLLIN)], timeout) {
        Ok(0) => Err(format!("the pipe delivered no complete configuration within {PIPE_TIMEOUT:?}")),
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(error) => Err(reason(&error.into())),
    }
}

/// Opens a regular file; returns it with its size.
pub(super) fn open_regular(path: &Path) -> Result<(File, u64), String> {
    let file = open(path)?;
    let metadata = file.metadata().map_err(|error| reason(&error))?;
    if metadata.file_type().is_file() {
        Ok((file, metadata.len()))
    } else {
        Err(format!("it is {}, not a regular file", what(metadata.file_type())))
    }
}

/// Opens for reading. Does not wait for the writer of a FIFO, and does not acquire a controlling terminal.
fn open(path: &Path) -> Result<File, String> {
    let open = || OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    seam::before(Call::OpenConfig).map_err(io::Error::from).and_then(|()| open()).map_err(|error| match error
        .raw_os_error()
    {
        Some(libc::ENXIO) => "it is a socket, not a regular file".to_owned(), // open(2)
        _ => reason(&error),
    })
}

/// Whether the path names an open descriptor rather than a file.
fn is_inherited(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

fn what(kind: std::fs::FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// The error without Rust's additions: `no such file or directory`.
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
