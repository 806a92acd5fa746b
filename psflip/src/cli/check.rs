//! `psflip check`: what would be run, or every reason why not.

use std::io::Write as _;
use std::time::SystemTime;

use super::flags::Source;
use super::{complain, no_configuration, read};
use crate::config::{Generation, Slot};
use crate::end::End;
use crate::exit;
use crate::runtime::Origin;

/// Prints the effective configuration of a first generation, or all errors.
pub(super) fn check(source: &Source) -> End {
    let origin = Origin::of_this_process();
    let env = |name: &str| origin.variable(name);
    match read(source, &Generation { number: 1, slot: Slot::A, started: SystemTime::now(), env: &env }) {
        Ok(plan) => {
            let name = match source {
                Source::File(path) => path.display().to_string(),
                Source::Flags(_) => "the command line".to_owned(),
            };
            let text = format!("# {name}: valid; with all defaults, as generation 1 would run it:\n{plan}");
            match std::io::stdout().write_all(text.as_bytes()) {
                Ok(()) => End::Exited(exit::OK),
                Err(_) => End::Exited(exit::FAILURE),
            }
        }
        Err(errors) => {
            complain(
                &no_configuration(source).unwrap_or_else(|| format!("the configuration is broken\n{errors}")),
            );
            End::Exited(exit::CONFIG)
        }
    }
}
