//! Keepers that are stopped or hang: psflip never waits for them without a limit (C5, C7, U5, H2).

use std::sync::Arc;

use testkit::process::ProcessState;
use testkit::{Deadline, Process, Running, Sandbox, Signal, Stream, wait_until};

use super::AT_ONCE;
use crate::service::{kill, program, psflip};

/// Keeps a process from running, as a debugger does, so that SIGCONT does not continue it. The process
/// continues when the returned one exits. `None`, after a message: not possible here.
#[track_caller]
pub(crate) fn hold(sandbox: &Sandbox, process: Process) -> Option<Arc<Running>> {
    const SEIZE_AND_INTERRUPT: &str = "import ctypes, sys\n\
        ptrace = ctypes.CDLL(None).ptrace\n\
        ptrace.argtypes = [ctypes.c_long] * 4\n\
        pid = int(sys.argv[1])\n\
        if ptrace(0x4206, pid, 0, 0) or ptrace(0x4207, pid, 0, 0): sys.exit('refused')\n\
        print('holds', flush=True)\n\
        sys.stdin.read()";
    let pid = process.to_string();
    let command = ["python3", "-c", SEIZE_AND_INTERRUPT, &pid];
    let holder = sandbox.command(command).stdin(testkit::Stdin::Pipe).start();
    let started = wait_until(Deadline::default(), "the debugger to stop the process, or to fail", || {
        if holder.stdout().contains("holds") { Some(true) } else { holder.try_status().map(|_| false) }
    });
    if !started {
        testkit::skip("ptrace", "python3 is not installed, or may not trace");
        return None;
    }
    wait_until(Deadline::default(), format!("process {process} to be held"), || {
        matches!(process.state(), ProcessState::Stopped | ProcessState::Traced).then_some(())
    });
    Some(holder)
}

#[test]
fn the_exit_of_a_child_that_suspended_its_keeper_is_detected() {
    // Contract: C5, S5
    let ends = "trap 'kill -STOP $PPID; exit 7' TERM; echo up; while :; do sleep 0.01; done";
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["/bin/sh", "-c", ends], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "up");
    psflip.flip();
    psflip.output().wait_count(2, Stream::Stdout, "up");
    assert_eq!(psflip.stop().code(), Some(7), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn the_exit_of_a_first_child_that_suspended_its_keeper_is_detected() {
    // Contract: C5, C6
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["/bin/sh", "-c", "kill -STOP $PPID; exit 5"], "").start();
    assert_eq!(psflip.wait_exit().code(), Some(5), "{}", sandbox.report());
}

#[test]
fn a_suspended_keeper_is_continued() {
    // Contract: C9, F12
    let sandbox = Sandbox::new();
    let child = ["/bin/sh", "-c", "(sleep 1000 &) ; echo up; exec sleep 1000"];
    let psflip = psflip(&sandbox, &child, AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "up");
    let keeper = psflip.child().parent().unwrap();
    keeper.signal(Signal::SIGSTOP).unwrap();
    // The keeper reaps the orphan, so it runs.
    for orphan in keeper.children().into_iter().filter(|process| *process != psflip.child()) {
        kill(orphan);
        super::reaping::wait_reaped(orphan);
    }
    psflip.stop();
}

#[test]
fn the_exit_of_probes_and_hooks_that_suspended_the_keeper_is_detected() {
    // Contract: H2, U4
    let stops = "cmd = [\"sh\", \"-c\", \"kill -STOP $PPID\"]\n";
    let hooks = "[hooks]\npromote = [\"sh\", \"-c\", \"kill -STOP $PPID; echo hooked >> hooked\"]\n";
    let sandbox = Sandbox::new();
    let config = format!("[healthcheck.command]\n{stops}timeout = \"1h\"\n{hooks}");
    let psflip = psflip(&sandbox, &["/bin/sleep", "1000"], &config).start().wait_ready();
    psflip.flip();
    assert!(sandbox.read("hooked").contains("hooked"));
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_keeper_that_hangs_is_killed_and_the_childs_exit_is_relayed() {
    // Contract: C5, C7
    let sandbox = Sandbox::new();
    let child = program(&["dies-later", "--on-file", "go", "--code", "23"]);
    let child: Vec<&str> = child.iter().map(String::as_str).collect();
    let psflip = psflip(&sandbox, &child, AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready");
    let Some(holder) = hold(&sandbox, psflip.child().parent().unwrap()) else { return };
    sandbox.write("go", "");
    psflip.wait_for_line(Stream::Stderr, "its keeper did not report that");
    assert_eq!(psflip.wait_exit().code(), Some(23), "{}", sandbox.report());
    holder.close_stdin();
    sandbox.assert_no_process_left();
}

#[test]
fn the_exit_of_a_watch_command_that_suspended_its_keeper_is_detected() {
    // Contract: W3, C5
    let sandbox = Sandbox::new();
    let watch = crate::watch::watch(&sandbox, &[], &["sh", "-c", "kill -STOP $PPID; exit 4"]);
    assert_eq!(watch.wait_exit().code(), Some(4), "{}", sandbox.report());
}
