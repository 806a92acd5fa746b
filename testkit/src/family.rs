//! Tells a psflip, its keeper and its child apart, by executables and parents.

use std::iter;

use crate::process::{Process, Stat};

/// The child of this psflip: its keeper's oldest child (the keeper runs the same executable as psflip), or,
/// without a keeper, psflip's own oldest child that runs another executable. `None` before it is started and
/// after it was reaped.
#[must_use]
pub fn child_of(psflip: Process) -> Option<Process> {
    let exe = psflip.exe().ok()?;
    let is_psflip = |process: &Process| process.exe().is_ok_and(|other| other == exe);
    // It runs the same executable, and has no children.
    let is_relay = |process: &Process| {
        process.cmdline().is_ok_and(|arguments| arguments.first().is_some_and(|name| name == "psflip: relay"))
    };
    let is_output = |process: &Process| process.stat().is_some_and(|stat| is_output_process(&stat));
    let is_beside = |child: &Process| is_relay(child) || is_output(child);
    let children: Vec<Process> = psflip.children().into_iter().filter(|child| !is_beside(child)).collect();
    match children.iter().find(|child| is_psflip(child)) {
        // Orphans that the keeper adopted come after the child.
        Some(keeper) => keeper.children().into_iter().find(|child| !is_psflip(child)),
        None => children.into_iter().find(Process::is_alive),
    }
}

/// Whether this is a process that reads a child's output (`[output]`). It may outlive its psflip.
fn is_output_process(stat: &Stat) -> bool {
    stat.name == "psflip: output"
}

/// Whether these processes of one service include a psflip that is neither an ancestor nor a descendant of
/// this one: its predecessor or successor.
pub(crate) fn has_other_generation(members: &[Stat], psflip: Process) -> bool {
    let Ok(exe) = psflip.exe() else { return false };
    let parent_of = |pid: u32| members.iter().find(|stat| stat.process.pid() == pid).map(|stat| stat.parent);
    let is_above = |pid: u32, other: u32| {
        iter::successors(Some(other), |other| parent_of(*other)).any(|other| other == pid)
    };
    members.iter().any(|stat| {
        let (pid, own) = (stat.process.pid(), psflip.pid());
        !is_output_process(stat)
            && !is_above(pid, own)
            && !is_above(own, pid)
            && stat.process.exe().is_ok_and(|other| other == exe)
    })
}
