//! Performs the actions of a step, one after the other.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use testkit::{Deadline, Process, Signal};

use crate::clients;
use crate::log::LogEvent;
use crate::next_config::{Bad, Good, Next};
use crate::parent::{Above, Deed, Order};
use crate::plan::{Act, Moment, Part, PlannedStep, Role, Side, When};
use crate::quiescence::STEP_TIMEOUT;
use crate::report::Halt;
use crate::world::World;

/// How long to wait for a moment that may never come.
const MOMENT: Duration = Duration::from_millis(150);

/// How long a child may take to exit after SIGTERM before it counts as one that ignores it: longer than a
/// server's `--drain`.
const OBEDIENCE: Duration = Duration::from_secs(4);

/// What the actions of a step did, as far as it affects the possible results.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// An action may have stopped the service.
    pub(crate) rough: bool,
    /// The configuration or the program of the new generation was changed meanwhile.
    pub(crate) rewritten: bool,
    /// The end of a bake was requested, so an upgrade may end either way.
    pub(crate) either: bool,
    /// An upgrade was requested.
    pub(crate) asked: bool,
    /// An operator's command was started, and may have requested an upgrade or a stop.
    pub(crate) perhaps_asked: bool,
    /// The killed parts of the old generation, and whether a new psflip existed at that time.
    pub(crate) killed_old: Vec<(Part, bool)>,
    /// The process above, or its keeper, was killed.
    pub(crate) killed_above: bool,
    /// The number of actions, other than requests, that reached a process.
    pub(crate) hits: usize,
}

/// Performs all actions of a step.
pub(crate) fn perform(world: &mut World, step: &PlannedStep) -> Result<Done, Halt> {
    let old = world.service()?.active;
    let mark = world.service()?.log.mark();
    let mut done = Done::default();
    world.sent.clear();
    world.doomed.clear();
    world.install(step.binary)?;
    if matches!(step.next, Next::Idle(_)) {
        world.load.allow_loss(); // nothing takes its socket over, but the server is gone
    }
    let mut unwritten = world.configure(&step.next)?;
    for (when, act) in &step.acts {
        await_moment(world, *when, mark)?;
        if act.is_about(Side::New) && done.asked {
            let psflip = Role(Side::New, Part::Psflip);
            world.wait(MOMENT, |world| Ok(world.find(old, psflip)))?;
        }
        world.let_pass(when.after)?;
        one(world, step, act, old, &mut done, &mut unwritten)?;
        if let Some(text) = unwritten.take_if(|_| done.asked) {
            fs::write(world.config_path(), text)
                .map_err(|error| broken("write the configuration", &error))?;
        }
    }
    if let Some(text) = unwritten {
        fs::write(world.config_path(), text).map_err(|error| broken("write the configuration", &error))?;
    }
    Ok(done)
}

fn broken(what: &str, error: &io::Error) -> Halt {
    Halt::Violation(format!("the harness can't {what}: {error}"))
}

fn await_moment(world: &mut World, when: When, mark: usize) -> Result<(), Halt> {
    if let Some(moment) = when.moment {
        let event = match moment {
            Moment::UpgradeStarted => LogEvent::Started,
            Moment::NewPsflipReads => LogEvent::NewReads,
            Moment::ChildStarted => LogEvent::ChildStarted,
            Moment::Baking => LogEvent::Baking,
            Moment::Superseded => LogEvent::Superseded,
            Moment::Active => LogEvent::Active,
            Moment::Failed => LogEvent::Failed,
        };
        world.wait(MOMENT, |world| {
            world.read_log();
            Ok(world.service()?.log.since(mark).any(|entry| entry.event == event).then_some(()))
        })?;
    }
    Ok(())
}

fn one(
    world: &mut World,
    step: &PlannedStep,
    act: &Act,
    old: Process,
    done: &mut Done,
    unwritten: &mut Option<String>,
) -> Result<(), Halt> {
    let psflip = |side: &Side| Role(*side, Part::Psflip);
    match act {
        Act::Request(side) => {
            done.asked |= send(world, old, psflip(side), Signal::SIGHUP)?.is_some();
        }
        Act::Poke(side, name) => {
            let signal = match *name {
                "USR1" => Signal::SIGUSR1,
                "USR2" => Signal::SIGUSR2,
                "WINCH" => Signal::SIGWINCH,
                _ => Signal::SIGCONT,
            };
            done.hits += usize::from(send(world, old, psflip(side), signal)?.is_some());
        }
        Act::RealTime(side, number) => {
            rough(world, step, psflip(side), done);
            let child = world.find(old, Role(*side, Part::Child));
            if real_time(world, old, *side, *number) {
                done.hits += 1;
                world.doomed.extend(child.map(|child| (child, Instant::now() + OBEDIENCE)));
            }
        }
        Act::Kill(role) => {
            rough(world, step, *role, done);
            let new_is_there = world.find(old, Role(Side::New, Part::Psflip)).is_some();
            if let Some(target) = send(world, old, *role, Signal::SIGKILL)? {
                done.hits += 1;
                world.killed.insert(target);
                world.doomed.push((target, Instant::now() + STEP_TIMEOUT));
                world.tally.kill(&role.to_string());
                if role.0 == Side::Old {
                    done.killed_old.push((role.1, new_is_there));
                }
            }
        }
        Act::Terminate(role) => {
            rough(world, step, *role, done);
            if let Some(target) = send(world, old, *role, Signal::SIGTERM)? {
                done.hits += 1;
                // The log shows how psflip reacts, and a keeper ignores SIGTERM.
                if matches!(role.1, Part::Child | Part::Group | Part::Other(_)) {
                    world.doomed.push((target, Instant::now() + OBEDIENCE));
                }
            }
        }
        Act::Interrupt(side) => {
            rough(world, step, psflip(side), done);
            done.hits += usize::from(send(world, old, psflip(side), Signal::SIGINT)?.is_some());
        }
        Act::Freeze(role, time) => match world.find(old, *role) {
            Some(target) => {
                world.timeline.note(format!("  SIGSTOP to the {role} {target}, for {time:?}"));
                world.freeze(target, *time);
                world.tally.frozen += 1;
                done.hits += 1;
            }
            None => missed(world, &role.to_string()),
        },
        Act::RemovePidfile => {
            let gone = fs::remove_file(world.sandbox.path("psflip.pid"));
            world.timeline.note(format!("  the pidfile is removed: {gone:?}"));
            world.service()?.pidfile_removed = true;
            world.tally.edits += 1;
        }
        Act::LimitFiles(room) => {
            done.rough = true;
            world.operators.allow_silence(); // psflip may have no descriptor for a client
            world.load.allow_loss(); // a server without descriptors can't accept
            limit_files(world, old, *room)?;
        }
        Act::Swap(binary) => {
            done.rewritten = true;
            world.timeline.note(format!("  psflip's file becomes {binary:?}"));
            world.install(*binary)?;
            world.tally.edits += 1;
        }
        Act::Rewrite(next) => {
            done.rewritten = true;
            world.timeline.note(format!("  the configuration becomes {next}"));
            if matches!(next, Next::Idle(_)) {
                world.load.allow_loss();
            }
            *unwritten = world.configure(next)?;
            world.tally.edits += 1;
        }
        Act::Second => second(world, done)?,
        Act::Above(deed) => above(world, *deed, done)?,
        Act::KillPair(side) => pair(world, step, *side, old, done)?,
        Act::Order(order) => {
            if matches!(order, Order::Stop(_)) {
                rough(world, step, psflip(&Side::Old), done);
                done.hits += 1;
            }
            done.either |= matches!(order, Order::Keep | Order::Rollback);
            clients::start(world, *order, done)?;
        }
    }
    Ok(())
}

/// Allows clients to lose requests, unless the target never was to serve them.
fn rough(world: &mut World, step: &PlannedStep, target: Role, done: &mut Done) {
    done.rough = true;
    world.operators.allow_silence();
    // A signal that is still pending when its receiver is killed is lost.
    let above = world.above_process();
    world.sent.retain(|(target, ..)| Some(*target) != above);
    let serves = |next: &Next| !matches!(next, Next::Bad(bad) if *bad != Bad::SickInBake);
    if target.0 == Side::Old || done.rewritten || serves(&step.next) {
        world.load.allow_loss();
    }
}

/// Performs an action on the process above.
fn above(world: &mut World, deed: Deed, done: &mut Done) -> Result<(), Halt> {
    let Some(target) = world.above_process().filter(Process::is_alive) else {
        missed(world, "parent");
        return Ok(());
    };
    let keeper = world.above_keeper();
    let (target, signal) = match deed {
        Deed::Request => (target, Signal::SIGHUP),
        Deed::Stop => (target, Signal::SIGTERM),
        Deed::Kill => (target, Signal::SIGKILL),
        Deed::KillKeeper => (keeper.unwrap_or(target), Signal::SIGKILL),
        Deed::Freeze(time) => {
            world.timeline.note(format!("  SIGSTOP to the parent {target}, for {time:?}"));
            world.freeze(target, time);
            world.tally.frozen += 1;
            return Ok(());
        }
    };
    done.hits += usize::from(deed != Deed::Request);
    world.timeline.note(format!("  {signal} to {target}: {deed}"));
    if deed == Deed::Request {
        world.read_log();
        let mark = world.service()?.log.mark();
        if !done.rough {
            world.sent.push((target, mark, LogEvent::Requested));
        }
        done.asked |= target.signal(signal).is_ok();
        world.tally.signals += 1;
        return Ok(());
    }
    done.rough = true;
    world.load.allow_loss();
    world.operators.allow_silence();
    world.sent.clear();
    if signal == Signal::SIGKILL {
        done.killed_above = true;
        let psflips: Vec<Process> = world.psflips().iter().map(|stat| stat.process).collect();
        world.killed.extend(psflips); // psflip dies with the process above
        world.killed.insert(target);
        world.tally.kill("parent");
    }
    let _ = target.signal(signal); // ESRCH: it may have exited
    Ok(())
}

/// Kills psflip and its keeper. Stopping psflip first prevents that it reacts to the keeper's exit, so this
/// is as if both were killed at the same instant.
fn pair(
    world: &mut World,
    step: &PlannedStep,
    side: Side,
    old: Process,
    done: &mut Done,
) -> Result<(), Halt> {
    if world.above == Above::Nobody {
        return Ok(()); // the limit of two processes: docs/architecture.md
    }
    let role = |part| Role(side, part);
    let (Some(psflip), Some(keeper)) =
        (world.find(old, role(Part::Psflip)), world.find(old, role(Part::Keeper)))
    else {
        missed(world, "pair of psflip and keeper");
        return Ok(());
    };
    rough(world, step, role(Part::Psflip), done);
    let new_is_there = world.find(old, Role(Side::New, Part::Psflip)).is_some();
    world
        .timeline
        .note(format!("  SIGKILL to {} {psflip} and its keeper {keeper} at once", role(Part::Psflip)));
    let _ = psflip.signal(Signal::SIGSTOP); // ESRCH: they may have exited
    let _ = keeper.signal(Signal::SIGKILL);
    let _ = psflip.signal(Signal::SIGKILL);
    for target in [psflip, keeper] {
        world.killed.insert(target);
        world.doomed.push((target, Instant::now() + STEP_TIMEOUT));
    }
    done.hits += 1;
    world.tally.kill("psflip and keeper at once");
    if side == Side::Old {
        done.killed_old.push((Part::Psflip, new_is_there));
    }
    Ok(())
}

fn send(world: &mut World, old: Process, role: Role, signal: Signal) -> Result<Option<Process>, Halt> {
    let Some(target) = world.find(old, role) else {
        missed(world, &role.to_string());
        return Ok(None);
    };
    // Record it before it is sent, so that its effects come later in the timeline.
    world.timeline.note(format!("  {signal} to the {role} {target}"));
    world.tally.signals += u64::from(signal != Signal::SIGKILL);
    world.read_log();
    let mark = world.service()?.log.mark();
    let sent = if role.1 == Part::Group { target.signal_group(signal) } else { target.signal(signal) };
    match sent {
        Ok(()) => {
            let event = match signal {
                Signal::SIGHUP => Some(LogEvent::Requested),
                Signal::SIGTERM | Signal::SIGINT => Some(LogEvent::StopRequested),
                _ => None,
            };
            world.sent.extend(event.map(|event| (target, mark, event)));
            Ok(Some(target))
        }
        Err(_) => {
            missed(world, &role.to_string());
            Ok(None)
        }
    }
}

fn missed(world: &mut World, role: &str) {
    world.timeline.note(format!("  there is no {role}"));
    world.tally.missed += 1;
}

/// Sends a real-time signal through kill(1), which knows their names. Returns whether there was a target.
fn real_time(world: &mut World, old: Process, side: Side, number: u8) -> bool {
    let Some(target) = world.find(old, Role(side, Part::Psflip)) else {
        missed(world, "psflip");
        return false;
    };
    world.timeline.note(format!("  SIGRTMIN+{number} to the psflip {target}"));
    world.tally.signals += 1;
    let (name, pid) = (format!("RTMIN+{number}"), target.pid().to_string());
    // It may have exited meanwhile. Only this process reaps it, so the pid can't have been reused.
    world.sandbox.command(["/bin/kill", "-s", &name, &pid]).start().wait_exit();
    true
}

fn limit_files(world: &mut World, old: Process, room: u8) -> Result<(), Halt> {
    let Some(target) = world.find(old, Role(Side::Old, Part::Psflip)) else {
        missed(world, "old psflip");
        return Ok(());
    };
    let limit = target.open_fds().unwrap_or_default().len() as u64 + u64::from(room);
    world.timeline.note(format!("  RLIMIT_NOFILE of the old psflip {target} becomes {limit}"));
    set_files(target, limit).map_err(|error| broken("lower a limit", &error))
}

/// Sets only the soft limit, so that it can be raised again.
fn set_files(process: Process, limit: u64) -> io::Result<()> {
    let pid = Pid::from_raw(process.pid().cast_signed());
    let maximum = getrlimit(Resource::Nofile).maximum;
    prlimit(pid, Resource::Nofile, Rlimit { current: Some(limit), maximum })?;
    Ok(())
}

/// Restores the original limit of every process of the sandbox.
pub(crate) fn restore_limits(world: &World) {
    let own = getrlimit(Resource::Nofile).current.unwrap_or(1024);
    for process in world.sandbox.processes() {
        let _ = set_files(process, own); // ESRCH: it may have exited
    }
}

/// Contract P3: a second psflip is refused, and has no other effect. Only while a psflip certainly holds the
/// pidfile.
fn second(world: &mut World, done: &mut Done) -> Result<(), Halt> {
    if done.rough || world.service()?.pidfile_removed {
        return Ok(());
    }
    done.hits += 1;
    let text = world.text_of(&Next::Good(Good::PLAIN)).unwrap_or_default();
    world.sandbox.write("second.toml", text);
    let psflip = world.sandbox.path("bin/copy-0");
    let argv = [psflip.as_os_str(), "-c".as_ref(), "second.toml".as_ref()];
    let running = world.sandbox.command(argv).start();
    world.timeline.note(format!("  a second psflip {} on the same pidfile", running.first()));
    let status = running.wait_exit_by(Deadline::after(Duration::from_secs(20)));
    if status.code() == Some(125) {
        return Ok(());
    }
    Err(Halt::Violation(format!(
        "P3: a second psflip with the same pidfile exited with {status}: {}",
        running.stderr()
    )))
}
