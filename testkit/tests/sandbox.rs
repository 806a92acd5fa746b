//! The sandbox: what its programs get, and that nothing of them survives it.

use psflip_testkit::{Sandbox, Signal, Stream};

#[test]
fn a_program_gets_the_sandbox_directory_and_a_scrubbed_environment() {
    let sandbox = Sandbox::new();
    let env = sandbox.command(["sh", "-c", "pwd; env"]).env("EXTRA", "1").start();
    assert!(env.wait_exit().success());
    let stdout = env.stdout();
    let mut names: Vec<_> = stdout.lines().skip(1).filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.retain(|name| !["PWD", "_", "SHLVL", "OLDPWD"].contains(name)); // the shell's own
    names.sort_unstable();
    assert_eq!(names, ["EXTRA", "HOME", "LANG", "PATH", "TESTKIT_SANDBOX", "TMPDIR"]);
    assert_eq!(stdout.lines().next(), sandbox.dir().to_str());
}

#[test]
fn the_output_of_an_exited_program_is_complete() {
    let sandbox = Sandbox::new();
    let other = sandbox.command(["sleep", "1000"]).start();
    for round in 0..50 {
        let lines = sandbox.command(["seq", "10000"]).start();
        assert!(lines.wait_exit().success());
        assert_eq!(lines.stdout().lines().count(), 10_000, "round {round}");
    }
    other.signal(Signal::SIGKILL);
    other.wait_exit();
}

#[test]
fn dropping_a_sandbox_kills_orphans_and_removes_the_directory() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir().to_owned();
    let script = "setsid sleep 1000 & (sleep 1000 & echo orphan) & trap '' TERM; echo ready; while :; do sleep 1000; done";
    let shell = sandbox.command(["sh", "-c", script]).start();
    shell.output().wait(Stream::Stdout, "ready");
    shell.output().wait(Stream::Stdout, "orphan");
    psflip_testkit::wait_until(psflip_testkit::Deadline::default(), "three sleeps", || {
        let sleeps = sandbox
            .processes()
            .iter()
            .filter(|process| process.cmdline().is_ok_and(|line| line == ["sleep", "1000"]))
            .count();
        (sleeps == 3).then_some(())
    });
    let seen = sandbox.processes();
    shell.signal(Signal::SIGTERM);
    drop(sandbox);
    assert!(seen.iter().all(|process| !process.is_alive()), "{seen:?}");
    assert!(!dir.exists());
}

#[test]
fn an_unexpected_leftover_process_fails_the_test() {
    let leave = |expected: bool| {
        let sandbox = Sandbox::new();
        let script = "setsid sh -c 'echo $$ >pid; exec sleep 1000' & while [ ! -s pid ]; do :; done";
        // Any executable plays the psflip: what counts is that it was started as one and has ended.
        let psflip = sandbox.psflip().exe("/bin/sh").config_file("script").no_pidfile();
        sandbox.write("script", script);
        let psflip = psflip.wrapper(["sh", sandbox.path("script").to_str().unwrap()]).start();
        assert!(psflip.wait_exit().success());
        if expected {
            sandbox.expect_leftovers();
        }
        let left = psflip_testkit::wait_until(psflip_testkit::Deadline::default(), "sleep", || {
            let mut left = sandbox.processes();
            left.retain(|process| process.exe().is_ok_and(|exe| exe.ends_with("sleep")));
            left.pop()
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(sandbox)));
        assert!(!left.is_alive(), "it is killed in any case");
        result.err().and_then(|payload| payload.downcast_ref::<String>().cloned())
    };
    assert_eq!(leave(true), None);
    let text = leave(false).expect("the drop fails");
    assert!(
        text.starts_with("every psflip has exited, but these processes are left: ")
            && text.contains("(sleep)"),
        "{text}"
    );
}
