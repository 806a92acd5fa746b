//! Processes as the testkit sees them.

use psflip_testkit::process::{self, ProcessState};
use psflip_testkit::{Deadline, Process, Sandbox, Signal, Stream, wait_until};

#[test]
fn a_tree_lists_parents_before_children_with_their_attributes() {
    let sandbox = Sandbox::new();
    let shell = sandbox
        .command(["sh", "-c", "sleep 1000 & sh -c 'sleep 1000; true' & echo ready; wait"])
        .env("A", "b c")
        .start();
    shell.output().wait(Stream::Stdout, "ready");
    let tree = wait_until(Deadline::default(), "four processes", || {
        let tree = process::tree(shell.pid());
        // In the middle of execve(2) a process shows neither arguments nor environment.
        let is_sleep = |one: &Process| {
            one.cmdline().is_ok_and(|line| line == ["sleep", "1000"]) && one.env("A").is_some()
        };
        let sleeps = tree.iter().filter(|one| is_sleep(one)).count();
        (tree.len() == 4 && sleeps == 2).then_some(tree)
    });
    assert_eq!(tree[0], shell.first());
    assert_eq!(tree[3].parent().and_then(|parent| parent.parent()), Some(tree[0]));
    assert_eq!(shell.first().parent(), Some(Process::current()));
    assert_eq!(shell.first().children().len(), 2);
    assert_eq!(tree[3].env("A").unwrap(), "b c");
    assert_eq!(tree[3].cmdline().unwrap(), ["sleep", "1000"]);
    assert_eq!(tree[3].cwd().unwrap(), sandbox.dir());
    assert_eq!(tree[3].open_fds().unwrap()[&0], "/dev/null");
    assert_eq!(tree[3].status_field("Threads").as_deref(), Some("1"));
}

#[test]
fn suspended_zombie_and_running_processes_are_distinguished() {
    let sandbox = Sandbox::new();
    // The shell becomes a sleep that knows nothing of the child it has got, and never reaps it.
    let parent = sandbox.command(["sh", "-c", "true & exec sleep 1000"]).start();
    let zombies = wait_until(Deadline::default(), "a zombie", || {
        Some(sandbox.zombies()).filter(|found| found.len() == 1)
    });
    assert_eq!(zombies[0].state(), ProcessState::Zombie);
    assert!(!zombies[0].is_alive() && zombies[0].cmdline().unwrap().is_empty());
    parent.signal(Signal::SIGSTOP);
    wait_until(Deadline::default(), "a stopped process", || {
        (parent.first().state() == ProcessState::Stopped).then_some(())
    });
    assert!(parent.first().is_alive());
    parent.signal(Signal::SIGKILL);
    parent.wait_exit();
    assert_eq!(parent.first().state(), ProcessState::Gone);
    sandbox.assert_zombie_free(); // it fell to the test, which reaped it
    assert!(!wait_until(Deadline::default(), "the zombie to be reaped", || {
        sandbox.assert_no_process_left();
        (zombies[0].state() == ProcessState::Gone).then_some(false)
    }));
}

#[test]
fn descriptors_that_stay_open_are_a_difference() {
    let sandbox = Sandbox::new();
    let script = "echo ready; read x; exec 5>/dev/null; echo opened; read x; exec 5>&-; echo closed; read x";
    let shell = sandbox.command(["sh", "-c", script]).stdin(psflip_testkit::Stdin::Pipe).start();
    shell.output().wait(Stream::Stdout, "ready");
    let before = psflip_testkit::FdSnapshot::of(shell.first());
    shell.write_stdin("\n");
    shell.output().wait(Stream::Stdout, "opened");
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        before.assert_unchanged_by(Deadline::after(std::time::Duration::from_millis(20)));
    }));
    let text = failed.unwrap_err().downcast_ref::<String>().cloned().unwrap();
    assert!(text.contains("5 -> /dev/null"), "{text}");
    shell.write_stdin("\n");
    shell.output().wait(Stream::Stdout, "closed");
    before.assert_unchanged();
}

#[test]
fn a_queued_signal_reaches_the_process() {
    let sandbox = Sandbox::new();
    let shell = sandbox
        .command([
            "bash",
            "-c",
            "trap 'echo got; exit 3' RTMIN+3; echo ready; while :; do sleep 1000 & wait; done",
        ])
        .start();
    shell.output().wait(Stream::Stdout, "ready");
    shell.queue_signal("SIGRTMIN+3", 7);
    shell.output().wait(Stream::Stdout, "got");
    assert_eq!(shell.wait_exit().code(), Some(3));
}
