//! A service on two sockets that take turns, and strace(1), which lets one system call of one of its processes fail.

use std::collections::BTreeSet;

use testkit::client::http::HttpClient;
use testkit::process::State;
use testkit::{
    AvailabilityProbe, Deadline, FdSnapshot, Process, Psflip, Sandbox, Signal, psflip_bin, wait_until,
};

use super::faults::{attach, end_strace, keeper, trace};
use crate::service::{program, script};

/// Whose system calls fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The psflip that is asked for the upgrade.
    Old,
    /// Its keeper.
    OldKeeper,
    /// The two processes that the old psflip forks, until the second has become the new psflip.
    Between,
    /// The new psflip, from its exec on.
    New,
    /// The new psflip's keeper, from the moment when it is set up, and the child until its exec.
    NewKeeper,
}

/// How an upgrade ended, and both are fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Contract U8.
    Failed,
    /// The new generation is the service.
    Promoted,
}

/// Where a successor is found; strace steps in there when it is told to.
const EXE: &str = "bin/psflip";
/// What strace writes.
const TRACE: &str = "trace";
/// Its options for the next psflip.
const OPTIONS: &str = "options";

/// The child listens on a socket of its generation's own, so that a failed one takes nothing from its predecessor.
const CONFIG: &str = "\
[healthcheck.unix]
path = \"{{ ab('a', 'b') }}.sock\"
interval = \"10ms\"
[upgrade]
timeout = \"2s\"
[shutdown]
timeout = \"1s\"
[log]
level = \"debug\"
";
const SERVER: &[&str] = &["http-server", "--unix", "{{ ab('a', 'b') }}.sock", "--linger", "0ms"];

/// The service.
pub(super) struct Rig {
    sandbox: Sandbox,
    psflip: Psflip,
    probe: AvailabilityProbe,
    /// Pids of all children that may have answered.
    children: BTreeSet<String>,
}

impl Rig {
    #[track_caller]
    pub(super) fn start() -> Self {
        let sandbox = Sandbox::new();
        std::fs::create_dir(sandbox.path("bin")).unwrap();
        std::os::unix::fs::symlink(psflip_bin(), sandbox.path(EXE)).unwrap();
        // Puts the real one back, and traces it: the pid and the path stay what the old psflip knows.
        let dir = sandbox.dir().display();
        let text = format!(
            "ln -s '{real}' {dir}/bin/next && mv -fT {dir}/bin/next {dir}/{EXE} &&\n\
             exec strace -D -b execve -o {dir}/{TRACE} $(cat {dir}/{OPTIONS}) \"$0\" \"$@\"",
            real = psflip_bin().display()
        );
        script(&sandbox, "bin/traced", &text);
        let exe = sandbox.path(EXE);
        let psflip = sandbox.psflip().cmd(program(SERVER)).config(CONFIG).exe(exe).start().wait_ready();
        let sockets = ["a.sock", "b.sock"].map(|name| sandbox.path(name));
        let probe = AvailabilityProbe::start(1, |_| {
            let mut clients = sockets.each_ref().map(HttpClient::unix);
            // As a client of two addresses does: it stays where it was answered.
            let mut current = 0;
            move || {
                let answer = clients[current].get("/").and_then(|answer| answer.tag("pid"));
                if answer.is_ok() {
                    return answer;
                }
                current = 1 - current;
                clients[current].get("/")?.tag("pid")
            }
        });
        probe.wait_requests(3);
        let mut rig = Self { sandbox, psflip, probe, children: BTreeSet::new() };
        rig.know_child();
        rig
    }

    fn know_child(&mut self) {
        self.children.insert(self.psflip.child().pid().to_string());
    }

    pub(super) fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Lets one upgrade run under strace with these options, and checks that it ended in one of the two ways.
    #[track_caller]
    pub(super) fn upgrade(&mut self, role: Role, options: &[impl AsRef<str>]) -> Outcome {
        let (old, child) = (self.psflip.active(), self.psflip.child());
        let open = FdSnapshot::of(old);
        let options: Vec<&str> = options.iter().map(AsRef::as_ref).collect();
        let _ = std::fs::remove_file(self.sandbox.path(TRACE)); // the first time it isn't there
        let mark = self.psflip.output().mark();
        self.trace(role, &options, old);
        let outcome = wait_until(Deadline::default(), "the end of the upgrade", || {
            if !old.is_alive() {
                return Some(Outcome::Promoted);
            }
            let lines = self.psflip.output().lines();
            let failed = lines.iter().skip(mark).any(|line| line.text.contains("upgrade failed"));
            failed.then_some(Outcome::Failed)
        });
        end_strace(&self.sandbox);
        self.check(outcome, old, child, mark);
        if outcome == Outcome::Failed {
            open.assert_unchanged();
        }
        outcome
    }

    #[track_caller]
    fn check(&mut self, outcome: Outcome, old: Process, child: Process, mark: usize) {
        let what = "one psflip, one keeper and one child to be left";
        wait_until(Deadline::default(), what, || (self.sandbox.processes().len() == 3).then_some(()));
        let active = self.psflip.active();
        if outcome == Outcome::Promoted {
            self.know_child();
        }
        let report = || self.sandbox.report();
        match outcome {
            Outcome::Failed => {
                assert_eq!((active, self.psflip.child()), (old, child), "{}", report());
                let lines = self.psflip.output().lines();
                let line = lines.iter().skip(mark).find(|line| line.text.contains("upgrade failed"));
                let line = line.map(|line| line.text.as_str()).unwrap_or_default();
                assert!(line.contains("the old child keeps running") && line.contains("reason="), "{line}");
            }
            Outcome::Promoted => assert_ne!(active, old, "{}", report()),
        }
        self.sandbox.assert_zombie_free();
        let names = std::fs::read_dir(self.sandbox.dir()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        let pidfiles: Vec<String> = names.filter(|name| name.contains("psflip.pid")).collect();
        assert_eq!(pidfiles, ["psflip.pid"], "{}", report());
        let seen = self.probe.report();
        assert_eq!(seen.failed, 0, "{seen}\n{}", report());
        let strangers: Vec<_> = seen.by_tag.keys().filter(|pid| !self.children.contains(*pid)).collect();
        assert!(strangers.is_empty(), "a child that was never promoted has answered: {strangers:?}\n{seen}");
    }

    /// An upgrade that nothing goes wrong in.
    #[track_caller]
    pub(super) fn upgrade_untraced(&mut self) {
        let (old, child, mark) = (self.psflip.active(), self.psflip.child(), self.psflip.output().mark());
        self.psflip.flip();
        self.check(Outcome::Promoted, old, child, mark);
    }

    /// The end: nothing is left, no request was lost.
    #[track_caller]
    pub(super) fn ends(self) {
        let Self { sandbox, psflip, probe, .. } = self;
        probe.wait_requests(3);
        probe.finish().assert_no_failures();
        let status = psflip.stop();
        assert!(status.success(), "{status}\n{}", sandbox.report());
        assert!(!psflip.pidfile_path().exists(), "{}", sandbox.report());
        sandbox.assert_no_process_left();
    }

    /// After a test of it has failed: nothing of it is looked at any more.
    pub(super) fn give_up(self) {
        let Self { sandbox, psflip, probe, .. } = self;
        sandbox.expect_leftovers();
        drop(probe);
        drop(psflip);
    }

    /// What strace wrote of the last upgrade that was traced.
    pub(super) fn trace_text(&self) -> String {
        trace(&self.sandbox.path(TRACE))
    }

    /// Asks for an upgrade, with strace where it is wanted.
    #[track_caller]
    fn trace(&self, role: Role, options: &[&str], old: Process) {
        match role {
            Role::Old => {
                self.attach(old, options);
                self.psflip.request_flip();
            }
            Role::OldKeeper => {
                self.attach(keeper(old), options);
                self.psflip.request_flip();
            }
            Role::New => self.request_traced(options),
            Role::Between => {
                // The first call of a forked process stops it, so that there is time to change what fails.
                let stop = [
                    "-f",
                    "-e",
                    "trace=set_robust_list",
                    "-e",
                    "inject=set_robust_list:signal=SIGSTOP:when=1",
                ];
                self.attach(old, &stop);
                self.psflip.request_flip();
                self.go_on_with(options);
            }
            Role::NewKeeper => {
                // A new psflip calls prctl(2) once, its keeper three times before it starts anything.
                self.request_traced(&["-f", "-e", "trace=prctl", "-e", "inject=prctl:signal=SIGSTOP:when=3"]);
                self.go_on_with(options);
            }
        }
    }

    /// The new psflip runs under strace from its first moment.
    #[track_caller]
    fn request_traced(&self, options: &[&str]) {
        self.sandbox.write(OPTIONS, options.join(" "));
        let link = self.sandbox.path("bin/tracing");
        std::os::unix::fs::symlink("traced", &link).unwrap();
        std::fs::rename(link, self.sandbox.path(EXE)).unwrap();
        self.psflip.request_flip();
    }

    /// Waits until the one process that strace stops is stopped, and lets it and its children go on with these options.
    #[track_caller]
    fn go_on_with(&self, options: &[&str]) {
        let pid = wait_until(Deadline::default(), "a process to be stopped by strace", || {
            let text = self.trace_text();
            let line = text.lines().find(|line| line.contains("stopped by SIGSTOP"))?;
            line.split_ascii_whitespace().next()?.parse().ok()
        });
        end_strace(&self.sandbox);
        let process = Process::find(pid).unwrap_or_else(|| panic!("process {pid} has ended"));
        wait_until(Deadline::default(), "a process to be stopped without strace", || {
            (process.state() == State::Stopped).then_some(())
        });
        let options: Vec<&str> = ["-f", "-b", "execve"].iter().chain(options).copied().collect();
        self.attach(process, &options);
        process.signal(Signal::SIGCONT).unwrap();
    }

    #[track_caller]
    fn attach(&self, process: Process, options: &[&str]) {
        attach(&self.sandbox, process, &self.sandbox.path(TRACE), options);
    }
}
