//! Stop requests in every phase of a generation's life (S5, F11): everything stops, psflip exits with the
//! child's exit status, and the pidfile is removed.

mod draining;

use std::os::unix::process::ExitStatusExt;

use testkit::{Deadline, Process, Psflip, Sandbox, Signal, Stream, wait_until};

use crate::service::{AT_ONCE, Service, UNTIL_FILE, configure, generations, kill, psflip, stop, wait_coming};

/// Nothing is left of the service: no process, no pidfile.
#[track_caller]
fn assert_over(sandbox: &Sandbox, psflip: &Psflip) {
    sandbox.assert_no_process_left();
    assert!(!psflip.pidfile_path().exists(), "{}", sandbox.report());
}

#[test]
fn a_stop_before_the_child_is_healthy_stops_child_and_psflip() {
    // Contract: S5, F11, P2
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let sandbox = Sandbox::new();
        let psflip = psflip(&sandbox, &["never-ready"], UNTIL_FILE).start();
        psflip.wait_for_line(Stream::Stdout, "starting");
        psflip.program().signal(signal);
        assert_eq!(psflip.wait_exit().code(), Some(0), "relayed\n{}", sandbox.report());
        assert!(psflip.log().contains(&format!("stop requested signal={signal}")), "{}", psflip.log());
        assert_over(&sandbox, &psflip);
    }
}

#[test]
fn a_child_that_ignores_an_early_stop_is_probed_on_and_logged_once() {
    // Contract: S5
    let sandbox = Sandbox::new();
    let rest = format!("{UNTIL_FILE}[shutdown]\ntimeout = \"200ms\"\n");
    let psflip = psflip(&sandbox, &["ignore-sigterm"], &rest).start();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    psflip.program().signal(Signal::SIGTERM);
    psflip.wait_for_line(Stream::Stderr, "did not exit on the stop request and keeps running");
    sandbox.write("healthy", "");
    psflip.wait_for_line(Stream::Stderr, "healthy, active");
    assert_eq!(psflip.log().matches("child started").count(), 1, "{}", psflip.log());
    kill(psflip.active());
    assert_eq!(psflip.wait_exit().signal(), Some(9));
    sandbox.assert_no_process_left();
}

#[test]
fn a_stop_while_serving_is_forwarded_and_the_exit_is_relayed() {
    // Contract: S5, C5, P2
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let sandbox = Sandbox::new();
        let shell =
            format!("trap 'exit 23' {}; echo trapped; while :; do read line; done", &signal.as_str()[3..]);
        let (input, _writer) = std::io::pipe().unwrap();
        let builder = psflip(&sandbox, &["/bin/sh", "-c", &shell], AT_ONCE);
        let psflip = builder.inherit_fd(input, 0).start().wait_ready();
        psflip.wait_for_line(Stream::Stdout, "trapped");
        psflip.wait_child_sleeps();
        psflip.signal(signal);
        assert_eq!(psflip.wait_exit().code(), Some(23), "{}", sandbox.report());
        assert_over(&sandbox, &psflip);
    }
}

#[test]
fn sigquit_is_not_a_stop_request() {
    // Contract: S5, S1
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    psflip.signal(Signal::SIGQUIT);
    psflip.wait_for_line(Stream::Stdout, "got SIGQUIT");
    psflip.flip(); // a generation with a stop request would start no upgrade
    assert!(!psflip.log().contains("stop requested"), "{}", psflip.log());
    stop(&psflip);
    assert_over(&sandbox, &psflip);
}

/// An upgrade to this child that waits for the file `healthy`.
fn upgrading(sandbox: &Sandbox, argv: &[&str], rest: &str) -> (Psflip, Process, Process) {
    let psflip = psflip(sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let old = psflip.active();
    configure(sandbox, argv, &format!("{UNTIL_FILE}{rest}"));
    psflip.request_flip();
    let new = wait_coming(sandbox, old);
    (psflip, old, new)
}

#[test]
fn a_stop_while_the_new_generation_starts_stops_both() {
    // Contract: S5, F11
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        for line in [None, Some("starting pid=")] {
            let sandbox = Sandbox::new();
            let (psflip, old, _) = upgrading(&sandbox, &["never-ready"], "");
            if let Some(line) = line {
                psflip.wait_for_line(Stream::Stdout, line);
            }
            old.signal(signal).unwrap();
            if signal == Signal::SIGINT {
                // The logger exits on SIGTERM only.
                psflip.wait_for_line(Stream::Stdout, "got SIGINT");
                old.signal(Signal::SIGTERM).unwrap();
            }
            assert_eq!(psflip.wait_exit().code(), Some(0), "{}", sandbox.report());
            psflip.wait_for_line(Stream::Stderr, "upgrade aborted by a stop request");
            assert!(!psflip.log().contains(" ERROR "), "{}", psflip.log());
            assert_over(&sandbox, &psflip);
        }
    }
}

#[test]
fn a_stop_kills_a_new_child_that_ignores_it_after_the_timeout() {
    // Contract: S5, F11
    let sandbox = Sandbox::new();
    let (psflip, old, _) = upgrading(&sandbox, &["ignore-sigterm"], "[shutdown]\ntimeout = \"100ms\"\n");
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    old.signal(Signal::SIGTERM).unwrap();
    assert_eq!(psflip.wait_exit().code(), Some(0), "{}", sandbox.report());
    psflip.wait_for_line(Stream::Stderr, "the child did not exit in time; killing it");
    assert_over(&sandbox, &psflip);
}

#[test]
fn a_stop_of_the_new_generation_aborts_the_upgrade_only() {
    // Contract: S5, F11, U8
    let service = Service::start();
    service.configure(&["never-ready"], UNTIL_FILE);
    let line = service.fails_by(|old, mark| {
        service.psflip.output().wait_after(mark, Stream::Stdout, "starting pid=");
        wait_coming(&service.sandbox, old).signal(Signal::SIGTERM).unwrap();
    });
    assert!(line.text.contains("the upgrade was aborted"), "{line}");
    service.succeeds_and_ends();
}

#[test]
fn a_stop_right_after_an_upgrade_request_stops_everything() {
    // Contract: S5, F11
    for _ in 0..20 {
        let sandbox = Sandbox::new();
        let psflip = psflip(&sandbox, &["never-ready"], AT_ONCE).start().wait_ready();
        let active = psflip.request_flip();
        active.signal(Signal::SIGTERM).unwrap();
        psflip.wait_exit();
        assert_over(&sandbox, &psflip);
    }
}

#[test]
fn a_child_that_ignores_the_stop_keeps_running_and_can_be_upgraded() {
    // Contract: S5, U5
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}[shutdown]\ntimeout = \"200ms\"\n");
    let psflip = psflip(&sandbox, &["ignore-sigterm"], &rest).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let (old, child) = (psflip.active(), psflip.child());
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mark = psflip.output().mark();
        psflip.signal(signal);
        psflip.output().wait_after(
            mark,
            Stream::Stderr,
            "did not exit on the stop request and keeps running",
        );
        assert_eq!((psflip.active(), psflip.child()), (old, child), "{}", sandbox.report());
    }
    // If the stop fails, an upgrade requested meanwhile starts. The test waits for "stop requested", since
    // pending signals are read in the order of their numbers: SIGHUP would come first, and the stop would
    // abort its upgrade.
    let mark = psflip.output().mark();
    psflip.signal(Signal::SIGTERM);
    psflip.output().wait_after(mark, Stream::Stderr, "stop requested");
    configure(&sandbox, &["never-ready"], AT_ONCE);
    psflip.flip();
    assert!(!child.is_alive());
    psflip.wait_for_line(Stream::Stderr, "the child did not exit in time; killing it");
    assert!(psflip.wait_exit().success());
    stop(&psflip);
    assert_over(&sandbox, &psflip);
}

#[test]
fn a_first_child_that_ignores_the_stop_still_becomes_healthy() {
    // Contract: S5, F11
    let sandbox = Sandbox::new();
    let rest = format!("{UNTIL_FILE}[shutdown]\ntimeout = \"100ms\"\n");
    let psflip = psflip(&sandbox, &["ignore-sigterm"], &rest).start();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    psflip.program().signal(Signal::SIGTERM);
    psflip.wait_for_line(Stream::Stderr, "did not exit on the stop request");
    sandbox.write("healthy", "");
    let psflip = psflip.wait_ready();
    let child = psflip.child();
    kill(child);
    let status = psflip.wait_exit();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{}", sandbox.report());
    assert_over(&sandbox, &psflip);
}

#[test]
fn stops_that_race_with_a_hundred_upgrades_always_stop_everything() {
    // Contract: S5, F11, P2
    for number in 0..100u32 {
        let sandbox = Sandbox::new();
        let psflip = psflip(&sandbox, &["never-ready"], AT_ONCE).start().wait_ready();
        let first = psflip.active();
        psflip.request_flip();
        match number % 5 {
            0 => {}
            1 => drop(wait_coming_or_end(&sandbox, first)),
            2 => drop(psflip.wait_successor(first)),
            3 => drop(psflip.output().wait(Stream::Stderr, "upgrade started")),
            _ => drop(psflip.output().wait(Stream::Stdout, "starting pid=")),
        }
        // Each generation gets one SIGTERM, in alternating order. One that was promoted meanwhile gets it at
        // the end.
        let (mut told, mut empty) = (Vec::new(), 0);
        wait_until(Deadline::default(), "all generations to exit", || {
            let mut there = generations(&sandbox);
            if number % 2 == 1 {
                there.reverse();
            }
            for process in there.iter().filter(|process| !told.contains(*process)) {
                let _ = process.signal(Signal::SIGTERM); // it may just have exited
            }
            told.extend(there.iter().copied());
            // One look can miss both: the old one has just exited, and the new one did not exist when the
            // look began.
            empty = if there.is_empty() { empty + 1 } else { 0 };
            (empty == 3).then_some(())
        });
        assert_over(&sandbox, &psflip);
    }
}

/// The second generation, or `None` if it has come and gone between two looks.
fn wait_coming_or_end(sandbox: &Sandbox, first: Process) -> Option<Process> {
    wait_until(Deadline::default(), "a second generation", || {
        let there = generations(sandbox);
        let second = there.iter().find(|process| **process != first).copied();
        (second.is_some() || there.is_empty()).then_some(second)
    })
}
