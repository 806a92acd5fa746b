//! Builds one commit twice, in different directories, and compares every file of the two releases.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::empty;
use crate::{Error, Outcome, binaries, repo, step};

/// Both are clones of the last commit, without anything that was built before. The paths differ in length, and the
/// second one has another path to cargo's sources as well.
pub(super) fn run() -> Outcome {
    let folder = empty(repo::target_dir()?.join("twice"))?;
    let first = build(&folder.join("first"), &binaries::cargo_home()?)?;
    let home = folder.join("home-of-cargo");
    symlink(binaries::cargo_home()?, &home)?;
    let second = build(&folder.join("the-second-one"), &home)?;
    println!("first:\n{first}second:\n{second}");
    if first != second {
        return Err(format!("two builds of one commit differ; both are in `{}`", folder.display()).into());
    }
    println!("reproducible: two builds in two directories, the same bytes");
    Ok(fs::remove_dir_all(folder)?)
}

/// Clones the last commit into `directory`, makes its release there, and returns its checksums.
fn build(directory: &Path, cargo_home: &Path) -> Result<String, Error> {
    step::run(Command::new("git").args(["clone", "--quiet"]).arg(repo::root()).arg(directory))?;
    // This program, in the other repository: its target directory is the one that the program is in.
    let program: PathBuf = directory.join("target/debug/xtask");
    fs::create_dir_all(directory.join("target/debug"))?;
    fs::copy("/proc/self/exe", &program)?;
    let mut task = Command::new(program);
    task.args(["dist", "--no-docs"]).current_dir(directory).env("CARGO_HOME", cargo_home);
    step::run(task.env("CARGO_MANIFEST_DIR", directory.join("xtask")))?;
    Ok(fs::read_to_string(directory.join("target/dist/SHA256SUMS"))?)
}
