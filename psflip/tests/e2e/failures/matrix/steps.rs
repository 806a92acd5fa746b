//! The steps of an upgrade, as `psflip-staged` records them, in their order. A test compares the list with
//! real upgrades, so it stays complete.

use std::collections::BTreeMap;
use std::fmt;

use super::cell::Staged;
use super::{ANCHORED, BAKED, GROUP, HIDDEN, PLAIN, PROXIED, Setting, WORKERS};

/// Passes the whole list, without what concerns relays, to the macro `$then`, after `$arguments`. Each step has a word for the processes
/// that exist (`cell!`), the name of its tests, and its role, moment and name in the trace.
macro_rules! steps {
    ($then:ident! $arguments:tt) => {
        $then! { $arguments
            alone at_old_sending_hello "old Sending hello",
            alone at_old_sent_hello "old Sent hello",
            alone at_old_sending_control "old Sending control",
            alone at_old_sent_control "old Sent control",
            alone at_old_sending_keeper "old Sending keeper",
            alone at_old_sent_keeper "old Sent keeper",
            alone at_old_sending_record "old Sending record",
            alone at_old_sent_record "old Sent record",
            alone at_intermediate_begins "intermediate Begins intermediate",
            // The new psflip gets as far as it can meanwhile.
            all at_intermediate_ends "intermediate Ends intermediate",
            psflip at_coming_begins_successor "coming Begins successor",
            psflip at_coming_sending_spawned "coming Sending spawned",
            psflip at_coming_sent_spawned "coming Sent spawned",
            psflip at_new_begins_psflip "new Begins psflip",
            psflip at_new_received_hello "new Received hello",
            psflip at_new_sending_starting "new Sending starting",
            psflip at_new_sent_starting "new Sent starting",
            psflip at_new_before_start_child "new Before StartChild",
            keeper at_new_keeper_begins "new-keeper Begins keeper",
            all at_new_child_begins "new-child Begins child",
            all at_new_before_start_probing "new Before StartProbing",
            all at_new_before_start_settling "new Before StartSettling",
            all at_new_before_stop_probing "new Before StopProbing",
            all at_new_before_run_hook_promote "new Before RunHook(Promote)",
            all at_new_before_switch_traffic "new Before SwitchTraffic",
            all at_new_before_take_pidfile "new Before TakePidfile",
            all at_new_sending_ready "new Sending ready",
            // The old generation stops completely meanwhile.
            gone at_new_sent_ready "new Sent ready",
            all at_old_sending_acknowledge "old Sending acknowledge",
            all at_old_sent_acknowledge "old Sent acknowledge",
            all at_old_before_announce_successor "old Before AnnounceSuccessor",
            all at_old_after_announce_successor "old After AnnounceSuccessor",
            gone at_new_received_acknowledge "new Received acknowledge",
            gone at_new_before_run_hook_promoted "new Before RunHook(Promoted)",
            gone at_new_after_run_hook_promoted "new After RunHook(Promoted)",
            all at_old_sending_draining "old Sending draining",
            all at_old_sent_draining "old Sent draining",
            gone at_new_received_draining "new Received draining",
            all at_old_before_signal_child "old Before SignalChild",
            ended at_old_after_signal_child "old After SignalChild",
            ended at_old_before_signal_orphans "old Before SignalOrphans",
            ended at_old_after_signal_orphans "old After SignalOrphans",
            ended at_old_before_exit "old Before Exit(Superseded)",
            ended at_old_after_exit "old After Exit(Superseded)",
        }
    };
}

/// The steps of an upgrade that concern relays, where there is a `[[proxy]]`.
macro_rules! steps_of_relays {
    ($then:ident! $arguments:tt) => {
        $then! { $arguments
            alone at_old_sending_relay "old Sending relay",
            alone at_old_sent_relay "old Sent relay",
            psflip at_new_before_start_child "new Before StartChild",
            all at_new_before_start_probing "new Before StartProbing",
            all at_new_before_switch_traffic "new Before SwitchTraffic",
            all at_new_sending_ready "new Sending ready",
            all at_old_sending_acknowledge "old Sending acknowledge",
            all at_old_sent_acknowledge "old Sent acknowledge",
            gone at_new_before_accept "new Before Relay(Accept)",
            gone at_new_after_accept "new After Relay(Accept)",
            all at_old_before_leave "old Before Relay(Leave)",
            all at_old_after_leave "old After Relay(Leave)",
            ended at_old_before_close "old Before Relay(Close)",
            ended at_old_after_close "old After Relay(Close)",
        }
    };
}

/// The steps of a bake, where there is a `[[proxy]]`.
macro_rules! steps_of_bakes {
    ($then:ident! $arguments:tt) => {
        $then! { $arguments
            all at_new_before_switch_traffic "new Before SwitchTraffic",
            all at_new_sending_baking "new Sending baking",
            all at_new_sent_baking "new Sent baking",
            all at_old_before_stand_by "old Before Relay(StandBy)",
            all at_old_after_stand_by "old After Relay(StandBy)",
            all at_old_sending_traffic "old Sending traffic",
            all at_old_sent_traffic "old Sent traffic",
            all at_new_received_traffic "new Received traffic",
            all at_new_before_accept "new Before Relay(Accept)",
            all at_new_after_accept "new After Relay(Accept)",
            all at_new_before_start_watching "new Before StartWatching",
            all at_new_before_take_pidfile "new Before TakePidfile",
            all at_new_sending_ready "new Sending ready",
            all at_old_sending_acknowledge "old Sending acknowledge",
            all at_old_sent_acknowledge "old Sent acknowledge",
            all at_old_before_leave "old Before Relay(Leave)",
        }
    };
}

/// One test, if the target exists at this step.
macro_rules! cell {
    // Only the old generation.
    (alone NewPsflip $($rest:tt)*) => {};
    (alone NewKeeper $($rest:tt)*) => {};
    (alone NewChild $($rest:tt)*) => {};
    (alone NewRelay $($rest:tt)*) => {};
    (alone NewPsflipAndKeeper $($rest:tt)*) => {};
    // The new psflip as well.
    (psflip NewKeeper $($rest:tt)*) => {};
    (psflip NewChild $($rest:tt)*) => {};
    (psflip NewRelay $($rest:tt)*) => {};
    (psflip NewPsflipAndKeeper $($rest:tt)*) => {};
    // The new keeper as well.
    (keeper NewChild $($rest:tt)*) => {};
    // All of the new generation, and the old psflip.
    (ended OldKeeper $($rest:tt)*) => {};
    (ended OldChild $($rest:tt)*) => {};
    // Only the new generation.
    (gone OldPsflip $($rest:tt)*) => {};
    (gone OldKeeper $($rest:tt)*) => {};
    (gone OldChild $($rest:tt)*) => {};
    (gone OldRelay $($rest:tt)*) => {};
    ($who:ident $target:ident $signal:ident $setting:ident $name:ident $step:literal) => {
        #[test]
        fn $name() {
            use super::{Signal, Target, cell, $setting};
            cell::happens($step, Signal::$signal, Target::$target, $setting);
        }
    };
}

/// A column: the tests of all steps.
macro_rules! cells {
    ([$target:ident $signal:ident $setting:ident] $($who:ident $name:ident $step:literal,)*) => {
        $(cell! { $who $target $signal $setting $name $step })*
    };
}

/// The names alone.
macro_rules! names {
    ([] $($who:ident $name:ident $step:literal,)*) => { &[$($step),*] };
}

const ALL: &[&str] = steps!(names![]);
const OF_RELAYS: &[&str] = steps_of_relays!(names![]);
const OF_BAKES: &[&str] = steps_of_bakes!(names![]);

/// The place at which a process pauses: role, moment and name, as `tools/doubles` records them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TracedStep<'a> {
    role: &'a str,
    moment: &'a str,
    name: &'a str,
}

impl fmt::Display for TracedStep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.role, self.moment, self.name)
    }
}

/// The steps of a trace by role, each once. Steps between which no other process could see a difference are
/// left out.
fn by_role(trace: &str) -> BTreeMap<&str, Vec<String>> {
    let all: Vec<TracedStep<'_>> = trace
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.strip_prefix("step ")?.split(' ').collect();
            let [_, role, moment, name] = *words else { return None };
            Some(TracedStep { role, moment, name })
        })
        // Progress reports to operators have no effect on the outcome.
        .filter(|step| {
            !["Arm", "Disarm", "Report(", "Relay(", "progress"].iter().any(|dull| step.name.starts_with(dull))
        })
        .collect();
    let neighbour = |number: usize, later: bool| {
        let same = |step: &&TracedStep<'_>| step.role == all[number].role;
        let found =
            if later { all[number + 1..].iter().find(same) } else { all[..number].iter().rev().find(same) };
        found.map_or("", |step| step.moment)
    };
    let is_distinct = |number: usize| match all[number].moment {
        "Before" => neighbour(number, true) != "Sending",
        "After" => neighbour(number, true) != "Before" && neighbour(number, false) != "Sent",
        _ => true,
    };
    let mut roles = BTreeMap::<&str, Vec<String>>::new();
    for step in (0..all.len()).filter(|number| is_distinct(*number)).map(|number| &all[number]) {
        let steps = roles.entry(step.role).or_default();
        if !steps.contains(&step.to_string()) {
            steps.push(step.to_string()); // a process pauses at the first step of that name
        }
    }
    roles
}

#[track_caller]
fn assert_all_steps(setting: Setting) {
    let staged = Staged::start(setting);
    let trace = staged.record();
    let mut expected = BTreeMap::<&str, Vec<String>>::new();
    for step in ALL {
        expected.entry(step.split(' ').next().unwrap_or_default()).or_default().push((*step).to_owned());
    }
    assert_eq!(by_role(&trace), expected, "the steps of an upgrade differ from those of `steps!`\n{trace}");
    staged.stop();
}

#[test]
fn the_list_has_every_step_of_an_upgrade() {
    assert_all_steps(PLAIN);
}

#[test]
fn the_list_has_every_step_of_an_upgrade_below_an_anchor() {
    assert_all_steps(ANCHORED);
}

#[test]
fn the_list_has_every_step_of_an_upgrade_with_workers() {
    for setting in [WORKERS, HIDDEN, GROUP] {
        assert_all_steps(setting);
    }
}

#[test]
fn every_step_that_concerns_a_relay_happens() {
    for (setting, steps) in [(PROXIED, OF_RELAYS), (BAKED, OF_BAKES)] {
        let staged = Staged::start(setting);
        let trace = staged.record();
        for step in steps {
            assert!(trace.lines().any(|line| line.ends_with(step)), "no `{step}` in\n{trace}");
        }
        staged.stop();
    }
}

#[test]
fn an_unlisted_step_is_found() {
    let trace = "step 1 old Before Acknowledge\ncall old Sendmsg 1\nstep 1 old Sending acknowledge\nstep 1 old Sent acknowledge\n\
                 step 1 old After Acknowledge\nstep 2 new Before RunHook(Promoted)\nstep 1 old Before Report(Superseded)\n";
    let found: Vec<String> = by_role(trace).into_values().flatten().collect();
    assert_eq!(found, ["new Before RunHook(Promoted)", "old Sending acknowledge", "old Sent acknowledge"]);
}
