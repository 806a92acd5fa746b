//! What remains of a test that is killed: nothing, or the test says at its start that there would be something.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use psflip_testkit::{Deadline, Process, Sandbox, wait_until};

/// Set in the process that plays the test which is killed.
const PLAYS: &str = "TESTKIT_PLAYS_A_TEST";

/// This test program again, to run only [`plays_a_test`].
fn again() -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "plays_a_test", "--nocapture"]).env(PLAYS, "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Does nothing, except in the process of another test: there it starts a program and waits to be killed.
#[test]
#[expect(clippy::print_stdout, reason = "the other test reads it")]
fn plays_a_test() {
    if std::env::var_os(PLAYS).is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    let program = sandbox.command(["sleep", "1000"]).start();
    println!("\nprogram {} {}", program.pid(), sandbox.dir().display());
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn a_killed_test_leaves_neither_processes_nor_folders() {
    let mut killed = again().spawn().unwrap();
    let lines = BufReader::new(killed.stdout.take().unwrap()).lines();
    let line = lines.map_while(Result::ok).find(|line| line.starts_with("program ")).unwrap();
    let (pid, folder) = line["program ".len()..].split_once(' ').unwrap();
    let program = Process::find(pid.parse().unwrap()).expect("it runs");
    killed.kill().unwrap();
    killed.wait().unwrap();
    wait_until(Deadline::default(), "the guard to clean up", || {
        (!program.is_alive() && !std::path::Path::new(folder).exists()).then_some(())
    });
}

#[test]
fn a_missing_guard_fails_the_test_with_the_remedy_unless_that_is_accepted() {
    let output = again().env("TESTKIT_LAUNCH", "/nonexistent/testkit-launch").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    for part in ["no guard can be started", "which TESTKIT_LAUNCH names, is missing", "TESTKIT_GUARD=off"] {
        assert!(text.contains(part), "`{part}` is missing in: {text}");
    }
    let mut accepted = again()
        .env("TESTKIT_LAUNCH", "/nonexistent/testkit-launch")
        .env("TESTKIT_GUARD", "off")
        .spawn()
        .unwrap();
    drop(accepted.stdin.take()); // it goes on, to its end
    assert!(accepted.wait().unwrap().success());
}
