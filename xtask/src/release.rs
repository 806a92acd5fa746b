//! Builds the release binaries: optimized, stripped, statically linked.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use crate::{Error, repo, step};

/// Builds psflip; returns its path.
pub(crate) fn build_static() -> Result<PathBuf, Error> {
    build("psflip")
}

/// Builds psflip-rehearse; returns its path.
pub(crate) fn build_rehearse() -> Result<PathBuf, Error> {
    build("psflip-rehearse")
}

/// One package at a time: together they would share the features of their dependencies.
///
/// `--target` limits the flags to psflip: build scripts and macros can't be static.
fn build(package: &str) -> Result<PathBuf, Error> {
    println!("==> build {package} (release, static)");
    let host = host()?;
    let target = repo::target_dir()?.join("static");
    let mut cargo = repo::cargo();
    cargo.args(["build", "--release", "--package", package, "--bin", package]);
    cargo.arg("--target").arg(&host).arg("--target-dir").arg(&target);
    // Not position-independent: a static PIE relocates itself at every start, and each of psflip's processes
    // would keep a copy of all tables of functions, those of the relay's libraries included. The price is that
    // the program itself is always at the same address; its stack, heap and mappings are not.
    step::run(cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static"))?;
    Ok(target.join(host).join("release").join(package))
}

/// The target triple of this host, such as `x86_64-unknown-linux-gnu`.
fn host() -> Result<String, Error> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output =
        Command::new(rustc).arg("-vV").output().map_err(|error| format!("can't start rustc: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or_else(|| format!("`rustc -vV` names no host: {text}"))?.to_owned())
}
