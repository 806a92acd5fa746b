//! runit, s6, daemontools and Supervisor.

use testkit::managers::{Kind, Managed, Seen};
use testkit::{Deadline, Process, Sandbox, Signal, child_of, psflip_bin, wait_until};

use crate::rig::{
    AT_ONCE, BROKEN, SERVER, SERVING, STUBBORN, Steady, configure, is_root, path, probe, wait_gone,
    wait_pidfile,
};

/// A service under a supervisor.
struct Rig {
    kind: Kind,
    sandbox: Sandbox,
    manager: Managed,
    /// The stable parent.
    steady: Process,
}

impl Rig {
    #[track_caller]
    fn start(kind: Kind, steady: Steady, child: &[&str], rest: &str) -> Self {
        let sandbox = Sandbox::new();
        configure(&sandbox, "", child, rest);
        let file = match kind {
            Kind::Runit => "runit/run",
            Kind::S6 => "s6/run",
            Kind::Daemontools => "daemontools/run",
            Kind::Supervisord => "supervisord/app.conf",
        };
        let text = steady.example(file, &sandbox.dir().display().to_string());
        let manager = kind.start(&sandbox, &path(), &text);
        wait_pidfile(&sandbox.path("app.pid"), None);
        let steady = manager.wait_process(&psflip_bin(), None);
        Self { kind, sandbox, manager, steady }
    }

    /// The active psflip.
    #[track_caller]
    fn active(&self) -> Process {
        let pid = wait_pidfile(&self.sandbox.path("app.pid"), None);
        Process::find(pid.trim().parse().unwrap()).unwrap()
    }

    /// Upgrades by the supervisor's own command.
    #[track_caller]
    fn flip(&self) {
        let old = self.active();
        self.manager.hang_up();
        wait_pidfile(&self.sandbox.path("app.pid"), Some(&format!("{old}\n")));
        wait_gone("the old psflip", &[old]);
    }

    /// The last exit that the supervisor saw, once it has seen `count`.
    #[track_caller]
    fn wait_end(&self, count: usize) -> Option<Seen> {
        if self.kind == Kind::Daemontools {
            return None; // it keeps no record of them
        }
        Some(wait_until(Deadline::default(), format!("{} to notice an exit", self.kind), || {
            self.manager.ends().get(count - 1).copied()
        }))
    }

    /// Waits until the supervisor has started another stable parent, with a healthy child.
    #[track_caller]
    fn wait_restarted(&mut self, old_pidfile: &str) {
        self.steady = self.manager.wait_process(&psflip_bin(), Some(self.steady));
        wait_pidfile(&self.sandbox.path("app.pid"), Some(old_pidfile));
    }

    /// Stops the supervisor, and checks that nothing is left.
    #[track_caller]
    fn quit(self) {
        self.manager.quit();
        self.sandbox.assert_no_process_left();
    }
}

fn flips(kind: Kind, steady: Steady) {
    let rig = Rig::start(kind, steady, SERVER, SERVING);
    // Supervisor reports a program as running after it has run for a second.
    wait_until(
        Deadline::default(),
        format!("{kind} to report {} as the running process", rig.steady),
        || rig.manager.status().contains(&rig.steady.to_string()).then_some(()),
    );
    let probe = probe(&rig.sandbox.path("app.sock"));
    probe.wait_requests(10);
    for _ in 0..50 {
        rig.flip();
        probe.wait_requests(5);
    }
    // A failed upgrade changes nothing.
    let before = (rig.active(), child_of(rig.active()));
    configure(&rig.sandbox, "", BROKEN, SERVING);
    rig.manager.hang_up();
    wait_until(Deadline::default(), "the upgrade to fail", || {
        rig.sandbox.path("failed").exists().then_some(())
    });
    configure(&rig.sandbox, "", SERVER, SERVING);
    assert_eq!((rig.active(), child_of(rig.active())), before, "{}", rig.sandbox.report());
    rig.flip();
    probe.wait_requests(10);
    probe.finish().assert_no_failures();
    assert_eq!(rig.manager.process(&psflip_bin()), Some(rig.steady), "{}", rig.sandbox.report());
    assert_eq!(rig.manager.ends(), [], "{}", rig.sandbox.report());
    // A stop by the supervisor's own command.
    let family = rig.steady.tree();
    rig.manager.stop();
    assert!(family.iter().all(|process| !process.is_alive()), "{}", rig.sandbox.report());
    assert!(!rig.sandbox.path("app.pid").exists() && !rig.sandbox.path("app.sock").exists());
    if kind != Kind::Supervisord {
        assert!(matches!(rig.wait_end(1), None | Some(Seen::Exited(0))), "{:?}", rig.manager.ends());
    }
    rig.quit();
}

fn crash(kind: Kind, steady: Steady) {
    let child = ["dies-later", "--on-file", "end", "--code", "23"];
    let mut rig = Rig::start(kind, steady, &child, AT_ONCE);
    rig.flip();
    let (old, pidfile) = (rig.steady, format!("{}\n", rig.active()));
    // The next one waits for another file, since it may start before the test could remove this one.
    configure(&rig.sandbox, "", &["dies-later", "--on-file", "end-again", "--code", "23"], AT_ONCE);
    rig.sandbox.write("end", "");
    wait_gone("the steady process", &[old]);
    assert!(
        matches!(rig.wait_end(1), None | Some(Seen::Exited(23))),
        "{:?}\n{}",
        rig.manager.ends(),
        rig.sandbox.report()
    );
    rig.wait_restarted(&pidfile);
    rig.flip();
    rig.quit();
}

fn killed(kind: Kind, steady: Steady) {
    if !is_root() {
        return; // it may not change users
    }
    let soon = format!("{AT_ONCE}[shutdown]\ntimeout = \"100ms\"\n"); // they ignore the stop signal
    let mut rig = Rig::start(kind, steady, STUBBORN, &soon);
    let mut victims = vec!["psflip", "its keeper first", "the steady process"];
    if steady == Steady::Watch {
        victims.push("the keeper of watch");
    }
    for (count, victim) in (1..).zip(victims) {
        if count > 1 {
            rig.flip(); // a later generation, whose parent is the stable parent or its keeper
        }
        let psflip = rig.active();
        let child = wait_until(Deadline::default(), "all workers and orphans", || {
            let child = child_of(psflip)?;
            (child.parent()?.tree().len() == 6).then_some(child)
        });
        let family = rig.steady.tree();
        assert!(family.len() >= 8, "{}", rig.sandbox.report());
        let victims = match victim {
            "psflip" => vec![psflip],
            "its keeper first" => vec![child.parent().unwrap(), psflip],
            "the steady process" => vec![rig.steady],
            _ => rig.steady.children(),
        };
        let pidfile = format!("{psflip}\n");
        for victim in victims {
            let _ = victim.signal(Signal::SIGKILL); // it may have exited with the other one
        }
        wait_gone(&format!("everything after the kill of {victim}"), &family);
        assert!(
            matches!(rig.wait_end(count), None | Some(Seen::Killed(9))),
            "{victim}: {:?}",
            rig.manager.ends()
        );
        rig.wait_restarted(&pidfile);
    }
    // A process that ignores the supervisor's stop signal is killed after the timeout.
    rig.quit();
}

/// One test for each supervisor, stable parent and event.
macro_rules! matrix {
    ($($manager:ident: $kind:ident, $mode:ident;)*) => {
        $(mod $manager {
            use super::{Kind, Steady};

            #[test]
            fn load_fifty_upgrades_a_failed_one_and_a_stop() {
                // Contract: U8, U10, S1, F3, P2, C8
                super::flips(Kind::$kind, Steady::$mode);
            }

            #[test]
            fn the_supervisor_gets_the_childs_exit_code_and_restarts() {
                // Contract: C5
                super::crash(Kind::$kind, Steady::$mode);
            }

            #[test]
            fn nothing_survives_a_kill() {
                // Contract: C7
                super::killed(Kind::$kind, Steady::$mode);
            }
        })*
    };
}

matrix! {
    runit_and_watch: Runit, Watch;
    s6_and_watch: S6, Watch;
    daemontools_and_watch: Daemontools, Watch;
    supervisord_and_watch: Supervisord, Watch;
    runit_and_an_anchor: Runit, Anchor;
    s6_and_an_anchor: S6, Anchor;
    daemontools_and_an_anchor: Daemontools, Anchor;
    supervisord_and_an_anchor: Supervisord, Anchor;
}
