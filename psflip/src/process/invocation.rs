//! How this psflip was started, so that its successor is started in the same way (contract U1).

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::control::protocol::{Seen, Source};
use crate::process::environment::{
    ANCHOR_STATE_VARIABLE, ANCHOR_VARIABLE, HANDOVER_VARIABLE, set_variable, variable,
};
use crate::process::launch::candidates;
use crate::sys::process;

/// What is needed to start psflip again.
#[derive(Clone, Debug)]
pub struct Program {
    /// The possible paths of its executable, in the order in which they are tried.
    pub candidates: Vec<CString>,
    /// Its arguments.
    pub argv: Vec<CString>,
    /// Its environment.
    pub envp: Vec<CString>,
}

/// How this psflip was started. The working directory is not part of it: psflip never changes its own.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The executable by its path, arguments and environment, without what a predecessor added.
    pub program: Program,
    /// The value of [`HANDOVER_VARIABLE`], which a predecessor sets.
    pub handover: Option<String>,
    /// The value of [`ANCHOR_VARIABLE`], by which a predecessor passes on the anchor.
    pub anchor: Option<String>,
    /// The executable that runs, by the path with which it was executed. The kernel keeps it under
    /// `/proc/self/exe`, whatever is at that path by now.
    executed: Option<CString>,
    running: Option<Stamp>,
}

impl Invocation {
    /// Reads it from this process.
    #[must_use]
    pub fn of_this_process() -> Self {
        let argv: Vec<CString> =
            std::env::args_os().filter_map(|argument| CString::new(argument.into_vec()).ok()).collect();
        let mut envp = process::raw_environment();
        let mut take = |name| {
            let value = variable(&envp, name).map(OsStr::to_string_lossy).map(std::borrow::Cow::into_owned);
            if value.is_some() {
                set_variable(&mut envp, name, None);
            }
            value
        };
        let (handover, anchor) = (take(HANDOVER_VARIABLE), take(ANCHOR_VARIABLE));
        take(ANCHOR_STATE_VARIABLE);
        let executed = process::executable_as_started();
        let candidates = where_to_find(argv.first(), &envp, executed.clone());
        let executed = executed.filter(|path| candidates.contains(path)).or(candidates.first().cloned());
        let running = Stamp::of(Path::new("/proc/self/exe"));
        Self { program: Program { candidates, argv, envp }, handover, anchor, executed, running }
    }

    /// For operators: the executable, and where the one of the next psflip is.
    pub(crate) fn source(&self) -> Option<Source> {
        let absolute = |path: &CString| absolute(Path::new(OsStr::from_bytes(path.to_bytes())));
        let names = texts(self.program.candidates.iter().map(absolute));
        let seen = names.map(|names| Seen::Executable { stamp: self.running.map(Stamp::text), names });
        Some(Source { path: crate::text::lossy(absolute(self.executed.as_ref()?)), changed: None, seen })
    }

    /// A variable of the environment that psflip was started with, as bytes.
    #[must_use]
    pub fn raw_variable(&self, name: &str) -> Option<OsString> {
        variable(&self.program.envp, name).map(OsStr::to_os_string)
    }

    /// A variable of the environment that psflip was started with, if it is UTF-8.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<String> {
        variable(&self.program.envp, name)?.to_str().map(str::to_owned)
    }
}

/// The identity of a file at the time when it was read, to detect later changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStamp {
    path: PathBuf,
    stamp: Option<Stamp>,
}

/// These fields change when a file is written or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    fn text(self) -> String {
        let Self { device, inode, size, modified: (seconds, nanoseconds) } = self;
        format!("{device} {inode} {size} {seconds} {nanoseconds}")
    }
}

impl FileStamp {
    /// Records the state of the file. Call this before reading the file, so that a
    /// change in between counts as one.
    #[must_use]
    pub fn look(path: &Path) -> Self {
        Self { path: path.to_owned(), stamp: Stamp::of(path) }
    }

    /// This version of the file as text, for the successor and for operators. `None`: stat(2) failed.
    #[must_use]
    pub fn stamp(&self) -> Option<String> {
        Some(self.stamp?.text())
    }

    /// The path of the file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// For operators: the file as it was.
    pub(crate) fn source(&self) -> Source {
        self.source_with(Some(Seen::File { stamp: self.stamp() }))
    }

    /// For operators. A path that is not UTF-8 can't be compared.
    pub(crate) fn source_with(&self, seen: Option<Seen>) -> Source {
        let path = absolute(&self.path);
        let seen = seen.filter(|_| path.to_str().is_some());
        Source { path: crate::text::lossy(&path), changed: None, seen }
    }

    /// Whether the file has changed since.
    pub(crate) fn has_changed(&self) -> bool {
        Stamp::of(&absolute(&self.path)) != self.stamp
    }
}

/// An absolute path. This asks for no file: the kernel knows the working directory.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Paths as text; `None`: one is not UTF-8.
pub(crate) fn texts(paths: impl IntoIterator<Item = PathBuf>) -> Option<Vec<String>> {
    paths.into_iter().map(|path| path.into_os_string().into_string().ok()).collect()
}

/// Where to look for the executable again.
///
/// Only the kernel knows for certain which file was executed; `argv[0]` is a claim of the caller. If the
/// caller found the executable by its name in PATH, PATH is searched again: a psflip that was installed
/// earlier in PATH takes effect.
fn where_to_find(argv0: Option<&CString>, envp: &[CString], executed: Option<CString>) -> Vec<CString> {
    let by_name = argv0.filter(|name| !name.is_empty() && !name.to_bytes().contains(&b'/'));
    let in_path = by_name.map(|name| candidates(name, envp)).unwrap_or_default();
    match executed {
        Some(executed) if in_path.contains(&executed) => in_path,
        // Executed by descriptor (fexecve(3)): there is no path, but the kernel knows a name for the file.
        Some(executed) if executed.to_bytes().starts_with(b"/dev/fd/") => {
            own_executable().into_iter().collect()
        }
        Some(executed) => vec![executed],
        None => own_executable().into_iter().collect(),
    }
}

fn own_executable() -> Option<CString> {
    let path = std::fs::read_link("/proc/self/exe").ok()?;
    CString::new(path.as_os_str().as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<CString> {
        list.iter().map(|text| CString::new(*text).unwrap()).collect()
    }

    fn found(argv0: &str, executed: &str) -> Vec<CString> {
        let argv0 = CString::new(argv0).unwrap();
        where_to_find(Some(&argv0), &strings(&["PATH=/new:/usr/bin"]), CString::new(executed).ok())
    }

    #[test]
    fn a_name_is_searched_in_path_again_and_a_path_is_kept() {
        // Contract: U1
        assert_eq!(found("psflip", "/usr/bin/psflip"), strings(&["/new/psflip", "/usr/bin/psflip"]));
        assert_eq!(found("./current/psflip", "./current/psflip"), strings(&["./current/psflip"]));
    }

    #[test]
    fn a_false_argv0_is_not_used() {
        // Contract: U1
        assert_eq!(found("my-service", "/opt/psflip"), strings(&["/opt/psflip"]));
        assert_eq!(found("/claimed/elsewhere", "/opt/psflip"), strings(&["/opt/psflip"]));
    }
}
