//! `env_file` and `env_dir`: variables of the child that are read from files by each generation.
//!
//! Sources: EnvironmentFile= of systemd.exec(5) for the format of a file; envdir(8) of daemontools and
//! chpst(8) of runit for a directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::build::RESERVED;
use super::error::{Error, quoted};
use super::file;
use super::plan::{EnvChange, EnvSource};
use super::reader::Reader;
use super::section::{Node, Section};

/// The most entries of a directory.
const MOST_ENTRIES: usize = 10_000;
/// The most bytes of all files in a directory; far more than execve(2) accepts.
const LARGEST: usize = 8 * 1024 * 1024;

/// The sources in the order in which they apply: `env_file`, then `env_dir`. `read` is false for a client,
/// which need not be allowed to read them.
pub(super) fn sources(reader: &mut Reader<'_>, file: &Section<'_>, read: bool) -> Vec<EnvSource> {
    let mut found = Vec::new();
    for (key, is_dir) in [("env_file", false), ("env_dir", true)] {
        let Some(node) = file.find(key) else { continue };
        let items: Vec<Node<'_>> = match node.get_ref() {
            DeValue::Array(items) => items.iter().collect(),
            _ => vec![node],
        };
        for item in items {
            let Some(text) = reader.string(key, item) else { continue };
            let (path, optional) = match text.strip_prefix('?') {
                Some(path) => (path, true),
                None => (text.as_str(), false),
            };
            if path.is_empty() {
                reader.error(Error::at(item.span(), format!("a path in `{key}` is empty")));
                continue;
            }
            let mut source = EnvSource { path: PathBuf::from(path), optional, is_dir, changes: Vec::new() };
            if read {
                match source.read() {
                    Ok(changes) => source.changes = changes,
                    Err(fault) => {
                        let error = Error::at(item.span(), fault.message);
                        reader.error(match fault.help {
                            Some(help) => error.help(&help),
                            None => error,
                        });
                    }
                }
            }
            found.push(source);
        }
    }
    found
}

/// Why the variables can't be read.
struct Fault {
    message: String,
    help: Option<String>,
}

impl Fault {
    fn new(message: String) -> Self {
        Self { message, help: None }
    }

    fn help(self, help: &str) -> Self {
        Self { help: Some(help.to_owned()), ..self }
    }
}

impl EnvSource {
    /// Its variables. No message contains a value.
    fn read(&self) -> Result<Vec<EnvChange>, Fault> {
        match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.optional => return Ok(Vec::new()),
            Err(error) => {
                let fault = self.unreadable(&file::reason(&error));
                let may_be_missing = "if it may be missing, write a question mark before its path";
                return Err(match error.kind() {
                    io::ErrorKind::NotFound => fault.help(may_be_missing),
                    _ => fault,
                });
            }
            Ok(metadata) if metadata.is_dir() && !self.is_dir => {
                return Err(self
                    .unreadable("it is a directory")
                    .help("for a file per variable use `env_dir`"));
            }
            Ok(metadata) if !metadata.is_dir() && self.is_dir => {
                return Err(self
                    .unreadable("it is not a directory")
                    .help("for one file with `NAME=VALUE` use `env_file`"));
            }
            Ok(_) => {}
        }
        if self.is_dir { self.read_dir() } else { self.read_file() }
    }

    fn unreadable(&self, why: &str) -> Fault {
        Fault::new(format!("can't read the variables in {}: {why}", shown(&self.path)))
    }

    fn read_file(&self) -> Result<Vec<EnvChange>, Fault> {
        let bytes = file::read(&self.path).map_err(|why| self.unreadable(&why))?;
        let text = String::from_utf8(bytes).map_err(|_| self.unreadable("it is not UTF-8"))?;
        parse(&text).map_err(|(line, why)| {
            Fault::new(format!("{}, line {line}: {why}", shown(&self.path)))
                .help("each line is `NAME=VALUE`, without `export`; a value of several lines needs quotes")
        })
    }

    /// A file for each variable: its name, and its first line as the value. An empty file removes the
    /// variable. Names that begin with a dot are skipped.
    fn read_dir(&self) -> Result<Vec<EnvChange>, Fault> {
        let error = |error: &io::Error| self.unreadable(&file::reason(error));
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(|why| error(&why))? {
            let name = entry.map_err(|why| error(&why))?.file_name();
            let name = name.into_string().map_err(|_| self.unreadable("a name in it is not UTF-8"))?;
            if name.starts_with('.') || self.path.join(&name).is_dir() {
                continue;
            }
            check_name(&name, |name| !name.contains('=')).map_err(|why| self.unreadable(&why))?;
            names.push(name);
            if names.len() > MOST_ENTRIES {
                return Err(self.unreadable(&format!("it has more than {MOST_ENTRIES} files")));
            }
        }
        names.sort_unstable();
        let mut total = 0;
        let mut changes = Vec::with_capacity(names.len());
        for name in names {
            let bytes = file::read(&self.path.join(&name))
                .map_err(|why| self.unreadable(&format!("{}: {why}", quoted(&name))))?;
            total += bytes.len();
            if total > LARGEST {
                return Err(self.unreadable(&format!("its files have more than {LARGEST} bytes")));
            }
            if bytes.is_empty() {
                changes.push(EnvChange::Remove(name));
                continue;
            }
            let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let line: Vec<u8> = line.iter().map(|byte| if *byte == 0 { b'\n' } else { *byte }).collect();
            let value = String::from_utf8(line)
                .map_err(|_| self.unreadable(&format!("the value in {} is not UTF-8", quoted(&name))))?;
            changes.push(EnvChange::Set(name, value.trim_end_matches([' ', '\t']).to_owned()));
        }
        Ok(changes)
    }
}

fn shown(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// Why this is not the name of a variable that a file may set.
fn check_name(name: &str, is_valid: impl Fn(&str) -> bool) -> Result<(), String> {
    if RESERVED.contains(&name) {
        return Err(format!("{} can't be set: psflip sets it for every child", quoted(name)));
    }
    if name.is_empty() || !is_valid(name) {
        return Err(format!("{} is not the name of a variable", quoted(name)));
    }
    Ok(())
}

/// Why this does not belong before the `=` of a line. It may be a part of a secret, and is shown only if it
/// can't be one.
fn check_line(name: &str) -> Result<(), String> {
    let exported = name.strip_prefix("export ").map(str::trim_start);
    if exported.is_some_and(|name| !name.is_empty() && is_plain(name)) || RESERVED.contains(&name) {
        return check_name(name, is_plain);
    }
    match !name.is_empty() && is_plain(name) {
        true => Ok(()),
        false => Err("what stands before its `=` is not the name of a variable".to_owned()),
    }
}

/// As systemd: a letter or `_`, then letters, digits and `_`.
fn is_plain(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

/// The part of an assignment in which the parser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Before a name.
    Start,
    Comment,
    Name,
    /// After `=`, or after a closing quote.
    BeforeValue,
    /// In a value without quotes.
    Value,
    /// In single quotes, which began in this line.
    Single(usize),
    /// In double quotes, which began in this line.
    Double(usize),
}

/// The assignments in a text with the syntax of systemd's `EnvironmentFile=`. Other than systemd it refuses
/// what it can't use, instead of ignoring it: a name that is none, a quote that is not closed.
///
/// # Errors
/// The line, counted from 1, and what is wrong there.
fn parse(text: &str) -> Result<Vec<EnvChange>, (usize, String)> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let mut found = Vec::new();
    let (mut part, mut line) = (Part::Start, 1);
    let (mut name, mut value) = (String::new(), String::new());
    // The length of the value without the white space at its end.
    let mut kept = 0;
    let mut chars = text.chars();
    loop {
        let next = chars.next();
        let is_end = matches!(next, None | Some('\n' | '\r'));
        let is_space = matches!(next, Some(' ' | '\t' | '\n' | '\r'));
        match (part, next) {
            (Part::Single(began) | Part::Double(began), None) => {
                return Err((began, "a quote is not closed".to_owned()));
            }
            (Part::BeforeValue | Part::Value, _) if is_end => {
                value.truncate(kept);
                let name = std::mem::take(&mut name);
                check_line(name.trim_end()).map_err(|why| (line, why))?;
                if value.contains('\0') {
                    return Err((line, format!("the value of {} has a NUL character in it", quoted(&name))));
                }
                found.push(EnvChange::Set(name.trim_end().to_owned(), std::mem::take(&mut value)));
                (part, kept) = (Part::Start, 0);
            }
            (Part::Name, _) if is_end => {
                // A line without `=` is ignored.
                name.clear();
                part = Part::Start;
            }
            (Part::Comment, _) if is_end => part = Part::Start,
            (_, None) => {}
            // A backslash in it means nothing, as in systemd since version 254.
            (Part::Comment, Some(_)) => {}
            (Part::Start, Some('#' | ';')) => part = Part::Comment,
            (Part::Start, Some(_)) if is_space => {}
            (Part::Start, Some('=')) => part = Part::BeforeValue,
            (Part::Start, Some(c)) => {
                name.push(c);
                part = Part::Name;
            }
            (Part::Name, Some('=')) => part = Part::BeforeValue,
            (Part::Name, Some(c)) => name.push(c),
            (Part::BeforeValue, Some('\'')) => part = Part::Single(line),
            (Part::BeforeValue, Some('"')) => part = Part::Double(line),
            (Part::BeforeValue, Some(_)) if is_space => {}
            (Part::BeforeValue | Part::Value, Some('\\')) => {
                part = Part::Value;
                match chars.next() {
                    // The line goes on in the next one.
                    Some('\n') => line += 1,
                    Some(c) => value.push(c),
                    None => {}
                }
                kept = value.len();
            }
            (Part::BeforeValue | Part::Value, Some(c)) => {
                part = Part::Value;
                value.push(c);
                if !is_space {
                    kept = value.len();
                }
            }
            (Part::Single(_), Some('\'')) | (Part::Double(_), Some('"')) => {
                part = Part::BeforeValue;
                kept = value.len();
            }
            (Part::Double(_), Some('\\')) => match chars.next() {
                Some('\n') => line += 1,
                Some(c @ ('"' | '\\' | '`' | '$')) => value.push(c),
                Some(c) => value.extend(['\\', c]),
                None => value.push('\\'),
            },
            (Part::Single(_) | Part::Double(_), Some(c)) => value.push(c),
        }
        match next {
            Some('\n') => line += 1,
            Some(_) => {}
            None => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let changes = parse(text).unwrap_or_else(|(line, why)| panic!("line {line}: {why}"));
        let pair = |change| match change {
            EnvChange::Set(name, value) => (name, value),
            EnvChange::Remove(name) => panic!("{name} is removed"),
        };
        changes.into_iter().map(pair).collect()
    }

    #[track_caller]
    fn value(text: &str, wanted: &str) {
        assert_eq!(pairs(text), [("A".to_owned(), wanted.to_owned())], "{text:?}");
    }

    #[test]
    fn the_rules_of_systemd_apply() {
        // Contract: C1
        value("A=1", "1");
        value("\u{FEFF}A=1\r\n", "1");
        value("# A=2\n; B=1\n\nno assignment\n  A = x y \t\n", "x y");
        value("A=", "");
        value("A=\nno", "");
        value("A=it's \"so\"", "it's \"so\"");
        value("A='it''s' ", "its");
        value("A='two\nlines # not a comment\\'", "two\nlines # not a comment\\");
        value("A=\"a \\\"b\\\" \\$c \\n\\\\ \"", "a \"b\" $c \\n\\ ");
        value("A=\"one \\\ntwo\"", "one two");
        value("A=one\\\n two\\ three\\\\\\ ", "one two three\\ ");
        value("# C:\\app\\\nA=1 # no comment", "1 # no comment");
        value("A=a=b", "a=b");
        assert_eq!(pairs("A=1\nB=2\nA=3").len(), 3, "the last one applies, see `child_environment`");
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_its_line() {
        // Contract: X1
        let refused = |text: &str| parse(text).expect_err(text);
        let export = "`export B` is not the name of a variable";
        assert_eq!(refused("A=1\nexport B=2"), (2, export.to_owned()));
        assert_eq!(refused("\n\nA-B=2").0, 3);
        assert_eq!(refused("1A=2").0, 1);
        assert_eq!(refused("=2").0, 1);
        assert_eq!(refused("A=x\\\ny\nB='1\n2\n"), (3, "a quote is not closed".to_owned()));
        assert!(refused("PSFLIP_SLOT=a").1.contains("psflip sets it"));
        let secret = refused("A=hun\0ter2\n");
        assert!(
            secret.1.contains("NUL") && !secret.1.contains("ter2"),
            "no message shows a value: {}",
            secret.1
        );
        // The end of a value whose quotes are missing is not shown either, although a `=` follows it.
        let key = refused("KEY=-----BEGIN\nMII+hunter2==\n");
        assert!(key.0 == 2 && !key.1.contains("hunter2"), "{key:?}");
    }

    #[test]
    fn a_directory_is_read_as_by_envdir() {
        // Contract: C1
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| fs::write(directory.path().join(name), text).unwrap();
        write("PLAIN", b"one \t\ntwo\n");
        write("LINES", b"one\0two");
        write("GONE", b"");
        write("EMPTY", b"\n");
        write(".hidden", b"x");
        fs::create_dir(directory.path().join("below")).unwrap();
        let source =
            EnvSource { path: directory.path().into(), optional: false, is_dir: true, changes: Vec::new() };
        let set = |name: &str, value: &str| EnvChange::Set(name.to_owned(), value.to_owned());
        let read = source.read().map_err(|fault| fault.message).unwrap();
        let gone = EnvChange::Remove("GONE".to_owned());
        assert_eq!(read, [set("EMPTY", ""), gone, set("LINES", "one\ntwo"), set("PLAIN", "one")]);
        write("A=B", b"x");
        let why = source.read().err().unwrap().message;
        assert!(why.contains("`A=B` is not the name of a variable"), "{why}");
    }

    proptest! {
        #[test]
        fn any_value_in_double_quotes_comes_back(text in "[^\0]*") {
            let mut written = String::new();
            for c in text.chars() {
                if matches!(c, '"' | '\\' | '`' | '$') {
                    written.push('\\');
                }
                written.push(c);
            }
            prop_assert_eq!(pairs(&format!("A=\"{written}\"")), [("A".to_owned(), text)]);
        }

        #[test]
        fn no_text_causes_a_panic(text in "[A='\"\\\\# \n\r;x]*") {
            let _ = parse(&text);
        }
    }
}
