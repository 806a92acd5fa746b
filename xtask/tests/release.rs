//! `cargo xtask release`, in a repository of its own with the files of this one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use testkit::{Sandbox, need};

/// Where a version may stand that is not the released one: of other packages, of earlier releases, in examples of output,
/// in messages that tests make up, and where something exists or works since a version.
const ALLOWED: [&str; 16] = [
    "**/Cargo.lock",
    "**/CHANGELOG.md",
    "Cargo.toml",
    "dist/ansible_collections/psflip/service/plugins/**",
    "dist/debian/changelog",
    "docs/control.md",
    "docs/operations.md",
    "docs/quickstart/axum.md",
    "examples/testkit/axum-app/Cargo.toml",
    "psflip/src/cli/render/**",
    "psflip/src/handover/message/**",
    "psflip/tests/e2e/failures/versions/**",
    "rehearse/tests/report.json",
    "tools/fuzz/corpus/**",
    "xtask/src/crates.rs",
    "xtask/src/release/edit.rs",
];

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
        self.prepared(program, arguments).output().unwrap()
    }

    fn prepared(&self, program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), "test")
                .env(format!("GIT_{role}_EMAIL"), "test@psflip.invalid");
        }
        for name in [
            "GIT_DIR",
            "GIT_WORK_TREE",
            "GIT_INDEX_FILE",
            "GIT_COMMON_DIR",
            "GIT_OBJECT_DIRECTORY",
            "GIT_PREFIX",
        ] {
            command.env_remove(name);
        }
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
        command.env("CARGO_MANIFEST_DIR", self.root.join("xtask")).current_dir(&self.root);
        command.args(arguments);
        command
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

    /// Everything that a failed release must leave as it was.
    fn state(&self) -> String {
        let of_refs = self.git(&["for-each-ref"]);
        of_refs
            + &self.git(&["symbolic-ref", "HEAD"])
            + &self.git(&["status", "--porcelain"])
            + &self.git(&["worktree", "list"])
    }

    /// A release that fails at the first cargo, then one whose commit is refused by a hook.
    fn fails_without_a_trace(&self) {
        let before = self.state();
        let mut release =
            self.prepared(self.root.join("target/debug/xtask"), &["release", "99.0.0", "--commit"]);
        // As in a hook of another repository.
        release.env("CARGO", "/bin/false").env("GIT_INDEX_FILE", "/dev/null").env("GIT_DIR", "/nowhere");
        let output = release.output().unwrap();
        assert!(text(&output.stderr).contains("`false metadata"), "{}", text(&output.stderr));
        assert_eq!(self.state(), before);

        let hook = self.root.join(".git/hooks/pre-commit");
        fs::write(&hook, "#!/bin/sh\necho refused by the hook >&2\nexit 1\n").unwrap();
        fs::set_permissions(&hook, PermissionsExt::from_mode(0o755)).unwrap();
        self.is_refused(&["99.0.0", "--no-build", "--commit"], "refused by the hook");
        assert_eq!(self.state(), before);
        fs::remove_file(hook).unwrap();
    }

    /// The lines that name a version, in files that have to name the released one.
    fn mentions(&self, version: &str) -> String {
        let allowed = ALLOWED.map(|path| format!(":(glob,exclude){path}"));
        let allowed = allowed.each_ref().map(String::as_str);
        let grep = ["grep", "--line-number", "--word-regexp", "--fixed-strings", version, "--", "."];
        let output = self.command("git", &[&grep[..], &allowed].concat());
        assert!(output.status.code().is_some_and(|code| code <= 1), "{}", text(&output.stderr));
        text(&output.stdout)
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
    let own = env!("CARGO_PKG_VERSION");
    let tag = format!("v{own}");
    copy.git(&["tag", &tag]);
    copy.is_refused(&[own], "is not newer than ");
    copy.git(&["tag", "--delete", &tag]);
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

    // Without a tag, the version in Cargo.toml can be released: it is the first.
    assert!(copy.succeeds(&[own, "--dry-run"]).contains(&format!("+## {own} - ")));

    copy.fails_without_a_trace();
    copy.succeeds(&["99.0.0", "--no-build"]);
    assert!(copy.git(&["status", "--porcelain"]).starts_with(" M CHANGELOG.md\n M Cargo.lock\n"));
    copy.git(&["reset", "--quiet", "--hard"]);

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
    copy.has("target/RELEASE_NOTES.md", "# psflip 99.0.0\n");
    let locked = "name = \"psflip-testkit\"\nversion = \"99.0.0\"";
    copy.has("Cargo.lock", locked);
    copy.has("examples/testkit/axum-app/Cargo.lock", locked);

    assert_eq!(
        copy.mentions(own),
        "",
        "these would be wrong after a release: edit them in xtask/src/release"
    );

    copy.is_refused(&["99.0.1"], "Unreleased of CHANGELOG.md is empty");
}
