//! Makes the tarball for any distribution: unpacked into /usr/local, it is an installation.

use std::fs;
use std::path::{Path, PathBuf};

use super::tree::{Tree, ZSH};
use super::{Programs, licences};
use crate::{Error, Outcome, repo, step};

/// Makes the tarball in `directory`; returns its path.
pub(super) fn make(programs: &Programs, version: &str, directory: &Path) -> Result<PathBuf, Error> {
    let name = format!("psflip-{version}-linux-{}", programs.target.architecture);
    let tree = Tree::new(directory.join(&name))?;
    tree.fill("", ZSH, programs)?;
    // The unit names the program of a package. Its folder is the only line that differs.
    let unit = tree.folder.join("lib/systemd/system/psflip@.service");
    let text = fs::read_to_string(&unit)?;
    fs::write(&unit, text.replace("=/usr/bin/psflip", "=/usr/local/bin/psflip"))?;
    for file in ["LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md"] {
        tree.install(&repo::root().join(file), &format!("share/doc/psflip/{file}"))?;
    }
    tree.write(&format!("share/doc/psflip/{}", licences::FILE), &programs.licences.texts)?;
    let sums = tree.sums("sha256sum")?;
    tree.write("share/doc/psflip/SHA256SUMS", &sums)?;
    tree.set_modes()?;
    let tarball = directory.join(format!("{name}.tar.gz"));
    let files: Vec<PathBuf> = tree.files()?.iter().map(|file| Path::new(&name).join(file)).collect();
    pack(directory, &files, &tarball)?;
    tree.remove()?;
    Ok(tarball)
}

/// Packs these files of a directory, in this order, with one owner and one time, and without what only some systems
/// record. psflip's tarball has no entries of directories: tar would give /usr/local and those below it their modes.
pub(super) fn pack(directory: &Path, files: &[PathBuf], tarball: &Path) -> Outcome {
    let plain = tarball.with_extension("");
    let mut tar = super::tool("tar");
    tar.args(["--create", "--format=ustar", "--no-recursion", "--owner=root:0", "--group=root:0"]);
    tar.arg(format!("--mtime=@{}", super::date()?))
        .arg("--directory")
        .arg(directory)
        .arg("--file")
        .arg(&plain);
    step::output(tar.args(files))?;
    step::output(super::tool("gzip").args(["-9", "-n", "--force"]).arg(&plain)).map(drop)
}
