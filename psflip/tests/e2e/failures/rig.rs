//! A service on two sockets that take turns, so that a failing generation can't disturb the one that serves.
//! A client sends requests to both without pause.

use std::collections::BTreeSet;

use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Deadline, FdSnapshot, Process, Psflip, PsflipBuilder, Sandbox, wait_until};

use crate::service::program;

/// The outcome of an upgrade. Both are allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Contract U8.
    Failed,
    /// The new generation is the service.
    Promoted,
}

const CONFIG: &str = "\
[healthcheck.unix]
path = \"{{ ab('a', 'b') }}.sock\"
interval = \"10ms\"
[upgrade]
timeout = \"10s\"
[shutdown]
timeout = \"1s\"
[log]
level = \"debug\"
";

/// The child's command.
pub(super) fn server() -> Vec<String> {
    program(&["http-server", "--unix", "{{ ab('a', 'b') }}.sock", "--linger", "0ms"])
}

/// The service.
pub(super) struct Rig {
    pub(super) sandbox: Sandbox,
    pub(super) psflip: Psflip,
    probe: AvailabilityProbe,
    /// Pids of all children that may have answered.
    children: BTreeSet<String>,
    /// Number of processes that belong to the test.
    companions: usize,
}

impl Rig {
    /// Starts the service and waits for the first answered requests. `change` may add to the sandbox, and to
    /// the way psflip is started.
    #[track_caller]
    pub(super) fn start(change: impl FnOnce(&Sandbox, PsflipBuilder) -> PsflipBuilder) -> Self {
        let sandbox = Sandbox::new();
        let builder = change(&sandbox, sandbox.psflip().cmd(server()).config(CONFIG));
        let companions = sandbox.processes().len();
        let psflip = builder.start().wait_ready();
        let sockets = ["a.sock", "b.sock"].map(|name| sandbox.path(name));
        let probe = AvailabilityProbe::start(1, |_| {
            let mut clients = sockets.each_ref().map(HttpClient::unix);
            // A client of two addresses stays with the one that answered.
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
        let mut rig = Self { sandbox, psflip, probe, children: BTreeSet::new(), companions };
        rig.know_child();
        rig
    }

    fn know_child(&mut self) {
        self.children.insert(self.psflip.child().pid().to_string());
    }

    /// Runs one upgrade, which `cause` requests, and checks that it has one of the two outcomes. `clean_up`
    /// undoes what `cause` has set up.
    #[track_caller]
    pub(super) fn upgrade(
        &mut self,
        cause: impl FnOnce(&Self, Process),
        clean_up: impl FnOnce(&Self),
    ) -> Outcome {
        let (old, child) = (self.psflip.active(), self.psflip.child());
        let open = FdSnapshot::of(old);
        let mark = self.psflip.output().mark();
        cause(self, old);
        let outcome = wait_until(Deadline::default(), "the upgrade to finish", || {
            if !old.is_alive() {
                return Some(Outcome::Promoted);
            }
            let lines = self.psflip.output().lines();
            let failed = lines.iter().skip(mark).any(|line| line.text.contains("upgrade failed"));
            failed.then_some(Outcome::Failed)
        });
        clean_up(self);
        self.check(outcome, old, child, mark);
        if outcome == Outcome::Failed {
            open.assert_unchanged();
        }
        outcome
    }

    #[track_caller]
    fn check(&mut self, outcome: Outcome, old: Process, child: Process, mark: usize) {
        let left = 3 + self.companions;
        let what = "only one psflip, keeper and child to be left";
        wait_until(Deadline::default(), what, || (self.sandbox.processes().len() == left).then_some(()));
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
        let pidfile = self.psflip.pidfile_path();
        let name = pidfile.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(names_like(pidfile), [name.clone(), name + ".sock"], "{}", report());
        let seen = self.probe.report();
        assert_eq!(seen.failed, 0, "{seen}\n{}", report());
        let strangers: Vec<_> = seen.by_tag.keys().filter(|pid| !self.children.contains(*pid)).collect();
        assert!(strangers.is_empty(), "a child that was never promoted has answered: {strangers:?}\n{seen}");
    }

    /// An upgrade in which nothing fails.
    #[track_caller]
    pub(super) fn upgrade_well(&mut self) {
        let (old, child, mark) = (self.psflip.active(), self.psflip.child(), self.psflip.output().mark());
        self.psflip.flip();
        self.check(Outcome::Promoted, old, child, mark);
    }

    /// Stops the service: nothing is left, and no request was lost.
    #[track_caller]
    pub(super) fn ends(self) {
        let Self { sandbox, psflip, probe, companions, .. } = self;
        probe.wait_requests(3);
        probe.finish().assert_no_failures();
        let status = psflip.stop();
        assert!(status.success(), "{status}\n{}", sandbox.report());
        assert_eq!(names_like(psflip.pidfile_path()), [""; 0], "{}", sandbox.report());
        wait_until(Deadline::default(), "all of psflip's processes to exit", || {
            (sandbox.processes().len() == companions).then_some(())
        });
    }

    /// Abandons the service after a test has failed, without further checks.
    pub(super) fn give_up(self) {
        let Self { sandbox, psflip, probe, .. } = self;
        sandbox.expect_leftovers();
        drop(probe);
        drop(psflip);
    }
}

/// The pidfile, and temporary files for it.
pub(super) fn names_like(pidfile: &std::path::Path) -> Vec<String> {
    let part = pidfile.file_name().unwrap().to_string_lossy().into_owned();
    let names = std::fs::read_dir(pidfile.parent().unwrap()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    // `psflip.pid.last` tells `psflip status` why the service went down.
    let last = format!("{part}.last");
    let mut names: Vec<String> = names.filter(|name| name.contains(&part) && *name != last).collect();
    names.sort_unstable();
    names
}
