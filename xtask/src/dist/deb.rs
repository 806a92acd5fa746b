//! Makes the Debian package: lays out a tree of files, which dpkg-deb packs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Binaries, output};
use crate::{Error, repo};

/// Each file of the repository, its destination, and whether it is compressed by gzip (Debian policy 12.1,
/// 12.7). A folder stands for all its files.
const FILES: &[(&str, &str, bool)] = &[
    ("dist/completions/psflip.bash", "usr/share/bash-completion/completions/psflip", false),
    ("dist/completions/_psflip", "usr/share/zsh/vendor-completions/_psflip", false),
    ("dist/completions/psflip.fish", "usr/share/fish/vendor_completions.d/psflip.fish", false),
    ("dist/psflip.schema.json", "usr/share/psflip/psflip.schema.json", false),
    ("dist/psflip-rehearse.schema.json", "usr/share/psflip/psflip-rehearse.schema.json", false),
    ("dist/debian/changelog", "usr/share/doc/psflip/changelog", true),
    ("dist/debian/lintian-overrides", "usr/share/lintian/overrides/psflip", false),
    ("README.md", "usr/share/doc/psflip/README.md", false),
    ("docs", "usr/share/doc/psflip/docs", false),
    ("examples", "usr/share/doc/psflip/examples", false),
    ("examples/systemd/psflip@.service", "usr/lib/systemd/system/psflip@.service", false),
];

/// Makes the package in `directory`; returns its path.
pub(super) fn make(binaries: &Binaries, directory: &Path) -> Result<PathBuf, Error> {
    let tree = directory.join("tree");
    let version = version()?;
    fill(binaries, &tree)?;
    let architecture = output(Command::new("dpkg").arg("--print-architecture"))?.trim().to_owned();
    let (mut sums, mut size) = (String::new(), 0);
    for file in files_below(&tree)? {
        size += fs::metadata(&file)?.len().div_ceil(1024);
        let sum = output(Command::new("md5sum").arg(file.strip_prefix(&tree)?).current_dir(&tree))?;
        sums += &sum;
    }
    let control = fs::read_to_string(repo::root().join("dist/debian/control"))?
        .replace("@VERSION@", &version)
        .replace("@ARCHITECTURE@", &architecture)
        .replace("@SIZE@", &size.to_string());
    fs::create_dir(tree.join("DEBIAN"))?;
    fs::write(tree.join("DEBIAN/control"), control)?;
    fs::write(tree.join("DEBIAN/md5sums"), sums)?;
    fs::create_dir_all(tree.join("etc/psflip"))?;
    set_modes(&tree)?;
    let package = directory.join(format!("psflip_{version}_{architecture}.deb"));
    output(
        Command::new("dpkg-deb")
            .args(["--root-owner-group", "--uniform-compression", "-Zxz", "--build"])
            .args([&tree, &package])
            .env("SOURCE_DATE_EPOCH", date()?),
    )?;
    fs::remove_dir_all(&tree)?;
    Ok(package)
}

/// Installs all files except the control information.
fn fill(binaries: &Binaries, tree: &Path) -> Result<(), Error> {
    let root = repo::root();
    install(&binaries.psflip, &tree.join("usr/bin/psflip"), false)?;
    install(&binaries.rehearse, &tree.join("usr/bin/psflip-rehearse"), false)?;
    for (from, to, packed) in FILES {
        let from = root.join(from);
        if from.is_dir() {
            for file in files_below(&from)? {
                install(&file, &tree.join(to).join(file.strip_prefix(&from)?), false)?;
            }
        } else {
            install(&from, &tree.join(to), *packed)?;
        }
    }
    for page in files_below(&root.join("dist/man"))? {
        let name = page.file_name().unwrap_or_default();
        let section = page.extension().unwrap_or_default().to_string_lossy().into_owned();
        install(&page, &tree.join(format!("usr/share/man/man{section}")).join(name), true)?;
    }
    let licence = fs::read_to_string(root.join("LICENSE-MIT"))?;
    fs::write(tree.join("usr/share/doc/psflip/copyright"), copyright(&licence))?;
    Ok(())
}

/// The copyright file (Debian policy 12.5, machine-readable format 1.0). Every Debian system has Apache's
/// text.
fn copyright(mit: &str) -> String {
    let mit: String = mit
        .lines()
        .map(|line| if line.trim().is_empty() { " .\n".to_owned() } else { format!(" {line}\n") })
        .collect();
    format!(
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: psflip\n\nFiles: *\n\
         Copyright: The psflip developers\nLicense: MIT or Apache-2.0\n\nLicense: MIT\n{mit}\nLicense: Apache-2.0\n \
         See /usr/share/common-licenses/Apache-2.0.\n"
    )
}

/// Copies a file, compressed if `packed`, without timestamps or other varying data.
fn install(from: &Path, to: &Path, packed: bool) -> Result<(), Error> {
    let context = |error: std::io::Error| format!("can't put `{}` into the package: {error}", from.display());
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(context)?;
    }
    fs::copy(from, to).map_err(context)?;
    if packed {
        output(Command::new("gzip").args(["-9", "-n", "--force"]).arg(to))?;
    }
    Ok(())
}

/// Sets 755 for folders and programs and 644 for all other files, whatever the umask is.
fn set_modes(tree: &Path) -> Result<(), Error> {
    let mut folders = vec![tree.to_owned()];
    while let Some(folder) = folders.pop() {
        fs::set_permissions(&folder, PermissionsExt::from_mode(0o755))?;
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let program = path.starts_with(tree.join("usr/bin"))
                || path.extension().is_some_and(|extension| extension == "sh");
            fs::set_permissions(&path, PermissionsExt::from_mode(if program { 0o755 } else { 0o644 }))?;
        }
    }
    Ok(())
}

/// All files below a folder, sorted.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).map_err(|error| format!("can't list `{}`: {error}", folder.display()))?
        {
            let path = entry?.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    Ok(files)
}

/// The version, which must be the same in Cargo.toml and the changelog. The maintainer in both files of
/// dist/debian has no real address: the field is required (Debian policy 3.3), and names below `.invalid`
/// belong to no one (RFC 2606).
fn version() -> Result<String, Error> {
    let cargo = env!("CARGO_PKG_VERSION");
    let changelog = fs::read_to_string(repo::root().join("dist/debian/changelog"))?;
    if changelog.starts_with(&format!("psflip ({cargo}) ")) {
        return Ok(cargo.to_owned());
    }
    Err(format!("dist/debian/changelog doesn't begin with version {cargo}: add what has changed").into())
}

/// The changelog's date, in seconds since 1970: the timestamp of everything in the package.
fn date() -> Result<String, Error> {
    let changelog = fs::read_to_string(repo::root().join("dist/debian/changelog"))?;
    let line = changelog.lines().find(|line| line.starts_with(" -- ")).unwrap_or_default();
    let date = line.rsplit_once(">  ").map(|(_, date)| date).ok_or("dist/debian/changelog has no date")?;
    Ok(output(Command::new("date").args(["--utc", "+%s", "--date", date]))?.trim().to_owned())
}
