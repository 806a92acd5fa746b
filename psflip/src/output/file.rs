//! A file to whose end output is written.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, fchown};

use crate::config::FileOptions;
use crate::sys::seam::{self, Call};

/// A file, opened by its path now and then.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    options: FileOptions,
    /// `None`: it could not be opened.
    file: Option<File>,
    /// How much could not be written, in bytes, since it last could.
    lost: u64,
    /// The last write ended within a line.
    is_torn: bool,
}

/// How often to try again if the file appears or disappears while it is opened.
const TRIES: u32 = 10;

/// The mode of a new file without `output.mode`, of which the umask takes its part.
const READ_AND_WRITE: u32 = 0o666;

impl LogFile {
    /// Opens the file, or creates it with these options.
    ///
    /// # Errors
    /// As text: ENOENT, EACCES, EROFS, ENOSPC, ..., or it is a symbolic link or not a regular file.
    pub fn open(path: &Path, options: &FileOptions) -> Result<Self, String> {
        let mut file = Self::unopened(path, options);
        file.reopen()?;
        Ok(file)
    }

    /// A file that is opened when it is written to.
    #[must_use]
    pub fn unopened(path: &Path, options: &FileOptions) -> Self {
        Self { path: path.to_owned(), options: options.clone(), file: None, lost: 0, is_torn: false }
    }

    /// The path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the path again. If that fails, the file that was open stays open.
    ///
    /// # Errors
    /// As [`LogFile::open`].
    pub fn reopen(&mut self) -> Result<(), String> {
        let opened = open_or_create(&self.path, &self.options);
        let file = opened.map_err(|error| format!("can't open `{}`: {error}", self.path.display()))?;
        self.file = Some(file);
        self.is_torn = false;
        Ok(())
    }

    /// The open file.
    #[must_use]
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Appends these bytes. What can't be written is lost, and the log says so (contract N5).
    pub fn append(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return; // that would not show whether anything can be written
        }
        let result = match &self.file {
            Some(_) => Ok(()),
            None => self.reopen(),
        };
        let mut rest = bytes;
        let result = result.and_then(|()| {
            if self.is_torn {
                self.write(&mut b"\n".as_slice())?;
                self.is_torn = false;
            }
            self.write(&mut rest)
        });
        match result {
            Ok(()) if self.lost > 0 => {
                tracing::warn!(
                    file = %self.path.display(),
                    lost_bytes = self.lost,
                    "the child's output is written again"
                );
                self.lost = 0;
            }
            Ok(()) => {}
            Err(error) => {
                if self.lost == 0 {
                    let file = self.path.display();
                    tracing::error!(%file, error, "can't write the child's output, which is lost until that is possible again");
                }
                let written = &bytes[..bytes.len() - rest.len()];
                self.is_torn |= written.last().is_some_and(|last| *last != b'\n');
                self.lost += rest.len() as u64;
            }
        }
    }

    /// Appends the last bytes.
    pub fn end(&mut self, bytes: &[u8]) {
        self.append(bytes);
        if self.lost > 0 {
            tracing::warn!(
                file = %self.path.display(),
                lost_bytes = self.lost,
                "the child's output has ended, and its last part is lost"
            );
        }
    }

    fn write(&self, rest: &mut &[u8]) -> Result<(), String> {
        let Some(mut file) = self.file.as_ref() else { return Ok(()) };
        while !rest.is_empty() {
            let written = seam::before(Call::WriteOutput).map_err(io::Error::from);
            match written.and_then(|()| file.write(rest)) {
                Ok(0) => return Err("nothing was written".to_owned()),
                Ok(length) => *rest = &rest[length..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }
}

fn open_or_create(path: &Path, options: &FileOptions) -> io::Result<File> {
    // A name that is unknown must not leave a file with the wrong owner behind. Names are looked up only for
    // a file that is missing.
    let mut owners = None;
    let mut opened = open(path, None);
    for _ in 0..TRIES {
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.and_then(regular),
        }
        let owners = match owners {
            Some(known) => known,
            None => *owners.insert(owners_of(options)?),
        };
        match open(path, Some(options.mode.unwrap_or(READ_AND_WRITE))) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => opened = open(path, None),
            created => return created.and_then(|file| configured(file, path, options, owners)),
        }
    }
    opened
}

/// Opens a file that is there, or creates one with this mode.
///
/// # Errors
/// Those of open(2), and that it is a symbolic link: a user who may write to the directory could lead the
/// output into any file that psflip can write to.
fn open(path: &Path, new: Option<u32>) -> io::Result<File> {
    seam::before(Call::OpenOutput)?;
    let mut how = OpenOptions::new();
    // Without O_NONBLOCK, a FIFO would wait for its reader.
    how.append(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW);
    if let Some(mode) = new {
        how.create_new(true).mode(mode);
    }
    how.open(path).map_err(no_link)
}

/// What ELOOP means with O_NOFOLLOW.
pub(crate) fn no_link(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ELOOP) => io::Error::other("it is a symbolic link, which psflip does not follow"),
        _ => error,
    }
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

type Owners = (Option<Uid>, Option<Gid>);

/// Looks up the owner and the group of a new file.
///
/// # Errors
/// There is no such user or group.
fn owners_of(options: &FileOptions) -> io::Result<Owners> {
    let unknown = |kind: &str, name: &str| io::Error::other(format!("there is no {kind} `{name}`"));
    let owner = options.owner.as_deref().map(|name| match name.parse() {
        Ok(number) => Ok(Uid::from_raw(number)),
        Err(_) => {
            User::from_name(name).ok().flatten().map(|user| user.uid).ok_or_else(|| unknown("user", name))
        }
    });
    let group = options.group.as_deref().map(|name| match name.parse() {
        Ok(number) => Ok(Gid::from_raw(number)),
        Err(_) => {
            Group::from_name(name).ok().flatten().map(|group| group.gid).ok_or_else(|| unknown("group", name))
        }
    });
    Ok((owner.transpose()?, group.transpose()?))
}

/// Gives a new file its permissions and owner. If that fails, the file is removed: the next start would take
/// it as it is.
fn configured(file: File, path: &Path, options: &FileOptions, owners: Owners) -> io::Result<File> {
    let configure = || {
        if owners != (None, None) {
            seam::before(Call::Chown)?;
            fchown(&file, owners.0, owners.1)?;
        }
        if let Some(mode) = options.mode {
            seam::before(Call::Chmod)?; // the umask may have taken some of it, and chown(2) others
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        Ok(())
    };
    let Err(error) = configure() else { return Ok(file) };
    let (there, own) = (fs::symlink_metadata(path), file.metadata());
    if let (Ok(there), Ok(own)) = (there, own)
        && (there.dev(), there.ino()) == (own.dev(), own.ino())
    {
        let _ = fs::remove_file(path); // another process may have done so
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use std::os::unix::fs::symlink;

    #[test]
    fn neither_a_symlink_nor_a_fifo_is_written_to() {
        // Contract: N9
        let room = tempfile::tempdir().unwrap();
        let (victim, path) = (room.path().join("victim"), room.path().join("out.log"));
        fs::write(&victim, "as it was").unwrap();
        let mut file = LogFile::open(&path, &FileOptions::default()).unwrap();
        for target in ["victim", "missing", "out.log"] {
            fs::remove_file(&path).unwrap();
            symlink(target, &path).unwrap();
            let error = file.reopen().unwrap_err();
            assert!(error.ends_with("it is a symbolic link, which psflip does not follow"), "{error}");
            assert!(LogFile::open(&path, &FileOptions::default()).is_err());
        }
        assert_eq!(fs::read_to_string(victim).unwrap(), "as it was");
        assert!(!room.path().join("missing").exists());
        fs::remove_file(&path).unwrap();
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(file.reopen().is_err(), "ENXIO: nobody reads");
    }

    #[test]
    fn a_file_that_can_not_get_its_owner_does_not_stay() {
        // Contract: N5
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("out.log");
        let unknown = FileOptions { group: Some("no-such-group".to_owned()), ..FileOptions::default() };
        let error = LogFile::open(&path, &unknown).unwrap_err();
        assert!(error.ends_with("there is no group `no-such-group`"), "{error}");
        assert!(!path.exists());
        let file = open(&path, Some(0o600)).unwrap();
        let none = (Some(Uid::from_raw(u32::MAX - 1)), None);
        let given = configured(file, &path, &FileOptions::default(), none);
        // Only root may give files away.
        assert_eq!(given.is_ok(), nix::unistd::geteuid().is_root());
        assert_eq!(path.exists(), given.is_ok());
    }

    #[test]
    fn the_end_of_the_output_is_not_taken_for_room_on_the_disk() {
        // Contract: N5
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("missing").join("out.log");
        let mut file = LogFile::unopened(&path, &FileOptions::default());
        file.append(b"one\n");
        assert_eq!(file.lost, 4);
        fs::create_dir(path.parent().unwrap()).unwrap();
        file.append(b"");
        assert_eq!(file.lost, 4, "nothing was written");
        file.append(b"two\n");
        assert_eq!((file.lost, fs::read_to_string(&path).unwrap().as_str()), (0, "two\n"));
    }
}
