//! `psflip check`: prints the effective configuration with warnings, or every error.

mod bake;
mod output;
mod overlap;
mod paths;
mod proxies;
mod recycle;
mod trust;
mod variables;
mod warnings;

use std::io::Write as _;
use std::time::SystemTime;

use clap::Args;

use super::anchor_args::AnchorArgs;
use super::flags::Source;
use super::{complain, document, no_configuration, upstreams_file};
use crate::config::{Document, Errors, Generation, Plan, Slot};
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::process::invocation::Invocation;

/// The end of the help of `psflip check`.
pub(super) const EXAMPLES: &str = "\
Examples:
  psflip check -c app.toml
  psflip check -c app.toml --strict             # in a deployment
  psflip check --listen tcp://0.0.0.0:8080 -- ./server > app.toml

Exit codes:
    0  the configuration is valid
    1  there is a warning (with --strict only)
    2  wrong usage
   78  the configuration is invalid";

#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    anchor: AnchorArgs,
    /// Exit with status 1 if there is a warning
    #[arg(long)]
    strict: bool,
}

/// Prints the effective configuration of the first generation and the warnings, or all errors.
pub(super) fn check(args: &CheckArgs) -> ExitStatus {
    let origin = Invocation::of_this_process();
    match read(&args.source, &origin) {
        Ok((document, plan, next)) => {
            let text = format!(
                "{}# {}: valid; with all defaults, as generation 1 would run it:\n{}{plan}",
                as_file(&document).unwrap_or_default(),
                document.name(),
                args.anchor.prediction()
            );
            if std::io::stdout().write_all(text.as_bytes()).is_err() {
                return ExitStatus::Exited(exit::FAILURE);
            }
            let warnings = warnings::of(&plan, next.as_ref(), &document, &origin.program.envp);
            match document.locate(warnings) {
                Some(warnings) => {
                    // standard error may be closed
                    let _ = std::io::stderr().write_all(format!("{warnings}\n").as_bytes());
                    ExitStatus::Exited(if args.strict { exit::WARNED } else { exit::OK })
                }
                None => ExitStatus::Exited(exit::OK),
            }
        }
        Err(errors) => {
            complain(&no_configuration(&args.source).unwrap_or_else(|| {
                let hint = upstreams_file(&args.source);
                format!("the configuration is invalid\n{errors}{hint}")
            }));
            ExitStatus::Exited(exit::CONFIG)
        }
    }
}

/// The file that stands for these flags, as a comment: in the plan, templates are already rendered.
fn as_file(document: &Document) -> Option<String> {
    let text = document.text_of_flags().filter(|_| document.has_templates())?;
    let lines: String = text.lines().map(|line| format!("#   {line}\n")).collect();
    Some(format!("# as a file, with its templates:\n{lines}\n"))
}

/// Warnings of likely outages, one line each. They are logged at the start of a service, and when its
/// configuration has changed. `next` gives the plan of the next generation from the same file; it is called
/// only if that plan may differ.
pub(super) fn likely_outages(
    plan: &Plan,
    document: &Document,
    next: impl FnOnce() -> Option<Plan>,
) -> Vec<String> {
    let next = if document.has_templates() { next() } else { Some(plan.clone()) };
    let warnings = warnings::of_outages(plan, next.as_ref(), document);
    warnings.into_iter().map(|warning| format!("{}; {}", warning.message, warning.help)).collect()
}

/// The plan of the first generation, and that of the second if nothing changes: a template may fail there.
fn read(source: &Source, origin: &Invocation) -> Result<(Document, Plan, Option<Plan>), Errors> {
    let env = |name: &str| origin.raw_variable(name);
    let first = Generation { number: 1, slot: Slot::A, started: SystemTime::now(), env: &env };
    let second = Generation { number: 2, slot: Slot::B, ..first };
    let document = document(source)?;
    let plan = document.plan(&first)?;
    let next = document.plan(&second).ok();
    Ok((document, plan, next))
}
