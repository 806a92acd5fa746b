//! `psflip status`.

use serde_json::Value;
use testkit::{Deadline, Process, Sandbox, Signal, Stream, fixture, psflip_bin, wait_until};

use super::{UNTIL_FILE, client, ended, hold, let_go, run, start, start_at_once, wait_child};
use crate::service::{self, configure, stop};

#[test]
fn status_shows_the_active_generation_and_the_last_upgrade() {
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    psflip.flip();
    configure(&sandbox, &["crash-on-init", "--code", "3"], "[healthcheck.alive]\ntimeout = \"1m\"\n");
    assert_eq!(run(&sandbox, &["upgrade"]).0.code(), Some(1));
    let (status, stdout, stderr) = run(&sandbox, &["status"]);
    assert!(status.success(), "{stderr}");
    let (pid, child) = (psflip.active_pid(), psflip.child_pid());
    for part in [
        "serving   generation 2 since ",
        "failed    the last upgrade failed (",
        "ago): the child exited before it was healthy: exit code 3",
        &format!("psflip    pid {pid}, version {}, slot b", env!("CARGO_PKG_VERSION")),
        &format!("child     pid {child}: "),
        "health    alive\n",
        "psflip.toml (changed since it was read; the next upgrade reads it again)",
        "1 -> 2    promoted after ",
        "2 -> 3    FAILED after ",
        "requested by SIGHUP from pid ",
    ] {
        assert!(stdout.contains(part), "`{part}` is missing in\n{stdout}");
    }
    let (_, stdout, _) = run(&sandbox, &["status", "--last", "1"]);
    assert!(stdout.contains("FAILED") && !stdout.contains("promoted"), "{stdout}");
    assert!(stdout.ends_with("and 2 more: --last 3\n"), "{stdout}");
    stop(&psflip);
}

#[test]
fn status_json_is_one_object() {
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    let (_, stdout, _) = run(&sandbox, &["status", "--json"]);
    let status: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(status["pid"], psflip.active_pid());
    assert_eq!(status["child"], psflip.child_pid());
    assert_eq!(stdout.lines().count(), 1);
    stop(&psflip);
}

/// A probe of Docker or Kubernetes knows exit codes alone.
#[test]
fn status_check_succeeds_from_the_first_healthy_child_to_a_stop_request() {
    let sandbox = Sandbox::new();
    let check = || run(&sandbox, &["status", "--check"]);
    let config = format!("{UNTIL_FILE}[shutdown]\ntimeout = \"1h\"\n");
    let psflip = service::psflip(&sandbox, &["ignore-sigterm"], &config).start();
    let (status, stdout, _) = wait_until(Deadline::default(), "psflip to answer", || {
        Some(check()).filter(|(_, stdout, _)| !stdout.is_empty())
    });
    assert!(status.code() == Some(1) && stdout.starts_with("starting: generation 1, pid "), "{stdout}");
    let_go(&sandbox);
    let psflip = psflip.wait_ready();
    let (status, stdout, stderr) = check();
    assert!(status.success() && stdout.starts_with("serving: generation 1, pid "), "{stdout}{stderr}");
    assert_eq!(stdout.lines().count(), 1);
    hold(&sandbox);
    let upgrade = client(&sandbox, &["upgrade"]);
    wait_child(&upgrade);
    let (status, stdout, stderr) = check();
    assert!(status.success() && stdout.starts_with("upgrading: generation 1, pid "), "{stdout}{stderr}");
    let is_new = |process: &Process| process.exe().is_ok_and(|exe| exe == fixture("ignore-sigterm"));
    let old = psflip.child();
    for new in sandbox.processes().into_iter().filter(|process| *process != old && is_new(process)) {
        new.signal(Signal::SIGKILL).unwrap();
    }
    ended(&upgrade);
    let stopper = client(&sandbox, &["stop"]);
    stopper.output().wait(Stream::Stdout, "was sent the stop signal");
    let (status, stdout, _) = check();
    assert!(status.code() == Some(1) && stdout.starts_with("stopping: generation 1, pid "), "{stdout}");
    old.signal(Signal::SIGKILL).unwrap();
    ended(&stopper);
    psflip.wait_exit();
}

/// A restart of the container would lose the requests that wait.
#[test]
fn status_check_succeeds_while_no_child_runs_during_an_upgrade() {
    // Contract: E2
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox, &format!("[upgrade]\noverlap = false\n{UNTIL_FILE}"));
    let old = psflip.child();
    hold(&sandbox);
    let upgrade = client(&sandbox, &["upgrade"]);
    wait_until(Deadline::default(), "the old child to exit", || (!old.is_alive()).then_some(()));
    let (status, stdout, stderr) = run(&sandbox, &["status", "--check"]);
    assert!(status.success() && stdout.starts_with("upgrading: generation 1, pid "), "{stdout}{stderr}");
    let_go(&sandbox);
    let (status, _, stderr) = ended(&upgrade);
    assert!(status.success(), "{stderr}");
    stop(&psflip);
}

#[test]
fn every_change_is_reported_over_upgrades() {
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox, UNTIL_FILE);
    let watcher = client(&sandbox, &["status", "--watch"]);
    let objects = client(&sandbox, &["status", "--watch", "--json"]);
    watcher.output().wait(Stream::Stdout, "serving: generation 1");
    for generation in 2..=3 {
        hold(&sandbox);
        let upgrade = client(&sandbox, &["upgrade", "--wait", "drained"]);
        wait_child(&upgrade);
        watcher.output().wait(Stream::Stdout, &format!("to generation {generation}, since "));
        let_go(&sandbox);
        assert!(ended(&upgrade).0.success());
        watcher.output().wait(Stream::Stdout, &format!("serving: generation {generation}, pid "));
        objects.output().wait(Stream::Stdout, &format!("\"generation\":{generation},"));
    }
    watcher.signal(Signal::SIGINT);
    watcher.wait_exit();
    stop(&psflip);
    let (status, _, stderr) = ended(&objects);
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(stderr, "psflip: psflip has exited: exit code 0\n");
}

#[test]
fn a_terminal_is_redrawn_at_every_change() {
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    let watcher =
        sandbox.command([psflip_bin()]).args(["status", "--watch"]).pty().env("TERM", "xterm").start();
    watcher.output().wait(Stream::Pty, "generation 1 since");
    psflip.flip();
    watcher.output().wait(Stream::Pty, "generation 2 since");
    watcher.resize(10, 50);
    watcher.output().wait(Stream::Pty, "\x1b[2J");
    watcher.signal(Signal::SIGINT);
    watcher.wait_exit();
    stop(&psflip);
}

#[test]
fn recent_upgrades_are_drawn_into_a_file() {
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    psflip.flip();
    let (status, stdout, stderr) = run(&sandbox, &["status", "--timeline", "flips.svg"]);
    assert!(status.success(), "{stderr}");
    assert_eq!(stdout, "flips.svg shows the last 2 upgrades of generation 2's history\n");
    let picture = sandbox.read("flips.svg");
    assert!(picture.starts_with("<svg ") && picture.contains("generation 1 \u{2192} 2"), "{picture}");
    let (status, _, stderr) = run(&sandbox, &["status", "--timeline", "no/such/folder.svg"]);
    assert_eq!(status.code(), Some(125));
    assert!(stderr.contains("can't write `no/such/folder.svg`: No such file"), "{stderr}");
    stop(&psflip);
}
