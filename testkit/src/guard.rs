//! Cleans up after a test process that is killed (a time limit, Ctrl-C) and so can't drop its sandboxes. A
//! small guard process reads from a pipe; at the end of file it kills the remaining processes and removes the
//! folders.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::binaries;
use crate::process::Process;

/// The common prefix of the IDs of all sandboxes of this test process.
pub(crate) fn prefix() -> &'static str {
    static PREFIX: OnceLock<String> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let own = Process::current();
        format!("{}-{}-", own.pid(), own.starttime())
    })
}

/// Starts the guard, once, and sends it a folder. If the helper program isn't built, there is no guard, and a
/// killed test process leaves processes and folders behind.
pub(crate) fn start(dir: &Path) {
    static GUARD: OnceLock<Option<Mutex<ChildStdin>>> = OnceLock::new();
    let guard = GUARD.get_or_init(|| {
        // Not an empty environment: a process in the middle of execve(2) shows one.
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
        // If the guard was killed, the test goes on without it.
        let _ = pipe.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
    }
}
