//! `cargo xtask release`, in a repository of its own with the files of this one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use testkit::{Sandbox, need};

/// A copy of this repository's files, committed, with xtask where cargo would have built it.
struct Copy {
    _sandbox: Sandbox,
    root: PathBuf,
}

impl Copy {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let root = sandbox.path("psflip");
        fs::create_dir_all(root.join("target/debug")).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let copy = "tar -C \"$1\" --exclude=./target --exclude=./.git -cf - . | tar -C \"$2\" -xf -";
        let copied = Command::new("sh").args(["-c", copy, "sh"]).args([source, &root]).status().unwrap();
        assert!(copied.success());
        fs::copy(env!("CARGO_BIN_EXE_xtask"), root.join("target/debug/xtask")).unwrap();
        let copy = Self { _sandbox: sandbox, root };
        copy.git(&["init", "--quiet"]);
        copy.git(&["add", "--all"]);
        copy.git(&["commit", "--quiet", "--message", "all"]);
        copy
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Output {
        let mut command = Command::new(program);
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "test")
                .env(format!("GIT_{role}_EMAIL"), "test@psflip.invalid");
        }
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        command.env("CARGO_MANIFEST_DIR", self.root.join("xtask")).current_dir(&self.root);
        command.args(arguments).output().unwrap()
    }

    fn git(&self, arguments: &[&str]) -> String {
        let output = self.command("git", arguments);
        assert!(output.status.success(), "git {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn release(&self, arguments: &[&str]) -> Output {
        self.command(self.root.join("target/debug/xtask"), &[&["release"], arguments].concat())
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.release(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn is_refused(&self, arguments: &[&str], reason: &str) {
        let output = self.release(arguments);
        let said = text(&output.stderr);
        assert!(
            !output.status.success() && said.contains(reason),
            "{arguments:?} without `{reason}`: {said}"
        );
    }

    fn has(&self, file: &str, part: &str) {
        let content = fs::read_to_string(self.root.join(file)).unwrap();
        assert!(content.contains(part), "no `{part}` in {file}");
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_release_is_prepared_committed_and_tagged() {
    if need("git").is_none() {
        return;
    }
    let copy = Copy::new();
    fs::write(copy.root.join("notes.txt"), "x").unwrap();
    copy.is_refused(&["99.0.0"], "?? notes.txt");
    fs::remove_file(copy.root.join("notes.txt")).unwrap();
    copy.is_refused(&["0.0.1"], "0.0.1 is not newer than ");
    copy.is_refused(&[env!("CARGO_PKG_VERSION")], "is not newer than ");
    copy.is_refused(&["99"], "`99` is no semantic version");
    let changes = "\n### Added\n\n- `[[a]]`: described\n  [here](docs/a.md).\n";
    let changelog = fs::read_to_string(copy.root.join("CHANGELOG.md")).unwrap();
    let (head, _) = changelog.split_once("## Unreleased\n").unwrap();
    fs::write(copy.root.join("CHANGELOG.md"), format!("{head}## Unreleased\n{changes}")).unwrap();
    copy.git(&["commit", "--quiet", "--all", "--message", "changes"]);

    let shown = copy.succeeds(&["99.0.0-rc.1", "--dry-run"]);
    for line in [
        "+version = \"99.0.0-rc.1\"",
        "+__version__ = \"99.0.0rc1\"",
        "+psflip (99.0.0~rc.1) unstable",
        "+## 99.0.0-rc.1 - ",
    ] {
        assert!(shown.contains(line), "no `{line}` in:\n{shown}");
    }
    assert_eq!(copy.git(&["status", "--porcelain"]), "");

    let before = copy.git(&["rev-parse", "HEAD"]);
    copy.succeeds(&["99.0.0", "--no-build", "--commit"]);
    assert_eq!(copy.git(&["rev-parse", "HEAD~"]), before);
    assert_eq!(copy.git(&["log", "-1", "--format=%s"]).trim(), "release: psflip 99.0.0");
    assert_eq!(copy.git(&["cat-file", "-t", "v99.0.0"]).trim(), "tag");
    assert!(copy.git(&["cat-file", "-p", "v99.0.0"]).contains("### Added\n\n- `[[a]]`: described"));
    assert_eq!(copy.git(&["status", "--porcelain"]), "");
    copy.has("dist/man/psflip.1", "\"psflip 99.0.0\"");
    copy.has(
        "dist/debian/changelog",
        "psflip (99.0.0) unstable; urgency=medium\n\n  [ Added ]\n  * `[[a]]`: described here.\n",
    );
    copy.has("testkit/python/pytest_psflip/__init__.py", "__version__ = \"99.0.0\"");
    copy.has("target/dist/RELEASE_NOTES.md", "# psflip 99.0.0\n");
    let locked = "name = \"psflip-testkit\"\nversion = \"99.0.0\"";
    copy.has("Cargo.lock", locked);
    copy.has("examples/testkit/axum-app/Cargo.lock", locked);

    copy.is_refused(&["99.0.1"], "Unreleased of CHANGELOG.md is empty");
}
