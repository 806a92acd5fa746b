//! Programs from PyPI, each package in a Python environment of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, step};

/// Installs packages, each with its version (`NAME==VERSION`), into an environment in `folder`, unless they are there.
/// `packages`: separated by spaces. Returns the path of the program.
pub(crate) fn install(folder: &Path, packages: &str, program: &str) -> Result<PathBuf, Error> {
    let (installed, program) = (folder.join("installed"), folder.join("bin").join(program));
    if fs::read_to_string(&installed).is_ok_and(|text| text == packages) && program.is_file() {
        return Ok(program);
    }
    step::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))?;
    let pip = ["install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"];
    step::run(Command::new(folder.join("bin/pip")).args(pip).args(packages.split(' ')))?;
    fs::write(installed, packages)?;
    Ok(program)
}
