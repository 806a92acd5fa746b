//! A client of psflip's control socket (docs/control.md).

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use serde_json::Value;

/// The longest path that sockaddr_un takes.
const MOST_PATH: usize = 107;

/// One connection, for one request.
#[derive(Debug)]
pub(crate) struct Request {
    reader: BufReader<UnixStream>,
    /// The beginning of a line that has not arrived completely.
    line: Vec<u8>,
}

impl Request {
    /// Connects and sends `request`, one line of JSON.
    ///
    /// # Errors
    /// Nothing listens there.
    pub(crate) fn send(socket: &Path, request: &str) -> io::Result<Self> {
        let mut stream = connect(socket)?;
        stream.write_all(format!("{request}\n").as_bytes())?;
        Ok(Self { reader: BufReader::new(stream), line: Vec::new() })
    }

    /// The next event; `None` when psflip has closed the connection.
    ///
    /// # Errors
    /// `WouldBlock`: none within `limit`; or the connection failed.
    pub(crate) fn next(&mut self, limit: Duration) -> io::Result<Option<Value>> {
        self.reader.get_mut().set_read_timeout(Some(limit.max(Duration::from_millis(1))))?;
        match self.reader.read_until(b'\n', &mut self.line) {
            Ok(0) => Ok(None),
            Ok(_) => {
                let event = serde_json::from_slice(&self.line);
                self.line.clear();
                event.map(Some).map_err(io::Error::from)
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn connect(socket: &Path) -> io::Result<UnixStream> {
    if socket.as_os_str().len() <= MOST_PATH {
        return UnixStream::connect(socket);
    }
    let directory = std::fs::File::open(socket.parent().unwrap_or(Path::new("/")))?;
    let name = socket.file_name().unwrap_or_default();
    UnixStream::connect(PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(name))
}

/// The status, as the active generation reports it.
///
/// # Errors
/// Nothing answers within `limit`.
pub(crate) fn status(socket: &Path, limit: Duration) -> io::Result<Value> {
    loop {
        let mut request = Request::send(socket, r#"{"psflip":1,"request":"status"}"#)?;
        match request.next(limit)? {
            Some(mut event) if event["event"] == "status" => return Ok(event["status"].take()),
            Some(event) if event["event"] == "moved" => {} // it arrived during a promotion
            _ => return Err(io::Error::other("no status in the answer")),
        }
    }
}

/// Wakes when entries of a directory appear.
#[derive(Debug)]
pub(crate) struct DirectoryWatch(std::os::fd::OwnedFd);

impl DirectoryWatch {
    /// # Errors
    /// The directory can't be watched.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let flags = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        inotify::add_watch(&watch, directory, flags)?;
        Ok(Self(watch))
    }

    /// Waits for an entry, or for `limit`.
    pub(crate) fn wait(&self, limit: Duration) {
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        if matches!(poll(&mut fds, Some(&limit)), Ok(1..)) {
            let mut buffer = [0; 4096];
            let _ = rustix::io::read(&self.0, &mut buffer);
        }
    }
}
