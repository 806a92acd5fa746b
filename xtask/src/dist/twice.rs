//! Builds one commit twice, in different directories, and compares every file of the two releases.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::empty;
use crate::{Error, Outcome, binaries, repo, step};

/// Both are clones of the last commit, without anything that was built before. The paths differ in length, and the
/// second one has another path to cargo's sources, another home, umask, time zone and language as well.
pub(super) fn run() -> Outcome {
    let folder = empty(repo::target_dir()?.join("twice"))?;
    let first = build(&folder.join("first"), |task| {
        task.env("CARGO_HOME", binaries::cargo_home()?);
        Ok(())
    })?;
    let second = build(&folder.join("the-second-one"), |task| elsewhere(task, &folder))?;
    println!("first:\n{first}second:\n{second}");
    if first != second {
        return Err(format!("two builds of one commit differ; both are in `{}`", folder.display()).into());
    }
    println!("reproducible: two builds in two directories, the same bytes");
    Ok(fs::remove_dir_all(folder)?)
}

/// Gives a task the environment of another user.
fn elsewhere(task: &mut Command, folder: &Path) -> Outcome {
    let (cargo, home) = (folder.join("home-of-cargo"), folder.join("home"));
    symlink(binaries::cargo_home()?, &cargo)?;
    fs::create_dir(&home)?;
    // A home that sets what it can.
    fs::write(home.join(".rpmmacros"), "%_binary_payload w1.gzdio\n")?;
    let toolchains = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".rustup"));
    if let Some(toolchains) = std::env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(toolchains) {
        task.env("RUSTUP_HOME", toolchains);
    }
    task.env("CARGO_HOME", cargo).env("HOME", home);
    task.envs([
        ("TZ", "Asia/Tokyo"),
        ("LC_ALL", "C.UTF-8"),
        ("TAR_OPTIONS", "--numeric-owner"),
        ("XZ_OPT", "-1"),
    ]);
    Ok(())
}

/// Clones the last commit into `directory`, makes its release there in another environment, and returns its checksums.
fn build(directory: &Path, environment: impl FnOnce(&mut Command) -> Outcome) -> Result<String, Error> {
    step::run(repo::git(&repo::root()).args(["clone", "--quiet", "."]).arg(directory))?;
    // This program, in the other repository: its target directory is the one that the program is in.
    let program: PathBuf = directory.join("target/debug/xtask");
    fs::create_dir_all(directory.join("target/debug"))?;
    fs::copy("/proc/self/exe", &program)?;
    let mut task = Command::new("sh");
    task.args(["-c", "umask \"$1\" && shift && exec \"$@\"", "sh"]);
    task.arg(if directory.ends_with("first") { "022" } else { "077" }).arg(program);
    task.args(["dist", "--no-docs"]).current_dir(directory);
    environment(&mut task)?;
    step::run(task.env("CARGO_MANIFEST_DIR", directory.join("xtask")))?;
    Ok(fs::read_to_string(directory.join("target/dist/SHA256SUMS"))?)
}
