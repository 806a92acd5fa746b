//! Makes the tarball of the Ansible collection, by Ansible's own program. That one records times, and the files in the
//! order of the directory, so what it has built is packed again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::Sandbox;

use super::{tarball, tree::Tree};
use crate::{Error, Outcome, repo, step};

/// Builds and installs collections.
pub(super) const PROGRAM: &str = "ansible-galaxy";

/// Where the collection is, and where it has to be in a clone: Ansible finds modules only by that path.
const SOURCE: &str = "dist/ansible_collections/psflip/service";

/// The names in a collection's tarball: the list of its files, and its description with the checksum of the list.
const FILES: &str = "FILES.json";
const MANIFEST: &str = "MANIFEST.json";

/// Makes the tarball in `directory`; returns its path.
pub(super) fn make(version: &str, directory: &Path) -> Result<PathBuf, Error> {
    let name = format!("psflip-service-{version}.tar.gz");
    let source = Tree::new(directory.join("collection-source"))?;
    source.install(&repo::root().join(SOURCE), "")?;
    source.set_modes()?;
    // Ansible takes all but the name from `galaxy.yml`.
    let mut build = galaxy(&source.folder, "build");
    step::output(build.arg(&source.folder).arg("--output-path").arg(&source.folder))?;
    let built = Tree::new(directory.join("collection"))?;
    let mut unpack = super::tool("tar");
    unpack.arg("--extract").arg("--directory").arg(&built.folder);
    step::output(unpack.arg("--file").arg(source.folder.join(&name)))?;
    sort_list(&built)?;
    built.set_modes()?;
    let tarball = directory.join(name);
    tarball::pack(&built.folder, &members(&built)?, &tarball)?;
    source.remove()?;
    built.remove()?;
    Ok(tarball)
}

/// Sorts the list of files, and sets its new checksum in the description.
fn sort_list(built: &Tree) -> Outcome {
    let read = |name: &str| -> Result<Value, Error> {
        Ok(serde_json::from_str(&fs::read_to_string(built.folder.join(name))?)?)
    };
    let (mut list, mut manifest) = (read(FILES)?, read(MANIFEST)?);
    let files = list["files"].as_array_mut().ok_or("the collection has no list of files")?;
    files.sort_by(|one, other| one["name"].as_str().cmp(&other["name"].as_str()));
    built.write(FILES, &serde_json::to_string_pretty(&list)?)?;
    let sum = step::output(Command::new("sha256sum").arg(built.folder.join(FILES)))?;
    let sum = sum.split_whitespace().next().unwrap_or_default();
    manifest["file_manifest_file"]["chksum_sha256"] = sum.into();
    built.write(MANIFEST, &serde_json::to_string_pretty(&manifest)?)
}

/// The members of the tarball. Ansible looks for an entry of each directory, and reads the description first.
fn members(built: &Tree) -> Result<Vec<PathBuf>, Error> {
    let mut members = vec![PathBuf::from(MANIFEST), PathBuf::from(FILES)];
    let mut listed = Vec::new();
    for file in built.files()?.into_iter().filter(|file| !members.contains(file)) {
        let folders = file.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
        listed.extend(folders.map(Path::to_owned));
        listed.push(file);
    }
    listed.sort();
    listed.dedup();
    members.extend(listed);
    Ok(members)
}

/// Installs the collection from its tarball, and lets Ansible compare the files with their checksums.
pub(super) fn installs(tarball: &Path) -> Outcome {
    let sandbox = Sandbox::new();
    let place = sandbox.path("collections");
    let galaxy = |task| galaxy(sandbox.dir(), task);
    step::output(galaxy("install").arg(tarball).args(["--offline", "-p"]).arg(&place))?;
    step::output(galaxy("verify").args(["psflip.service", "--offline", "-p"]).arg(&place))?;
    let installed = repo::files_below(&place.join("ansible_collections/psflip/service"))?.len();
    // `galaxy.yml` is not installed, but the list and the description are.
    let committed = repo::tracked_below(&repo::root().join(SOURCE))?.len() + 1;
    if installed != committed {
        return Err(format!("the collection has {installed} files instead of {committed}").into());
    }
    println!("the Ansible collection: {installed} files; installed and verified by {PROGRAM}");
    Ok(())
}

/// Ansible's program, with a home of its own and without settings of this user.
fn galaxy(home: &Path, task: &str) -> Command {
    let mut command = super::tool(PROGRAM);
    let settings = std::env::vars_os().map(|(name, _)| name);
    for name in settings.filter(|name| name.as_encoded_bytes().starts_with(b"ANSIBLE_")) {
        command.env_remove(name);
    }
    let home = home.join(".ansible");
    command.env("LC_ALL", "C.UTF-8").env("HOME", &home).env("ANSIBLE_HOME", &home);
    command.args(["collection", task]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tarballs_of_the_collection_are_equal_and_ansible_verifies_them() {
        if testkit::need(PROGRAM).is_none() {
            return;
        }
        let sandbox = Sandbox::new();
        let version = env!("CARGO_PKG_VERSION");
        let make = |name: &str| {
            let directory = sandbox.path(name);
            fs::create_dir(&directory).unwrap();
            super::make(version, &directory).unwrap()
        };
        let (one, other) = (make("one"), make("the-other"));
        assert_eq!(fs::read(&one).unwrap(), fs::read(other).unwrap());
        installs(&one).unwrap();
        assert_eq!(fs::read_dir(sandbox.path("one")).unwrap().count(), 1, "{}", sandbox.report());
    }
}
