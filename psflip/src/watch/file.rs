//! A pidfile that another program writes: which process it names, reported whenever the
//! file changes (inotify(7)).
//!
//! A pidfile that has not changed since it was read contains nothing new, so each name counts once. A name
//! that was there before the command was started, or whose process has exited, is stale for good, even if
//! another process has that pid by now.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::sys::seam::{self, Call};

/// The watched events of a directory. A write into the file is IN_MODIFY; closing it means nothing.
const EVENTS: AddWatchFlags = AddWatchFlags::IN_CREATE
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MODIFY)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// The events that may change the content of a file.
const TOUCHES: AddWatchFlags =
    AddWatchFlags::IN_CREATE.union(AddWatchFlags::IN_MOVED_TO).union(AddWatchFlags::IN_MODIFY);

/// The content of the pidfile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// There is no pidfile.
    Missing,
    /// The same content as when [`Pidfile::judged`] was called.
    Unchanged,
    /// Not a pid, or not yet: a program may be writing it.
    Nobody,
    /// The pid of this process.
    Pid(u32),
}

/// A version of the file. It changes with every rename over the file and every write into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    device: u64,
    inode: u64,
    size: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
}

/// A watched pidfile.
#[derive(Debug)]
pub(super) struct Pidfile {
    path: PathBuf,
    inotify: Inotify,
    /// The directory of the pidfile, and that of the file if the pidfile is a symlink; or the nearest
    /// existing directories above.
    watched: Vec<WatchDescriptor>,
    /// The version that was read last, and the version that has been processed.
    read: Option<Version>,
    judged: Option<Version>,
    /// The file was written since then.
    touched: bool,
}

impl Pidfile {
    /// Watches this path. Content that is already there counts as stale.
    ///
    /// # Errors
    /// EMFILE: the user's inotify instances (`fs.inotify.max_user_instances`) are used up. ENOSPC: the user's
    /// watches (`fs.inotify.max_user_watches`) are. EACCES: a directory can't be read.
    pub(super) fn watch(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let path = std::path::absolute(path)?;
        let mut pidfile =
            Self { path, inotify, watched: Vec::new(), read: None, judged: None, touched: false };
        pidfile.arm()?;
        pidfile.read();
        pidfile.judged();
        Ok(pidfile)
    }

    /// Reads the events of the file.
    ///
    /// # Errors
    /// As [`Pidfile::watch`].
    pub(super) fn take_events(&mut self) -> io::Result<()> {
        let mut any = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) => {
                    any |= !events.is_empty();
                    let target = fs::read_link(&self.path).ok();
                    let is_ours = |name: &OsStr| {
                        Some(name) == self.path.file_name()
                            || target.as_ref().is_some_and(|target| Some(name) == target.file_name())
                    };
                    let touched = events.iter().any(|event| {
                        event.mask.intersects(TOUCHES) && event.name.as_deref().is_some_and(is_ours)
                    });
                    if touched {
                        self.judged = None;
                        self.touched = true;
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if any { self.arm() } else { Ok(()) }
    }

    /// The content of the file. Call it after [`Pidfile::take_events`].
    pub(super) fn read(&mut self) -> Content {
        match self.look() {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.read = None;
                Content::Missing
            }
            Err(_) => Content::Nobody,
        }
    }

    fn look(&mut self) -> io::Result<Content> {
        seam::before(Call::OpenPidfile)?;
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&self.path)?;
        // A change after this fstat(2) sends an event.
        let there = file.metadata()?;
        if !there.is_file() {
            return Ok(Content::Nobody);
        }
        let version = Version {
            device: there.dev(),
            inode: there.ino(),
            size: there.size(),
            modified: (there.mtime(), there.mtime_nsec()),
        };
        self.read = Some(version);
        if self.judged == Some(version) {
            return Ok(Content::Unchanged);
        }
        Ok(first_pid(&file)?.map_or(Content::Nobody, Content::Pid))
    }

    /// Marks the content that was read last as processed: it counts as unchanged until
    /// the file is written again.
    pub(super) fn judged(&mut self) {
        self.judged = self.read;
        self.touched = false;
    }

    /// Whether the file was written since then. If it is missing now, a name was missed.
    pub(super) fn is_touched(&self) -> bool {
        self.touched
    }

    /// Watches the directories that matter now.
    fn arm(&mut self) -> io::Result<()> {
        let mut directories = vec![self.directory()];
        if let Ok(target) = fs::canonicalize(&self.path)
            && let Some(directory) = target.parent()
        {
            directories.push(directory.to_owned());
        }
        let mut watched = Vec::new();
        for directory in directories {
            let descriptor = self.arm_nearest(&directory)?;
            if !watched.contains(&descriptor) {
                watched.push(descriptor);
            }
        }
        for old in std::mem::replace(&mut self.watched, watched) {
            if !self.watched.contains(&old) {
                let _ = self.inotify.rm_watch(old); // a removed directory took its watch along
            }
        }
        Ok(())
    }

    /// Watches a directory or, as long as it doesn't exist, the nearest existing one above it.
    fn arm_nearest(&self, directory: &Path) -> io::Result<WatchDescriptor> {
        let mut before = None;
        loop {
            let mut found = None;
            for place in directory.ancestors() {
                match self.inotify.add_watch(place, EVENTS) {
                    Ok(descriptor) => {
                        found = Some((place, descriptor));
                        break;
                    }
                    Err(Errno::ENOENT | Errno::ENOTDIR) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
            let Some((place, descriptor)) = found else { return Err(Errno::ENOENT.into()) };
            // The next directory may have been created just before this one was watched.
            if place == directory || before == Some(place) {
                return Ok(descriptor);
            }
            before = Some(place);
        }
    }

    fn directory(&self) -> PathBuf {
        self.path.parent().map_or_else(|| PathBuf::from("/"), Path::to_owned)
    }
}

impl AsFd for Pidfile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// The pid at the beginning of the file. Some programs write more lines below it.
fn first_pid(file: &File) -> io::Result<Option<u32>> {
    let mut text = String::new();
    match file.take(64).read_to_string(&mut text) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
        other => drop(other?),
    }
    let word = text.split_ascii_whitespace().next().unwrap_or_default();
    let is_number = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    Ok(word.parse().ok().filter(|pid: &u32| is_number && *pid > 0 && i32::try_from(*pid).is_ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now(pidfile: &mut Pidfile) -> Content {
        pidfile.take_events().unwrap();
        pidfile.read()
    }

    #[test]
    fn an_existing_pidfile_is_stale_until_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        fs::write(&path, "12\n").unwrap();
        let mut pidfile = Pidfile::watch(&path).unwrap();
        assert_eq!(now(&mut pidfile), Content::Unchanged);
        drop(OpenOptions::new().write(true).open(&path).unwrap()); // opened, perhaps locked, and closed
        assert_eq!(now(&mut pidfile), Content::Unchanged);
        fs::write(&path, "12\n").unwrap();
        assert_eq!(now(&mut pidfile), Content::Pid(12));
        assert_eq!(now(&mut pidfile), Content::Pid(12), "until it is judged");
        pidfile.judged();
        assert_eq!(now(&mut pidfile), Content::Unchanged);
        fs::write(directory.path().join("new"), "12\n").unwrap();
        fs::rename(directory.path().join("new"), &path).unwrap();
        assert_eq!(now(&mut pidfile), Content::Pid(12), "another file");
        pidfile.judged();
        fs::remove_file(&path).unwrap();
        assert_eq!(now(&mut pidfile), Content::Missing);
        assert!(!pidfile.is_touched(), "it was read before");
        fs::write(&path, "13\n").unwrap();
        fs::remove_file(&path).unwrap();
        assert_eq!(now(&mut pidfile), Content::Missing);
        assert!(pidfile.is_touched());
        fs::write(&path, "13\n").unwrap();
        assert_eq!(now(&mut pidfile), Content::Pid(13));
    }

    #[test]
    fn only_a_number_counts_as_a_pid() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.pid");
        let mut pidfile = Pidfile::watch(&path).unwrap();
        for (text, wanted) in [
            ("", Content::Nobody),
            ("0\n", Content::Nobody),
            ("-5\n", Content::Nobody),
            ("+5\n", Content::Nobody),
            ("4294967296", Content::Nobody),
            ("4294967295", Content::Nobody),
            ("12x\n", Content::Nobody),
            ("\u{fffd}\n", Content::Nobody),
            ("77", Content::Pid(77)),
            (" 77 \n/var/lib/x\n", Content::Pid(77)),
        ] {
            fs::write(&path, text).unwrap();
            assert_eq!(now(&mut pidfile), wanted, "{text:?}");
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert_eq!(now(&mut pidfile), Content::Nobody);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(now(&mut pidfile), Content::Nobody);
    }

    #[test]
    fn new_directories_and_symlink_targets_are_watched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/app/x.pid");
        let mut pidfile = Pidfile::watch(&path).unwrap();
        assert_eq!(now(&mut pidfile), Content::Missing);
        fs::create_dir(directory.path().join("run")).unwrap();
        assert_eq!(now(&mut pidfile), Content::Missing);
        fs::create_dir(directory.path().join("run/app")).unwrap();
        fs::write(&path, "5").unwrap();
        assert_eq!(now(&mut pidfile), Content::Pid(5));
        pidfile.judged();
        fs::write(&path, "6").unwrap();
        assert_eq!(now(&mut pidfile), Content::Pid(6), "its directory is watched now");
        pidfile.judged();
        let elsewhere = directory.path().join("elsewhere");
        fs::write(&elsewhere, "7").unwrap();
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert_eq!(now(&mut pidfile), Content::Pid(7));
        pidfile.judged();
        assert_eq!(now(&mut pidfile), Content::Unchanged);
        fs::write(&elsewhere, "7").unwrap();
        assert_eq!(now(&mut pidfile), Content::Pid(7), "it was written again, elsewhere");
    }
}
