//! The rules about code. Each takes the whole tree and returns the lines that break it.

use super::source::{Source, has_word};
use super::{Finding, Tree};

/// The maximum length of a file; a longer one has more than one purpose.
const MOST_LINES: usize = 600;

/// The folder of these rules, whose tests contain forbidden text.
const OWN: &str = "xtask/src/lint/";

/// Whether a file is in the `tests` folder of a crate.
fn is_test(path: &str) -> bool {
    path.strip_prefix("tools/").unwrap_or(path).split('/').nth(1) == Some("tests")
}

/// Whether a file tests real processes: the crates' `tests` folders, the harness, and the tools that tests or
/// tasks start. Unit tests are pure and may contain any text.
fn is_integration(path: &str) -> bool {
    const FOLDERS: &[&str] = &["testkit/src/", "tools/chaos/", "tools/doubles/", "tools/fuzz/"];
    is_test(path) || FOLDERS.iter().any(|folder| path.starts_with(folder))
}

/// The lines of a view of the sources for which `bad` returns a message.
fn lines<'a>(
    sources: impl Iterator<Item = &'a Source>,
    view: fn(&Source) -> &str,
    bad: impl Fn(&str) -> Option<String>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        for (index, line) in view(source).lines().enumerate() {
            if let Some(text) = bad(line) {
                findings.push(Finding { path: source.path.clone(), line: index + 1, text });
            }
        }
    }
    findings
}

fn code(source: &Source) -> &str {
    &source.code
}

fn no_comments(source: &Source) -> &str {
    &source.no_comments
}

/// Sleeping proves nothing: wait for the event.
pub(super) fn sleeps(tree: &Tree) -> Vec<Finding> {
    // Examples may keep idle connections open for a time.
    let may = |path: &str| {
        ["testkit/src/wait.rs", "relay/src/pause.rs"].contains(&path)
            || path.starts_with("fixtures/src/")
            || path.starts_with("examples/servers/")
            || path.starts_with("examples/testkit/")
    };
    let bad = |line: &str| {
        has_word(line, "sleep(").then(|| {
            "wait for the event (testkit::wait, a pidfd, a timerfd), not for time to pass".to_owned()
        })
    };
    lines(tree.sources(|path| !may(path)), code, bad)
}

/// Kill by pidfd, or as a parent: a name may match other processes.
pub(super) fn kill_by_name(tree: &Tree) -> Vec<Finding> {
    let bad = |line: &str| {
        let word = ["pkill", "killall"].into_iter().find(|word| has_word(line, word))?;
        Some(format!("`{word}` may kill processes that are not ours; kill your own by pidfd"))
    };
    let mut findings = lines(tree.sources(|path| !path.starts_with(OWN)), no_comments, bad);
    for file in tree.files.iter().filter(|file| file.path.ends_with(".sh") || file.path == ".ci/run") {
        for (index, line) in file.text.lines().enumerate() {
            findings.extend(bad(line).map(|text| Finding { path: file.path.clone(), line: index + 1, text }));
        }
    }
    findings
}

/// A test that doesn't run proves nothing.
pub(super) fn ignored_test(tree: &Tree) -> Vec<Finding> {
    let bad = |line: &str| {
        line.replace(' ', "")
            .contains("#[ignore")
            .then(|| "a test runs or is deleted; nothing is ignored".to_owned())
    };
    lines(tree.sources(|_| true), code, bad)
}

/// Two runs at the same time must not use the same file.
pub(super) fn fixed_path(tree: &Tree) -> Vec<Finding> {
    let bad = |line: &str| {
        line.contains("/tmp/")
            .then(|| "no fixed path: every test has a directory of its own (testkit's sandbox)".to_owned())
    };
    lines(tree.sources(is_integration), no_comments, bad)
}

/// Two runs at the same time must not use the same port. With 0 the kernel chooses; on 1 nothing listens.
pub(super) fn fixed_port(tree: &Tree) -> Vec<Finding> {
    lines(tree.sources(is_integration), no_comments, |line| {
        let port = fixed_port_in(line)?;
        Some(format!("no fixed port `{port}`: bind port 0 and ask which one it became"))
    })
}

/// The port number that follows an address, as in `127.0.0.1:80`, `("localhost", 80)` and `LOCALHOST, 80`.
fn fixed_port_in(line: &str) -> Option<u16> {
    ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::]", "LOCALHOST", "UNSPECIFIED"].into_iter().find_map(
        |host| {
            line.match_indices(host).find_map(|(at, _)| {
                let rest = line[at + host.len()..].trim_start_matches(['"', ')']);
                let number = rest.strip_prefix(':').or_else(|| rest.strip_prefix(','))?.trim_start();
                let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
                digits.parse().ok().filter(|port| *port > 1)
            })
        },
    )
}

/// A file has one purpose, and fits into a reader's head.
pub(super) fn long_file(tree: &Tree) -> Vec<Finding> {
    let is_source =
        |path: &str| [".rs", ".toml", ".sh"].iter().any(|end| path.ends_with(end)) || path == ".ci/run";
    let files = tree.files.iter().filter(|file| is_source(&file.path));
    let long = files.filter_map(|file| {
        let count = file.text.lines().count();
        (count > MOST_LINES).then(|| Finding {
            path: file.path.clone(),
            line: 0,
            text: format!("{count} lines; {MOST_LINES} at most, split it by purpose"),
        })
    });
    long.collect()
}

/// Every file begins with a header that says what it is for.
pub(super) fn no_header(tree: &Tree) -> Vec<Finding> {
    let without = tree
        .sources(|_| true)
        .filter(|source| !source.text.lines().take(3).any(|line| line.starts_with("//!")));
    without
        .map(|source| Finding {
            path: source.path.clone(),
            line: 1,
            text: "begins without a `//!` header that says what the file is for".to_owned(),
        })
        .collect()
}

/// Only the system-call layer may be unsafe.
pub(super) fn unsafe_code(tree: &Tree) -> Vec<Finding> {
    // `ctor` needs the word in its attribute; the function below it is checked as any other.
    let bad = |line: &str| {
        (has_word(line, "unsafe") && !line.trim_start().starts_with("#[ctor"))
            .then(|| "`unsafe` belongs into psflip/src/sys".to_owned())
    };
    lines(tree.sources(|path| !path.starts_with("psflip/src/sys/") && path != "psflip/src/sys.rs"), code, bad)
}

/// A generation's decisions are pure functions: no clock, no descriptor, no process.
pub(super) fn impure_decision(tree: &Tree) -> Vec<Finding> {
    const FORBIDDEN: &[&str] = &[
        "libc",
        "nix",
        "tokio",
        "Instant::now",
        "SystemTime::now",
        "std::process",
        "std::fs",
        "std::net",
        "std::os",
    ];
    const MODULES: &[&str] = &["process", "fs", "net", "os"];
    let bad = |line: &str| {
        let group = line.split_once("std::{").map_or("", |(_, group)| group);
        let plain = FORBIDDEN.iter().find(|word| has_word(line, word)).map(|word| (*word).to_owned());
        let word = plain.or_else(|| {
            MODULES.iter().find(|word| has_word(group, word)).map(|word| format!("std::{word}"))
        })?;
        Some(format!("`{word}` in the pure part; return an effect, take an event"))
    };
    const PURE: &[&str] =
        &["psflip/src/anchor/state.rs", "psflip/src/watch/state.rs", "psflip/src/watch/exits.rs"];
    lines(tree.sources(|path| path.starts_with("psflip/src/flip/") || PURE.contains(&path)), code, bad)
}

/// Versions are declared once, in the root Cargo.toml.
pub(super) fn own_version(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    // What is below examples/testkit stands for the workspaces of others.
    let is_ours = |path: &str| path.ends_with("/Cargo.toml") && !path.starts_with("examples/testkit/");
    for file in tree.files.iter().filter(|file| is_ours(&file.path)) {
        // The line of a header `[dependencies.NAME]`, until `workspace = true` is found below it.
        let mut open: Option<usize> = None;
        let mut in_list = false;
        let mut report = |line: usize| {
            let text = "take the version from the root Cargo.toml: `workspace = true`".to_owned();
            findings.push(Finding { path: file.path.clone(), line, text });
        };
        for (index, line) in file.text.lines().map(str::trim).enumerate() {
            if let Some(header) = line.strip_prefix('[') {
                if let Some(line) = open.take() {
                    report(line);
                }
                let header = header.trim_end_matches(']');
                in_list = header.ends_with("dependencies");
                if header.contains("dependencies.") {
                    open = Some(index + 1);
                }
            } else if line.replace(' ', "") == "workspace=true" {
                open = None;
            } else if in_list
                && !line.starts_with('#')
                && line.contains('=')
                && !line.replace(' ', "").contains("workspace=true")
            {
                report(index + 1);
            }
        }
        if let Some(line) = open {
            report(line);
        }
    }
    findings
}

/// A fixture that no test uses may not work.
pub(super) fn unused_fixture(tree: &Tree) -> Vec<Finding> {
    let manifest =
        tree.files.iter().find(|file| file.path == "fixtures/Cargo.toml").map_or("", |file| &file.text);
    let mut findings = Vec::new();
    for source in tree.sources(|path| path.starts_with("fixtures/src/bin/")) {
        let below = source.path.trim_start_matches("fixtures/src/bin/");
        let stem = match below.split_once('/') {
            Some((folder, "main.rs")) => folder,
            Some(_) => continue,
            None => below.trim_end_matches(".rs"),
        };
        let mut names = vec![stem.to_owned(), stem.replace('_', "-"), stem.replace('-', "_")];
        names.extend(declared_name(manifest, below));
        let is_used = |test: &Source| names.iter().any(|name| has_word(&test.no_comments, name));
        if !tree.sources(is_test).any(is_used) {
            findings.push(Finding {
                path: source.path.clone(),
                line: 0,
                text: format!("no test uses `{stem}`"),
            });
        }
    }
    findings
}

/// The name that a `[[bin]]` table gives to the program of this file.
fn declared_name(manifest: &str, below: &str) -> Option<String> {
    let table =
        manifest.split("[[bin]]").skip(1).find(|table| table.contains(&format!("\"src/bin/{below}\"")))?;
    let name = table.lines().find_map(|line| line.trim().strip_prefix("name"))?;
    Some(name.trim_start_matches([' ', '=']).trim().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::File;

    fn tree(files: &[(&str, &str)]) -> Tree {
        Tree::new(
            files
                .iter()
                .map(|(path, text)| File { path: (*path).to_owned(), text: (*text).to_owned() })
                .collect(),
        )
    }

    /// The number of findings of a rule in one file.
    fn count(rule: fn(&Tree) -> Vec<Finding>, path: &str, text: &str) -> usize {
        rule(&tree(&[(path, text)])).len()
    }

    #[test]
    fn sleep_is_found_in_code_and_allowed_where_it_belongs() {
        let text = "//! x\nfn a() { std::thread::sleep(one); } // sleep(\nlet b = \"sleep(1)\";";
        assert_eq!(count(sleeps, "psflip/src/runtime/mod.rs", text), 1);
        assert_eq!(count(sleeps, "psflip/tests/e2e/child.rs", text), 1);
        assert_eq!(count(sleeps, "testkit/src/wait.rs", text), 0);
        assert_eq!(count(sleeps, "fixtures/src/bin/slow_start.rs", text), 0);
        assert_eq!(count(sleeps, "examples/servers/axum/src/main.rs", text), 0);
    }

    #[test]
    fn killing_by_name_is_found_in_strings_and_scripts() {
        assert_eq!(count(kill_by_name, "testkit/src/a.rs", "Command::new(\"pkill\") // killall\n"), 1);
        assert_eq!(count(kill_by_name, ".ci/run", "killall nginx\n"), 1);
        assert_eq!(count(kill_by_name, "testkit/src/a.rs", "let skillall = 1;"), 0);
    }

    #[test]
    fn ignored_tests_are_found() {
        assert_eq!(
            count(ignored_test, "psflip/src/a.rs", "#[ignore]\n#[ignore = \"slow\"]\n// #[ignore]\n"),
            2
        );
    }

    #[test]
    fn fixed_paths_are_found_in_tests_of_processes_only() {
        let text = "let path = \"/tmp/psflip.pid\";";
        assert_eq!(count(fixed_path, "psflip/tests/e2e/pidfile.rs", text), 1);
        assert_eq!(count(fixed_path, "testkit/src/sandbox.rs", text), 1);
        assert_eq!(count(fixed_path, "psflip/src/config/tests/values.rs", text), 0);
    }

    #[test]
    fn fixed_ports_are_found_in_every_form() {
        for text in [
            "\"127.0.0.1:8080\"",
            "(\"localhost\", 80)",
            "(Ipv4Addr::LOCALHOST, 80)",
            "\"http://[::1]:3000/\"",
        ] {
            assert_eq!(count(fixed_port, "psflip/tests/e2e/http.rs", text), 1, "{text}");
        }
        for text in [
            "\"127.0.0.1:0\"",
            "\"127.0.0.1:1\"",
            "(Ipv4Addr::LOCALHOST, 0)",
            "\"127.0.0.1:{port}\"",
            "// 127.0.0.1:80",
        ] {
            assert_eq!(count(fixed_port, "psflip/tests/e2e/http.rs", text), 0, "{text}");
        }
    }

    #[test]
    fn long_files_and_files_without_header_are_found() {
        assert_eq!(count(long_file, "psflip/src/a.rs", &"\n".repeat(601)), 1);
        assert_eq!(count(long_file, "psflip/src/a.rs", &"\n".repeat(600)), 0);
        assert_eq!(count(no_header, "psflip/src/a.rs", "// a\nfn a() {}\n"), 1);
        assert_eq!(count(no_header, "psflip/src/a.rs", "//! a\n"), 0);
    }

    #[test]
    fn unsafe_code_is_found_outside_of_sys() {
        assert_eq!(count(unsafe_code, "psflip/src/process/keeper/mod.rs", "//! unsafe\nunsafe { x() }"), 1);
        assert_eq!(count(unsafe_code, "psflip/src/sys/fd.rs", "unsafe { x() }"), 0);
        assert_eq!(count(unsafe_code, "psflip/src/lib.rs", "#![deny(unsafe_code)]"), 0);
        assert_eq!(
            count(
                unsafe_code,
                "fixtures/src/bin/introspect.rs",
                "#[ctor::ctor(unsafe)]\nfn early() { unsafe { x() } }"
            ),
            1
        );
    }

    #[test]
    fn impure_decisions_are_found() {
        let bad = [
            "use std::fs;",
            "use std::{fmt, process::Command};",
            "let now = Instant::now();",
            "libc::SIGHUP",
            "nix::unistd::Pid",
            "tokio::spawn(x)",
        ];
        for text in bad {
            assert_eq!(count(impure_decision, "psflip/src/flip/decide.rs", text), 1, "{text}");
            assert_eq!(count(impure_decision, "psflip/src/runtime/mod.rs", text), 0, "{text}");
        }
        assert_eq!(
            count(impure_decision, "psflip/src/flip/decide.rs", "use std::time::Instant; // std::fs"),
            0
        );
    }

    #[test]
    fn dependencies_with_their_own_version_are_found() {
        let good = "[package]\nname = \"a\"\n[dependencies]\nb.workspace = true\nc = { workspace = true, features = [\"d\"] }\n[dependencies.e]\nworkspace = true\n";
        assert_eq!(count(own_version, "psflip/Cargo.toml", good), 0);
        assert_eq!(
            count(
                own_version,
                "psflip/Cargo.toml",
                "[dev-dependencies]\nb = \"1\"\n[dependencies.e]\nversion = \"1\"\n[lints]\n"
            ),
            2
        );
        assert_eq!(count(own_version, "Cargo.toml", "[workspace.dependencies]\nb = \"1\"\n"), 0);
    }

    #[test]
    fn fixtures_that_no_test_uses_are_found() {
        let fixture = ("fixtures/src/bin/slow_start.rs", "//! x");
        assert_eq!(unused_fixture(&tree(&[fixture])).len(), 1);
        assert_eq!(unused_fixture(&tree(&[fixture, ("psflip/tests/e2e/a.rs", "// slow-start")])).len(), 1);
        assert_eq!(
            unused_fixture(&tree(&[fixture, ("psflip/tests/e2e/a.rs", "run(\"slow-start\")")])).len(),
            0
        );
        let manifest =
            ("fixtures/Cargo.toml", "[[bin]]\nname = \"starts-slowly\"\npath = \"src/bin/slow_start.rs\"\n");
        assert_eq!(
            unused_fixture(&tree(&[fixture, manifest, ("fixtures/tests/a.rs", "run(\"starts-slowly\")")]))
                .len(),
            0
        );
    }
}
