//! A broken new psflip, or something that is no psflip. Whatever it sends, the old generation stays as it
//! was.

use testkit::{Deadline, FdSnapshot, Process, Signal, double, psflip_bin, wait_until};

use super::{install, plan, start};
use crate::service::Service;

const STARTING: &str = "say starting\\nversion 9.9.9\\ndeadline-ms 60000\\ngrace-ms 300";

/// A service whose next psflip is the rogue.
fn with_rogue() -> Service {
    let service = start();
    install(&service, &double("psflip-rogue"));
    service
}

/// Every plan fails the upgrade for its reason, and leaks no descriptor of the old psflip.
#[track_caller]
fn all_fail(service: &Service, tries: &[(String, &str)]) {
    let before = FdSnapshot::of(service.psflip.active());
    for (lines, reason) in tries {
        plan(service, lines);
        let line = service.fails();
        assert!(line.text.contains(reason), "no `{reason}` after:\n{lines}\n{line}");
        before.assert_unchanged();
    }
}

#[track_caller]
fn ends(service: Service) {
    install(&service, &psflip_bin());
    service.succeeds_and_ends();
}

#[test]
fn messages_in_the_wrong_order_cause_no_promotion() {
    // Contract: V1, U6, U8
    let service = with_rogue();
    let failed = "say failed\\ncode 3\\nreason as wanted";
    all_fail(
        &service,
        &[
            ("say ready".to_owned(), "it sent `ready` before `starting`"),
            (format!("say ready\n{STARTING}\nsay ready"), "it sent `ready` before `starting`"),
            (format!("{STARTING}\n{failed}\nsay ready"), "as wanted (exit code 3)"),
            (format!("{failed}\nsay ready"), "as wanted (exit code 3)"),
            (format!("{STARTING}\n{STARTING}\nsay ready"), "it sent `starting` twice"),
            ("say extended\\ndeadline-ms 5\nsay ready".to_owned(), "it sent `extended` before `starting`"),
            (
                format!("{STARTING}\n{}say ready", "say extended\\ndeadline-ms 60000\n".repeat(21)),
                "it sent `extended` more than 20 times",
            ),
            ("say upgrade-now\nexit 0".to_owned(), "exited without a reason"),
            // A message that only an old psflip sends.
            (
                "say hello\\nprotocol 1\\noldest 1\nsay acknowledge\\nremembered 1\nsay abort\nexit 0"
                    .to_owned(),
                "exited without a reason",
            ),
        ],
    );
    ends(service);
}

#[test]
fn invalid_packets_of_a_successor_fail_the_upgrade() {
    // Contract: V1, X2, U8
    let service = with_rogue();
    all_fail(
        &service,
        &[
            ("bytes fffe0001".to_owned(), "it sent a malformed message: invalid utf-8"),
            ("say failed".to_owned(), "it sent a malformed message: no `code`"),
            ("say failed\\ncode 999\\nreason x".to_owned(), "`code 999` is no number in range"),
            ("say starting\\nversion 1".to_owned(), "no `deadline-ms`"),
            (
                "say starting\\nversion 1\\ndeadline-ms 18446744073709551616\\ngrace-ms 1".to_owned(),
                "is no number in range",
            ),
            ("empty".to_owned(), "exited without a reason"),
            ("close".to_owned(), "exited without a reason"),
            (format!("{STARTING}\nclose"), "exited without a reason"),
            // Truncated, and so without its last keys.
            ("pad 20000 failed\\ncode 3".to_owned(), "it sent a malformed message: no `reason`"),
            ("pad 50000 sing\npad 4096 dance\nbytes 00\nexit 0".to_owned(), "exited without a reason"),
        ],
    );
    ends(service);
}

#[test]
fn a_successor_that_sends_endlessly_is_killed() {
    // Contract: V1, X2, U8
    let service = with_rogue();
    let loud = "it sent more than 1000 messages";
    all_fail(
        &service,
        &[("flood 0 sing".to_owned(), loud), (format!("{STARTING}\nflood 0 dance\\nx 1"), loud)],
    );
    ends(service);
}

#[test]
fn unexpected_descriptors_are_closed() {
    // Contract: V1, F10, U8
    let service = with_rogue();
    let many = format!(
        "fds 253 sing\nfds 253 dance\nfds 5 {}\nfds 253 failed\\ncode 3\\nreason as wanted\nexit 3",
        &STARTING[4..]
    );
    all_fail(
        &service,
        &[(many, "as wanted (exit code 3)"), ("fds 253 ready".to_owned(), "`ready` before `starting`")],
    );
    ends(service);
}

#[test]
fn a_successor_can_not_name_another_process_as_itself() {
    // Contract: V1, U6, U8
    let service = with_rogue();
    // The test's own process is not in the sandbox. If psflip killed it, the test would die with it.
    let own = Process::current();
    let child = service.psflip.child().pid();
    let psflip = service.psflip.active().pid();
    let tries = [own.pid(), child, psflip].map(|pid| {
        (format!("pidfd {pid} spawned\\npid {pid}\n{STARTING}\nclose"), "it sent `spawned` twice")
    });
    all_fail(&service, &tries);
    let no_process = ("fds 1 spawned\\npid 1".to_owned(), "it sent `spawned` twice");
    all_fail(&service, &[no_process]);
    ends(service);
}

#[test]
fn unknown_messages_do_not_extend_the_successors_deadline() {
    // Contract: F5, V1, U8
    let service = with_rogue();
    let starting = "say starting\\nversion 9\\ndeadline-ms 300\\ngrace-ms 100";
    all_fail(
        &service,
        &[
            (starting.to_owned(), "did not answer within 300ms"),
            (format!("{starting}\nfds 9 sing\nsay dance"), "did not answer within 300ms"),
        ],
    );
    ends(service);
}

#[test]
fn a_successor_that_never_reads_does_not_delay_the_exit() {
    // Contract: S5, F11, V1
    let service = with_rogue();
    plan(&service, STARTING);
    let old = service.psflip.active();
    service.psflip.request_flip();
    service.psflip.output().wait(testkit::Stream::Stderr, "the new psflip starts its child");
    let Service { probe, psflip, sandbox } = service;
    probe.finish().assert_no_failures();
    old.signal(Signal::SIGTERM).unwrap();
    assert!(psflip.wait_exit().success(), "{}", sandbox.report());
    wait_until(Deadline::default(), "no process to be left", || sandbox.processes().is_empty().then_some(()));
    assert!(!psflip.pidfile_path().exists());
}

#[test]
fn an_upgrade_to_another_program_changes_nothing() {
    // Contract: F2, V1, U8
    let service = start();
    for program in ["/bin/true", "/bin/sleep", "/bin/cat", "/usr/bin/env", "/bin/sh"] {
        install(&service, program.as_ref());
        let line = service.fails();
        assert!(line.text.contains("exited without a reason"), "{program}: {line}");
    }
    ends(service);
}
