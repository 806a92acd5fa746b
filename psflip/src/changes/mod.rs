//! `psflip run --watch PATH`: which files changed since the generation began (contract R4, R5).
//!
//! inotify(7) only reports that something happened. What has changed is found by a comparison of all files,
//! when they have been left alone for a moment. So a file that comes and goes is no change, the dozen events
//! of an editor that saves a file are one, and a lost event costs nothing.
//!
//! The new generation begins to watch before it starts its child, and the old one goes on until the new one
//! is the service. So no change is missed; one that both see is one request: requests are queued once.

mod ignore;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor};

use crate::text;
use ignore::Ignored;

/// How long the files must be left alone.
const SETTLE: Duration = Duration::from_millis(200);

/// Files that change all the time count after this time.
const LONGEST_SETTLE: Duration = Duration::from_secs(10);

/// How many directories and files are watched at most.
const MOST_DIRECTORIES: usize = if cfg!(test) { 100 } else { 10_000 };
const MOST_FILES: usize = if cfg!(test) { 5_000 } else { 100_000 };

/// The watched events of a directory. A file that is being written counts when it is closed.
const EVENTS: AddWatchFlags = AddWatchFlags::IN_CLOSE_WRITE
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_ONLYDIR);

/// The watched files, and how they were when they were last compared.
#[derive(Debug)]
pub struct Changes {
    inotify: Inotify,
    /// Absolute, as the user named them.
    roots: Vec<PathBuf>,
    /// psflip's working directory.
    here: PathBuf,
    ignored: Ignored,
    directories: HashMap<WatchDescriptor, Directory>,
    files: BTreeMap<PathBuf, Stamp>,
    /// When something happened for the first time since the last comparison.
    since: Option<Instant>,
}

/// A watched directory.
#[derive(Clone, Debug)]
struct Directory {
    path: PathBuf,
    /// Only these of its entries count; `None`: all.
    only: Option<BTreeSet<OsString>>,
}

/// These change when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// What a walk over all roots has found.
#[derive(Default)]
struct Found {
    directories: HashMap<WatchDescriptor, Directory>,
    files: BTreeMap<PathBuf, Stamp>,
}

impl Changes {
    /// Watches these files and directories, with everything below them. `own`: files that psflip writes.
    ///
    /// # Errors
    /// What is wrong and what to do, in one line: a path does not exist, there is too much below it, or a
    /// limit of inotify(7) is reached.
    pub fn watch(paths: &[PathBuf], own: impl Iterator<Item = PathBuf>) -> Result<Self, String> {
        let absolute = |path: &Path| {
            std::path::absolute(path)
                .map_err(|error| failed(path, &format!("it has no absolute path: {error}")))
        };
        let roots = paths.iter().map(|path| absolute(path)).collect::<Result<Vec<_>, _>>()?;
        for (root, path) in roots.iter().zip(paths) {
            fs::metadata(root).map_err(|error| failed(path, &reason(&error)))?;
        }
        let here = std::env::current_dir().unwrap_or_default();
        let own = own.filter_map(|path| std::path::absolute(path).ok()).collect();
        let directories = roots.iter().filter(|root| **root != here && root.is_dir());
        let ignored = Ignored::read(std::iter::once(&*here).chain(directories.map(PathBuf::as_path)), own);
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        let inotify = inotify.map_err(|errno| failed(&paths[0], &limit(errno)))?;
        let mut changes = Self {
            inotify,
            roots,
            here,
            ignored,
            directories: HashMap::new(),
            files: BTreeMap::new(),
            since: None,
        };
        changes.compare()?;
        Ok(changes)
    }

    /// How many directories and files there are.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        (self.directories.len(), self.files.len())
    }

    /// Reads what has happened. Returns how long to wait until [`Changes::compare`]; `None`: nothing happened
    /// that could matter.
    pub fn on_ready(&mut self) -> Option<Duration> {
        let mut matters = false;
        loop {
            match self.inotify.read_events() {
                Ok(events) if events.is_empty() => break,
                Ok(events) => {
                    for event in events {
                        matters |= self.matters(&event);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(_) => break, // EAGAIN
            }
        }
        matters.then(|| {
            let began = self.since.get_or_insert_with(Instant::now);
            SETTLE.min(LONGEST_SETTLE.saturating_sub(began.elapsed()))
        })
    }

    fn matters(&mut self, event: &InotifyEvent) -> bool {
        if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            return true;
        }
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            self.directories.remove(&event.wd); // it is gone, and its parent's event counts
            return false;
        }
        let (Some(directory), Some(name)) = (self.directories.get(&event.wd), &event.name) else {
            return false;
        };
        let is_directory = event.mask.contains(AddWatchFlags::IN_ISDIR);
        let path = directory.path.join(name);
        let is_root = match &directory.only {
            Some(only) if !only.contains(name) => return false,
            Some(_) => true,
            None if self.ignored.contains(&path, is_directory) => return false,
            None => false,
        };
        if is_directory && event.mask.intersects(AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO) {
            self.watch_new(&path);
        }
        if is_directory || is_root {
            return true;
        }
        if event.mask.intersects(AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM) {
            return self.files.contains_key(&path);
        }
        let Ok(metadata) = fs::symlink_metadata(&path) else { return false };
        // A new file is empty at first, and counts when it is closed.
        let is_being_written = event.mask.contains(AddWatchFlags::IN_CREATE) && metadata.nlink() == 1;
        metadata.is_symlink() || metadata.is_file() && !is_being_written
    }

    /// Watches a new directory at once, with those in it by now: what follows in it is part of the same
    /// change, of a branch switch for example.
    fn watch_new(&mut self, directory: &Path) {
        let mut found = Found::default();
        let _ = self.walk_below(directory, &mut found); // the comparison reports the error
        self.directories.extend(found.directories);
    }

    /// Which files have changed since the last call, sorted. One that has come and gone has not.
    ///
    /// # Errors
    /// As [`Changes::watch`]; then nothing has changed, and the next call compares again.
    pub fn compare(&mut self) -> Result<Vec<PathBuf>, String> {
        self.since = None;
        let found = self.walk()?;
        for gone in self.directories.keys().filter(|known| !found.directories.contains_key(known)) {
            let _ = self.inotify.rm_watch(*gone); // it may have gone by itself
        }
        let before = std::mem::replace(&mut self.files, found.files);
        self.directories = found.directories;
        let new = self.files.iter().filter(|(path, stamp)| before.get(*path) != Some(*stamp));
        let gone = before.keys().filter(|path| !self.files.contains_key(*path));
        let changed: BTreeSet<PathBuf> = new.map(|(path, _)| path).chain(gone).cloned().collect();
        Ok(changed.into_iter().collect())
    }

    /// `src/app.py and 3 more`.
    #[must_use]
    pub fn in_words(&self, changed: &[PathBuf]) -> String {
        let Some(first) = changed.first() else { return String::new() };
        let name = text::head(&text::lossy(first.strip_prefix(&self.here).unwrap_or(first)), 200);
        match changed.len() - 1 {
            0 => name,
            more => format!("{name} and {more} more"),
        }
    }

    /// Walks over all roots, and watches every directory before it is read.
    fn walk(&self) -> Result<Found, String> {
        let mut found = Found::default();
        for root in &self.roots {
            let target = fs::canonicalize(root).ok().filter(|target| target != root);
            // An editor replaces a file by rename, and so may a checkout a directory.
            for path in std::iter::once(root).chain(&target) {
                self.watch_entry(path, &mut found)?;
            }
            match fs::metadata(root) {
                Ok(metadata) if metadata.is_dir() => self.walk_below(root, &mut found)?,
                Ok(metadata) => {
                    found.files.insert(root.clone(), Stamp::of(&metadata));
                }
                Err(_) => {} // it is gone, and so are its files
            }
        }
        Ok(found)
    }

    /// Watches for one entry of its directory.
    fn watch_entry(&self, path: &Path, found: &mut Found) -> Result<(), String> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
        let Some(wd) = self.add(parent)? else { return Ok(()) };
        let fresh = || Directory { path: parent.to_owned(), only: Some(BTreeSet::new()) };
        if let Some(only) = &mut found.directories.entry(wd).or_insert_with(fresh).only {
            only.insert(name.to_owned());
        }
        Ok(())
    }

    fn walk_below(&self, root: &Path, found: &mut Found) -> Result<(), String> {
        let mut left = vec![root.to_owned()];
        while let Some(directory) = left.pop() {
            let Some(wd) = self.add(&directory)? else { continue };
            found.directories.insert(wd, Directory { path: directory.clone(), only: None });
            Self::is_bounded(root, found)?;
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten() {
                let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
                if self.ignored.contains(&path, kind.is_dir()) {
                    continue;
                }
                if kind.is_dir() {
                    left.push(path);
                } else if (kind.is_file() || kind.is_symlink())
                    && let Ok(metadata) = entry.metadata()
                {
                    found.files.insert(path, Stamp::of(&metadata));
                    Self::is_bounded(root, found)?;
                }
            }
        }
        Ok(())
    }

    fn is_bounded(root: &Path, found: &Found) -> Result<(), String> {
        if found.directories.len() <= MOST_DIRECTORIES && found.files.len() <= MOST_FILES {
            return Ok(());
        }
        Err(failed(
            root,
            &format!(
                "there are more than {MOST_DIRECTORIES} directories or {MOST_FILES} files; name fewer paths, or let `.gitignore` name what does not matter"
            ),
        ))
    }

    /// Watches a directory. `None`: it is gone, or psflip may not read it.
    fn add(&self, directory: &Path) -> Result<Option<WatchDescriptor>, String> {
        match self.inotify.add_watch(directory, EVENTS) {
            Ok(wd) => Ok(Some(wd)),
            Err(errno @ (Errno::ENOSPC | Errno::ENOMEM)) => Err(failed(directory, &limit(errno))),
            Err(_) => Ok(None),
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

fn failed(path: &Path, why: &str) -> String {
    format!("can't watch `{}`: {why}", text::lossy(path))
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        _ => error.to_string(),
    }
}

/// Which limit is reached.
fn limit(errno: Errno) -> String {
    match errno {
        Errno::ENOSPC => {
            "this user's inotify watches are used up; name fewer paths, or raise `fs.inotify.max_user_watches`".to_owned()
        }
        Errno::EMFILE => {
            "this user's inotify instances are used up; raise `fs.inotify.max_user_instances`".to_owned()
        }
        errno => io::Error::from(errno).to_string(),
    }
}

#[cfg(test)]
mod tests;
