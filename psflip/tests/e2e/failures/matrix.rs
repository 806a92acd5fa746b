//! Each process of a flip gets each signal at each step of it (F3, F6 to F12, C7, S5). `psflip-staged` waits at the step until the
//! signal is there. What has to come of it is not a table of what was seen: it follows from the clauses ([`expected`]) and from one
//! fact, whether the acknowledgement was sent, which is the point of no return (`docs/handover.md`).
#![expect(clippy::print_stdout, reason = "which cell it was that failed the test, and how many there were")]

use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use testkit::process::{Stat, State};
use testkit::{Deadline, Process, Psflip, Sandbox, Signal, wait_until};

use super::stage::Stage;

/// Long enough for every stop: nobody's time is to run down.
const TIMES: &str = "[upgrade]\ntimeout = \"20s\"\n[shutdown]\ntimeout = \"10s\"\n";

/// Who gets the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    OldPsflip,
    OldKeeper,
    OldChild,
    NewPsflip,
    NewKeeper,
    NewChild,
    /// The new psflip and its keeper, in the same instant.
    NewPsflipAndKeeper,
    Anchor,
}

/// What is left in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// The old generation serves on, untouched.
    Old,
    /// The new generation is the service.
    New,
    /// Nothing, since the service was stopped or its child died: no process, no pidfile.
    Nothing,
    /// Nothing, since the psflip that was the service was killed: the pidfile is stale.
    StalePidfile,
}

/// What the contract wants. `successor`: its process existed when the signal came. `committed`: the acknowledgement was sent.
fn expected(signal: Signal, target: Target, successor: bool, committed: bool) -> Left {
    use Target::{
        Anchor, NewChild, NewKeeper, NewPsflip, NewPsflipAndKeeper, OldChild, OldKeeper, OldPsflip,
    };
    match (signal, target) {
        // F12: nobody is lost, and nothing fails if no time runs down.
        (Signal::SIGSTOP, _) => Left::New,
        // F8 before the promotion, F9 after it.
        (Signal::SIGKILL, OldPsflip) if successor => Left::New,
        // C7.
        (Signal::SIGKILL, OldPsflip) => Left::StalePidfile,
        // F7; a keeper's end is its child's.
        (_, OldChild) | (Signal::SIGKILL, OldKeeper) => Left::New,
        // F6, F3, U8.
        (_, NewPsflip | NewPsflipAndKeeper | NewChild) | (Signal::SIGKILL, NewKeeper) if !committed => {
            Left::Old
        }
        // It is the service by now: C7, and what is next is the manager's business.
        (_, NewPsflipAndKeeper) | (Signal::SIGKILL, NewPsflip) => Left::StalePidfile,
        // C5, S5, P2.
        (_, NewPsflip | NewChild) | (Signal::SIGKILL, NewKeeper) => Left::Nothing,
        // F11; after the promotion it is an old generation that is ending anyway.
        (_, OldPsflip) if committed => Left::New,
        (_, OldPsflip) => Left::Nothing,
        // Keepers have everything blocked that can be.
        (_, OldKeeper | NewKeeper) => Left::New,
        // A4; A2 and F11: whoever is active ends, and nobody takes over.
        (Signal::SIGKILL, Anchor) => Left::StalePidfile,
        (_, Anchor) => Left::Nothing,
    }
}

/// Where a process waits: role, moment and name, as `psflip/tests/doubles` tells them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    role: String,
    moment: String,
    name: String,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.role, self.moment, self.name)
    }
}

/// The steps of a trace, without those between which nothing happens that another process could see.
fn steps(trace: &str) -> Vec<Step> {
    let all: Vec<Step> = trace
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.strip_prefix("step ")?.split(' ').collect();
            let [_, role, moment, name] = *words else { return None };
            Some(Step { role: role.to_owned(), moment: moment.to_owned(), name: name.to_owned() })
        })
        .filter(|step| !["Arm", "Disarm", "Tell("].iter().any(|dull| step.name.starts_with(dull)))
        .collect();
    let neighbour = |number: usize, later: bool| {
        let same = |step: &&Step| step.role == all[number].role;
        let found =
            if later { all[number + 1..].iter().find(same) } else { all[..number].iter().rev().find(same) };
        found.map_or("", |step| step.moment.as_str())
    };
    let is_distinct = |number: usize| match all[number].moment.as_str() {
        "Before" => neighbour(number, true) != "Sending",
        "After" => neighbour(number, true) != "Before" && neighbour(number, false) != "Sent",
        _ => true,
    };
    (0..all.len()).filter(|number| is_distinct(*number)).map(|number| all[number].clone()).collect()
}

/// A child whose workers and orphans outlive it and their parents, and how many these are.
const WORKERS: &[&str] = &["forks-workers", "--workers", "1", "--orphans", "1", "--setsid"];
const MORE: usize = 2;

/// A service whose psflip can be paused.
struct Staged {
    anchored: bool,
    /// How many processes belong to the child.
    more: usize,
    sandbox: Sandbox,
    stage: Stage,
    psflip: Psflip,
}

impl Staged {
    fn start(target: Target, anchored: bool) -> Self {
        let sandbox = Sandbox::new();
        let stage = Stage::new(&sandbox);
        let psflip = stage.psflip(&sandbox, TIMES);
        let has_workers = target == Target::NewPsflipAndKeeper;
        let psflip = if has_workers { psflip.cmd(crate::service::program(WORKERS)) } else { psflip };
        let more = if has_workers { MORE } else { 0 };
        let psflip = if anchored { crate::anchor::anchored(psflip) } else { psflip };
        let psflip = psflip.start().wait_ready();
        Self { anchored, more, sandbox, stage, psflip }
    }

    fn steps(&self) -> Vec<Step> {
        self.settle(); // it has more to do than to write the pidfile
        self.stage.plan(&self.sandbox, Some(self.psflip.active()), "record");
        self.psflip.flip();
        self.stage.no_plan(&self.sandbox);
        steps(&self.sandbox.read("trace"))
    }

    /// The process that has noted this.
    fn noted(&self, step: &str) -> Option<Process> {
        let trace = self.sandbox.read("trace");
        let line = trace.lines().find(|line| line.ends_with(step))?;
        line.split(' ').nth(1)?.parse().ok().and_then(Process::find)
    }

    fn find(&self, target: Target, old: Process, old_child: Process) -> Option<Process> {
        let found = match target {
            Target::OldPsflip => Some(old),
            Target::OldChild => Some(old_child),
            Target::OldKeeper => old_child.parent().filter(|keeper| keeper.parent() == Some(old)),
            Target::NewPsflip | Target::NewPsflipAndKeeper => self.noted("coming Begins successor"),
            Target::NewKeeper => self.noted("new-keeper Begins keeper"),
            Target::NewChild => self.noted("new-child Begins child"),
            Target::Anchor => Some(self.psflip.program().first()),
        };
        found.filter(Process::is_alive)
    }

    /// Waits until nobody does anything: all that can happen has happened. That nobody is seen to do anything does not prove it,
    /// so nothing depends on it but how much is tried.
    fn settle(&self) {
        let mut quiet = 0;
        wait_until(Deadline::default(), "all processes to wait for something", || {
            let waits = |process: &Process| !matches!(process.state(), State::Running);
            quiet = if self.sandbox.processes().iter().all(waits) { quiet + 1 } else { 0 };
            (quiet == 2).then_some(())
        });
    }

    /// One cell: `target` gets `signal` while the process at `step` waits. Says what was left; `None`: there was no such process.
    #[track_caller]
    fn cell(&self, step: &Step, target: Target, signal: Signal) -> Option<Left> {
        let Self { sandbox, stage, psflip, .. } = self;
        let flip = Flip { old: psflip.active(), child: psflip.child(), mark: psflip.output().mark() };
        stage.plan(sandbox, Some(flip.old), &format!("record\npause {step}"));
        psflip.request_flip();
        let paused = stage.wait_pause(sandbox);
        assert_eq!(paused.at, step.to_string());
        stage.pause_no_more(sandbox, flip.old);
        self.settle();
        self.assert_apart();
        let found = self.find(target, flip.old, flip.child);
        let successor = sandbox.read("trace").contains(" intermediate Begins ");
        if let Some(process) = found {
            let keeper = self.find(Target::NewKeeper, flip.old, flip.child);
            if let Some(keeper) = keeper.filter(|_| target == Target::NewPsflipAndKeeper) {
                let _ = keeper.signal(signal); // it may end at this moment
            }
            if signal == Signal::SIGSTOP && matches!(target, Target::OldKeeper | Target::NewKeeper) {
                // Its psflip continues it at once, unless that is what waits at the step.
                let _ = process.signal(signal); // it may end at this moment
            } else {
                strike(process, signal);
            }
        }
        let committed_before = self.is_committed();
        paused.go_on();
        if let Some(process) = found.filter(|_| signal == Signal::SIGSTOP) {
            self.settle();
            let _ = process.signal(Signal::SIGCONT); // it may have been ended
        }
        self.wait_decided(&flip);
        let committed = self.is_committed();
        // Nobody acknowledges the dead.
        let is_killed =
            signal == Signal::SIGKILL && matches!(target, Target::NewPsflip | Target::NewPsflipAndKeeper);
        if is_killed && found.is_some() {
            assert_eq!(committed, committed_before);
        }
        let left = match found {
            Some(_) if self.is_stop_passed_back() => Left::Nothing,
            Some(_) => expected(signal, target, successor, committed),
            None => Left::New,
        };
        self.assert_left(left, &flip);
        self.assert_ends(left, signal, target, &flip);
        found.map(|_| left)
    }

    /// A group that a child or a keeper leads is its alone (C10): whatever it sends there at this step reaches nobody else.
    #[track_caller]
    fn assert_apart(&self) {
        let stats: Vec<_> = self.sandbox.processes().iter().filter_map(Process::stat).collect();
        for leader in &stats {
            let is_psflip = leader.name.starts_with("psflip") && !leader.name.contains("keeper");
            let its = stats.iter().filter(|one| one.group == leader.process.pid());
            // One that is about to execute a program has not left its keeper's group yet.
            let comes = |one: &Stat| one.parent == leader.process.pid() && one.name == leader.name;
            let strangers: Vec<_> = its.filter(|one| one.process != leader.process && !comes(one)).collect();
            assert!(is_psflip || strangers.is_empty(), "in the group of {leader:?} are {strangers:?}");
        }
        let child = self.psflip.child().stat();
        assert!(child.is_none_or(|child| child.group == child.process.pid()), "the child leads no group");
    }

    fn is_committed(&self) -> bool {
        self.sandbox.read("trace").contains(" old Sent acknowledge")
    }

    /// The new psflip was asked to stop while the pidfile named it, and has told the old one, which still was the service. One that
    /// drains is told as well, so that it hurries.
    fn is_stop_passed_back(&self) -> bool {
        self.sandbox.read("trace").contains(" Sent stop") && !self.is_committed()
    }

    fn upgrade_failed(&self, flip: &Flip) -> bool {
        let its_own = format!("pid={}}}", flip.old);
        let lines = self.psflip.output().lines();
        lines[flip.mark..]
            .iter()
            .any(|line| line.text.contains(&its_own) && line.text.contains("upgrade failed"))
    }

    /// Waits until it is decided which generation the service is: the old one ends, or says that the upgrade failed.
    #[track_caller]
    fn wait_decided(&self, flip: &Flip) {
        wait_until(Deadline::default(), "the end of the old psflip, or of the upgrade", || {
            (!flip.old.is_alive() || self.upgrade_failed(flip)).then_some(())
        });
    }

    #[track_caller]
    fn assert_left(&self, left: Left, flip: &Flip) {
        let Self { sandbox, psflip, .. } = self;
        let number = self.more + if self.anchored { 4 } else { 3 };
        let wait_three = || {
            wait_until(
                Deadline::default(),
                format!("one psflip, one keeper and one child, and the anchor: {left:?}"),
                || (sandbox.processes().len() == number).then_some(()),
            );
        };
        match left {
            Left::Old => {
                wait_three();
                assert!(self.upgrade_failed(flip), "nobody says that the upgrade failed");
                assert_eq!((psflip.active(), psflip.child()), (flip.old, flip.child), "{left:?}");
            }
            Left::New => {
                psflip.wait_gone(flip.old);
                let new = psflip.wait_successor(flip.old);
                wait_three();
                assert_eq!((psflip.active(), self.noted("coming Begins successor")), (new, Some(new)));
                assert!(psflip.child().is_alive());
            }
            Left::Nothing => {
                sandbox.assert_no_process_left();
                assert!(!psflip.pidfile_path().exists(), "the pidfile is left");
            }
            Left::StalePidfile => {
                sandbox.assert_no_process_left();
                assert!(psflip.pidfile_path().exists(), "who removed the pidfile?");
            }
        }
    }

    /// How the psflips ended that did (C5, U5).
    #[track_caller]
    fn assert_ends(&self, left: Left, signal: Signal, target: Target, flip: &Flip) {
        if left == Left::Old {
            return;
        }
        if self.anchored {
            if left != Left::New {
                let number = if signal == Signal::SIGKILL { 9 } else { 15 };
                let end = self.psflip.wait_exit();
                assert!(is_end_by(end, number), "{end}"); // A3
            }
            return; // who reaps the others is the anchor
        }
        let old = self.psflip.wait_end_of(flip.old);
        match (signal, target) {
            // One that drains may have come to its end a moment before.
            (Signal::SIGKILL, Target::OldPsflip) => {
                assert!(old.signal() == Some(9) || self.is_committed() && old.success(), "{old}");
            }
            (_, Target::OldPsflip) if left == Left::Nothing => assert!(is_end_by(old, 15), "{old}"),
            _ if self.is_stop_passed_back() => {
                assert_eq!((signal, target), (Signal::SIGTERM, Target::NewPsflip));
                assert!(is_end_by(old, 15), "{old}");
                let new = self.noted("coming Begins successor").map(|new| self.psflip.wait_end_of(new));
                assert!(new.is_none_or(|new| new.code() == Some(125)), "it gave up: {new:?}");
                return;
            }
            _ => assert!(old.success(), "superseded, but ended with {old}"),
        }
        if left == Left::Nothing && target != Target::OldPsflip {
            let new = self.noted("coming Begins successor").map(|new| self.psflip.wait_end_of(new));
            let number = if signal == Signal::SIGKILL { 9 } else { 15 };
            // A keeper's death is told as the child's: SIGKILL.
            assert!(new.is_none_or(|new| is_end_by(new, number)), "{new:?}");
        }
    }
}

/// One upgrade.
struct Flip {
    old: Process,
    child: Process,
    mark: usize,
}

fn is_end_by(status: ExitStatus, signal: i32) -> bool {
    status.signal() == Some(signal) || status.code() == Some(128 + signal)
}

/// Sends the signal and waits until it has done what the kernel does.
#[track_caller]
fn strike(process: Process, signal: Signal) {
    let _ = process.signal(signal); // it may end at this moment
    let is_done = |state: State| match signal {
        Signal::SIGKILL => !state.is_alive(),
        // A vfork's parent can't be stopped until the exec, and is as soon as that is done.
        Signal::SIGSTOP => !state.is_alive() || matches!(state, State::Stopped | State::DiskSleep),
        _ => true,
    };
    wait_until(Deadline::default(), format!("{signal} to reach process {process}"), || {
        is_done(process.state()).then_some(())
    });
}

/// In how many tests the steps of a column are done: each of them has a time limit, and all run beside each other.
const PARTS: usize = 6;

/// Sends `signal` to `target` at every step of this part, below an anchor or not.
#[track_caller]
fn at_each_step_of_part(part: usize, signal: Signal, target: Target, anchored: bool) {
    let mut staged = Staged::start(target, anchored);
    let steps: Vec<Step> = staged.steps().into_iter().skip(part).step_by(PARTS).collect();
    let (mut cells, mut absent) = (0, 0);
    for step in &steps {
        println!("{signal} to {target:?} at {step}");
        match staged.cell(step, target, signal) {
            Some(_) => cells += 1,
            None => absent += 1,
        }
        if staged.sandbox.processes().is_empty() {
            staged = Staged::start(target, anchored);
        } else {
            staged.stage.no_plan(&staged.sandbox);
            staged.psflip.flip();
        }
    }
    println!("{cells} cells at {} steps; {absent} times there was no such process", steps.len());
    assert!(cells * 6 >= steps.len() && cells > 0, "{cells} cells at {} steps", steps.len());
    if anchored {
        crate::anchor::stop(&staged.psflip);
    } else {
        crate::service::stop(&staged.psflip);
    }
    staged.sandbox.assert_no_process_left();
}

/// A column: the name is that of a module with a test for each part.
macro_rules! at_each_step {
    ($(#[test] fn $name:ident() { $signal:ident to $target:ident $($anchored:ident)* })*) => {
        $(mod $name {
            at_each_step!(@parts $signal $target [$($anchored)*] part_1 0, part_2 1, part_3 2, part_4 3, part_5 4, part_6 5);
        })*
    };
    (@parts $signal:ident $target:ident $anchored:tt $($part:ident $number:expr),*) => {
        $(#[test]
        fn $part() {
            let anchored = !stringify!($anchored).eq("[]");
            super::at_each_step_of_part($number, super::Signal::$signal, super::Target::$target, anchored);
        })*
    };
}

at_each_step! {
    #[test]
    fn the_old_psflip_is_killed_at_each_step() {
        // Contract: F8, F9, C7
        SIGKILL to OldPsflip
    }

    #[test]
    fn the_new_psflip_is_killed_at_each_step() {
        // Contract: F6, U8, C7
        SIGKILL to NewPsflip
    }

    #[test]
    fn the_old_child_is_killed_at_each_step() {
        // Contract: F7
        SIGKILL to OldChild
    }

    #[test]
    fn the_new_child_is_killed_at_each_step() {
        // Contract: F3, U8, C5
        SIGKILL to NewChild
    }

    #[test]
    fn the_old_keeper_is_killed_at_each_step() {
        // Contract: F7, C7
        SIGKILL to OldKeeper
    }

    #[test]
    fn the_new_keeper_is_killed_at_each_step() {
        // Contract: F3, U8, C7
        SIGKILL to NewKeeper
    }

    #[test]
    fn the_old_psflip_is_stopped_and_continued_at_each_step() {
        // Contract: F12
        SIGSTOP to OldPsflip
    }

    #[test]
    fn the_new_psflip_is_stopped_and_continued_at_each_step() {
        // Contract: F12
        SIGSTOP to NewPsflip
    }

    #[test]
    fn the_old_child_is_stopped_and_continued_at_each_step() {
        // Contract: F12
        SIGSTOP to OldChild
    }

    #[test]
    fn the_new_child_is_stopped_and_continued_at_each_step() {
        // Contract: F12
        SIGSTOP to NewChild
    }

    #[test]
    fn the_old_keeper_is_stopped_and_continued_at_each_step() {
        // Contract: F12
        SIGSTOP to OldKeeper
    }

    #[test]
    fn the_new_keeper_is_stopped_and_continued_at_each_step() {
        // Contract: F12
        SIGSTOP to NewKeeper
    }

    #[test]
    fn the_old_psflip_gets_sigterm_at_each_step() {
        // Contract: F11, S5
        SIGTERM to OldPsflip
    }

    #[test]
    fn the_new_psflip_gets_sigterm_at_each_step() {
        // Contract: S5, U8, F11
        SIGTERM to NewPsflip
    }

    #[test]
    fn the_old_child_gets_sigterm_at_each_step() {
        // Contract: F7
        SIGTERM to OldChild
    }

    #[test]
    fn the_new_child_gets_sigterm_at_each_step() {
        // Contract: F3, U8
        SIGTERM to NewChild
    }

    #[test]
    fn the_old_keeper_gets_sigterm_at_each_step_and_heeds_it_not() {
        // Contract: C7, U8
        SIGTERM to OldKeeper
    }

    #[test]
    fn the_new_keeper_gets_sigterm_at_each_step_and_heeds_it_not() {
        // Contract: C7, U8
        SIGTERM to NewKeeper
    }

    #[test]
    fn the_anchor_gets_sigterm_at_each_step() {
        // Contract: A2, A3, F11, S5
        SIGTERM to Anchor below_an_anchor
    }

    #[test]
    fn the_anchor_is_killed_at_each_step() {
        // Contract: A4, C7
        SIGKILL to Anchor below_an_anchor
    }

    #[test]
    fn the_anchor_is_stopped_and_continued_at_each_step() {
        // Contract: A2, F12
        SIGSTOP to Anchor below_an_anchor
    }

    #[test]
    fn below_an_anchor_the_old_psflip_is_killed_at_each_step() {
        // Contract: A1, A3, F8, F9, C7
        SIGKILL to OldPsflip below_an_anchor
    }

    #[test]
    fn below_an_anchor_the_new_psflip_is_killed_at_each_step() {
        // Contract: A1, A3, F6, U8, C7
        SIGKILL to NewPsflip below_an_anchor
    }

    #[test]
    fn below_an_anchor_the_new_psflip_and_its_keeper_are_killed_at_each_step() {
        // Contract: A3, F6, U8, C7
        SIGKILL to NewPsflipAndKeeper below_an_anchor
    }
}
