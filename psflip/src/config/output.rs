//! `[output]`: where the child's standard output and standard error go.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::{Error, quoted};
use super::keys;
use super::listen::{mode, parse_account};
use super::reader::Reader;
use super::scalar::{Refused, refuse_help};
use super::section::Section;

/// `[output]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Where standard output goes.
    pub stdout: Target,
    /// Where standard error goes.
    pub stderr: Target,
    /// Permissions and owner of the files.
    pub files: FileOptions,
}

/// How psflip creates a file for output; an existing file stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileOptions {
    /// Its permissions; `None`: what the umask leaves of 0666.
    pub mode: Option<u32>,
    /// Its owner, a name or a number; `None`: psflip's user.
    pub owner: Option<String>,
    /// Its group, a name or a number; `None`: psflip's group.
    pub group: Option<String>,
}

/// `output.stdout`, `output.stderr`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Where psflip's own goes.
    #[default]
    Inherit,
    /// Nowhere: /dev/null.
    Null,
    /// The end of this file. A relative path is relative to psflip's own directory.
    Append(PathBuf),
    /// The standard input of this command: a logger ([`logger_argv`]).
    Pipe(String),
}

/// The text as written in a configuration.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inherit => f.write_str("inherit"),
            Self::Null => f.write_str("null"),
            Self::Append(path) => write!(f, "append:{}", path.display()),
            Self::Pipe(line) => write!(f, "pipe:{line}"),
        }
    }
}

impl Target {
    /// The file, if it leads to one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Append(path) => Some(path),
            Self::Inherit | Self::Null | Self::Pipe(_) => None,
        }
    }
}

impl Output {
    /// Both targets, with the keys that set them.
    pub fn targets(&self) -> [(&'static str, &Target); 2] {
        [("stdout", &self.stdout), ("stderr", &self.stderr)]
    }
}

/// The argv of a logger. Plain words are executed as they are; whatever may mean something to a shell is left
/// to `sh -c`.
#[must_use]
pub fn logger_argv(line: &str) -> Vec<&str> {
    let is_plain = |c: char| c.is_alphanumeric() || " ./_-:,@%+=".contains(c);
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    let assigns = words.first().is_some_and(|first| first.contains('='));
    if line.chars().all(is_plain) && !assigns { words } else { vec!["sh", "-c", line] }
}

/// In bytes. With escapes it can take twice that in a message of the hand-over, which has at most 4096 bytes.
const LONGEST_LINE: usize = 1024;
/// In bytes, as for every path.
const LONGEST_PATH: usize = 4095;

/// Reads `[output]`.
pub(super) fn output(reader: &mut Reader<'_>, file: &Section<'_>) -> Output {
    let section = file.find("output").and_then(|node| reader.section(&keys::OUTPUT, node));
    let section = section.unwrap_or_else(|| Section::absent(&keys::OUTPUT));
    let mut target = |name| reader.parsed(&section, name, |text| parse(name, text)).unwrap_or_default();
    let (stdout, stderr) = (target("stdout"), target("stderr"));
    let files = FileOptions {
        mode: mode(reader, &section),
        owner: reader.parsed(&section, "owner", parse_account),
        group: reader.parsed(&section, "group", parse_account),
    };
    let appends = [&stdout, &stderr].iter().any(|target| matches!(target, Target::Append(_)));
    for name in ["mode", "owner", "group"] {
        if let Some(node) = section.find(name).filter(|_| !appends) {
            reader.error(
                Error::at(node.span(), format!("`output.{name}` has no effect without `append:FILE`"))
                    .help("it is for files that psflip creates: leave it out"),
            );
        }
    }
    Output { stdout, stderr, files }
}

fn parse(name: &str, text: &str) -> Result<Target, Refused> {
    match text.split_once(':') {
        None if text == "inherit" => Ok(Target::Inherit),
        None if text == "null" => Ok(Target::Null),
        Some(("append", "")) => {
            refuse_help(format!("`{name}` names no file"), "for example `append:/var/log/app.log`")
        }
        Some(("append", path)) if path.len() > LONGEST_PATH => refuse_help(
            format!("the path in `{name}` has {} bytes", path.len()),
            format!("the kernel allows at most {LONGEST_PATH}"),
        ),
        Some(("append", path)) => Ok(Target::Append(path.into())),
        Some(("pipe", line)) if line.trim().is_empty() => {
            refuse_help(format!("`{name}` names no command"), "for example `pipe:svlogd -tt /var/log/app`")
        }
        Some(("pipe", line)) if line.len() > LONGEST_LINE => refuse_help(
            format!("the command in `{name}` has {} bytes", line.len()),
            format!("at most {LONGEST_LINE} bytes are allowed: put it into a script"),
        ),
        Some(("pipe", line)) => Ok(Target::Pipe(line.trim().to_owned())),
        _ => {
            let help = if text.starts_with(['/', '.']) {
                format!("to write to a file: `append:{text}`")
            } else if let Some(line) = text.strip_prefix('|') {
                format!("to write to a command: `pipe:{}`", line.trim())
            } else {
                "it can be `inherit`, `null`, `append:FILE` or `pipe:COMMAND`".to_owned()
            };
            refuse_help(format!("`{name}` can't be {}", quoted(text)), help)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_logger_of_plain_words_needs_no_shell() {
        assert_eq!(logger_argv("svlogd  -tt /var/log/app"), ["svlogd", "-tt", "/var/log/app"]);
        assert_eq!(logger_argv("s6-log -b n=10 s1000000 T /log").len(), 6);
        for line in ["a | b", "LANG=C logger", "logger 'two words'", "cat > x", "a\tb", "~/bin/log", "a; b"] {
            assert_eq!(logger_argv(line), ["sh", "-c", line]);
        }
    }

    #[test]
    fn a_target_that_is_none_has_a_hint() {
        // Contract: X1
        let help = |text: &str| parse("stdout", text).unwrap_err().help.unwrap_or_default();
        assert_eq!(help("/var/log/app.log"), "to write to a file: `append:/var/log/app.log`");
        assert_eq!(help("| svlogd x"), "to write to a command: `pipe:svlogd x`");
        for other in ["Null", "append", "file:x", "truncate:/x", "inherit:", ""] {
            assert_eq!(
                help(other),
                "it can be `inherit`, `null`, `append:FILE` or `pipe:COMMAND`",
                "{other}"
            );
        }
        for empty in ["append:", "pipe:", "pipe: "] {
            assert!(help(empty).starts_with("for example"), "{empty}");
        }
        assert!(parse("stdout", &format!("pipe:{}", "x".repeat(LONGEST_LINE + 1))).is_err());
        assert!(parse("stdout", &format!("append:/{}", "x".repeat(LONGEST_PATH))).is_err());
    }
}
