//! The file of a Unix socket. It gets the right mode and owner before clients can connect. It replaces a
//! stale file only if nothing listens there, and is removed only while it is still psflip's.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, RenameFlags, renameat2};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, bind, connect, socket};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Group, Uid, User, fchownat};

use crate::config::Options;
use crate::sys::seam::{self, Call};
use crate::sys::unix_path::UnixPath;

/// The identity of a file, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// The number of its file system.
    pub device: u64,
    /// Its inode number.
    pub inode: u64,
}

impl FileId {
    fn of(metadata: &fs::Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }

    /// The file at this path, without following symlinks. `None`: it doesn't exist, or can't be examined.
    pub(super) fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().as_ref().map(Self::of)
    }
}

/// A failed action.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) action: String,
    pub(super) error: io::Error,
}

fn failed(action: impl Into<String>) -> impl FnOnce(Errno) -> Failed {
    |errno| Failed { action: action.into(), error: errno.into() }
}

fn unusable(errno: Errno) -> Failed {
    let error = match errno {
        Errno::ENAMETOOLONG => {
            io::Error::other("it is longer than the 107 bytes that a Unix socket's path may have")
        }
        errno => errno.into(),
    };
    Failed { action: "use this path".to_owned(), error }
}

/// Binds a socket to a path. If that fails, no file is left behind.
pub(super) fn create(socket: BorrowedFd<'_>, path: &Path, options: &Options) -> Result<FileId, Failed> {
    let account = Account::of(options)?;
    make_room(path)?;
    // Until the owner is set, only this user may connect. The kernel gives the file the
    // mode of the socket (unix(7)).
    let first = options.mode.map_or(0o777, |mode| mode & 0o700);
    seam::before(Call::Chmod)
        .and_then(|()| fchmod(socket, Mode::from_bits_truncate(first)))
        .map_err(failed("set its permissions"))?;
    let address = UnixPath::new(path).map_err(unusable)?;
    seam::before(Call::Bind)
        .and_then(|()| bind(socket.as_raw_fd(), address.address()))
        .map_err(failed("create it"))?;
    let set_up = || {
        let (file, id) = open(path)?;
        account.apply(&file)?;
        set_mode(&file, options)?;
        Ok(id)
    };
    set_up().inspect_err(|_| {
        let _ = fs::remove_file(path); // the first error is the one reported
    })
}

/// Gives psflip's own socket file the mode and owner of the present configuration.
pub(super) fn adjust(path: &Path, id: FileId, options: &Options) -> Result<(), Failed> {
    let account = Account::of(options)?;
    let (file, found) = open(path)?;
    if found != id {
        return Err(Failed { action: "adjust it".to_owned(), error: io::Error::other("it was replaced") });
    }
    account.apply(&file)?;
    set_mode(&file, options)
}

/// Permissions and owner of psflip's own socket file, to be restored later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    mode: u32,
    owner: u32,
    group: u32,
}

/// The present settings. `None`: the file is gone.
pub(super) fn settings(path: &Path, id: FileId) -> Option<Settings> {
    let metadata = fs::symlink_metadata(path).ok().filter(|metadata| FileId::of(metadata) == id)?;
    Some(Settings { mode: metadata.mode() & 0o7777, owner: metadata.uid(), group: metadata.gid() })
}

/// Restores the settings.
pub(super) fn restore(path: &Path, id: FileId, was: &Settings) -> Result<(), Failed> {
    let Some(is) = settings(path, id).filter(|is| is != was) else { return Ok(()) };
    let Settings { mode, owner, group } = *was;
    let given_away = (is.owner, is.group) != (owner, group);
    let options = Options {
        mode: Some(mode),
        owner: given_away.then(|| owner.to_string()),
        group: given_away.then(|| group.to_string()),
        ..Options::default()
    };
    adjust(path, id, &options)
}

/// Removes a socket file, if it still is this one.
///
/// # Errors
/// It can't be removed or examined.
pub(super) fn remove(path: &Path, id: FileId) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(there) if FileId::of(&there) == id => fs::remove_file(path),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Opens the file itself, without following symlinks and without connecting.
fn open(path: &Path) -> Result<(File, FileId), Failed> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    let look = || -> io::Result<(File, FileId)> {
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
        let metadata = file.metadata()?;
        if metadata.file_type().is_socket() {
            Ok((file, FileId::of(&metadata)))
        } else {
            Err(io::Error::other("it is no socket any more"))
        }
    };
    look().map_err(|error| Failed { action: "look at it".to_owned(), error })
}

/// chmod(2) of an O_PATH descriptor, which fchmod(2) refuses.
fn set_mode(file: &File, options: &Options) -> Result<(), Failed> {
    let Some(mode) = options.mode else { return Ok(()) };
    let by_number = format!("/proc/self/fd/{}", file.as_raw_fd());
    seam::before(Call::Chmod)
        .map_err(io::Error::from)
        .and_then(|()| fs::set_permissions(by_number, fs::Permissions::from_mode(mode)))
        .map_err(|error| Failed { action: format!("set its permissions to `{mode:04o}`"), error })
}

/// The configured owner and group.
struct Account {
    owner: Option<Uid>,
    group: Option<Gid>,
    names: String,
}

impl Account {
    fn of(options: &Options) -> Result<Self, Failed> {
        let unknown = |kind: &str, name: &str| Failed {
            action: format!("give it to the {kind} `{name}`"),
            error: io::Error::other(format!("there is no such {kind}")),
        };
        let owner = options.owner.as_deref().map(|name| match name.parse() {
            Ok(number) => Ok(Uid::from_raw(number)),
            Err(_) => match User::from_name(name) {
                Ok(Some(user)) => Ok(user.uid),
                Ok(None) | Err(_) => Err(unknown("user", name)),
            },
        });
        let group = options.group.as_deref().map(|name| match name.parse() {
            Ok(number) => Ok(Gid::from_raw(number)),
            Err(_) => match Group::from_name(name) {
                Ok(Some(group)) => Ok(group.gid),
                Ok(None) | Err(_) => Err(unknown("group", name)),
            },
        });
        let names = [("user", &options.owner), ("group", &options.group)]
            .iter()
            .filter_map(|(kind, name)| name.as_ref().map(|name| format!("{kind} `{name}`")))
            .collect::<Vec<_>>()
            .join(" and ");
        Ok(Self { owner: owner.transpose()?, group: group.transpose()?, names })
    }

    fn apply(&self, file: &File) -> Result<(), Failed> {
        if self.owner.is_none() && self.group.is_none() {
            return Ok(());
        }
        seam::before(Call::Chown)
            .and_then(|()| fchownat(file.as_fd(), "", self.owner, self.group, AtFlags::AT_EMPTY_PATH))
            .map_err(failed(format!("give it to {}", self.names)))
    }
}

/// Removes a socket file on which nothing listens any more. Any other file is an error.
fn make_room(path: &Path) -> Result<(), Failed> {
    let in_the_way = |what: String| Failed { action: "create it".to_owned(), error: io::Error::other(what) };
    let there = match fs::symlink_metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failed { action: "look at it".to_owned(), error }),
    };
    if !there.file_type().is_socket() {
        return Err(in_the_way("there is a file of that name, and it is no socket".to_owned()));
    }
    match listens(path) {
        Ok(false) => {}
        Ok(true) => return Err(in_the_way("another process listens there".to_owned())),
        Err(error) => {
            return Err(in_the_way(format!(
                "a socket exists there, and it is unknown whether it is in use: {error}"
            )));
        }
    }
    // Rename first, so that another process that has just put its own socket there can get it back.
    let aside = aside(path);
    let moved = seam::before(Call::Rename).map_err(io::Error::from).and_then(|()| fs::rename(path, &aside));
    match moved {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failed { action: "remove the stale one".to_owned(), error }),
    }
    if FileId::at(&aside) == Some(FileId::of(&there)) {
        return fs::remove_file(&aside)
            .map_err(|error| Failed { action: "remove the stale one".to_owned(), error });
    }
    let _ = renameat2(AT_FDCWD, &aside, AT_FDCWD, path, RenameFlags::RENAME_NOREPLACE);
    Err(in_the_way("another process is creating it at the same time".to_owned()))
}

/// Whether any process listens on this socket. It does if the connection is not refused, even if it has to
/// wait. It also does for the wrong type (EPROTOTYPE: datagrams or packets), which the kernel reports only
/// for an open socket (connect(2)).
fn listens(path: &Path) -> Result<bool, Errno> {
    let address = UnixPath::new(path)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(probe.as_raw_fd(), address.address()) {
        Ok(()) | Err(Errno::EAGAIN | Errno::EINPROGRESS | Errno::EPROTOTYPE) => Ok(true),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// A name in the same directory that no other process uses.
pub(super) fn aside(path: &Path) -> PathBuf {
    let name = path.file_name().map(std::ffi::OsStr::to_string_lossy).unwrap_or_default();
    path.with_file_name(format!(".{name}.psflip-{}", std::process::id()))
}
