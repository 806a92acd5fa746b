//! Finds the repository, the target directory and cargo, and reads the repository's files.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Error;

/// The repository's root: the directory above xtask's manifest.
pub(crate) fn root() -> PathBuf {
    let manifest =
        env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_owned)
}

/// The cargo that started this task, to be run in the repository's root, with its usual output.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Git in a directory, also if this was started by a hook or an alias of git, for another index or another tree.
pub(crate) fn git(directory: &Path) -> Command {
    let mut git = Command::new("git");
    for name in
        ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"]
    {
        git.env_remove(name);
    }
    git.arg("-C").arg(directory);
    git
}

/// The directory of `debug/xtask`, the running program.
pub(crate) fn target_dir() -> Result<PathBuf, Error> {
    let program = env::current_exe()?;
    let above = program.ancestors().find(|path| path.ends_with("debug") || path.ends_with("release"));
    match above.and_then(Path::parent) {
        Some(target) => Ok(target.to_owned()),
        None => Err(format!(
            "can't tell the target directory from `{}`; start xtask by `cargo xtask`",
            program.display()
        )
        .into()),
    }
}

/// Whether a program of this name is in PATH.
pub(crate) fn is_installed(program: &str) -> bool {
    is_in(&env::var_os("PATH").unwrap_or_default(), program)
}

/// Whether a program of this name is in one of the directories of `path`.
pub(crate) fn is_in(path: &OsStr, program: &str) -> bool {
    env::split_paths(path).any(|dir| dir.join(program).is_file())
}

/// A file of the repository: its path from the root, with `/`, and its text.
#[derive(Debug)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Every text file of the repository except `target` and `.git`, sorted by path.
pub(crate) fn files() -> Result<Vec<File>, Error> {
    let root = root();
    let mut files = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        let entries = fs::read_dir(&directory)
            .map_err(|error| format!("can't list `{}`: {error}", directory.display()))?;
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                if entry.file_name() != "target" && entry.file_name() != ".git" {
                    directories.push(path);
                }
            } else if kind.is_file() {
                match fs::read_to_string(&path) {
                    Ok(text) => files
                        .push(File { path: path.strip_prefix(&root)?.to_string_lossy().into_owned(), text }),
                    // Not text (an image), or an editor's temporary file that is gone since the listing.
                    Err(error)
                        if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::NotFound) => {}
                    Err(error) => return Err(format!("can't read `{}`: {error}", path.display()).into()),
                }
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

/// The files below a folder of the repository that belong to it, sorted: without what an editor or a build has left there.
/// Without Git's directory (in a copy, in a crate's package) it is all files.
pub(crate) fn tracked_below(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    if !root().join(".git").exists() {
        return files_below(folder);
    }
    let names = crate::step::output(git(folder).args(["ls-files", "-z"]))?;
    let mut files: Vec<PathBuf> =
        names.split('\0').filter(|name| !name.is_empty()).map(|name| folder.join(name)).collect();
    files.sort();
    Ok(files)
}

/// All files below a folder, sorted.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>, Error> {
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
