//! Test failures as one readable text: the failed condition, then the state of the sandboxes.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::sandbox::Inner;
use crate::wait::Deadline;

/// The existing sandboxes. The failure of a thread reports its own sandboxes, or all if it has none (a helper
/// thread).
static LIVE: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

pub(crate) fn register(sandbox: &Arc<Inner>) {
    let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    live.retain(|known| known.strong_count() > 0);
    live.push(Arc::downgrade(sandbox));
}

/// Panics with `what` and the reports of this thread's sandboxes.
#[track_caller]
pub(crate) fn fail(what: &str) -> ! {
    let mut text = what.to_owned();
    for sandbox in concerned() {
        text.push('\n');
        text.push_str(&sandbox.report());
    }
    panic!("{text}");
}

/// Panics because a deadline has passed.
#[track_caller]
pub(crate) fn expired(deadline: &Deadline, what: &dyn fmt::Display) -> ! {
    fail(&format!("waited {:.1} s for {what}, which did not happen", deadline.elapsed().as_secs_f64()));
}

/// The sandboxes of this thread, or all if it has none (a helper thread).
pub(crate) fn concerned() -> Vec<Arc<Inner>> {
    let live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    let all: Vec<_> = live.iter().filter_map(Weak::upgrade).collect();
    drop(live);
    let here = std::thread::current().id();
    let own: Vec<_> = all.iter().filter(|sandbox| sandbox.owner == here).cloned().collect();
    if own.is_empty() { all } else { own }
}

/// Appends the files of a folder, up to 100 a folder and four folders deep.
pub(crate) fn list_files(text: &mut String, dir: &Path, depth: usize) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut entries: Vec<_> = entries.filter_map(Result::ok).collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries.iter().take(100) {
        let Ok(meta) = entry.path().symlink_metadata() else { continue };
        let kind = meta.file_type();
        let _ = write!(text, "{:indent$}{}", "", entry.file_name().display(), indent = depth * 2);
        let _ = match fs::read_link(entry.path()) {
            Ok(target) => writeln!(text, " -> {}", target.display()),
            Err(_) if kind.is_dir() => writeln!(text, "/"),
            Err(_) if kind.is_file() => writeln!(text, " {} bytes", meta.len()),
            Err(_) => writeln!(text, " (socket, pipe or device)"),
        };
        if kind.is_dir() && depth < 4 {
            list_files(text, &entry.path(), depth + 1);
        }
    }
}
