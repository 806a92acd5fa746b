//! Process groups. A signal that a child, a health check or a hook sends to its group reaches no other
//! process. A signal to psflip's group leaves no process behind (C10, C7, S4).

use std::os::unix::process::ExitStatusExt as _;

use testkit::process::ProcessState;
use testkit::{Deadline, Process, Psflip, PsflipBuilder, Sandbox, Signal, Stream, wait_until};

use crate::anchor::anchored;
use crate::service::{AT_ONCE, configure, freeze, kill, psflip, stop, thaw};

const SLEEP: &[&str] = &["/bin/sleep", "infinity"];

/// The signals that programs send to their own group.
const SIGNALS: [&str; 6] = ["TERM", "HUP", "INT", "USR1", "KILL", "STOP"];

fn group(process: Process) -> u32 {
    process.stat().map(|stat| stat.group).unwrap_or_default()
}

/// The keeper of the active generation's child.
fn keeper(psflip: &Psflip) -> Process {
    psflip.child().parent().unwrap()
}

/// With and without an anchor.
fn both_ways(test: impl Fn(fn(PsflipBuilder) -> PsflipBuilder)) {
    test(|builder| builder);
    test(anchored);
}

/// Stops the service by a request to the process that its supervisor knows.
#[track_caller]
fn stop_all(psflip: &Psflip, sandbox: &Sandbox) {
    let active = psflip.active();
    let first = psflip.program().first();
    first.signal(Signal::SIGTERM).or_else(|_| active.signal(Signal::SIGTERM)).unwrap();
    psflip.wait_gone(active);
    sandbox.assert_no_process_left();
}

/// Kills the service, however its child handles a stop request.
#[track_caller]
fn kill_all(psflip: &Psflip, sandbox: &Sandbox) {
    let active = psflip.active();
    kill(active);
    psflip.wait_gone(active);
    sandbox.assert_no_process_left();
}

#[test]
fn child_keeper_and_generations_below_an_anchor_have_their_own_groups() {
    // Contract: C10
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let psflip = how(psflip(&sandbox, SLEEP, AT_ONCE)).start().wait_ready();
        let first = psflip.program().first();
        let is_anchored = psflip.active() != first;
        for _ in 0..3 {
            let (child, keeper) = (psflip.child(), keeper(&psflip));
            let of_generation = if is_anchored { psflip.active().pid() } else { group(first) };
            assert_eq!(
                [group(child), group(keeper), group(psflip.active())],
                [child.pid(), keeper.pid(), of_generation],
                "{}",
                sandbox.report()
            );
            if is_anchored {
                psflip.flip();
            }
        }
        stop_all(&psflip, &sandbox);
    });
}

#[test]
fn an_old_child_that_signals_its_group_on_exit_affects_no_other_process() {
    // Contract: C10, U5
    both_ways(|how| {
        for signal in SIGNALS {
            let sandbox = Sandbox::new();
            let again = "trap - TERM HUP INT USR1";
            let script = format!(
                "trap '{again}; kill -{signal} 0; exit 0' TERM; echo trapped; while :; do sleep 0.02; done"
            );
            let argv = ["/bin/sh", "-c", &script];
            let rest = format!("{AT_ONCE}[shutdown]\ntimeout = \"300ms\"\n");
            let psflip = how(psflip(&sandbox, &argv, &rest)).start().wait_ready();
            for number in 1..=2 {
                psflip.output().wait_count(number, Stream::Stdout, "trapped");
                psflip.flip();
                assert!(psflip.active().is_alive() && psflip.child().is_alive(), "{}", sandbox.report());
                assert!(!psflip.log().contains("requested signal=SIGTERM"), "{}", psflip.log());
                assert_eq!(psflip.log().matches("upgrade requested").count(), number, "{}", psflip.log());
            }
            kill_all(&psflip, &sandbox);
        }
    });
}

#[test]
fn a_new_child_that_signals_its_group_fails_alone() {
    // Contract: C10, F3, U8
    both_ways(|how| {
        for signal in SIGNALS {
            let sandbox = Sandbox::new();
            let times = "[upgrade]\ntimeout = \"300ms\"\n[shutdown]\ntimeout = \"300ms\"\n";
            let psflip = how(psflip(&sandbox, SLEEP, AT_ONCE)).start().wait_ready();
            let (old, child) = (psflip.active(), psflip.child());
            let never = "[healthcheck.command]\ncmd = [\"false\"]\ninterval = \"5ms\"\n";
            let script = format!("kill -{signal} 0; exec sleep infinity");
            configure(&sandbox, &["/bin/sh", "-c", &script], &format!("{never}{times}"));
            psflip.request_flip();
            psflip.wait_for_line(Stream::Stderr, "upgrade failed");
            assert_eq!((psflip.active(), psflip.child()), (old, child), "{signal}\n{}", sandbox.report());
            assert_eq!(child.state(), ProcessState::Sleeping, "{signal}\n{}", sandbox.report());
            configure(&sandbox, SLEEP, AT_ONCE);
            psflip.flip();
            stop_all(&psflip, &sandbox);
        }
    });
}

#[test]
fn health_checks_and_hooks_that_signal_their_group_reach_only_themselves() {
    // Contract: C10, H2
    both_ways(|how| {
        for signal in SIGNALS {
            let sandbox = Sandbox::new();
            let psflip = how(psflip(&sandbox, SLEEP, AT_ONCE)).start().wait_ready();
            let times = "[upgrade]\ntimeout = \"20s\"\n[hooks]\ntimeout = \"300ms\"\n";
            // The first probe is killed by its own signal. The second one finds the file.
            let probe = format!("test -e seen && exit 0; echo > seen; trap 'kill -{signal} 0' EXIT; true");
            let check = format!(
                "[healthcheck.command]\ncmd = [\"sh\", \"-c\", \"{probe}\"]\ninterval = \"5ms\"\ntimeout = \"300ms\"\n"
            );
            let hook = format!("promoted = [\"sh\", \"-c\", \"kill -{signal} 0\"]\n");
            configure(&sandbox, SLEEP, &format!("{check}{times}{hook}"));
            psflip.flip();
            psflip.wait_for_line(Stream::Stderr, "hook");
            assert!(psflip.active().is_alive() && psflip.child().is_alive(), "{}", sandbox.report());
            let failing = format!("promote = [\"sh\", \"-c\", \"kill -{signal} 0\"]\n");
            configure(&sandbox, SLEEP, &format!("{AT_ONCE}{times}{failing}"));
            let (active, child) = (psflip.active(), psflip.child());
            psflip.request_flip();
            psflip.wait_for_line(Stream::Stderr, "upgrade failed");
            assert_eq!((psflip.active(), psflip.child()), (active, child), "{signal}\n{}", sandbox.report());
            assert!(!psflip.log().contains("stop requested"), "{}", psflip.log());
            stop_all(&psflip, &sandbox);
        }
    });
}

#[test]
fn a_kill_of_psflips_whole_group_leaves_no_process() {
    // Contract: C10, C7
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let tree = ["/bin/sh", "-c", "setsid sleep infinity & sleep infinity & wait"];
        let psflip = how(psflip(&sandbox, &tree, AT_ONCE)).start().wait_ready();
        wait_until(Deadline::default(), "the child's children", || {
            (psflip.child().children().len() == 2).then_some(())
        });
        psflip.program().first().signal_group(Signal::SIGKILL).unwrap();
        assert_eq!(psflip.wait_exit().signal(), Some(9));
        sandbox.assert_no_process_left();
    });
}

#[test]
fn an_upgrade_signal_to_psflips_whole_group_is_one_request() {
    // Contract: S4, C10, A2
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let psflip = how(psflip(&sandbox, SLEEP, AT_ONCE)).start().wait_ready();
        let old = psflip.active();
        psflip.program().first().signal_group(Signal::SIGHUP).unwrap();
        psflip.wait_successor(old);
        psflip.wait_gone(old);
        assert_eq!(psflip.log().matches("upgrade requested").count(), 1, "{}", psflip.log());
        stop_all(&psflip, &sandbox);
    });
}

#[test]
fn an_upgrade_signal_that_also_terminates_the_child_is_an_upgrade() {
    // Contract: S4, F7
    for _ in 0..5 {
        let sandbox = Sandbox::new();
        let psflip = psflip(&sandbox, SLEEP, AT_ONCE).start().wait_ready();
        let (old, child) = (psflip.active(), psflip.child());
        // psflip finds both at once, as when `systemctl kill` signals every process of the service.
        freeze(old);
        let parent = child.parent().unwrap();
        child.signal(Signal::SIGHUP).unwrap();
        wait_until(Deadline::default(), "the keeper to have reaped the child", || {
            (!child.is_alive() && parent.children().is_empty()).then_some(())
        });
        old.signal(Signal::SIGHUP).unwrap();
        thaw(old);
        let new = psflip.wait_successor(old);
        assert!(psflip.wait_end_of(old).success(), "superseded\n{}", sandbox.report());
        assert!(new.is_alive() && psflip.child().is_alive());
        stop(&psflip);
        sandbox.assert_no_process_left();
    }
}

#[test]
fn a_suspended_child_exits_on_a_stop_request_and_after_an_upgrade() {
    // Contract: S3, S5, U5
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let rest = format!("{AT_ONCE}[shutdown]\ntimeout = \"1h\"\n");
        let psflip = how(psflip(&sandbox, SLEEP, &rest)).start().wait_ready();
        freeze(psflip.child());
        psflip.flip(); // waits until the old generation is gone
        freeze(psflip.child());
        stop_all(&psflip, &sandbox);
    });
}

#[test]
fn job_control_signals_without_a_terminal_suspend_and_continue_all() {
    // Contract: S3, A2
    both_ways(|how| {
        for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
            let sandbox = Sandbox::new();
            let builder = psflip(&sandbox, SLEEP, AT_ONCE).session(testkit::Session::New);
            let psflip = how(builder).start().wait_ready();
            let first = psflip.program().first();
            let all = [psflip.child(), psflip.active(), first];
            let wait = |wanted: ProcessState| {
                for process in all {
                    wait_until(
                        Deadline::default(),
                        format!("{process} to be {wanted:?} by {signal}"),
                        || (process.state() == wanted).then_some(()),
                    );
                }
            };
            first.signal(signal).unwrap();
            wait(ProcessState::Stopped);
            first.signal(Signal::SIGCONT).unwrap();
            wait(ProcessState::Sleeping);
            psflip.flip();
            stop_all(&psflip, &sandbox);
        }
    });
}

#[test]
fn a_suspended_child_does_not_suspend_psflip() {
    // Contract: S3, F12
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let psflip = how(psflip(&sandbox, SLEEP, &format!("{AT_ONCE}[log]\nlevel = \"debug\"\n"))).start();
        let psflip = psflip.wait_ready();
        for signal in [Signal::SIGSTOP, Signal::SIGTSTP] {
            let mark = psflip.output().mark();
            psflip.child().signal(signal).unwrap();
            psflip.output().wait_after(mark, Stream::Stderr, "the child was stopped");
            let child = psflip.child();
            wait_until(Deadline::default(), "the child to be stopped", || {
                (child.state() == ProcessState::Stopped).then_some(())
            });
            assert_ne!(psflip.active().state(), ProcessState::Stopped, "{signal}\n{}", sandbox.report());
            psflip.flip();
        }
        stop_all(&psflip, &sandbox);
    });
}
