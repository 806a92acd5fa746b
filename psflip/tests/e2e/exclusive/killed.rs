//! At each step of an upgrade without overlap, each of its processes is killed, or suspended for a while.
//! Whatever happens, no two children are there at once, one generation serves, and the next upgrade works.

use testkit::client::http::HttpClient;
use testkit::process::ProcessState;
use testkit::{Deadline, FdSnapshot, Process, Psflip, Sandbox, wait_until};

use super::{assert_once, staged, upgrades_and_ends, web};
use crate::failures::stage::Stage;
use crate::service::{freeze, generations, kill, thaw};

/// A process of the upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Psflip,
    Keeper,
    Child,
    Relay,
}

/// Whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    Old,
    New,
}

/// The steps, and which processes exist there: of the old generation and of the new one.
const STEPS: &[(&str, &[Target], &[Target])] = &[
    ("new Before Prepare", ALL, &[Target::Psflip]),
    ("new Sending prepared", ALL, &[Target::Psflip, Target::Relay]),
    ("old Before Relay(Hold)", ALL, &[Target::Psflip, Target::Relay]),
    ("old Before SignalChild", ALL, &[Target::Psflip, Target::Relay]),
    ("old Before SignalOrphans", NO_CHILD, &[Target::Psflip, Target::Relay]),
    ("old Before GrantTurn", NO_CHILD, &[Target::Psflip, Target::Relay]),
    ("old After GrantTurn", NO_CHILD, &[Target::Psflip]),
    ("new Before StartChild", NO_CHILD, &[Target::Psflip, Target::Relay]),
    ("new Before StartProbing", NO_CHILD, ALL),
    ("new Before TakePidfile", NO_CHILD, WITHOUT_CHILD),
    ("new Sending ready", NO_CHILD, WITHOUT_CHILD),
    ("old Sending acknowledge", NO_CHILD, WITHOUT_CHILD),
];
/// The new child may be healthy there.
const AFTER_ITS_START: &[&str] = &["new Before StartProbing", "new Before TakePidfile", "new Sending ready"];
/// A new child that dies so late may die after its promotion.
const WITHOUT_CHILD: &[Target] = &[Target::Psflip, Target::Relay];
const ALL: &[Target] = &[Target::Psflip, Target::Keeper, Target::Child, Target::Relay];
const NO_CHILD: &[Target] = &[Target::Psflip, Target::Relay];

/// One upgrade that stands still at a step.
struct Standing {
    sandbox: Sandbox,
    stage: Stage,
    psflip: Psflip,
    old: Process,
    old_child: Process,
    paused: crate::failures::stage::Paused,
}

impl Standing {
    #[track_caller]
    fn at(step: &str) -> Self {
        let sandbox = Sandbox::new();
        let stage = Stage::new(&sandbox);
        let psflip = staged(&sandbox).start().wait_ready();
        let (old, old_child) = (psflip.active(), psflip.child());
        // Until it answers, the start may go on.
        wait_until(Deadline::default(), "the first answer", || {
            HttpClient::new(web(&sandbox).as_path()).get("/").ok()
        });
        stage.plan(&sandbox, Some(old), &format!("record\npause {step}"));
        psflip.request_flip();
        let paused = stage.wait_pause(&sandbox);
        Self { sandbox, stage, psflip, old, old_child, paused }
    }

    /// The target, as soon as it exists.
    #[track_caller]
    fn target(&self, target: Target, of: Of) -> Process {
        let psflip = match of {
            Of::Old => self.old,
            Of::New => wait_until(Deadline::default(), "the new psflip", || {
                generations(&self.sandbox).into_iter().find(|one| *one != self.old)
            }),
        };
        let below = |parent: Process, name: &'static str| {
            wait_until(Deadline::default(), format!("{name} below {parent}"), || {
                let all = self.sandbox.processes();
                let mut stats = all.into_iter().filter_map(|process| process.stat());
                stats
                    .find(|stat| stat.parent == parent.pid() && stat.name.contains(name))
                    .map(|stat| stat.process)
            })
        };
        match (target, of) {
            (Target::Psflip, _) => psflip,
            (Target::Relay, _) => below(psflip, "relay"),
            (Target::Keeper, _) => below(psflip, "keeper"),
            (Target::Child, Of::Old) => self.old_child,
            (Target::Child, Of::New) => below(below(psflip, "keeper"), ""),
        }
    }

    /// Goes on, and waits until one of the expected generations serves alone.
    #[track_caller]
    fn outcome(self, what: &str, expected: &[&str]) -> (Sandbox, Psflip) {
        let Self { sandbox, stage, psflip, old, paused, .. } = self;
        stage.pause_no_more(&sandbox, old);
        paused.go_on();
        wait_until(Deadline::default(), format!("one generation to serve: {what}"), || {
            let answer = HttpClient::new(web(&sandbox).as_path()).get("/").ok()?;
            let name = answer.tag("name").ok()?;
            (generations(&sandbox) == [psflip.active()] && expected.contains(&name.as_str())).then_some(())
        });
        stage.no_plan(&sandbox);
        assert_once(&sandbox);
        (sandbox, psflip)
    }
}

/// Which generation may serve after the target was killed at this step.
fn expected(target: Target, of: Of, step: &str) -> &'static [&'static str] {
    let is_acknowledged = step == "old Sending acknowledge";
    match (target, of) {
        (Target::Psflip | Target::Keeper | Target::Child, Of::Old) | (Target::Relay, Of::Old) => &["gen2"],
        // It may have been acknowledged before it died.
        (_, Of::New) if is_acknowledged => &["gen1", "gen2"],
        // A relay that dies when its generation is healthy is started again.
        (Target::Relay, Of::New) if AFTER_ITS_START.contains(&step) => &["gen1", "gen2"],
        (_, Of::New) => &["gen1"],
    }
}

#[track_caller]
fn kills(of: Of, target: Target) {
    for (step, old, new) in STEPS {
        let there = if of == Of::Old { old } else { new };
        if !there.contains(&target) {
            continue;
        }
        let what = format!("{of:?} {target:?} was killed at `{step}`");
        let standing = Standing::at(step);
        let process = standing.target(target, of);
        // The kernel kills a child together with its keeper.
        let child = (target == Target::Keeper).then(|| standing.target(Target::Child, of));
        kill(process);
        for gone in [process].into_iter().chain(child) {
            wait_until(Deadline::default(), format!("the death of {gone}"), || {
                (!gone.is_alive() || gone.state() == ProcessState::Zombie).then_some(())
            });
        }
        let (sandbox, psflip) = standing.outcome(&what, expected(target, of, step));
        upgrades_and_ends(&sandbox, &psflip);
    }
}

#[test]
fn a_killed_old_psflip_leaves_the_new_one_which_goes_on_alone() {
    // Contract: E2, E4, F8
    kills(Of::Old, Target::Psflip);
}

#[test]
fn a_generation_that_goes_on_alone_keeps_no_descriptor_of_the_old_one() {
    // Contract: E4, F10
    let standing = Standing::at("old Before GrantTurn");
    let old = standing.old;
    kill(old);
    let (sandbox, psflip) = standing.outcome("the old psflip was killed", &["gen2"]);
    let open = FdSnapshot::of(psflip.active());
    psflip.flip();
    wait_until(Deadline::default(), "one generation", || (generations(&sandbox).len() == 1).then_some(()));
    open.assert_same_in(psflip.active());
    upgrades_and_ends(&sandbox, &psflip);
}

#[test]
fn a_killed_new_psflip_lets_the_old_child_serve_on_or_again() {
    // Contract: E2, E3, F6
    kills(Of::New, Target::Psflip);
}

#[test]
fn a_killed_old_child_has_given_way() {
    // Contract: E2, E3, F7
    kills(Of::Old, Target::Child);
}

#[test]
fn a_killed_new_child_lets_the_old_one_serve_again() {
    // Contract: E2, E3
    kills(Of::New, Target::Child);
}

#[test]
fn a_killed_keeper_takes_its_child_along() {
    // Contract: E2, E3, C7
    kills(Of::Old, Target::Keeper);
    kills(Of::New, Target::Keeper);
}

#[test]
fn a_killed_relay_costs_no_service() {
    // Contract: E3, T9
    kills(Of::Old, Target::Relay);
    kills(Of::New, Target::Relay);
}

#[test]
fn a_process_that_is_suspended_for_a_while_changes_nothing() {
    // Contract: E2, F12
    for (step, old, new) in STEPS {
        for (of, there) in [(Of::Old, old), (Of::New, new)] {
            // A child of psflip that is suspended while it stops is continued by psflip.
            for target in there.iter().filter(|target| **target == Target::Psflip) {
                let standing = Standing::at(step);
                let process = standing.target(*target, of);
                freeze(process);
                let Standing { sandbox, stage, psflip, old, paused, .. } = standing;
                stage.pause_no_more(&sandbox, old);
                paused.go_on();
                thaw(process);
                psflip.wait_successor(old);
                psflip.wait_gone(old);
                stage.no_plan(&sandbox);
                assert_once(&sandbox);
                upgrades_and_ends(&sandbox, &psflip);
            }
        }
    }
}
