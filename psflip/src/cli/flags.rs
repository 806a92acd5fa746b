//! A configuration without a file: `psflip run --listen ADDRESS --pidfile FILE -- COMMAND`. `flag_table`
//! has all flags and the key that each sets. `config` alone decides which values are valid.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args, Command, FromArgMatches};

use super::flag_table::{FLAGS, Flag, Kind};
use super::{DEFAULT_CONFIG, proxy_flag};
use crate::config;

/// Where the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A file.
    File(PathBuf),
    /// The command line; it then has a command.
    Flags(config::Flags),
}

/// Whether this is a flag of this table.
pub(super) fn is_flag(given: &str) -> bool {
    given.strip_prefix("--").is_some_and(|given| FLAGS.iter().any(|flag| flag.name == given))
}

/// The heading of the flags in the help.
const HEADING: &str = "Without a file, before `-- COMMAND`";

/// Flags with details of one kind of health check.
const DETAILS: &[&str] =
    &["healthcheck-script", "healthcheck-method", "healthcheck-host", "healthcheck-header"];

/// The flags that choose the kind of health check; they exclude each other.
fn is_choice(flag: &Flag) -> bool {
    flag.key.starts_with("healthcheck.") && !flag.key.contains('*') && !DETAILS.contains(&flag.name)
}

impl Args for Source {
    /// Adds the arguments only if the command is used: other commands, and every successor of `psflip -c`,
    /// save the work.
    fn augment_args(command: Command) -> Command {
        command.defer(arguments)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// `-c`, the command, and every flag.
fn arguments(command: Command) -> Command {
    let file = Arg::new("config")
        .short('c')
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help(format!("The configuration file (TOML) [default: {DEFAULT_CONFIG}]"));
    let child = Arg::new("command")
        .value_name("COMMAND")
        .value_parser(ValueParser::os_string())
        .num_args(1..)
        .last(true)
        .conflicts_with("config")
        .help("The program and its arguments; psflip then reads no file, and takes its settings from flags");
    let choices = FLAGS.iter().filter(|flag| is_choice(flag)).map(|flag| flag.name);
    let kinds = ArgGroup::new("kind of health check").args(choices.collect::<Vec<_>>());
    command.arg(file).arg(child).args(FLAGS.iter().map(Flag::arg)).group(kinds)
}

impl Flag {
    fn arg(&self) -> Arg {
        let arg = Arg::new(self.name).long(self.name).help(self.help).help_heading(HEADING);
        let arg = arg.requires("command").conflicts_with("config").value_parser(self.parser());
        let arg = match self.kind {
            Kind::Alone(_) => arg.action(ArgAction::SetTrue),
            Kind::Variable
            | Kind::Entry
            | Kind::Variables
            | Kind::Signals
            | Kind::Removed
            | Kind::Listener
            | Kind::Proxy => arg.action(ArgAction::Append).value_name(self.value),
            Kind::Text | Kind::Path | Kind::Number | Kind::Shell | Kind::Symlink => {
                arg.value_name(self.value)
            }
        };
        match self.name {
            "healthcheck-fcgi" => arg.requires("healthcheck-script"),
            "healthcheck-script" => arg.requires("healthcheck-fcgi"),
            name if DETAILS.contains(&name) => arg.requires("healthcheck-http"),
            _ => arg,
        }
    }

    /// Checks only what is needed to split the value; `config` reports all other errors.
    fn parser(&self) -> ValueParser {
        match self.kind {
            Kind::Alone(_) => ValueParser::bool(),
            Kind::Path => ValueParser::os_string(),
            Kind::Number => ValueParser::from(clap::value_parser!(u32)),
            Kind::Variable | Kind::Entry | Kind::Signals | Kind::Symlink => {
                let example = self.value;
                ValueParser::from(move |text: &str| match text.contains('=') {
                    true => Ok(text.to_owned()),
                    false => Err(format!("there is no `=` in it: write {example}")),
                })
            }
            Kind::Text | Kind::Shell | Kind::Variables | Kind::Removed | Kind::Listener | Kind::Proxy => {
                ValueParser::string()
            }
        }
    }

    /// Adds this flag's setting to `flags`.
    fn apply(&self, matches: &ArgMatches, check: &str, flags: &mut config::Flags) {
        let flag = format!("--{}", self.name);
        // Without a kind of check, `config` reports that it is missing.
        let key = if check.is_empty() { self.key.replace("*.", "") } else { self.key.replace('*', check) };
        if let Kind::Alone(toml) = self.kind {
            if matches.get_flag(self.name) {
                flags.literal(&flag, &key, toml);
            }
            return;
        }
        if self.kind == Kind::Number {
            if let Some(number) = matches.get_one::<u32>(self.name) {
                flags.literal(&flag, &key, &number.to_string());
            }
            return;
        }
        if self.kind == Kind::Path {
            if let Some(path) = matches.get_one::<OsString>(self.name) {
                flags.path(&flag, &key, path);
            }
            return;
        }
        for value in matches.get_many::<String>(self.name).into_iter().flatten() {
            let (before, after) = value.split_once('=').unwrap_or((value, ""));
            match self.kind {
                Kind::Shell => flags.shell(&flag, &key, value),
                Kind::Variable => flags.variable(&flag, before, Some(after)),
                Kind::Entry => flags.entry(&flag, &key, before, after),
                Kind::Variables => flags.variables(&flag, key == "env_dir", value),
                Kind::Signals => flags.signal(&flag, before, after),
                Kind::Removed => flags.variable(&flag, value, None),
                Kind::Symlink => flags.link(&flag, before, after),
                Kind::Listener => flags.listener(&flag, value),
                Kind::Proxy => {} // `proxy_flag`: it depends on other flags
                Kind::Text | Kind::Path | Kind::Number | Kind::Alone(_) => flags.text(&flag, &key, value),
            }
        }
    }
}

impl FromArgMatches for Source {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let Some(command) = matches.get_many::<OsString>("command") else {
            let file = matches.get_one::<PathBuf>("config");
            return Ok(Self::File(file.cloned().unwrap_or_else(|| DEFAULT_CONFIG.into())));
        };
        let given = |flag: &&Flag| match flag.kind {
            Kind::Alone(_) => matches.get_flag(flag.name),
            _ => matches.contains_id(flag.name),
        };
        let choice = FLAGS.iter().filter(|flag| is_choice(flag)).find(given);
        let mut check = choice.and_then(|flag| flag.key.split('.').nth(1)).unwrap_or_default();
        let mut flags = config::Flags::default();
        let kind = proxy_flag::apply(matches, choice.is_none(), &mut flags);
        check = kind.unwrap_or(check);
        for flag in FLAGS {
            flag.apply(matches, check, &mut flags);
        }
        flags.command(&command.cloned().collect::<Vec<_>>());
        Ok(Self::Flags(flags))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::FLAGS;

    #[test]
    fn the_manual_lists_every_flag() {
        let manual = include_str!("../../../docs/configuration.md");
        let part = manual
            .split("## Without a file")
            .nth(1)
            .and_then(|rest| rest.split("\n## ").next())
            .unwrap_or_default();
        let told: Vec<&str> =
            part.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let there: Vec<String> = FLAGS
            .iter()
            .map(|flag| format!("--{} {}", flag.name, flag.value).trim_end().to_owned())
            .collect();
        assert_eq!(told, there);
        for flag in FLAGS.iter().filter(|flag| !flag.key.contains(['*', '"'])) {
            let line = part
                .lines()
                .find(|line| line.starts_with(&format!("| `--{}", flag.name)))
                .unwrap_or_default();
            assert!(line.contains(flag.key.split('.').next().unwrap_or_default()), "{line}: {}", flag.key);
        }
    }
}
