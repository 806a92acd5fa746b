//! `cargo xtask dist`: makes the files of a release.

mod check;
mod deb;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::args::Args;
use crate::{Error, Outcome, docs, release, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask dist [--check] [--binary FILE]

Makes in target/dist:
  psflip, psflip-rehearse        the static binaries
  psflip_VERSION_ARCH.deb        binaries, man pages, completions, JSON Schema, template unit and examples
  SHA256SUMS                     checksums of all
The package needs dpkg-deb and gzip, and is the same, byte for byte, for the same binary. It has no scripts: installing it
starts and stops nothing, and a running service uses the new psflip from its next upgrade on.

  --check        then make the package once more and compare; as root, install it into an empty root, run and upgrade there
  --binary FILE  pack this static psflip instead of building one";

pub(crate) fn run(mut args: Args) -> Outcome {
    let and_check = args.flag("check");
    let binary: Option<PathBuf> = args.value("binary")?;
    args.done()?;
    docs::make(true)?;
    make(binary, and_check)
}

/// Builds the binary unless one is given, packs it, and checks the package on request.
pub(crate) fn make(binary: Option<PathBuf>, and_check: bool) -> Outcome {
    let binary = binary.map_or_else(release::build_static, Ok)?;
    let directory = repo::target_dir()?.join("dist");
    // Files of an earlier version must not end up in this release.
    if let Err(error) = fs::remove_dir_all(&directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(format!("can't remove `{}`: {error}", directory.display()).into());
    }
    fs::create_dir_all(&directory)?;
    fs::copy(&binary, directory.join("psflip"))?;
    let rehearse = directory.join("psflip-rehearse");
    fs::copy(release::build_rehearse()?, &rehearse)?;
    let binaries = Binaries { psflip: binary, rehearse };
    let package = deb::make(&binaries, &directory)?;
    let sums = sums(&directory)?;
    print!("{sums}");
    println!("in {}", directory.display());
    if and_check { check::check(&binaries, &package) } else { Ok(()) }
}

/// The programs of a release.
struct Binaries {
    psflip: PathBuf,
    rehearse: PathBuf,
}

/// The program that is missing to make a package on this host, if any.
pub(crate) fn missing() -> Option<&'static str> {
    ["dpkg-deb", "gzip", "sha256sum"].into_iter().find(|program| !repo::is_installed(program))
}

/// Writes and returns the checksums of all files in the directory.
fn sums(directory: &Path) -> Result<String, Error> {
    let mut names: Vec<PathBuf> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().into()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    let text = output(Command::new("sha256sum").args(&names).current_dir(directory))?;
    fs::write(directory.join("SHA256SUMS"), &text)?;
    Ok(text)
}

/// The output of a command; an error if the command fails.
fn output(command: &mut Command) -> Result<String, Error> {
    let output = command.output().map_err(|error| step::cannot_start(command, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    // lintian reports on standard output.
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    Err(format!("`{}`: {}\n{}", step::shown(command), output.status, said.trim()).into())
}
