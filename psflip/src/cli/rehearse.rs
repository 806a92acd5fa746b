//! `psflip rehearse`: runs `psflip-rehearse`, as git runs its subcommands. That program contains clients and
//! a sandbox, which a supervisor needs no memory for.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write as _};

use clap::Args;

use crate::exit;
use crate::exit_status::ExitStatus;
use crate::process::launch::Launch;
use crate::sys::{early, process};

/// The program.
const PROGRAM: &str = "psflip-rehearse";

/// `psflip rehearse`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct RehearseArgs {
    /// Options of psflip-rehearse: see `psflip rehearse --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    args: Vec<OsString>,
}

impl RehearseArgs {
    /// Becomes the program; returns only if there is none.
    pub(super) fn run(self) -> ExitStatus {
        let own = std::env::current_exe().ok();
        let beside = own.as_ref().map(|exe| exe.with_file_name(PROGRAM)).filter(|path| path.is_file());
        let mut argv = vec![beside.map_or_else(|| PROGRAM.into(), OsString::from)];
        // This very psflip is rehearsed.
        if let Some(own) = own.filter(|_| !self.names_psflip()) {
            argv.extend(["--psflip".into(), own.into()]);
        }
        argv.extend(self.args);
        // With the signals that psflip was started with: it has blocked them all.
        let launch = Launch::new(argv, process::raw_environment(), None, early::inherited_signals());
        let error = launch.exec().error;
        let (help, code) = match error.kind() {
            io::ErrorKind::NotFound => {
                ("; it is a program of its own, installed beside psflip", exit::NOT_FOUND)
            }
            _ => ("", exit::NOT_EXECUTABLE),
        };
        let _ = writeln!(io::stderr(), "psflip: can't execute `{PROGRAM}`: {error}{help}");
        ExitStatus::Exited(code)
    }

    fn names_psflip(&self) -> bool {
        let own = self.args.iter().take_while(|arg| *arg != "--");
        own.map(OsString::as_os_str).filter_map(OsStr::to_str).any(|arg| arg.starts_with("--psflip"))
    }
}
