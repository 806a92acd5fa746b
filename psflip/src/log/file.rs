//! `log.file`: log lines at the end of a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::output::no_link;
use crate::secrets;
use crate::sys::seam::{self, Call};

/// Opens the file, or creates it.
///
/// # Errors
/// Those of open(2), or it is a symbolic link or not a regular file.
pub(super) fn open(path: &Path) -> io::Result<File> {
    seam::before(Call::WriteLog)?;
    // Without O_NONBLOCK, a FIFO would wait for its reader. Without O_NOFOLLOW, a user who may write to
    // the directory could lead the log into any file that psflip can write to (contract N9).
    let mut how = OpenOptions::new();
    how.append(true).create(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW);
    let file = how.open(path).map_err(no_link)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Appends a line. The file is opened for each: lines are rare, an idle psflip then needs no descriptor, and
/// a file that was renamed is left alone from the next line on (contract N7). One write(2) with O_APPEND
/// keeps the lines of several processes apart.
///
/// # Errors
/// As [`open`], and ENOSPC.
pub(super) fn append(path: &Path, line: &[u8]) -> io::Result<()> {
    let text = String::from_utf8_lossy(line);
    open(path)?.write_all(secrets::hide(&text).as_bytes())
}
