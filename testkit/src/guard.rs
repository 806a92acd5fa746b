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

/// Set to `off`, it lets tests run without a guard.
const SWITCH: &str = "TESTKIT_GUARD";

/// Starts the guard, once, and sends it a folder.
///
/// # Panics
/// If the guard can't be started: a killed test process would leave processes and folders behind. With
/// `TESTKIT_GUARD=off` that is accepted.
#[track_caller]
pub(crate) fn start(dir: &Path) {
    static GUARD: OnceLock<Result<Mutex<ChildStdin>, String>> = OnceLock::new();
    match GUARD.get_or_init(launch) {
        Ok(pipe) => {
            let mut line = dir.as_os_str().as_bytes().to_vec();
            line.push(b'\n');
            // If the guard was killed, the test goes on without it.
            let _ = pipe.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line);
        }
        Err(_) if std::env::var_os(SWITCH).is_some_and(|value| value == "off") => {}
        Err(error) => panic!(
            "no guard can be started, which cleans up if this test is killed: {error}; or set {SWITCH}=off to \
             let killed tests leave processes and folders behind"
        ),
    }
}

fn launch() -> Result<Mutex<ChildStdin>, String> {
    let program = binaries::find_own("testkit-launch")?;
    // Not an empty environment: a process in the middle of execve(2) shows one.
    let mut command = Command::new(&program);
    command
        .args(["--guard", prefix()])
        .env_clear()
        .env(SWITCH, prefix())
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let failed = |why: &dyn std::fmt::Display| format!("`{}`: {why}", program.display());
    let mut child = command.spawn().map_err(|error| failed(&error))?;
    child.stdin.take().map(Mutex::new).ok_or_else(|| failed(&"its standard input is no pipe"))
}
