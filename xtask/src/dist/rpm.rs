//! Makes the RPM package, by rpmbuild: the files are laid out as for Debian, the spec only lists them.

use std::fs;
use std::path::{Path, PathBuf};

use super::tree::{Tree, ZSH};
use super::{Programs, licences};
use crate::{Error, repo, step};

/// Makes the package in `directory`; returns its path.
pub(super) fn make(programs: &Programs, version: &str, directory: &Path) -> Result<PathBuf, Error> {
    let tree = Tree::new(directory.join("tree"))?;
    tree.fill("usr/", ZSH, programs)?;
    for file in ["LICENSE-MIT", "LICENSE-APACHE"] {
        tree.install(&repo::root().join(file), &format!("usr/share/licenses/psflip/{file}"))?;
    }
    tree.write(&format!("usr/share/licenses/psflip/{}", licences::FILE), &programs.licences.texts)?;
    fs::create_dir_all(tree.folder.join("etc/psflip"))?;
    tree.set_modes()?;
    let top = directory.join("rpmbuild");
    let spec = fs::read_to_string(repo::root().join("dist/psflip.spec"))?
        .replace("@VERSION@", &super::packaged(version))
        .replace("@LICENSE@", &programs.licences.expression)
        .replace("@FILES@", &files(&tree)?)
        .replace("@TREE@", &tree.folder.to_string_lossy());
    fs::create_dir_all(&top)?;
    fs::write(top.join("psflip.spec"), spec)?;
    let mut rpmbuild = super::tool("rpmbuild");
    // Macros of this user, such as another compression, are in ~/.rpmmacros.
    rpmbuild.env("HOME", &top);
    rpmbuild.args(["-bb", "--quiet", "--target", &programs.target.architecture]);
    rpmbuild.arg("--define").arg(format!("_topdir {}", top.display())).arg(top.join("psflip.spec"));
    step::output(rpmbuild.env("SOURCE_DATE_EPOCH", super::date()?))?;
    let built = repo::files_below(&top.join("RPMS"))?.pop().ok_or("rpmbuild made no package")?;
    let package = directory.join(built.file_name().unwrap_or_default());
    fs::rename(built, &package)?;
    fs::remove_dir_all(top)?;
    tree.remove()?;
    Ok(package)
}

/// The spec's list of files: licences and documentation are marked as such.
fn files(tree: &Tree) -> Result<String, Error> {
    let mut lines = String::from("%dir /etc/psflip\n");
    for folder in tree.own_folders()? {
        lines += &format!("%dir \"/{}\"\n", folder.display());
    }
    for file in tree.files()? {
        let mark = match file {
            _ if file.starts_with("usr/share/licenses") => "%license ",
            _ if file.starts_with("usr/share/doc") || file.starts_with("usr/share/man") => "%doc ",
            _ => "",
        };
        lines += &format!("{mark}\"/{}\"\n", file.display());
    }
    Ok(lines)
}
