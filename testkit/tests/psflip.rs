//! A real psflip in a sandbox: flips, ends, and what the harness says when they don't happen.
//!
//! Needs `cargo build -p psflip -p psflip-fixtures --bins`, as `cargo test --workspace` does by itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use psflip_testkit::client::http::HttpClient;
use psflip_testkit::{AvailabilityProbe, Deadline, PsflipBuilder, Sandbox, Signal, Stream, wait_until};

/// A child that says who it is, and is healthy at once.
fn service(sandbox: &Sandbox) -> PsflipBuilder {
    let script = "echo \"ready $PSFLIP_GENERATION\"; exec sleep 1000";
    sandbox.psflip().cmd(["sh", "-c", script]).config("[healthcheck.alive]\ntimeout = \"10ms\"\n")
}

#[test]
fn an_upgrade_names_old_and_new_and_the_pidfile_is_always_valid() {
    let sandbox = Sandbox::new();
    let psflip = service(&sandbox).start().wait_ready();
    assert_eq!(psflip.active_pid(), psflip.first_pid());
    let old_child = psflip.child();
    let mut pids = vec![psflip.first_pid()];
    for _ in 0..3 {
        let flip = psflip.flip();
        assert_eq!(flip.old.pid(), pids[pids.len() - 1]);
        assert!(!flip.old.is_alive() && flip.new.is_alive() && flip.duration <= flip.drained);
        pids.push(flip.new.pid());
    }
    assert!(!old_child.is_alive());
    assert!(psflip.wait_exit().success(), "a superseded psflip exits with code 0");
    psflip.output().wait_count(4, Stream::Stdout, "ready ");
    assert_eq!(psflip.history().pids(), pids);
    psflip.history().assert_never_missing();
    psflip.history().assert_always_alive();
    psflip.history().assert_atomic();
    sandbox.assert_zombie_free();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(psflip.stop().signal(), Some(Signal::SIGTERM as i32));
    sandbox.assert_no_process_left();
    psflip.output().wait_closed();
}

#[test]
fn a_failed_upgrade_is_reported_with_the_log_and_the_pidfile_history() {
    let sandbox = Sandbox::new();
    let psflip = service(&sandbox).start().wait_ready();
    sandbox.write("psflip.toml", "this is = not a configuration");
    let failed =
        catch_unwind(AssertUnwindSafe(|| psflip.flip_by(Deadline::after(Duration::from_millis(500)))));
    let text = failed.expect_err("no flip can succeed").downcast_ref::<String>().cloned().unwrap_or_default();
    let first = psflip.first_pid();
    for part in [
        format!("to name a successor of {first}"),
        format!("Pid({first})"),
        "--- stderr".into(),
        "out ready 1".into(),
    ] {
        assert!(text.contains(&part), "`{part}` is missing in:\n{text}");
    }
    assert_eq!(psflip.active_pid(), first);
}

#[test]
fn a_psflip_that_exits_before_it_is_ready_fails_the_wait_at_once() {
    let sandbox = Sandbox::new();
    let psflip = sandbox.psflip().config("no_such_key = 1\n").start();
    let failed = catch_unwind(AssertUnwindSafe(|| psflip.wait_pidfile()));
    let text = failed.expect_err("it never gets ready").downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(text.contains("exit status: 78 before its pidfile was written"), "{text}");
    assert!(text.contains("no_such_key"), "{text}");
}

#[test]
fn dropping_the_sandbox_of_a_running_service_leaves_no_process() {
    let sandbox = Sandbox::new();
    let psflip = service(&sandbox).start().wait_ready();
    psflip.flip();
    let processes = sandbox.processes();
    assert!(processes.len() >= 2, "{}", sandbox.report());
    drop(sandbox);
    assert!(processes.iter().all(|process| !process.is_alive()));
}

#[test]
fn the_signal_of_the_active_psflip_reaches_its_child() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo got USR1' USR1; echo ready; while :; do sleep 1000 & wait; done";
    let psflip = sandbox
        .psflip()
        .cmd(["sh", "-c", script])
        .config("[healthcheck.alive]\ntimeout = \"10ms\"\n")
        .start();
    psflip.wait_for_line(Stream::Stdout, "ready");
    let psflip = psflip.wait_ready();
    psflip.signal(Signal::SIGUSR1);
    psflip.wait_for_line(Stream::Stdout, "got USR1");
    psflip.signal_child(Signal::SIGUSR1);
    psflip.output().wait_count(2, Stream::Stdout, "got USR1");
    let child = psflip.child();
    psflip.signal_child(Signal::SIGKILL);
    wait_until(Deadline::default(), "the child to exit", || (!child.is_alive()).then_some(()));
    assert!(!psflip.wait_exit().success());
}

#[test]
fn a_probe_over_upgrades_gets_answers_of_every_generation() {
    let sandbox = Sandbox::new();
    let socket = sandbox.path("app.sock");
    let server = psflip_testkit::fixture("http-server");
    let psflip = sandbox
        .psflip()
        .cmd([
            server.as_os_str(),
            "--unix".as_ref(),
            socket.as_os_str(),
            "--probe".as_ref(),
            "{{ blue_green() }}.up".as_ref(),
        ])
        // At `app.sock` the predecessor would answer.
        .config("[healthcheck.unix]\npath = \"{{ blue_green() }}.up\"\ninterval = \"10ms\"\n")
        .start()
        .wait_ready();
    let probe = AvailabilityProbe::start(4, |_| {
        let mut client = HttpClient::unix(&socket);
        move || client.get("/")?.tag("pid")
    });
    for _ in 0..3 {
        let tag = psflip.child_pid().to_string();
        probe.wait_tag(&tag);
        psflip.flip();
    }
    probe.wait_tag(&psflip.child_pid().to_string());
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.len(), 4, "{report}");
    psflip.stop();
    sandbox.assert_no_process_left();
}
