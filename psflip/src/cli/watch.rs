//! `psflip watch`: a stable parent for a program that replaces its own main process.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::complain;
use crate::config;
use crate::exit_status::ExitStatus;
use crate::sys::{kernel, tree};
use crate::watch::{self, Failure, Options};

/// The end of the help of `psflip watch`.
pub(super) const AFTER_HELP: &str = "\
The process whose pid is in FILE is the service: watch forwards signals to it and exits
with its exit status. Until FILE names a process, COMMAND is the service. A pid counts
if FILE was written after COMMAND was started and names one of COMMAND's processes.

  psflip watch --pidfile /run/nginx.pid -- nginx -g 'daemon off;'
  psflip watch --pidfile app.pid -- psflip -c app.toml

watch exits as the service did (same exit code, or killed by the same signal), or with
    2  wrong usage
  125  watch failed
  126  the command can't be executed
  127  the command was not found";

/// The command line of `psflip watch`.
#[derive(Clone, Debug, Args)]
pub(super) struct WatchArgs {
    /// The file to which the service writes its pid
    #[arg(long, value_name = "FILE")]
    pidfile: PathBuf,
    /// When the service exits: wait this long for another process to become the service, if FILE still exists
    /// or an earlier service process still runs
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = config::duration)]
    patience: Duration,
    /// When the service has stopped: wait this long for leftover processes of COMMAND to exit, then kill them
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = config::duration)]
    grace: Duration,
    /// Log errors only
    #[arg(short, long)]
    quiet: bool,
    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Watches the service until it has exited.
pub(super) fn watch(args: WatchArgs) -> ExitStatus {
    let WatchArgs { pidfile, patience, grace, quiet, command } = args;
    crate::log::start_watch(quiet);
    let shown = command[0].to_string_lossy().into_owned();
    if pidfile.is_dir() {
        complain(&format!(
            "pidfile `{}` is a directory; name the file in which the service writes its pid",
            pidfile.display()
        ));
        return ExitStatus::Exited(crate::exit::FAILURE);
    }
    let needs_proc = "/proc is not mounted, or shows another PID namespace: psflip watch can't tell which process the pidfile names; \
                      mount proc on /proc";
    if let Some(why) =
        kernel::shortcoming().or_else(|| (!tree::look_at_proc()).then(|| needs_proc.to_owned()))
    {
        complain(&why);
        return ExitStatus::Exited(crate::exit::FAILURE);
    }
    match watch::run(Options { pidfile: pidfile.clone(), argv: command, patience, grace }) {
        Ok(end) => end,
        Err(failure) => {
            complain(&match &failure {
                Failure::Start(refusal) => refusal.of_exec(&shown, None),
                Failure::Own(what, error) => {
                    format!("can't {what} (pidfile `{}`): {error}", pidfile.display())
                }
            });
            ExitStatus::Exited(failure.code())
        }
    }
}
