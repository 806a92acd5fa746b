//! The child's process tree: none of it survives its generation (C7, C8), and no zombie stays (C9, U10).

pub(crate) mod hidden;
mod kernel;
mod large;
pub(crate) mod reaping;
pub(crate) mod stopped;
mod survivors;
mod unkillable;

use testkit::{Deadline, Process, Psflip, PsflipBuilder, Sandbox, Stream, fixture, wait_until};

use crate::service::AT_ONCE;

/// A psflip whose child has workers and orphans: `forks-workers` with these arguments.
fn forks_workers(sandbox: &Sandbox, args: &[&str], config: &str) -> PsflipBuilder {
    let program = fixture("forks-workers").display().to_string();
    let cmd = std::iter::once(program.as_str()).chain(args.iter().copied());
    sandbox.psflip().cmd(cmd).config(format!("{config}{AT_ONCE}"))
}

/// All processes that this generation's child has started, and the child itself, once they are set up. That
/// is the keeper's tree without the keeper.
#[track_caller]
fn family(psflip: &Psflip, generation: usize) -> Vec<Process> {
    psflip.output().wait_for(Deadline::default(), "the child with all its workers", |lines| {
        let ready = format!("name=gen{generation}");
        lines.iter().any(|line| line.stream == Stream::Stdout && line.text.ends_with(&ready)).then_some(())
    });
    let keeper = psflip.child().parent().unwrap();
    let family: Vec<_> = keeper.tree().into_iter().skip(1).collect();
    assert!(family.iter().all(Process::is_alive), "{family:?}");
    family
}

/// Waits until all of these are gone.
#[track_caller]
fn wait_all_gone(what: &str, family: &[Process]) {
    wait_until(Deadline::default(), format!("{what} to exit: {family:?}"), || {
        family.iter().all(|process| !process.is_alive()).then_some(())
    });
}

/// Whether this is root, which may change credentials and create namespaces. If not, the caller skips the
/// test.
#[track_caller]
pub(crate) fn is_root() -> bool {
    testkit::need_root()
}
