//! What the programs of a release run on.

use std::path::PathBuf;
use std::process::Command;

use super::{cross, sbom};
use crate::{Error, binaries, step};

/// An architecture, and what is needed to build for it.
#[derive(Clone)]
pub(super) struct Target {
    /// As rustc names it, such as `x86_64-unknown-linux-gnu`.
    pub(super) triple: String,
    /// As Linux and RPM name it, such as `x86_64`.
    pub(super) architecture: String,
    /// As Debian names it, such as `amd64`.
    pub(super) debian: String,
    /// The version of the C library that is linked in.
    pub(super) libc: String,
    /// Links the programs, if this is another architecture than the host's.
    pub(super) linker: Option<PathBuf>,
}

impl Target {
    /// The target with this triple, by default this host. What is missing to build for it is downloaded.
    pub(super) fn of(triple: Option<&str>) -> Result<Self, Error> {
        let host = binaries::host()?;
        match triple.unwrap_or(&host) {
            own if own == host => Ok(Self {
                triple: host,
                architecture: std::env::consts::ARCH.to_owned(),
                debian: step::output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned(),
                libc: sbom::libc()?,
                linker: None,
            }),
            cross::TRIPLE => cross::target(),
            other => {
                Err(format!("--target: on this host it is {host} or {}, not {other}", cross::TRIPLE).into())
            }
        }
    }

    /// Whether this host can't execute the programs.
    pub(super) fn is_foreign(&self) -> bool {
        self.linker.is_some()
    }

    /// Builds a program; returns its path.
    pub(super) fn build(&self, package: &str, program: &str) -> Result<PathBuf, Error> {
        binaries::build(package, program, &self.triple, self.linker.as_deref())
    }
}
