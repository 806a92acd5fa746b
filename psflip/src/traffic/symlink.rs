//! `[switch] symlink`: a symbolic link that is turned at promotion, in one step (rename(2)), and turned back if the promotion
//! then fails (contract U4, U8).

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::unix_file::aside;
use crate::config::Symlink;
use crate::sys::seam::{self, Call};

/// A link that was turned, and what it pointed to before.
#[derive(Debug)]
pub struct Turned {
    link: Symlink,
    before: Option<PathBuf>,
}

/// Why a link can't be turned.
#[derive(Debug, thiserror::Error)]
#[error("can't point the link `{path}` to `{to}`: {cause}")]
pub struct Error {
    path: PathBuf,
    to: PathBuf,
    cause: String,
}

/// Points the link to its new target.
///
/// # Errors
/// The target isn't there, something that is no link is in the way, or what symlink(2) and rename(2) say. The link is as it was.
pub fn turn(link: &Symlink) -> Result<Turned, Error> {
    let error = |cause: String| Error { path: link.path.clone(), to: link.to.clone(), cause };
    // Where the link leads is relative to where it is (symlink(7)). Clients must not be sent to nothing.
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
    Ok(Turned { link: link.clone(), before })
}

impl Turned {
    /// Lets the link point to where it pointed before, unless somebody else has turned it since.
    ///
    /// # Errors
    /// As [`turn`].
    pub fn turn_back(self) -> Result<(), Error> {
        let Self { link, before } = self;
        if !leads(&link) {
            return Ok(());
        }
        match &before {
            Some(before) if *before == link.to => Ok(()),
            Some(before) => point(&link.path, before),
            None => fs::remove_file(&link.path),
        }
        .map_err(|cause| Error {
            path: link.path.clone(),
            to: before.unwrap_or_default(),
            cause: cause.to_string(),
        })
    }
}

/// Where a link led at some moment.
#[derive(Debug)]
pub struct Was {
    path: PathBuf,
    /// `None`: there was none.
    to: Option<PathBuf>,
}

impl Was {
    /// Looks now.
    #[must_use]
    pub fn look(link: &Symlink) -> Self {
        Self { path: link.path.clone(), to: fs::read_link(&link.path).ok() }
    }

    /// Lets it lead there again: a successor that was killed could not turn it back itself.
    ///
    /// # Errors
    /// What symlink(2), rename(2) and unlink(2) say.
    pub fn restore(&self) -> Result<(), Error> {
        let now = fs::read_link(&self.path).ok();
        let restored = match &self.to {
            to if *to == now => Ok(()),
            Some(to) => point(&self.path, to),
            None => fs::remove_file(&self.path), // a link, for it could be read
        };
        restored.map_err(|cause| Error {
            path: self.path.clone(),
            to: self.to.clone().unwrap_or_default(),
            cause: cause.to_string(),
        })
    }
}

/// Whether the link points to its target.
fn leads(link: &Symlink) -> bool {
    fs::read_link(&link.path).is_ok_and(|to| to == link.to)
}

/// Puts a link under another name and renames it into place, so that there always is one.
fn point(path: &Path, to: &Path) -> io::Result<()> {
    let new = aside(path);
    let _ = fs::remove_file(&new); // of a dead process with our pid
    seam::before(Call::Symlink)?;
    symlink(to, &new)?;
    seam::before(Call::Rename).map_err(io::Error::from).and_then(|()| fs::rename(&new, path)).inspect_err(
        |_| {
            let _ = fs::remove_file(&new); // the failure that is told is the first one
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
    fn a_link_is_turned_and_turned_back() {
        // Contract: U4, U8
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let read = || fs::read_to_string(dir.path().join("current")).unwrap();
        let first = turn(&link(dir.path(), "one")).unwrap();
        assert_eq!(read(), "one");
        let second = turn(&link(dir.path(), "two")).unwrap();
        assert_eq!(read(), "two");
        second.turn_back().unwrap();
        assert_eq!(read(), "one");
        first.turn_back().unwrap();
        assert!(fs::symlink_metadata(dir.path().join("current")).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left over");
    }

    #[test]
    fn a_link_that_somebody_else_turned_stays() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let first = turn(&link(dir.path(), "one")).unwrap();
        let second = turn(&link(dir.path(), "two")).unwrap();
        first.turn_back().unwrap();
        assert!(leads(&second.link));
    }

    #[test]
    fn clients_are_not_sent_to_nothing_and_files_are_not_replaced() {
        // Contract: U8
        let dir = tempfile::tempdir().unwrap();
        let error = turn(&link(dir.path(), "missing")).unwrap_err().to_string();
        assert!(error.contains("the target can't be seen"), "{error}");
        fs::write(dir.path().join("current"), "precious").unwrap();
        fs::write(dir.path().join("one"), "one").unwrap();
        let error = turn(&link(dir.path(), "one")).unwrap_err().to_string();
        assert!(error.contains("no symbolic link"), "{error}");
        assert_eq!(fs::read_to_string(dir.path().join("current")).unwrap(), "precious");
    }

    #[test]
    fn every_call_may_fail_and_the_link_is_as_it_was() {
        // Contract: F10, U8
        let dir = tempfile::tempdir().unwrap();
        for name in ["one", "two"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        turn(&link(dir.path(), "one")).unwrap();
        let (_, calls) = seam::testing::with(None, || turn(&link(dir.path(), "one")));
        assert_eq!(calls, [Call::Symlink, Call::Rename]);
        for number in 0..calls.len() {
            let errno = nix::errno::Errno::ENOSPC;
            let (result, _) = seam::testing::with(Some((number, errno)), || turn(&link(dir.path(), "two")));
            assert!(result.unwrap_err().to_string().contains("No space left"));
            assert!(leads(&link(dir.path(), "one")));
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "nothing is left over");
        }
    }
}
