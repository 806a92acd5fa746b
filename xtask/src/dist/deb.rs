//! Makes the Debian packages: psflip, and psflip-testkit with the fixtures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::licences::{self, Licences};
use super::tree::{Tree, ZSH_OF_DEBIAN};
use super::{Programs, TestPrograms};
use crate::{Error, Outcome, repo, step};

/// How a release is compressed: this takes seconds.
pub(super) const SMALL: &[&str] = &["-Zxz", "-z6"];
/// How a package for a test is compressed: not at all.
pub(super) const FAST: &[&str] = &["-Znone"];

/// Makes the package psflip of this version in `directory`; returns its path.
pub(super) fn psflip(
    programs: &Programs,
    version: &str,
    compression: &[&str],
    directory: &Path,
) -> Result<PathBuf, Error> {
    let tree = Tree::new(directory.join("tree"))?;
    tree.fill("usr/", ZSH_OF_DEBIAN, programs)?;
    fs::create_dir_all(tree.folder.join("etc/psflip"))?;
    let debian = &programs.target.debian;
    pack(tree, "psflip", version, &programs.licences, debian, compression, directory)
}

/// Makes the package psflip-testkit in `directory`; returns its path.
pub(super) fn testkit(programs: &TestPrograms, version: &str, directory: &Path) -> Result<PathBuf, Error> {
    let tree = Tree::new(directory.join("tree"))?;
    for (program, name, summary) in [
        (&programs.fixture, "psflip-fixture", "child programs for tests of a supervisor"),
        (&programs.launch, "testkit-launch", "starts a program for a test, and kills its leftover processes"),
    ] {
        tree.install(program, &format!("usr/bin/{name}"))?;
        let help = step::output(Command::new(program).arg("--help"))?;
        let page = format!("usr/share/man/man1/{name}.1");
        tree.write(&page, &manual(name, summary, version, &help))?;
        tree.compress(&page)?;
    }
    tree.install(&repo::root().join("fixtures/README.md"), "usr/share/doc/psflip-testkit/README.md")?;
    let debian = &programs.target.debian;
    pack(tree, "psflip-testkit", version, &programs.licences, debian, SMALL, directory)
}

/// Adds what every package has, and packs the tree.
fn pack(
    tree: Tree,
    name: &str,
    version: &str,
    licences: &Licences,
    architecture: &str,
    compression: &[&str],
    directory: &Path,
) -> Result<PathBuf, Error> {
    let sources = repo::root().join("dist/debian");
    let doc = format!("usr/share/doc/{name}");
    let changelog = fs::read_to_string(sources.join("changelog"))?;
    tree.write(&format!("{doc}/changelog"), &changelog.replace("psflip (", &format!("{name} (")))?;
    tree.compress(&format!("{doc}/changelog"))?;
    let licence = fs::read_to_string(repo::root().join("LICENSE-MIT"))?;
    tree.write(&format!("{doc}/copyright"), &copyright(&licence, name, &licences.expression))?;
    tree.write(&format!("{doc}/{}", licences::FILE), &licences.texts)?;
    tree.compress(&format!("{doc}/{}", licences::FILE))?;
    let overrides = sources.join(format!("{name}.lintian-overrides"));
    tree.install(&overrides, &format!("usr/share/lintian/overrides/{name}"))?;
    let version = &super::packaged(version);
    let control = fs::read_to_string(sources.join(format!("{name}.control")))?
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", architecture)
        .replace("@SIZE@", &tree.kibibytes()?.to_string());
    let sums = tree.sums("md5sum")?;
    tree.write("DEBIAN/control", &control)?;
    tree.write("DEBIAN/md5sums", &sums)?;
    tree.set_modes()?;
    let package = directory.join(format!("{name}_{version}_{architecture}.deb"));
    build(&tree, compression, &package)?;
    tree.remove()?;
    Ok(package)
}

fn build(tree: &Tree, compression: &[&str], package: &Path) -> Outcome {
    let mut dpkg = super::tool("dpkg-deb");
    dpkg.args(["--root-owner-group", "--uniform-compression"]).args(compression).arg("--build");
    step::output(dpkg.args([&tree.folder, package]).env("SOURCE_DATE_EPOCH", super::date()?)).map(drop)
}

/// The copyright file (Debian policy 12.5, machine-readable format 1.0). Every Debian system has Apache's
/// text.
fn copyright(mit: &str, name: &str, expression: &str) -> String {
    let file = licences::FILE;
    let mit: String = mit
        .lines()
        .map(|line| if line.trim().is_empty() { " .\n".to_owned() } else { format!(" {line}\n") })
        .collect();
    format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: psflip\n\
         Comment:\n The programs are linked statically. With the libraries in them, their licence is\n {expression}.\n \
         All copyright notices and texts: /usr/share/doc/{name}/{file}.gz;\n \
         the C library's: /usr/share/common-licenses/LGPL-2.1.\n\nFiles: *\n\
         Copyright: The psflip developers\nLicense: MIT or Apache-2.0\n\nLicense: MIT\n{mit}\nLicense: Apache-2.0\n \
         See /usr/share/common-licenses/Apache-2.0.\n"
    )
}

/// A manual page that is a program's `--help` (roff: a backslash, and a dot or quote at the start of a line, are
/// special).
fn manual(name: &str, summary: &str, version: &str, help: &str) -> String {
    let lines: String =
        help.lines().map(|line| format!("\\&{}\n", line.replace('\\', "\\e").replace('-', "\\-"))).collect();
    let title = name.to_uppercase();
    format!(
        ".TH {title} 1 \"\" \"psflip {version}\"\n.SH NAME\n{} \\- {summary}\n.SH DESCRIPTION\n.nf\n{lines}.fi\n",
        name.replace('-', "\\-")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_help_is_no_roff() {
        let page = manual("a-b", "does it", "1.0.0", ".TH is no macro\n  --tab '\\t'\n");
        assert!(page.contains("a\\-b \\- does it"), "{page}");
        assert!(page.contains("\n\\&.TH is no macro\n\\&  \\-\\-tab '\\et'\n"), "{page}");
    }
}
