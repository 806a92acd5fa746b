//! One of the processes of an upgrade is killed, or exits (F6 to F9).

use testkit::client::http::HttpClient;
use testkit::{Deadline, Process, Sandbox, Signal, Stream, process, wait_until};

use super::stage::Stage;
use crate::service::{
    AT_ONCE, Draining, Service, UNTIL_FILE, configure, flip_to_logger, generations, kill, program, psflip,
    stop, wait_coming,
};

#[test]
fn a_killed_new_psflip_leaves_the_old_generation_unchanged() {
    // Contract: F6, U8, C7
    let service = Service::start();
    service.configure(&["forks-workers", "--orphans", "1", "--ignore-term"], UNTIL_FILE);
    let moments: &[(Stream, &str)] = &[
        (Stream::Stderr, "the new psflip starts its child"),
        (Stream::Stderr, "child started"),
        (Stream::Stdout, "worker pid="),
        (Stream::Stdout, "ready pid="),
    ];
    let line = service.fails_by(|old, _| kill(wait_coming(&service.sandbox, old)));
    assert!(line.text.contains("killed, crashed, or not a psflip"), "{line}");
    for (stream, moment) in moments {
        let line = service.fails_by(|old, mark| {
            service.psflip.output().wait_after(mark, *stream, moment);
            kill(wait_coming(&service.sandbox, old));
        });
        assert!(line.text.contains("killed, crashed, or not a psflip"), "{line}");
    }
    service.succeeds_and_ends();
}

/// On a busy host the process between the two psflips may exit after the new psflip is ready. The old psflip
/// kills all its descendants when it exits, so it would kill the new one.
#[test]
fn a_successor_is_not_promoted_before_it_is_reparented() {
    // Contract: U10, U4
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let psflip = stage.psflip(&sandbox, "[log]\nlevel = \"debug\"\n").start().wait_ready();
    let (old, child) = (psflip.active(), psflip.child());
    stage.plan(&sandbox, Some(old), "record\npause intermediate Ends intermediate");
    psflip.request_flip();
    let paused = stage.wait_pause(&sandbox);
    wait_until(Deadline::default(), "the new psflip to report that it is ready", || {
        sandbox.read("trace").contains(" new Sent ready\n").then_some(())
    });
    // The new psflip's messages are handled before signals.
    let mark = psflip.output().mark();
    old.signal(Signal::SIGWINCH).unwrap();
    psflip.output().wait_after(mark, Stream::Stderr, "signal=SIGWINCH");
    assert!(!psflip.log().contains("new generation took over") && child.is_alive(), "{}", sandbox.report());
    paused.go_on();
    assert!(psflip.wait_end_of(old).success());
    stage.no_plan(&sandbox);
    psflip.flip();
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn fifty_new_psflips_killed_at_random_moments_lose_no_request() {
    // Contract: F6, U8
    let service = Service::start();
    let probe = "[healthcheck.command]\ncmd = [\"sh\", \"-c\", \"echo x >> probes; sleep infinity\"]\ntimeout = \"5ms\"\n";
    service.configure(&["forks-workers", "--workers", "2"], &format!("{probe}interval = \"1ms\"\n"));
    for number in 0..50u64 {
        service.fails_by(|old, _| {
            let new = wait_coming(&service.sandbox, old);
            // After that many answers of the old child, each some hundred microseconds.
            if number % 10 > 0 {
                service.probe.wait_requests(number % 10);
            }
            kill(new);
        });
    }
    service.succeeds_and_ends();
}

/// Tries to kill the new psflip after it has taken the pidfile and before its promotion. Either may come
/// first. Returns whether the kill did.
fn killed_with_the_pidfile(sandbox: &Sandbox) -> bool {
    let psflip = psflip(sandbox, &["never-ready"], AT_ONCE).start().wait_ready();
    let (old, child) = (psflip.active(), psflip.child());
    psflip.request_flip();
    let new = psflip.wait_successor(old);
    kill(new);
    let line = psflip.output().wait_for(Deadline::default(), "the old psflip's decision", |lines| {
        let told = |part: &str| lines.iter().find(|line| line.text.contains(part)).cloned();
        told("upgrade failed").or_else(|| told("new generation took over"))
    });
    psflip.wait_gone(new);
    let in_time = line.text.contains("upgrade failed");
    if in_time {
        wait_until(Deadline::default(), "the old generation to be alone", || {
            (sandbox.processes().len() == 3).then_some(())
        });
        assert_eq!((psflip.active(), psflip.child()), (old, child), "{}", sandbox.report());
        psflip.flip();
        stop(&psflip);
    } else {
        // It was promoted, so SIGKILL ended the service. The old generation has stopped as an old generation
        // does.
        assert!(psflip.wait_exit().success(), "{}", sandbox.report());
    }
    sandbox.assert_no_process_left();
    in_time
}

#[test]
fn a_new_psflip_killed_while_it_takes_the_pidfile_is_promoted_or_not() {
    // Contract: F6, P1
    for _ in 0..30 {
        let sandbox = Sandbox::new();
        killed_with_the_pidfile(&sandbox);
    }
}

#[test]
fn a_pidfile_that_a_killed_generation_took_is_reclaimed() {
    // Contract: F6, P1, U8
    let service = Service::start();
    let (old, child) = (service.psflip.active(), service.psflip.child());
    service.configure(&["never-ready"], UNTIL_FILE);
    service.psflip.request_flip();
    service.psflip.wait_for_line(Stream::Stderr, "generation=2 pid=");
    let new = wait_coming(&service.sandbox, old);
    crate::service::freeze(old); // so it can't acknowledge
    service.sandbox.write("healthy", "");
    assert_eq!(service.psflip.wait_successor(old), new);
    kill(new);
    service.psflip.wait_gone(new);
    crate::service::thaw(old);
    service.psflip.wait_for_line(Stream::Stderr, "upgrade failed");
    service.wait_alone(old, child);
    service.succeeds_and_ends();
}

#[test]
fn an_old_child_that_dies_during_an_upgrade_is_replaced_by_the_new_one() {
    // Contract: F7
    let sandbox = Sandbox::new();
    let dies = ["dies-later", "--on-file", "die", "--code", "9"];
    let psflip = psflip(&sandbox, &dies, AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let old = psflip.active();
    configure(&sandbox, &["http-server", "--unix", "app.sock"], UNTIL_FILE);
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    sandbox.write("die", "");
    psflip.wait_for_line(Stream::Stderr, "the child exited during an upgrade");
    assert_eq!(psflip.active(), old, "no generation is promoted yet");
    sandbox.write("healthy", "");
    psflip.wait_successor(old);
    assert!(psflip.wait_exit().success(), "superseded: 0");
    let answer = HttpClient::unix(sandbox.path("app.sock")).get("/").unwrap();
    assert_eq!(answer.tag("name").unwrap(), "gen2");
    psflip.flip();
    stop(&psflip);
}

#[test]
fn the_exit_of_an_old_child_during_a_failed_upgrade_is_relayed() {
    // Contract: F7, C5
    for (ending, value) in [("--code", "9"), ("--signal", "SEGV")] {
        let sandbox = Sandbox::new();
        let dies = ["dies-later", "--on-file", "die", ending, value];
        let psflip = psflip(&sandbox, &dies, AT_ONCE).start().wait_ready();
        psflip.wait_for_line(Stream::Stdout, "name=gen1");
        configure(&sandbox, &["dies-later", "--on-file", "fail"], UNTIL_FILE);
        psflip.request_flip();
        psflip.wait_for_line(Stream::Stdout, "name=gen2");
        sandbox.write("die", "");
        psflip.wait_for_line(Stream::Stderr, "the child exited during an upgrade");
        sandbox.write("fail", "");
        let status = psflip.wait_exit();
        let told = format!("{status}");
        assert!(told.contains("9") || told.contains("11 (SIGSEGV)"), "{told}\n{}", sandbox.report());
        assert!(!psflip.pidfile_path().exists(), "{}", sandbox.report());
        sandbox.assert_no_process_left();
    }
}

/// Kills the old psflip at this moment of an upgrade. The new generation must go on alone and take over.
fn goes_on_alone(moment: impl FnOnce(&testkit::Psflip, &Sandbox, Process)) {
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["forks-workers"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let old = psflip.active();
    let tree = process::tree(old.pid());
    configure(&sandbox, &["signal-logger"], UNTIL_FILE);
    psflip.request_flip();
    moment(&psflip, &sandbox, old);
    kill(old);
    psflip.wait_gone(old);
    wait_until(Deadline::default(), "the old child and its workers to exit", || {
        tree.iter().all(|process| !process.is_alive()).then_some(())
    });
    assert_eq!(generations(&sandbox).len(), 1, "{}", sandbox.report());
    sandbox.write("healthy", "");
    let new = psflip.wait_pidfile();
    assert_eq!(generations(&sandbox), [new]);
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    psflip.flip();
    psflip.wait_for_line(Stream::Stdout, "name=gen3");
    stop(&psflip);
}

#[test]
fn a_new_generation_whose_predecessor_is_killed_goes_on_alone() {
    // Contract: F8
    for _ in 0..10 {
        goes_on_alone(|psflip, _, _| drop(psflip.wait_for_line(Stream::Stdout, "name=gen2")));
        goes_on_alone(|_, sandbox, old| {
            let new = wait_coming(sandbox, old);
            wait_until(Deadline::default(), "the new psflip's keeper", || new.children().first().copied());
        });
    }
}

#[test]
fn a_predecessor_killed_before_its_acknowledgement_is_replaced() {
    // Contract: F8
    goes_on_alone(|psflip, sandbox, old| {
        psflip.wait_for_line(Stream::Stdout, "name=gen2");
        crate::service::freeze(old);
        sandbox.write("healthy", "");
        psflip.wait_successor(old);
    });
}

#[test]
fn a_predecessor_killed_while_it_drains_affects_no_new_process() {
    // Contract: F9
    let sandbox = Sandbox::new();
    let Draining { psflip, old, new, old_child } =
        flip_to_logger(&sandbox, &["ignore-sigterm"], "[shutdown]\ntimeout = \"1h\"\n", "");
    psflip.wait_for_line(Stream::Stdout, "got SIGTERM from=");
    let child = psflip.child();
    kill(old);
    psflip.wait_gone(old);
    psflip.wait_gone(old_child);
    psflip.signal(Signal::SIGUSR1);
    psflip.wait_for_line(Stream::Stdout, "got SIGUSR1");
    let got: Vec<_> =
        psflip.output().lines().into_iter().filter(|line| line.text.contains(" code=")).collect();
    assert_eq!(got.len(), 1, "{got:?}");
    assert_eq!((psflip.active(), psflip.child()), (new, child), "{}", sandbox.report());
    psflip.flip();
    stop(&psflip);
}

#[test]
fn a_keeper_killed_while_psflip_is_no_subreaper_leaves_no_process() {
    // Contract: C7, C8, F7
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let workers = ["forks-workers", "--workers", "2", "--orphans", "1", "--setsid"];
    let psflip = stage.psflip(&sandbox, "").cmd(program(&workers)).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready pid=");
    let old = psflip.active();
    let tree = process::tree(old.pid());
    assert_eq!(tree.len(), 6, "psflip, keeper, child, two workers, an orphan\n{}", sandbox.report());
    // In this test psflip is not a subreaper, so the service manager becomes the successor's parent.
    stage.plan(&sandbox, Some(old), "pause intermediate Begins intermediate");
    psflip.request_flip();
    let paused = stage.wait_pause(&sandbox);
    kill(tree[1]);
    tree[1..].iter().for_each(|process| psflip.wait_gone(*process));
    stage.no_plan(&sandbox);
    paused.go_on();
    psflip.wait_successor(old);
    assert!(psflip.wait_exit().success(), "superseded: 0\n{}", sandbox.report());
    stop(&psflip);
    sandbox.assert_no_process_left();
}
