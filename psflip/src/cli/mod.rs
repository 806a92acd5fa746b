//! The command line: one file per subcommand.

mod anchor_args;
mod bake;
mod check;
mod discover;
mod fast_path;
mod files;
mod flag_table;
mod flags;
mod hold;
mod list;
mod metrics;
mod migrate;
mod proxy_flag;
mod rehearse;
mod render;
mod reopen;
mod run;
mod screen;
mod session;
mod several;
mod status;
mod stop;
mod strict;
mod target;
mod upgrade;
mod wait;
mod watch;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use crate::config::{Document, Errors};
use crate::exit_status::ExitStatus;
use crate::{secrets, text};
use flags::Source;

/// Zero-downtime restarts for any Linux service, in any language.
///
/// psflip runs one child process as if psflip were not there: same environment, standard streams, signals and
/// exit status. On SIGHUP or `psflip upgrade` it starts a new psflip, which reads the configuration again and
/// starts a new child. Only when the new child is healthy does it take over, and the old child shuts down
/// gracefully. If anything fails before that, the old child keeps serving.
#[derive(Debug, Parser)]
#[command(name = "psflip", version, args_conflicts_with_subcommands = true, after_help = AFTER_HELP, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    anchor: anchor_args::AnchorArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

const AFTER_HELP: &str = "\
Start:    psflip -c app.toml
Upgrade:  psflip upgrade -c app.toml    (or kill -HUP \"$(cat app.pid)\", which doesn't wait)
Status:   psflip status -c app.toml
Stop:     psflip stop -c app.toml       (or kill \"$(cat app.pid)\")

A configuration, `app.toml`: the program, a pidfile, and a listening socket that every version of
the program inherits as descriptor 3 (without `[[listen]]`, each version opens its own socket):
  cmd     = [\"./server\"]
  pidfile = \"app.pid\"

  [[listen]]
  address = \"tcp://0.0.0.0:8080\"

psflip exits as the child did (same exit code, or killed by the same signal), or with
    0  a new generation took over
    2  wrong usage
   78  the configuration is invalid
  124  the child was not healthy in time
  125  psflip failed
  126  the command can't be executed
  127  the command was not found";

/// The configuration that is read if none is given.
const DEFAULT_CONFIG: &str = "psflip.toml";

#[derive(Clone, Debug, Args)]
struct ConfigArgs {
    /// The configuration file (TOML)
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a service and upgrade it on request (the default)
    #[command(after_help = run::EXAMPLES)]
    Run(run::Args),
    /// Check a configuration and start nothing: print it with all defaults, or every error in it
    #[command(after_help = check::EXAMPLES)]
    Check(check::CheckArgs),
    /// Upgrade a running service, and wait for the result
    #[command(after_help = upgrade::AFTER_HELP)]
    Upgrade(upgrade::Upgrade),
    /// Show the state of a running service and its recent upgrades
    #[command(after_help = status::AFTER_HELP)]
    Status(status::Status),
    /// List all services on this host that this user may ask
    #[command(after_help = list::AFTER_HELP)]
    List(list::List),
    /// Print the state of a service, or of all, as metrics for Prometheus
    #[command(after_help = metrics::AFTER_HELP)]
    Metrics(metrics::Metrics),
    /// Stop a running service, and wait until it has exited
    #[command(after_help = stop::AFTER_HELP)]
    Stop(stop::Stop),
    /// Give the traffic back to the old generation while the new one bakes, and wait until that is done
    #[command(after_help = bake::AFTER_ROLLBACK_HELP)]
    Rollback(bake::Rollback),
    /// End a bake: the new generation becomes the service
    #[command(after_help = bake::AFTER_KEEP_HELP)]
    Keep(bake::Keep),
    /// Hold the proxy's connections: accept none, and let requests wait until `psflip resume`
    #[command(after_help = hold::AFTER_HOLD_HELP)]
    Hold(hold::HoldArgs),
    /// Let held connections go on
    #[command(after_help = hold::AFTER_RESUME_HELP)]
    Resume(hold::ResumeArgs),
    /// Open the log files of the child's output again, after a rotation
    #[command(after_help = reopen::AFTER_HELP)]
    Reopen(reopen::ReopenArgs),
    /// Give a program that replaces its own main process a stable parent, whose PID does not change
    #[command(after_help = watch::AFTER_HELP)]
    Watch(watch::WatchArgs),
    /// Upgrade a service again and again under load, in a sandbox, and explain every lost request
    Rehearse(rehearse::RehearseArgs),
    /// Translate a configuration of the Go version, or how start_server and others start a service
    #[command(after_help = migrate::EXAMPLES)]
    Migrate(migrate::MigrateArgs),
}

/// Runs psflip. Returns its exit code, unless the process dies by the same signal as its child.
#[must_use]
pub fn main() -> u8 {
    if let Some(code) = crate::proxy::relay_process() {
        return code;
    }
    // Before the command line is parsed: an anchor does not need it, and would keep the memory for its
    // lifetime.
    let end = crate::anchor::resumed().unwrap_or_else(run_command);
    // Rust's runtime, which would do this, isn't there (see `sys/entry.rs`).
    let _ = std::io::stdout().flush();
    match end {
        ExitStatus::Exited(code) => code,
        ExitStatus::Killed(signal) => {
            crate::sys::process::die_by(signal);
            128 + signal.number() as u8
        }
    }
}

/// The command line, from which `cargo xtask docs` generates man pages and completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

fn run_command() -> ExitStatus {
    if let Some(args) = fast_path::read(std::env::args_os()) {
        return run::run(&args);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print(); // standard error may be closed
            if let Some(hint) = hint(&error) {
                let _ = writeln!(std::io::stderr(), "\n{hint}");
            }
            return ExitStatus::Exited(if error.use_stderr() { crate::exit::USAGE } else { crate::exit::OK });
        }
    };
    match cli.command {
        Some(Command::Check(args)) => check::check(&args),
        Some(Command::Migrate(arguments)) => migrate::migrate(&arguments),
        Some(Command::Run(args)) => run::run(&args),
        Some(Command::Upgrade(upgrade)) => upgrade.run(),
        Some(Command::Status(status)) => status.run(),
        Some(Command::List(list)) => list.run(),
        Some(Command::Metrics(metrics)) => metrics.run(),
        Some(Command::Stop(stop)) => stop.run(),
        Some(Command::Rollback(rollback)) => rollback.run(),
        Some(Command::Keep(keep)) => keep.run(),
        Some(Command::Hold(hold)) => hold.run(),
        Some(Command::Resume(resume)) => resume.run(),
        Some(Command::Reopen(reopen)) => reopen.run(),
        Some(Command::Watch(args)) => watch::watch(args),
        Some(Command::Rehearse(args)) => args.run(),
        None => {
            let source = Source::File(cli.config.config);
            run::run(&run::Args { source, anchor: cli.anchor, watch: Vec::new() })
        }
    }
}

const EITHER: &str = "Configure by a file or by the command line, not by both: `psflip check ... -- ./server` prints the file for the latter";

/// Adds a hint that clap can't know, for users who give the configuration, or the command, as an argument.
fn hint(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    match error.kind() {
        ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument => {
            let given = text(ContextKind::InvalidSubcommand).or_else(|| text(ContextKind::InvalidArg))?;
            if given.ends_with(".toml") {
                return Some(format!("To use `{given}` as the configuration: `-c {given}`"));
            }
            // As with other supervisors: `psflip sleep 9`, `psflip run sleep 9`. Not for a misspelled
            // subcommand, or an excess argument of one.
            let first = std::env::args().nth(1).unwrap_or_default();
            let is_like_one = error.get(ContextKind::SuggestedSubcommand).is_some();
            let runs = ["--", "run", "check", given].contains(&first.as_str());
            if !given.starts_with('-') && (runs && !is_like_one || given.contains('/')) {
                return Some(format!(
                    "To run a command without a file: `psflip run -- {given} ...`; with a file, write it there: `cmd = [\"{given}\", ...]`"
                ));
            }
            let flag = flags::is_flag(given) || given == "--watch";
            flag.then(|| {
                format!("It goes after `run`, and a command after it: `psflip run {given} ... -- ./server`")
            })
        }
        ErrorKind::ArgumentConflict => {
            let subcommand = text(ContextKind::InvalidSubcommand);
            let is_one = |name: &str| Cli::command().find_subcommand(name).is_some();
            if subcommand.is_some_and(is_one) {
                return Some("Options go after the subcommand: `psflip check -c app.toml`".to_owned());
            }
            let file = [ContextKind::InvalidArg, ContextKind::PriorArg, ContextKind::InvalidSubcommand];
            let file = file.into_iter().filter_map(text).any(|arg| arg.starts_with("--config"));
            (file || subcommand.is_some()).then(|| EITHER.to_owned())
        }
        ErrorKind::InvalidUtf8 => Some(RAW.to_owned()),
        _ => None,
    }
}

/// Where bytes that are not UTF-8 are allowed.
const RAW: &str = "Bytes that are not UTF-8 are allowed in COMMAND and its arguments, and in the values of -c, --pidfile and --workdir";

/// The configuration that the command line names or contains.
fn document(source: &Source) -> Result<Document, Errors> {
    match source {
        Source::File(path) => Document::read(path),
        Source::Flags(flags) => Ok(Document::of_flags(flags)),
    }
}

/// The message for a first start without any configuration, which needs more than the error.
fn no_configuration(source: &Source) -> Option<String> {
    let Source::File(path) = source else { return None };
    let missing = path == Path::new(DEFAULT_CONFIG) && matches!(path.try_exists(), Ok(false));
    missing.then(|| {
        format!("there is no `{DEFAULT_CONFIG}` in this directory, so nothing was started; give one with `-c FILE`, or see `psflip --help`")
    })
}

/// A hint after the errors of a file that was written for the Go version, judging by its name.
fn upstreams_file(source: &Source) -> String {
    let Source::File(path) = source else { return String::new() };
    let is_one =
        ["yml", "yaml", "json"].map(std::ffi::OsStr::new).contains(&path.extension().unwrap_or_default());
    let path = path.display();
    if is_one {
        format!(
            "\n\nTo translate a configuration of the Go version: `psflip migrate {path} -o {DEFAULT_CONFIG}`"
        )
    } else {
        String::new()
    }
}

/// Prints an error. Standard error may be closed.
fn complain(message: &str) {
    // The message may quote external text: paths, answers, output of templates.
    let message = secrets::hide(message);
    print_text(&format!("psflip: {}\n", text::escaped_but(&message, &['\n', '\t'])));
}

/// Writes to standard error.
fn print_text(text: &str) {
    // In one write(2), since other psflips write to the same stream.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_default_subcommand_is_run() {
        let cli = Cli::try_parse_from(["psflip", "-c", "app.toml"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.config.config, PathBuf::from("app.toml"));
        let Some(Command::Run(source)) = Cli::try_parse_from(["psflip", "run"]).unwrap().command else {
            panic!()
        };
        assert_eq!(source.source, Source::File("psflip.toml".into()));
    }
}
