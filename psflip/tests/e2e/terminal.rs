//! On a real terminal: keys, job control, and window size changes (contract S2, S3).

mod foreground;

use testkit::process::ProcessState;
use testkit::{Deadline, Process, Psflip, PsflipBuilder, Sandbox, Signal, Stream, fixture, wait_until};

use crate::service::LOGGER;

/// An interactive shell with job control. psflip is its job in the foreground; after that the shell runs what
/// is typed.
pub(crate) const SHELL: [&str; 7] = [
    "bash",
    "--norc",
    "--noprofile",
    "-i",
    "-c",
    "\"$@\"; while echo \"shell: last=$?\"; read -r line; do eval \"$line\"; done",
    "bash",
];

/// A shell without job control. Its children share its process group, as in most scripts. It survives Ctrl-C.
const SCRIPT: [&str; 4] =
    ["sh", "-c", "trap : INT QUIT; \"$@\"; while :; do read line; [ \"$line\" = exit ] && exit; done", "sh"];

pub(crate) fn logger(sandbox: &Sandbox) -> PsflipBuilder {
    let logger = fixture("signal-logger");
    sandbox.psflip().cmd([logger.to_str().unwrap(), "--stop-on-tstp"]).config(LOGGER).pty()
}

pub(crate) fn ready(psflip: PsflipBuilder) -> Psflip {
    let psflip = psflip.start().wait_ready();
    psflip.wait_for_line(Stream::Pty, "ready pid");
    psflip
}

/// Stops psflip, whose exit code in the shell must be `code`, then the shell.
#[track_caller]
pub(crate) fn end(psflip: &Psflip, code: i32) {
    psflip.signal(Signal::SIGTERM);
    psflip.wait_for_line(Stream::Pty, &format!("shell: last={code}"));
    psflip.program().write_stdin("exit 7\n");
    assert_eq!(psflip.wait_exit().code(), Some(7));
}

/// Waits until the child prints `line` and psflip has handled the signal, too. The child must have got it
/// exactly `times` times.
#[track_caller]
pub(crate) fn assert_got(sandbox: &Sandbox, psflip: &Psflip, signal: Signal, times: usize) {
    psflip.wait_for_line(Stream::Pty, &format!("got {signal} "));
    // At level debug, psflip logs every signal, forwarded or not.
    psflip.output().wait_for(Deadline::default(), "psflip's log line about the signal", |lines| {
        lines.iter().any(|line| line.text.contains(&format!("signal={signal} from"))).then_some(())
    });
    let mark = psflip.output().mark();
    psflip.signal(Signal::SIGUSR2);
    psflip.output().wait_after(mark, Stream::Pty, "got SIGUSR2");
    let got = psflip.output().text(Stream::Pty);
    let got = got.lines().filter(|line| line.contains(&format!("got {signal} "))).count();
    assert_eq!(got, times, "{signal}\n{}", sandbox.report());
}

#[track_caller]
pub(crate) fn wait_state(process: Process, state: ProcessState) {
    let what = format!("process {process} to be {state:?}");
    wait_until(Deadline::default(), what, || (process.state() == state).then_some(()));
}

#[test]
fn keys_and_a_new_size_reach_the_child_once() {
    // Contract: S2
    let sandbox = Sandbox::new();
    let psflip = ready(logger(&sandbox).wrapper(SHELL));
    assert_ne!(psflip.child().stat().unwrap().group, psflip.active().stat().unwrap().group);
    psflip.program().write_stdin("\x03");
    assert_got(&sandbox, &psflip, Signal::SIGINT, 1);
    psflip.program().write_stdin("\x1c");
    assert_got(&sandbox, &psflip, Signal::SIGQUIT, 1);
    psflip.program().resize(30, 100);
    assert_got(&sandbox, &psflip, Signal::SIGWINCH, 1);
    end(&psflip, 0);
}

#[test]
fn keys_reach_the_child_once_when_psflip_leads_the_session() {
    // Contract: S2
    let sandbox = Sandbox::new();
    let psflip = ready(logger(&sandbox));
    psflip.program().write_stdin("\x03");
    assert_got(&sandbox, &psflip, Signal::SIGINT, 1);
    psflip.program().write_stdin("\x1c");
    assert_got(&sandbox, &psflip, Signal::SIGQUIT, 1);
    psflip.program().resize(30, 100);
    assert_got(&sandbox, &psflip, Signal::SIGWINCH, 1);
    assert_eq!(psflip.stop().code(), Some(0));
}

#[test]
fn ctrl_z_stops_child_and_psflip_and_fg_continues_both() {
    // Contract: S3
    let sandbox = Sandbox::new();
    let psflip = logger(&sandbox).cmd(["cat"]).wrapper(SHELL).start().wait_ready();
    let (active, child) = (psflip.active(), psflip.child());
    // `cat` has got the terminal when it repeats a line. A Ctrl-Z at the very moment of its first read would be
    // lost: the SIGCONT after SIGTTIN discards a pending SIGTSTP.
    psflip.program().write_stdin("hello\n");
    psflip.output().wait_count(2, Stream::Pty, "hello");
    for round in 0..3 {
        let mark = psflip.output().mark();
        psflip.program().write_stdin("\x1a");
        wait_state(child, ProcessState::Stopped);
        wait_state(active, ProcessState::Stopped);
        psflip.output().wait_after(mark, Stream::Pty, "shell: last=14"); // 128 + SIGTSTP or SIGSTOP
        psflip.program().write_stdin("fg\n");
        wait_state(child, ProcessState::Sleeping);
        wait_state(active, ProcessState::Sleeping);
        // `cat` is in the foreground again, and repeats the line that the terminal also echoes.
        psflip.program().write_stdin(format!("hello {round}\n"));
        psflip.output().wait_count(2, Stream::Pty, &format!("hello {round}"));
    }
    end(&psflip, 143);
}

#[test]
fn a_child_that_stops_itself_on_ctrl_z_stops_psflip_and_is_continued_once() {
    // Contract: S3, S2
    let sandbox = Sandbox::new();
    let psflip = ready(logger(&sandbox).wrapper(SHELL));
    let (active, child) = (psflip.active(), psflip.child());
    psflip.program().write_stdin("\x1a");
    wait_state(child, ProcessState::Stopped);
    wait_state(active, ProcessState::Stopped);
    psflip.wait_for_line(Stream::Pty, "shell: last=14");
    psflip.program().write_stdin("fg\n");
    assert_got(&sandbox, &psflip, Signal::SIGCONT, 1);
    assert_got(&sandbox, &psflip, Signal::SIGTSTP, 1);
    end(&psflip, 0);
}

#[test]
fn a_suspended_job_continues_in_the_background() {
    // Contract: S3
    let sandbox = Sandbox::new();
    let psflip = logger(&sandbox).cmd(["sleep", "1000"]).wrapper(SHELL).start().wait_ready();
    let (active, child) = (psflip.active(), psflip.child());
    psflip.program().write_stdin("\x1a");
    psflip.wait_for_line(Stream::Pty, "shell: last=14");
    wait_state(active, ProcessState::Stopped);
    psflip.program().write_stdin("bg\n");
    wait_state(child, ProcessState::Sleeping);
    wait_state(active, ProcessState::Sleeping);
    psflip.flip(); // it serves in the background, and so does its successor
    let active = psflip.active();
    psflip.signal(Signal::SIGTERM);
    psflip.wait_gone(active);
    psflip.program().write_stdin("exit 7\n");
    assert_eq!(psflip.wait_exit().code(), Some(7));
}

#[test]
fn psflip_can_be_stopped_and_continued_by_signal_alone() {
    // Contract: S3
    let sandbox = Sandbox::new();
    let psflip = ready(logger(&sandbox).wrapper(SHELL));
    let (active, child) = (psflip.active(), psflip.child());
    psflip.signal(Signal::SIGTSTP); // forwarded: the child stops itself, and psflip follows
    wait_state(child, ProcessState::Stopped);
    wait_state(active, ProcessState::Stopped);
    psflip.signal(Signal::SIGCONT); // to psflip only, so the child gets it from psflip
    wait_state(child, ProcessState::Sleeping);
    assert_got(&sandbox, &psflip, Signal::SIGCONT, 1);
    wait_state(active, ProcessState::Sleeping);
    psflip.signal(Signal::SIGTERM);
    psflip.wait_gone(active);
    psflip.program().write_stdin("exit 7\n");
    assert_eq!(psflip.wait_exit().code(), Some(7));
}

#[test]
fn after_an_upgrade_the_keys_reach_the_new_child_once() {
    // Contract: S2, U10
    let sandbox = Sandbox::new();
    let psflip = ready(logger(&sandbox).wrapper(SCRIPT));
    psflip.flip();
    psflip.wait_for_line(Stream::Pty, "name=gen2");
    psflip.program().write_stdin("\x03");
    assert_got(&sandbox, &psflip, Signal::SIGINT, 1);
    psflip.program().write_stdin("\x1c");
    assert_got(&sandbox, &psflip, Signal::SIGQUIT, 1);
    psflip.flip();
    psflip.wait_for_line(Stream::Pty, "name=gen3");
    let active = psflip.active();
    psflip.signal(Signal::SIGTERM);
    psflip.wait_gone(active);
    psflip.program().write_stdin("exit\n");
    psflip.program().wait_exit();
}
