//! Requirements of a test on its host: skips the test, or fails it, if one is missing.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::thread;

use crate::{binaries, report};

/// Environment variable with the requirements that must be met: programs, `root`, `systemd` and other names
/// of [`skip`], separated by commas. `all` means everything, and `!NAME` exempts a name. A test that misses
/// one of them fails instead of being skipped.
pub const REQUIRE: &str = "TESTKIT_REQUIRE";

/// Environment variable with the path of a file to which each skipped test appends a line: its name, a tab,
/// and the reason.
pub const SKIPPED: &str = "TESTKIT_SKIPPED";

/// The folder in the target directory for programs that are no Debian packages, in its `bin`. `cargo xtask ci`
/// fills it.
pub const PROGRAMS: &str = "programs";

/// Folders that Debian has only in root's PATH.
const FOLDERS_OF_ROOT: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The path of a program, from PATH, from the folders that only root has in PATH, or from [`PROGRAMS`]. `None`:
/// it is missing, this was reported, and the test should return.
///
/// ```no_run
/// if psflip_testkit::need("nginx").is_none() {
///     return;
/// }
/// ```
///
/// # Panics
/// If it is missing and `TESTKIT_REQUIRE` names it.
#[track_caller]
#[must_use]
pub fn need(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(FOLDERS_OF_ROOT.map(PathBuf::from));
    let own = binaries::target_dir().join(PROGRAMS).join("bin");
    let found = folders.chain([own]).map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        skip(program, &format!("{program} is not installed"));
    }
    found
}

/// Whether this process is root, which may change credentials, mount, and create namespaces. `false`: this
/// was reported, and the test should return.
///
/// # Panics
/// See [`need`], for `root`.
#[track_caller]
#[must_use]
pub fn need_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        skip("root", "not root");
    }
    is_root
}

/// Reports that the calling test is skipped because `name` is missing: on standard error, and in the file
/// `$TESTKIT_SKIPPED`.
///
/// # Panics
/// If `TESTKIT_REQUIRE` names it.
#[track_caller]
pub fn skip(name: &str, why: &str) {
    if env::var(REQUIRE).is_ok_and(|names| is_required(&names, name)) {
        report::fail(&format!("{REQUIRE} requires {name}, but: {why}"));
    }
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "SKIPPED, nothing was tested: {why}");
    if let Some(file) = env::var_os(SKIPPED) {
        // One write, so that lines of parallel tests don't mix. An error is ignored: the skip was reported on
        // standard error.
        let appended = OpenOptions::new().append(true).create(true).open(file);
        let _ = appended.and_then(|mut file| file.write_all(format!("{test}\t{why}\n").as_bytes()));
    }
}

fn is_required(names: &str, name: &str) -> bool {
    let has = |wanted: &str| names.split(',').any(|part| part.trim() == wanted);
    has(name) || has("all") && !has(&format!("!{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_may_be_names_or_all_with_exceptions() {
        assert!(is_required("nginx,systemd", "systemd") && !is_required("nginx,systemd", "root"));
        assert!(is_required("all", "root") && !is_required("all,!root", "root"));
        assert!(!is_required("", "root"));
    }

    #[test]
    fn a_program_is_found_by_its_name() {
        assert!(need("sh").is_some_and(|file| file.ends_with("sh")));
    }
}
