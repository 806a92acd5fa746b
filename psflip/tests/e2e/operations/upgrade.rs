//! `psflip upgrade`.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;

use serde_json::Value;
use testkit::{Psflip, Sandbox, Signal, Stream, psflip_bin};

use super::{UNTIL_FILE, client, ended, hold, let_go, run, start, start_at_once, wait_child};
use crate::service::{AT_ONCE, Draining, configure, flip_to_logger, kill, psflip, stop};

#[test]
fn upgrade_returns_when_the_new_generation_serves_and_reports_steps() {
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    let old = psflip.active();
    let (status, stdout, stderr) = run(&sandbox, &["upgrade"]);
    let new = psflip.active();
    assert!(status.success(), "{status}\n{stderr}");
    assert_ne!(old, new);
    assert_eq!(stderr, "");
    let (pid, child) = (new.pid(), psflip.child().pid());
    assert!(
        stdout.contains(&format!("generation 2 is active (psflip {pid}, child {child}), after ")),
        "{stdout}"
    );
    let steps =
        ["starting a new psflip", "configuration read", "child started", "child is healthy", "pidfile"];
    let places: Vec<_> = steps.map(|step| stdout.find(step)).into();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{stdout}");
    stop(&psflip);
}

#[test]
fn upgrade_waits_for_the_old_generation_on_request() {
    // Contract: U5
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    let old = psflip.active();
    let (status, stdout, _) = run(&sandbox, &["upgrade", "--wait", "drained"]);
    assert!(status.success(), "{status}");
    assert!(stdout.ends_with("the old generation is gone\n"), "{stdout}");
    psflip.wait_gone(old);
    stop(&psflip);
}

#[test]
fn upgrade_ends_an_old_generation_that_drains_on_request() {
    // Contract: D1
    let sandbox = Sandbox::new();
    let rest = "[shutdown]\ndelay = \"1h\"\n";
    let Draining { psflip, old, .. } = flip_to_logger(&sandbox, &["signal-logger"], rest, "");
    let (status, stdout, stderr) = run(&sandbox, &["upgrade", "--end-draining"]);
    assert!(status.success(), "{status}\n{stdout}\n{stderr}");
    assert!(stdout.contains("generation 3 is active"), "{stdout}");
    assert!(!old.is_alive(), "{}", sandbox.report());
    stop(&psflip);
}

#[test]
fn a_strict_upgrade_tells_whether_the_old_child_had_to_be_killed() {
    // Contract: U5
    let sandbox = Sandbox::new();
    let config = format!("[shutdown]\ntimeout = \"50ms\"\n{AT_ONCE}");
    let psflip = psflip(&sandbox, &["ignore-sigterm"], &config).start().wait_ready();
    psflip.output().wait(Stream::Stdout, "ready");
    configure(&sandbox, &["signal-logger"], &config);
    let (status, stdout, stderr) = run(&sandbox, &["upgrade", "--strict", "--quiet"]);
    assert_eq!(status.code(), Some(4), "{stdout}{stderr}");
    let why = "psflip: the new generation is active, but old processes had to be killed\n";
    assert_eq!((stdout.as_str(), stderr.as_str()), ("", why));
    // What it does without --strict is not a failure.
    configure(&sandbox, &["crash-on-init", "--code", "3"], "[healthcheck.alive]\ntimeout = \"1m\"\n");
    let (status, stdout, stderr) = run(&sandbox, &["upgrade", "--strict", "--quiet"]);
    assert_eq!((status.code(), stdout.as_str()), (Some(1), ""));
    assert!(stderr.contains("exit code 3"), "{stderr}");
    stop(&psflip);
}

/// A service whose `hooks.promoted` waits for a line in `go`, and exits with the code that is in the file
/// `code`.
fn with_hook(sandbox: &Sandbox) -> Psflip {
    assert!(sandbox.command(["mkfifo", "go"]).start().wait_exit().success());
    let script = "read -r _ < go; echo no cache >&2; exit $(cat code)";
    let hook = format!("{AT_ONCE}[hooks]\npromoted = [\"sh\", \"-c\", \"{script}\"]\n");
    sandbox.write("code", "0");
    let psflip = start(sandbox, &hook);
    go(sandbox);
    psflip
}

/// Lets one hook exit.
fn go(sandbox: &Sandbox) {
    std::fs::write(sandbox.path("go"), "\n").unwrap();
}

#[test]
fn a_strict_upgrade_waits_for_the_hook_that_follows_the_promotion() {
    // Contract: O7
    let sandbox = Sandbox::new();
    let psflip = with_hook(&sandbox);
    let strict = client(&sandbox, &["upgrade", "--strict"]);
    strict.output().wait(Stream::Stdout, "the old generation is gone");
    go(&sandbox);
    let (status, _, stderr) = ended(&strict);
    assert_eq!((status.code(), stderr.as_str()), (Some(0), ""));

    sandbox.write("code", "3");
    for args in [&["upgrade", "--strict", "--quiet"][..], &["upgrade", "--strict", "--progress", "json"]] {
        let strict = client(&sandbox, args);
        go(&sandbox);
        let (status, stdout, stderr) = ended(&strict);
        assert_eq!(status.code(), Some(4), "{stdout}{stderr}");
        let why = "exited with code 3: no cache";
        if args.contains(&"json") {
            let last: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
            assert_eq!((&last["event"], &last["hook"]), (&"hook".into(), &"promoted".into()), "{stdout}");
            assert!(last["reason"].as_str().unwrap().contains(why), "{stdout}");
        } else {
            let said = "psflip: the new generation is active, but `hooks.promoted` failed: ";
            assert!(
                stderr.starts_with(said) && stderr.contains(why) && stdout.is_empty(),
                "{stdout}{stderr}"
            );
        }
    }
    let (_, stdout, _) = run(&sandbox, &["status"]);
    assert!(stdout.contains("hooks.promoted failed: "), "{stdout}");
    // Without --strict nothing depends on it.
    let (status, ..) = run(&sandbox, &["upgrade"]);
    assert!(status.success());
    stop(&psflip);
}

#[test]
fn a_strict_upgrade_fails_if_the_next_one_replaces_a_generation_whose_hook_still_runs() {
    // Contract: O7
    let sandbox = Sandbox::new();
    let psflip = with_hook(&sandbox);
    let strict = client(&sandbox, &["upgrade", "--strict"]);
    strict.output().wait(Stream::Stdout, "the old generation is gone");
    let (status, ..) = run(&sandbox, &["upgrade", "--wait", "drained"]);
    assert!(status.success());
    let (status, _, stderr) = ended(&strict);
    assert_eq!(status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("it had not exited when the next upgrade began"), "{stderr}");
    stop(&psflip);
}

#[test]
fn the_progress_may_be_plain_or_json_and_is_not_for_a_quiet_upgrade() {
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    let client = sandbox.command([psflip_bin()]).args(["upgrade", "--progress", "plain"]);
    let client = client.pty().env("TERM", "xterm").start();
    assert!(client.wait_exit().success());
    client.output().wait(Stream::Pty, "generation 2 is active");
    let text = client.output().text(Stream::Pty);
    assert!(text.contains("child is healthy") && !text.contains("\x1b[2K"), "{text:?}");
    let (status, stdout, _) = run(&sandbox, &["upgrade", "--progress", "json"]);
    assert!(status.success());
    assert!(stdout.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{stdout}");
    for args in [
        &["upgrade", "--progress", "json", "--quiet"][..],
        &["upgrade", "--json", "--quiet"],
        &["upgrade", "--json", "--progress", "plain"],
    ] {
        let (status, _, stderr) = run(&sandbox, args);
        assert!(status.code() == Some(2) && stderr.contains("cannot be used with"), "{args:?} {stderr}");
    }
    stop(&psflip);
}

#[test]
fn a_request_to_end_what_drains_holds_for_the_generation_that_a_running_upgrade_replaces() {
    // Contract: D1, U7
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox, &format!("{UNTIL_FILE}[shutdown]\ndelay = \"1h\"\n"));
    hold(&sandbox);
    let first = client(&sandbox, &["upgrade"]);
    wait_child(&first);
    let second = client(&sandbox, &["upgrade", "--end-draining"]);
    second.output().wait(Stream::Stdout, "upgrade 2 is queued: an upgrade is under way");
    let_go(&sandbox);
    let (status, stdout, stderr) = ended(&second);
    assert!(status.success() && stdout.contains("generation 3 is active"), "{status}\n{stdout}\n{stderr}");
    assert!(stdout.contains("generation 1 still drains and is killed at once"), "{stdout}");
    let line = psflip.wait_for_line(Stream::Stderr, "killing the old generation, which still drains");
    assert!(line.text.contains(&format!("from=\"pid {} (", second.pid())), "{line}");
    stop(&psflip);
}

#[test]
fn a_failed_upgrade_is_reported_with_reason_and_output() {
    // Contract: U8, H4
    let sandbox = Sandbox::new();
    let log = sandbox.path("psflip.log");
    let server = psflip(&sandbox, &["http-server", "--unix", "app.sock"], AT_ONCE);
    let psflip = server.stderr(File::create(&log).unwrap()).start().wait_ready();
    let child = psflip.child_pid();
    let crash = ["/bin/sh", "-c", "echo no such table >&2; exit 3"];
    configure(&sandbox, &crash, "[healthcheck.alive]\ntimeout = \"1m\"\n");
    let (status, _, stderr) = run(&sandbox, &["upgrade"]);
    assert_eq!(status.code(), Some(1), "{stderr}");
    for part in [
        &format!("upgrade 1 to generation 2 failed; the old child (pid {child}) keeps running"),
        "reason    the child exited before it was healthy: exit code 3",
        "  no such table\n",
        &format!("psflip's log: {}", log.display()),
    ] {
        assert!(stderr.contains(part), "`{part}` is missing in\n{stderr}");
    }
    assert!(!stderr.contains("INFO"), "psflip's own lines are in its log\n{stderr}");
    stop(&psflip);
}

#[test]
fn a_request_during_an_upgrade_waits_across_the_hand_over() {
    // Contract: U7
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox, UNTIL_FILE);
    hold(&sandbox);
    let first = client(&sandbox, &["upgrade"]);
    wait_child(&first);
    let second = client(&sandbox, &["upgrade"]);
    second.output().wait(Stream::Stdout, "upgrade 2 is queued: an upgrade is under way");
    let_go(&sandbox);
    let (status, stdout, _) = ended(&first);
    assert!(status.success() && stdout.contains("generation 2 is active"), "{status}\n{stdout}");
    let (status, stdout, stderr) = ended(&second);
    assert!(status.success() && stdout.contains("generation 3 is active"), "{status}\n{stdout}\n{stderr}");
    assert!(stdout.contains("child started"), "its own upgrade is reported completely\n{stdout}");
    stop(&psflip);
}

#[test]
fn an_interrupted_client_does_not_abort_the_upgrade() {
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox, UNTIL_FILE);
    let old = psflip.active();
    hold(&sandbox);
    let first = client(&sandbox, &["upgrade"]);
    wait_child(&first);
    first.signal(Signal::SIGINT);
    let (status, _, stderr) = ended(&first);
    assert_eq!(status.signal(), Some(2), "{status}");
    assert!(stderr.contains("no longer waiting (SIGINT); upgrade 1 goes on"), "{stderr}");
    assert_eq!(psflip.active(), old);
    let_go(&sandbox);
    psflip.wait_gone(old);
    stop(&psflip);
}

#[test]
fn the_wait_has_a_timeout_and_the_upgrade_continues() {
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox, UNTIL_FILE);
    let old = psflip.active();
    hold(&sandbox);
    let (status, _, stderr) = run(&sandbox, &["upgrade", "--timeout", "200ms"]);
    assert_eq!(status.code(), Some(124));
    // On a very busy host the client may not even know the number of its upgrade yet.
    assert!(stderr.starts_with("psflip: waited 200ms; "), "{stderr}");
    assert_eq!(psflip.active(), old);
    let_go(&sandbox);
    psflip.wait_gone(old);
    stop(&psflip);
}

#[test]
fn upgrade_json_prints_one_object_per_line() {
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    let (status, stdout, stderr) = run(&sandbox, &["upgrade", "--json", "--wait", "drained"]);
    assert!(status.success(), "{stderr}");
    let events: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |event: &str| events.iter().position(|line| line["event"] == event);
    assert_eq!(of("accepted"), Some(0), "{stdout}");
    assert!(of("step") < of("promoted") && of("promoted") < of("drained"), "{stdout}");
    assert_eq!(events[of("promoted").unwrap()]["generation"], 2);
    stop(&psflip);
}

#[test]
fn no_wait_requests_the_upgrade_and_returns_at_once() {
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox, UNTIL_FILE);
    let old = psflip.active();
    hold(&sandbox);
    let (status, stdout, _) = run(&sandbox, &["upgrade", "--no-wait"]);
    assert!(status.success());
    assert_eq!(stdout, "upgrade 1 starts\n");
    assert_eq!(psflip.active(), old);
    let_go(&sandbox);
    psflip.wait_gone(old);
    stop(&psflip);
}

#[test]
fn upgrade_reaches_a_generation_that_goes_on_alone() {
    // Contract: F8
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox, UNTIL_FILE);
    let old = psflip.active();
    hold(&sandbox);
    let client = client(&sandbox, &["upgrade"]);
    wait_child(&client);
    kill(old);
    psflip.output().wait(Stream::Stderr, "the old psflip was killed");
    let_go(&sandbox);
    let (status, stdout, stderr) = ended(&client);
    assert!(status.success() && stdout.contains("generation 2 is active"), "{status}\n{stdout}\n{stderr}");
    stop(&psflip);
}

#[test]
fn a_terminal_gets_one_line_that_is_overwritten() {
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox, UNTIL_FILE);
    hold(&sandbox);
    let client = sandbox.command([psflip_bin()]).args(["upgrade"]).pty().env("TERM", "xterm").start();
    client.output().wait(Stream::Pty, "\x1b[2Kupgrade 1: not healthy yet");
    let_go(&sandbox);
    client.output().wait(Stream::Pty, "generation 2 is active");
    assert!(client.wait_exit().success());
    let text = client.output().text(Stream::Pty);
    let last = text.trim_end().rsplit('\r').next().unwrap();
    assert!(last.contains("\x1b[32mgeneration 2 is active"), "no line below it remains: {text:?}");
    stop(&psflip);
}
