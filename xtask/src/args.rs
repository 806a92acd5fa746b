//! The arguments of a task: flags, options with a value, and a few positional words.

use std::fmt;
use std::str::FromStr;

use lexopt::Arg;

use crate::Error;

/// The arguments after the task's name. Each task takes those that it knows; [`Args::done`] refuses the rest.
pub(crate) struct Args {
    options: Vec<(String, Option<String>)>,
    words: Vec<String>,
}

/// `--help` was requested and printed; the task does nothing else.
#[derive(Debug)]
pub(crate) struct HelpShown;

/// An invalid command line; the text says why.
#[derive(Debug)]
pub(crate) struct Misuse(String);

impl fmt::Display for HelpShown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("help shown")
    }
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for HelpShown {}
impl std::error::Error for Misuse {}

impl Args {
    /// Parses the command line. `usage` says which options take a value: `--runs N` does, `--quick` doesn't.
    pub(crate) fn new(mut parser: lexopt::Parser, usage: &str) -> Result<Self, Error> {
        let mut args = Self { options: Vec::new(), words: Vec::new() };
        while let Some(arg) = parser.next().map_err(|error| misuse(&error))? {
            match arg {
                Arg::Short('h') | Arg::Long("help") => {
                    println!("{usage}");
                    return Err(HelpShown.into());
                }
                Arg::Long(name) => {
                    let name = name.to_owned();
                    let value = match takes_value(usage, &name) {
                        None => return Err(Misuse(format!("unknown option `--{name}`")).into()),
                        Some(false) => None,
                        Some(true) => Some(
                            parser.value().map_err(|error| misuse(&error))?.to_string_lossy().into_owned(),
                        ),
                    };
                    args.options.push((name, value));
                }
                Arg::Short(name) => return Err(Misuse(format!("unknown option `-{name}`")).into()),
                Arg::Value(word) => args.words.push(word.to_string_lossy().into_owned()),
            }
        }
        Ok(args)
    }

    /// Whether the flag `--name` was given.
    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.options.len();
        self.options.retain(|(known, _)| known != name);
        self.options.len() < before
    }

    /// The value of `--name`; the last one if it was given several times.
    pub(crate) fn value<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, Error> {
        let mut last = None;
        for (_, value) in self.options.extract_if(.., |(known, _)| known == name) {
            let text = value.unwrap_or_default();
            let Ok(value) = text.parse() else {
                return Err(Misuse(format!("`{text}` is no value for `--{name}`")).into());
            };
            last = Some(value);
        }
        Ok(last)
    }

    /// Takes the next positional word.
    pub(crate) fn word(&mut self) -> Option<String> {
        (!self.words.is_empty()).then(|| self.words.remove(0))
    }

    /// Refuses the arguments that were not taken.
    pub(crate) fn done(self) -> Result<(), Error> {
        match (self.options.first(), self.words.first()) {
            (Some((name, _)), _) => Err(Misuse(format!("unknown option `--{name}`")).into()),
            (None, Some(word)) => Err(Misuse(format!("unexpected argument `{word}`")).into()),
            (None, None) => Ok(()),
        }
    }
}

fn misuse(error: &lexopt::Error) -> Error {
    Misuse(error.to_string()).into()
}

/// Whether the usage text contains an option, and if so whether it takes a value: a word in capitals follows.
fn takes_value(usage: &str, name: &str) -> Option<bool> {
    let option = format!("--{name}");
    let rest = usage.match_indices(&option).map(|(at, _)| &usage[at + option.len()..]);
    let mut whole =
        rest.filter(|rest| !rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '-'));
    whole.next().map(|rest| {
        rest.strip_prefix(' ').is_some_and(|word| word.starts_with(|first: char| first.is_ascii_uppercase()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const USAGE: &str =
        "cargo xtask e2e [--repeat N] [--load] [FILTER]\n\n  --repeat N  how often\n  --load      keep busy";

    fn parse(words: &[&str]) -> Result<Args, Error> {
        Args::new(lexopt::Parser::from_args(words), USAGE)
    }

    #[test]
    fn flags_values_and_words_are_consumed_one_by_one() {
        let mut args = parse(&["--repeat=3", "flip", "--load", "--repeat", "7"]).unwrap();
        assert!(args.flag("load"));
        assert!(!args.flag("load"));
        assert_eq!(args.value::<u32>("repeat").unwrap(), Some(7));
        assert_eq!(args.word().as_deref(), Some("flip"));
        args.done().unwrap();
    }

    #[test]
    fn arguments_outside_the_usage_are_refused() {
        for words in [&["--loa"][..], &["--loads"], &["-x"], &["--repeat"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
        assert!(parse(&["--repeat", "often"]).unwrap().value::<u32>("repeat").is_err());
        assert!(parse(&["one"]).unwrap().done().is_err());
    }
}
