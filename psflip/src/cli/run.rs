//! `psflip run`: one generation, first or successor.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::anchor_args::AnchorArgs;
use super::check::likely_outages;
use super::flags::Source;
use super::{complain, document, no_configuration, upstreams_file};
use crate::anchor::AnchorLink;
use crate::anchor::{self, Choice, ProcessKind};
use crate::changes::Changes;
use crate::config::{self, Generation, Plan, Slot};
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::handover::predecessor::{self, Inheritance, Met, PredecessorLink};
use crate::handover::{Begun, Hello, ToPredecessor, message};
use crate::manager::{pidfile, systemd};
use crate::process::invocation::{FileStamp, Invocation};
use crate::runtime::{self, Identity, Predecessor};
use crate::secrets;
use crate::sys::{early, fd, kernel, tree};
use crate::text;
use crate::traffic::activation::Activation;

/// The end of the help of `psflip run`.
pub(super) const EXAMPLES: &str = "\
Without a file, in place of start_server:
  start_server --port 8080 --pid-file app.pid --kill-old-delay 10 -- ./server
  psflip run --listen tcp://0.0.0.0:8080,as=server_starter --pidfile app.pid \\
    --shutdown-delay 10s -- ./server

In place of spawn-fcgi (psflip stays in the foreground):
  spawn-fcgi -n -s /run/app.sock -M 0660 -P /run/app.pid -- ./app.fcgi
  psflip run --listen unix:///run/app.sock,as=stdin,mode=0660 --pidfile /run/app.pid -- ./app.fcgi

A server that opens its port itself, the one in PORT, behind psflip's proxy:
  psflip run --proxy http://0.0.0.0:8080 --healthcheck-http /up --pidfile app.pid -- node server.js

The same behind a proxy of your own, with two ports that alternate between generations:
  psflip run --env 'PORT={{ ab(\"8080\", \"8081\") }}' --pidfile app.pid \\
    --healthcheck-http 'http://127.0.0.1:{{ ab(\"8080\", \"8081\") }}/up' -- ./server

All values may be templates, the command too. `psflip check` takes the same arguments and prints the
equivalent configuration file. An upgrade starts the new generation with the same arguments.
See docs/configuration.md for the key that each flag sets.";

/// The arguments of `psflip run`.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) source: Source,
    #[command(flatten)]
    pub(super) anchor: AnchorArgs,
    /// Upgrade when these files change, or files in these directories: for development. Ignored are .git,
    /// target, node_modules and what .gitignore names
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(super) watch: Vec<PathBuf>,
}

/// Why a generation can't start.
struct Refusal {
    code: u8,
    /// One line for the predecessor.
    reason: String,
    /// The text that is printed.
    message: String,
}

impl Refusal {
    fn failure(reason: String) -> Self {
        Self { code: exit::FAILURE, message: reason.clone(), reason }
    }
}

/// Runs a generation, or an anchor, until its exit.
pub(super) fn run(Args { source, anchor, watch }: &Args) -> ExitStatus {
    let sees_processes = tree::look_at_proc(); // before the anchor is created, which needs it, too
    let origin = Invocation::of_this_process();
    let (link, hello, mut inheritance) = match origin.handover.as_deref().map(predecessor::meet).transpose() {
        Ok(Some(Met { link, hello, inheritance })) => (Some(link), Some(hello), inheritance),
        Ok(None) => (None, None, Inheritance::default()),
        Err((error, link)) => return refuse(&Refusal::failure(error.to_string()), link.as_ref()),
    };
    if let Some(shortcoming) = kernel::shortcoming() {
        return refuse(&Refusal::failure(shortcoming), link.as_ref());
    }
    let choice = anchor::choose(anchor.mode(), &origin.program.envp);
    let anchor = match anchor::begin(&origin, choice) {
        Ok(ProcessKind::Generation(anchor)) => anchor,
        Ok(ProcessKind::Anchor(end)) => return end,
        Err(error) => {
            let reason = format!("can't run below an anchor: {error}");
            return refuse(&Refusal::failure(reason), link.as_ref());
        }
    };
    // The process that passed sockets to psflip knows only the process that it started.
    let started = anchor.as_ref().map_or_else(std::process::id, AnchorLink::anchor);
    let mut activation = match &hello {
        None => Activation::of(&origin.program.envp, Some(started), fd::is_inherited),
        Some(hello) if hello.activated => Activation::of(&origin.program.envp, None, fd::is_inherited),
        Some(_) => Activation::default(),
    };
    if hello.is_none() {
        inheritance.listeners = activation.take_stored();
    }
    let mut identity = Identity {
        generation: hello.as_ref().map_or(1, |hello| hello.generation),
        slot: hello.as_ref().map_or(Slot::A, |hello| hello.slot),
        signals: hello.as_ref().map_or_else(early::inherited_signals, |hello| hello.signals),
        origin,
        activation,
        begun: hello.as_ref().map_or_else(Begun::first, |hello| hello.upgrade.clone()),
        config: match source {
            Source::File(path) => Some(FileStamp::look(path)),
            Source::Flags(_) => None,
        },
        config_text: None,
        env_files: Vec::new(),
        warnings: Vec::new(),
    };
    let prepared = prepare(source, &identity, hello.as_ref());
    let prepared = prepared.and_then(|prepared| Ok((watched(watch, &prepared.plan)?, prepared)));
    let (changes, plan) = match prepared {
        Ok((changes, Prepared { plan, env_files, warnings, text })) => {
            identity.warnings = warnings;
            identity.config_text = text;
            identity.env_files = env_files;
            (changes, plan)
        }
        Err(refusal) => {
            if link.is_none() {
                let status = format!("failed: {}", refusal.reason);
                let message = systemd::ManagerMessage::new().status(&status).exit_status(refusal.code);
                systemd::send(identity.origin.variable("NOTIFY_SOCKET"), message);
            }
            return refuse(&refusal, link.as_ref());
        }
    };
    crate::log::start(&plan, identity.generation);
    if hello.is_none() {
        log_choice(choice, anchor.as_ref());
    }
    if !sees_processes {
        tracing::warn!(
            "/proc is not mounted, or shows another PID namespace: leftover processes below living ones get no stop signal before \
             SIGKILL, READY=1 counts from the child and its orphans alone, and an answer of the old child on a Unix socket passes for \
             the new one's; mount proc on /proc"
        );
    }
    let predecessor = link.zip(hello).map(|(link, hello)| {
        let Hello { generation, pid, pidfile, bakes, exclusive, .. } = hello;
        let generation = generation.saturating_sub(1);
        Predecessor { link, generation, pid, pidfile, bakes, exclusive, progress: None }
    });
    match runtime::live(plan, identity, predecessor, anchor, inheritance, changes) {
        Ok(outcome) => exit::exit_status_for(outcome),
        Err(error) => {
            tracing::error!(%error, "psflip can't go on");
            ExitStatus::Exited(exit::FAILURE)
        }
    }
}

/// Watches the files of `--watch`, before the child reads them.
fn watched(paths: &[PathBuf], plan: &Plan) -> Result<Option<Box<Changes>>, Refusal> {
    if paths.is_empty() {
        return Ok(None);
    }
    let own = plan.pidfile.iter().cloned();
    let own = own.chain(plan.control.path(plan.pidfile.as_deref()));
    let own = own.chain(plan.switch.iter().map(|link| link.path.clone()));
    let outputs = plan.output.targets().into_iter().filter_map(|(_, target)| target.file());
    let own = own.chain(outputs.map(Path::to_path_buf)).chain(plan.log.file.clone());
    let changes = Changes::watch(paths, own).map_err(Refusal::failure)?;
    Ok(Some(Box::new(changes)))
}

/// Logs whether there is an anchor, and why. A choice of the command line is logged as debug only.
fn log_choice(choice: Choice, anchor: Option<&AnchorLink>) {
    let reason = choice.reason();
    match anchor.map(AnchorLink::anchor) {
        Some(anchor) if choice.is_default() => {
            tracing::info!(anchor, reason, "running below an anchor, whose PID does not change");
        }
        Some(anchor) => tracing::debug!(anchor, reason, "running below an anchor, whose PID does not change"),
        None if choice == Choice::DeclinedAtRisk => tracing::warn!(
            reason,
            "running without an anchor, so the service will stop at the first upgrade: start psflip without --no-anchor"
        ),
        None if choice.is_default() => {
            tracing::info!(reason, "running without an anchor: every upgrade changes the main PID");
        }
        None => tracing::debug!(reason, "running without an anchor: every upgrade changes the main PID"),
    }
}

/// The files of `env_file` and `env_dir`, and the directories of the latter: a file that is overwritten does
/// not change its directory.
fn env_files(plan: &Plan) -> Vec<FileStamp> {
    let mut files = Vec::new();
    for source in &plan.env_sources {
        files.push(FileStamp::look(&source.path));
        // A directory that can't be listed any more has changed, which its own stamp says.
        let entries = source.is_dir.then(|| std::fs::read_dir(&source.path)).into_iter().flatten().flatten();
        let mut inside: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        inside.sort();
        files.extend(inside.iter().map(|path| FileStamp::look(path)));
    }
    files
}

/// The longest text of a configuration that is kept for `psflip status --running-config`. It fits into what
/// may wait for a client.
const LONGEST_TEXT: usize = 64 << 10;

/// What can be found before anything is started.
struct Prepared {
    plan: Plan,
    /// The files of its variables, as they were before they were read.
    env_files: Vec<FileStamp>,
    /// Likely outages.
    warnings: Vec<String>,
    /// The text of the configuration.
    text: Option<Box<str>>,
}

/// Finds everything that can be found before anything is started.
fn prepare(source: &Source, identity: &Identity, hello: Option<&Hello>) -> Result<Prepared, Refusal> {
    let env = |name: &str| identity.origin.raw_variable(name);
    let Identity { generation, slot, .. } = *identity;
    let generation = Generation { number: generation, slot, started: SystemTime::now(), env: &env };
    let invalid = |errors: config::Errors| Refusal {
        code: exit::CONFIG,
        reason: secrets::hide(&format!(
            "the configuration is invalid: {}{}",
            errors.to_string().lines().next().unwrap_or_default(),
            removed_directory(source).unwrap_or_default()
        ))
        .into_owned(),
        message: no_configuration(source).unwrap_or_else(|| {
            let hint = upstreams_file(source);
            let removed = removed_directory(source).unwrap_or_default();
            format!("the configuration is invalid; nothing was started{removed}\n{errors}{hint}")
        }),
    };
    let document = document(source).map_err(invalid)?;
    let mut plan = document.plan(&generation).map_err(invalid)?;
    let env_files = env_files(&plan);
    if !env_files.is_empty() {
        // Read again: a change since the look counts as one, and the child has none that was not seen.
        plan = document.plan(&generation).map_err(invalid)?;
    }
    if let Some(pidfile) = &plan.pidfile {
        let held = hello.and_then(|hello| hello.pidfile.clone()) == Some(text::lossy(pidfile));
        let from = if held { pidfile::TakenFrom::OtherGeneration } else { pidfile::TakenFrom::NoProcess };
        pidfile::check(pidfile, from, plan.control.path(Some(pidfile)).as_deref())
            .map_err(|error| Refusal::failure(error.to_string()))?;
    }
    if let Some(file) = &plan.log.file {
        crate::log::check_file(file).map_err(Refusal::failure)?;
    }
    // A version that can't give way would keep its child running beside the new one (contract E6).
    if let Some(hello) = hello.filter(|hello| !plan.upgrade.overlap && hello.protocol < message::GIVES_WAY) {
        return Err(Refusal::failure(format!(
            "the running psflip {} can't stop its child before the new one starts (`upgrade.overlap = false`); restart the service once instead of upgrading it",
            hello.version
        )));
    }
    // Warn once for each version of the configuration, not at every upgrade.
    let stamp = identity.config.as_ref().and_then(FileStamp::stamp);
    let warnings = if hello.is_some_and(|hello| hello.config == stamp) {
        Vec::new()
    } else {
        let next = Generation { number: generation.number + 1, slot: slot.other(), ..generation };
        likely_outages(&plan, &document, || document.plan(&next).ok())
    };
    let text = Some(document.text()).filter(|text| text.len() <= LONGEST_TEXT).map(Into::into);
    Ok(Prepared { plan, env_files, warnings, text })
}

/// A hint that the directory was removed in which psflip looks up relative paths: psflip never leaves its
/// start directory.
fn removed_directory(source: &Source) -> Option<String> {
    let Source::File(path) = source else { return None };
    let here = std::fs::read_link("/proc/self/cwd").ok()?;
    let removed = here.to_str()?.strip_suffix(" (deleted)")?;
    path.is_relative().then(|| {
        format!("; the directory `{removed}`, in which psflip was started, was removed: start it again with an absolute path")
    })
}

fn refuse(refusal: &Refusal, link: Option<&PredecessorLink>) -> ExitStatus {
    complain(&refusal.message);
    if let Some(link) = link {
        // The predecessor may be gone; then the message has no receiver.
        let Refusal { code, reason, .. } = refusal;
        let failed = ToPredecessor::Failed { code: *code, child_code: None, reason: reason.clone() };
        let _ = link.send(&failed);
    }
    ExitStatus::Exited(refusal.code)
}
