//! A service whose upgrades run under strace(1), which injects the failures of system calls.

use testkit::process::ProcessState;
use testkit::{Deadline, Process, Signal, psflip_bin, wait_until};

use super::super::rig::{Outcome, Rig};
use super::faults::{attach, end_strace, keeper, trace};
use crate::service::{script, wait_idle};

/// The process whose system calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The psflip that gets the upgrade request.
    Old,
    /// Its keeper.
    OldKeeper,
    /// The two processes that the old psflip forks, until the second has become the new psflip.
    Between,
    /// The new psflip, from its exec on.
    New,
    /// The new psflip's keeper once it is set up, and the child until its exec.
    NewKeeper,
}

/// The path at which psflip finds its successor. The test puts a script there that starts strace.
const EXE: &str = "bin/psflip";
/// The file with strace's output.
const TRACE: &str = "trace";
/// The file with strace's options for the next psflip.
const OPTIONS: &str = "options";

/// The service.
pub(super) struct Traced {
    pub(super) rig: Rig,
}

impl Traced {
    #[track_caller]
    pub(super) fn start() -> Self {
        let rig = Rig::start(|sandbox, psflip| {
            std::fs::create_dir(sandbox.path("bin")).unwrap();
            std::os::unix::fs::symlink(psflip_bin(), sandbox.path(EXE)).unwrap();
            // Restores the real one, and traces it. The pid and the path remain those that the old psflip
            // knows.
            let dir = sandbox.dir().display();
            let text = format!(
                "ln -s '{real}' {dir}/bin/next && mv -fT {dir}/bin/next {dir}/{EXE} &&\n\
                 exec strace -D -b execve -o {dir}/{TRACE} $(cat {dir}/{OPTIONS}) \"$0\" \"$@\"",
                real = psflip_bin().display()
            );
            script(sandbox, "bin/traced", &text);
            psflip.exe(sandbox.path(EXE))
        });
        Self { rig }
    }

    /// Runs one upgrade under strace with these options, and checks that it has one of the two outcomes.
    #[track_caller]
    pub(super) fn upgrade(&mut self, role: Role, options: &[impl AsRef<str>]) -> Outcome {
        let options: Vec<&str> = options.iter().map(AsRef::as_ref).collect();
        let _ = std::fs::remove_file(self.rig.sandbox.path(TRACE)); // missing the first time
        self.rig.upgrade(|rig, old| trace_upgrade(rig, role, &options, old), |rig| end_strace(&rig.sandbox))
    }

    /// The output of strace for the last traced upgrade.
    pub(super) fn trace_text(&self) -> String {
        trace(&self.rig.sandbox.path(TRACE))
    }
}

/// Requests an upgrade, with strace attached where the role requires it.
#[track_caller]
fn trace_upgrade(rig: &Rig, role: Role, options: &[&str], old: Process) {
    // So that the same calls follow each time.
    wait_idle(old);
    wait_idle(keeper(old));
    match role {
        Role::Old => {
            attach_to(rig, old, options);
            rig.psflip.request_flip();
        }
        Role::OldKeeper => {
            attach_to(rig, keeper(old), options);
            rig.psflip.request_flip();
        }
        Role::New => request_traced(rig, options),
        Role::Between => {
            // The first call of a forked process stops it. That gives time to change which calls fail.
            let stop =
                ["-f", "-e", "trace=set_robust_list", "-e", "inject=set_robust_list:signal=SIGSTOP:when=1"];
            attach_to(rig, old, &stop);
            rig.psflip.request_flip();
            go_on_with(rig, role, options);
        }
        Role::NewKeeper => {
            // A new psflip calls prctl(2) once, its keeper three times before it starts anything. The psflip
            // is stopped once it has forked the keeper, since it would continue the keeper: at pidfd_open(2)
            // of the keeper, its third one. A signal at clone(2) itself would come before the fork, and this
            // psflip would be taken for its keeper.
            let stops = ["inject=prctl:signal=SIGSTOP:when=3", "inject=pidfd_open:signal=SIGSTOP:when=3"];
            request_traced(rig, &["-f", "-e", "trace=prctl,pidfd_open", "-e", stops[0], "-e", stops[1]]);
            go_on_with(rig, role, options);
        }
    }
}

/// Runs the new psflip under strace from its exec on.
#[track_caller]
fn request_traced(rig: &Rig, options: &[&str]) {
    rig.sandbox.write(OPTIONS, options.join(" "));
    let link = rig.sandbox.path("bin/tracing");
    std::os::unix::fs::symlink("traced", &link).unwrap();
    std::fs::rename(link, rig.sandbox.path(EXE)).unwrap();
    rig.psflip.request_flip();
}

/// Waits until strace has stopped a process, then lets that process and its children continue with these
/// options.
#[track_caller]
fn go_on_with(rig: &Rig, role: Role, options: &[&str]) {
    let process = wait_until(Deadline::default(), "a process to be stopped by strace", || {
        let text = trace(&rig.sandbox.path(TRACE));
        let lines = text.lines().filter(|line| line.contains("stopped by SIGSTOP"));
        let pids = lines.filter_map(|line| line.split_ascii_whitespace().next()?.parse().ok());
        // Not the psflip that was stopped so that it does not continue its keeper.
        pids.filter_map(Process::find).find(|process| process.children().is_empty())
    });
    let parent = process.parent().filter(|parent| keepers_of(*parent).contains(&process));
    if role == Role::NewKeeper {
        assert!(parent.is_some(), "{process} is no keeper");
    }
    end_strace(&rig.sandbox);
    wait_until(Deadline::default(), "a process to be stopped without strace", || {
        (process.state() == ProcessState::Stopped).then_some(())
    });
    let options: Vec<&str> = ["-f", "-b", "execve"].iter().chain(options).copied().collect();
    attach_to(rig, process, &options);
    process.signal(Signal::SIGCONT).unwrap();
    if let Some(psflip) = parent {
        psflip.signal(Signal::SIGCONT).unwrap();
    }
}

fn keepers_of(psflip: Process) -> Vec<Process> {
    let is_keeper = |process: &Process| process.stat().is_some_and(|stat| stat.name.contains("keeper"));
    psflip.children().into_iter().filter(is_keeper).collect()
}

#[track_caller]
fn attach_to(rig: &Rig, process: Process, options: &[&str]) {
    attach(&rig.sandbox, process, &rig.sandbox.path(TRACE), options);
}
