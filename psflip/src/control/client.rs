//! The client of the control socket: connects, sends one request, and reads lines.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, connect, getsockopt, setsockopt, socket,
    sockopt::{PeerCredentials, SendTimeout},
};
use nix::sys::time::TimeVal;

use super::protocol::{ControlRequest, Event, PROTOCOL, RequestLine};
use crate::sys::unix_path::UnixPath;

/// How long to wait until psflip has room for one more client. It always has, unless it is stopped.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest line that psflip may send, in bytes. A status with its history has some ten thousand bytes.
const LONGEST_LINE: usize = 4 << 20;

/// Why psflip can't be reached.
#[derive(Debug)]
pub struct Unreachable {
    socket: PathBuf,
    why: Why,
    /// How long connect(2) was allowed to wait.
    limit: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Errno(Errno),
    /// The socket belongs to a process of this user, who may have nothing to do with psflip.
    Stranger(u32),
}

/// A connection on which a request was sent.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// What was read but not returned yet.
    buffer: Vec<u8>,
    /// So many bytes of it hold no line break.
    searched: usize,
    closed: bool,
}

/// The result of a read.
#[derive(Debug)]
pub enum Next {
    /// One line, as text and decoded.
    Line(String, Box<Event>),
    /// There is no line at the moment.
    Nothing,
    /// psflip has closed the connection.
    Closed,
}

impl Connection {
    /// Connects and sends the request. A server is trusted only if it runs as root, as this user,
    /// or as the owner of the socket's directory: in a directory where every user may write,
    /// every user can create such a socket. With `owner`, only if it runs as that user as well.
    /// Waits at most `limit` for a psflip that takes no clients, and never longer than 10 s.
    ///
    /// # Errors
    /// There is no server, this user may not send requests, or the server is not trusted.
    pub fn open(
        path: &Path,
        request: ControlRequest,
        owner: Option<u32>,
        limit: Option<Duration>,
    ) -> Result<Self, Unreachable> {
        let limit = limit.map_or(CONNECT_TIMEOUT, |limit| limit.min(CONNECT_TIMEOUT));
        Self::open_with(path, request, SockFlag::empty(), owner, limit)
    }

    /// As [`Connection::open`], without waiting, and only if `owner` is the server's user.
    ///
    /// # Errors
    /// As there, and EAGAIN: psflip is stopped, or so busy that its queue of clients is full.
    pub fn open_at_once(
        path: &Path,
        request: ControlRequest,
        owner: Option<u32>,
    ) -> Result<Self, Unreachable> {
        Self::open_with(path, request, SockFlag::SOCK_NONBLOCK, owner, Duration::ZERO)
    }

    fn open_with(
        path: &Path,
        request: ControlRequest,
        flags: SockFlag,
        owner: Option<u32>,
        limit: Duration,
    ) -> Result<Self, Unreachable> {
        let because = |why| Unreachable { socket: path.to_owned(), why, limit };
        let unreachable = |errno| because(Why::Errno(errno));
        let stream = connected(path, flags, limit).map_err(unreachable)?;
        let server = getsockopt(&stream, PeerCredentials).map_err(unreachable)?.uid();
        if !is_trusted(server, path) || owner.is_some_and(|owner| owner != server) {
            return Err(because(Why::Stranger(server)));
        }
        let mut line = serde_json::to_vec(&RequestLine { psflip: PROTOCOL, request }).unwrap_or_default();
        line.push(b'\n');
        let sent = (&stream).write_all(&line).and_then(|()| stream.set_nonblocking(true));
        // A psflip that refuses this user closes the connection at once, perhaps before it has read.
        // It sends the reason, so read on.
        match sent {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(unreachable(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))))
            }
            _ => Ok(Self { stream, buffer: Vec::new(), searched: 0, closed: false }),
        }
    }

    /// The next line, without waiting.
    ///
    /// # Errors
    /// Those of recv(2), and InvalidData: the server is not psflip.
    pub fn receive(&mut self) -> io::Result<Next> {
        loop {
            let new = &self.buffer[self.searched.min(self.buffer.len())..];
            if let Some(end) = new.iter().position(|byte| *byte == b'\n') {
                let end = end + self.searched;
                self.searched = 0;
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line[..end]).into_owned();
                return match serde_json::from_str(&line) {
                    Ok(event) => Ok(Next::Line(line, Box::new(event))),
                    Err(error) => Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!("the answer `{}` is not from psflip: {error}", crate::text::head(&line, 80)),
                    )),
                };
            }
            self.searched = self.buffer.len();
            if self.closed {
                return Ok(Next::Closed);
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "it answers without any line break"));
            }
            let mut piece = [0; 16 * 1024];
            match self.stream.read(&mut piece) {
                Ok(0) => self.closed = true,
                Ok(length) => self.buffer.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Next::Nothing),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.closed = true,
                Err(error) => return Err(error),
            }
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn connected(path: &Path, flags: SockFlag, limit: Duration) -> Result<UnixStream, Errno> {
    let address = UnixPath::new(path)?;
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | flags, None)?;
    // A full queue makes connect(2) wait; this limits the wait (socket(7)).
    let limit = limit.max(Duration::from_millis(1)); // zero would be no limit
    let limit = TimeVal::new(limit.as_secs().cast_signed(), i64::from(limit.subsec_micros()));
    setsockopt(&socket, SendTimeout, &limit)?;
    connect(socket.as_raw_fd(), address.address())?;
    Ok(UnixStream::from(socket))
}

/// The directory of a file.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn is_trusted(server: u32, path: &Path) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    server == 0
        || server == own
        || std::fs::metadata(directory(path)).is_ok_and(|directory| directory.uid() == server)
        || is_reached_by_root_alone(directory(path))
}

/// Whether one of the directories above belongs to root and is closed for all others, as `/run/private` is.
/// systemd puts the runtime directories of `DynamicUser=` there (systemd.exec(5)), and version 257 shows them
/// under another owner outside of the unit. Only root and the unit itself can have created a socket there.
fn is_reached_by_root_alone(directory: &Path) -> bool {
    let Ok(directory) = directory.canonicalize() else { return false };
    let closed = |path: &Path| {
        path.metadata().is_ok_and(|metadata| metadata.uid() == 0 && metadata.mode() & 0o077 == 0)
    };
    directory.ancestors().any(closed)
}

impl Unreachable {
    /// The reason alone, without the path, for a list of several services.
    #[must_use]
    pub fn reason(&self) -> String {
        match self.why {
            Why::Stranger(uid) => format!("its socket is served by a process of {}", user(uid)),
            Why::Errno(Errno::EAGAIN) => {
                "its queue of clients is full: it is stopped, or very busy".to_owned()
            }
            Why::Errno(Errno::ENOENT | Errno::ENOTDIR) => "its control socket is gone".to_owned(),
            Why::Errno(Errno::ECONNREFUSED) => "nothing listens on its control socket".to_owned(),
            Why::Errno(errno) => errno.desc().to_owned(),
        }
    }

    /// Whether the server runs as another user than the one whose service it should be.
    #[must_use]
    pub fn is_stranger(&self) -> bool {
        matches!(self.why, Why::Stranger(_))
    }

    /// Whether psflip has not taken the request in time.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.why == Why::Errno(Errno::EAGAIN)
    }

    /// Whether there is no psflip, as opposed to a psflip that can't be reached.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!(self.why, Why::Errno(Errno::ENOENT | Errno::ENOTDIR | Errno::ECONNREFUSED))
    }
}

impl Unreachable {
    /// Permission denied: why, and who may use the socket.
    fn denied(&self) -> String {
        let path = self.socket.display();
        let own = nix::unistd::geteuid();
        let (what, who) = match std::fs::metadata(&self.socket) {
            Ok(metadata) => (
                format!("the control socket `{path}` is owned by {}", user(metadata.uid())),
                "run this as that user or as root",
            ),
            Err(_) => (
                format!("the directory of the control socket `{path}` is closed for {}", user(own.as_raw())),
                "run this as root",
            ),
        };
        let who = if own.is_root() { why_root_is_denied(own_capabilities()) } else { who };
        format!("permission denied: {what}; {who}")
    }
}

/// The effective capabilities of this process, one bit each (proc(5)).
fn own_capabilities() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(mask.trim(), 16).ok()
}

/// In a container without capabilities root is a user like any other (capabilities(7)). A capability has no
/// effect on files of users that the own user namespace does not map (user_namespaces(7)).
fn why_root_is_denied(capabilities: Option<u64>) -> &'static str {
    const CAP_DAC_OVERRIDE: u64 = 1 << 1;
    match capabilities {
        Some(mask) if mask & CAP_DAC_OVERRIDE == 0 => {
            "root lacks the capability CAP_DAC_OVERRIDE here, so run this as the user that psflip runs as"
        }
        _ => {
            "a security module (AppArmor, SELinux) or a user namespace denies it to root, so run this \
             as the user that psflip runs as, in the same namespace"
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.socket.display();
        let is_socket = std::fs::metadata(&self.socket).map(|metadata| metadata.file_type().is_socket());
        let errno = match self.why {
            Why::Errno(errno) => errno,
            Why::Stranger(uid) => {
                let user = user(uid);
                return write!(
                    f,
                    "the process that listens on `{path}` runs as {user}, not as root, as you or as the owner of its directory. \
                     Nothing was sent to it, since any user could have created that socket; if it is psflip, run this as {user}"
                );
            }
        };
        match errno {
            Errno::ENOENT | Errno::ENOTDIR if self.socket.is_relative() => {
                write!(f, "there is no control socket `{path}` in this directory")
            }
            Errno::ENOENT | Errno::ENOTDIR => write!(f, "there is no control socket `{path}`"),
            Errno::ECONNREFUSED if matches!(is_socket, Ok(false)) => {
                write!(f, "`{path}` is no socket; name psflip's control socket")
            }
            Errno::ECONNREFUSED => write!(
                f,
                "nothing listens on the control socket `{path}`: psflip was killed and left it behind"
            ),
            Errno::EACCES | Errno::EPERM => f.write_str(&self.denied()),
            Errno::ENAMETOOLONG => write!(
                f,
                "the path of the control socket `{path}` is too long for a Unix socket, which may have 107 bytes: psflip has none there. \
                 Set a shorter `socket` in `[control]`"
            ),
            Errno::EAGAIN => write!(
                f,
                "psflip has not taken the request on `{path}` within {:?}: it is stopped; continue it with `kill -CONT`",
                in_whole_ms(self.limit)
            ),
            Errno::EPROTOTYPE => write!(f, "`{path}` is no control socket of psflip's"),
            errno => write!(f, "can't ask on the control socket `{path}`: {}", errno.desc()),
        }
    }
}

impl std::error::Error for Unreachable {}

/// Rounded up, for readers.
fn in_whole_ms(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_micros().div_ceil(1000)).unwrap_or(u64::MAX))
}

/// The name of a user, or else the user ID.
fn user(uid: u32) -> String {
    let name = nix::unistd::User::from_uid(uid.into()).ok().flatten().map(|user| user.name);
    name.map_or_else(|| format!("user {uid}"), |name| format!("`{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn refusal(path: &Path) -> String {
        Connection::open(path, ControlRequest::Status, None, None).unwrap_err().to_string()
    }

    #[test]
    fn a_server_of_another_user_is_trusted_where_only_root_could_put_a_socket() {
        // Contract: O1
        use std::os::unix::fs::PermissionsExt as _;
        if !testkit::need_root() {
            return;
        }
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("hello");
        std::fs::create_dir(&inner).unwrap();
        let socket = inner.join("app.sock");
        let set_mode =
            |mode| std::fs::set_permissions(outer.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        set_mode(0o755);
        assert!(!is_trusted(4711, &socket));
        set_mode(0o700);
        assert!(is_trusted(4711, &socket));
        nix::unistd::chown(outer.path(), Some(4712.into()), None).unwrap();
        assert!(!is_trusted(4711, &socket), "its owner could have put one there");
    }

    #[test]
    fn connection_errors_explain_what_is_at_the_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        assert!(refusal(&path).contains("there is no control socket"), "{}", refusal(&path));
        assert!(refusal(Path::new("no-such.sock")).ends_with("in this directory"));
        std::fs::write(&path, "text").unwrap();
        assert!(refusal(&path).contains("is no socket"), "{}", refusal(&path));
        std::fs::remove_file(&path).unwrap();
        drop(UnixListener::bind(&path).unwrap());
        assert!(refusal(&path).contains("was killed and left it behind"), "{}", refusal(&path));
        assert!(refusal(&folder.path().join("x".repeat(120))).contains("too long for a Unix socket"));
    }

    #[test]
    fn a_missing_capability_is_named_only_if_it_is_missing() {
        let (none, all_but_it, all) = (0, !(1 << 1), u64::MAX);
        for mask in [none, all_but_it] {
            assert!(why_root_is_denied(Some(mask)).contains("lacks the capability CAP_DAC_OVERRIDE"));
        }
        for mask in [Some(all), Some(1 << 1), None] {
            assert!(why_root_is_denied(mask).contains("a security module"), "{mask:?}");
        }
        assert!(own_capabilities().is_some(), "/proc/self/status has no CapEff");
    }

    #[test]
    fn lines_are_read_whole_and_unknown_events_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut connection =
            Connection::open(&path, ControlRequest::Follow { upgrade: 6, end_draining: false }, None, None)
                .unwrap();
        let (mut server, _) = listener.accept().unwrap();
        let mut request = [0; 100];
        let length = server.read(&mut request).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&request[..length]),
            "{\"psflip\":1,\"request\":\"follow\",\"upgrade\":6}\n"
        );
        assert!(matches!(connection.receive().unwrap(), Next::Nothing));
        server.write_all(b"{\"event\":\"of a later version\"}\n{\"event\":\"drained\",").unwrap();
        let Next::Line(line, event) = connection.receive().unwrap() else { panic!() };
        assert_eq!((line.as_str(), *event), ("{\"event\":\"of a later version\"}", Event::Other));
        assert!(matches!(connection.receive().unwrap(), Next::Nothing));
        server.write_all(b"\"upgrade\":6,\"killed\":true,\"new\":1}\n").unwrap();
        let Next::Line(_, event) = connection.receive().unwrap() else { panic!() };
        assert_eq!(*event, Event::Drained { upgrade: 6, killed: true });
        server.write_all(b"HTTP/1.1 400\n").unwrap();
        assert!(connection.receive().unwrap_err().to_string().contains("not from psflip"));
        drop(server);
        assert!(matches!(connection.receive().unwrap(), Next::Closed));
    }
}
