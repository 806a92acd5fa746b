//! Checks, when everything is at rest, what is not a generation: the status on the control socket, the
//! symlink, and the process above.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use serde_json::Value;
use testkit::Process;

use crate::actions::Done;
use crate::checks::Before;
use crate::log::LogEvent;
use crate::operators;
use crate::parent::Above;
use crate::report::Halt;
use crate::world::{Service, World, descriptors};

/// Must be called while the operators are hushed.
pub(crate) fn check(world: &mut World, done: &Done, before: &Before, active: Process) -> Result<(), Halt> {
    let status = world.operators.status().map_err(|why| {
        Halt::Violation(format!("docs/control.md: psflip {active} serves, and does not answer: {why}"))
    })?;
    told(world, done, before, active, &status)
        .map_err(|why| Halt::Violation(format!("docs/control.md: {why}: {status}")))?;
    switched(world, &status)?;
    no_leak_above(world)?;
    renewed(world, done, active)
}

/// The status must fit what was observed.
fn told(
    world: &mut World,
    done: &Done,
    before: &Before,
    active: Process,
    status: &Value,
) -> Result<(), String> {
    let (generation, newest) = operators::story(status)?;
    let Some(Service { log, child, upgrade, .. }) = &mut world.service else { return Ok(()) };
    let is = |key: &str, process: Process| status[key].as_u64() == Some(u64::from(process.pid()));
    if !is("pid", active) || !is("child", *child) {
        return Err(format!("psflip {active} with child {child} serves"));
    }
    if status["state"] != "serving" || !status["upgrade"].is_null() || status["remembered"] == true {
        return Err("nothing is under way any more".to_owned());
    }
    let none = Vec::new();
    let history = status["history"].as_array().unwrap_or(&none);
    let promoted = history.iter().rev().find(|record| record["result"] == "promoted");
    let of_this = |record: &&Value| {
        record["to"].as_u64() == Some(generation) && record["pid"].as_u64() == Some(u64::from(active.pid()))
    };
    // After sixteen failed upgrades the history has no promotion any more.
    if promoted.is_none_or(|record| !of_this(&record)) && (promoted.is_some() || history.len() < 16) {
        return Err(format!(
            "generation {generation}, psflip {active}, is not the last one that was promoted"
        ));
    }
    let failed_since = history
        .iter()
        .rev()
        .take_while(|record| record["result"] != "promoted")
        .all(|record| record["from"].as_u64() == Some(generation));
    if !failed_since {
        return Err(format!(
            "an upgrade has failed after generation {generation} was promoted, and not its own"
        ));
    }
    let started = log.since(before.mark()).filter(|entry| entry.event == LogEvent::Started).count() as u64;
    let before = std::mem::replace(upgrade, newest);
    if newest != before + started {
        return Err(format!(
            "{started} upgrades were started after upgrade {before}, and the last one is {newest}"
        ));
    }
    let last_failed = log
        .since(0)
        .filter(|entry| entry.event.is_failure() || entry.event == LogEvent::Active)
        .last()
        .map(|entry| entry.event);
    let said = history.last().and_then(|record| record["result"].as_str());
    let is_same = |event| match event {
        LogEvent::Failed => said == Some("failed"),
        LogEvent::RolledBack => said == Some("rolled_back"),
        _ => said.is_none_or(|said| said == "promoted"),
    };
    if !done.rough && last_failed.is_some_and(|event| !is_same(event)) {
        return Err(format!("the last result in the log is {last_failed:?}"));
    }
    Ok(())
}

/// The symlink of `[switch]` must point to the active generation's slot.
fn switched(world: &World, status: &Value) -> Result<(), Halt> {
    if !world.switches {
        return Ok(());
    }
    let wanted = format!("slot-{}", status["slot"].as_str().unwrap_or_default());
    match fs::read_link(world.sandbox.path("current")) {
        Ok(target) if target.as_os_str() == wanted.as_str() => Ok(()),
        other => {
            Err(Halt::Violation(format!("U4, U8: the symlink points to {other:?} instead of `{wanted}`")))
        }
    }
}

/// The descriptors of the process above and of its keeper, counted by kind.
pub(crate) fn descriptors_above(world: &World) -> Vec<BTreeMap<String, usize>> {
    let above = world.above_process().into_iter().chain(world.above_keeper());
    above.map(descriptors).collect()
}

fn no_leak_above(world: &mut World) -> Result<(), Halt> {
    let usual = world.service()?.descriptors_above.clone();
    // `psflip watch` keeps the pidfd of the previous service, once there has been one.
    let mut later = usual.clone();
    if world.above == Above::Watch
        && let Some(pidfds) = later.first_mut().and_then(|watch| watch.get_mut("anon_inode:[pidfd]"))
    {
        *pidfds += 1;
    }
    let same = world.wait(Duration::from_secs(2), |world| {
        let now = descriptors_above(world);
        Ok((now == usual || now == later).then_some(()))
    })?;
    match same {
        Some(()) => Ok(()),
        None => Err(Halt::Violation(format!(
            "F10: the parent has other descriptors open than at the start: {:?} instead of {usual:?}",
            descriptors_above(world)
        ))),
    }
}

/// Contract A5: the anchor runs the active generation's program, or has logged why not.
fn renewed(world: &mut World, done: &Done, active: Process) -> Result<(), Halt> {
    let Some(anchor) = world.above_process().filter(|_| world.above == Above::Anchor && !done.rough) else {
        return Ok(());
    };
    let file =
        |process: Process| fs::metadata(format!("/proc/{process}/exe")).map(|data| (data.dev(), data.ino()));
    let same = world.wait(Duration::from_secs(2), |_| {
        Ok(file(anchor).is_ok_and(|anchors| file(active).is_ok_and(|next| anchors == next)).then_some(()))
    })?;
    let said = |world: &World| {
        world
            .service
            .as_ref()
            .is_some_and(|service| service.psflip.log().contains("this process stays as it is"))
    };
    if same.is_some() || said(world) {
        return Ok(());
    }
    Err(Halt::Violation(format!(
        "A5: the anchor {anchor} does not run the program of psflip {active}, and has not logged why"
    )))
}
