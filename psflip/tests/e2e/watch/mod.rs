//! `psflip watch`: one stable parent above a program that replaces itself (contract C5, C7, C8, C9, S1 to
//! S3).

mod follows;
mod killed;
mod nginx;
mod races;

use std::path::Path;
use std::sync::Arc;

use testkit::{Deadline, Process, Psflip, Running, Sandbox, Stream, psflip_bin, wait_until};

use crate::service::{configure, psflip};

/// `psflip watch` with these options and this command.
pub(crate) fn watch(sandbox: &Sandbox, options: &[&str], command: &[&str]) -> Arc<Running> {
    let mut argv =
        vec![psflip_bin().display().to_string(), "watch".into(), "--pidfile".into(), "x.pid".into()];
    argv.extend(options.iter().chain(["--"].iter()).chain(command).map(|&arg| arg.to_owned()));
    sandbox.command(argv).start()
}

/// Like [`watch`], with a script for the shell.
pub(crate) fn watch_script(sandbox: &Sandbox, options: &[&str], script: &str) -> Arc<Running> {
    watch(sandbox, options, &["sh", "-c", script])
}

/// A psflip with this child under `psflip watch`.
pub(crate) fn watched_psflip(sandbox: &Sandbox, argv: &[&str], rest: &str) -> Psflip {
    configure(sandbox, argv, rest);
    let wrapper = [
        psflip_bin().display().to_string(),
        "watch".into(),
        "--pidfile".into(),
        "psflip.pid".into(),
        "--".into(),
    ];
    psflip(sandbox, argv, rest).wrapper(wrapper).start().wait_ready()
}

/// Waits until watch has logged that it follows `process`.
#[track_caller]
pub(crate) fn wait_follows(watch: &Running, process: u32) {
    let line = format!("follows the pidfile service={process}");
    watch.output().wait_for(Deadline::default(), &format!("`{line}`"), |lines| {
        lines.iter().any(|said| said.stream == Stream::Stderr && said.text.ends_with(&line)).then_some(())
    });
}

/// The process that a file names, as soon as it exists.
#[track_caller]
fn wait_named(path: &Path) -> Process {
    wait_until(Deadline::default(), format!("`{}` to name a process", path.display()), || {
        let pid = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
        Process::find(pid)
    })
}
