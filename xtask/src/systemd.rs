//! `cargo xtask systemd`: fetches a newer systemd than the installed one, for the tests that boot it
//! (`testkit::systemd::Release::Newer`).

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use testkit::systemd::{FOLDER, holds_systemd};

use crate::args::Args;
use crate::{Error, Outcome, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask systemd

Fetches Debian 13's systemd and the libraries that it needs (14 MB) from Debian's mirror, and unpacks them into
target/newer-systemd (47 MB), unless they are there already. It installs nothing. The tests of
psflip/tests/systemd_newer boot this systemd in namespaces of their own.";

/// The release and its source. apt checks the signature with the keys of Debian's package
/// debian-archive-keyring.
const SOURCE: &str = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n";

/// The time limit of apt, in seconds, for everything: the mirror may be unreachable.
const APT_TIMEOUT: &str = "120";

pub(crate) fn run(args: Args) -> Outcome {
    args.done()?;
    fetch()
}

/// Creates the folder, unless it exists.
pub(crate) fn fetch() -> Outcome {
    let target = repo::target_dir()?;
    let folder = target.join(FOLDER);
    if holds_systemd(&folder) {
        println!("a newer systemd: is in `{}` already", folder.display());
        return Ok(());
    }
    let start = Instant::now();
    let work = target.join(format!("{FOLDER}.{}", std::process::id()));
    let made = make(&work, &folder);
    let cleared = fs::remove_dir_all(&work);
    made?;
    cleared?;
    println!("a newer systemd: in `{}` after {}", folder.display(), step::seconds(start.elapsed()));
    Ok(())
}

/// Fetches and unpacks in `work`, then renames: `folder` exists completely or not at all.
fn make(work: &Path, folder: &Path) -> Outcome {
    for name in ["lists/partial", "cache/archives/partial", "root"] {
        fs::create_dir_all(work.join(name))?;
    }
    fs::write(work.join("sources.list"), SOURCE)?;
    println!("a newer systemd: asking deb.debian.org for Debian 13's packages");
    apt(work, &["update"])?;
    println!("a newer systemd: fetching systemd and what it depends on");
    apt(work, &["install", "--download-only", "--yes", "systemd"])?;
    println!("a newer systemd: unpacking");
    let root = work.join("root");
    for entry in fs::read_dir(work.join("cache/archives"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            step::run(Command::new("dpkg-deb").arg("--extract").arg(path).arg(&root))?;
        }
    }
    if !holds_systemd(&root) {
        return Err("the package systemd has no `usr/lib/systemd/systemd`".into());
    }
    fs::rename(root, folder).map_err(|error| -> Error {
        format!("`{}` can't be put into its place: {error}", folder.display()).into()
    })
}

/// Runs apt with lists, packages and sources of its own: it ignores and changes nothing that is installed.
fn apt(work: &Path, verb: &[&str]) -> Outcome {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=5", APT_TIMEOUT, "apt-get", "--quiet=2"]);
    let mut option = |name: &str, value: OsString| {
        let mut text = OsString::from(format!("{name}="));
        text.push(value);
        command.arg("--option").arg(text);
    };
    option("Dir::Etc::sourcelist", work.join("sources.list").into());
    option("Dir::Etc::sourceparts", "-".into());
    option("Dir::State::lists", work.join("lists").into());
    option("Dir::State::status", "/dev/null".into());
    option("Dir::Cache", work.join("cache").into());
    option("APT::Install-Recommends", "false".into());
    option("Acquire::Languages", "none".into());
    option("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".into());
    option("Acquire::Retries", "2".into());
    // An unreachable mirror is an error, not a warning.
    option("APT::Update::Error-Mode", "any".into());
    step::run(command.args(verb))
}
