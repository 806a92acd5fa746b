//! psflip's own log: one line for each event, with generation and pid, to standard error
//! or as fields to the journal.
//!
//! Values of environment variables and arguments of programs are never logged: both may contain secrets.

mod journal;
mod line;
mod stderr;

use std::ffi::OsStr;
use std::io;

use tracing::level_filters::LevelFilter;
use tracing::span::EnteredSpan;
use tracing_subscriber::layer::SubscriberExt as _;

use crate::config::{LogFormat, Plan};
use crate::terminal;
use journal::Journal;
use line::Text;
use stderr::Careful;

/// Sets up the log as the plan says, until the returned value is dropped.
pub fn start(plan: &Plan, generation: u64) -> EnteredSpan {
    let level = if plan.quiet { LevelFilter::ERROR } else { LevelFilter::from_level(plan.log.level) };
    let pid = std::process::id();
    // It fails only if a subscriber is set already, which then stays.
    drop(match chosen(plan.log.format) {
        LogFormat::Journald => {
            let subscriber = tracing_subscriber::registry().with(level).with(Journal::new(generation, pid));
            tracing::subscriber::set_global_default(subscriber).map_err(|error| error.to_string())
        }
        LogFormat::Json => {
            let builder = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
            let json = builder.with_writer(|| Careful(io::stderr())).with_target(false).json();
            json.flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .try_init()
                .map_err(|error| error.to_string())
        }
        LogFormat::Auto | LogFormat::Text => {
            let colour = terminal::has_colour(&io::stderr(), |name| std::env::var_os(name));
            let text = Text { level, generation, pid, colour, write: plain };
            tracing::subscriber::set_global_default(text).map_err(|error| error.to_string())
        }
    });
    tracing::error_span!("psflip", generation, pid).entered()
}

/// As [`start`], for `psflip watch`, which has no configuration and is not a generation.
pub fn start_watch(quiet: bool) -> EnteredSpan {
    let level = if quiet { LevelFilter::ERROR } else { LevelFilter::INFO };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false).with_ansi(false);
    // it fails only if a subscriber is set already, which then stays
    drop(builder.with_writer(|| Careful(io::stderr())).try_init());
    tracing::error_span!("watch", pid = std::process::id()).entered()
}

/// Writes a line as it is, for a process that has no configuration.
pub fn plain(line: &str) {
    use std::io::Write as _;
    let _ = Careful(io::stderr()).write_all(line.as_bytes()); // a line that can't be written is lost
}

/// The format that `auto` means here.
fn chosen(format: LogFormat) -> LogFormat {
    let stderr = || nix::sys::stat::fstat(io::stderr()).ok().map(|stat| (stat.st_dev, stat.st_ino));
    match format {
        LogFormat::Auto if is_the_journal(std::env::var_os("JOURNAL_STREAM").as_deref(), stderr) => {
            LogFormat::Journald
        }
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
    fn the_journal_is_known_by_device_and_inode() {
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
