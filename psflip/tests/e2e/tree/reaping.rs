//! Zombies, and who is whose parent (C9, U10): through many flips, and as PID 1.

use std::sync::Arc;

use testkit::{Deadline, Process, Running, Sandbox, Signal, Stream, fixture, psflip_bin, wait_until};

use super::{AT_ONCE, family, forks_workers, is_root};

/// Waits until a process has ended and its parent has taken note of it.
#[track_caller]
fn wait_reaped(process: Process) {
    wait_until(Deadline::default(), format!("process {process} to end and be reaped"), || {
        process.stat().is_none().then_some(())
    });
}

#[test]
fn orphans_that_end_are_reaped() {
    // Contract: C9
    let sandbox = Sandbox::new();
    let args = ["--workers", "0", "--orphans", "5", "--setsid"];
    let psflip = forks_workers(&sandbox, &args, "").start().wait_ready();
    let family = family(&psflip, 1);
    for orphan in &family[1..] {
        orphan.signal(Signal::SIGKILL).unwrap();
        wait_reaped(*orphan);
    }
    assert_eq!(psflip.child(), family[0], "the child doesn't notice\n{}", sandbox.report());
}

#[test]
fn children_that_psflip_had_before_its_exec_are_reaped_and_not_ended() {
    // Contract: C8, C9
    let sandbox = Sandbox::new();
    sandbox.expect_leftovers();
    let shell = ["sh", "-c", "sleep infinity & sleep infinity & exec \"$@\"", "sh"];
    let psflip = sandbox.psflip().cmd(["sleep", "infinity"]).config(AT_ONCE).wrapper(shell);
    let psflip = psflip.start().wait_ready();
    let child = psflip.child();
    let helpers = psflip.active().children();
    let helpers: Vec<_> = helpers.into_iter().filter(|helper| *helper != child.parent().unwrap()).collect();
    assert_eq!(helpers.len(), 2, "{}", sandbox.report());
    helpers[0].signal(Signal::SIGKILL).unwrap();
    wait_reaped(helpers[0]);
    psflip.stop();
    assert!(!child.is_alive() && helpers[1].is_alive(), "{}", sandbox.report());
}

#[test]
fn twenty_flips_leave_no_zombie_and_no_descriptor() {
    // Contract: C9, U10
    let sandbox = Sandbox::new();
    let args = ["--workers", "2", "--orphans", "1"];
    let psflip = forks_workers(&sandbox, &args, "log.level = \"debug\"\n").start().wait_ready();
    let numbers = |process: Process| process.open_fds().unwrap().into_keys().collect::<Vec<_>>();
    let mut second = None;
    for generation in 2..=21 {
        psflip.flip();
        // Until it has seen the old psflip's end, it keeps what connects the two.
        psflip.output().wait_count(generation - 1, Stream::Stderr, "the old generation is gone");
        let child = family(&psflip, generation)[0];
        let keeper = child.parent().unwrap();
        sandbox.assert_zombie_free();
        // The first successor has what every other has; the first psflip had no predecessor.
        let open = (numbers(psflip.active()), numbers(keeper), numbers(child));
        let second = second.get_or_insert_with(|| open.clone());
        assert_eq!(open, *second, "generation {generation}\n{}", sandbox.report());
    }
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn the_new_psflip_is_the_managers_child_before_it_is_promoted() {
    // Contract: U10
    let sandbox = Sandbox::new();
    sandbox.write("go", "");
    let health = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"go\"]\ninterval = \"5ms\"\n";
    let child = [fixture("never-ready").display().to_string()];
    let psflip = sandbox.psflip().cmd(child).config(health).start().wait_ready();
    // Its health does not depend on it here: it may be slower than its successor.
    psflip.wait_for_line(Stream::Stdout, "starting pid=");
    for started in 2..=4 {
        std::fs::remove_file(sandbox.path("go")).unwrap();
        let old = psflip.request_flip();
        // Its child runs, so it is past its start; it isn't healthy, so it is not promoted.
        let lines = psflip.output().wait_count(started, Stream::Stdout, "starting pid=");
        let pid = lines[started - 1].text.trim_start_matches("starting pid=").parse().unwrap();
        let new = Process::find(pid).and_then(|child| child.parent()?.parent()).unwrap();
        // The process in between has ended, or is about to; the old psflip never is the parent.
        let parent = wait_until(Deadline::default(), "the process in between to end", || {
            new.parent().filter(|parent| parent.exe().ok() != new.exe().ok() || *parent == old)
        });
        assert_eq!(parent, Process::current(), "{}", sandbox.report());
        assert_eq!(psflip.active(), old, "it is not promoted yet\n{}", sandbox.report());
        sandbox.write("go", "");
        assert_eq!(psflip.wait_successor(old), new);
        psflip.wait_gone(old);
    }
    sandbox.assert_zombie_free();
}

/// psflip as PID 1 of a PID namespace, and as it is seen from outside.
fn as_pid_1(sandbox: &Sandbox, config: &str) -> Arc<Running> {
    sandbox.write("psflip.toml", config);
    sandbox.command(["unshare", "--pid", "--fork", "--mount-proc"]).arg(psflip_bin()).start()
}

/// The only child of `unshare`, once it is psflip and has a healthy child.
#[track_caller]
fn pid_1(unshare: &Running) -> Process {
    unshare.output().wait(Stream::Stderr, "healthy, active");
    unshare.first().children()[0]
}

#[test]
fn as_pid_1_it_relays_a_death_by_a_signal_as_128_and_its_number() {
    // Contract: C5, C9
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let exit_with = fixture("exit-with").display().to_string();
    for (option, value, code) in [
        ("--code", "0", 0),
        ("--code", "9", 9),
        ("--signal", "TERM", 143),
        ("--signal", "KILL", 137),
        ("--signal", "SEGV", 139),
        ("--signal", "RTMIN", 162),
    ] {
        let config = format!("cmd = [{exit_with:?}, {option:?}, {value:?}]\n{AT_ONCE}");
        let status = as_pid_1(&sandbox, &config).wait_exit();
        assert_eq!(status.code(), Some(code), "{option} {value}\n{}", sandbox.report());
    }
}

#[test]
fn as_pid_1_it_reaps_strangers_that_fall_to_it() {
    // Contract: C9
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let unshare = as_pid_1(&sandbox, &format!("cmd = [\"sleep\", \"infinity\"]\n{AT_ONCE}"));
    let psflip = pid_1(&unshare);
    // As `docker exec` does it: a process that enters the namespace, and leaves an orphan there.
    let enter = ["nsenter", "--pid", "--target", &psflip.pid().to_string(), "sh", "-c"].map(str::to_owned);
    for round in 0..5 {
        let script = format!("sleep 1000{round} & exit 0");
        sandbox.command(&enter).arg(script).stdout(null()).stderr(null()).start().wait_exit();
        let argv = ["sleep".to_owned(), format!("1000{round}")];
        let orphan = wait_until(Deadline::default(), "the orphan to fall to psflip", || {
            psflip.children().into_iter().find(|child| child.cmdline().is_ok_and(|found| found == argv))
        });
        orphan.signal(Signal::SIGKILL).unwrap();
        wait_reaped(orphan);
    }
    psflip.signal(Signal::SIGTERM).unwrap();
    assert_eq!(unshare.wait_exit().code(), Some(143), "{}", sandbox.report());
}

fn null() -> std::fs::File {
    std::fs::File::options().write(true).open("/dev/null").unwrap()
}

#[test]
fn as_pid_1_it_refuses_an_upgrade_and_serves_on() {
    // Contract: C9, U8
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let child = fixture("never-ready").display().to_string();
    let unshare = as_pid_1(&sandbox, &format!("cmd = [{child:?}]\n{AT_ONCE}"));
    let psflip = pid_1(&unshare);
    unshare.output().wait(Stream::Stdout, "starting pid=");
    for request in 1..=3 {
        psflip.signal(Signal::SIGHUP).unwrap();
        let lines = unshare.output().wait_count(request, Stream::Stderr, "upgrade failed");
        let said = &lines[request - 1].text;
        assert!(said.contains("psflip is PID 1 here") && said.contains("restart the container"), "{said}");
    }
    psflip.signal(Signal::SIGTERM).unwrap();
    assert_eq!(unshare.wait_exit().code(), Some(0), "{}", sandbox.report());
    assert_eq!(unshare.stdout().matches("starting").count(), 1, "{}", sandbox.report());
}
