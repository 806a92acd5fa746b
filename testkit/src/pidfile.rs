//! Reads a pidfile, waits for changes (inotify(7)), and records its history (contract P1).

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::pidfd::PidFd;
use crate::process::Process;
use crate::report;
use crate::wait::{Deadline, poll_readable};

/// The content of a pidfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The file doesn't exist.
    Missing,
    /// A decimal pid and a newline.
    Pid(u32),
    /// Anything else: the text, or why it could not be read.
    Malformed(String),
}

impl Content {
    /// Reads the file now; strict, as contract P1 specifies.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        match std::fs::read(path) {
            Ok(bytes) => Self::parse(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Missing,
            Err(error) => Self::Malformed(format!("can't be read: {error}")),
        }
    }

    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let pid = text.strip_suffix('\n').and_then(|digits| digits.parse::<u32>().ok());
        match pid {
            Some(pid) if pid > 0 && format!("{pid}\n") == text => Self::Pid(pid),
            _ => Self::Malformed(text.into_owned()),
        }
    }
}

/// The process that the pidfile names, if it is alive.
#[must_use]
pub fn named_process(path: &Path) -> Option<Process> {
    let mut content = Content::read(path);
    loop {
        let Content::Pid(pid) = content else { return None };
        if let Some(process) = Process::find(pid).filter(Process::is_alive) {
            return Some(process);
        }
        // An upgrade may have replaced the file between the two steps: then it now names another process.
        let now = Content::read(path);
        if now == content {
            return None;
        }
        content = now;
    }
}

/// Reports changes of one name in a folder.
#[derive(Debug)]
pub(crate) struct NameWatch {
    inotify: Inotify,
    name: OsString,
}

impl NameWatch {
    pub(crate) fn new(path: &Path) -> Result<Self, String> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(format!("`{}` is not the path of a file", path.display()));
        };
        let failed = |error: nix::errno::Errno| format!("`{}` can't be watched: {error}", dir.display());
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).map_err(failed)?;
        let flags = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MODIFY;
        inotify.add_watch(dir, flags).map_err(failed)?;
        Ok(Self { inotify, name: name.to_owned() })
    }

    /// Takes all pending events; returns their kinds for the watched name.
    pub(crate) fn take(&self) -> AddWatchFlags {
        let mut kinds = AddWatchFlags::empty();
        while let Ok(events) = self.inotify.read_events() {
            for event in events.iter().filter(|event| event.name.as_ref() == Some(&self.name)) {
                kinds |= event.mask;
            }
        }
        kinds
    }
}

impl AsFd for NameWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// One content of the pidfile, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When the content was first seen, since the start of the sandbox, or of the watch if it has none.
    pub at: Duration,
    /// The content.
    pub content: Content,
}

/// Watches a pidfile from another thread, even before it exists, and checks that it names a living process at
/// every moment.
///
/// It doesn't poll: it wakes up at every change (inotify) and when the named process exits (its pidfd). Two
/// changes within about 100 µs may be seen as one. Every [`crate::Psflip`] has one:
/// [`crate::Psflip::history`].
#[derive(Debug)]
pub struct PidfileHistory {
    path: PathBuf,
    shared: Arc<Shared>,
    /// A byte requests another look; closing it stops the thread.
    bell: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    seen: Mutex<Seen>,
    looked: Condvar,
}

#[derive(Debug, Default)]
struct Seen {
    entries: Vec<Entry>,
    /// Moments at which it named an exited process, or was not replaced by rename.
    dead: Vec<(Duration, String)>,
    in_place: Vec<(Duration, String)>,
    /// The numbers of looks requested and done.
    asked: u64,
    done: u64,
}

impl PidfileHistory {
    /// Starts to watch `path`. Its folder must exist; the file need not.
    ///
    /// # Panics
    /// If the folder can't be watched.
    #[track_caller]
    #[must_use]
    pub fn watch(path: impl AsRef<Path>) -> Self {
        Self::watch_since(path, Instant::now())
    }

    /// [`Self::watch`] with times since `started`.
    #[track_caller]
    pub(crate) fn watch_since(path: impl AsRef<Path>, started: Instant) -> Self {
        let path = path.as_ref().to_owned();
        let watch = match NameWatch::new(&path) {
            Ok(watch) => watch,
            Err(error) => report::fail(&error),
        };
        let shared = Arc::new(Shared { started, seen: Mutex::default(), looked: Condvar::new() });
        let (ear, bell) = io::pipe().expect("pipe2(2) gives a pipe");
        let thread = std::thread::Builder::new().name("testkit-pidfile".into());
        let (copy, watched) = (Arc::clone(&shared), path.clone());
        let thread = thread.spawn(move || copy.run(&watched, &watch, ear)).expect("a thread can be started");
        let history = Self { path, shared, bell: Some(bell), thread: Some(thread) };
        drop(history.look()); // from here on every change is seen
        history
    }

    /// The watched file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every content so far, including the current one.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.look().entries.clone()
    }

    /// The pids that it has named so far, in order.
    #[must_use]
    pub fn pids(&self) -> Vec<u32> {
        let entries = self.entries();
        entries
            .iter()
            .filter_map(|entry| if let Content::Pid(pid) = entry.content { Some(pid) } else { None })
            .collect()
    }

    /// Asserts that the file was never missing, empty or malformed since it first existed. Its final removal
    /// by a process that has exited since is allowed (contract P2).
    ///
    /// # Panics
    /// Otherwise, with the history.
    #[track_caller]
    pub fn assert_never_missing(&self) {
        let entries = self.entries();
        let mut last_pid = None;
        let mut bad = Vec::new();
        for (index, entry) in entries.iter().enumerate() {
            match &entry.content {
                Content::Pid(pid) => last_pid = Some(*pid),
                Content::Missing => {
                    let Some(pid) = last_pid else { continue }; // not yet written
                    let at_the_end = index + 1 == entries.len();
                    if !(at_the_end && Process::find(pid).is_none_or(|process| !process.is_alive())) {
                        bad.push(entry.clone());
                    }
                }
                Content::Malformed(_) => bad.push(entry.clone()),
            }
        }
        if last_pid.is_none() {
            report::fail(&format!("the pidfile `{}` has never named a process", self.path.display()));
        }
        if !bad.is_empty() {
            report::fail(&format!(
                "the pidfile `{}` was not there at every moment: {bad:?}",
                self.path.display()
            ));
        }
    }

    /// Asserts that the file never named a process that had exited.
    ///
    /// # Panics
    /// Otherwise, with the history.
    #[track_caller]
    pub fn assert_always_alive(&self) {
        let dead = self.look().dead.clone();
        if !dead.is_empty() {
            report::fail(&format!(
                "the pidfile `{}` named a process that had exited: {dead:?}",
                self.path.display()
            ));
        }
    }

    /// Asserts that the file was always replaced by rename, never written in place. Creating it in place is
    /// an error too.
    ///
    /// # Panics
    /// Otherwise, with the history.
    #[track_caller]
    pub fn assert_atomic(&self) {
        let in_place = self.look().in_place.clone();
        if !in_place.is_empty() {
            report::fail(&format!(
                "the pidfile `{}` was written in place: {in_place:?}",
                self.path.display()
            ));
        }
    }

    /// Requests one more look of the thread, so that the history is complete up to now.
    fn look(&self) -> MutexGuard<'_, Seen> {
        let mut seen = self.shared.lock();
        seen.asked += 1;
        let wanted = seen.asked;
        if let Some(mut bell) = self.bell.as_ref() {
            bell.write_all(b"l").expect("the watching thread holds the other end");
        }
        let deadline = Deadline::default();
        while seen.done < wanted && !deadline.has_expired() {
            let waited = self.shared.looked.wait_timeout(seen, deadline.remaining());
            seen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        assert!(seen.done >= wanted, "the thread that watches `{}` has exited or hangs", self.path.display());
        seen
    }

    pub(crate) fn describe(&self, text: &mut String) {
        let seen = self.shared.lock();
        let _ = writeln!(text, "--- pidfile {}", self.path.display());
        for entry in &seen.entries {
            let _ = writeln!(text, "  {:9.3} {:?}", entry.at.as_secs_f64(), entry.content);
        }
        for (at, what) in seen.dead.iter().chain(&seen.in_place) {
            let _ = writeln!(text, "  {:9.3} wrong: {what}", at.as_secs_f64());
        }
    }
}

impl Drop for PidfileHistory {
    fn drop(&mut self) {
        self.bell = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed already, and makes `look` fail.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, path: &Path, watch: &NameWatch, mut ear: PipeReader) {
        let mut named: Option<(u32, PidFd)> = None;
        let mut reported: Option<u32> = None;
        loop {
            let content = Content::read(path);
            self.record(&content);
            match content {
                Content::Pid(pid) => {
                    if named.as_ref().is_none_or(|(known, fd)| *known != pid || fd.has_exited()) {
                        named = PidFd::open(pid).ok().map(|fd| (pid, fd));
                    }
                    let ended = named.as_ref().is_none_or(|(_, fd)| fd.has_exited());
                    // The file may have been replaced since it was read: only an unchanged content named an
                    // exited process.
                    if ended && Content::read(path) == Content::Pid(pid) {
                        if reported != Some(pid) {
                            self.lock()
                                .dead
                                .push((self.started.elapsed(), format!("it named {pid}, which had exited")));
                        }
                        reported = Some(pid);
                        named = None;
                    } else if ended {
                        continue;
                    } else {
                        reported = None;
                    }
                }
                Content::Missing | Content::Malformed(_) => (named, reported) = (None, None),
            }
            let mut fds = vec![watch.as_fd(), ear.as_fd()];
            fds.extend(named.as_ref().map(|(_, fd)| fd.as_fd()));
            let ready = poll_readable(&fds, Duration::from_secs(3600));
            if ready[0] {
                let kinds = watch.take();
                if kinds.intersects(AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE) {
                    self.lock().in_place.push((self.started.elapsed(), "it was written in place".to_owned()));
                }
            }
            if ready[1] {
                let mut bytes = [0; 64];
                let Ok(count @ 1..) = ear.read(&mut bytes) else { return };
                self.record(&Content::read(path));
                self.lock().done += count as u64;
                self.looked.notify_all();
            }
        }
    }

    fn record(&self, content: &Content) {
        let at = self.started.elapsed();
        let mut seen = self.lock();
        if seen.entries.last().is_none_or(|last| last.content != *content) {
            seen.entries.push(Entry { at, content: content.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_decimal_pid_and_a_newline_is_a_pid() {
        assert_eq!(Content::parse(b"123\n"), Content::Pid(123));
        for text in ["", "123", "0\n", "+1\n", "01\n", " 1\n", "1\n\n", "x\n", "99999999999\n"] {
            assert!(matches!(Content::parse(text.as_bytes()), Content::Malformed(_)), "{text:?}");
        }
    }
}
