//! The sandbox: what its programs get, and that nothing of them survives it.

use testkit::{Sandbox, Signal, Stream};

#[test]
fn a_program_gets_the_sandbox_folder_and_a_scrubbed_environment() {
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
fn dropping_it_ends_orphans_in_sessions_of_their_own_and_removes_the_folder() {
    let sandbox = Sandbox::new();
    let dir = sandbox.dir().to_owned();
    let script = "setsid sleep 1000 & (sleep 1000 & echo orphan) & trap '' TERM; echo ready; while :; do sleep 1000; done";
    let shell = sandbox.command(["sh", "-c", script]).start();
    shell.output().wait(Stream::Stdout, "ready");
    shell.output().wait(Stream::Stdout, "orphan");
    testkit::wait_until(testkit::Deadline::default(), "three sleeps", || {
        let sleeps = sandbox
            .processes()
            .iter()
            .filter(|process| process.cmdline().is_ok_and(|line| line[0] == "sleep"))
            .count();
        (sleeps == 3).then_some(())
    });
    let seen = sandbox.processes();
    shell.signal(Signal::SIGTERM);
    drop(sandbox);
    assert!(seen.iter().all(|process| !process.is_alive()), "{seen:?}");
    assert!(!dir.exists());
}
