//! A child that was found healthy must stay healthy before it is promoted (`settle`).

use testkit::{Deadline, Psflip, Sandbox, Signal, Stream, psflip_bin, wait_until};

use super::notify::{SAY, is_installed};
use crate::service::{AT_ONCE, configure, psflip, stop};

/// Healthy unless the file `bad` exists.
fn check(interval: &str, settle: &str, timeout: &str) -> String {
    format!(
        "upgrade.timeout = \"{timeout}\"\n[healthcheck.command]\ncmd = [\"test\", \"!\", \"-e\", \"bad\"]\n\
         interval = \"{interval}\"\nsettle = \"{settle}\"\n"
    )
}

/// The output of a client that succeeds.
#[track_caller]
fn client(sandbox: &Sandbox, command: &str) -> String {
    let client = sandbox.command([psflip_bin()]).args([command, "-c", "psflip.toml"]).start();
    assert!(client.wait_exit().success(), "{}", client.stderr());
    client.output().wait_closed();
    client.stdout()
}

/// Waits until the log has so many lines with this text.
#[track_caller]
fn wait_lines(psflip: &Psflip, part: &str, count: usize) {
    wait_until(Deadline::default(), format!("{count} lines with `{part}`"), || {
        (psflip.log().matches(part).count() >= count).then_some(())
    });
}

/// Starts a service that is healthy at once, and requests an upgrade to this child, which settles.
#[track_caller]
fn settling_beside_an_old_child(sandbox: &Sandbox, argv: &[&str], rest: &str) -> Psflip {
    let psflip = psflip(sandbox, &["never-ready"], AT_ONCE).start().wait_ready();
    configure(sandbox, argv, rest);
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stderr, "healthy, settling for ");
    psflip
}

/// The upgrade fails with this reason, the old child serves on, and the next upgrade works.
#[track_caller]
fn fails_and_the_old_one_serves_on(psflip: &Psflip, sandbox: &Sandbox, reason: &str) {
    let before = psflip.active();
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade failed; the old child keeps running").text;
    assert!(line.contains(reason), "`{reason}` is not in: {line}");
    assert_eq!(psflip.active(), before);
    configure(sandbox, &["never-ready"], AT_ONCE);
    psflip.flip();
    stop(psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_first_generation_settles_before_its_pidfile_is_written() {
    // Contract: H6, P1
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["never-ready"], &check("5ms", "1h", "2h")).start();
    psflip.wait_for_line(Stream::Stderr, "healthy, settling for 1h");
    let status = client(&sandbox, "status");
    assert!(
        status.contains("starting") && status.contains("child is healthy; settling, 59 min "),
        "{status}"
    );
    assert!(!sandbox.path("psflip.pid").exists(), "{}", sandbox.report());
    psflip.program().signal(Signal::SIGTERM);
    assert!(psflip.wait_exit().success(), "{}", sandbox.report());
    assert_eq!(psflip.history().pids(), [0_u32; 0]);
    sandbox.assert_no_process_left();
}

#[test]
fn a_child_that_stays_healthy_is_promoted_after_one_more_probe() {
    // Contract: H6, P1
    let sandbox = Sandbox::new();
    // Only the first and the last probe are made.
    let psflip = psflip(&sandbox, &["never-ready"], &check("1h", "200ms", "1m")).start().wait_ready();
    psflip.wait_for_line(Stream::Stderr, "healthy, active");
    let log = psflip.log();
    let at = |part: &str| log.find(part).unwrap_or_else(|| panic!("no `{part}` in\n{log}"));
    assert!(at("healthy, settling for 200ms") < at("healthy, active"), "{log}");
    psflip.flip();
    let status = client(&sandbox, "status");
    assert!(status.matches(", settle ").count() == 2, "{status}");
    stop(&psflip);
}

#[test]
fn an_upgrade_to_a_child_that_exits_while_it_settles_fails() {
    // Contract: H6, H3, U8
    let sandbox = Sandbox::new();
    let dying = ["dies-later", "--on-file", "go", "--code", "3"];
    let psflip = settling_beside_an_old_child(&sandbox, &dying, &check("5ms", "1h", "2h"));
    let status = client(&sandbox, "status");
    assert!(status.contains("child is healthy; settling, 59 min "), "{status}");
    sandbox.write("go", "");
    fails_and_the_old_one_serves_on(
        &psflip,
        &sandbox,
        "found healthy, before `settle` (1h) was over: exit code 3",
    );
}

#[test]
fn an_upgrade_reports_that_the_child_settles() {
    // Contract: H6, S5
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["never-ready"], AT_ONCE).start().wait_ready();
    let (old, child) = (psflip.active(), psflip.child());
    configure(&sandbox, &["never-ready"], &check("5ms", "1h", "2h"));
    let upgrade = sandbox.command([psflip_bin()]).args(["upgrade", "-c", "psflip.toml"]).start();
    upgrade.output().wait(Stream::Stdout, "child is healthy; settling for 1 h 0 min");
    assert_eq!((psflip.active(), psflip.child()), (old, child));
    stop(&psflip);
    assert_eq!(upgrade.wait_exit().code(), Some(1), "{}", upgrade.stderr());
    sandbox.assert_no_process_left();
}

#[test]
fn a_failed_probe_makes_the_child_settle_again() {
    // Contract: H6
    let sandbox = Sandbox::new();
    let psflip = settling_beside_an_old_child(&sandbox, &["never-ready"], &check("5ms", "1h", "2h"));
    for round in 1..3 {
        sandbox.write("bad", "");
        wait_lines(&psflip, "not healthy any more; it has to settle again", round);
        std::fs::remove_file(sandbox.path("bad")).unwrap();
        wait_lines(&psflip, "healthy, settling for 1h", round + 1);
    }
    assert!(psflip.log().contains("exited with code 1"), "{}", psflip.log());
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_child_that_does_not_settle_in_time_fails_with_its_last_failure() {
    // Contract: H6, H4, F4
    let sandbox = Sandbox::new();
    let server = ["http-server", "--unix", "s", "--unhealthy-while-file", "bad"];
    let http = format!(
        "upgrade.timeout = \"4s\"\n[healthcheck.http]\nurl = \"unix://{}/s:/up\"\ninterval = \"5ms\"\n\
         settle = \"3s\"\n",
        sandbox.dir().display()
    );
    let psflip = settling_beside_an_old_child(&sandbox, &server, &http);
    sandbox.write("bad", "");
    fails_and_the_old_one_serves_on(&psflip, &sandbox, "not healthy within 4s; last probe: probe ");
    assert!(psflip.log().contains("503"), "{}", psflip.log());

    // It is healthy at the end, but not for long enough.
    let sandbox = Sandbox::new();
    let late = "upgrade.timeout = \"3s\"\n[healthcheck.command]\ncmd = [\"test\", \"-e\", \"up\"]\n\
                interval = \"5ms\"\nsettle = \"2900ms\"\n";
    let slow = ["slow-start", "--for", "500ms", "--touch", "up"];
    let psflip = settling_beside_an_old_child(&sandbox, &slow, late);
    let reason = ", and `settle` is 2s900ms; last probe: probe ";
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade failed; the old child keeps running").text;
    assert!(
        line.contains("not healthy within 3s: it has been healthy for ") && line.contains(reason),
        "{line}"
    );
    stop(&psflip);
}

#[test]
fn a_probe_that_hangs_at_the_end_does_not_promote() {
    // Contract: H6, H2
    let sandbox = Sandbox::new();
    let hanging = "upgrade.timeout = \"1m\"\n[healthcheck.command]\n\
                   cmd = [\"sh\", \"-c\", \"test ! -e hang || exec sleep 1000\"]\n\
                   interval = \"1h\"\ntimeout = \"1s\"\nsettle = \"2s\"\n";
    let psflip = settling_beside_an_old_child(&sandbox, &["never-ready"], hanging);
    sandbox.write("hang", "");
    let line = psflip.wait_for_line(Stream::Stderr, "not healthy any more").text;
    assert!(line.contains("probe 2 failed"), "{line}");
    assert!(!psflip.log().contains("taking over"), "{}", psflip.log());
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_child_that_reports_a_failure_while_it_settles_fails_at_once() {
    // Contract: H6, H5
    if !is_installed("python3") {
        return;
    }
    for (message, reason) in [
        (
            "STATUS=no database\\nERRNO=5",
            "after it was found healthy; its status is `no database`; it reported ERRNO=5",
        ),
        ("STOPPING=1", "after it was found healthy; it reported STOPPING=1"),
    ] {
        let sandbox = Sandbox::new();
        let script = format!(
            "{SAY}say READY=1; while ! test -e go; do sleep 0.01; done; say '{message}'; exec sleep 1000"
        );
        let rest = "upgrade.timeout = \"2h\"\n[healthcheck.notify]\nsettle = \"1h\"\n";
        let psflip = settling_beside_an_old_child(&sandbox, &["/bin/sh", "-c", &script], rest);
        sandbox.write("go", "");
        fails_and_the_old_one_serves_on(&psflip, &sandbox, reason);
    }
}

#[test]
fn a_notify_child_that_keeps_running_is_promoted() {
    // Contract: H6
    let sandbox = Sandbox::new();
    let server = ["http-server", "--unix", "app.sock"];
    let rest = "[healthcheck.notify]\nsettle = \"100ms\"\n";
    let psflip = psflip(&sandbox, &server, rest).start().wait_ready();
    psflip.flip();
    assert_eq!(psflip.log().matches("healthy, settling for 100ms").count(), 2, "{}", psflip.log());
    stop(&psflip);
}

#[test]
fn a_process_of_the_child_that_fails_while_it_settles_is_logged() {
    // Contract: H6
    let sandbox = Sandbox::new();
    // The shell reaps two of them at once; the third is the keeper's orphan. All exist before the check
    // succeeds.
    let until =
        |file: &str, then: &str| format!("sh -c 'while ! test -e {file}; do sleep 0.01; done; {then}'");
    let script = format!(
        "{} & {} & ({} &); touch up; wait; exec sleep 1000",
        until("fail", "exit 7"),
        until("end", "exit 0"),
        until("kill", "kill -9 $$")
    );
    let check = "upgrade.timeout = \"2h\"\n[healthcheck.command]\ncmd = [\"test\", \"-e\", \"up\"]\n\
                 interval = \"5ms\"\nsettle = \"1h\"\n";
    let psflip = psflip(&sandbox, &["/bin/sh", "-c", &script], check).start();
    psflip.wait_for_line(Stream::Stderr, "healthy, settling for 1h");
    for (file, end) in [("fail", "exit code 7"), ("kill", "SIGKILL")] {
        sandbox.write(file, "");
        let line = psflip.wait_for_line(Stream::Stderr, "a process of the child ").text;
        assert!(line.contains("name=\"sh\""), "{line}");
        // Before Linux 6.15, a process that was reaped meanwhile has only ended.
        wait_until(Deadline::default(), format!("a line with `{end}`"), || {
            let log = psflip.log();
            (log.contains(end) || log.contains("ended while it settled")).then_some(())
        });
    }
    sandbox.write("end", "");
    psflip.program().signal(Signal::SIGTERM);
    psflip.wait_exit();
    assert!(!psflip.log().contains("exit code 0"), "{}", psflip.log());
    sandbox.assert_no_process_left();
}
