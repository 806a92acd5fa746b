//! An anchor on a terminal. An upgrade keeps the foreground. Keys, job control and window size changes reach
//! the active child once (S2, S3).

use testkit::process::ProcessState;
use testkit::{Psflip, Sandbox, Signal, Stream};

use super::by_default::anchor_above;
use super::{anchor_of, anchored};
use crate::terminal::{SHELL, assert_got, end, logger, ready, wait_state};

/// Starts a new count: the next generation's child has received no signal yet.
#[track_caller]
fn flip(psflip: &Psflip, generation: u32) {
    psflip.flip();
    psflip.wait_for_line(Stream::Pty, &format!("name=gen{generation}"));
    assert!(!psflip.output().text(Stream::Pty).contains("shell: last="), "the prompt came back");
}

#[test]
fn an_upgrade_keeps_the_foreground_and_keys_reach_the_new_child_once() {
    // Contract: A1, S2
    let sandbox = Sandbox::new();
    let psflip = ready(anchored(logger(&sandbox).wrapper(SHELL)));
    let anchor = anchor_above(&psflip);
    flip(&psflip, 2);
    flip(&psflip, 3);
    assert_eq!(anchor_above(&psflip), anchor);
    psflip.program().resize(30, 100);
    assert_got(&sandbox, &psflip, Signal::SIGWINCH, 1);
    psflip.program().write_stdin("\x1c");
    assert_got(&sandbox, &psflip, Signal::SIGQUIT, 1);
    psflip.program().write_stdin("\x03");
    assert_got(&sandbox, &psflip, Signal::SIGINT, 1);
    end(&psflip, 0);
}

#[test]
fn ctrl_z_stops_the_anchor_too_and_fg_continues_all_once() {
    // Contract: A2, S2, S3
    let sandbox = Sandbox::new();
    let psflip = ready(anchored(logger(&sandbox).wrapper(SHELL)));
    flip(&psflip, 2);
    let all = [anchor_above(&psflip), psflip.active(), psflip.child()];
    psflip.program().write_stdin("\x1a");
    for process in all.iter().rev() {
        wait_state(*process, ProcessState::Stopped);
    }
    psflip.wait_for_line(Stream::Pty, "shell: last=14"); // 128 + SIGTSTP or SIGSTOP
    psflip.program().write_stdin("fg\n");
    assert_got(&sandbox, &psflip, Signal::SIGCONT, 1);
    assert_got(&sandbox, &psflip, Signal::SIGTSTP, 1);
    for process in all {
        wait_state(process, ProcessState::Sleeping);
    }
    end(&psflip, 0);
}

#[test]
fn a_suspended_job_continues_and_is_upgraded_in_the_background() {
    // Contract: A1, S3
    let sandbox = Sandbox::new();
    let psflip = anchored(logger(&sandbox).cmd(["sleep", "1000"]).wrapper(SHELL)).start().wait_ready();
    let all = [anchor_above(&psflip), psflip.active(), psflip.child()];
    psflip.program().write_stdin("\x1a");
    psflip.wait_for_line(Stream::Pty, "shell: last=14");
    wait_state(all[0], ProcessState::Stopped);
    psflip.program().write_stdin("bg\n");
    for process in all {
        wait_state(process, ProcessState::Sleeping);
    }
    psflip.flip();
    assert_eq!(anchor_above(&psflip), all[0]);
    all[0].signal(Signal::SIGTERM).unwrap();
    psflip.wait_gone(all[0]);
    psflip.program().write_stdin("exit 7\n");
    assert_eq!(psflip.wait_exit().code(), Some(7));
}

#[test]
fn a_stop_and_a_continue_by_signal_go_through_the_anchor() {
    // Contract: A2, S3
    let sandbox = Sandbox::new();
    let psflip = ready(anchored(logger(&sandbox).wrapper(SHELL)));
    let all = [anchor_above(&psflip), psflip.active(), psflip.child()];
    all[0].signal(Signal::SIGTSTP).unwrap();
    for process in all.iter().rev() {
        wait_state(*process, ProcessState::Stopped);
    }
    all[0].signal(Signal::SIGCONT).unwrap();
    assert_got(&sandbox, &psflip, Signal::SIGCONT, 1);
    for process in all {
        wait_state(process, ProcessState::Sleeping);
    }
    psflip.signal(Signal::SIGTERM);
    psflip.wait_gone(all[0]);
    psflip.program().write_stdin("exit 7\n");
    assert_eq!(psflip.wait_exit().code(), Some(7));
}

#[test]
fn a_session_leader_of_a_terminal_is_an_anchor_by_default() {
    // Contract: A1, S2, U8
    let sandbox = Sandbox::new();
    let psflip = ready(anchored(logger(&sandbox)));
    let anchor = anchor_of(&psflip);
    flip(&psflip, 2);
    psflip.program().write_stdin("\x1c");
    assert_got(&sandbox, &psflip, Signal::SIGQUIT, 1);
    psflip.program().resize(30, 100);
    assert_got(&sandbox, &psflip, Signal::SIGWINCH, 1);
    assert_eq!(anchor_above(&psflip), anchor);
    assert!(super::stop(&psflip).success(), "{}", sandbox.report());
}
