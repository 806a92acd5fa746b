//! `cargo xtask release`: from the last commit to the files of a release, a commit and a tag. Nothing is uploaded.

mod edit;
mod tree;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use semver::Version;

use crate::args::Args;
use crate::{Error, Outcome, repo, runner, step};

use edit::Release;
use tree::WorkingTree;

pub(crate) const USAGE: &str = "\
cargo xtask release VERSION [--dry-run] [--no-build] [--commit]

Prepares a release of the last commit, which should have passed `cargo xtask ci`:
  1. refuses a tree with changes, a version that is not newer than that of Cargo.toml (which itself can be released until it
     has a tag), and an empty section Unreleased
  2. sets the version in Cargo.toml, both Cargo.lock, the manual pages, the pytest plugin, the Ansible collection and Debian's
     changelog, and gives the section Unreleased of CHANGELOG.md version and date
  3. checks: house rules, contract, generated files, the tests of libraries and programs, the crates as they would be published
  4. builds and checks all files of the release in target/dist, with notes for its page in RELEASE_NOTES.md
All this happens in a temporary working tree, target/release-tree. Your files, branch and tags change only at the end, and only
if every step has succeeded. Nothing is uploaded.

  --dry-run   only print what would change
  --no-build  without the steps 3 and 4; the notes are then target/RELEASE_NOTES.md
  --commit    commit the changes, move the branch to the commit, and make the annotated tag vVERSION";

/// The files that contain the version, besides the manual pages.
const MANIFEST: &str = "Cargo.toml";
const LOCKS: [&str; 2] = ["Cargo.lock", "examples/testkit/axum-app/Cargo.lock"];
const CHANGELOG: &str = "CHANGELOG.md";
const DEBIAN: &str = "dist/debian/changelog";
const PYTHON: &str = "testkit/python/pytest_psflip/__init__.py";
const ANSIBLE: &str = "dist/ansible_collections/psflip/service/galaxy.yml";
/// `cargo xtask dist` works without these, and leaves something out.
const PACKAGERS: [&str; 3] = ["rpmbuild", "ansible-galaxy", "lintian"];

pub(crate) fn run(mut args: Args) -> Outcome {
    let (is_dry, no_build, commits) = (args.flag("dry-run"), args.flag("no-build"), args.flag("commit"));
    let version = args.word().ok_or("no version is given: `cargo xtask release 1.2.3`")?;
    args.done()?;
    let new: Version =
        version.parse().map_err(|error| format!("`{version}` is no semantic version: {error}"))?;
    refuse_changes()?;
    let release = release(new)?;
    let tag = release.tag();
    if !git(&["tag", "--list", &tag])?.is_empty() {
        return Err(format!("the tag {tag} exists already: choose a newer version").into());
    }
    let edits = edits(&release)?;
    if is_dry {
        return show(&edits);
    }
    if !no_build && let Some(program) = PACKAGERS.into_iter().find(|program| !repo::is_installed(program)) {
        return Err(format!(
            "`{program}` is not installed: without it a file of the release would be missing, or unchecked"
        )
        .into());
    }
    let tree = WorkingTree::new()?;
    for edit in &edits {
        fs::write(tree.path.join(&edit.name), &edit.new)?;
        println!("changed {}", edit.name);
    }
    let notes = check(&release, &tree, no_build)?;
    println!("notes: {}", notes.display());
    if commits {
        return commit(&release, &tree, &edits, &notes);
    }
    tree.apply()?;
    println!("not committed; `git diff` shows the changes, and --commit would commit and tag them");
    Ok(())
}

/// An edited file: its name from the root, its path, and its new text.
struct Edit {
    name: String,
    path: PathBuf,
    new: String,
}

fn git(arguments: &[&str]) -> Result<String, Error> {
    step::output(repo::git(&repo::root()).args(arguments))
}

fn refuse_changes() -> Outcome {
    let changes = git(&["status", "--porcelain"])?;
    if changes.is_empty() {
        return Ok(());
    }
    Err(format!(
        "the tree has changes that are not committed; commit or remove them first:\n{}",
        changes.trim_end()
    )
    .into())
}

fn read(name: &str) -> Result<String, Error> {
    Ok(fs::read_to_string(repo::root().join(name))
        .map_err(|error| format!("can't read `{name}`: {error}"))?)
}

/// The release, with the time of now.
fn release(new: Version) -> Result<Release, Error> {
    let old = edit::current(&read(MANIFEST)?)?;
    // The very first version is in Cargo.toml before anything was released.
    let is_first = new == old && git(&["tag", "--list", &format!("v{old}")])?.is_empty();
    if new <= old && !is_first {
        return Err(format!("{new} is not newer than {old}, the version in Cargo.toml").into());
    }
    let notes = edit::unreleased(&read(CHANGELOG)?)?;
    let now = format!("@{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs());
    let date = |format: &str| -> Result<String, Error> {
        Ok(step::output(Command::new("date").args(["--utc", "--date", &now, format]))?.trim().to_owned())
    };
    Ok(Release { old, new, day: date("+%F")?, time: date("--rfc-email")?, notes })
}

/// Every file that changes.
fn edits(release: &Release) -> Result<Vec<Edit>, Error> {
    let mut texts: BTreeMap<String, String> = BTreeMap::new();
    texts.insert(MANIFEST.to_owned(), edit::manifest(&read(MANIFEST)?, release)?);
    texts.insert(CHANGELOG.to_owned(), edit::changelog(&read(CHANGELOG)?, release)?);
    texts.insert(DEBIAN.to_owned(), edit::debian(&read(DEBIAN)?, release));
    texts.insert(PYTHON.to_owned(), edit::python(&read(PYTHON)?, release)?);
    texts.insert(ANSIBLE.to_owned(), edit::ansible(&read(ANSIBLE)?, release)?);
    let packages = edit::own_packages(&read(LOCKS[0])?, release);
    for name in LOCKS {
        texts.insert(name.to_owned(), edit::lock(&read(name)?, &packages, release));
    }
    for page in repo::files_below(&repo::root().join("dist/man"))? {
        let name = page.strip_prefix(repo::root())?.to_string_lossy().into_owned();
        let text = edit::manual(&read(&name)?, release).map_err(|error| format!("{name}: {error}"))?;
        texts.insert(name, text);
    }
    let edit = |(name, new): (String, String)| Edit { path: repo::root().join(&name), name, new };
    Ok(texts.into_iter().map(edit).collect())
}

/// Prints the changes, as diff(1) does.
fn show(edits: &[Edit]) -> Outcome {
    let scratch = repo::target_dir()?.join("release-diff");
    for edit in edits {
        fs::write(&scratch, &edit.new)?;
        let mut diff = Command::new("diff");
        diff.args([
            "--unified",
            "--label",
            &format!("a/{}", edit.name),
            "--label",
            &format!("b/{}", edit.name),
        ]);
        // Exit code 1 is a difference.
        let output =
            diff.arg(&edit.path).arg(&scratch).output().map_err(|error| step::cannot_start(&diff, &error))?;
        print!("{}", String::from_utf8_lossy(&output.stdout));
    }
    fs::remove_file(scratch)?;
    println!("nothing was changed: this was a dry run");
    Ok(())
}

/// Checks and builds what the files in the tree are now; writes the notes, and returns their path.
fn check(release: &Release, tree: &WorkingTree, no_build: bool) -> Result<PathBuf, Error> {
    for manifest in LOCKS.map(|lock| lock.replace("Cargo.lock", "Cargo.toml")) {
        // Fails if a Cargo.lock is not what cargo would write.
        let options = ["metadata", "--locked", "--format-version", "1", "--manifest-path", &manifest];
        step::output(tree.cargo()?.args(options))?;
    }
    let target = repo::target_dir()?;
    let notes = target.join(if no_build { "RELEASE_NOTES.md" } else { "dist/RELEASE_NOTES.md" });
    if !no_build {
        let test = if runner::has_nextest() { &["nextest", "run"][..] } else { &["test"] };
        let scope = ["--workspace", "--locked", "--lib", "--bin", "xtask"];
        step::run(tree.cargo()?.args(test).args(scope))?;
        // Each by a new xtask, which has the new version as well.
        for task in [&["lint"][..], &["contract"], &["crates", "--verify"], &["dist", "--check"]] {
            step::run(tree.cargo()?.args(["run", "--quiet", "--package", "xtask", "--"]).args(task))?;
        }
    }
    fs::write(&notes, text_of_notes(release, no_build)?)?;
    Ok(notes)
}

/// Commits in the tree, and moves the branch last: if anything fails before, nothing has changed.
fn commit(release: &Release, tree: &WorkingTree, edits: &[Edit], notes: &Path) -> Outcome {
    let message = format!("release: psflip {}", release.new);
    let names = edits.iter().map(|edit| edit.name.as_str());
    tree.git(
        &["commit", "--quiet", "--message", &message, "--"].into_iter().chain(names).collect::<Vec<_>>(),
    )?;
    let commit = tree.git(&["rev-parse", "HEAD"])?;
    let tag = release.tag();
    // Markdown's headings are no comments of git's.
    tree.git(&["tag", "--annotate", &tag, "--cleanup=whitespace", "--file", &notes.to_string_lossy()])?;
    // Fails if the branch has moved, or if one of the files was changed meanwhile.
    git(&["merge", "--quiet", "--ff-only", commit.trim()])
        .inspect_err(|_| drop(git(&["tag", "--delete", &tag])))?;
    println!(
        "committed and tagged as {tag}; nothing was uploaded: CONTRIBUTING.md has the commands for that"
    );
    Ok(())
}

/// What a page of the release says.
fn text_of_notes(release: &Release, no_build: bool) -> Result<String, Error> {
    let mut text = format!(
        "# psflip {}\n\n{}, {}\n\n{}\n",
        release.new, release.day, "for Linux 5.4 or later", release.notes
    );
    if !no_build {
        let sums = fs::read_to_string(repo::target_dir()?.join("dist/SHA256SUMS"))?;
        let rustc = step::output(Command::new("rustc").arg("--version"))?;
        text += &format!("\n## Checksums\n\nBuilt by {}\n\n```text\n{sums}```\n", rustc.trim());
    }
    Ok(text)
}
