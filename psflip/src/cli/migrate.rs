//! `psflip migrate`: translates a configuration of the Go version, or how another program starts a service.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, Subcommand, ValueEnum};

use super::complain;
use crate::config::{Generation, Slot, file};
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::migrate::supervisor::{self, Translated, Wrong};
use crate::migrate::{self, Format, Kind, Migrated, Unreadable};
use crate::process::invocation::Invocation;

/// The end of the help of `psflip migrate`.
pub(super) const EXAMPLES: &str = "\
Examples:
  psflip migrate config.yml                    # to standard output
  psflip migrate config.yml -o psflip.toml
  ssh host cat config.json | psflip migrate -
  psflip migrate start_server --port 8080 -- ./server
  psflip migrate -o psflip.toml supervisord /etc/supervisor/conf.d/app.conf app

psflip reports what it can't translate with its line, and keeps it as a comment in the output.
A new output gets the permissions of FILE; without FILE, 0600 if it has an `[env]`.
docs/migrating.md lists what becomes of each key and function, docs/coming-from.md what becomes of
the options and settings of the others. Options of psflip go before the name of the other program.

Exit codes:
    0  everything is translated, and `psflip check` accepts it
    1  the output is written, but parts of it are left for you to complete
    2  wrong usage
   78  the file is not a configuration, or the command line is not one of the other program
  125  the file can't be read, or the output can't be written";

/// The arguments of `psflip migrate`.
#[derive(Debug, Args)]
#[command(
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    override_usage = "psflip migrate [OPTIONS] <FILE>\n       psflip migrate [OPTIONS] <COMMAND> <FILE|ARGS...>"
)]
pub(super) struct MigrateArgs {
    #[command(subcommand)]
    other: Option<Other>,
    /// The configuration of the Go version; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    file: Option<PathBuf>,
    /// Where to write the result (default: standard output)
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Overwrite the output if it exists
    #[arg(long, requires = "output")]
    force: bool,
    /// The format of FILE (default: detected from its name, or else from its text)
    #[arg(long, value_name = "FORMAT")]
    format: Option<Written>,
}

/// What else can be translated.
#[derive(Debug, Subcommand)]
enum Other {
    /// Translate a command line of start_server (Perl's Server::Starter)
    #[command(name = "start_server")]
    StartServer(CommandLine),
    /// Translate a command line of spawn-fcgi
    SpawnFcgi(CommandLine),
    /// Translate a program of a configuration of supervisord
    Supervisord {
        /// The configuration; `-` is standard input
        file: PathBuf,
        /// The name of the `[program:x]` (default: the only one)
        program: Option<String>,
    },
    /// Translate a `run` script of runit, daemontools or s6
    Runit {
        /// The script; `-` is standard input
        file: PathBuf,
    },
    /// Translate a line of a Procfile
    Procfile {
        /// The Procfile; `-` is standard input
        file: PathBuf,
        /// The type of the process, such as `web` (default: the only one)
        #[arg(value_name = "TYPE")]
        kind: Option<String>,
    },
}

impl Other {
    /// The file that is translated.
    fn file(&self) -> Option<&Path> {
        match self {
            Self::StartServer(_) | Self::SpawnFcgi(_) => None,
            Self::Supervisord { file, .. } | Self::Runit { file } | Self::Procfile { file, .. } => Some(file),
        }
    }
}

/// A command line without the name of its program.
#[derive(Debug, Args)]
struct CommandLine {
    /// The arguments, as they are; psflip's own options go before the name of the program
    #[arg(value_name = "ARGS", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// The formats by name.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Written {
    Yaml,
    Json,
    Toml,
}

/// Translates the file, writes the result and reports what is left to do.
pub(super) fn migrate(arguments: &MigrateArgs) -> ExitStatus {
    let MigrateArgs { other, file, output, force, .. } = arguments;
    // Checked first, before the user reads a list of remarks for nothing.
    if let Some(output) = output.as_ref().filter(|output| !force && output.symlink_metadata().is_ok()) {
        complain(&format!("`{}` exists; use `--force` to overwrite it", output.display()));
        return ExitStatus::Exited(exit::FAILURE);
    }
    let origin = Invocation::of_this_process();
    let env = |name: &str| origin.raw_variable(name);
    let generation = Generation { number: 1, slot: Slot::A, started: SystemTime::now(), env: &env };
    let report = match (other, file) {
        (Some(_), Some(file)) => {
            complain(&format!("`{}` is one argument too many", file.display()));
            return ExitStatus::Exited(exit::USAGE);
        }
        (Some(other), None) => translate(other, &generation),
        (None, file) => upstream(file.as_deref().unwrap_or(Path::new("-")), arguments, &generation),
    };
    match report {
        Ok(report) => {
            let source = other.as_ref().map_or(file.as_deref(), Other::file);
            report.finish(output.as_deref(), *force, source)
        }
        Err(status) => status,
    }
}

/// The text of a file, and its name in messages. `-` is standard input.
fn read(file: &Path) -> Result<(String, String), ExitStatus> {
    let (path, name) = match file.to_str() {
        Some("-") => (Path::new("/dev/stdin"), "standard input".to_owned()),
        _ => (file, file.display().to_string()),
    };
    let bytes = file::read(path).map_err(|reason| {
        complain(&format!("can't read `{name}`: {reason}"));
        ExitStatus::Exited(exit::FAILURE)
    })?;
    let text = String::from_utf8(bytes).map_err(|_| {
        complain(&format!("`{name}` is not UTF-8"));
        ExitStatus::Exited(exit::CONFIG)
    })?;
    Ok((text, name))
}

/// A configuration of the Go version.
fn upstream(file: &Path, arguments: &MigrateArgs, generation: &Generation<'_>) -> Result<Report, ExitStatus> {
    let (text, name) = read(file)?;
    let format = match arguments.format {
        Some(Written::Yaml) => Format::Yaml,
        Some(Written::Json) => Format::Json,
        Some(Written::Toml) => Format::Toml,
        None => Format::of_name(&name).unwrap_or_else(|| Format::of_text(&text)),
    };
    match migrate::migrate(&name, &text, format, generation) {
        Ok(Migrated { text, remarks, refused }) => {
            let left = remarks.iter().filter(|remark| remark.kind == Kind::Left).count();
            let remarks = remarks.iter();
            let remarks =
                remarks.map(|remark| format!("{name}:{}: {}: {}\n", remark.at, remark.kind, remark.text));
            Ok(Report { text, remarks: remarks.collect(), left, refused })
        }
        Err(Unreadable { at, message }) => {
            let place = at.map_or_else(|| name.clone(), |at| format!("{name}:{at}"));
            complain(&format!("{place}: {message}"));
            Err(ExitStatus::Exited(exit::CONFIG))
        }
    }
}

/// What another program starts.
fn translate(other: &Other, generation: &Generation<'_>) -> Result<Report, ExitStatus> {
    let (name, translated) = match other {
        Other::StartServer(line) => {
            ("start_server".to_owned(), supervisor::start_server(&line.words("start_server")?, generation))
        }
        Other::SpawnFcgi(line) => {
            ("spawn-fcgi".to_owned(), supervisor::spawn_fcgi(&line.words("spawn-fcgi")?, generation))
        }
        Other::Supervisord { file, program } => {
            let (text, name) = read(file)?;
            let here = absolute(file).and_then(|path| Some(path.parent()?.to_str()?.to_owned()));
            let made = supervisor::supervisord(&name, here.as_deref(), &text, program.as_deref(), generation);
            (name, made)
        }
        Other::Runit { file } => {
            let (text, name) = read(file)?;
            let path = absolute(file).and_then(|path| Some(path.to_str()?.to_owned()));
            (name, supervisor::runit(path.as_deref(), &text, generation))
        }
        Other::Procfile { file, kind } => {
            let (text, name) = read(file)?;
            let made = supervisor::procfile(&name, &text, kind.as_deref(), generation);
            (name, made)
        }
    };
    match translated {
        Ok(Translated { text, remarks, refused }) => {
            let left = remarks.iter().filter(|remark| remark.kind == Kind::Left).count();
            let remarks = remarks.iter();
            let remarks =
                remarks.map(|remark| format!("{name}: {}: {}: {}\n", remark.place, remark.kind, remark.text));
            Ok(Report { text, remarks: remarks.collect(), left, refused })
        }
        Err(wrong @ Wrong { .. }) => {
            complain(&format!("{name}: {wrong}"));
            Err(ExitStatus::Exited(exit::CONFIG))
        }
    }
}

/// The absolute path of a file; none of standard input.
fn absolute(file: &Path) -> Option<PathBuf> {
    (file.to_str() != Some("-")).then(|| std::path::absolute(file).ok()).flatten()
}

impl CommandLine {
    /// The arguments, each UTF-8.
    fn words(&self, program: &str) -> Result<Vec<String>, ExitStatus> {
        let mut words = Vec::with_capacity(self.arguments.len() + 1);
        // clap removes a `--` before the first argument; it is the other program's.
        let all: Vec<OsString> = std::env::args_os().collect();
        let before = all.len().checked_sub(self.arguments.len() + 1).and_then(|index| all.get(index));
        if before.is_some_and(|before| before == "--") {
            words.push("--".to_owned());
        }
        for argument in &self.arguments {
            let Some(word) = argument.to_str() else {
                let shown = crate::text::lossy(argument);
                complain(&format!("{program}: `{shown}` is not UTF-8, as a file of configuration must be"));
                return Err(ExitStatus::Exited(exit::CONFIG));
            };
            words.push(word.to_owned());
        }
        Ok(words)
    }
}

/// The permissions of a new output, before the umask: no more users may read it than may read the source.
fn permissions(source: Option<&Path>, text: &str) -> u32 {
    let source = source.map(|path| if path.to_str() == Some("-") { Path::new("/dev/stdin") } else { path });
    let source = source.and_then(|source| source.metadata().ok()).filter(std::fs::Metadata::is_file);
    match source {
        Some(source) => source.permissions().mode() & 0o666 | 0o600,
        None if text.lines().any(|line| line == "[env]") => 0o600,
        None => 0o666,
    }
}

/// Writes the output; one that exists keeps its permissions.
fn write(path: &Path, text: &str, force: bool, permissions: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).create_new(!force).mode(permissions);
    options.open(path)?.write_all(text.as_bytes())
}

/// A result, and what the user should know about it.
struct Report {
    text: String,
    /// Lines.
    remarks: String,
    /// How many things are left to do.
    left: usize,
    /// The errors of `psflip check`.
    refused: Option<String>,
}

impl Report {
    /// Writes the result, then the remarks.
    fn finish(self, output: Option<&Path>, force: bool, source: Option<&Path>) -> ExitStatus {
        let Self { text, remarks, left, refused } = self;
        let written = match output {
            None => std::io::stdout().write_all(text.as_bytes()),
            Some(path) => write(path, &text, force, permissions(source, &text)),
        };
        if let Err(error) = written {
            let place = output.map_or("standard output".to_owned(), |path| format!("`{}`", path.display()));
            complain(&format!("can't write {place}: {}", file::reason(&error)));
            return ExitStatus::Exited(exit::FAILURE);
        }
        let mut summary = remarks;
        let result = output.map_or("the result".to_owned(), |path| format!("`{}`", path.display()));
        summary += &match (left, &refused) {
            (0, None) => format!("psflip: everything is translated; `psflip check` accepts {result}\n"),
            (left, None) => {
                format!("psflip: {left} left to do; `psflip check` accepts the rest of {result}\n")
            }
            (left, Some(errors)) => {
                let left = if left == 0 { String::new() } else { format!("{left} left to do; ") };
                format!("psflip: {left}`psflip check` refuses {result} as it is:\n{errors}\n")
            }
        };
        let _ = std::io::stderr().write_all(summary.as_bytes()); // standard error may be closed
        ExitStatus::Exited(if left == 0 && refused.is_none() { exit::OK } else { exit::LEFT_TO_DO })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn nobody_else_can_read_the_values_of_a_private_source() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let source = directory.path().join("run");
        fs::write(&source, "").unwrap();
        for (of_source, wanted) in
            [(0o600, 0o600), (0o700, 0o600), (0o640, 0o640), (0o755, 0o644), (0o444, 0o644)]
        {
            fs::set_permissions(&source, fs::Permissions::from_mode(of_source)).unwrap();
            assert_eq!(permissions(Some(&source), "[env]\n"), wanted, "{of_source:o}");
        }
        assert_eq!(permissions(None, "cmd = []\n[env]\n"), 0o600);
        assert_eq!(permissions(None, "cmd = []\n"), 0o666);
        // Of a pipe, nothing is known.
        assert_eq!(permissions(Some(Path::new("/dev/null")), "[env]\n"), 0o600);

        let output = directory.path().join("made.toml");
        write(&output, "a", false, 0o600).unwrap();
        assert_eq!(mode(&output), 0o600);
        assert_eq!(write(&output, "b", false, 0o600).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::set_permissions(&output, fs::Permissions::from_mode(0o640)).unwrap();
        write(&output, "b", true, 0o600).unwrap();
        assert_eq!((fs::read_to_string(&output).unwrap().as_str(), mode(&output)), ("b", 0o640));
    }
}
