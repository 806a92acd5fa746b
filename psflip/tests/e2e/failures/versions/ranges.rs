//! Versions with a common protocol version hand over, in both directions. Those without one report that
//! before they change anything.

use testkit::{Deadline, FdSnapshot, Stream, double, psflip_bin, wait_until};

use super::{install, plan, start};
use crate::service::{AT_ONCE, Service, psflip};

/// One upgrade that leaves nothing behind but the new generation.
#[track_caller]
fn flips(service: &Service) {
    service.psflip.flip();
    service.wait_alone(service.psflip.active(), service.psflip.child());
}

#[test]
fn a_later_compatible_version_takes_over_and_hands_over() {
    // Contract: V1, U8
    let service = start();
    let before = FdSnapshot::of(service.psflip.active());
    // Every message has additional keys, and unknown messages come in between.
    plan(&service, "hello protocol 9\nhello version 9.9.9\nnoise\n");
    for program in [double("psflip-other"), double("psflip-other"), psflip_bin()] {
        install(&service, &program);
        flips(&service);
        before.assert_same_in(service.psflip.active());
    }
    let log = service.psflip.log();
    // `sing` and `dance` around each of three messages to the old one and two to the new one, in two
    // upgrades.
    for verb in ["sing", "dance"] {
        let skipped =
            log.lines().filter(|line| line.contains("skipping a message") && line.contains(verb)).count();
        assert!(skipped >= 6, "{skipped} times `{verb}` in {log}");
    }
    service.succeeds_and_ends();
}

#[test]
fn an_earlier_compatible_version_takes_over_and_hands_over() {
    // Contract: V1
    let service = start();
    plan(&service, "hello protocol 1\nhello oldest 0\nhello version 0.0.9\n");
    for program in [double("psflip-other"), psflip_bin()] {
        install(&service, &program);
        flips(&service);
    }
    service.succeeds_and_ends();
}

#[test]
fn messages_that_an_earlier_version_lacks_are_not_required() {
    // Contract: V1
    let sandbox = testkit::Sandbox::new();
    let plan = sandbox.path("plan");
    // No pidfile and no other optional key, and the keys are not in today's order.
    sandbox.write("plan", "hello pidfile\nhello version 0.0.9\nhello protocol 1\nhello mask 0\n");
    let exe = sandbox.path("psflip");
    std::os::unix::fs::symlink(double("psflip-other"), &exe).unwrap();
    let builder = psflip(&sandbox, &["never-ready"], AT_ONCE).no_pidfile().exe(exe);
    let psflip = builder.env("PSFLIP_DOUBLE_PLAN", plan).start();
    let output = psflip.output();
    output.wait(Stream::Stderr, "healthy, active");
    psflip.program().signal(testkit::Signal::SIGHUP);
    output.wait(Stream::Stderr, "new generation took over");
    assert!(psflip.wait_exit().success(), "{}", sandbox.report());
    let new = wait_until(Deadline::default(), "the new generation to be alone", || {
        match &crate::service::generations(&sandbox)[..] {
            [new] => Some(*new),
            _ => None,
        }
    });
    new.signal(testkit::Signal::SIGTERM).unwrap();
    psflip.wait_gone(new);
    sandbox.assert_no_process_left();
}

#[test]
fn a_version_that_knows_no_older_generations_leaves_them_alone() {
    // Contract: D3, V1
    let sandbox = testkit::Sandbox::new();
    let rest = format!("{AT_ONCE}[upgrade]\ndraining = 2\n[shutdown]\ntimeout = \"1h\"\n");
    let exe = sandbox.path("exe");
    let install = |program| {
        std::os::unix::fs::symlink(program, sandbox.path("next")).unwrap();
        std::fs::rename(sandbox.path("next"), &exe).unwrap();
    };
    install(psflip_bin());
    let child = ["signal-logger", "--exit-on", "USR2"];
    let builder = psflip(&sandbox, &child, &rest).exe(&exe);
    let psflip =
        builder.env("PSFLIP_DOUBLE_PLAN", sandbox.write("plan", "hello older\n")).start().wait_ready();
    let flip = || {
        let (old, child) = (psflip.request_flip(), psflip.child());
        psflip.wait_successor(old);
        (old, child)
    };
    let (first, first_child) = flip();
    install(double("psflip-other"));
    let (second, second_child) = flip();
    install(psflip_bin());
    // It does not know of generation 1, and so it waits for its predecessor only.
    let (third, third_child) = flip();
    assert!([first, second, third].iter().all(testkit::Process::is_alive), "{}", sandbox.report());
    for (old, child) in [(second, second_child), (third, third_child)] {
        child.signal(testkit::Signal::SIGUSR2).unwrap();
        psflip.wait_gone(old);
    }
    let (active, child) = (psflip.active(), psflip.child());
    psflip.signal(testkit::Signal::SIGTERM);
    child.signal(testkit::Signal::SIGUSR2).unwrap();
    psflip.wait_gone(active);
    assert!(first.is_alive() && first_child.is_alive(), "{}", sandbox.report());
    first_child.signal(testkit::Signal::SIGUSR2).unwrap();
    psflip.wait_gone(first);
    sandbox.assert_no_process_left();
}

#[test]
fn a_predecessor_that_does_not_send_its_pidfile_keeps_it() {
    // Contract: V1, P3, U8
    let service = start();
    plan(&service, "hello pidfile\n");
    install(&service, &double("psflip-other"));
    let line = service.fails();
    assert!(line.text.contains("is running with this pidfile"), "{line}");
    install(&service, &psflip_bin());
    service.succeeds_and_ends();
}

#[test]
fn an_unknown_protocol_of_the_predecessor_is_refused_at_first() {
    // Contract: V1, U8
    let service = start();
    install(&service, &double("psflip-other"));
    // Its child would print that it started.
    service.configure(&["never-ready"], AT_ONCE);
    for (newest, oldest, version) in [(4, 3, "9.9.9"), (0, 0, "0.0.1"), (u32::MAX, u32::MAX, "12.0.0-rc.1")] {
        plan(&service, &format!("hello protocol {newest}\nhello oldest {oldest}\nhello version {version}\n"));
        let line = service.fails();
        let own = env!("CARGO_PKG_VERSION");
        let theirs =
            format!("the predecessor is psflip {version} and speaks hand-over protocol {oldest} to {newest}");
        for part in [theirs, format!("this is psflip {own} and speaks 1 to 2"), "exit code 125".to_owned()] {
            assert!(line.text.contains(&part), "no `{part}` in: {line}");
        }
    }
    let told = service.psflip.output().text(Stream::Stdout);
    assert!(!told.contains("starting"), "a child of the new generation was started: {told}");
    install(&service, &psflip_bin());
    service.succeeds_and_ends();
}

#[test]
fn a_successor_with_an_unknown_protocol_fails_the_upgrade_only() {
    // Contract: V1, U8
    let service = start();
    install(&service, &double("psflip-rogue"));
    let reason = "the predecessor is psflip 0.1.0 and speaks hand-over protocol 1 to 2, this is psflip 9.9.9 and speaks 3 to 4";
    plan(&service, &format!("say failed\\ncode 125\\nreason {reason}\nexit 125\n"));
    let line = service.fails();
    assert!(line.text.contains(reason) && line.text.contains("exit code 125"), "{line}");
    install(&service, &psflip_bin());
    service.succeeds_and_ends();
}

#[test]
fn a_version_that_cant_give_way_is_not_asked_to() {
    // Contract: E6, V1, U8
    let service = start();
    plan(&service, "hello protocol 1\nhello oldest 1\nhello version 0.0.9\n");
    install(&service, &double("psflip-other"));
    service.configure(&["never-ready"], &format!("[upgrade]\noverlap = false\n{AT_ONCE}"));
    let line = service.fails();
    assert!(line.text.contains("the running psflip 0.0.9 can't stop its child"), "{line}");
    assert!(line.text.contains("restart the service once"), "{line}");
    install(&service, &psflip_bin());
    service.succeeds_and_ends();
}
