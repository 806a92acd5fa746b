//! Finds programs: where an environment variable says, beside the test program, or in PATH.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A program, and where it may be.
struct Wanted<'a> {
    name: &'a str,
    /// The variable that names the program itself.
    own: Option<&'static str>,
    /// The variable that names the folder.
    folder: Option<&'static str>,
    /// The package that has it.
    package: &'static str,
    /// Whether PATH is searched, too.
    in_path: bool,
}

/// The psflip under test: `$PSFLIP_UNDER_TEST`, or `psflip` in the folder of the test's profile
/// (`target/debug`), or in PATH.
///
/// # Panics
/// If there is none; the message lists where it was searched.
#[must_use]
#[track_caller]
pub fn psflip_bin() -> PathBuf {
    let own = Some("PSFLIP_UNDER_TEST");
    Wanted { name: "psflip", own, folder: None, package: "psflip", in_path: true }.path()
}

/// A test double of psflip from the crate `psflip-doubles`, for [`crate::PsflipBuilder::exe`]: in the folder
/// `$TESTKIT_DOUBLES`, or in the folder of the test's profile.
///
/// # Panics
/// If there is none; the message lists where it was searched.
#[must_use]
#[track_caller]
pub fn double(name: &str) -> PathBuf {
    let folder = Some("TESTKIT_DOUBLES");
    Wanted { name, own: None, folder, package: "psflip-doubles", in_path: false }.path()
}

/// A program of the package `psflip-fixtures`: in the folder `$TESTKIT_FIXTURES`, or in the folder of the
/// test's profile, or in PATH. [`fixture_cmd`] needs only one of them.
///
/// # Panics
/// If there is none; the message lists where it was searched.
#[must_use]
#[track_caller]
pub fn fixture(name: &str) -> PathBuf {
    let folder = Some("TESTKIT_FIXTURES");
    Wanted { name, own: None, folder, package: "psflip-fixtures", in_path: true }.path()
}

/// The command line of a fixture, which `psflip-fixture` runs: `fixture_cmd(["http-server", "--careless"])`.
///
/// # Panics
/// See [`fixture`].
#[must_use]
#[track_caller]
pub fn fixture_cmd<A: Into<OsString>>(argv: impl IntoIterator<Item = A>) -> Vec<OsString> {
    let program = fixture("psflip-fixture").into_os_string();
    std::iter::once(program).chain(argv.into_iter().map(Into::into)).collect()
}

/// A program of this package (see their `--help`), or where it was searched.
pub(crate) fn find_own(name: &str) -> Result<PathBuf, String> {
    let own = (name == "testkit-launch").then_some("TESTKIT_LAUNCH");
    Wanted { name, own, folder: None, package: env!("CARGO_PKG_NAME"), in_path: true }.find()
}

#[track_caller]
pub(crate) fn launcher() -> PathBuf {
    match find_own("testkit-launch") {
        Ok(path) => path,
        Err(error) => panic!("what this test requests can't be started without testkit-launch: {error}"),
    }
}

impl Wanted<'_> {
    #[track_caller]
    fn path(&self) -> PathBuf {
        match self.find() {
            Ok(path) => path,
            Err(error) => panic!("{error}"),
        }
    }

    /// The program, or where it was searched and what to do.
    fn find(&self) -> Result<PathBuf, String> {
        let Self { name, package, .. } = self;
        // A variable says where it is; nothing else is searched then.
        if let Some((variable, path)) = self.named() {
            let hint = || format!("`{}`, which {variable} names, is missing", path.display());
            return existing(path.clone()).ok_or_else(hint);
        }
        let beside = profile_dir().join(name);
        let path = env::var_os("PATH").unwrap_or_default();
        let in_path = self.in_path.then(|| env::split_paths(&path).map(|folder| folder.join(name)));
        if let Some(found) =
            std::iter::once(beside.clone()).chain(in_path.into_iter().flatten()).find_map(existing)
        {
            return Ok(found);
        }
        let mut text = format!("`{name}` is missing. Searched: `{}` (beside the test)", beside.display());
        if self.in_path {
            let _ = write!(text, ", PATH (`{}`)", path.display());
        }
        let _ = write!(text, ". Build it with `cargo build -p {package} --bins`");
        if self.in_path {
            let _ = write!(text, ", install it with `cargo install {package}`");
        }
        if let Some(variable) = self.own {
            let _ = write!(text, ", or set {variable} to its path");
        } else if let Some(variable) = self.folder {
            let _ = write!(text, ", or set {variable} to its folder");
        }
        Err(text)
    }

    /// The path that a variable gives, and the variable.
    fn named(&self) -> Option<(&'static str, PathBuf)> {
        let value =
            |variable: &'static str| env::var_os(variable).map(|value| (variable, PathBuf::from(value)));
        let in_folder =
            || self.folder.and_then(value).map(|(variable, folder)| (variable, folder.join(self.name)));
        self.own.and_then(value).or_else(in_folder)
    }
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.is_file().then_some(path)
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
    // A doctest runs in a temporary folder, so only CARGO_TARGET_DIR and the working directory, its package's, are
    // known.
    if dir.starts_with(env::temp_dir())
        && dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("rustdoctest"))
    {
        let here = env::current_dir().unwrap_or_default();
        let usual = || here.ancestors().map(|dir| dir.join("target")).find(|dir| dir.join("debug").is_dir());
        let target = env::var_os("CARGO_TARGET_DIR").map(|dir| here.join(dir)).or_else(usual);
        return target.unwrap_or_else(|| here.join("target")).join("debug");
    }
    match dir.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => dir.parent().map_or_else(|| dir.to_owned(), Path::to_owned),
        _ => dir.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_reported_with_every_place_and_remedy() {
        let wanted = |in_path| Wanted {
            name: "no-such-program",
            own: Some("NO_SUCH_VARIABLE"),
            folder: None,
            package: "psflip-x",
            in_path,
        };
        let error = wanted(true).find().unwrap_err();
        for part in [
            "`no-such-program` is missing. Searched: `",
            "/no-such-program` (beside the test), PATH (`",
            "cargo build -p psflip-x --bins",
            "cargo install psflip-x",
            "set NO_SUCH_VARIABLE to its path",
        ] {
            assert!(error.contains(part), "`{part}` is missing in: {error}");
        }
        assert!(!wanted(false).find().unwrap_err().contains("PATH ("));
    }

    #[test]
    fn a_program_is_found_in_path() {
        let found = Wanted { name: "sh", own: None, folder: None, package: "x", in_path: true }.find();
        assert!(found.is_ok_and(|path| path.ends_with("sh")));
    }

    #[test]
    fn a_variable_wins_and_is_named_if_the_program_is_not_there() {
        // PATH is a variable that is certainly set; as a folder it has no such program.
        let wanted = Wanted { name: "sh", own: None, folder: Some("PATH"), package: "x", in_path: true };
        assert!(wanted.find().unwrap_err().contains("which PATH names"));
    }
}
