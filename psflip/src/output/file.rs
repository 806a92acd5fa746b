//! A file to whose end output is written.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
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

impl LogFile {
    /// Opens the file, or creates it with these options.
    ///
    /// # Errors
    /// As text: ENOENT, EACCES, EROFS, ENOSPC, ..., or it is not a regular file.
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
    // Without O_NONBLOCK, a FIFO would wait for its reader.
    let open = |create: bool| {
        seam::before(Call::OpenOutput)?;
        let mut how = OpenOptions::new();
        how.append(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).create_new(create).open(path)
    };
    let mut opened = open(false);
    for _ in 0..TRIES {
        match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.and_then(regular),
        }
        match open(true) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => opened = open(false),
            created => return created.and_then(|file| configured(file, options)),
        }
    }
    opened
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

/// Gives a new file its permissions and owner.
fn configured(file: File, options: &FileOptions) -> io::Result<File> {
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
    let (owner, group) = (owner.transpose()?, group.transpose()?);
    if owner.is_some() || group.is_some() {
        seam::before(Call::Chown)?;
        fchown(&file, owner, group)?;
    }
    if let Some(mode) = options.mode {
        seam::before(Call::Chmod)?;
        file.set_permissions(Permissions::from_mode(mode))?;
    }
    Ok(file)
}
