//! SIGSTOP and SIGCONT at any moment, to each of the four processes: old and new psflip, old and new child
//! (F5, F12).

use testkit::{Deadline, Process, Psflip, Stream, child_of, wait_until};

use crate::service::{Service, UNTIL_FILE, freeze, generations, stop, thaw, wait_coming};

/// An upgrade that waits for the file `healthy`. Returns old psflip, old child, new psflip, new child.
fn upgrading(service: &Service, rest: &str) -> [Process; 4] {
    let (old, old_child) = (service.psflip.active(), service.psflip.child());
    service.configure(&["never-ready"], &format!("{UNTIL_FILE}{rest}"));
    let mark = service.psflip.output().mark();
    service.psflip.request_flip();
    service.psflip.output().wait_after(mark, Stream::Stdout, "starting pid=");
    let new = wait_coming(&service.sandbox, old);
    let new_child = wait_until(Deadline::default(), "the new child", || child_of(new));
    [old, old_child, new, new_child]
}

/// The keeper of a generation.
fn keeper(psflip: Process) -> Process {
    let of = |process: &Process| process.stat().is_some_and(|stat| stat.name.contains("keeper"));
    psflip.children().into_iter().find(of).unwrap_or_else(|| panic!("{psflip} has no keeper"))
}

#[test]
fn a_new_psflip_that_hangs_is_killed_with_its_child_at_the_deadline() {
    // Contract: F5, U8
    let service = Service::start();
    // Time for the test to freeze it.
    let times = "[upgrade]\ntimeout = \"3s\"\n[shutdown]\ntimeout = \"0s\"\n";
    let [old, old_child, new, new_child] = upgrading(&service, times);
    freeze(new);
    let line = service.psflip.wait_for_line(Stream::Stderr, "upgrade failed");
    assert!(line.text.contains("did not answer within 18s, so it is killed"), "{line}");
    service.psflip.wait_gone(new_child);
    service.wait_alone(old, old_child);
    service.succeeds_and_ends();
}

#[test]
fn a_completely_suspended_new_generation_is_killed_at_the_deadline() {
    // Contract: F5, F12, C7
    let service = Service::start();
    // Time for the test to freeze it.
    let times = "[upgrade]\ntimeout = \"3s\"\n[shutdown]\ntimeout = \"0s\"\n";
    let [old, old_child, new, new_child] = upgrading(&service, times);
    let keeper = keeper(new);
    for process in [new, keeper, new_child] {
        freeze(process); // psflip first, since it would continue its keeper
    }
    service.psflip.wait_for_line(Stream::Stderr, "upgrade failed");
    service.psflip.wait_gone(keeper);
    service.wait_alone(old, old_child);
    service.succeeds_and_ends();
}

/// Waits until only the new generation is left, after exactly one promotion since `mark`.
fn promoted_once(service: &Service, psflip: &Psflip, old: Process, new: Process, mark: usize) {
    assert_eq!(psflip.wait_successor(old), new);
    psflip.wait_gone(old);
    let promotions = psflip.output().wait_after(mark, Stream::Stderr, "healthy, active");
    let lines = psflip.output().lines();
    let count = lines.iter().skip(mark).filter(|line| line.text.contains("healthy, active")).count();
    assert_eq!(count, 1, "{promotions}\n{}", service.sandbox.report());
    assert_eq!(generations(&service.sandbox), [new]);
}

#[test]
fn each_process_may_be_suspended_during_an_upgrade_and_continued() {
    // Contract: F12
    let service = Service::start();
    let psflip = &service.psflip;
    for stopped in 0..6 {
        let _ = std::fs::remove_file(service.sandbox.path("healthy"));
        // The pidfile names a generation before its line is written.
        psflip.output().wait_count(1 + 2 * stopped, Stream::Stderr, "healthy, active");
        let mark = psflip.output().mark();
        let all = upgrading(&service, "");
        let [old, _, new, _] = all;
        let process = match stopped {
            4 => keeper(old),
            5 => keeper(new),
            number => all[number],
        };
        if stopped < 4 {
            freeze(process);
        } else {
            process.signal(testkit::Signal::SIGSTOP).unwrap(); // its psflip continues it at once
        }
        if stopped == 1 {
            thaw(process); // a stopped child can't answer requests, which is not psflip's fault
        }
        service.sandbox.write("healthy", "");
        match stopped {
            // Both are stopped, so neither generation may be promoted.
            2 => assert_eq!(psflip.active(), old),
            // Ready, but not acknowledged.
            0 => assert_eq!(psflip.wait_successor(old), new),
            _ => {}
        }
        // If a psflip is stopped. Otherwise the old one may have exited by now.
        if [0, 2].contains(&stopped) {
            assert!(old.is_alive(), "{}", service.sandbox.report());
        }
        assert!(new.is_alive(), "{}", service.sandbox.report());
        if stopped < 4 {
            thaw(process);
        }
        promoted_once(&service, psflip, old, new, mark);
        service.configure_well();
        psflip.flip();
    }
    let Service { probe, psflip, sandbox } = service;
    drop(probe); // no server answered for a time
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn an_old_psflip_that_is_suspended_too_long_keeps_the_service() {
    // Contract: F12, U8
    let service = Service::start();
    let [old, old_child, new, _] = upgrading(&service, "");
    freeze(old);
    service.sandbox.write("healthy", "");
    assert_eq!(service.psflip.wait_successor(old), new);
    // The new psflip gives up after some seconds, and gives pidfile and traffic back.
    service.psflip.wait_for_line(Stream::Stderr, "did not acknowledge within");
    service.psflip.wait_gone(new);
    assert_eq!(service.psflip.active(), old);
    thaw(old);
    service.psflip.wait_for_line(Stream::Stderr, "upgrade failed");
    service.wait_alone(old, old_child);
    service.succeeds_and_ends();
}

#[test]
fn random_suspensions_cause_no_false_promotion() {
    // Contract: F12, U7
    let service = Service::start();
    let (old, old_child) = (service.psflip.active(), service.psflip.child());
    service.configure(&["crash-on-init", "--after", "10ms"], "");
    for number in 0..30u64 {
        let mark = service.psflip.output().mark();
        service.psflip.request_flip();
        if number % 3 > 0 {
            wait_until(Deadline::default(), "a new psflip, or its failure", || {
                let failed = || service.psflip.log().matches("upgrade failed").count() as u64 > number;
                (generations(&service.sandbox).len() == 2 || failed()).then_some(())
            });
        }
        // All but the child that serves.
        let mut stopped = service.sandbox.processes();
        stopped.retain(|process| *process != old_child);
        stopped.rotate_left(number as usize % 3);
        for process in &stopped {
            let _ = process.signal(testkit::Signal::SIGSTOP); // it may just have exited
        }
        service.probe.wait_requests(3);
        for process in &stopped {
            let _ = process.signal(testkit::Signal::SIGCONT);
        }
        service.psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
        service.wait_alone(old, old_child);
    }
    service.succeeds_and_ends();
}
