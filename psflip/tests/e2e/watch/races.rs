//! Rare race conditions: the test stops a process until the others have reached the state that it needs.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;

use testkit::process::ProcessState;
use testkit::{Deadline, Running, Sandbox, Signal, Stream, fixture, wait_until};

use super::{wait_follows, wait_named, watch_script};
use crate::service::{freeze, thaw, wait_rest};
use crate::tree::stopped::hold;

/// A watch whose keeper is kept from running. Its command has exited, no process has reaped it yet, and it
/// left a daemon that runs `daemon`. Returns the process that holds the keeper until its standard input is
/// closed. `None`: not possible here.
#[track_caller]
fn command_ends_unheard(sandbox: &Sandbox, watch: &Running) -> Option<Arc<Running>> {
    watch.output().wait(Stream::Stdout, "asks");
    let keeper = watch.first().children()[0];
    let command = keeper.children()[0];
    let holder = hold(sandbox, keeper)?; // SIGSTOP would be undone
    std::fs::write(sandbox.path("fifo"), "go\n").unwrap();
    wait_until(Deadline::default(), "the command to exit", || {
        (command.state() == ProcessState::Zombie).then_some(())
    });
    Some(holder)
}

fn fifo(sandbox: &Sandbox) {
    nix::unistd::mkfifo(&sandbox.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
}

#[test]
fn a_stop_just_after_the_command_has_started_a_daemon_is_not_lost() {
    // Contract: C8, S5
    let sandbox = Sandbox::new();
    fifo(&sandbox);
    let watch = watch_script(&sandbox, &[], "setsid sleep 1000 & echo asks; read line < fifo");
    let Some(holder) = command_ends_unheard(&sandbox, &watch) else { return };
    watch.signal(Signal::SIGTERM);
    watch.output().wait(Stream::Stderr, "stop requested");
    holder.close_stdin();
    assert_eq!(watch.wait_exit().code(), Some(0), "with the command's exit status\n{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn a_stop_just_after_the_daemons_start_waits_for_its_pidfile() {
    // Contract: S1, S5, W2
    let sandbox = Sandbox::new();
    fifo(&sandbox);
    let logger = fixture("signal-logger").display().to_string();
    let script = format!("setsid {logger} & echo asks; read line < fifo");
    let watch = watch_script(&sandbox, &[], &script);
    let line = watch.output().wait(Stream::Stdout, "ready pid=").text;
    let pid = line.split("pid=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let Some(holder) = command_ends_unheard(&sandbox, &watch) else { return };
    sandbox.write("x.pid", format!("{pid}\n"));
    watch.output().wait(Stream::Stderr, &format!("follows the pidfile service={pid}"));
    watch.signal(Signal::SIGTERM);
    watch.output().wait(Stream::Stdout, "got SIGTERM");
    holder.close_stdin();
    assert_eq!(watch.wait_exit().code(), Some(0), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn signals_for_a_daemon_are_queued_until_it_has_written_its_pidfile() {
    // Contract: S1, W2
    let sandbox = Sandbox::new();
    fifo(&sandbox);
    let logger = fixture("signal-logger").display().to_string();
    let script = format!("setsid {logger} --exit-on USR2 & echo asks; read line < fifo");
    let watch = watch_script(&sandbox, &[], &script);
    let line = watch.output().wait(Stream::Stdout, "ready pid=").text;
    let pid = line.split("pid=").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let Some(holder) = command_ends_unheard(&sandbox, &watch) else { return };
    holder.close_stdin();
    holder.wait_exit();
    wait_rest(&sandbox); // watch knows that the command has exited
    let signals = [Signal::SIGHUP, Signal::SIGUSR1, Signal::SIGWINCH];
    for signal in signals {
        watch.signal(signal);
    }
    wait_rest(&sandbox);
    assert!(!watch.stdout().contains("got "), "{}", sandbox.report());
    sandbox.write("x.pid", format!("{pid}\n"));
    for signal in signals {
        watch.output().wait(Stream::Stdout, &format!("got {signal} "));
    }
    watch.signal(Signal::SIGUSR2);
    assert_eq!(watch.wait_exit().code(), Some(0), "{}", sandbox.report());
}

/// A watch that is stopped while two processes exit: the service, which was named second (exit code 23), and
/// its predecessor (exit code 5). The predecessor runs `at_the_end` when the service is gone. With
/// `takes_back`, it was the service again before that. Returns watch's exit code.
#[track_caller]
fn ends_unseen(takes_back: bool, at_the_end: &str) -> Option<i32> {
    let sandbox = Sandbox::new();
    for name in ["fifo", "start", "back", "end"] {
        nix::unistd::mkfifo(&sandbox.path(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let before = if takes_back { "read line < back; echo $$ > x.pid; " } else { "" };
    let older = format!("echo $$ > x.pid; echo older; {before}read line < fifo; {at_the_end}; exit 5");
    let service = "echo $$ > x.pid; echo service; read line < end; exit 23";
    let script = format!("setsid sh -c '{older}' & read line < start; setsid sh -c '{service}' & exit 0");
    let watch = watch_script(&sandbox, &["--patience", "1h"], &script);
    watch.output().wait(Stream::Stdout, "older");
    let older = wait_named(&sandbox.path("x.pid"));
    wait_follows(&watch, older.pid());
    std::fs::write(sandbox.path("start"), "go\n").unwrap();
    watch.output().wait(Stream::Stdout, "service");
    let service = wait_named(&sandbox.path("x.pid"));
    wait_follows(&watch, service.pid());
    if takes_back {
        let mark = watch.output().mark();
        std::fs::write(sandbox.path("back"), "go\n").unwrap();
        watch.output().wait_after(mark, Stream::Stderr, &format!("follows the pidfile service={older}"));
    }
    wait_rest(&sandbox);
    freeze(watch.first());
    for (process, fifo) in [(service, "end"), (older, "fifo")] {
        std::fs::write(sandbox.path(fifo), "go\n").unwrap();
        wait_until(Deadline::default(), format!("{process} to exit"), || (!process.is_alive()).then_some(()));
    }
    thaw(watch.first());
    let status = watch.wait_exit();
    sandbox.assert_no_process_left();
    status.code()
}

#[test]
fn the_exit_of_a_predecessor_that_quickly_took_over_again_counts() {
    // Contract: W1, W3
    assert_eq!(ends_unseen(false, "echo $$ > x.pid; rm x.pid"), Some(5));
    // The predecessor already was the service again, so the exit of the other process does not count.
    assert_eq!(ends_unseen(true, "echo $$ > x.pid; rm x.pid"), Some(5));
    assert_eq!(ends_unseen(true, "rm x.pid"), Some(5));
}

#[test]
fn the_exit_of_a_predecessor_that_only_exits_later_does_not_count() {
    // Contract: W1, W3
    assert_eq!(ends_unseen(false, "rm x.pid"), Some(23));
    assert_eq!(ends_unseen(false, "true"), Some(23));
}

/// A watch that is stopped while it gets `request`, if any, and while SIGTERM stops the service. Returns
/// watch's log.
#[track_caller]
fn log_of_an_end(request: Option<Signal>) -> String {
    let sandbox = Sandbox::new();
    // The grace time for leftover processes does not limit the service itself.
    let watch = watch_script(&sandbox, &["--grace", "1ms"], "echo $$ > x.pid; exec sleep 1000");
    let service = wait_named(&sandbox.path("x.pid"));
    wait_follows(&watch, service.pid());
    wait_rest(&sandbox);
    freeze(watch.first());
    if let Some(request) = request {
        watch.first().signal(request).unwrap();
    }
    service.signal(Signal::SIGTERM).unwrap();
    wait_until(Deadline::default(), "the service and its keeper to exit", || {
        sandbox.processes().iter().all(|process| *process == watch.first()).then_some(())
    });
    thaw(watch.first());
    assert_eq!(watch.wait_exit().signal(), Some(15), "{}", sandbox.report());
    watch.output().wait_closed();
    sandbox.assert_no_process_left();
    watch.stderr()
}

#[test]
fn a_stop_request_before_the_service_exits_is_handled_first() {
    // Contract: L1, S4, W3
    let log = log_of_an_end(Some(Signal::SIGTERM));
    assert!(log.contains("stop requested") && !log.contains("ERROR"), "{log}");
    let log = log_of_an_end(None);
    assert!(log.contains("ERROR") && log.contains("the service is down"), "{log}");
}
