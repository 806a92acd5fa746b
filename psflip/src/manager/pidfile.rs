//! The pidfile (contract P): which psflip is active, for people, scripts and service managers.
//!
//! The active generation keeps its file open and locked (`lock.rs`). A file is stale exactly if no process
//! holds its lock, whatever pid is in it and whichever process has that pid by now. The kernel releases the
//! lock when the process exits (P3). A new file is written and locked under a temporary name and then
//! renamed, so it is never visible in part (P1, P4).
//!
//! psflip replaces or removes only what can be a pidfile: a regular file that is empty or
//! holds one decimal number (P4).
//!
//! The file isn't synced to disk. After a crash of the host its contents mean nothing,
//! and no process holds its lock.

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

/// What was found in the place of a pidfile that had to be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mended {
    /// Nothing: another process had removed it.
    Gone,
    /// Another pid, or none: another process had written to it or replaced it.
    Names(Option<u32>),
}

/// Why a pidfile can't be used. Every message begins with its path.
#[derive(Debug, thiserror::Error)]
pub enum PidfileError {
    /// Another psflip holds it (P3).
    #[error("pidfile `{path}`: {holder} is running with this pidfile; stop it first, or use another pidfile")]
    Held {
        /// The path of the pidfile.
        path: PathBuf,
        /// The holder, such as `psflip (pid 12)`.
        holder: String,
    },
    /// A psflip holds it, but a cleaner of temporary files, or a person, has removed the file (P3).
    #[error(
        "pidfile `{path}`: psflip (pid {pid}) is running with this pidfile, though the file was removed; \
         stop it first (`kill {pid}`), or let it write the file again (`kill -HUP {pid}` upgrades it)"
    )]
    Removed {
        /// The path of the pidfile.
        path: PathBuf,
        /// The pid of that psflip.
        pid: u32,
    },
    /// There is something other than a regular file (P4). A symbolic link may lead anywhere, and
    /// a directory can't be replaced.
    #[error(
        "pidfile `{path}` is {kind}, and only a regular file is replaced; remove it, or use another path"
    )]
    NotRegular {
        /// The path of the pidfile.
        path: PathBuf,
        /// What is there.
        kind: &'static str,
    },
    /// There is a file with other content, such as a configuration, a program, or data (P4).
    #[error(
        "pidfile `{path}`: the file there has {size} bytes that are no process ID, so it is no pidfile and stays as it is; \
         set `pidfile` to another path, or remove the file"
    )]
    Foreign {
        /// The path of the pidfile.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// A system call failed.
    #[error("pidfile `{path}`: can't {action}: {error}")]
    System {
        /// The path of the pidfile.
        path: PathBuf,
        /// What was tried.
        action: String,
        /// The error.
        error: io::Error,
    },
}

/// From which process a pidfile is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakenFrom {
    /// From no process: a psflip that is named must be dead.
    NoProcess,
    /// From the predecessor, which knows of it, or from a successor that is dead.
    OtherGeneration,
}

/// Checks early, before anything is started, whether [`Pidfile::take`] would be refused.
///
/// `socket`: the control socket of a psflip with this pidfile. If the pidfile is gone but the socket is not,
/// or if everyone may write to the directory, this looks for a psflip that still holds the removed file. It
/// does not at every start, because that means reading all locks of the host.
///
/// # Errors
/// [`PidfileError`], the first that applies.
pub fn check(path: &Path, from: TakenFrom, socket: Option<&Path>) -> Result<(), PidfileError> {
    let directory = directory(path);
    seam::before(Call::AccessDirectory)
        .and_then(|()| eaccess(directory, AccessFlags::W_OK | AccessFlags::X_OK))
        .map_err(|errno| system(path, format!("create a file in `{}`", directory.display()), errno.into()))?;
    match open_existing(path)? {
        Some(existing) if from == TakenFrom::NoProcess => existing.refuse_held(path),
        None if from == TakenFrom::NoProcess
            && (socket.is_some_and(|socket| socket.symlink_metadata().is_ok()) || is_open_to_all(path)) =>
        {
            match lock::holder_of_removed(directory, path) {
                Some(pid) => Err(PidfileError::Removed { path: path.to_owned(), pid }),
                None => Ok(()),
            }
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether every user may create files in the directory of this file, as in `/tmp`.
#[must_use]
pub fn is_open_to_all(path: &Path) -> bool {
    fs::metadata(directory(path)).is_ok_and(|directory| directory.permissions().mode() & 0o002 != 0)
}

impl Pidfile {
    /// Makes the pidfile name this process.
    ///
    /// # Errors
    /// [`PidfileError`]; nothing is changed then, and no file is left behind.
    pub fn take(path: &Path, from: TakenFrom) -> Result<Self, PidfileError> {
        let (new, file) = Temporary::write(path, std::process::id())?;
        let replaced = match from {
            TakenFrom::OtherGeneration => new.replace(path)?,
            TakenFrom::NoProcess => new.replace_unheld(path)?,
        };
        Ok(Self { path: path.to_owned(), file, replaced })
    }

    /// The pid that was in the file before it was replaced.
    #[must_use]
    pub fn replaced(&self) -> Option<u32> {
        self.replaced
    }

    /// Writes the pidfile again if it is gone or names another process, unless another psflip
    /// holds it. `None`: it was in order.
    ///
    /// # Errors
    /// As [`Pidfile::take`], and those of lstat(2). The pidfile is not changed then.
    pub fn mend(&mut self) -> Result<Option<Mended>, PidfileError> {
        if self.look().map_err(|error| system(&self.path, "look at it", error))? {
            return Ok(None);
        }
        // If another program wrote into the file that this process holds, the own lock must
        // not count as another psflip's.
        let own = lock::is_at(&self.file, &self.path);
        let found = match open_existing(&self.path)? {
            None => Mended::Gone,
            Some(existing) => Mended::Names(existing.pid),
        };
        *self = Self::take(&self.path, if own { TakenFrom::OtherGeneration } else { TakenFrom::NoProcess })?;
        Ok(Some(found))
    }

    /// Whether the pidfile is still that of this process.
    #[must_use]
    pub fn names_us(&self) -> bool {
        self.look().unwrap_or(false)
    }

    /// As [`Pidfile::names_us`], with the error if that can't be found out.
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

    /// Makes the pidfile name this process again, if it doesn't.
    ///
    /// # Errors
    /// As [`Pidfile::take`].
    pub fn reclaim(&mut self) -> Result<(), PidfileError> {
        if !self.names_us() {
            *self = Self::take(&self.path, TakenFrom::OtherGeneration)?;
        }
        Ok(())
    }

    /// Makes the pidfile name another process again, without that process's help, and releases it.
    ///
    /// # Errors
    /// As [`Pidfile::take`].
    pub fn give_back(self, pid: u32) -> Result<(), PidfileError> {
        if self.names_us() {
            Temporary::write(&self.path, pid)?.0.replace(&self.path)?;
        }
        Ok(())
    }

    /// Removes the pidfile, if it still names this process (contract P2).
    ///
    /// # Errors
    /// Those of lstat(2) and unlink(2).
    pub fn remove(self) -> Result<(), PidfileError> {
        if self.look().map_err(|error| system(&self.path, "look at it", error))? {
            through_seam(Call::Unlink, || fs::remove_file(&self.path))
                .map_err(|error| system(&self.path, "remove it", error))?;
        }
        Ok(())
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn system(path: &Path, action: impl Into<String>, error: io::Error) -> PidfileError {
    PidfileError::System { path: path.to_owned(), action: action.into(), error }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a call that a test can make fail.
fn through_seam<T>(call: Call, make: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    seam::before(call)?;
    make()
}

/// The longest content that is accepted as a pidfile, in bytes.
const LONGEST: usize = 64;

/// The content of a file, as a pidfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// Nothing: a crash of the host may leave an empty file, or one of NULs.
    Nothing,
    /// One decimal number, possibly with white space around it. `None`: it is too large for a pid.
    Pid(Option<u32>),
    /// Any other content.
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
    fn refuse_held(&self, path: &Path) -> Result<(), PidfileError> {
        let Self { file, pid } = self;
        match lock::is_held(file, *pid) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let pid = pid.map_or_else(|| "of unknown pid".to_owned(), |pid| format!("pid {pid}"));
                Err(PidfileError::Held { path: path.to_owned(), holder: format!("psflip ({pid})") })
            }
            Err(error) => Err(system(path, "look at its lock", error)),
        }
    }
}

/// Opens an existing file if it can be a pidfile, without following symlinks and without blocking.
fn open_existing(path: &Path) -> Result<Option<Existing>, PidfileError> {
    let kind = match through_seam(Call::StatPidfile, || fs::symlink_metadata(path)) {
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
        return Err(PidfileError::NotRegular { path: path.to_owned(), kind });
    }
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let open = || OpenOptions::new().read(true).custom_flags(flags.bits()).open(path);
    let file = match through_seam(Call::OpenPidfile, open) {
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
            return Err(PidfileError::Foreign { path: path.to_owned(), size });
        }
    };
    Ok(Some(Existing { file, pid }))
}

/// How often to look again after another process has replaced the file.
const ATTEMPTS: usize = 100;

fn contended(path: &Path) -> PidfileError {
    PidfileError::Held { path: path.to_owned(), holder: "another psflip, just starting,".to_owned() }
}

/// The temporary name of a complete, locked pidfile. Dropping it removes that name, if it is still there.
struct Temporary(PathBuf);

impl Temporary {
    fn write(target: &Path, pid: u32) -> Result<(Self, Locked), PidfileError> {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        let path = directory(target).join(format!(".{name}.{}", std::process::id()));
        let fail = |action: &str, error| system(target, format!("{action} `{}`", path.display()), error);
        let file = match Self::create(&path) {
            // A dead process that had the same pid has left such a file.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && open_existing(&path)?.is_some() => {
                fs::remove_file(&path).and_then(|()| Self::create(&path))
            }
            created => created,
        };
        let file = file.map_err(|error| fail("create", error))?;
        let new = Self(path.clone());
        let file = lock::lock_new(file).map_err(|error| fail("lock", error))?;
        // Readable for all, whatever the umask: other programs must be able to read it.
        through_seam(Call::Chmod, || file.set_permissions(fs::Permissions::from_mode(0o644)))
            .map_err(|error| fail("set the mode of", error))?;
        let mut contents: &File = &file;
        through_seam(Call::WritePidfile, || contents.write_all(format!("{pid}\n").as_bytes()))
            .map_err(|error| fail("write", error))?;
        Ok((new, file))
    }

    fn create(path: &Path) -> io::Result<File> {
        let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600).custom_flags(flags.bits());
        through_seam(Call::CreatePidfile, || options.open(path))
    }

    /// Replaces the target, whatever pid is in it. Returns that pid.
    fn replace(&self, target: &Path) -> Result<Option<u32>, PidfileError> {
        let existing = match open_existing(target) {
            // It was psflip's a moment ago, so it is replaced even if it can't be opened
            // for lack of descriptors.
            Err(PidfileError::System { .. }) => None,
            looked => looked?,
        };
        self.rename(target)?;
        Ok(existing.and_then(|existing| existing.pid))
    }

    fn rename(&self, target: &Path) -> Result<(), PidfileError> {
        through_seam(Call::Rename, || fs::rename(&self.0, target))
            .map_err(|error| system(target, "replace it", error))
    }

    /// Replaces the target if no running psflip holds it. Returns the pid that was in it. Of
    /// several processes that try this at the same time one succeeds: only one can create the name,
    /// or have the turn to replace a stale file.
    fn replace_unheld(&self, target: &Path) -> Result<Option<u32>, PidfileError> {
        let mut turn = None;
        for _ in 0..ATTEMPTS {
            let existing = open_existing(target)?;
            if existing.is_none() {
                let renamed = seam::before(Call::Rename).and_then(|()| {
                    renameat2(AT_FDCWD, &self.0, AT_FDCWD, target, RenameFlags::RENAME_NOREPLACE)
                });
                match renamed {
                    Ok(()) => return Ok(None),
                    Err(Errno::EEXIST) => continue, // another process was faster: look again
                    // This file system (NFS) lacks the flag, so the turn also decides
                    // between two first starts.
                    Err(Errno::EINVAL) if turn.is_some() => return self.rename(target).map(|()| None),
                    Err(Errno::EINVAL) => {}
                    Err(errno) => return Err(system(target, "create it", errno.into())),
                }
            }
            if turn.is_none() {
                turn = Some(take_turn(target)?);
                continue; // the file may have been replaced until this process got the turn
            }
            if let Some(existing) = existing {
                existing.refuse_held(target)?;
                // The file may have been replaced after it was opened.
                if is_at(&existing.file, target) {
                    return self.rename(target).map(|()| existing.pid);
                }
            }
        }
        Err(contended(target))
    }
}

/// See [`Turn`].
fn take_turn(target: &Path) -> Result<Turn, PidfileError> {
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
