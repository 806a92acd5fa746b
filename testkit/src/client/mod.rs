//! Small blocking clients, written by hand so that every failure reports its stage and cause.

pub mod control;
pub mod fcgi;
pub mod http;

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::SendTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// The default time limit of a request.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl From<PathBuf> for Target {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

impl From<&Path> for Target {
    fn from(path: &Path) -> Self {
        Self::Unix(path.to_owned())
    }
}

/// How far a request got before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// No connection could be made.
    Connect,
    /// The connection failed while the request was sent.
    Write,
    /// The connection failed, or the time was up, before the complete answer arrived.
    Read,
    /// The answer violates the protocol.
    Protocol,
    /// The answer is correct, but not what the test expects (another status, a wrong body).
    Content,
}

impl Stage {
    /// Its name in reports: `connect`, `write`, `read`, `protocol` or `content`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Write => "write",
            Self::Read => "read",
            Self::Protocol => "protocol",
            Self::Content => "content",
        }
    }
}

/// The failure of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError {
    /// The stage at which it failed.
    pub stage: Stage,
    /// The cause, as text.
    pub cause: String,
    /// The kind of the system's error, if there was one.
    pub kind: Option<io::ErrorKind>,
    /// Whether the request was sent on a connection that had served another request before.
    pub reused: bool,
    /// How many bytes of the answer had arrived.
    pub received: usize,
}

impl ClientError {
    /// A failure that is not one of the connection, such as a wrong body: [`Stage::Content`].
    #[must_use]
    pub fn content(cause: impl Into<String>) -> Self {
        Self { stage: Stage::Content, cause: cause.into(), kind: None, reused: false, received: 0 }
    }

    pub(crate) fn protocol(cause: impl Into<String>) -> Self {
        Self { stage: Stage::Protocol, ..Self::content(cause) }
    }

    pub(crate) fn io(stage: Stage, error: &io::Error) -> Self {
        let cause = match error.kind() {
            // The error of a socket whose SO_RCVTIMEO or SO_SNDTIMEO has passed.
            io::ErrorKind::WouldBlock => "time-out".to_owned(),
            _ => error.to_string(),
        };
        Self { stage, cause, kind: Some(error.kind()), reused: false, received: 0 }
    }

    /// Whether the server closed an idle connection just when the request was sent: no byte of an answer
    /// arrived on a connection that had been used before. RFC 9112, 9.3.1 allows a client to repeat an
    /// idempotent request then.
    #[must_use]
    pub fn is_stale_connection(&self) -> bool {
        self.reused
            && self.received == 0
            && matches!(self.stage, Stage::Write | Stage::Read)
            && self.cause != "time-out"
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.stage, self.cause)?;
        if self.received > 0 {
            write!(f, ", after {} bytes of the answer", self.received)?;
        }
        if self.reused { f.write_str(" (on a keep-alive connection)") } else { Ok(()) }
    }
}

impl std::error::Error for ClientError {}

/// The value of `key=value` in a line of words, as the fixtures answer: `field("name=a pid=7", "pid")` is
/// `7`.
#[must_use]
pub fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// A connected stream socket whose operations all share one deadline.
#[derive(Debug)]
pub struct Connection {
    stream: Socket,
    timeout: Duration,
    end: Instant,
    /// Bytes that were received but not yet returned.
    buffer: Vec<u8>,
    received: usize,
    requests: u64,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Connection {
    /// Connects. `timeout` covers connecting and everything after it, until [`Connection::begin`] restarts
    /// it.
    ///
    /// # Errors
    /// [`Stage::Connect`].
    pub fn open(target: &Target, timeout: Duration) -> Result<Self, ClientError> {
        let stream = match target {
            Target::Tcp(address) => TcpStream::connect_timeout(address, timeout).and_then(|stream| {
                stream.set_nodelay(true)?;
                Ok(Socket::Tcp(stream))
            }),
            Target::Unix(path) => connect_unix(path, timeout).map(Socket::Unix),
        };
        let stream = stream.map_err(|error| ClientError::io(Stage::Connect, &error))?;
        Ok(Self {
            stream,
            timeout,
            end: Instant::now() + timeout,
            buffer: Vec::new(),
            received: 0,
            requests: 0,
        })
    }

    /// Begins the next request: restarts the deadline and the count of received bytes.
    pub fn begin(&mut self) {
        self.end = Instant::now() + self.timeout;
        self.received = 0;
        self.requests += 1;
    }

    /// Adds the connection's state to an error.
    fn explain(&self, error: ClientError) -> ClientError {
        ClientError { reused: self.requests > 1, received: self.received, ..error }
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// [`Stage::Write`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        let left = self.left(Stage::Write)?;
        let result = match &mut self.stream {
            Socket::Tcp(stream) => stream.set_write_timeout(left).and_then(|()| stream.write_all(bytes)),
            Socket::Unix(stream) => stream.set_write_timeout(left).and_then(|()| stream.write_all(bytes)),
        };
        result.map_err(|error| self.explain(ClientError::io(Stage::Write, &error)))
    }

    /// Closes the sending direction.
    ///
    /// # Errors
    /// [`Stage::Write`].
    pub fn finish_sending(&mut self) -> Result<(), ClientError> {
        let result = match &self.stream {
            Socket::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Socket::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
        result.map_err(|error| ClientError::io(Stage::Write, &error))
    }

    /// Reads exactly `count` bytes.
    ///
    /// # Errors
    /// [`Stage::Read`]: the peer closed the connection too early, or was too slow.
    pub fn read_exact(&mut self, count: usize) -> Result<Vec<u8>, ClientError> {
        while self.buffer.len() < count {
            if !self.fill()? {
                let cause =
                    format!("the connection was closed {} bytes too early", count - self.buffer.len());
                return Err(self.closed(&cause));
            }
        }
        Ok(self.buffer.drain(..count).collect())
    }

    /// Reads up to and including `end`, at most `most` bytes.
    ///
    /// # Errors
    /// [`Stage::Read`]: the peer closed the connection first; [`Stage::Protocol`]: too long.
    pub fn read_until(&mut self, end: &[u8], most: usize) -> Result<Vec<u8>, ClientError> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return Ok(self.buffer.drain(..at + end.len()).collect());
            }
            if self.buffer.len() > most {
                return Err(self.explain(ClientError::protocol(format!("no {end:?} within {most} bytes"))));
            }
            if !self.fill()? {
                return Err(self.closed("the connection was closed before the whole answer was there"));
            }
        }
    }

    /// Reads until the peer closes the connection.
    ///
    /// # Errors
    /// [`Stage::Read`].
    pub fn read_to_end(&mut self) -> Result<Vec<u8>, ClientError> {
        while self.fill()? {}
        Ok(std::mem::take(&mut self.buffer))
    }

    fn closed(&self, cause: &str) -> ClientError {
        let error = io::Error::from(io::ErrorKind::UnexpectedEof);
        ClientError { cause: cause.to_owned(), ..self.explain(ClientError::io(Stage::Read, &error)) }
    }

    /// Reads once; `false` at the end of the stream.
    fn fill(&mut self) -> Result<bool, ClientError> {
        let mut chunk = [0; 16 * 1024];
        let count = loop {
            let left = self.left(Stage::Read)?;
            let result = match &mut self.stream {
                Socket::Tcp(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(&mut chunk)),
                Socket::Unix(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(&mut chunk)),
            };
            match result {
                Ok(count) => break count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.explain(ClientError::io(Stage::Read, &error))),
            }
        };
        self.buffer.extend_from_slice(&chunk[..count]);
        self.received += count;
        Ok(count > 0)
    }

    /// The remaining time, never zero: for a socket option, zero means no limit.
    fn left(&self, stage: Stage) -> Result<Option<Duration>, ClientError> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(self.explain(ClientError::io(stage, &io::Error::from(io::ErrorKind::WouldBlock))));
        }
        Ok(Some(left))
    }
}

/// Connects to a Unix socket. connect(2) blocks while the listener's queue is full; SO_SNDTIMEO limits that,
/// and std offers no way to set it first.
fn connect_unix(path: &Path, timeout: Duration) -> io::Result<UnixStream> {
    let fd: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let micros = i64::try_from(timeout.as_micros()).unwrap_or(i64::MAX).max(1);
    setsockopt(&fd, SendTimeout, &TimeVal::microseconds(micros))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(fd.into())
}
