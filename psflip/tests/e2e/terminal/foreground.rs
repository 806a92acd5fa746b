//! A child that needs the terminal gets it. At all other times psflip's job has it (contract S3).

use testkit::process::ProcessState;
use testkit::{Deadline, Process, Psflip, PsflipBuilder, Sandbox, Signal, Stream, wait_until};

use super::{SCRIPT, SHELL, logger, wait_state};
use crate::anchor::anchored;
use crate::service::configure;
use crate::tree::stopped::hold;

/// Repeats each line that it reads, and prints a message when it is interrupted.
const READER: [&str; 3] = [
    "/bin/bash",
    "-c",
    "trap 'echo reader: interrupted' INT; echo reader: begins; while read -r line; do echo \"reader: $line\"; done",
];

fn reader(sandbox: &Sandbox) -> PsflipBuilder {
    logger(sandbox).cmd(READER)
}

/// With and without an anchor.
fn both_ways(test: impl Fn(fn(PsflipBuilder) -> PsflipBuilder)) {
    test(|builder| builder);
    test(anchored);
}

/// Waits until the terminal's foreground group is that of `process`.
#[track_caller]
fn wait_foreground(psflip: &Psflip, process: Process) {
    let what = format!("the group of process {process} to be in the foreground");
    wait_until(Deadline::default(), what, || {
        let stat = psflip.program().first().stat()?;
        let group = process.stat()?.group;
        (u32::try_from(stat.foreground) == Ok(group)).then_some(())
    });
}

/// The leader of the process group that the shell started.
fn job(psflip: &Psflip) -> Process {
    let active = psflip.active();
    active
        .parent()
        .filter(|parent| parent.stat().is_some_and(|stat| stat.name == "psflip: anchor"))
        .unwrap_or(active)
}

/// Types a line, which the child reads and repeats, and waits until the child reads again: bash runs its trap
/// for a signal that comes between two commands only after the next line (2 of 4,000 times without psflip).
#[track_caller]
fn type_and_read(psflip: &Psflip, line: &str) {
    let mark = psflip.output().mark();
    psflip.program().write_stdin(format!("{line}\n"));
    psflip.output().wait_after(mark, Stream::Pty, &format!("reader: {line}"));
    psflip.wait_child_sleeps();
}

/// Stops the child by an end of file, then the shell.
#[track_caller]
fn end_of_file(psflip: &Psflip) {
    wait_foreground(psflip, psflip.child());
    psflip.program().write_stdin("\x04");
    psflip.wait_for_line(Stream::Pty, "shell: last=0");
    psflip.program().write_stdin("exit 7\n");
    assert_eq!(psflip.wait_exit().code(), Some(7));
}

#[test]
fn the_reading_child_gets_the_terminal_also_after_an_upgrade() {
    // Contract: S3
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let psflip = how(reader(&sandbox).wrapper(SHELL)).start().wait_ready();
        wait_foreground(&psflip, psflip.child());
        type_and_read(&psflip, "one");
        if job(&psflip) != psflip.active() {
            psflip.flip(); // without an anchor the prompt would come back
            wait_foreground(&psflip, psflip.child());
            type_and_read(&psflip, "two");
        }
        // Its Ctrl-C reaches the child only.
        psflip.program().write_stdin("\x03");
        psflip.wait_for_line(Stream::Pty, "reader: interrupted");
        assert!(!psflip.output().text(Stream::Pty).contains("stop requested"), "{}", sandbox.report());
        end_of_file(&psflip);
    });
}

#[test]
fn ctrl_z_stops_a_child_that_has_the_terminal_and_fg_gives_it_back() {
    // Contract: S3
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let psflip = how(reader(&sandbox).wrapper(SHELL)).start().wait_ready();
        for round in 0..3 {
            wait_foreground(&psflip, psflip.child());
            type_and_read(&psflip, &format!("before {round}"));
            let mark = psflip.output().mark();
            psflip.program().write_stdin("\x1a");
            for process in [psflip.child(), psflip.active(), job(&psflip)] {
                wait_state(process, ProcessState::Stopped);
            }
            psflip.output().wait_after(mark, Stream::Pty, "shell: last=14");
            psflip.program().write_stdin("fg\n");
            wait_foreground(&psflip, psflip.child());
            type_and_read(&psflip, &format!("after {round}"));
        }
        end_of_file(&psflip);
    });
}

/// Presses Ctrl-Z when the child was stopped by SIGTTIN and psflip does not know that yet: the keeper is held.
/// The child runs `begin` first. Returns psflip with all of that handled, or `None`: not possible here.
#[track_caller]
fn ctrl_z_after_an_unseen_stop(
    sandbox: &Sandbox,
    how: fn(PsflipBuilder) -> PsflipBuilder,
    begin: &str,
) -> Option<Psflip> {
    nix::unistd::mkfifo(&sandbox.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let reads = format!("{begin}; read -r line < fifo; while read -r line; do echo \"reader: $line\"; done");
    let reader = logger(sandbox).cmd(["/bin/bash", "-c", &reads]);
    let psflip = how(reader.wrapper(SHELL)).start().wait_ready();
    let holder = hold(sandbox, psflip.child().parent().unwrap())?;
    std::fs::write(sandbox.path("fifo"), "go\n").unwrap();
    wait_state(psflip.child(), ProcessState::Stopped);
    psflip.program().write_stdin("\x1a");
    psflip.output().wait_for(Deadline::default(), "psflip's line about Ctrl-Z", |lines| {
        lines.iter().any(|line| line.text.contains("signal=SIGTSTP from")).then_some(())
    });
    holder.close_stdin();
    holder.wait_exit();
    Some(psflip)
}

#[test]
fn ctrl_z_at_the_moment_in_which_the_child_needs_the_terminal_stops_the_job() {
    // Contract: S3
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let Some(psflip) = ctrl_z_after_an_unseen_stop(&sandbox, how, "true") else { return };
        psflip.wait_for_line(Stream::Pty, "shell: last=14");
        for process in [psflip.child(), psflip.active(), job(&psflip)] {
            wait_state(process, ProcessState::Stopped);
        }
        psflip.program().write_stdin("fg\n");
        wait_foreground(&psflip, psflip.child());
        type_and_read(&psflip, "again");
        end_of_file(&psflip);
    });
}

#[test]
fn a_child_that_ignores_ctrl_z_gets_the_terminal_all_the_same() {
    // Contract: S3
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let Some(psflip) = ctrl_z_after_an_unseen_stop(&sandbox, how, "trap '' TSTP") else { return };
        wait_foreground(&psflip, psflip.child());
        type_and_read(&psflip, "on");
        assert!(!psflip.output().text(Stream::Pty).contains("shell: last="), "{}", sandbox.report());
        end_of_file(&psflip);
    });
}

#[test]
fn a_child_that_reads_in_the_background_stops_the_job_until_fg() {
    // Contract: S3
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let background = [
            "bash",
            "--norc",
            "--noprofile",
            "-i",
            "-c",
            "\"$@\" & while echo \"shell: last=$?\"; read -r line; do eval \"$line\"; done",
            "bash",
        ];
        let psflip = how(reader(&sandbox).wrapper(background)).start();
        psflip.wait_for_line(Stream::Pty, "reader: begins");
        wait_until(Deadline::default(), "the job to be stopped", || {
            let stats = psflip.program().first().tree().into_iter().filter_map(|process| process.stat());
            let mut job = stats.filter(|stat| ["psflip", "psflip: anchor"].contains(&stat.name.as_str()));
            job.all(|stat| stat.state == ProcessState::Stopped).then_some(())
        });
        psflip.program().write_stdin("fg\n");
        let psflip = psflip.wait_ready();
        wait_foreground(&psflip, psflip.child());
        type_and_read(&psflip, "now");
        end_of_file(&psflip);
    });
}

#[test]
fn ctrl_c_during_an_upgrade_is_a_stop_request() {
    // Contract: S5, S3, F11
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let psflip = how(reader(&sandbox).wrapper(SHELL)).start().wait_ready();
        wait_foreground(&psflip, psflip.child());
        let never = "[healthcheck.command]\ncmd = [\"false\"]\n[shutdown]\ntimeout = \"2s\"\n[log]\nlevel = \"debug\"\n";
        configure(&sandbox, &["/bin/sleep", "infinity"], never);
        let job = job(&psflip);
        psflip.request_flip();
        psflip.output().wait_count(2, Stream::Pty, "child started");
        wait_foreground(&psflip, job);
        psflip.program().write_stdin("\x03");
        psflip.wait_for_line(Stream::Pty, "stop requested");
        psflip.wait_for_line(Stream::Pty, "upgrade aborted by a stop request");
        psflip.signal_child(Signal::SIGTERM); // it survives Ctrl-C
        psflip.wait_for_line(Stream::Pty, "shell: last=143");
        psflip.program().write_stdin("exit 7\n");
        assert_eq!(psflip.wait_exit().code(), Some(7));
    });
}

#[test]
fn after_a_failed_upgrade_the_old_child_gets_the_terminal_again() {
    // Contract: S3, U8
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let psflip = how(reader(&sandbox).wrapper(SHELL)).start().wait_ready();
        wait_foreground(&psflip, psflip.child());
        let until = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"fails\"]\ninterval = \"5ms\"\n[shutdown]\ntimeout = \"2s\"\n";
        // The new child reads from the terminal, and so has it until it exits.
        configure(&sandbox, &["/bin/sh", "-c", "read -r line; echo new: $line; exit 3"], until);
        psflip.request_flip();
        psflip.output().wait_count(2, Stream::Pty, "child started");
        let (old, child) = (psflip.active(), psflip.child());
        let new_child = wait_until(Deadline::default(), "the new child in the foreground", || {
            let group = u32::try_from(psflip.program().first().stat()?.foreground).ok()?;
            Process::find(group).filter(|leader| leader.stat().is_some_and(|stat| stat.name == "sh"))
        });
        assert_ne!(new_child, child);
        // The old child is still in the read(2) that it began in the foreground, and may get one line.
        for _ in 0..2 {
            psflip.program().write_stdin("x\n");
        }
        psflip.wait_for_line(Stream::Pty, "upgrade failed");
        assert_eq!((psflip.active(), psflip.child()), (old, child), "{}", sandbox.report());
        psflip.program().write_stdin("y\n"); // ends a read that may still be pending
        wait_foreground(&psflip, child);
        type_and_read(&psflip, "again");
        end_of_file(&psflip);
    });
}

#[test]
fn a_script_reads_the_terminal_after_psflip_has_exited() {
    // Contract: S3, C5
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let psflip = how(reader(&sandbox).wrapper(SCRIPT)).start().wait_ready();
        wait_foreground(&psflip, psflip.child());
        type_and_read(&psflip, "one");
        let active = psflip.active();
        psflip.program().write_stdin("\x04");
        psflip.wait_gone(active);
        psflip.program().write_stdin("exit\n");
        assert_eq!(psflip.wait_exit().code(), Some(0), "{}", sandbox.report());
    });
}

#[test]
fn an_interactive_shell_with_job_control_is_a_child_like_any_other() {
    // Contract: S3, C5
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let shell = ["bash", "--norc", "--noprofile", "-i"];
        let psflip = how(logger(&sandbox).cmd(shell).wrapper(SHELL)).start().wait_ready();
        wait_foreground(&psflip, psflip.child());
        psflip.program().write_stdin("echo $((6 * 7))\n");
        psflip.wait_for_line(Stream::Pty, "42");
        psflip.program().write_stdin("sleep 1000; echo slept=$?\n");
        let sleep = wait_until(Deadline::default(), "sleep in the foreground", || {
            let group = u32::try_from(psflip.program().first().stat()?.foreground).ok()?;
            Process::find(group).filter(|leader| leader.stat().is_some_and(|stat| stat.name == "sleep"))
        });
        psflip.program().write_stdin("\x03");
        psflip.wait_gone(sleep);
        psflip.program().write_stdin("exit 5\n");
        psflip.wait_for_line(Stream::Pty, "shell: last=5");
        psflip.program().write_stdin("exit 7\n");
        assert_eq!(psflip.wait_exit().code(), Some(7));
    });
}

#[test]
fn psflip_works_in_a_pipeline() {
    // Contract: S2, S3
    both_ways(|how| {
        let sandbox = Sandbox::new();
        let pipeline = [
            "bash",
            "--norc",
            "--noprofile",
            "-i",
            "-c",
            "\"$@\" | sed -u 's/^/piped /'; while echo \"shell: last=${PIPESTATUS[0]}\"; read -r line; do eval \"$line\"; done",
            "bash",
        ];
        let psflip = how(reader(&sandbox).wrapper(pipeline)).start().wait_ready();
        wait_foreground(&psflip, psflip.child());
        type_and_read(&psflip, "one");
        psflip.wait_for_line(Stream::Pty, "piped reader: one");
        psflip.program().write_stdin("\x1a");
        let all = [psflip.child(), psflip.active(), job(&psflip)];
        all.into_iter().for_each(|process| wait_state(process, ProcessState::Stopped));
        psflip.signal(Signal::SIGCONT); // to the active generation only
        all.into_iter().for_each(|process| wait_state(process, ProcessState::Sleeping));
        psflip.signal(Signal::SIGTERM);
        psflip.wait_for_line(Stream::Pty, "shell: last=");
        psflip.program().write_stdin("exit 7\n");
        assert_eq!(psflip.wait_exit().code(), Some(7));
    });
}

#[test]
fn ctrl_z_suspends_nothing_where_no_shell_could_continue_it() {
    // Contract: S3
    let sandbox = Sandbox::new();
    // psflip leads the terminal's session, as in `docker run -t`.
    let psflip = anchored(logger(&sandbox)).start().wait_ready();
    psflip.wait_for_line(Stream::Pty, "ready pid");
    psflip.program().write_stdin("\x1a");
    psflip.wait_for_line(Stream::Pty, "got SIGTSTP");
    psflip.wait_for_line(Stream::Pty, "got SIGCONT");
    wait_state(psflip.child(), ProcessState::Sleeping);
    psflip.flip();
    psflip.program().first().signal(Signal::SIGTERM).unwrap();
    assert_eq!(psflip.wait_exit().code(), Some(0), "{}", sandbox.report());
}
