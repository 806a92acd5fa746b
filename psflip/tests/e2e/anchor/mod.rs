//! The anchor: one process stays, and generations come and go below it.

mod by_default;
mod failures;
mod jobs;
mod namespace;
mod reexec;

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use testkit::{
    Anchor, Deadline, FdSnapshot, NotifyManager, Process, Psflip, PsflipBuilder, Sandbox, Signal, Stream,
    fixture, psflip_bin, wait_until,
};

use crate::service::{AT_ONCE, Service, configure, psflip, script, wait_idle, wait_rest};

/// The process name that psflip gives to the anchor.
pub(crate) const NAME: &str = "psflip: anchor";

/// Starts psflip in the default way, which is below an anchor.
pub(crate) fn anchored(builder: PsflipBuilder) -> PsflipBuilder {
    builder.anchor(Anchor::ByDefault)
}

/// The anchor above the active psflip.
#[track_caller]
pub(crate) fn anchor_of(psflip: &Psflip) -> Process {
    let anchor = psflip.program().first();
    wait_until(Deadline::default(), format!("process {anchor} to be the anchor"), || {
        anchor.stat().is_some_and(|stat| stat.name == NAME).then_some(())
    });
    anchor
}

/// Stops the service as its supervisor does, by a SIGTERM to the one process that the supervisor knows.
#[track_caller]
pub(crate) fn stop(psflip: &Psflip) -> ExitStatus {
    psflip.program().first().signal(Signal::SIGTERM).unwrap();
    psflip.wait_exit()
}

#[test]
fn the_anchor_keeps_its_pid_over_upgrades_and_no_request_is_lost() {
    // Contract: A1, A2, U10, P1
    let service = Service::start_as(|builder, _| anchored(builder));
    let anchor = anchor_of(&service.psflip);
    let open = FdSnapshot::of(anchor);
    for round in 0..10 {
        let old = service.psflip.active();
        assert_eq!(old.parent(), Some(anchor), "{}", service.sandbox.report());
        // The pidfile names the active psflip, and the supervisor knows the anchor. Both must accept
        // requests.
        let asked = if round % 2 == 0 { anchor } else { old };
        asked.signal(Signal::SIGHUP).unwrap();
        let new = service.psflip.wait_successor(old);
        service.psflip.wait_gone(old);
        assert_eq!(new.parent(), Some(anchor), "{}", service.sandbox.report());
        service.probe.wait_requests(10);
        service.sandbox.assert_zombie_free();
    }
    assert!(anchor.is_alive());
    open.assert_unchanged();
    service.psflip.history().assert_never_missing();
    service.psflip.history().assert_always_alive();
    let Service { probe, psflip, sandbox } = service;
    probe.finish().assert_no_failures();
    let status = stop(&psflip);
    assert!(status.success(), "{status}\n{}", sandbox.report());
    assert!(!psflip.pidfile_path().exists());
    sandbox.assert_no_process_left();
}

#[test]
fn the_anchor_exits_as_its_only_generation_exited() {
    // Contract: A3, C5, C6
    let cases: [(&[&str], Option<i32>, Option<i32>); 7] = [
        (&["exit-with", "--code", "0"], Some(0), None),
        (&["exit-with", "--code", "9"], Some(9), None),
        (&["exit-with", "--signal", "TERM"], None, Some(15)),
        (&["exit-with", "--signal", "KILL"], None, Some(9)),
        (&["exit-with", "--signal", "SEGV"], None, Some(11)),
        (&["/nonexistent/program"], Some(127), None),
        (&["/"], Some(126), None),
    ];
    for (argv, code, signal) in cases {
        let sandbox = Sandbox::new();
        let psflip = anchored(psflip(&sandbox, argv, AT_ONCE)).start();
        let status = psflip.wait_exit();
        assert_eq!((status.code(), status.signal()), (code, signal), "{argv:?}\n{}", sandbox.report());
        assert!(!status.core_dumped());
        sandbox.assert_no_process_left();
    }
    let sandbox = Sandbox::new();
    let psflip = anchored(sandbox.psflip().cmd(["true"]).config("no_such_key = 1\n")).start();
    assert_eq!(psflip.wait_exit().code(), Some(78));
}

#[test]
fn after_upgrades_the_anchor_exits_as_the_last_generation_exited() {
    // Contract: A3, C5
    let sandbox = Sandbox::new();
    let psflip = anchored(psflip(&sandbox, &["/bin/sleep", "infinity"], AT_ONCE)).start().wait_ready();
    psflip.flip();
    let child = script(&sandbox, "child", "while [ ! -e go ]; do sleep 0.01; done; exit 42");
    configure(&sandbox, &[child.to_str().unwrap()], AT_ONCE);
    psflip.flip();
    sandbox.write("go", "");
    assert_eq!(psflip.wait_exit().code(), Some(42), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn the_child_can_not_detect_the_anchor() {
    // Contract: A1, C3, C4
    let sandbox = Sandbox::new();
    let show = "env | sort; ls -l /proc/self/fd | sed 's/.*[0-9] \\([0-9]* ->\\)/\\1/' | grep -v '/proc/'; echo shown; exec sleep 1000";
    let child = script(&sandbox, "child", show);
    let psflip = anchored(psflip(&sandbox, &[child.to_str().unwrap()], AT_ONCE)).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "shown");
    let old = psflip.active();
    psflip.flip();
    psflip.output().wait_count(2, Stream::Stdout, "shown");
    let said = psflip.program().stdout();
    assert!(!said.contains("PSFLIP_ANCHOR") && !said.contains("PSFLIP_HANDOVER"), "{said}");
    assert!(!said.contains("socket:") && !said.contains("anon_inode"), "{said}");
    let session = |process: Process| process.stat().map(|stat| stat.session);
    assert_eq!(session(psflip.child()), session(psflip.program().first()), "{old}\n{}", sandbox.report());
    stop(&psflip);
}

#[test]
fn the_active_child_gets_the_anchors_signals_with_their_sender() {
    // Contract: A2, S1, S6
    let sandbox = Sandbox::new();
    let logger = fixture("signal-logger");
    let config = format!("{AT_ONCE}[log]\nlevel = \"debug\"\n[shutdown]\ntimeout = \"2s\"\n");
    let psflip = anchored(psflip(&sandbox, &[logger.to_str().unwrap()], &config)).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready");
    let anchor = anchor_of(&psflip);
    for generation in 1..=2 {
        let numbers = (1..=64).filter(|number| ![1, 2, 9, 15, 17, 18, 19, 32, 33].contains(number));
        for number in numbers {
            let mark = psflip.output().mark();
            let kill = sandbox
                .command(["/bin/kill", &format!("-{number}"), "-q", "77", &anchor.to_string()])
                .start();
            assert!(kill.wait_exit().success());
            let line = psflip.output().wait_after(mark, Stream::Stdout, "got ").text;
            let from = format!(" value=77 from={} code=SI_QUEUE", kill.pid());
            assert!(line.contains(&from), "signal {number} in generation {generation}: {line}");
        }
        let got = |what: &str| psflip.program().stdout().matches(what).count();
        // The old child, too, has logged the SIGTERM that it received at the upgrade.
        assert_eq!(
            got("got ") - got("got SIGTERM"),
            generation * (64 - 9),
            "each once\n{}",
            sandbox.report()
        );
        if generation == 1 {
            let mark = psflip.output().mark();
            psflip.flip();
            psflip.output().wait_after(mark, Stream::Stdout, "ready");
        }
    }
    let mark = psflip.output().mark();
    let kill = sandbox.command(["/bin/kill", "-TERM", &anchor.to_string()]).start();
    kill.wait_exit();
    let line = psflip.output().wait_after(mark, Stream::Stderr, "stop requested").text;
    assert!(line.contains(&format!("from=\"pid {} ", kill.pid())), "{line}");
    assert!(psflip.wait_exit().success());
}

#[test]
fn upgrade_requests_right_after_the_start_are_executed() {
    // Contract: A2, S7, U7
    for _ in 0..10 {
        let sandbox = Sandbox::new();
        // SIGHUP is blocked, since it would terminate the process before psflip's first instruction has run.
        let psflip = psflip(&sandbox, &["/bin/sleep", "infinity"], AT_ONCE).block_signal(Signal::SIGHUP);
        let psflip = anchored(psflip).start();
        let first = psflip.program().first();
        wait_until(Deadline::default(), "psflip to be executed", || {
            first.exe().is_ok_and(|exe| exe == psflip_bin()).then_some(())
        });
        first.signal(Signal::SIGHUP).unwrap();
        psflip.wait_for_line(Stream::Stderr, "new generation took over");
        wait_until(Deadline::default(), "generation 2 to be alone", || {
            (sandbox.processes().len() == 4).then_some(())
        });
        stop(&psflip);
        sandbox.assert_no_process_left();
    }
}

#[test]
fn an_idle_anchor_does_not_wake_up() {
    // Contract: A6
    let sandbox = Sandbox::new();
    let psflip = anchored(psflip(&sandbox, &["/bin/sleep", "infinity"], AT_ONCE)).start().wait_ready();
    let anchor = anchor_of(&psflip);
    let old = psflip.active();
    psflip.flip();
    psflip.wait_gone(old);
    for process in [anchor, psflip.active(), psflip.child().parent().unwrap()] {
        wait_idle(process);
    }
    let before = wait_rest(&sandbox);
    assert!(before.iter().any(|(process, _)| *process == anchor));
    let idle = sandbox.command(["sleep", "2"]).start();
    idle.wait_exit();
    assert_eq!(wait_rest(&sandbox), before, "it woke up");
    stop(&psflip);
}

#[test]
fn the_service_manager_is_notified_of_the_anchor_as_main_pid_only() {
    // Contract: A1
    let sandbox = Sandbox::new();
    let socket = sandbox.path("notify");
    let manager = NotifyManager::bind(&socket);
    let psflip = psflip(&sandbox, &["/bin/sleep", "infinity"], AT_ONCE).env("NOTIFY_SOCKET", &socket);
    let psflip = anchored(psflip).start().wait_ready();
    manager.wait("READY=1");
    psflip.flip();
    manager.wait("generation 2 took over");
    stop(&psflip);
    for notice in manager.notices() {
        assert_eq!(notice.value("MAINPID"), None, "{notice:?}");
    }
}
