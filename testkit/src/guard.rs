//! When the test's process itself is killed (a time limit, Ctrl-C), nobody drops its sandboxes: a small process of the
//! testkit's own sees the end of a pipe then, ends what is left and removes the folders.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::binaries;
use crate::process::Process;

/// What the ids of all sandboxes of this test process begin with.
pub(crate) fn prefix() -> &'static str {
    static PREFIX: OnceLock<String> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let own = Process::current();
        format!("{}-{}-", own.pid(), own.starttime())
    })
}

/// Starts the guard, once, and tells it of a folder. Without the helper's executable there is no guard: then only a test
/// process that is killed leaves something behind.
pub(crate) fn start(dir: &Path) {
    static GUARD: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();
    let guard = GUARD.get_or_init(|| {
        // Not an empty environment: that is what a process in the middle of execve(2) shows.
        let mut command = Command::new(binaries::find_launcher()?);
        command
            .args(["--guard", prefix()])
            .env_clear()
            .env("TESTKIT_GUARD", prefix())
            .current_dir("/")
            .process_group(0);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Some(Mutex::new(child.ok()?.stdin.take()?))
    });
    if let Some(pipe) = guard {
        let mut line = dir.as_os_str().as_bytes().to_vec();
        line.push(b'\n');
        // The guard was killed: the test works without it.
        let _ = pipe.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
    }
}
