//! Parses the command lines that start services without building the tree of all commands: `psflip -c FILE`,
//! `psflip run -c FILE`, `psflip run -- COMMAND`.
//!
//! clap builds that tree before it looks at the first argument. That takes time, and memory that every
//! successor keeps for its lifetime (docs/architecture.md, Speed and weight). All other lines, and every
//! error, are left to clap, so that only one parser judges and explains a line.

use std::ffi::OsString;
use std::path::PathBuf;

use super::anchor_args::AnchorArgs;
use super::flags::Source;
use super::{DEFAULT_CONFIG, run};
use crate::config;

/// What clap would make of `line`, which begins with the program's name; `None`: clap must parse it.
pub(super) fn read(line: impl Iterator<Item = OsString>) -> Option<run::Args> {
    let mut line = line.skip(1).peekable();
    let has_command = line.next_if(|word| word == "run").is_some();
    let (mut file, mut anchor) = (None, AnchorArgs::default());
    while let Some(word) = line.next() {
        match word.to_str()? {
            "-c" | "--config" if file.is_none() => file = Some(line.next().filter(is_plain)?),
            "--foreground" if anchor == AnchorArgs::default() => anchor.foreground = true,
            "--no-anchor" if anchor == AnchorArgs::default() => anchor.no_anchor = true,
            "--" if has_command && file.is_none() => {
                let command: Vec<OsString> = line.collect();
                if command.is_empty() {
                    return None;
                }
                let mut flags = config::Flags::default();
                flags.command(&command);
                return Some(run::Args { source: Source::Flags(flags), anchor, watch: Vec::new() });
            }
            _ => return None,
        }
    }
    let file = file.map_or_else(|| DEFAULT_CONFIG.into(), PathBuf::from);
    Some(run::Args { source: Source::File(file), anchor, watch: Vec::new() })
}

/// Whether this word can only be a value.
fn is_plain(word: &OsString) -> bool {
    !word.is_empty() && !word.as_encoded_bytes().starts_with(b"-")
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    /// What clap makes of the line, if it starts a service.
    fn by_clap(line: &[OsString]) -> Option<run::Args> {
        match Cli::try_parse_from(line).ok()? {
            Cli { command: Some(Command::Run(args)), .. } => Some(args),
            Cli { command: None, config, anchor } => {
                Some(run::Args { source: Source::File(config.config), anchor, watch: Vec::new() })
            }
            _ => None,
        }
    }

    #[test]
    fn usual_command_lines_of_services_skip_clap() {
        for line in [
            "psflip",
            "psflip -c app.toml",
            "psflip --config /etc/app.toml",
            "psflip run",
            "psflip run -c app.toml",
            "psflip run --foreground -c app.toml",
            "psflip run -c app.toml --foreground",
            "psflip run -- ./server --port 80 -c x -- --foreground",
            "psflip run --foreground -- ./server",
            "psflip --no-anchor -c app.toml",
            "psflip -c app.toml --foreground",
            "psflip run --no-anchor -c app.toml",
        ] {
            let line: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let read = read(line.iter().cloned());
            assert!(read.is_some(), "{line:?}");
            assert_eq!(read, by_clap(&line), "{line:?}");
        }
    }

    /// Compares all lines with up to `more` further words with clap; returns how many of them are parsed
    /// here.
    fn compare(line: &mut Vec<OsString>, words: &[OsString], more: u32) -> u32 {
        let args = read(line.iter().cloned());
        let mut count = u32::from(args.is_some());
        if args.is_some() {
            assert_eq!(args, by_clap(line), "{line:?}");
        }
        for word in words.iter().filter(|_| more > 0) {
            line.push(word.clone());
            count += compare(line, words, more - 1);
            line.pop();
        }
        count
    }

    #[test]
    fn the_fast_path_always_agrees_with_clap() {
        let words = [
            "run",
            "check",
            "-c",
            "--config",
            "a.toml",
            "-",
            "--",
            "--foreground",
            "--no-anchor",
            "--quiet",
            "-h",
            "",
        ];
        let mut words: Vec<OsString> = words.map(OsString::from).to_vec();
        words.push(OsString::from_vec(b"\xff".to_vec()));
        let count = compare(&mut vec!["psflip".into()], &words, 4);
        assert!(count > 100, "{count}");
    }
}
