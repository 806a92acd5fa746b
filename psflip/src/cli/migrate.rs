//! `psflip migrate`: translates a configuration of the Go version.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, ValueEnum};

use super::complain;
use crate::config::{Generation, Slot, file};
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::migrate::{self, Format, Migrated, Unreadable};
use crate::process::invocation::Invocation;

/// The end of the help of `psflip migrate`.
pub(super) const EXAMPLES: &str = "\
Examples:
  psflip migrate config.yml                    # to standard output
  psflip migrate config.yml -o psflip.toml
  ssh host cat config.json | psflip migrate -

psflip reports what it can't translate with its line, and keeps it as a comment in the output.
docs/migrating.md lists what becomes of each key and function.

Exit codes:
    0  everything is translated, and `psflip check` accepts it
    1  the output is written, but parts of it are left for you to complete
    2  wrong usage
   78  the file is not a configuration
  125  the file can't be read, or the output can't be written";

/// The arguments of `psflip migrate`.
#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    /// The configuration of the Go version; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
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

/// The formats by name.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Written {
    Yaml,
    Json,
    Toml,
}

/// Translates the file, writes the result and reports what is left to do.
pub(super) fn migrate(arguments: &MigrateArgs) -> ExitStatus {
    let MigrateArgs { file, output, force, format } = arguments;
    // Checked first, before the user reads a list of remarks for nothing.
    if let Some(output) = output.as_ref().filter(|output| !force && output.symlink_metadata().is_ok()) {
        complain(&format!("`{}` exists; use `--force` to overwrite it", output.display()));
        return ExitStatus::Exited(exit::FAILURE);
    }
    let (path, name) = match file.to_str() {
        Some("-") => (Path::new("/dev/stdin"), "standard input".to_owned()),
        _ => (file.as_path(), file.display().to_string()),
    };
    let bytes = match file::read(path) {
        Ok(bytes) => bytes,
        Err(reason) => {
            complain(&format!("can't read `{name}`: {reason}"));
            return ExitStatus::Exited(exit::FAILURE);
        }
    };
    let Ok(text) = String::from_utf8(bytes) else {
        complain(&format!("`{name}` is not UTF-8"));
        return ExitStatus::Exited(exit::CONFIG);
    };
    let format = match format {
        Some(Written::Yaml) => Format::Yaml,
        Some(Written::Json) => Format::Json,
        Some(Written::Toml) => Format::Toml,
        None => Format::of_name(&name).unwrap_or_else(|| Format::of_text(&text)),
    };
    let origin = Invocation::of_this_process();
    let env = |name: &str| origin.raw_variable(name);
    let generation = Generation { number: 1, slot: Slot::A, started: SystemTime::now(), env: &env };
    match migrate::migrate(&name, &text, format, &generation) {
        Ok(migrated) => finish(&name, &migrated, output.as_deref(), *force),
        Err(Unreadable { at, message }) => {
            let place = at.map_or_else(|| name.clone(), |at| format!("{name}:{at}"));
            complain(&format!("{place}: {message}"));
            ExitStatus::Exited(exit::CONFIG)
        }
    }
}

/// Writes the result, then the remarks.
fn finish(name: &str, migrated: &Migrated, output: Option<&Path>, force: bool) -> ExitStatus {
    let written = match output {
        None => std::io::stdout().write_all(migrated.text.as_bytes()),
        Some(path) => {
            let mut options = OpenOptions::new();
            options.write(true).create(true).truncate(true).create_new(!force);
            options.open(path).and_then(|mut file| file.write_all(migrated.text.as_bytes()))
        }
    };
    if let Err(error) = written {
        let place = output.map_or("standard output".to_owned(), |path| format!("`{}`", path.display()));
        complain(&format!("can't write {place}: {}", file::reason(&error)));
        return ExitStatus::Exited(exit::FAILURE);
    }
    let mut summary = String::new();
    for remark in &migrated.remarks {
        summary += &format!("{name}:{}: {}: {}\n", remark.at, remark.kind, remark.text);
    }
    let result = output.map_or("the result".to_owned(), |path| format!("`{}`", path.display()));
    let left = migrated.left();
    summary += &match (left, &migrated.refused) {
        (0, None) => format!("psflip: everything is translated; `psflip check` accepts {result}\n"),
        (left, None) => format!("psflip: {left} left to do; `psflip check` accepts the rest of {result}\n"),
        (left, Some(errors)) => {
            let left = if left == 0 { String::new() } else { format!("{left} left to do; ") };
            format!("psflip: {left}`psflip check` refuses {result} as it is:\n{errors}\n")
        }
    };
    let _ = std::io::stderr().write_all(summary.as_bytes()); // standard error may be closed
    ExitStatus::Exited(if left == 0 && migrated.refused.is_none() { exit::OK } else { exit::LEFT_TO_DO })
}
