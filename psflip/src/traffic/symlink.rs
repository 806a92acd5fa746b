//! `[switch] symlink`: a symlink that is repointed at promotion, in one step (rename(2)), and repointed back
//! if the promotion then fails (contract U4, U8).

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::unix_file::aside;
use crate::config::Symlink;
use crate::sys::seam::{self, Call};

/// A symlink that was repointed, and its previous target.
#[derive(Debug)]
pub struct Repointed {
    link: Symlink,
    before: Option<PathBuf>,
}

/// Why a symlink can't be repointed.
#[derive(Debug, thiserror::Error)]
#[error("can't point the link `{path}` to `{to}`: {cause}")]
pub struct SymlinkError {
    path: PathBuf,
    to: PathBuf,
    cause: String,
}

/// Points the symlink to its new target.
///
/// # Errors
/// The target doesn't exist, there is a file other than a symlink, or the errors of symlink(2) and rename(2).
/// The symlink is unchanged then.
pub fn repoint(link: &Symlink) -> Result<Repointed, SymlinkError> {
    let error = |cause: String| SymlinkError { path: link.path.clone(), to: link.to.clone(), cause };
    // The target is relative to the symlink's directory (symlink(7)). Check that it exists, so
    // that clients always reach one.
    let target = link.path.parent().unwrap_or(Path::new("")).join(&link.to);
    if let Err(missing) = fs::symlink_metadata(&target) {
        return Err(error(format!("the target can't be seen: {missing}")));
    }
    let before = match fs::read_link(&link.path) {
        Ok(before) => Some(before),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
        Err(cause) if cause.kind() == io::ErrorKind::InvalidInput => {
            return Err(error(
                "there is a file of that name that is no symbolic link; it is not replaced".to_owned(),
            ));
        }
        Err(cause) => return Err(error(cause.to_string())),
    };
    point(&link.path, &link.to).map_err(|cause| error(cause.to_string()))?;
    Ok(Repointed { link: link.clone(), before })
}

impl Repointed {
    /// Points the symlink to its previous target, unless another process has repointed it since.
    ///
    /// # Errors
    /// As [`repoint`].
    pub fn undo(self) -> Result<(), SymlinkError> {
        let Self { link, before } = self;
        if !leads(&link) {
            return Ok(());
        }
        match &before {
            Some(before) if *before == link.to => Ok(()),
            Some(before) => point(&link.path, before),
            None => fs::remove_file(&link.path),
        }
        .map_err(|cause| SymlinkError {
            path: link.path.clone(),
            to: before.unwrap_or_default(),
            cause: cause.to_string(),
        })
    }
}

/// The target of a symlink at some moment.
#[derive(Debug)]
pub struct SavedTarget {
    path: PathBuf,
    /// `None`: there was no symlink.
    to: Option<PathBuf>,
}

impl SavedTarget {
    /// Records the present target.
    #[must_use]
    pub fn read(link: &Symlink) -> Self {
        Self { path: link.path.clone(), to: fs::read_link(&link.path).ok() }
    }

    /// Restores the recorded target: a successor that was killed could not do so itself.
    ///
    /// # Errors
    /// Those of symlink(2), rename(2) and unlink(2).
    pub fn restore(&self) -> Result<(), SymlinkError> {
        let now = fs::read_link(&self.path).ok();
        let restored = match &self.to {
            to if *to == now => Ok(()),
            Some(to) => point(&self.path, to),
            None => fs::remove_file(&self.path), // a symlink, because it could be read
        };
        restored.map_err(|cause| SymlinkError {
            path: self.path.clone(),
            to: self.to.clone().unwrap_or_default(),
            cause: cause.to_string(),
        })
    }
}

/// Whether the symlink points to its configured target.
fn leads(link: &Symlink) -> bool {
    fs::read_link(&link.path).is_ok_and(|to| to == link.to)
}

/// Creates a symlink under another name and renames it into place, so that there always is one.
fn point(path: &Path, to: &Path) -> io::Result<()> {
    let new = aside(path);
    let _ = fs::remove_file(&new); // left by a dead process with the same pid
    seam::before(Call::Symlink)?;
    symlink(to, &new)?;
    seam::before(Call::Rename).map_err(io::Error::from).and_then(|()| fs::rename(&new, path)).inspect_err(
        |_| {
            let _ = fs::remove_file(&new); // the first error is the one reported
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(dir: &Path, to: &str) -> Symlink {
        Symlink { path: dir.join("current"), to: PathBuf::from(to) }
    }

    #[test]
    fn a_symlink_is_repointed_and_restored() {
        // Contract: U4, U8
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let read = || fs::read_to_string(dir.path().join("current")).unwrap();
        let first = repoint(&link(dir.path(), "one")).unwrap();
        assert_eq!(read(), "one");
        let second = repoint(&link(dir.path(), "two")).unwrap();
        assert_eq!(read(), "two");
        second.undo().unwrap();
        assert_eq!(read(), "one");
        first.undo().unwrap();
        assert!(fs::symlink_metadata(dir.path().join("current")).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left over");
    }

    #[test]
    fn a_symlink_that_was_repointed_by_others_stays() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let first = repoint(&link(dir.path(), "one")).unwrap();
        let second = repoint(&link(dir.path(), "two")).unwrap();
        first.undo().unwrap();
        assert!(leads(&second.link));
    }

    #[test]
    fn a_missing_target_is_refused_and_a_regular_file_is_not_replaced() {
        // Contract: U8
        let dir = tempfile::tempdir().unwrap();
        let error = repoint(&link(dir.path(), "missing")).unwrap_err().to_string();
        assert!(error.contains("the target can't be seen"), "{error}");
        fs::write(dir.path().join("current"), "precious").unwrap();
        fs::write(dir.path().join("one"), "one").unwrap();
        let error = repoint(&link(dir.path(), "one")).unwrap_err().to_string();
        assert!(error.contains("no symbolic link"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("current")).unwrap(), "precious");
    }

    #[test]
    fn after_any_failed_call_the_symlink_is_unchanged() {
        // Contract: F10, U8
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        repoint(&link(dir.path(), "one")).unwrap();
        let (_, calls) = seam::testing::with(None, || repoint(&link(dir.path(), "one")));
        assert_eq!(calls, [Call::Symlink, Call::Rename]);
        for number in 0..calls.len() {
            let errno = nix::errno::Errno::ENOSPC;
            let (result, _) =
                seam::testing::with(Some((number, errno)), || repoint(&link(dir.path(), "two")));
            assert!(result.unwrap_err().to_string().contains("No space left"));
            assert!(leads(&link(dir.path(), "one")));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left over");
        }
    }
}
