//! Builds the release binaries: optimized, stripped, statically linked, and the same in every directory.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, repo, step};

/// Builds psflip; returns its path.
pub(crate) fn build_static() -> Result<PathBuf, Error> {
    build("psflip", "psflip", &host()?, None)
}

/// Builds psflip-rehearse; returns its path.
pub(crate) fn build_rehearse() -> Result<PathBuf, Error> {
    build("psflip-rehearse", "psflip-rehearse", &host()?, None)
}

/// Builds a program of a package for this target; returns its path. `linker`: the one of another architecture.
///
/// One package at a time: together they would share the features of their dependencies.
/// `--target` limits the flags to the program: build scripts and macros can't be static.
pub(crate) fn build(
    package: &str,
    program: &str,
    triple: &str,
    linker: Option<&Path>,
) -> Result<PathBuf, Error> {
    println!("==> build {program} (release, static, {triple})");
    let target = repo::target_dir()?.join("static");
    let mut cargo = repo::cargo();
    cargo.args(["build", "--release", "--locked", "--package", package, "--bin", program]);
    cargo.arg("--target").arg(triple).arg("--target-dir").arg(&target);
    if let Some(linker) = linker {
        let name = triple.to_uppercase().replace('-', "_");
        cargo.env(format!("CARGO_TARGET_{name}_LINKER"), linker);
    }
    step::run(cargo.env("CARGO_ENCODED_RUSTFLAGS", flags()?.join("\x1f")))?;
    Ok(target.join(triple).join("release").join(program))
}

/// The compiler's flags for a release.
fn flags() -> Result<Vec<String>, Error> {
    let mut flags: Vec<String> = ["-C", "target-feature=+crt-static"].map(str::to_owned).into();
    // Not position-independent: a static PIE relocates itself at every start, and each of psflip's processes
    // would keep a copy of all tables of functions, those of the relay's libraries included. The price is that
    // the program itself is always at the same address; its stack, heap and mappings are not.
    flags.extend(["-C", "relocation-model=static"].map(str::to_owned));
    // The places in panics would name this directory, and two builds of one commit would differ.
    for (path, name) in [(repo::root(), "psflip"), (cargo_home()?, "cargo")] {
        flags.push(format!("--remap-path-prefix={}=/{name}", path.display()));
    }
    Ok(flags)
}

/// Where cargo keeps the sources of dependencies.
pub(crate) fn cargo_home() -> Result<PathBuf, Error> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let path = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home);
    path.ok_or_else(|| "neither CARGO_HOME nor HOME is set: set one of them".into())
}

/// The target triple of this host, such as `x86_64-unknown-linux-gnu`.
pub(crate) fn host() -> Result<String, Error> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output =
        Command::new(rustc).arg("-vV").output().map_err(|error| format!("can't start rustc: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or_else(|| format!("`rustc -vV` names no host: {text}"))?.to_owned())
}
