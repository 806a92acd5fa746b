//! Runs a round: starts a service, performs the steps of a plan, and stops it.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use testkit::{Anchor, Process, Signal};

use crate::actions::{self, Done};
use crate::checks::{self, Before};
use crate::clients;
use crate::invariants;
use crate::log::{Log, LogEvent};
use crate::next_config::{Bad, Good, Next};
use crate::parent::{Above, Order};
use crate::plan::{Act, Binary, Finale, Flavour, Part, PlannedStep, Role, Round, Side, When};
use crate::quiescence::settle;
use crate::report::Halt;
use crate::world::{Service, World, descriptors, text};

/// How long a start, or the first answer after it, may take.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Patience and grace are longer than a start and a stop take here, so that `psflip watch` gives up only when
/// no service can come any more.
const WATCH: [&str; 9] =
    ["PSFLIP", "watch", "--pidfile", "psflip.pid", "--patience", "3s", "--grace", "5s", "--"];

/// Runs a round. `step_begins` gets the number and the text of every step, and may end the round by returning
/// false.
pub(crate) fn live(
    world: &mut World,
    round: &Round,
    mut step_begins: impl FnMut(&World, usize, &str) -> bool,
) -> Result<(), Halt> {
    start(world)?;
    let mut idles = false;
    for (number, step) in round.steps.iter().enumerate() {
        if !step_begins(world, number + 1, &step.to_string()) {
            break;
        }
        if take(world, step, &format!("step {}: {step}", number + 1))? {
            idles = step.goes_on && matches!(step.next, Next::Idle(_));
            if !idles {
                flip_well(world)?;
            }
        } else {
            if let Some(bad) = step.bad_start {
                start_badly(world, bad)?;
            }
            start(world)?;
            idles = false;
        }
        world.tally.steps += 1;
    }
    if idles {
        flip_well(world)?;
    }
    end(world, round)
}

/// Whatever happened before, an upgrade to a good configuration must succeed, and clients must get answers.
fn flip_well(world: &mut World) -> Result<(), Halt> {
    let step = PlannedStep {
        next: Next::Good(Good::PLAIN),
        binary: Binary::Copy,
        acts: vec![(When::NOW, Act::Request(Side::Old))],
        goes_on: false,
        bad_start: None,
    };
    take(world, &step, "  a good flip")?;
    world.service()?.pidfile_removed = false; // the new generation has written one
    is_served(world)
}

/// Runs a step; returns whether the service is still there.
fn take(world: &mut World, step: &PlannedStep, title: &str) -> Result<bool, Halt> {
    world.timeline.note(title);
    let before = Before::of(world)?;
    let done = actions::perform(world, step)?;
    let mut now = settle(world)?;
    actions::restore_limits(world);
    if now.is_some() && step.acts.iter().any(|(_, act)| matches!(act, Act::LimitFiles(_))) {
        // A psflip that had no descriptor for a client tries again later, and then obeys what a killed command has sent
        // before. Clients are accepted in their order: when this one has its answer, the others' requests are known.
        let _ = world.operators.status(); // no answer: the checks will say so
        now = settle(world)?;
    }
    world.timeline.note(match now {
        Some(active) => format!("  idle: psflip {active} is active"),
        None => "  idle: all processes have exited".to_owned(),
    });
    checks::check(world, step, &done, &before, now)?;
    count(world, &before);
    Ok(now.is_some())
}

fn count(world: &mut World, before: &Before) {
    let Some(Service { log, .. }) = &world.service else { return };
    let count = |event| log.since(before.mark()).filter(|entry| entry.event == event).count() as u64;
    let (flips, promoted, failed) =
        (count(LogEvent::Started), count(LogEvent::Active), count(LogEvent::Failed));
    let (rolled_back, again) = (count(LogEvent::RolledBack), count(LogEvent::ServesAgain));
    world.tally.flips += flips;
    world.tally.promoted += promoted;
    world.tally.failed += failed;
    world.tally.rolled_back += rolled_back;
    world.tally.again += again;
    world.tally.answered = world.load.answered();
    world.tally.told = world.operators.answers();
}

/// Starts a new service with a good configuration.
fn start(world: &mut World) -> Result<(), Halt> {
    world.load.allow_loss();
    world.operators.new_service();
    world.service = None;
    world.install(Binary::Copy)?;
    world.configure(&Next::Good(Good::PLAIN))?;
    let path = world.psflip_path().to_string_lossy().into_owned();
    let builder = world.sandbox.psflip().exe(world.psflip_path()).config_file("psflip.toml");
    // The children have no handler for these signals, and would be terminated by them.
    let builder = builder.ignore_signal(Signal::SIGUSR1).ignore_signal(Signal::SIGUSR2);
    let psflip = match world.above {
        Above::Nobody => builder,
        Above::Anchor => builder.anchor(Anchor::ByDefault),
        Above::Watch => builder.wrapper(WATCH.map(|part| part.replace("PSFLIP", &path))),
    }
    .start();
    let started = psflip.program().first();
    world.timeline.note(format!("process {started} is started, with {:?} above", world.above));
    world.tally.starts += 1;
    world.service = Some(Service {
        psflip,
        active: started,
        child: started,
        descriptors: Default::default(),
        descriptors_above: Default::default(),
        log: Log::default(),
        pidfile_removed: false,
        upgrade: 0,
    });
    let found = world.wait(START_TIMEOUT, |world| {
        world.read_log();
        let Some(first) = world.psflips().first().map(|stat| stat.process) else { return Ok(None) };
        let active = world.service()?.log.count(first.pid(), LogEvent::Active) > 0;
        let child = world.find(first, Role(Side::Old, Part::Child)).filter(|_| active);
        Ok(child.map(|child| (first, child)))
    })?;
    let Some((first, child)) = found else {
        return Err(Halt::Violation(format!(
            "P3: a fresh start did not become healthy within {START_TIMEOUT:?}"
        )));
    };
    let service = world.service()?;
    (service.active, service.child) = (first, child);
    if settle(world)? != Some(first) {
        return Err(Halt::Violation("a fresh start exited at once".to_owned()));
    }
    let said = text(&world.sandbox.path("psflip.pid"));
    if said != first.to_string() {
        return Err(Halt::Violation(format!("P1: psflip {first} is active, and the pidfile has `{said}`")));
    }
    let (usual, usual_above) = (descriptors(first), invariants::descriptors_above(world));
    let service = world.service()?;
    (service.descriptors, service.descriptors_above) = (usual, usual_above);
    world.operators.speak();
    is_served(world)
}

/// Starts psflip with a bad configuration: it must exit with the right code (contract C6) and leave nothing
/// behind.
fn start_badly(world: &mut World, bad: Bad) -> Result<(), Halt> {
    world.operators.new_service();
    world.timeline.note(format!("  a start with {}", Next::Bad(bad)));
    world.install(Binary::Copy)?;
    world.configure(&Next::Bad(bad))?;
    let said = text(&world.sandbox.path("psflip.pid"));
    let psflip = world.sandbox.path("bin/psflip");
    let running = world.sandbox.command([psflip.as_os_str(), "-c".as_ref(), "psflip.toml".as_ref()]).start();
    world.tally.starts += 1;
    let status = world.wait(START_TIMEOUT, |_| Ok(running.try_status()))?;
    let left =
        world.wait(START_TIMEOUT, |world| Ok(Some(()).filter(|()| world.sandbox.processes().is_empty())))?;
    let now = text(&world.sandbox.path("psflip.pid"));
    if !status.is_some_and(|status| bad.ends().is(status)) || left.is_none() || said != now {
        return Err(Halt::Violation(format!(
            "C6, C8, P2: a start with {} exited with {status:?} instead of {:?}; leftover processes: {:?}; the pidfile had `{said}`, and has `{now}`: {}",
            Next::Bad(bad),
            bad.ends(),
            world.sandbox.processes(),
            running.stderr(),
        )));
    }
    Ok(())
}

/// Waits until clients get answers again; from now on every request must succeed.
fn is_served(world: &mut World) -> Result<(), Halt> {
    let wanted = world.load.answered() + 3;
    let served = world.wait(START_TIMEOUT, |world| Ok((world.load.answered() >= wanted).then_some(())))?;
    if served.is_none() {
        return Err(Halt::Violation(format!(
            "no request was answered for {START_TIMEOUT:?}, though the service is healthy"
        )));
    }
    world.load.forbid_loss();
    world.operators.forbid_silence();
    checks::losses(world)
}

/// Ends the round by a stop or a kill.
fn end(world: &mut World, round: &Round) -> Result<(), Halt> {
    let finale = round.finale;
    let active = world.service()?.active;
    let target = world.above_process().filter(|_| round.ends_above).unwrap_or(active);
    world.load.allow_loss();
    world.operators.allow_silence();
    let signal = match finale {
        Finale::Terminate => Some(Signal::SIGTERM),
        Finale::Interrupt => Some(Signal::SIGINT),
        Finale::Kill => Some(Signal::SIGKILL),
        Finale::Order => None,
    };
    world.timeline.note(format!("end of the round: {finale:?} for process {target}"));
    world.sent.clear();
    world.doomed.clear();
    if finale == Finale::Kill {
        world.killed.extend([active, target]);
        world.tally.kill("active psflip, or its parent");
    } else {
        world.tally.stops += 1;
    }
    match signal {
        Some(signal) => target
            .signal(signal)
            .map_err(|error| Halt::Violation(format!("process {target} does not exist any more: {error}")))?,
        None => clients::start(world, Order::Stop(None), &mut Done::default())?,
    }
    // Makes settle() wait for its exit.
    world.doomed.push((active, Instant::now() + START_TIMEOUT));
    if let Some(left) = settle(world)? {
        return Err(Halt::Violation(format!("S5: psflip {left} still serves after {finale:?}")));
    }
    world.timeline.note("  idle: all processes have exited");
    checks::losses(world)?;
    let first = world.service()?.psflip.program().first();
    // A service manager sees only the exit of the process above, if there is one.
    let seen = if world.above == Above::Nobody { active } else { first };
    let status = checks::statuses(world).into_iter().find(|(process, _)| *process == seen);
    let said = text(&world.sandbox.path("psflip.pid"));
    // A careless server counts a request as unfinished until its thread has noticed the end of it.
    let is_careless = world.flavour == Flavour::Proxied;
    let is_clean = |status: ExitStatus| status.success() || is_careless && status.code() == Some(1);
    // `psflip stop` exits as the child did.
    let told = world.clients.drain(..).all(|client| client.status().is_some_and(is_clean));
    let as_it_should = |status: ExitStatus| match finale {
        Finale::Kill => status.signal() == Some(9),
        Finale::Terminate | Finale::Interrupt | Finale::Order => is_clean(status) && said.is_empty() && told,
    };
    match status {
        Some((_, status)) if as_it_should(status) => Ok(()),
        other => Err(Halt::Violation(format!(
            "C5, P2, A3, W3: after {finale:?}, process {seen} exited with {:?} (the commands exited as they should: {told}), and the pidfile has `{said}`",
            other.map(|(process, status): (Process, _)| (process.pid(), status))
        ))),
    }
}
