//! One cell: a service is upgraded, pauses at the step, and the target gets the signal.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use testkit::process::{ProcessState, Stat};
use testkit::{Deadline, Process, Psflip, Sandbox, Signal, Stream, wait_until};

use super::expected::{Left, Target, expected};
use super::{Child, Setting};
use crate::failures::stage::Stage;
use crate::tree::hidden;

/// Long enough for every stop: no timeout may expire.
const TIMES: &str = "timeout = \"20s\"\n[shutdown]\ntimeout = \"10s\"\n";

/// Ends by itself.
const BAKE: &str = "bake = \"100ms\"\n";

/// Nobody connects to it.
const PROXY: &str = "[[proxy]]\nlisten = \"unix://web.sock\"\nforward = \"unix://{{ blue_green() }}.sock\"\n";

/// A child whose workers and orphans outlive it and their parents.
const WORKERS: [&str; 5] = ["--workers", "1", "--orphans", "1", "--setsid"];

/// A child that signals its whole process group when it gets SIGTERM, and terminates by that signal.
const SIGNALS_GROUP: &str = "trap 'trap - TERM; kill -TERM 0' TERM; echo trapped; sleep infinity & wait";

/// A service whose psflip can be paused.
pub(super) struct Staged {
    setting: Setting,
    sandbox: Sandbox,
    stage: Stage,
    psflip: Psflip,
}

/// One upgrade.
struct Flip {
    old: Process,
    child: Process,
    mark: usize,
}

/// Sends `signal` to `target` while the process at `step` is paused, and checks that the outcome is what the
/// contract says.
#[track_caller]
pub(super) fn happens(step: &str, signal: Signal, target: Target, setting: Setting) {
    if setting.child == Child::Hidden && !crate::tree::is_root() {
        return;
    }
    let staged = Staged::start(setting);
    let left = staged.cell(step, target, signal);
    if matches!(left, Left::Old | Left::New) {
        staged.stage.no_plan(&staged.sandbox);
        staged.psflip.flip(); // U8: the next upgrade works
        staged.stop();
    }
}

impl Staged {
    pub(super) fn start(setting: Setting) -> Self {
        let sandbox = Sandbox::new();
        let stage = Stage::new(&sandbox);
        let proxy = if setting.proxied { PROXY } else { "" };
        let bake = if setting.bakes { BAKE } else { "" };
        let psflip = stage.psflip(&sandbox, &format!("[upgrade]\n{bake}{TIMES}{proxy}"));
        let psflip = match setting.child {
            Child::Plain => psflip,
            Child::Workers => {
                let program = [testkit::fixture("forks-workers").display().to_string()];
                psflip.cmd(program.into_iter().chain(WORKERS.map(str::to_owned)))
            }
            Child::Hidden => {
                let program = [hidden::unreadable(&sandbox, "forks-workers")];
                stage.is_for_all(&sandbox);
                hidden::where_all_is_hidden(psflip.cmd(program.into_iter().chain(WORKERS.map(str::to_owned))))
            }
            Child::SignalsGroup => psflip.cmd(["/bin/sh", "-c", SIGNALS_GROUP]),
        };
        let psflip = if setting.anchored { crate::anchor::anchored(psflip) } else { psflip };
        let psflip = psflip.start().wait_ready();
        let staged = Self { setting, sandbox, stage, psflip };
        staged.wait_trapped(1);
        staged
    }

    /// Waits until that many children that signal their group have set their traps.
    #[track_caller]
    fn wait_trapped(&self, count: usize) {
        if self.setting.child == Child::SignalsGroup {
            self.psflip.output().wait_count(count, Stream::Stdout, "trapped");
        }
    }

    /// The trace of an upgrade.
    pub(super) fn record(&self) -> String {
        self.settle(); // the start goes on after the pidfile is written
        self.stage.plan(&self.sandbox, Some(self.psflip.active()), "record");
        self.psflip.flip();
        self.settle(); // the new psflip must see the old one exit
        self.stage.no_plan(&self.sandbox);
        self.sandbox.read("trace")
    }

    /// Stops the service.
    #[track_caller]
    pub(super) fn stop(self) {
        if self.setting.anchored {
            crate::anchor::stop(&self.psflip);
        } else {
            crate::service::stop(&self.psflip);
        }
        self.sandbox.assert_no_process_left();
    }

    /// The process that recorded this step.
    fn noted(&self, step: &str) -> Option<Process> {
        let trace = self.sandbox.read("trace");
        let line = trace.lines().find(|line| line.ends_with(step))?;
        line.split(' ').nth(1)?.parse().ok().and_then(Process::find)
    }

    /// The target, as soon as it exists.
    #[track_caller]
    fn wait_for(&self, target: Target, flip: &Flip) -> Process {
        let find = || {
            let found = match target {
                Target::OldPsflip => Some(flip.old),
                Target::OldChild => Some(flip.child),
                Target::OldKeeper => flip.child.parent().filter(|keeper| keeper.parent() == Some(flip.old)),
                Target::NewPsflip | Target::NewPsflipAndKeeper => self.noted("coming Begins successor"),
                Target::NewKeeper => self.noted("new-keeper Begins keeper"),
                Target::NewChild => self.noted("new-child Begins child"),
                Target::OldRelay => relay_of(Some(flip.old)),
                Target::NewRelay => relay_of(self.noted("coming Begins successor")),
                Target::Anchor => Some(self.psflip.program().first()),
            };
            found.filter(Process::is_alive)
        };
        wait_until(Deadline::default(), format!("{target:?} to be there"), find)
    }

    /// Waits until no process does anything, so that all that can happen has happened. This is a heuristic:
    /// no assertion depends on it, only how much is tried.
    fn settle(&self) {
        let mut quiet = 0;
        wait_until(Deadline::default(), "all processes to wait for something", || {
            let waits = |process: &Process| !matches!(process.state(), ProcessState::Running);
            quiet = if self.sandbox.processes().iter().all(waits) { quiet + 1 } else { 0 };
            (quiet == 2).then_some(())
        });
    }

    #[track_caller]
    fn cell(&self, step: &str, target: Target, signal: Signal) -> Left {
        let Self { sandbox, stage, psflip, .. } = self;
        let flip = Flip { old: psflip.active(), child: psflip.child(), mark: psflip.output().mark() };
        stage.plan(sandbox, Some(flip.old), &format!("record\npause {step}"));
        psflip.request_flip();
        let paused = stage.wait_pause(sandbox);
        assert_eq!(paused.at, step);
        stage.pause_no_more(sandbox, flip.old);
        self.settle();
        self.assert_apart();
        let process = self.wait_for(target, &flip);
        if target == Target::NewChild && step != "new-child Begins child" {
            self.wait_trapped(2);
        }
        let successor = sandbox.read("trace").contains(" intermediate Begins ");
        if target == Target::NewPsflipAndKeeper {
            // Both at once, as far as psflip can see: it must not notice the death of its keeper before its own.
            let keeper = self.wait_for(Target::NewKeeper, &flip);
            let _ = process.signal(Signal::SIGSTOP); // both may just have exited
            let _ = keeper.signal(signal);
        }
        if signal == Signal::SIGSTOP && target.is_keeper() {
            // Its psflip continues it at once, unless that psflip is the one paused at the step.
            let _ = process.signal(signal); // it may just have exited
        } else {
            strike(process, signal);
        }
        let committed_before = self.is_committed();
        paused.go_on();
        // Only psflip continues a keeper (F12).
        if signal == Signal::SIGSTOP && !target.is_keeper() {
            self.settle();
            let _ = process.signal(Signal::SIGCONT); // it may have been killed
        }
        self.wait_decided(&flip);
        let committed = self.is_committed();
        // A killed psflip gets no acknowledgement.
        if signal == Signal::SIGKILL && matches!(target, Target::NewPsflip | Target::NewPsflipAndKeeper) {
            assert_eq!(committed, committed_before);
        }
        let left = if self.is_stop_passed_back() {
            Left::Nothing
        } else if target == Target::NewRelay && self.upgrade_failed(&flip) {
            Left::Old // it was lost while its generation started (T9)
        } else {
            expected(signal, target, successor, committed)
        };
        self.assert_left(left, &flip);
        self.assert_ends(left, signal, target, &flip);
        if target == Target::OldChild || target == Target::NewChild {
            // Not even a child that signals its whole group stops psflip (C10).
            assert!(!psflip.log().contains("stop requested"), "{}", psflip.log());
        }
        left
    }

    /// A child and a keeper each lead a group of their own (C10). A signal to that group at this step reaches
    /// no other process.
    #[track_caller]
    fn assert_apart(&self) {
        let stats: Vec<_> = self.sandbox.processes().iter().filter_map(Process::stat).collect();
        for leader in &stats {
            let is_psflip = leader.name.starts_with("psflip") && !leader.name.contains(": ");
            let is_keeper = leader.name.contains("keeper");
            let its = stats.iter().filter(|one| one.group == leader.process.pid());
            // A process that is about to execute a program is still in its keeper's group. The child's own
            // children are in the child's group.
            let belongs = |one: &Stat| {
                one.parent == leader.process.pid() && (one.name == leader.name || !is_keeper)
                    || one.process == leader.process
            };
            let strangers: Vec<_> = its.filter(|one| !belongs(one)).collect();
            assert!(is_psflip || strangers.is_empty(), "in the group of {leader:?} are {strangers:?}");
        }
        let child = self.psflip.child().stat();
        assert!(child.is_none_or(|child| child.group == child.process.pid()), "the child leads no group");
    }

    fn is_committed(&self) -> bool {
        self.sandbox.read("trace").contains(" old Sent acknowledge")
    }

    /// The new psflip got a stop request while the pidfile named it, and passed it to the old one, which
    /// still was the service. A draining psflip gets the message, too, to shorten its drain.
    fn is_stop_passed_back(&self) -> bool {
        self.sandbox.read("trace").contains(" Sent stop") && !self.is_committed()
    }

    fn upgrade_failed(&self, flip: &Flip) -> bool {
        let its_own = format!("pid={}}}", flip.old);
        let ends = ["upgrade failed", "upgrade rolled back"];
        let lines = self.psflip.output().lines();
        lines[flip.mark..]
            .iter()
            .any(|line| line.text.contains(&its_own) && ends.iter().any(|end| line.text.contains(end)))
    }

    /// Waits until it is decided which generation serves: the old psflip exits, or logs that the upgrade
    /// failed.
    #[track_caller]
    fn wait_decided(&self, flip: &Flip) {
        wait_until(Deadline::default(), "the old psflip to exit, or the upgrade to finish", || {
            (!flip.old.is_alive() || self.upgrade_failed(flip)).then_some(())
        });
    }

    #[track_caller]
    fn assert_left(&self, left: Left, flip: &Flip) {
        let Self { sandbox, psflip, setting, .. } = self;
        let number =
            setting.child.more() + if setting.anchored { 4 } else { 3 } + usize::from(setting.proxied);
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
                assert!(self.upgrade_failed(flip), "no line reports that the upgrade failed");
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

    /// Checks the exit statuses of the psflips that exited (C5, U5).
    #[track_caller]
    fn assert_ends(&self, left: Left, signal: Signal, target: Target, flip: &Flip) {
        if left == Left::Old {
            return;
        }
        if self.setting.anchored {
            if left != Left::New {
                let number = if signal == Signal::SIGKILL { 9 } else { 15 };
                let end = self.psflip.wait_exit();
                assert!(is_end_by(end, number), "{end}"); // A3
            }
            return; // the anchor reaps the others
        }
        let old = self.psflip.wait_end_of(flip.old);
        match (signal, target) {
            // A draining psflip may have exited just before.
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
            _ => assert!(old.success(), "superseded, but exited with {old}"),
        }
        if left == Left::Nothing && target.is_of_new_generation() {
            let new = self.noted("coming Begins successor").map(|new| self.psflip.wait_end_of(new));
            let number = if signal == Signal::SIGKILL { 9 } else { 15 };
            // The death of a keeper is reported as the child's: SIGKILL.
            assert!(new.is_none_or(|new| is_end_by(new, number)), "{new:?}");
        }
    }
}

/// The relay of this psflip.
fn relay_of(psflip: Option<Process>) -> Option<Process> {
    let is_relay = |child: &Process| child.stat().is_some_and(|stat| stat.name == "psflip: relay");
    psflip?.children().into_iter().find(is_relay)
}

fn is_end_by(status: ExitStatus, signal: i32) -> bool {
    status.signal() == Some(signal) || status.code() == Some(128 + signal)
}

/// Sends the signal and waits until the kernel has acted on it.
#[track_caller]
fn strike(process: Process, signal: Signal) {
    let _ = process.signal(signal); // it may just have exited
    let is_done = |state: ProcessState| match signal {
        Signal::SIGKILL => !state.is_alive(),
        // A process in vfork(2) can't be stopped until its child's exec. It stops right after that.
        Signal::SIGSTOP => {
            !state.is_alive() || matches!(state, ProcessState::Stopped | ProcessState::DiskSleep)
        }
        _ => true,
    };
    wait_until(Deadline::default(), format!("{signal} to reach process {process}"), || {
        is_done(process.state()).then_some(())
    });
}
