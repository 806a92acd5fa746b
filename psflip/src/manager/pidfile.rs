//! The pidfile (contract P): which psflip is active, for people, scripts and managers.
//!
//! A generation that is named keeps its file open and locked (`lock.rs`). So a file is stale exactly when nobody holds its
//! lock, whatever pid is in it and whoever uses that pid by now: the kernel drops the lock with the process (P3). A new file is
//! written and locked under a temporary name and renamed into place, so nobody ever sees a part of it (P1, P4).
//!
//! Only what can be a pidfile is ever replaced or removed: a regular file that is empty or holds one decimal number (P4).
//!
//! It isn't synced to disk: its contents mean nothing after a crash of the machine, and what such a crash leaves is not locked.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2};
use nix::unistd::{AccessFlags, eaccess};

use super::lock::{self, Locked, Turn, is_at, is_same};
use crate::sys::seam::{self, Call};

/// A pidfile that names this process.
#[derive(Debug)]
pub struct Pidfile {
    path: PathBuf,
    file: Locked,
    /// The pid that was in the file before it was replaced.
    replaced: Option<u32>,
}

/// What was found in the place of a pidfile, which is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// Nothing: another process had removed it.
    Gone,
    /// Another pid, or none: another process had written to it or replaced it.
    Names(Option<u32>),
}

/// Why a pidfile can't be used. Every message begins with its path.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// P3.
    #[error("pidfile `{path}`: {holder} is running with this pidfile; stop it first, or use another pidfile")]
    Held {
        /// Where.
        path: PathBuf,
        /// `psflip (pid 12)`.
        holder: String,
    },
    /// P3: a cleaner of temporary files, or a person, has removed it.
    #[error(
        "pidfile `{path}`: psflip (pid {pid}) is running with this pidfile, though the file was removed; \
         stop it first (`kill {pid}`), or let it write the file again (`kill -HUP {pid}` upgrades it)"
    )]
    Removed {
        /// Where.
        path: PathBuf,
        /// Who runs.
        pid: u32,
    },
    /// P4: a symbolic link may lead anywhere, a directory can't be replaced.
    #[error(
        "pidfile `{path}` is {kind}, and only a regular file is replaced; remove it, or use another path"
    )]
    NotRegular {
        /// Where.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// P4: the configuration, a program, somebody's data.
    #[error(
        "pidfile `{path}`: the file there has {size} bytes that are no process ID, so it is no pidfile and stays as it is; \
         set `pidfile` to another path, or remove the file"
    )]
    Foreign {
        /// Where.
        path: PathBuf,
        /// How long it is.
        size: u64,
    },
    /// The operating system said no.
    #[error("pidfile `{path}`: can't {action}: {error}")]
    System {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: String,
        /// Why it failed.
        error: io::Error,
    },
}

/// From whom a pidfile is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// From nobody: whoever is named must be dead.
    Nobody,
    /// From the predecessor, which knows of it, or from a successor that is dead.
    Relative,
}

/// Finds out early whether [`Pidfile::take`] would be refused, before anything is started. `socket`: where the control socket of a
/// psflip with this pidfile is. If the pidfile is gone but the socket is not, or if everybody may write there, a psflip that still
/// holds the removed file is looked for; a look at all locks of the host is not for every start.
///
/// # Errors
/// [`Error`], the first that applies.
pub fn check(path: &Path, from: From, socket: Option<&Path>) -> Result<(), Error> {
    let directory = directory(path);
    seam::before(Call::AccessDirectory)
        .and_then(|()| eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK))
        .map_err(|errno| system(path, format!("create a file in `{}`", directory.display()), errno.into()))?;
    match open_existing(path)? {
        Some(existing) if from == From::Nobody => existing.refuse_held(path),
        None if from == From::Nobody
            && (socket.is_some_and(|socket| socket.symlink_metadata().is_ok()) || is_open_to_all(path)) =>
        {
            match lock::holder_of_removed(directory, path) {
                Some(pid) => Err(Error::Removed { path: path.to_owned(), pid }),
                None => Ok(()),
            }
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether everybody may put files into the directory of this file, as in `/tmp`.
#[must_use]
pub fn is_open_to_all(path: &Path) -> bool {
    fs::metadata(directory(path)).is_ok_and(|directory| directory.permissions().mode() & 0o002 != 0)
}

impl Pidfile {
    /// Lets the pidfile name this process.
    ///
    /// # Errors
    /// [`Error`]; nothing is changed then and nothing is left behind.
    pub fn take(path: &Path, from: From) -> Result<Self, Error> {
        let (new, file) = Temporary::write(path, std::process::id())?;
        let replaced = match from {
            From::Relative => new.replace(path)?,
            From::Nobody => new.place(path)?,
        };
        Ok(Self { path: path.to_owned(), file, replaced })
    }

    /// The pid that was in the file before it was replaced.
    #[must_use]
    pub fn replaced(&self) -> Option<u32> {
        self.replaced
    }

    /// Writes the pidfile again if it is gone or names another process, unless another psflip holds it. `None`: all is well.
    ///
    /// # Errors
    /// As [`Pidfile::take`], and what lstat(2) says. What is there stays as it is.
    pub fn mend(&mut self) -> Result<Option<Mended>, Error> {
        if self.look().map_err(|error| system(&self.path, "look at it", error))? {
            return Ok(None);
        }
        // Whoever has written to the file has written to what this process holds: its own lock must not be in the way.
        let own = lock::is_at(&self.file, &self.path);
        let found = match open_existing(&self.path)? {
            None => Mended::Gone,
            Some(existing) => Mended::Names(existing.pid),
        };
        *self = Self::take(&self.path, if own { From::Relative } else { From::Nobody })?;
        Ok(Some(found))
    }

    /// Whether the pidfile still is the one of this process.
    #[must_use]
    pub fn names_us(&self) -> bool {
        self.look().unwrap_or(false)
    }

    /// As [`Pidfile::names_us`], if that can be found out.
    fn look(&self) -> io::Result<bool> {
        match fs::symlink_metadata(&self.path) {
            Ok(there) if is_same(&self.file.metadata()?, &there) => {
                // Another program may have written to it.
                let mut content = [0; LONGEST + 1];
                let length = self.file.read_at(&mut content, 0)?;
                Ok(Content::of(&content[..length]) == Content::Pid(Some(std::process::id())))
            }
            Ok(_) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets the pidfile name this process again, if it doesn't.
    ///
    /// # Errors
    /// As [`Pidfile::take`].
    pub fn reclaim(&mut self) -> Result<(), Error> {
        if !self.names_us() {
            *self = Self::take(&self.path, From::Relative)?;
        }
        Ok(())
    }

    /// Lets the pidfile name another process again, which does not look at the moment, and lets go of it.
    ///
    /// # Errors
    /// As [`Pidfile::take`].
    pub fn give_back(self, pid: u32) -> Result<(), Error> {
        if self.names_us() {
            Temporary::write(&self.path, pid)?.0.replace(&self.path)?;
        }
        Ok(())
    }

    /// Removes it, if it still names this process (contract P2).
    ///
    /// # Errors
    /// What lstat(2) and unlink(2) say.
    pub fn remove(self) -> Result<(), Error> {
        if self.look().map_err(|error| system(&self.path, "look at it", error))? {
            asking(Call::Unlink, || fs::remove_file(&self.path))
                .map_err(|error| system(&self.path, "remove it", error))?;
        }
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn system(path: &Path, action: impl Into<String>, error: io::Error) -> Error {
    Error::System { path: path.to_owned(), action: action.into(), error }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a call that a test may let fail.
fn asking<T>(call: Call, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    seam::before(call)?;
    make()
}

/// The longest content of a file that is taken for a pidfile, in bytes.
const LONGEST: usize = 64;

/// What a file holds, as a pidfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Nothing: a crash of the machine may leave an empty file, or one of NULs.
    Nothing,
    /// One decimal number, white space around it; `None`: no process has such a large one.
    Pid(Option<u32>),
    /// Something else.
    Foreign,
}

impl Content {
    fn of(bytes: &[u8]) -> Self {
        let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0;
        let Some(start) = bytes.iter().position(|byte| !is_blank(byte)) else {
            return if bytes.len() > LONGEST { Self::Foreign } else { Self::Nothing };
        };
        let end = bytes.iter().rposition(|byte| !is_blank(byte)).unwrap_or(start);
        let number = &bytes[start..=end];
        if bytes.len() > LONGEST || !number.iter().all(u8::is_ascii_digit) {
            return Self::Foreign;
        }
        Self::Pid(std::str::from_utf8(number).ok().and_then(|number| number.parse().ok()))
    }
}

/// A file that can be a pidfile.
struct Existing {
    file: File,
    /// The pid in it.
    pid: Option<u32>,
}

impl Existing {
    fn refuse_held(&self, path: &Path) -> Result<(), Error> {
        let Self { file, pid } = self;
        match lock::is_held(file, *pid) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let pid = pid.map_or_else(|| "of unknown pid".to_owned(), |pid| format!("pid {pid}"));
                Err(Error::Held { path: path.to_owned(), holder: format!("psflip ({pid})") })
            }
            Err(error) => Err(system(path, "look at its lock", error)),
        }
    }
}

/// Opens what is there, if it can be a pidfile, without following links and without waiting for anything.
fn open_existing(path: &Path) -> Result<Option<Existing>, Error> {
    let kind = match asking(Call::StatPidfile, || fs::symlink_metadata(path)) {
        Ok(there) => there.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(system(path, "look at it", error)),
    };
    if !kind.is_file() {
        let kind = if kind.is_symlink() {
            "a symbolic link"
        } else if kind.is_dir() {
            "a directory"
        } else {
            "a special file"
        };
        return Err(Error::NotRegular { path: path.to_owned(), kind });
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let open = || OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let file = match asking(Call::OpenPidfile, open) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(system(path, "open it", error)),
    };
    let mut content = [0; LONGEST + 1];
    let length = file.read_at(&mut content, 0).map_err(|error| system(path, "read it", error))?;
    let pid = match Content::of(&content[..length]) {
        Content::Nothing => None,
        Content::Pid(pid) => pid,
        Content::Foreign => {
            let size = file.metadata().map_or(length as u64, |metadata| metadata.len());
            return Err(Error::Foreign { path: path.to_owned(), size });
        }
    };
    Ok(Some(Existing { file, pid }))
}

/// How often what is there is looked at again after somebody else has replaced it.
const ATTEMPTS: usize = 100;

fn contended(path: &Path) -> Error {
    Error::Held { path: path.to_owned(), holder: "another psflip, just starting,".to_owned() }
}

/// The other name of a complete, locked pidfile. Dropping it removes that name, if it is still there.
struct Temporary(PathBuf);

impl Temporary {
    fn write(target: &Path, pid: u32) -> Result<(Self, Locked), Error> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = directory(target).join(format!(".{name}.{}", std::process::id()));
        let fail = |action: &str, error| system(target, format!("{action} `{}`", path.display()), error);
        let file = match Self::create(&path) {
            // One of the same name is left from a dead process that had our pid.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && open_existing(&path)?.is_some() => {
                fs::remove_file(&path).and_then(|()| Self::create(&path))
            }
            created => created,
        };
        let file = file.map_err(|error| fail("create", error))?;
        let new = Self(path.clone());
        let file = lock::lock_new(file).map_err(|error| fail("lock", error))?;
        // Readable for all, whatever the umask: that is what it is for.
        asking(Call::Chmod, || file.set_permissions(fs::Permissions::from_mode(0o644)))
            .map_err(|error| fail("set the mode of", error))?;
        let mut contents: &File = &file;
        asking(Call::WritePidfile, || contents.write_all(format!("{pid}\n").as_bytes()))
            .map_err(|error| fail("write", error))?;
        Ok((new, file))
    }

    fn create(path: &Path) -> io::Result<File> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).custom_flags(flags.bits());
        asking(Call::CreatePidfile, || options.open(path))
    }

    /// Puts it in the target's place, whoever is named there. Gives the pid that was.
    fn replace(&self, target: &Path) -> Result<Option<u32>, Error> {
        let existing = match open_existing(target) {
            // It was psflip's a moment ago: what can't be opened for lack of descriptors is replaced all the same.
            Err(Error::System { .. }) => None,
            looked => looked?,
        };
        self.rename(target)?;
        Ok(existing.and_then(|existing| existing.pid))
    }

    fn rename(&self, target: &Path) -> Result<(), Error> {
        asking(Call::Rename, || fs::rename(&self.0, target))
            .map_err(|error| system(target, "replace it", error))
    }

    /// Puts it in the target's place if nobody alive holds what is there. Gives the pid that was in it. Of several processes that try this at the same time
    /// one succeeds: only one can create the name, or has the turn to replace a stale file.
    fn place(&self, target: &Path) -> Result<Option<u32>, Error> {
        let mut turn = None;
        for _ in 0..ATTEMPTS {
            let existing = open_existing(target)?;
            if existing.is_none() {
                let renamed = seam::before(Call::Rename).and_then(|()| {
                    renameat2(AT_FDCWD, &self.0, AT_FDCWD, target, RenameFlags::RENAME_NOREPLACE)
                });
                match renamed {
                    Ok(()) => return Ok(None),
                    Err(Errno::EEXIST) => continue, // somebody was faster: look again
                    // A file system without this flag (NFS), where the turn decides between two first starts as well.
                    Err(Errno::EINVAL) if turn.is_some() => return self.rename(target).map(|()| None),
                    Err(Errno::EINVAL) => {}
                    Err(errno) => return Err(system(target, "create it", errno.into())),
                }
            }
            if turn.is_none() {
                turn = Some(take_turn(target)?);
                continue; // what is there may have been replaced until it was our turn
            }
            if let Some(existing) = existing {
                existing.refuse_held(target)?;
                // What was looked at may have been replaced between the open and the look.
                if is_at(&existing.file, target) {
                    return self.rename(target).map(|()| existing.pid);
                }
            }
        }
        Err(contended(target))
    }
}

/// See [`Turn`].
fn take_turn(target: &Path) -> Result<Turn, Error> {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    let path = directory(target).join(format!(".{name}.lock"));
    match Turn::take(path.clone()) {
        Ok(Some(turn)) => Ok(turn),
        Ok(None) => Err(contended(target)),
        Err(error) => Err(system(target, format!("use `{}`", path.display()), error)),
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // after a rename it is gone already
    }
}

#[cfg(test)]
#[path = "pidfile_tests.rs"]
mod tests;
