//! The sockets of `[[listen]]`: opened once, handed over from generation to generation,
//! and inherited by every child.
//!
//! All generations share one socket, so its queue of connections survives an upgrade: the next child accepts
//! what the previous one has not. psflip itself never accepts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, getsockname, getsockopt, setsockopt,
    socket, sockopt,
};

use super::activation::Activation;
use super::given::Given;
use super::pass::{self, Passing};
use super::store;
use super::unix_file::{self, FileId};
use crate::config::{ListenAddress, Listener, Options};
use crate::sys::seam::{self, Call};
use crate::sys::socket::listen;

/// Why a socket can't be used.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on `{address}`: {cause}")]
pub struct ListenError {
    address: String,
    cause: String,
}

/// All sockets of one generation.
#[derive(Debug, Default)]
pub struct Listeners {
    open: Vec<Open>,
    /// Files of sockets that only the predecessor listens on. They are removed when it has exited.
    abandoned: Vec<(PathBuf, FileId)>,
    /// Names in systemd's store of sockets that were handed over and are not used here (`store`).
    dropped: Vec<String>,
}

/// The present settings of the sockets and their files that a successor may change.
#[derive(Debug)]
pub struct Settings(Vec<Setting>);

/// The settings of one listener.
#[derive(Debug)]
struct Setting {
    file: Option<unix_file::Settings>,
    /// The settings of each of its sockets.
    sockets: Vec<SocketSetting>,
}

/// The options that a child may set on a socket that all generations share.
#[derive(Clone, Copy, Debug)]
struct SocketSetting {
    /// `None`: this socket has no such option.
    nodelay: Option<bool>,
    nonblock: Option<bool>,
}

#[derive(Debug)]
struct Open {
    listener: Listener,
    made: Made,
}

/// The sockets of a listener.
#[derive(Debug)]
struct Made {
    /// One, or several with the same name for socket activation.
    sockets: Vec<OwnedFd>,
    file: Option<FileId>,
    /// Whether this generation opened it. Otherwise it was handed over.
    is_new: bool,
    /// Whether systemd has stored it, if systemd stores sockets.
    is_stored: bool,
}

impl Listeners {
    /// Opens the configured listeners, and uses sockets that were handed over where they fit.
    ///
    /// # Errors
    /// [`ListenError`] of the first that can't be opened. Everything that was created before is removed
    /// again.
    pub fn open(
        wanted: &[Listener],
        given: Vec<Given>,
        activation: &Activation,
    ) -> Result<Self, ListenError> {
        let mut given: Vec<Option<Given>> = given.into_iter().map(Some).collect();
        let mut all = Self::default();
        for listener in wanted {
            let address = listener.address.to_string();
            let old =
                given.iter_mut().find(|given| given.as_ref().is_some_and(|given| given.address == address));
            let opened = match (&listener.address, old.and_then(Option::take)) {
                (ListenAddress::Systemd(name), _) => activated(activation, name),
                (_, Some(old)) if is_still_reachable(&listener.address, old.file) => keep(listener, old),
                (_, Some(old)) => {
                    all.dropped.extend(store::name(&old.address, old.file));
                    open(listener)
                }
                (_, None) => open(listener),
            };
            match opened {
                Ok(made) => all.open.push(Open { listener: listener.clone(), made }),
                Err(cause) => {
                    all.remove_new_files();
                    return Err(ListenError { address, cause });
                }
            }
        }
        // Sockets that are not used are closed here, so that only the old generation has them.
        for Given { address, file, .. } in given.into_iter().flatten() {
            all.dropped.extend(store::name(&address, file));
            all.abandoned.extend(path_of(&address).zip(file));
        }
        Ok(all)
    }

    /// The addresses that clients connect to, in the order of the configuration. For port 0 it is
    /// the port that the kernel chose.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        let address = |open: &Open| {
            let written = open.listener.address.to_string();
            let chosen = |socket| {
                let (scheme, _) = written.split_once("://")?;
                Some(format!("{scheme}://{}", local_address(socket)?))
            };
            match open.made.sockets.first().filter(|_| written.ends_with(":0")).and_then(chosen) {
                Some(real) => real,
                None => written,
            }
        };
        self.open.iter().map(address).collect()
    }

    /// The sockets for the successor.
    pub fn to_hand_over(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>, Option<FileId>)> {
        let own = self.open.iter().filter(|open| !matches!(open.listener.address, ListenAddress::Systemd(_)));
        own.flat_map(|open| {
            let address = open.listener.address.to_string();
            open.made.sockets.iter().map(move |socket| (address.clone(), socket.as_fd(), open.made.file))
        })
    }

    /// The sockets of one listener.
    pub fn sockets_of(&self, address: &ListenAddress) -> Vec<BorrowedFd<'_>> {
        let it = self.open.iter().filter(|open| open.listener.address == *address);
        it.flat_map(|open| open.made.sockets.iter().map(AsFd::as_fd)).collect()
    }

    /// Whether another process has removed or replaced the file of a socket, so that no client
    /// can reach the socket any more.
    pub fn has_lost_files(&self) -> bool {
        self.open.iter().any(|open| !is_still_reachable(&open.listener.address, open.made.file))
    }

    /// The sockets that systemd has not stored yet, each with its name.
    pub fn to_store(&self) -> impl Iterator<Item = (String, BorrowedFd<'_>)> {
        let own = self.open.iter().filter(|open| !matches!(open.listener.address, ListenAddress::Systemd(_)));
        own.filter(|open| !open.made.is_stored).flat_map(|open| {
            let name = store::name(&open.listener.address.to_string(), open.made.file);
            name.into_iter()
                .flat_map(|name| open.made.sockets.iter().map(move |socket| (name.clone(), socket.as_fd())))
        })
    }

    /// Records that systemd has stored them. Returns the names that systemd must no longer store.
    pub fn stored(&mut self) -> Vec<String> {
        for open in &mut self.open {
            open.made.is_stored = true;
        }
        std::mem::take(&mut self.dropped)
    }

    /// How to pass the sockets to the child, and the sockets in the order to which
    /// [`Passing::numbers`] refers.
    #[must_use]
    pub fn passing(&self, generation: u64) -> (Passing, Vec<BorrowedFd<'_>>) {
        let mut sockets = Vec::new();
        let mut fds = Vec::new();
        for open in &self.open {
            let Listener { address, name, protocols, fd, key, .. } = &open.listener;
            for socket in &open.made.sockets {
                let key =
                    key.clone().or_else(|| local_address(socket)).unwrap_or_else(|| address.to_string());
                let fd = fd.map(i32::from);
                sockets.push(pass::Socket { name: name.clone(), key, protocols: protocols.clone(), fd });
                fds.push(socket.as_fd());
            }
        }
        (pass::pass(&sockets, generation), fds)
    }

    /// Applies the configuration to sockets that were handed over.
    ///
    /// # Errors
    /// [`ListenError`] of the first that can't be adjusted.
    pub fn adjust(&self) -> Result<(), ListenError> {
        for Open { listener, made: Made { sockets, file, .. } } in &self.open {
            let cause = |cause| ListenError { address: listener.address.to_string(), cause };
            if let (Some(path), Some(id)) = (listener.address.unix_path(), file) {
                unix_file::adjust(path, *id, &listener.options).map_err(|failed| cause(describe(&failed)))?;
            }
            for socket in sockets {
                adjust(socket, listener).map_err(|errno| cause(words(errno)))?;
            }
        }
        Ok(())
    }

    /// The settings of the sockets and their files, for [`Listeners::restore`].
    #[must_use]
    pub fn settings(&self) -> Settings {
        let setting = |open: &Open| Setting {
            file: match (open.listener.address.unix_path(), open.made.file) {
                (Some(path), Some(id)) => unix_file::settings(path, id),
                _ => None,
            },
            sockets: open.made.sockets.iter().map(SocketSetting::of).collect(),
        };
        Settings(self.open.iter().map(setting).collect())
    }

    /// Undoes the adjustments of a failed successor.
    ///
    /// It restores the previous settings. These may differ from the configuration: it may leave an option
    /// open, and an administrator may have changed one.
    ///
    /// # Errors
    /// [`ListenError`] of the first that can't be restored.
    pub fn restore(&self, Settings(settings): &Settings) -> Result<(), ListenError> {
        for (Open { listener, made: Made { sockets, file, .. } }, was) in self.open.iter().zip(settings) {
            let cause = |cause| ListenError { address: listener.address.to_string(), cause };
            if let (Some(path), Some(id), Some(was)) = (listener.address.unix_path(), file, &was.file) {
                unix_file::restore(path, *id, was).map_err(|failed| cause(describe(&failed)))?;
            }
            for (socket, was) in sockets.iter().zip(&was.sockets) {
                // The previous value first, then what the configuration sets.
                was.set(socket)
                    .and_then(|()| adjust(socket, listener))
                    .map_err(|errno| cause(words(errno)))?;
            }
        }
        Ok(())
    }

    /// The predecessor has exited, and its sockets with it. Removes the files of those that
    /// this generation does not have.
    pub fn predecessor_is_gone(&mut self) {
        self.remove_abandoned();
        for open in &mut self.open {
            open.made.is_new = true; // from now on this generation must remove them
        }
    }

    /// Removes the files of sockets that only old generations have.
    pub fn remove_abandoned(&mut self) {
        for (path, id) in std::mem::take(&mut self.abandoned) {
            log_remaining(&path, unix_file::remove(&path, id));
        }
    }

    /// Removes the files that this generation has created: it has failed, and the predecessor serves on.
    pub fn remove_new_files(&self) {
        self.remove_files(|made| made.is_new);
    }

    /// As [`Listeners::remove_new_files`], but keeps the files of sockets that systemd has stored.
    pub fn remove_files_of_lost(&self) {
        self.remove_files(|made| made.is_new && !made.is_stored);
    }

    fn remove_files(&self, concerns: impl Fn(&Made) -> bool) {
        for open in self.open.iter().filter(|open| concerns(&open.made)) {
            if let (Some(path), Some(id)) = (open.listener.address.unix_path(), open.made.file) {
                log_remaining(path, unix_file::remove(path, id));
            }
        }
    }
}

fn log_remaining(path: &Path, removed: io::Result<()>) {
    if let Err(error) = removed {
        tracing::warn!(path = %path.display(), %error, "can't remove the file of a socket");
    }
}

fn describe(failed: &unix_file::Failed) -> String {
    format!("can't {}: {}", failed.action, failed.error)
}

/// The error text of the system.
fn words(errno: Errno) -> String {
    io::Error::from(errno).to_string()
}

fn path_of(address: &str) -> Option<PathBuf> {
    let prefixes = ["unix://", "unixgram://", "unixpacket://"];
    prefixes.iter().find_map(|prefix| address.strip_prefix(prefix)).map(PathBuf::from)
}

/// Whether clients of this address reach the socket that was handed over. Another
/// process may have removed its file.
fn is_still_reachable(address: &ListenAddress, file: Option<FileId>) -> bool {
    match (address.unix_path(), file) {
        (Some(path), Some(id)) => FileId::at(path) == Some(id),
        _ => true,
    }
}

fn activated(activation: &Activation, name: &str) -> Result<Made, String> {
    let sockets =
        activation.sockets(name).map_err(|error| format!("what psflip was given can't be used: {error}"))?;
    if sockets.is_empty() {
        return Err(if activation.is_there() {
            format!(
                "psflip was given no socket of that name; it was given `{}` (FileDescriptorName= in the socket unit)",
                activation.names().join("`, `")
            )
        } else {
            "psflip was given no socket by its service manager (`LISTEN_FDS` and `LISTEN_PID`)".to_owned()
        });
    }
    Ok(Made { sockets, file: None, is_new: false, is_stored: true })
}

/// Reuses a socket that was handed over. Options that can't be changed on an open socket
/// must be as configured.
fn keep(listener: &Listener, given: Given) -> Result<Made, String> {
    let Options { v6only, reuseport, .. } = listener.options;
    let fixed = |key: &str, is: bool| {
        format!("`{key}` is {is} and can't be changed while the socket is open; restart the service for that")
    };
    if let Some(wanted) = v6only {
        let is = getsockopt(&given.socket, sockopt::Ipv6V6Only).map_err(words)?;
        if is != wanted {
            return Err(fixed("v6only", is));
        }
    }
    if listener.address.is_internet() {
        let is = getsockopt(&given.socket, sockopt::ReusePort).map_err(words)?;
        if is != reuseport {
            return Err(fixed("reuseport", is));
        }
    }
    Ok(Made { sockets: vec![given.socket], file: given.file, is_new: false, is_stored: true })
}

fn open(listener: &Listener) -> Result<Made, String> {
    let (socket, file) = match &listener.address {
        ListenAddress::Tcp(address) => (internet(*address, SockType::Stream, listener)?, None),
        ListenAddress::Udp(address) => (internet(*address, SockType::Datagram, listener)?, None),
        ListenAddress::Unix(path) => unix(path, SockType::Stream, &listener.options)?,
        ListenAddress::Unixgram(path) => unix(path, SockType::Datagram, &listener.options)?,
        ListenAddress::Unixpacket(path) => unix(path, SockType::SeqPacket, &listener.options)?,
        ListenAddress::Systemd(_) => return Err("it is not psflip's to open".to_owned()),
    };
    let wait_for_clients = || {
        adjust_options(&socket, listener)?;
        if listener.address.is_connected_to() {
            listen(socket.as_fd(), listener.options.backlog)
        } else {
            Ok(())
        }
    };
    if let Err(error) = wait_for_clients() {
        if let (Some(path), Some(id)) = (listener.address.unix_path(), file) {
            let _ = unix_file::remove(path, id); // the first error is the one reported
        }
        return Err(error.to_string());
    }
    Ok(Made { sockets: vec![socket], file, is_new: true, is_stored: false })
}

fn internet(address: SocketAddr, kind: SockType, listener: &Listener) -> Result<OwnedFd, String> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let Options { reuseport, v6only, .. } = listener.options;
    let bound = || -> Result<OwnedFd, Errno> {
        seam::before(Call::Socket)?;
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
        if kind == SockType::Stream {
            // Connections of an earlier process in TIME_WAIT must not block the port (socket(7)).
            setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        }
        if reuseport {
            setsockopt(&socket, sockopt::ReusePort, &true)?;
        }
        if let Some(v6only) = v6only {
            setsockopt(&socket, sockopt::Ipv6V6Only, &v6only)?;
        }
        seam::before(Call::Bind)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        Ok(socket)
    };
    bound().map_err(|errno| match errno {
        Errno::EADDRINUSE => format!("{}; another process listens there", words(errno)),
        Errno::EACCES => format!("{}; ports below 1024 need root or CAP_NET_BIND_SERVICE", words(errno)),
        Errno::EADDRNOTAVAIL => format!("{}; this host does not have that address", words(errno)),
        _ => words(errno),
    })
}

fn unix(path: &Path, kind: SockType, options: &Options) -> Result<(OwnedFd, Option<FileId>), String> {
    let made = || {
        seam::before(Call::Socket)?;
        socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)
    };
    let socket = made().map_err(words)?;
    if let Some(name) = path.to_string_lossy().strip_prefix('@') {
        let bound = UnixAddr::new_abstract(name.as_bytes()).and_then(|address| {
            seam::before(Call::Bind)?;
            bind(socket.as_raw_fd(), &address)
        });
        return match bound {
            Ok(()) => Ok((socket, None)),
            Err(Errno::EADDRINUSE) => Err("another process listens there".to_owned()),
            Err(errno) => Err(words(errno)),
        };
    }
    let file = unix_file::create(socket.as_fd(), path, options).map_err(|failed| describe(&failed))?;
    Ok((socket, Some(file)))
}

/// Sets the options that can be changed at any time.
fn adjust(socket: &OwnedFd, listener: &Listener) -> Result<(), Errno> {
    adjust_options(socket, listener)?;
    if listener.address.is_connected_to() {
        // On a socket that listens already, this changes the length of its queue.
        listen(socket.as_fd(), listener.options.backlog)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EINVAL)))?;
    }
    Ok(())
}

fn adjust_options(socket: &OwnedFd, listener: &Listener) -> Result<(), Errno> {
    let Options { nodelay, nonblock, .. } = listener.options;
    SocketSetting { nodelay, nonblock }.set(socket)
}

impl SocketSetting {
    fn of(socket: &OwnedFd) -> Self {
        let flags = fcntl(socket, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        Self {
            nodelay: getsockopt(socket, sockopt::TcpNoDelay).ok(),
            nonblock: flags.ok().map(|flags| flags.contains(OFlag::O_NONBLOCK)),
        }
    }

    /// Sets the options that have a value. The child may have set the others.
    fn set(self, socket: &OwnedFd) -> Result<(), Errno> {
        if let Some(nodelay) = self.nodelay {
            setsockopt(socket, sockopt::TcpNoDelay, &nodelay)?;
        }
        if let Some(nonblock) = self.nonblock {
            let mut flags = OFlag::from_bits_retain(fcntl(socket, FcntlArg::F_GETFL)?);
            flags.set(OFlag::O_NONBLOCK, nonblock);
            fcntl(socket, FcntlArg::F_SETFL(flags))?;
        }
        Ok(())
    }
}

/// The address that the socket is bound to, in the format of Server::Starter.
fn local_address(socket: &OwnedFd) -> Option<String> {
    let address = getsockname::<SockaddrStorage>(socket.as_raw_fd()).ok()?;
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::from(std::net::SocketAddrV4::from(*v4)).to_string());
    }
    if let Some(v6) = address.as_sockaddr_in6() {
        return Some(SocketAddr::from(std::net::SocketAddrV6::from(*v6)).to_string());
    }
    let unix = address.as_unix_addr()?;
    match (unix.path(), unix.as_abstract()) {
        (Some(path), _) => Some(path.display().to_string()),
        (None, Some(name)) => Some(format!("@{}", String::from_utf8_lossy(name))),
        (None, None) => None,
    }
}
