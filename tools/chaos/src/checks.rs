//! Checks the invariants from outside, when everything is at rest.

use std::collections::HashSet;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use testkit::Process;
use testkit::pidfile::{Content, Entry};

use crate::actions::Done;
use crate::clients;
use crate::invariants;
use crate::log::LogEvent;
use crate::manner::{Manner, TWICE};
use crate::next_config::{Bad, Expected, ExpectedExit, Next};
use crate::parent::Above;
use crate::plan::{Act, Binary, Flavour, Part, PlannedStep, Role, Side};
use crate::report::Halt;
use crate::world::{Service, World, descriptors, text};

/// The state before a step.
pub(crate) struct Before {
    active: Process,
    child: Process,
    mark: usize,
    ended: HashSet<Process>,
    /// The number of contents that the pidfile had so far.
    contents: usize,
}

impl Before {
    /// The psflip that was active.
    pub(crate) fn active(&self) -> Process {
        self.active
    }

    /// The position in the log.
    pub(crate) fn mark(&self) -> usize {
        self.mark
    }

    pub(crate) fn of(world: &mut World) -> Result<Self, Halt> {
        world.read_log();
        let ended = statuses(world).into_iter().map(|(process, _)| process).collect();
        let service = world.service()?;
        let contents = service.psflip.history().entries().len();
        Ok(Self { active: service.active, child: service.child, mark: service.log.mark(), ended, contents })
    }
}

/// What must hold after a step; `now` is the remaining psflip.
pub(crate) fn check(
    world: &mut World,
    step: &PlannedStep,
    done: &Done,
    before: &Before,
    now: Option<Process>,
) -> Result<(), Halt> {
    no_panic(world)?;
    lives(world, step, done, before, now)?;
    alone(world)?;
    pidfile(world, done, before, now)?;
    if let Some(active) = now {
        child(world, before, active)?;
        world.operators.hush();
        no_leak(world, active)?;
        invariants::check(world, done, before, active)?;
        world.operators.speak();
    }
    clients::check(world, step, done, before, now)?;
    no_zombie(world)?;
    no_file(world)?;
    answers(world, done, before)?;
    one_child_each(world, before)?;
    ends(world, step, done, before, now)?;
    losses(world)
}

/// Checks the requests that clients lost since the last call, and the wrong answers that operators got.
pub(crate) fn losses(world: &mut World) -> Result<(), Halt> {
    if let Some(complaint) = world.operators.judge() {
        return violation(format!("the control socket (docs/control.md): {complaint}"));
    }
    let (allowed, forbidden) = world.load.judge();
    world.tally.losses += allowed.len() as u64;
    let Some(first) = forbidden.first() else { return Ok(()) };
    let at = |moment| world.timeline.at(moment);
    violation(format!(
        "U2, U8: {} requests failed that had to be answered; the first from {:.4} to {:.4}: {}",
        forbidden.len(),
        at(first.begun),
        at(first.ended),
        first.error
    ))
}

fn violation(what: String) -> Result<(), Halt> {
    Err(Halt::Violation(what))
}

fn no_panic(world: &mut World) -> Result<(), Halt> {
    match world.service()?.log.panics() {
        [] => Ok(()),
        lines => violation(format!("X2: a program panicked: {}", lines.join("\n  "))),
    }
}

/// Which generation must be alive after the step.
fn lives(
    world: &World,
    step: &PlannedStep,
    done: &Done,
    before: &Before,
    now: Option<Process>,
) -> Result<(), Halt> {
    let limited = step.acts.iter().any(|(_, act)| matches!(act, Act::LimitFiles(_)));
    let only_limited =
        limited && step.acts.iter().all(|(_, act)| matches!(act, Act::LimitFiles(_) | Act::Request(_)));
    let Some(active) = now else {
        // Without descriptors, the old child can't be started again (E3).
        if !done.rough || only_limited && world.manner != Manner::Alone {
            return violation(
                "U8: the service has exited, and no action of this step allows that".to_owned(),
            );
        }
        if done.killed_above {
            return Ok(());
        }
        let good = matches!(step.next, Next::Good(_)) && !done.rewritten && step.binary == Binary::Copy;
        if let [(part, true)] = done.killed_old.as_slice()
            && good
            && done.hits == 1
        {
            let what = Role(Side::Old, *part);
            return violation(format!(
                "F7, F8, F9: a good new generation was there when the {what} was killed, and did not go on alone"
            ));
        }
        let only_new = step.acts.iter().all(|(_, act)| act.spares_the_old());
        // An operator may have kept it: then it is the service that was disturbed.
        let is_kept = step.next == Next::Bad(Bad::SickInBake) && done.either;
        if only_new && matches!(step.next, Next::Bad(_)) && !done.rewritten && !is_kept {
            return violation(
                "F6, U8: only the new generation was disturbed, and the old one has exited".to_owned(),
            );
        }
        return Ok(());
    };
    if done.rewritten || limited {
        return Ok(());
    }
    let expected = match step.binary {
        Binary::Copy | Binary::Wrapper => step.next.expected(),
        _ => Expected::Fails(ExpectedExit::Code(0)),
    };
    // An operator may have kept it, and if the old generation is killed, it takes over at once (B4).
    let may_stay = step.next == Next::Bad(Bad::SickInBake) && (done.either || done.rough);
    match expected {
        Expected::Fails(_) if active != before.active && !may_stay => {
            violation(format!("U8: psflip {active} is active after an upgrade that can't succeed"))
        }
        Expected::Promoted if active == before.active && !done.rough && done.asked && !done.either => {
            violation(format!(
                "U3: an upgrade to a good generation was requested, and psflip {active} is still active"
            ))
        }
        _ => Ok(()),
    }
}

/// Contracts P1 and P2.
fn pidfile(world: &mut World, done: &Done, before: &Before, now: Option<Process>) -> Result<(), Halt> {
    let said = text(&world.sandbox.path("psflip.pid"));
    let service = world.service()?;
    let removed = service.pidfile_removed;
    let contents = service.psflip.history().entries();
    let is_pid = |entry: &&Entry| matches!(entry.content, Content::Pid(_));
    if !done.rough
        && !removed
        && let Some(odd) = contents.iter().skip(before.contents).find(|entry| !is_pid(entry))
    {
        return violation(format!("P1: in between the pidfile was {:?}", odd.content));
    }
    match now {
        Some(active) if said == active.to_string() || (said.is_empty() && removed) => Ok(()),
        Some(active) => violation(format!("P1: psflip {active} is active, and the pidfile has `{said}`")),
        None if said.is_empty() => Ok(()),
        // A killed psflip can't remove it.
        None if world.killed.iter().any(|killed| killed.to_string() == said) => Ok(()),
        // `psflip watch` kills a psflip after its grace time; that one can't remove it, either.
        None if world.above == Above::Watch && done.rough => Ok(()),
        None => violation(format!("P2: no process is left, and the pidfile has `{said}`")),
    }
}

/// Contract U8: a psflip has one child during its whole life.
fn child(world: &mut World, before: &Before, active: Process) -> Result<(), Halt> {
    let Some(found) = world.find(active, Role(Side::Old, Part::Child)) else {
        return violation(format!("U8: the active psflip {active} has no child"));
    };
    let service = world.service()?;
    let again = service.log.since(before.mark).any(|entry| entry.event == LogEvent::ServesAgain);
    if active == before.active && found != before.child && !again {
        return violation(format!("U8: psflip {active} had the child {}, and has {found} now", before.child));
    }
    (service.active, service.child) = (active, found);
    Ok(())
}

fn no_leak(world: &mut World, active: Process) -> Result<(), Halt> {
    let mut usual = world.service()?.descriptors.clone();
    // A generation without a `[[listen]]` in its configuration has closed its predecessor's.
    let serves = world.service()?.child.exe().is_ok_and(|exe| exe.ends_with("http-server"));
    if world.flavour == Flavour::Inherited
        && !serves
        && let Some(sockets) = usual.get_mut("socket")
    {
        *sockets -= 1;
    }
    // A generation without a `[[proxy]]` has no relay: no counts, no link, no pidfd and no listening socket.
    if world.flavour == Flavour::Proxied && !serves {
        usual.retain(|kind, _| !kind.contains("counts"));
        for (kind, fewer) in [("socket", 2), ("anon_inode:[pidfd]", 1)] {
            if let Some(count) = usual.get_mut(kind) {
                *count -= fewer;
            }
        }
    }
    let same = world.wait(Duration::from_secs(2), |_| Ok((descriptors(active) == usual).then_some(())))?;
    match same {
        Some(()) => Ok(()),
        None => violation(format!(
            "F10: psflip {active} has other descriptors open than an idle psflip: {:?} instead of {usual:?}",
            descriptors(active)
        )),
    }
}

/// Contracts C9 and U10.
fn no_zombie(world: &mut World) -> Result<(), Halt> {
    // The zombies of a child are its own: a child that reaps nothing keeps a worker that chaos has killed.
    let of_psflip = |zombie: &Process| {
        let parent = zombie.parent().and_then(|parent| parent.exe().ok());
        parent.is_none_or(|exe| exe.to_string_lossy().contains("/psflip"))
    };
    let zombies =
        |world: &World| -> Vec<Process> { world.sandbox.zombies().into_iter().filter(of_psflip).collect() };
    let free =
        world.wait(Duration::from_secs(3), |world| Ok(Some(()).filter(|()| zombies(world).is_empty())))?;
    if free.is_some() { Ok(()) } else { violation(format!("C9: zombies remain: {:?}", zombies(world))) }
}

/// Contracts F10 and P4: only a killed psflip leaves temporary files of its pidfile behind.
fn no_file(world: &mut World) -> Result<(), Halt> {
    let Ok(entries) = std::fs::read_dir(world.sandbox.dir()) else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(".psflip.pid.") else { continue };
        if !world.killed.iter().any(|killed| killed.to_string() == pid) {
            return violation(format!("F10: `{name}` is left, though psflip {pid} was not killed"));
        }
    }
    Ok(())
}

/// Contract U7: each request gets a result.
fn answers(world: &mut World, done: &Done, before: &Before) -> Result<(), Halt> {
    let killed: HashSet<u32> = world.killed.iter().map(Process::pid).collect();
    let Service { log, .. } = world.service()?;
    for asked in log.since(before.mark).filter(|entry| entry.event == LogEvent::Requested && !done.rough) {
        let answered = |event| matches!(event, LogEvent::Started | LogEvent::Refused);
        if !log.since(asked.line).any(|entry| answered(entry.event)) {
            return violation(format!("U7: a request was neither carried out nor refused: {}", asked.text));
        }
    }
    if let Some(complaint) = log.complaint_since(before.mark).filter(|_| !done.rough) {
        return violation(format!("the system had no fault, and psflip logs: {complaint}"));
    }
    for started in log.since(before.mark).filter(|entry| entry.event == LogEvent::Started) {
        let ended = |event: LogEvent| event.is_failure() || event == LogEvent::Superseded;
        let mut later = log.since(started.line);
        if !later.any(|entry| entry.pid == started.pid && ended(entry.event))
            && !killed.contains(&started.pid)
        {
            return violation(format!("U8: an upgrade neither succeeded nor failed: {}", started.text));
        }
    }
    for failed in log.since(before.mark).filter(|entry| entry.event.is_failure()) {
        if !failed.text.contains("reason=") || failed.text.contains("reason=\"\"") {
            return violation(format!("U8: an upgrade failed without a reason: {}", failed.text));
        }
    }
    Ok(())
}

/// Contract E2: each child holds a lock, which its descendants inherit.
fn alone(world: &World) -> Result<(), Halt> {
    match text(&world.sandbox.path(TWICE)).as_str() {
        "" => Ok(()),
        who => violation(format!("E2: a child started while another one ran: {who}")),
    }
}

/// Contracts U7 and E3, as far as the log shows it.
fn one_child_each(world: &mut World, before: &Before) -> Result<(), Halt> {
    let mut seen = HashSet::new();
    let is_alone = world.manner == Manner::Alone;
    let Service { log, .. } = world.service()?;
    for entry in log.since(before.mark) {
        if is_alone && entry.event == LogEvent::Failed {
            seen.remove(&entry.pid); // it may start its child again
        }
        if entry.event == LogEvent::ChildStarted && !seen.insert(entry.pid) {
            return violation(format!("U7: a second child of one psflip: {}", entry.text));
        }
    }
    Ok(())
}

/// Contracts C5 and C6: the exit status of each psflip that has exited since.
fn ends(
    world: &mut World,
    step: &PlannedStep,
    done: &Done,
    before: &Before,
    now: Option<Process>,
) -> Result<(), Halt> {
    let statuses = statuses(world);
    let killed = world.killed.clone();
    let Service { log, .. } = world.service()?;
    for (process, status) in statuses.iter().filter(|(process, _)| !killed.contains(process)) {
        if log.count(process.pid(), LogEvent::Superseded) > 0 && !status.success() {
            return violation(format!("U5: psflip {process} was superseded, and exited with {status}"));
        }
    }
    let is_new = |process: &Process| !before.ended.contains(process);
    if let Expected::Fails(wanted) = step.next.expected()
        && step.is_undisturbed()
        && step.binary == Binary::Copy
    {
        let wrong = statuses.iter().find(|(process, status)| is_new(process) && !wanted.is(*status));
        if let Some((process, status)) = wrong {
            return violation(format!("C6: psflip {process} exited with {status} instead of {wanted:?}"));
        }
    }
    // If the child was killed at rest, and nothing else happened, psflip must exit as the child did.
    if let [(Part::Child | Part::Group | Part::Keeper, false)] = done.killed_old.as_slice()
        && done.hits == 1
        && !(done.asked || done.perhaps_asked)
        && now.is_none()
    {
        let seen = world.above_process().unwrap_or(before.active);
        let relayed = statuses.iter().find(|(process, _)| *process == seen).map(|(_, status)| *status);
        if relayed.and_then(|status| status.signal()) != Some(9) {
            return violation(format!(
                "C5: the child was killed, and psflip {} exited with {relayed:?}",
                before.active
            ));
        }
    }
    Ok(())
}

/// The exit statuses of the processes that were started by, or reparented to, this process.
pub(crate) fn statuses(world: &mut World) -> Vec<(Process, ExitStatus)> {
    let mut statuses = world.sandbox.statuses();
    if let Some(Service { psflip, .. }) = &world.service
        && let Some(status) = psflip.program().try_status()
    {
        statuses.push((psflip.program().first(), status));
    }
    statuses
}

impl ExpectedExit {
    pub(crate) fn is(self, status: ExitStatus) -> bool {
        match self {
            Self::Code(code) => status.code() == Some(i32::from(code)),
            Self::Segv => status.signal() == Some(11),
        }
    }
}
