//! Lays out the files of a package in a folder, without timestamps or other varying data.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Programs;
use crate::{Error, Outcome, repo, step};

/// Each file of the repository, and where it is below `/usr`. A folder stands for all its files.
const SHARED: &[(&str, &str)] = &[
    ("dist/completions/psflip.bash", "share/bash-completion/completions/psflip"),
    ("dist/completions/psflip.fish", "share/fish/vendor_completions.d/psflip.fish"),
    ("dist/psflip.schema.json", "share/psflip/psflip.schema.json"),
    ("dist/psflip-rehearse.schema.json", "share/psflip/psflip-rehearse.schema.json"),
    ("README.md", "share/doc/psflip/README.md"),
    ("docs", "share/doc/psflip/docs"),
    ("examples", "share/doc/psflip/examples"),
    ("examples/systemd/psflip@.service", "lib/systemd/system/psflip@.service"),
];

/// Where zsh looks for completions: Debian has a folder of its own for packages.
pub(super) const ZSH: &str = "share/zsh/site-functions/_psflip";
pub(super) const ZSH_OF_DEBIAN: &str = "share/zsh/vendor-completions/_psflip";

/// The files of a package in a folder.
pub(super) struct Tree {
    pub(super) folder: PathBuf,
}

impl Tree {
    /// An empty tree; `folder` must not exist.
    pub(super) fn new(folder: PathBuf) -> Result<Self, Error> {
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Installs everything that each package of psflip contains below `prefix`.
    pub(super) fn fill(&self, prefix: &str, zsh: &str, programs: &Programs) -> Outcome {
        let root = repo::root();
        self.install(&programs.psflip, &format!("{prefix}bin/psflip"))?;
        self.install(&programs.rehearse, &format!("{prefix}bin/psflip-rehearse"))?;
        self.install(&root.join("dist/completions/_psflip"), &format!("{prefix}{zsh}"))?;
        for (from, to) in SHARED {
            self.install(&root.join(from), &format!("{prefix}{to}"))?;
        }
        for page in repo::tracked_below(&root.join("dist/man"))? {
            self.manual(&page, prefix)?;
        }
        Ok(())
    }

    /// Installs a manual page, compressed, into the folder of its section.
    pub(super) fn manual(&self, page: &Path, prefix: &str) -> Outcome {
        let name = page.file_name().unwrap_or_default().to_string_lossy();
        let section = page.extension().unwrap_or_default().to_string_lossy();
        let to = format!("{prefix}share/man/man{section}/{name}");
        self.install(page, &to)?;
        self.compress(&to)
    }

    /// Copies a file, or all files of a folder.
    pub(super) fn install(&self, from: &Path, to: &str) -> Outcome {
        let target = self.folder.join(to);
        if from.is_dir() {
            for file in repo::tracked_below(from)? {
                copy(&file, &target.join(file.strip_prefix(from)?))?;
            }
            return Ok(());
        }
        copy(from, &target)
    }

    /// Writes a text.
    pub(super) fn write(&self, to: &str, text: &str) -> Outcome {
        let target = self.folder.join(to);
        fs::create_dir_all(target.parent().unwrap_or(&self.folder))?;
        Ok(fs::write(target, text)?)
    }

    /// Replaces a file by `FILE.gz`, without name and time in it.
    pub(super) fn compress(&self, name: &str) -> Outcome {
        step::output(super::tool("gzip").args(["-9", "-n", "--force"]).arg(self.folder.join(name))).map(drop)
    }

    /// All files, sorted, by their paths in the tree.
    pub(super) fn files(&self) -> Result<Vec<PathBuf>, Error> {
        let files = repo::files_below(&self.folder)?;
        files.iter().map(|file| Ok(file.strip_prefix(&self.folder)?.to_owned())).collect()
    }

    /// The folders that no other package has: those with psflip's name, and all below them.
    pub(super) fn own_folders(&self) -> Result<BTreeSet<PathBuf>, Error> {
        let mut folders = BTreeSet::new();
        for file in self.files()? {
            let above = file.ancestors().skip(1).filter(|folder| folder.iter().any(|name| name == "psflip"));
            folders.extend(above.map(Path::to_owned));
        }
        Ok(folders)
    }

    /// The checksums of all files, in the format of `program`, such as sha256sum.
    pub(super) fn sums(&self, program: &str) -> Result<String, Error> {
        step::output(Command::new(program).args(self.files()?).current_dir(&self.folder))
    }

    /// The size of all files in KiB, each rounded up, as a package's control file has it.
    pub(super) fn kibibytes(&self) -> Result<u64, Error> {
        self.files()?
            .iter()
            .try_fold(0, |sum, file| Ok(sum + fs::metadata(self.folder.join(file))?.len().div_ceil(1024)))
    }

    /// Sets 755 for folders and for files that their owner may execute, and 644 for all others, whatever the umask is.
    pub(super) fn set_modes(&self) -> Outcome {
        let mut folders = vec![self.folder.clone()];
        while let Some(folder) = folders.pop() {
            fs::set_permissions(&folder, PermissionsExt::from_mode(0o755))?;
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let program =
                    folder.ends_with("bin") || fs::metadata(&path)?.permissions().mode() & 0o100 != 0;
                fs::set_permissions(&path, PermissionsExt::from_mode(if program { 0o755 } else { 0o644 }))?;
            }
        }
        Ok(())
    }

    /// Removes the folder.
    pub(super) fn remove(self) -> Outcome {
        Ok(fs::remove_dir_all(self.folder)?)
    }
}

fn copy(from: &Path, to: &Path) -> Outcome {
    let context = |error: std::io::Error| format!("can't put `{}` into the package: {error}", from.display());
    fs::create_dir_all(to.parent().unwrap_or(to)).map_err(context)?;
    fs::copy(from, to).map_err(context)?;
    Ok(())
}
