//! psflip's own log: one line for each event, with generation and pid, to standard error,
//! to a file, or as fields to the journal.
//!
//! Values of environment variables and arguments of programs are never logged: both may contain secrets.

mod file;
mod journal;
mod json;
mod source;
mod stderr;
mod subscriber;
mod text;

use std::ffi::OsStr;
use std::io::{self, Write as _};
use std::path::Path;

use tracing::level_filters::LevelFilter;

use crate::config::{LogFormat, Plan};
use crate::terminal;
use source::Source;
use stderr::Careful;
use subscriber::{Encoder, Subscriber};

/// Sets up the log as the plan says.
pub fn start(plan: &Plan, generation: u64) {
    let level = if plan.quiet { LevelFilter::ERROR } else { LevelFilter::from_level(plan.log.level) };
    let encoder = match chosen(plan) {
        LogFormat::Journald => Encoder::Journald,
        LogFormat::Json => Encoder::Json,
        LogFormat::Auto | LogFormat::Text => {
            let colour = plan.log.file.is_none() && is_colourful();
            Encoder::Text { colour }
        }
    };
    install(level, Some(generation), "psflip", encoder, plan.log.file.as_deref());
}

/// As [`start`], for `psflip watch`, which has no configuration and is not a generation.
pub fn start_watch(quiet: bool) {
    let level = if quiet { LevelFilter::ERROR } else { LevelFilter::INFO };
    install(level, None, "watch", Encoder::Text { colour: false }, None);
}

/// How this process logs, for [`start_relay`] in a process that it starts.
#[must_use]
pub fn as_argument(plan: &Plan, generation: u64) -> String {
    let level = if plan.quiet { tracing::Level::ERROR } else { plan.log.level };
    let format = match chosen(plan) {
        LogFormat::Journald => "journald",
        LogFormat::Json => "json",
        LogFormat::Auto | LogFormat::Text => "text",
    };
    let file = plan.log.file.as_ref().map(crate::text::lossy).unwrap_or_default();
    format!("{format} {level} {generation} {file}")
}

/// As [`start`], for a relay. `argument`: what [`as_argument`] returned.
pub fn start_relay(argument: &str) {
    let mut words = argument.splitn(4, ' ');
    let encoder = match words.next() {
        Some("journald") => Encoder::Journald,
        Some("json") => Encoder::Json,
        _ => Encoder::Text { colour: is_colourful() },
    };
    let level = words.next().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::INFO);
    let generation = words.next().and_then(|number| number.parse().ok());
    let file = words.next().filter(|file| !file.is_empty()).map(Path::new);
    install(level, generation, "relay", encoder, file);
}

/// Whether standard error is a terminal that wants colours.
fn is_colourful() -> bool {
    terminal::has_colour(&io::stderr(), |name| std::env::var_os(name))
}

/// Opens the file of `log.file` and closes it, so that a wrong path fails the start.
///
/// # Errors
/// As text: EACCES, ENOENT, ..., or it is not a regular file.
pub fn check_file(path: &Path) -> Result<(), String> {
    file::open(path)
        .map(drop)
        .map_err(|error| format!("`log.file`: can't open `{}`: {error}", path.display()))
}

fn install(
    level: LevelFilter,
    generation: Option<u64>,
    name: &'static str,
    encoder: Encoder,
    file: Option<&Path>,
) {
    let source = Source { name, generation, pid: std::process::id() };
    if let Some(file) = file {
        let file = file.to_owned();
        let write = move |line: &[u8]| file::append(&file, line).or_else(|_| to_stderr(line));
        // As below.
        let _ = tracing::subscriber::set_global_default(Subscriber { level, source, encoder, write });
        return;
    }
    let write: fn(&[u8]) -> io::Result<()> = match encoder {
        Encoder::Text { .. } | Encoder::Json => to_stderr,
        Encoder::Journald => journal::write,
    };
    // It fails only if a subscriber is set already, which then stays.
    let _ = tracing::subscriber::set_global_default(Subscriber { level, source, encoder, write });
}

/// Writes a line as it is, for a process that has no configuration.
pub fn plain(line: &str) {
    let _ = to_stderr(line.as_bytes()); // a line that can't be written is lost
}

fn to_stderr(line: &[u8]) -> io::Result<()> {
    Careful(io::stderr()).write_all(line)
}

/// Whether psflip's standard error leads to the journal.
pub(crate) fn leads_to_the_journal() -> bool {
    let stderr = || nix::sys::stat::fstat(io::stderr()).ok().map(|stat| (stat.st_dev, stat.st_ino));
    is_the_journal(std::env::var_os("JOURNAL_STREAM").as_deref(), stderr)
}

/// The format that `auto` means here.
fn chosen(plan: &Plan) -> LogFormat {
    match plan.log.format {
        LogFormat::Auto if plan.log.file.is_some() => LogFormat::Text,
        LogFormat::Auto if leads_to_the_journal() => LogFormat::Journald,
        LogFormat::Auto => LogFormat::Text,
        other => other,
    }
}

/// Whether standard error, with this device and inode, leads to the journal: `JOURNAL_STREAM` in
/// systemd.exec(5). It may have been redirected since that was set.
fn is_the_journal(stream: Option<&OsStr>, stderr: impl FnOnce() -> Option<(u64, u64)>) -> bool {
    let Some(stream) = stream.and_then(OsStr::to_str) else { return false };
    let Some((device, inode)) = stream.split_once(':') else { return false };
    let (Ok(device), Ok(inode)) = (device.parse(), inode.parse()) else { return false };
    stderr() == Some((device, inode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_recognized_by_device_and_inode() {
        let (device, inode) = (26_u64, 4711_u64);
        let is = |text: &str| is_the_journal(Some(OsStr::new(text)), || Some((device, inode)));
        assert!(is(&format!("{device}:{inode}")));
        for other in [&format!("{device}:{}", inode + 1), "", "8", ":", "a:b", "-1:2"] {
            assert!(!is(other), "{other}");
        }
        assert!(!is_the_journal(None, || Some((device, inode))));
        assert!(!is_the_journal(Some(OsStr::new("1:2")), || None), "closed");
    }
}
