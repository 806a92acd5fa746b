//! A failing test says everything there is to know, and only then.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use psflip_testkit::{Deadline, Sandbox, Stream, wait_until};

/// The text of the panic that `fails` ends with.
fn panic_of(fails: impl FnOnce()) -> String {
    let payload = catch_unwind(AssertUnwindSafe(fails)).expect_err("it must fail");
    payload.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn an_expired_wait_shows_command_environment_processes_files_and_output() {
    let sandbox = Sandbox::new();
    sandbox.write("data.txt", "12345");
    let script = "echo to-stdout; echo to-stderr >&2; sleep 1000 & wait";
    let shell = sandbox.command(["sh", "-c", script]).env("FLAVOUR", "odd").start();
    shell.output().wait(Stream::Stdout, "to-stdout");
    shell.output().wait(Stream::Stderr, "to-stderr");
    wait_until(Deadline::default(), "sleep", || {
        let processes = sandbox.processes();
        processes
            .iter()
            .any(|process| process.cmdline().is_ok_and(|line| line == ["sleep", "1000"]))
            .then_some(())
    });
    let text = panic_of(|| {
        wait_until(Deadline::after(Duration::from_millis(30)), "the end of the world", || None::<()>);
    });
    for part in [
        "for the end of the world, which did not happen",
        sandbox.id(),
        "data.txt 5 bytes",
        "sh -c 'echo to-stdout",
        "environment: FLAVOUR=odd",
        "running, started",
        "Sleeping parent=",
        ": sleep 1000",
        "out to-stdout",
        "err to-stderr",
    ] {
        assert!(text.contains(part), "`{part}` is missing in:\n{text}");
    }
    assert!(text.starts_with("waited 0."), "{text}");
}

#[test]
fn a_wait_for_a_line_fails_at_once_when_the_output_is_closed() {
    let sandbox = Sandbox::new();
    let echo = sandbox.command(["echo", "something else"]).start();
    let begun = std::time::Instant::now();
    let text = panic_of(|| drop(echo.output().wait(Stream::Stdout, "never")));
    assert!(
        text.contains("but the output was closed without it") && text.contains("out something else"),
        "{text}"
    );
    assert!(begun.elapsed() < Duration::from_secs(20), "it waited for its deadline");
}

#[test]
fn a_program_that_panicked_fails_the_test_at_the_end() {
    let sandbox = Sandbox::new();
    let shell = sandbox.command(["sh", "-c", "echo \"thread 'main' panicked at x.rs:1\" >&2"]).start();
    shell.wait_exit();
    let dir = sandbox.dir().to_owned();
    let text = panic_of(|| drop(sandbox));
    assert!(text.starts_with("a program panicked:") && text.contains("x.rs:1"), "{text}");
    assert!(!dir.exists(), "the directory is removed in any case");
}

#[test]
fn a_report_belongs_to_the_thread_that_made_the_sandbox() {
    let mine = Sandbox::new();
    let other = std::thread::spawn(|| {
        let sandbox = Sandbox::new();
        let id = sandbox.id().to_owned();
        let text = panic_of(|| wait_until(Deadline::after(Duration::ZERO), "nothing", || None::<()>));
        (id, text)
    });
    let (id, text) = other.join().unwrap();
    assert!(text.contains(&id) && !text.contains(mine.id()), "{text}");
}

#[test]
fn a_program_that_is_missing_is_named() {
    let sandbox = Sandbox::new();
    let text = panic_of(|| drop(sandbox.command(["/no/such/program", "two words"]).start()));
    assert!(text.starts_with("`/no/such/program 'two words'` can't be started: No such file"), "{text}");
}
