//! The temporary working tree in which a release is prepared.

use std::path::PathBuf;
use std::process::Command;

use crate::{Error, Outcome, repo, step};

/// A second working tree of this repository, at the last commit, without a branch. It is removed at the end, also if
/// a step fails; what Ctrl-C leaves is removed by the next release.
pub(super) struct WorkingTree {
    pub(super) path: PathBuf,
}

impl WorkingTree {
    pub(super) fn new() -> Result<Self, Error> {
        let tree = Self { path: repo::target_dir()?.join("release-tree") };
        tree.remove();
        let mut git = repo::git(&repo::root());
        git.args(["worktree", "add", "--quiet", "--force", "--detach"]).arg(&tree.path).arg("HEAD");
        step::output(&mut git)?;
        Ok(tree)
    }

    pub(super) fn git(&self, arguments: &[&str]) -> Result<String, Error> {
        step::output(repo::git(&self.path).args(arguments))
    }

    /// Cargo in this tree, which builds into the usual target directory.
    pub(super) fn cargo(&self) -> Result<Command, Error> {
        let mut cargo = repo::cargo();
        cargo
            .current_dir(&self.path)
            .env("CARGO_TARGET_DIR", repo::target_dir()?)
            .env_remove("CARGO_MANIFEST_DIR");
        Ok(cargo)
    }

    /// Applies the changes to the usual working tree: all of them or, if one can't be applied, none.
    pub(super) fn apply(&self) -> Outcome {
        let patch = self.path.with_extension("patch");
        self.git(&["diff", "--binary", &format!("--output={}", patch.display()), "HEAD"])?;
        step::output(repo::git(&repo::root()).arg("apply").arg(&patch))?;
        Ok(std::fs::remove_file(patch)?)
    }

    /// Removes the tree, if there is one.
    fn remove(&self) {
        drop(repo::git(&repo::root()).args(["worktree", "remove", "--force"]).arg(&self.path).output());
        drop(std::fs::remove_dir_all(&self.path));
        drop(repo::git(&repo::root()).args(["worktree", "prune"]).output());
    }
}

impl Drop for WorkingTree {
    fn drop(&mut self) {
        self.remove();
    }
}
