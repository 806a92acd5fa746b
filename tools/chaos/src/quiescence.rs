//! Detects the end of a step: nothing moves any more. It observes processes, their pending signals, and the
//! log.

use std::time::{Duration, Instant};

use testkit::Process;
use testkit::process::Stat;

use crate::log::LogEvent;
use crate::parent::Above;
use crate::plan::{Part, Role, Side};
use crate::report::Halt;
use crate::world::{Service, World, is_idle};

/// Longer than any step takes: a successor that gives up may need its grace time.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long nothing must change.
const CALM: Duration = Duration::from_millis(15);
/// How long processes may outlive their psflip. Contract C7 says milliseconds; a busy host needs more.
const LEFTOVERS: Duration = Duration::from_secs(5);
/// `psflip watch` waits for another process to become the service, then gives the rest its grace time; see
/// round.rs.
const LEFTOVERS_OF_WATCH: Duration = Duration::from_secs(12);

/// Waits until nothing moves: returns the one psflip that is left, or `None` if everything has exited.
pub(crate) fn settle(world: &mut World) -> Result<Option<Process>, Halt> {
    world.let_pass(world.frozen_for())?;
    world.thaw(true);
    let mut why = String::new();
    let mut calm: Option<(Option<Process>, usize, Instant)> = None;
    let mut alone: Option<Instant> = None;
    let found = world.wait(STEP_TIMEOUT, |world| {
        world.read_log();
        let mark = world.service()?.log.mark();
        let psflips = world.psflips();
        no_third(world, &psflips)?;
        let now = match look(world, &psflips) {
            Ok(now) => now,
            Err(reason) => {
                let limit = if world.above == Above::Watch { LEFTOVERS_OF_WATCH } else { LEFTOVERS };
                let is_over = psflips.is_empty() || !above_lives(world);
                if is_over && alone.get_or_insert_with(Instant::now).elapsed() > limit {
                    return Err(Halt::Violation(format!("C7, C8: {reason}")));
                }
                (why, calm) = (reason, None);
                return Ok(None);
            }
        };
        match calm {
            Some((who, at, since)) if (who, at) == (now, mark) => {
                Ok((since.elapsed() >= CALM).then_some(now))
            }
            _ => {
                calm = Some((now, mark, Instant::now()));
                Ok(None)
            }
        }
    })?;
    found.ok_or_else(|| {
        Halt::Violation(format!("the service did not become idle within {STEP_TIMEOUT:?}: {why}"))
    })
}

/// Contracts U7 and D3: never more than two generations, or than may drain. The list comes from several looks, so check all of them
/// again: those still alive were alive at the same time.
fn no_third(world: &World, psflips: &[Stat]) -> Result<(), Halt> {
    let most = world.manner.most_generations();
    let alive: Vec<String> = psflips
        .iter()
        .filter(|stat| psflips.len() > most && stat.process.is_alive())
        .map(|stat| stat.process.to_string())
        .collect();
    if alive.len() > most && world.service.is_some() {
        let all = alive.join(", ");
        return Err(Halt::Violation(format!("U7, D3: more than {most} generations at once: {all}")));
    }
    Ok(())
}

/// Whether the process above is alive, if there has to be one.
fn above_lives(world: &World) -> bool {
    world.above_process().is_none_or(|above| above.is_alive())
}

fn look(world: &World, psflips: &[Stat]) -> Result<Option<Process>, String> {
    let now = Instant::now();
    let mut doomed = world.doomed.iter().filter(|(process, limit)| now < *limit && process.is_alive());
    if let Some((process, _)) = doomed.next() {
        return Err(format!("process {process} was requested to exit, or killed, and still exists"));
    }
    match psflips {
        [] => {
            let left = world.sandbox.processes();
            if left.is_empty() {
                Ok(None)
            } else {
                Err(format!("every psflip has exited, but {} are left", names(&left)))
            }
        }
        [only] => {
            let Some(Service { log, .. }) = &world.service else {
                return Err("nothing was started".to_owned());
            };
            let psflip = only.process;
            let pid = psflip.pid();
            let count = |event| log.count(pid, event);
            if !above_lives(world) {
                return Err(format!("the parent has exited, but psflip {pid} is left"));
            }
            let above: Vec<Process> = world.above_process().into_iter().chain(world.above_keeper()).collect();
            if let Some(busy) = above.iter().chain([&psflip]).find(|process| !is_idle(**process)) {
                return Err(format!("process {busy} is busy"));
            }
            // Its log lines may not have been read yet.
            let heard = |mark, event| log.since(mark).any(|entry| entry.pid == pid && entry.event == event);
            let mut sent = world.sent.iter().filter(|(target, ..)| *target == psflip);
            if let Some((_, _, event)) = sent.find(|(_, mark, event)| !heard(*mark, *event)) {
                return Err(format!("psflip {pid} got a signal, and the log has no {event:?} about it"));
            }
            let heard = |mark, event| log.since(mark).any(|entry| entry.event == event);
            let mut sent = world.sent.iter().filter(|(target, ..)| above.contains(target));
            if let Some((_, _, event)) = sent.find(|(_, mark, event)| !heard(*mark, *event)) {
                return Err(format!("the parent got a signal, and the log has no {event:?} about it"));
            }
            if count(LogEvent::Active) == 0 {
                return Err(format!("psflip {pid} is not active yet"));
            }
            if count(LogEvent::Superseded) > 0 {
                return Err(format!("psflip {pid} is superseded, and has not exited"));
            }
            let failed = count(LogEvent::Failed) + count(LogEvent::RolledBack);
            if count(LogEvent::Started) != failed {
                return Err(format!("the upgrade that psflip {pid} started has no answer in the log"));
            }
            if count(LogEvent::ChildStarted) > count(LogEvent::ServesAgain) + 1 {
                return Err(format!("psflip {pid} has started its child again, which does not serve yet"));
            }
            if log.last(pid, LogEvent::StopRequested) > log.last(pid, LogEvent::StopIgnored) {
                return Err(format!(
                    "psflip {pid} was requested to stop, and has neither exited nor reported that the stop was ignored"
                ));
            }
            // A killed child with several threads takes time to be gone, and its leftover processes get time
            // to exit.
            let child = world.find(psflip, Role(Side::Old, Part::Child)).map(|child| child.pid());
            if child.is_none() || log.child(pid) != child {
                return Err(format!("psflip {pid} has no child any more, and has not exited"));
            }
            let tree = psflip.tree();
            let strangers: Vec<Process> = world
                .sandbox
                .processes()
                .into_iter()
                .filter(|process| !tree.contains(process) && !above.contains(process))
                .collect();
            // It may have been started after the look at the tree.
            let strangers: Vec<Process> = strangers
                .into_iter()
                .filter(|process| !psflip.tree().contains(process) && process.is_alive())
                .collect();
            if !strangers.is_empty() {
                return Err(format!(
                    "besides the active generation of psflip {pid}, {} are left",
                    names(&strangers)
                ));
            }
            Ok(Some(psflip))
        }
        several => {
            let pids: Vec<Process> = several.iter().map(|stat| stat.process).collect();
            Err(format!("several psflips: {}", names(&pids)))
        }
    }
}

/// Processes with their command lines.
fn names(processes: &[Process]) -> String {
    let name = |process: &Process| {
        let line = process.cmdline().unwrap_or_default().join(" ");
        let name = process.stat().map(|stat| stat.name).unwrap_or_default();
        format!("{process} ({name}: {line})")
    };
    processes.iter().map(name).collect::<Vec<_>>().join(", ")
}
