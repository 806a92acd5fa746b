//! Runs `psflip upgrade` and `psflip stop` as operators do, and checks their exit codes.

use std::process::ExitStatus;
use std::sync::Arc;

use serde_json::Value;
use testkit::{Process, Running, Signal};

use crate::actions::Done;
use crate::checks::Before;
use crate::log::LogEvent;
use crate::next_config::Expected;
use crate::parent::Order;
use crate::plan::{Binary, PlannedStep};
use crate::report::Halt;
use crate::world::{Service, World};

/// A command that was started in this step.
pub(crate) struct Client {
    running: Arc<Running>,
    order: Order,
    /// The position in the log when it was started.
    mark: usize,
}

impl Client {
    /// Its exit status; `None` while it runs.
    pub(crate) fn status(&self) -> Option<ExitStatus> {
        self.running.try_status()
    }
}

/// Starts the command; kills it if the plan says so.
pub(crate) fn start(world: &mut World, order: Order, done: &mut Done) -> Result<(), Halt> {
    let name = match order {
        Order::Upgrade(_) => "upgrade",
        Order::Stop(_) => "stop",
        Order::Keep => "keep",
        Order::Rollback => "rollback",
    };
    world.read_log();
    let mark = world.service()?.log.mark();
    let psflip = world.sandbox.path("bin/copy-0");
    let argv = [
        psflip.as_os_str(),
        name.as_ref(),
        "--socket".as_ref(),
        "psflip.pid.sock".as_ref(),
        "--json".as_ref(),
    ];
    // Without a bake this is the same as without the option.
    let until: &[&str] = if matches!(order, Order::Upgrade(_)) { &["--wait", "baked"] } else { &[] };
    let running = world.sandbox.command(argv).args(until).start();
    world.timeline.note(format!("  {order}: process {}", running.first()));
    done.perhaps_asked = true;
    if let Order::Upgrade(Some(after)) | Order::Stop(Some(after)) = order {
        world.let_pass(after)?;
        let killed = running.first().signal(Signal::SIGKILL).is_ok();
        world.timeline.note(format!("  it is killed: {killed}"));
        world.tally.kill("operator's command");
    }
    world.tally.orders += 1;
    world.clients.push(Client { running, order, mark });
    Ok(())
}

/// Checks the exit codes of this step's commands, which all have exited.
pub(crate) fn check(
    world: &mut World,
    step: &PlannedStep,
    done: &Done,
    before: &Before,
    now: Option<Process>,
) -> Result<(), Halt> {
    for client in std::mem::take(&mut world.clients) {
        let Some(status) = client.running.try_status() else {
            return Err(Halt::Violation(format!("{} has not exited", client.order)));
        };
        let Some(code) = status.code() else { continue }; // it was killed
        let told = client.running.stdout();
        let wrong = |why: &str| {
            let Client { running, order, .. } = &client;
            let said = format!("{told}{}", running.stderr());
            Err(Halt::Violation(format!(
                "{order} (pid {}) exited with {code}, and {why}: {said}",
                running.pid()
            )))
        };
        match client.order {
            Order::Upgrade(_) => {
                let mut promoted = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                let promoted = promoted.rfind(|event| event["event"] == "promoted");
                let pid = promoted.and_then(|event| u32::try_from(event["pid"].as_u64()?).ok());
                let Service { log, .. } = world.service()?;
                // If it was killed before it could log this, its predecessor has logged the promotion.
                let active = pid.is_some_and(|pid| {
                    let successor = format!("new_psflip={pid} ");
                    log.count(pid, LogEvent::Active) > 0
                        || log.since(client.mark).any(|entry| {
                            entry.event == LogEvent::Superseded && entry.text.contains(&successor)
                        })
                });
                let has = |event| log.since(client.mark).any(|entry| entry.event == event);
                let (has_failed, was_rolled_back) = (has(LogEvent::Failed), has(LogEvent::RolledBack));
                let as_planned =
                    !done.rewritten && !done.either && !done.rough && step.binary == Binary::Copy;
                match code {
                    0 if !active => return wrong("the generation that it names was never active"),
                    0 if now == Some(before.active()) => return wrong("the old generation serves on"),
                    1 if !has_failed && !done.rough => return wrong("no upgrade has failed"),
                    3 if !was_rolled_back && !done.rough => return wrong("no upgrade was rolled back"),
                    0 | 1 | 3 => {}
                    125 if done.rough => {}
                    _ => return wrong("that is no answer"),
                }
                match step.next.expected() {
                    Expected::Promoted if as_planned && code != 0 => {
                        return wrong("an upgrade to a good generation was requested");
                    }
                    Expected::Fails(_) if as_planned && code == 0 => return wrong("it can't be promoted"),
                    _ => {}
                }
            }
            Order::Rollback | Order::Keep => {
                let mut since = world.service()?.log.since(client.mark).map(|entry| entry.event);
                let expected = since.any(|event| match client.order {
                    Order::Keep => matches!(event, LogEvent::Superseded | LogEvent::Active),
                    _ => event.is_failure(),
                });
                match code {
                    0 if !expected && !done.rough => return wrong("the log has nothing of it"),
                    0 | 1 => {}
                    125 if done.rough => {}
                    _ => return wrong("that is no answer"),
                }
            }
            Order::Stop(_) => {
                // The child may ignore the stop (exit code 1), and the command relays any other exit code of
                // the child.
                if code == 0 && now.is_some() {
                    return wrong("a generation serves on");
                }
            }
        }
    }
    Ok(())
}
