//! `cargo xtask release`: from the last commit to the files of a release, a commit and a tag. Nothing is uploaded.

mod edit;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use semver::Version;

use crate::args::Args;
use crate::{Error, Outcome, repo, step};

use edit::Release;

pub(crate) const USAGE: &str = "\
cargo xtask release VERSION [--dry-run] [--no-build] [--commit]

Prepares a release of the last commit, which should have passed `cargo xtask ci`:
  1. refuses a tree with changes, a version that is not newer than that of Cargo.toml, and an empty section Unreleased
  2. sets the version in Cargo.toml, both Cargo.lock, the manual pages, the pytest plugin, the Ansible collection and Debian's
     changelog, and gives the section Unreleased of CHANGELOG.md version and date
  3. checks: house rules, contract, generated files, the crates as they would be published
  4. builds and checks all files of the release in target/dist, with notes for its page in RELEASE_NOTES.md
Nothing is uploaded. If a step fails, the files are as they were before.

  --dry-run   only print what would change
  --no-build  without the steps 3 and 4, but with the notes
  --commit    then commit the changes, and make the annotated tag vVERSION";

/// The files that contain the version, besides the manual pages.
const MANIFEST: &str = "Cargo.toml";
const LOCKS: [&str; 2] = ["Cargo.lock", "examples/testkit/axum-app/Cargo.lock"];
const CHANGELOG: &str = "CHANGELOG.md";
const DEBIAN: &str = "dist/debian/changelog";
const PYTHON: &str = "testkit/python/pytest_psflip/__init__.py";
const ANSIBLE: &str = "dist/ansible_collections/psflip/service/galaxy.yml";

pub(crate) fn run(mut args: Args) -> Outcome {
    let (is_dry, no_build, commits) = (args.flag("dry-run"), args.flag("no-build"), args.flag("commit"));
    let version = args.word().ok_or("no version is given: `cargo xtask release 1.2.3`")?;
    args.done()?;
    let new: Version =
        version.parse().map_err(|error| format!("`{version}` is no semantic version: {error}"))?;
    let tag = format!("v{new}");
    refuse_changes()?;
    if !git(&["tag", "--list", &tag])?.is_empty() {
        return Err(format!("the tag {tag} exists already: choose a newer version").into());
    }
    let release = release(new)?;
    let edits = edits(&release)?;
    if is_dry {
        return show(&edits);
    }
    for edit in &edits {
        fs::write(&edit.path, &edit.new)?;
        println!("changed {}", edit.name);
    }
    let notes = check(&release, no_build).inspect_err(|_| {
        // What can't be restored is shown by `git status`.
        edits.iter().for_each(|edit| drop(fs::write(&edit.path, &edit.old)));
    })?;
    println!("notes: {}", notes.display());
    if commits {
        return commit(&release, &tag, &notes);
    }
    println!("not committed; `git diff` shows the changes, and --commit would commit and tag them");
    Ok(())
}

/// An edited file: its name from the root, and its texts.
struct Edit {
    name: String,
    path: PathBuf,
    old: String,
    new: String,
}

fn git(arguments: &[&str]) -> Result<String, Error> {
    step::output(Command::new("git").arg("-C").arg(repo::root()).args(arguments))
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
    if new <= old {
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
    let edit = |(name, new): (String, String)| -> Result<Edit, Error> {
        Ok(Edit { path: repo::root().join(&name), old: read(&name)?, name, new })
    };
    texts.into_iter().map(edit).collect()
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

/// Checks and builds what the files are now; writes the notes, and returns their path.
fn check(release: &Release, no_build: bool) -> Result<PathBuf, Error> {
    for manifest in LOCKS.map(|lock| lock.replace("Cargo.lock", "Cargo.toml")) {
        // Fails if a Cargo.lock is not what cargo would write.
        let options = ["metadata", "--locked", "--format-version", "1", "--manifest-path", &manifest];
        step::output(repo::cargo().args(options))?;
    }
    if !no_build {
        // Each by a new xtask, which has the new version as well.
        for task in [&["lint"][..], &["contract"], &["crates", "--verify"], &["dist", "--check"]] {
            step::run(repo::cargo().args(["run", "--quiet", "--package", "xtask", "--"]).args(task))?;
        }
    }
    let notes = repo::target_dir()?.join("dist/RELEASE_NOTES.md");
    fs::create_dir_all(notes.parent().ok_or("the target directory has no parent")?)?;
    fs::write(&notes, text_of_notes(release, no_build)?)?;
    Ok(notes)
}

fn commit(release: &Release, tag: &str, notes: &Path) -> Outcome {
    git(&["commit", "--quiet", "--all", "--message", &format!("release: psflip {}", release.new)])?;
    // Markdown's headings are no comments of git's.
    git(&["tag", "--annotate", tag, "--cleanup=whitespace", "--file", &notes.to_string_lossy()])?;
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
