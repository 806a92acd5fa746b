//! Finds the programs under test: beside the test program, or where an environment variable says.

use std::env;
use std::path::{Path, PathBuf};

/// The psflip under test: `$PSFLIP_UNDER_TEST`, or `psflip` in the profile's folder (`target/debug`).
///
/// # Panics
/// If the file doesn't exist; the message says how to build it.
#[must_use]
pub fn psflip_bin() -> PathBuf {
    if let Some(path) = env::var_os("PSFLIP_UNDER_TEST") {
        return existing(PathBuf::from(&path), &format!("PSFLIP_UNDER_TEST is `{}`", path.display()));
    }
    existing(
        profile_dir().join("psflip"),
        "build it with `cargo build -p psflip --bins`, or set PSFLIP_UNDER_TEST",
    )
}

/// A test double of psflip from the crate `psflip-doubles`, for [`crate::PsflipBuilder::exe`]: in the folder
/// `$TESTKIT_DOUBLES`, or in the profile's folder (`target/debug`).
///
/// # Panics
/// If the file doesn't exist; the message says how to build it.
#[must_use]
pub fn double(name: &str) -> PathBuf {
    if let Some(dir) = env::var_os("TESTKIT_DOUBLES") {
        return existing(Path::new(&dir).join(name), &format!("TESTKIT_DOUBLES is `{}`", dir.display()));
    }
    existing(
        profile_dir().join(name),
        "build it with `cargo build -p psflip-doubles --bins`, or set TESTKIT_DOUBLES",
    )
}

/// A program of the crate `fixtures`: in the folder `$TESTKIT_FIXTURES`, or in the profile's folder
/// (`target/debug`).
///
/// # Panics
/// If the file doesn't exist; the message says how to build it.
#[must_use]
pub fn fixture(name: &str) -> PathBuf {
    if let Some(dir) = env::var_os("TESTKIT_FIXTURES") {
        return existing(Path::new(&dir).join(name), &format!("TESTKIT_FIXTURES is `{}`", dir.display()));
    }
    existing(
        profile_dir().join(name),
        "build it with `cargo build -p fixtures --bins`, or set TESTKIT_FIXTURES",
    )
}

/// The helper program `testkit-launch` (see its `--help`); `None` if it isn't built.
pub(crate) fn find_launcher() -> Option<PathBuf> {
    let path =
        env::var_os("TESTKIT_LAUNCH").map_or_else(|| profile_dir().join("testkit-launch"), PathBuf::from);
    path.is_file().then_some(path)
}

pub(crate) fn launcher() -> PathBuf {
    find_launcher().unwrap_or_else(|| {
        panic!(
            "`{}` is missing, and what this test requests can't be started without it: build it with \
             `cargo build -p testkit --bins`, or set TESTKIT_LAUNCH",
            profile_dir().join("testkit-launch").display()
        )
    })
}

fn existing(path: PathBuf, hint: &str) -> PathBuf {
    assert!(path.is_file(), "`{}` is missing: {hint}", path.display());
    path
}

/// The parent of the profile's folder: `target`.
pub(crate) fn target_dir() -> PathBuf {
    let profile = profile_dir();
    profile.parent().map_or_else(|| profile.clone(), Path::to_owned)
}

/// The profile's folder: `target/debug`, for a test in `target/debug/deps`, an example in
/// `target/debug/examples`, or a program in `target/debug`.
fn profile_dir() -> PathBuf {
    let own = env::current_exe().expect("the test's own executable has a path");
    let dir = own.parent().expect("an executable is in a directory");
    // A doctest runs in a temporary folder, so only CARGO_TARGET_DIR and the working directory are known.
    if dir.starts_with(env::temp_dir())
        && dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rustdoctest"))
    {
        let target =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from("../target"), PathBuf::from);
        return target.join("debug");
    }
    match dir.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => dir.parent().map_or_else(|| dir.to_owned(), Path::to_owned),
        _ => dir.to_owned(),
    }
}
