//! Debian packages that are unpacked into the target directory, beside the system: nothing is installed, and no one needs
//! to be root.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, Outcome, repo, step};

/// Unpacked packages.
pub(super) struct Packages {
    folder: PathBuf,
}

impl Packages {
    /// Downloads and unpacks these packages, and those that they depend on, unless the folder has them. Packages of this
    /// host's architecture that are installed already are not unpacked; those of another one, such as `busybox:arm64`,
    /// are unpacked without what they depend on.
    pub(super) fn unpacked(name: &str, wanted: &[&str]) -> Result<Self, Error> {
        let folder = repo::target_dir()?.join("cross").join(name);
        let packages = Self { folder };
        let wanted_text = wanted.join(" ");
        if fs::read_to_string(packages.folder.join("wanted")).is_ok_and(|text| text == wanted_text) {
            return Ok(packages);
        }
        packages.unpack(wanted).map_err(|error| {
            format!("can't get {wanted_text}, which apt-get has on Debian and its derivatives: {error}")
        })?;
        fs::write(packages.folder.join("wanted"), wanted_text)?;
        Ok(packages)
    }

    fn unpack(&self, wanted: &[&str]) -> Outcome {
        let downloads = super::super::empty(self.folder.clone())?.join("downloads");
        fs::create_dir_all(&downloads)?;
        let (foreign, own): (Vec<&str>, Vec<&str>) = wanted.iter().partition(|name| name.contains(':'));
        let apt = self.apt(&foreign)?;
        let run = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            command.env("APT_CONFIG", &apt).env("LC_ALL", "C").args(arguments).current_dir(&downloads);
            step::output(&mut command)
        };
        run("apt-get", &["update", "--quiet"])?;
        let mut names: Vec<String> = foreign.iter().map(|name| (*name).to_owned()).collect();
        for name in &mut names {
            *name = newest(name, &run("apt-cache", &["depends", name])?);
        }
        if !own.is_empty() {
            let list = ["install", "--print-uris", "--quiet=2", "--no-install-recommends"];
            names.extend(of_uris(&run("apt-get", &[&list[..], &own].concat())?));
        }
        if !names.is_empty() {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            run("apt-get", &[&["download", "--quiet"][..], &names].concat())?;
        }
        for file in repo::files_below(&downloads)? {
            let root = self.root();
            step::output(Command::new("dpkg-deb").arg("--extract").arg(&file).arg(root))?;
        }
        for (name, version) in self.versions()? {
            println!("unpacked {name} {version}");
        }
        // apt-get's lists are large, and outdated at the next time.
        for name in ["lists", "cache"] {
            fs::remove_dir_all(self.folder.join(name))?;
        }
        Ok(())
    }

    /// The path of apt-get's configuration: with lists of its own, which need no root, and with another architecture.
    fn apt(&self, foreign: &[&str]) -> Result<PathBuf, Error> {
        let folder = self.folder.display();
        for name in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(self.folder.join(name))?;
        }
        let mut text = format!(
            "Dir::State::lists \"{folder}/lists\";\nDir::Cache \"{folder}/cache\";\nAPT::Sandbox::User \"\";\n\
             Debug::NoLocking \"true\";\n"
        );
        for architecture in foreign.iter().filter_map(|name| name.split_once(':')) {
            let own = step::output(Command::new("dpkg").arg("--print-architecture"))?;
            text += &format!("APT::Architectures {{ \"{}\"; \"{}\"; }};\n", own.trim(), architecture.1);
        }
        let file = self.folder.join("apt.conf");
        fs::write(&file, text)?;
        Ok(file)
    }

    /// Where the packages' files are.
    pub(super) fn root(&self) -> PathBuf {
        self.folder.join("root")
    }

    /// A file that is the only one of this beginning in a folder, such as `boot/vmlinuz-`.
    pub(super) fn file(&self, start: &str) -> Result<PathBuf, Error> {
        let start = self.root().join(start);
        let folder = start.parent().unwrap_or(&start);
        let name = start.file_name().unwrap_or_default().as_encoded_bytes();
        let found = repo::files_below(folder)?
            .into_iter()
            .find(|file| file.file_name().is_some_and(|file| file.as_encoded_bytes().starts_with(name)));
        found.ok_or_else(|| format!("no package has unpacked `{}`", start.display()).into())
    }

    /// A program: an unpacked one, or, if its package is installed, its name.
    pub(super) fn program(&self, name: &str) -> PathBuf {
        let unpacked = self.root().join("usr/bin").join(name);
        if unpacked.exists() { unpacked } else { name.into() }
    }

    /// The value of `LD_LIBRARY_PATH` for a program: libraries of this host's architecture.
    pub(super) fn libraries(&self) -> String {
        let triple = format!("{}-linux-gnu", std::env::consts::ARCH);
        let folder = |name: &str| self.root().join(name).join(&triple).display().to_string();
        [folder("usr/lib"), folder("lib")].join(":")
    }

    /// The version of an unpacked package, or of the installed one.
    pub(super) fn version(&self, name: &str) -> Result<String, Error> {
        match self.versions()?.into_iter().find(|(package, _)| package == name) {
            Some((_, version)) => Ok(version),
            None => {
                step::output(Command::new("dpkg-query").args(["--show", "--showformat=${Version}"]).arg(name))
            }
        }
    }

    /// The names and versions of the unpacked packages.
    fn versions(&self) -> Result<Vec<(String, String)>, Error> {
        let files = repo::files_below(&self.folder.join("downloads"))?;
        Ok(files.iter().filter_map(|file| of_file(file)).collect())
    }
}

/// The packages of lines `'URI' NAME_VERSION_ARCHITECTURE.deb SIZE CHECKSUM`, each as `NAME=VERSION`.
fn of_uris(uris: &str) -> Vec<String> {
    let files = uris.lines().filter_map(|line| line.split(' ').nth(1));
    files
        .filter_map(|file| of_file(Path::new(file)))
        .map(|(name, version)| format!("{name}={version}"))
        .collect()
}

/// Name and version in the name of a package's file, in which `%3a` is a colon.
fn of_file(file: &Path) -> Option<(String, String)> {
    let name = file.file_name()?.to_str()?.strip_suffix(".deb")?;
    let mut parts = name.split('_');
    Some((parts.next()?.to_owned(), parts.next()?.replace("%3a", ":")))
}

/// A kernel has a new name for each version: `linux-image-arm64` only depends on the newest one. `depends` is what
/// apt-cache prints about `name`.
fn newest(name: &str, depends: &str) -> String {
    let kernel = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let architecture = name.split_once(':').map_or("", |(_, architecture)| architecture);
    match kernel {
        Some(version) => {
            format!("linux-image-{}:{architecture}", version.split([' ', ':']).next().unwrap_or_default())
        }
        None => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_files_have_name_and_version() {
        let file = "gcc-aarch64-linux-gnu_4%3a12.2.0-3_amd64.deb";
        let parts = ("gcc-aarch64-linux-gnu".to_owned(), "4:12.2.0-3".to_owned());
        assert_eq!(of_file(Path::new("/x").join(file).as_path()), Some(parts));
        assert_eq!(of_file(Path::new("lock")), None);
        let uris = format!("'http://deb.debian.org/debian/x.deb' {file} 1468 SHA256:00\n");
        assert_eq!(of_uris(&uris), ["gcc-aarch64-linux-gnu=4:12.2.0-3"]);
        assert!(of_uris("").is_empty());
    }

    #[test]
    fn a_package_of_the_newest_kernel_stands_for_that_kernel() {
        let depends = "linux-image-cloud-arm64:arm64\n  Depends: linux-image-6.1.0-57-cloud-arm64:arm64 (= 6.1.192-3)\n";
        let kernel = "linux-image-6.1.0-57-cloud-arm64:arm64";
        assert_eq!(newest("linux-image-cloud-arm64:arm64", depends), kernel);
        assert_eq!(
            newest("busybox-static:arm64", "busybox-static:arm64\n  Conflicts: busybox\n"),
            "busybox-static:arm64"
        );
    }
}
