//! Requests at any moment: each leads to an upgrade once, and there are never three generations (U7).

use testkit::{Deadline, Process, Psflip, Sandbox, Signal, Stream, wait_until};

use crate::service::{AT_ONCE, Service, configure, generations, psflip};

/// Waits until this generation serves and nothing is left of earlier ones, then makes sure that no other
/// follows. A queued request would start an upgrade at once.
#[track_caller]
fn settles_at(sandbox: &Sandbox, psflip: &Psflip, generation: &str) {
    wait_until(Deadline::default(), format!("generation {generation} to be alone"), || {
        let alone = generations(sandbox).len() == 1 && sandbox.processes().len() == 3;
        (alone && psflip.child().env("PSFLIP_GENERATION").is_some_and(|number| number == *generation))
            .then_some(())
    });
    psflip.wait_for_line(Stream::Stdout, &format!("name=gen{generation}")); // its child handles signals
    all_heard(psflip, psflip.active());
    assert_eq!(generations(sandbox).len(), 1, "{}", sandbox.report());
    assert_eq!(psflip.child().env("PSFLIP_GENERATION").unwrap(), generation, "{}", sandbox.report());
}

/// psflip reads pending signals in the order of their numbers. Once this signal has passed through, all
/// earlier requests were handled.
#[track_caller]
fn all_heard(psflip: &Psflip, process: Process) {
    let mark = psflip.output().mark();
    process.signal(Signal::SIGUSR1).unwrap();
    psflip.output().wait_after(mark, Stream::Stdout, "got SIGUSR1");
}

#[test]
fn requests_before_the_first_child_is_healthy_cause_one_upgrade() {
    // Contract: U7
    let sandbox = Sandbox::new();
    let rest = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"healthy\"]\ninterval = \"5ms\"\n";
    let psflip = psflip(&sandbox, &["signal-logger"], rest).start();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    for _ in 0..5 {
        psflip.program().signal(Signal::SIGHUP);
    }
    psflip.wait_for_line(Stream::Stderr, "upgrade queued");
    all_heard(&psflip, psflip.program().first()); // otherwise a late signal would count as one more request
    assert_eq!(generations(&sandbox).len(), 1, "{}", sandbox.report());
    sandbox.write("healthy", "");
    settles_at(&sandbox, &psflip.wait_ready(), "2");
}

#[test]
fn requests_during_an_upgrade_cause_one_more_upgrade() {
    // Contract: U7
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let old = psflip.active();
    let rest = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"healthy\"]\ninterval = \"5ms\"\n";
    configure(&sandbox, &["signal-logger"], rest);
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    for _ in 0..5 {
        assert_eq!(psflip.request_flip(), old);
    }
    psflip.wait_for_line(Stream::Stderr, "upgrade queued");
    all_heard(&psflip, old);
    assert_eq!(generations(&sandbox).len(), 2, "{}", sandbox.report());
    sandbox.write("healthy", "");
    settles_at(&sandbox, &psflip, "3");
}

#[test]
fn requests_to_the_new_generation_cause_one_more_upgrade() {
    // Contract: U7
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let old = psflip.active();
    let rest = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"healthy\"]\ninterval = \"5ms\"\n";
    configure(&sandbox, &["signal-logger"], rest);
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    let new = generations(&sandbox).into_iter().find(|process| *process != old).unwrap();
    for _ in 0..5 {
        new.signal(Signal::SIGHUP).unwrap();
    }
    psflip.wait_for_line(Stream::Stderr, "upgrade queued");
    all_heard(&psflip, new);
    assert_eq!(generations(&sandbox).len(), 2, "{}", sandbox.report());
    sandbox.write("healthy", "");
    settles_at(&sandbox, &psflip, "3");
}

#[test]
fn a_request_to_a_failed_generation_is_executed_by_the_old_one() {
    // Contract: U7, U8
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let old = psflip.active();
    configure(&sandbox, &["dies-later", "--on-file", "die"], "");
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    let new = generations(&sandbox).into_iter().find(|process| *process != old).unwrap();
    new.signal(Signal::SIGHUP).unwrap();
    psflip.wait_for_line(Stream::Stderr, "upgrade queued");
    configure(&sandbox, &["signal-logger"], AT_ONCE);
    sandbox.write("die", "");
    psflip.wait_for_line(Stream::Stderr, "upgrade failed");
    psflip.wait_successor(old);
    settles_at(&sandbox, &psflip, "2");
}

#[test]
fn requests_while_the_predecessor_drains_cause_one_more_upgrade() {
    // Contract: U7
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}[shutdown]\ntimeout = \"1h\"\n");
    let slow = ["ignore-sigterm", "--exit-on", "USR2"];
    let psflip = psflip(&sandbox, &slow, &rest).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let (old, child) = (psflip.active(), psflip.child());
    configure(&sandbox, &["signal-logger"], AT_ONCE);
    psflip.request_flip();
    let new = psflip.wait_successor(old);
    psflip.wait_for_line(Stream::Stdout, &format!("got SIGTERM from={old}"));
    for _ in 0..5 {
        new.signal(Signal::SIGHUP).unwrap();
        // A late signal, from a sender that read the pidfile before the upgrade.
        old.signal(Signal::SIGHUP).unwrap();
    }
    psflip.output().wait_for(Deadline::default(), "both to have received it", |lines| {
        let heard = |pid| {
            let part = format!("pid={pid}}}: upgrade requested");
            lines.iter().any(|line| line.text.contains(&part))
        };
        (heard(old) && heard(new)).then_some(())
    });
    assert_eq!(generations(&sandbox).len(), 2, "{}", sandbox.report());
    child.signal(Signal::SIGUSR2).unwrap();
    psflip.wait_gone(old);
    settles_at(&sandbox, &psflip, "3");
}

#[test]
fn a_hundred_requests_at_any_time_start_no_third_generation() {
    // Contract: U7, P1
    let service = Service::start();
    let mut most = 0;
    for number in 0..100 {
        match number % 10 {
            // An upgrade that fails in between.
            3 => service.configure(&["crash-on-init"], ""),
            4 => service.configure_well(),
            _ => {}
        }
        let target = match (number % 3, generations(&service.sandbox).first()) {
            (0, Some(any)) => *any,
            _ => service.psflip.active(),
        };
        let _ = target.signal(Signal::SIGHUP); // it may just have exited
        most = most.max(generations(&service.sandbox).len());
        service.probe.wait_requests(number % 7);
    }
    service.configure_well();
    wait_until(Deadline::default(), "one generation that has followed every request", || {
        most = most.max(generations(&service.sandbox).len());
        let alone = service.sandbox.processes().len() == 3;
        // Signals with lower numbers, which were sent before, are handled first.
        let mark = service.psflip.output().mark();
        let active = service.psflip.active();
        if !alone || active.signal(Signal::SIGWINCH).is_err() {
            return None;
        }
        wait_until(Deadline::default(), "a signal to be received", || {
            let lines = service.psflip.output().lines();
            let heard = lines.iter().skip(mark).any(|line| line.text.contains("signal=SIGWINCH"));
            (heard || !active.is_alive()).then_some(())
        });
        (service.sandbox.processes().len() == 3 && service.psflip.active() == active).then_some(())
    });
    assert_eq!(most, 2, "generations at a time\n{}", service.sandbox.report());
    service.psflip.history().assert_never_missing();
    service.psflip.history().assert_always_alive();
    service.succeeds_and_ends();
}
