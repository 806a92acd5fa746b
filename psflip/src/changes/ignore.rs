//! Which files don't count: names that tools and editors write, psflip's own files, and a part of the syntax
//! of gitignore(5).

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::text;

/// Directories that are never read.
const DIRECTORIES: &[&str] =
    &[".git", ".hg", ".svn", "target", "node_modules", "__pycache__", ".venv", ".mypy_cache"];

/// Files that never count: logs, pidfiles, compiled Python, and what editors leave while a file is open.
const FILES: &[&str] = &["*.log", "*.pid", "*.pyc", "*~", "*.swp", "*.swx", ".#*", "#*#"];

/// More of a `.gitignore` is not read.
const LONGEST: usize = 64 * 1024;

/// What is ignored.
#[derive(Debug, Default)]
pub(super) struct Ignored {
    rules: Vec<Rule>,
    /// Files that psflip writes.
    own: Vec<PathBuf>,
}

/// A line of a `.gitignore`.
#[derive(Debug)]
struct Rule {
    /// The pattern is one of whole paths below this directory; `None`: of names.
    below: Option<PathBuf>,
    pattern: Vec<u8>,
    only_directories: bool,
    /// What matches counts after all.
    negated: bool,
}

impl Ignored {
    /// Reads the `.gitignore` of each of these directories, if it has one. `own`: files that psflip writes.
    pub(super) fn read<'p>(directories: impl Iterator<Item = &'p Path>, own: Vec<PathBuf>) -> Self {
        let mut ignored = Self { rules: Vec::new(), own };
        for directory in directories {
            let Ok(text) = fs::read(directory.join(".gitignore")) else { continue };
            ignored.add(directory, &text[..text.len().min(LONGEST)]);
        }
        ignored
    }

    fn add(&mut self, directory: &Path, text: &[u8]) {
        self.rules.extend(text.split(|byte| *byte == b'\n').filter_map(|line| Rule::read(directory, line)));
    }

    /// Whether this file, or this directory with everything below it, does not count.
    pub(super) fn contains(&self, path: &Path, is_directory: bool) -> bool {
        let Some(name) = path.file_name().map(OsStr::as_bytes) else { return false };
        let known = if is_directory {
            DIRECTORIES.iter().any(|known| known.as_bytes() == name)
        } else {
            FILES.iter().any(|pattern| matches(pattern.as_bytes(), name)) || self.is_own(path, name)
        };
        // The last rule that matches decides.
        let last = self.rules.iter().rev().find(|rule| rule.matches(path, name, is_directory));
        known || last.is_some_and(|rule| !rule.negated)
    }

    /// psflip's files, and those beside them that it makes: `app.pid.last`, `.app.pid.lock`, `.app.pid.712`.
    fn is_own(&self, path: &Path, name: &[u8]) -> bool {
        self.own.iter().any(|own| {
            let Some(own_name) = own.file_name().map(OsStr::as_bytes) else { return false };
            let rest = name.strip_prefix(own_name);
            let rest = rest.or_else(|| name.strip_prefix(b".")?.strip_prefix(own_name));
            own.parent() == path.parent() && rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'.')
        })
    }
}

impl Rule {
    /// `None`: the line is empty, a comment, or none that psflip understands.
    fn read(directory: &Path, line: &[u8]) -> Option<Self> {
        let line = line.trim_ascii();
        let (negated, line) = line.strip_prefix(b"!").map_or((false, line), |rest| (true, rest));
        let is_hard = line.starts_with(b"#")
            || line.iter().any(|byte| matches!(byte, b'\\' | b'[' | b']'))
            || line.windows(2).any(|two| two == b"**");
        let (only_directories, line) = line.strip_suffix(b"/").map_or((false, line), |rest| (true, rest));
        if is_hard || line.is_empty() {
            return None;
        }
        let below = line.contains(&b'/').then(|| directory.to_owned());
        let pattern = line.strip_prefix(b"/").unwrap_or(line).to_owned();
        Some(Self { below, pattern, only_directories, negated })
    }

    fn matches(&self, path: &Path, name: &[u8], is_directory: bool) -> bool {
        if self.only_directories && !is_directory {
            return false;
        }
        match &self.below {
            None => matches(&self.pattern, name),
            Some(below) => path
                .strip_prefix(below)
                .is_ok_and(|relative| matches(&self.pattern, relative.as_os_str().as_bytes())),
        }
    }
}

/// Whether `text` matches: `*` stands for any bytes and `?` for any one, but neither for a slash.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    text::matches(pattern, text, |byte| byte != b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_gitignore() {
        // Contract: R5
        for (pattern, text, expected) in [
            ("a.py", "a.py", true),
            ("a.py", "a.pyc", false),
            ("*.py", "a.py", true),
            ("*.py", "py", false),
            ("a*b*c", "a1b2b3c", true),
            ("a*b*c", "a1b2b3", false),
            ("?", "x", true),
            ("?", "xy", false),
            ("src/*", "src/a", true),
            ("src/*", "src/a/b", false),
            ("*", "", true),
            ("**a", "ba", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn lines_that_are_understood_count_and_the_last_one_wins() {
        // Contract: R5
        let mut ignored = Ignored { own: vec!["/w/app.pid".into()], ..Ignored::default() };
        let lines = "# note\n\n*.db\n!keep.db\nbuild/\n/top\ndoc/*.html\n[ab].c\na\\ b\n**/deep\r\n";
        ignored.add(Path::new("/w"), lines.as_bytes());
        for (path, is_directory, expected) in [
            ("/w/x.db", false, true),
            ("/w/a/x.db", false, true),
            ("/w/keep.db", false, false),
            ("/w/a/build", true, true),
            ("/w/build", false, false),
            ("/w/top", false, true),
            ("/w/a/top", false, false),
            ("/w/doc/a.html", false, true),
            ("/w/doc/b/a.html", false, false),
            ("/w/a.c", false, false),
            ("/w/deep", false, false),
            ("/w/.git", true, true),
            ("/w/a/target", true, true),
            ("/w/target", false, false),
            ("/w/x.log", false, true),
            ("/w/app.pid", false, true),
            ("/w/app.pid.sock", false, true),
            ("/w/.app.pid.lock", false, true),
            ("/w/app.pidx", false, false),
            ("/w/a/app.pid.x", false, false),
            ("/w/.env", false, false),
            ("/", true, false),
        ] {
            assert_eq!(ignored.contains(Path::new(path), is_directory), expected, "{path}");
        }
    }
}
